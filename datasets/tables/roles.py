"""Roles of a table's columns: set by the user, otherwise guessed by usual names and reported."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from reverie.datasets.exogenous import find_exogenous
from reverie.datasets.names import bare, is_next
from reverie.datasets.readers.columns import (
    ALIASES,
    FIRST_ROWS,
    RLDS,
    listed,
    require_no_last_observations,
)
from reverie.datasets.tables.table import TIME, Table
from reverie.mistake import Mistake

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Roles:
    """Full names of columns by role.

    Attributes:
        observations, actions: in the order of the dimensions.
        exogenous: those of the observations that actions do not affect.
        reward, terminated, truncated, episode, time: None where there is no such column.
    """

    observations: tuple[str, ...]
    actions: tuple[str, ...]
    exogenous: tuple[str, ...]
    reward: str | None
    terminated: str | None
    truncated: str | None
    episode: str | None
    time: str | None


_RUNS = ("run", "run_id", "trial", "trial_id", "batch", "batch_id", "batch_no")  # or of a switch
# Usual names, without units and in lower case; of the flags as in files of arrays.
_USUAL = {
    "reward": ("reward", "rewards", "rew", "rews"),  # r is a control engineer's set-point
    "terminated": (ALIASES["terminals"][2], "terminals", *ALIASES["terminals"]),
    "truncated": (ALIASES["timeouts"][1], "timeouts", *ALIASES["timeouts"]),
    "episode": (
        *("episode", "episode_id", "episodes", "ep", "trajectory", "trajectory_id", "traj"),
        *_RUNS,
        *FIRST_ROWS,
    ),
    "time": (
        *("time", "t", "timestamp", "datetime", "date", "seconds", "step", "timestep"),
        *("zeit", "zeitstempel", "datum", "uhrzeit", "zeitpunkt"),
    ),
}
_ACTIONS = re.compile(r"(act|acts|actions?|a|u|controls?|commands?|cmd)([_. ]?\d+)?|actions?[_.].+")
_OBSERVATIONS = re.compile(r"(obs|observations?|states?)([_. ]?\d+)?|(obs|observations?)[_.].+")
_COSTS = ("cost", "costs", "penalty", "loss")


def choose_roles(table: Table, named: Any, computed: str | None) -> Roles:
    """The columns for each role, with a line in the log for each that was guessed.

    Args:
        table: with its names.
        named: `dataset.columns` as it was typed: names or patterns by role, None to guess them,
            empty for none. A name may lack its unit, `*` and `?` in it stand for any letters.
        computed: expression that gives the reward instead of a column, None for none.

    Raises:
        Mistake: a role, a name or a pattern that there is not, one column for two roles, no
            actions, no observations, none that is not exogenous, or no reward.
    """
    named = _require_roles(named)
    given = {role: _named(table, role, said) for role, said in named.items() if said is not None}
    quiet = () if computed is None else ("reward",)
    singles = {role: _single(table, role, given, role not in quiet) for role in _USUAL}
    if computed is not None:
        if given.get("reward"):
            raise Mistake(
                f"dataset.reward={computed} and dataset.columns.reward={singles['reward']} both "
                "give the reward; leave one out"
            )
        if singles["reward"] is not None:
            log.warning(
                "%s: %s is not read, for dataset.reward computes it",
                table.source,
                singles["reward"],
            )
    elif singles["reward"] is None:
        raise Mistake(_without_reward(table))
    taken = {name for name in singles.values() if name is not None}
    actions = given.get("actions")
    if actions is None:
        actions = _guess_actions(table, [*taken, *given.get("observations", ())])
    observations = given.get("observations")
    if observations is None:
        observations = _guess_observations(table, [*taken, *actions])
    key = "dataset.columns.exogenous"
    for name in given.get("exogenous", ()):
        if name not in observations and not table.is_numeric(name):
            raise Mistake(
                f"{table.source}: {key} names {name}, a column of text; write it as numbers, such "
                "as a column of 0 and 1 for each of its values, and name those"
            )
    exogenous = find_exogenous(observations, named.get("exogenous"), source=table.source, key=key)
    roles = Roles(
        observations=tuple(observations),
        actions=tuple(actions),
        exogenous=tuple(observations[dim] for dim in exogenous),
        **(singles | ({"reward": None} if computed is not None else {})),
    )
    _require_apart(table, roles)
    return roles


def _require_roles(named: Any) -> Mapping[str, Any]:
    """The names by role, as they should have been typed."""
    example = "e.g. dataset.columns={actions: [valve], reward: gain}"
    if not isinstance(named, Mapping | None):
        raise Mistake(f"dataset.columns={named} must say which columns are what, {example}")
    roles = ("observations", "actions", "exogenous", *_USUAL)
    for role, said in (named or {}).items():
        if role not in roles:
            raise Mistake(
                f"dataset.columns has the key {role}; it says which columns are "
                f"{', '.join(roles)}, {example}"
            )
        names = said if isinstance(said, list | tuple) else [] if said is None else [said]
        if not all(isinstance(name, str) for name in names):
            raise Mistake(
                f"dataset.columns.{role}={said} must be a name, a list of names, [] or null; names "
                "of digits need quotes"
            )
    return named or {}


def _named(table: Table, role: str, said: str | Sequence[str]) -> list[str]:
    """Full names, in the order in which they were said."""
    found: list[str] = []
    for each in [said] if isinstance(said, str) else said:
        pattern = each.replace("[", "[[]")  # which begins a set there, and a unit here
        exact = table.find(each)
        matching = [exact] if exact else []
        if not matching and set(each) & set("*?"):
            matching = [
                name
                for name in table.columns
                if fnmatchcase(name, pattern) or fnmatchcase(bare(name), pattern)
            ]
        if not matching:
            raise Mistake(
                f"{table.source} has no column {each!r}, which dataset.columns.{role} names; "
                f"{table.near(each)}"
            )
        found.extend(matching)
    return list(dict.fromkeys(found))


def _single(table: Table, role: str, given: Mapping[str, list[str]], tell: bool) -> str | None:
    """The one column of a role, None for none; a guess is told if `tell`."""
    elsewhere = {name for other, names in given.items() if other != role for name in names}
    if role in given:
        if len(given[role]) > 1:
            raise Mistake(
                f"{table.source}: dataset.columns.{role} names {', '.join(given[role])}; it is one "
                "column"
            )
        return given[role][0] if given[role] else None
    index = [name for name in table.index if name not in elsewhere]
    for name in index:
        if table.index[name] == role:
            if tell:
                _tell(table, role, [name], "from the index")
            return name
    for usual in _USUAL[role]:
        for name in table.columns:
            if _spelling(name) == usual and name not in elsewhere:
                why = ", ends of the task itself and no time limits" * (role == "terminated")
                if usual in RLDS and table.is_numeric(name):
                    flags = table.numbers(name) != 0
                    require_no_last_observations(table.source, role, usual, flags, ())
                if usual in _RUNS and _is_switch(table, name):
                    log.warning(
                        "%s: %s is 0 and 1 by turns, as a switch is, so it is not taken for the "
                        "episode; dataset.columns.episode says otherwise",
                        table.source,
                        name,
                    )
                    continue
                if tell:
                    _tell(table, role, [name], f"by its name{why}")
                return name
    # A named index of numbers orders the rows, unless its name is that of something else.
    usual_elsewhere = {each for other in _USUAL if other != role for each in _USUAL[other]}
    if (
        role == TIME
        and len(index) == 1
        and _spelling(index[0]) not in usual_elsewhere
        and table.columns[index[0]].dtype.kind in "fiu"
    ):
        _tell(table, role, index, "from the index")
        return index[0]
    return None


def _is_switch(table: Table, name: str) -> bool:
    """Whether a column is 0 and 1 by turns: each of them comes back, and stays for some rows."""
    column = table.as_numbers(name)
    if column.dtype.kind not in "fiub" or not np.isin(column, (0, 1)).all():
        return False
    files = np.zeros(len(table), int) if table.files is None else table.files
    turns = np.flatnonzero((np.diff(column.astype(int)) != 0) & (np.diff(files) == 0))
    return 3 * len(turns) < len(table) and int(np.bincount(files[turns], minlength=1).max()) > 1


def _guess_actions(table: Table, taken: Sequence[str]) -> list[str]:
    names = [name for name in table.columns if name not in taken]
    found = [name for name in names if _ACTIONS.fullmatch(_spelling(name)) and not is_next(name)]
    if not found:
        left = [bare(name) for name in names]
        numbers = [bare(name) for name in names if table.is_numeric(name)]
        example = as_typed((numbers or left or ["NAME"])[-1])
        raise Mistake(
            f"{table.source}: no column is called an action; name them, e.g. "
            f"'dataset.columns.actions=[{example}]', of {listed(left)}"
        )
    _tell(table, "actions", found, "by name")
    return found


def _guess_observations(table: Table, taken: Sequence[str]) -> list[str]:
    left = [
        name
        for name in table.columns
        if name not in taken
        and name not in table.index
        and name
        and not name.startswith("Unnamed:")
        and _spelling(name) not in (*RLDS, *FIRST_ROWS)
    ]
    now = [name for name in left if not is_next(name)]
    numbers = [name for name in now if table.is_numeric(name) and not table.is_empty(name)]
    found = [name for name in now if _OBSERVATIONS.fullmatch(_spelling(name))]
    why = "by name"
    if not set(found) & set(numbers):  # a column `state` of words is none
        why = "all other columns of numbers"
        found = numbers
    if not found:
        raise Mistake(
            f"{table.source}: no column is left for observations; name them, e.g. "
            f"'dataset.columns.observations=[NAME, NAME]', of {listed(table.columns)}"
        )
    unread = [name for name in left if name not in found]
    rest = f"; not read: {listed(unread)}" if unread else ""
    _tell(table, "observations", found, why + rest)
    return found


def as_typed(name: str) -> str:
    """A name as it can be typed in a list, in quotes where Hydra needs them."""
    return name if re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) else f'"{name}"'


def _spelling(name: str) -> str:
    """A name without unit, in lower case unless that changes its meaning: T is no time."""
    plain = bare(name)
    return plain.lower() if len(plain) > 2 else plain


def _tell(table: Table, role: str, names: Sequence[str], why: str) -> None:
    log.warning(
        "%s: %s = %s (guessed, %s); dataset.columns.%s says otherwise",
        table.source,
        role,
        ", ".join(names),
        why,
        role,
    )


def _without_reward(table: Table) -> str:
    costs = [bare(name) for name in table.columns if _spelling(name) in _COSTS]
    example = f"-{costs[0]}" if costs else "-(level-setpoint)**2"
    return (
        f"{table.source} has no reward; name its column, dataset.columns.reward=NAME, or compute "
        f"it from columns, e.g. 'dataset.reward=\"{example}\"'; it has {listed(table.columns)}"
    )


def _require_apart(table: Table, roles: Roles) -> None:
    for first, second in (
        (roles.actions, "actions"),
        ((roles.reward,), "the reward"),
        ((roles.terminated,), "terminated"),
        ((roles.truncated,), "truncated"),
    ):
        both = [name for name in first if name in roles.observations]
        if both:
            raise Mistake(
                f"{table.source}: {both[0]} is named for observations and for {second}, which a "
                "policy cannot see before it acts; take it out of one"
            )
    for kind in ("observations", "actions"):
        if not getattr(roles, kind):
            raise Mistake(f"{table.source}: dataset.columns.{kind} is empty; name at least one")
