"""A logged table: `.csv`, `.tsv`, `.parquet` or `.feather` files, or a DataFrame."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from reverie.datasets.build import LowAndHigh, build, given_reference
from reverie.datasets.dataset import Dataset
from reverie.datasets.names import short_name
from reverie.datasets.readers.file import given_spec
from reverie.datasets.subset import Subset
from reverie.datasets.tables.clock import join_clock
from reverie.datasets.tables.ends import (
    find_ends,
    in_order,
    leave_out_blank,
    leave_out_missing,
    oldest_first,
)
from reverie.datasets.tables.expression import evaluate
from reverie.datasets.tables.files import find_tables, read_tables
from reverie.datasets.tables.overlap import arrange_files
from reverie.datasets.tables.roles import Roles, choose_roles
from reverie.datasets.tables.suspects import warn_of_suspects
from reverie.datasets.tables.table import Table, Writing, from_frame
from reverie.mistake import Mistake
from reverie.ranges import Count, Number, Positive
from reverie.text import counted

log = logging.getLogger(__name__)

FEWEST = 100
"""Transitions; from fewer nothing can be learned, and parts that are held out would be empty."""
Bound = Number | Sequence[Number] | None


def load(
    *,
    name: str | None,
    path: str,
    columns: Any,  # refused with an example of what it may be
    reward: str | None,
    action_low: Bound,
    action_high: Bound,
    env_id: str | None,
    env_kwargs: Mapping[str, object],
    max_episode_steps: Count | None,
    reference: LowAndHigh | None,
    clip_actions: bool,
    subset: Subset | None = None,
    encoding: str | None = None,
    decimal: Literal[".", ","] | None = None,
    date_format: str | None = None,
    missing: Sequence[str | Number] = (),
    longest_step: Positive | None = None,
    missing_actions: bool = False,
) -> Dataset:
    """Read transitions from a table with one row for each step.

    A row holds what was seen, what was done then, and its reward; what came of it is the next row
    of the same episode. The last row of an episode is therefore left out unless it terminated.

    Args:
        name: short name, None to use the file's stem.
        path: the file; its suffix says which kind. Or a folder or a pattern, see
            `tables.files.read_tables`.
        columns: which column is what, see `datasets.tables.roles`.
        reward: formula of columns, see `datasets.tables.expression`; None where a column holds it.
        action_low, action_high: box of the actions, one number or one for each; None for the range
            of the data, or for the environment's.
        env_id: exact Gymnasium id for scores; None for none.
        env_kwargs: options for that environment.
        max_episode_steps: time limit in control steps, None for the environment's own. One that is
            given ends episodes where nothing else but terminations does.
        reference: returns that score 0 and 100, None if unknown.
        clip_actions: clip actions outside the box instead of refusing them.
        subset: which whole episodes to keep, see `datasets.subset.choose_episodes`; None for all.
        encoding, decimal, date_format, missing: how cells are written, see `tables.table.Writing`.
        longest_step: rows that are unequally far apart, up to so much of the unit of time, go on
            from each other and the data say how long each lasted, see `Dataset.dt`; longer steps
            cut the episode. None: all are alike, and steps longer than 1.5 of them cut it.
        missing_actions: keep rows of which nothing but the action is missing, as rows without one;
            else an episode is cut there.

    Raises:
        Mistake: no such file, a column that is absent, named twice, empty or no number, no reward,
            mixed sampling times, an action that never changes, fewer than 100 transitions.
    """
    return from_table(
        read_tables(path, Writing(encoding, decimal, date_format, tuple(missing))),
        name=short_name(name=name, path=path),
        columns=columns,
        reward=reward,
        action_low=action_low,
        action_high=action_high,
        env_id=env_id,
        env_kwargs=env_kwargs,
        max_episode_steps=max_episode_steps,
        reference=reference,
        clip_actions=clip_actions,
        subset=subset,
        longest_step=longest_step,
        missing_actions=missing_actions,
    )


def source_of(settings: Mapping[str, Any]) -> list[Path]:
    """The files that `load` reads with these settings."""
    return find_tables(settings["path"])


def load_frame(
    frame: Any,
    *,
    encoding: str | None = None,
    decimal: Literal[".", ","] | None = None,
    date_format: str | None = None,
    missing: Sequence[str | Number] = (),
    **options: Any,
) -> Dataset:
    """Transitions of a pandas or polars DataFrame, with the options of `load`.

    Raises:
        Mistake: as `load`; an encoding, which a DataFrame does not have.
    """
    if encoding is not None:
        raise Mistake(
            f"encoding={encoding} says how a file is written, and a DataFrame is none; leave it out"
        )
    writing = Writing(None, decimal, date_format, tuple(missing))
    return from_table(from_frame(frame, "the given table", writing), **options)


def from_table(
    table: Table,
    *,
    name: str,
    columns: Any,
    reward: str | None,
    action_low: Bound,
    action_high: Bound,
    env_id: str | None,
    env_kwargs: Mapping[str, object],
    max_episode_steps: int | None,
    reference: Sequence[int | float] | None,
    clip_actions: bool,
    subset: Mapping[str, Any] | None = None,
    longest_step: float | None = None,
    missing_actions: bool = False,
) -> Dataset:
    """Turn a table into a dataset, with the options of `load`, as they were typed.

    Raises:
        Mistake: as `load`.
    """
    table, columns = join_clock(leave_out_blank(table), columns)
    roles = choose_roles(table, columns, reward)
    if table.writing.date_format is not None and roles.time is None:
        raise Mistake(
            f"{table.source}: dataset.date_format={table.writing.date_format} says how times are "
            "written, and no column is one; name it as dataset.columns.time, or leave the format "
            "out"
        )
    table = in_order(arrange_files(oldest_first(table, roles), roles), roles)
    terminated, ends, lasts = find_ends(table, roles, longest_step, max_episode_steps)
    values = {each: table.numbers(each) for each in (*roles.observations, *roles.actions)}
    if not isinstance(columns, Mapping) or columns.get("observations") is None:  # guessed
        warn_of_suspects(table, roles, values, ends)
    key, rewards = _reward(table, roles, reward, terminated, ends)
    optional = roles.actions if missing_actions else ()
    before = ends.copy()
    keep = leave_out_missing(table, values | {key: rewards}, ends, optional)
    if not missing_actions:
        _tell_of_inference(table.source, roles, values, keep)
    stays = (terminated | ~ends)[keep]
    if not stays.any():
        if not before[:-1].all():
            raise Mistake(
                f"{table.source}: no row with all values is followed by another one in its "
                "episode; leave the columns that lack most out of dataset.columns, or fill them in "
                "(in pandas: frame.ffill())"
            )
        role = "episode" if roles.episode else "truncated"
        raise Mistake(
            f"{table.source}: every row is the last of its episode, so no row has a following one; "
            f"name another column as dataset.columns.{role}, or [] for none"
        )
    obs, action = (
        np.stack([values[each][keep] for each in chosen], axis=1)
        for chosen in (roles.observations, roles.actions)
    )
    action[~np.isfinite(action.astype(np.float32))] = np.nan
    _tell_of_lone_rows(table, keep, terminated, ends)
    # What was done in rows that do not stay is not read, and need not lie in the box.
    action[~stays] = action[stays][0]
    if env_id is None:
        action_low, action_high = _box(table.source, roles, action, action_low, action_high)
    spec = given_spec(
        name,
        obs.shape[1],
        action.shape[1],
        env_id,
        env_kwargs,
        "as-is",
        max_episode_steps,
        None,
        action_low,
        action_high,
    )
    data = build(
        name=name,
        spec=replace(
            spec,
            obs_names=roles.observations,
            action_names=roles.actions,
            exogenous=tuple(map(roles.observations.index, roles.exogenous)),
        ),
        obs=obs,
        action=action,
        reward=rewards[keep],
        terminated=terminated[keep],
        truncated=ends[keep],
        reference=None if reference is None else given_reference(reference),
        origin=_origin(table.source, roles, reward),
        clip_actions=clip_actions,
        subset=subset,
        places=table.places.take(keep),
        dt=None if lasts is None else lasts[keep],
        missing_actions=missing_actions,
    )
    if len(data) < FEWEST:
        raise Mistake(
            f"{table.source} gives {counted(len(data), 'transition')}, rows with a following one "
            f"in the same episode; at least {FEWEST} are needed to learn anything, so log more"
        )
    return data


def _reward(
    table: Table, roles: Roles, formula: str | None, terminated: np.ndarray, ends: np.ndarray
) -> tuple[str, np.ndarray]:
    """What to call the reward in messages, and its value in each row."""
    if formula is None:
        assert roles.reward is not None  # of what `choose_roles` gives
        return roles.reward, table.numbers(roles.reward)
    rewards, looks_ahead = evaluate(formula, table, ends)
    if not looks_ahead:
        return "dataset.reward", rewards
    if terminated.any():
        raise Mistake(
            f"{table.source}: dataset.reward={formula} asks for the following row, which the "
            f"{int(terminated.sum()):,} terminated rows do not have; write it of the row's own "
            "columns"
        )
    # The last rows have no successor and are dropped; their reward is not missing.
    return "dataset.reward", np.where(ends, 0.0, rewards)


def _tell_of_inference(
    source: str, roles: Roles, values: Mapping[str, np.ndarray], keep: np.ndarray
) -> None:
    """Say what keeps rows that were left out for nothing but an action."""
    known = np.logical_and.reduce([np.isfinite(values[each]) for each in roles.observations])
    acted = np.logical_and.reduce([np.isfinite(values[each]) for each in roles.actions])
    count = int((known & ~acted & ~keep).sum())
    if count:
        log.warning(
            "%s: %s no action but all observations; inverse_model=ensemble keeps what lacks "
            "nothing else, and infers it",
            source,
            "1 row left out has" if count == 1 else f"{count:,} rows left out have",
        )


def _tell_of_lone_rows(
    table: Table, keep: np.ndarray, terminated: np.ndarray, ends: np.ndarray
) -> None:
    """Say which episodes have one row, of which nothing is known to come: a line of totals."""
    lone = keep & ends & ~terminated & np.append(True, ends[:-1])
    if lone.any():
        log.warning(
            "%s: %s of one row, first in %s, %s left out, as no row follows in it",
            table.source,
            counted(int(lone.sum()), "episode"),
            table.places.at(int(np.argmax(lone))),
            "is" if lone.sum() == 1 else "are",
        )


def _box(
    source: str, roles: Roles, action: np.ndarray, low: Bound, high: Bound
) -> tuple[Bound, Bound]:
    """The bounds of the actions: as given, else the range of the data, which is told."""
    action = action[np.isfinite(action).all(axis=1)]
    if not len(action):
        raise Mistake(
            f"{source}: no row that another one follows holds {' and '.join(roles.actions)}, so "
            "nothing shows what an action does; record some, or name other columns as "
            "dataset.columns.actions"
        )
    fixed = action.min(axis=0) == action.max(axis=0)
    if fixed.all() or (fixed.any() and (low is None or high is None)):
        dim = int(np.argmax(fixed))
        rest = "no policy can be learned" if fixed.all() else "it has no range"
        raise Mistake(
            f"{source}: the action {roles.actions[dim]} is {action[0, dim]:g} in every row, so "
            f"{rest}; leave it out of dataset.columns.actions"
        )
    found = [low, high]
    for index, (key, bound, of) in enumerate(
        (("action_low", low, np.min), ("action_high", high, np.max))
    ):
        if bound is None:
            found[index] = of(action, axis=0).tolist()
            log.warning(
                "%s: dataset.%s = %s for %s, the %s in the data; no policy will go beyond it, so "
                "give the true bound if it is another",
                source,
                key,
                ", ".join(f"{each:g}" for each in of(action, axis=0)),
                ", ".join(roles.actions),
                "lowest" if key == "action_low" else "highest",
            )
    return found[0], found[1]


def _origin(source: str, roles: Roles, formula: str | None) -> dict[str, str]:
    """Where the data came from, and which columns they are."""
    told = {role: getattr(roles, role) for role in ("terminated", "truncated", "episode", "time")}
    return {
        "source": "table",
        "file": source,
        "observations": ", ".join(roles.observations),
        "actions": ", ".join(roles.actions),
        **({"exogenous": ", ".join(roles.exogenous)} if roles.exogenous else {}),
        "reward": formula if formula is not None else str(roles.reward),
        **{role: name for role, name in told.items() if name is not None},
    }
