"""Which array of a file holds which column: flat files, TorchRL's, and files of single episodes."""

import logging
import re
from collections.abc import Collection, Mapping
from typing import Any

from reverie.datasets.readers.columns import (
    ALIASES,
    EPISODES,
    FIRST_ROWS,
    arrays_of,
    is_loose,
    listed,
)
from reverie.mistake import Mistake

log = logging.getLogger(__name__)

_EPISODE = re.compile(r"(?:ep|episode|demo|traj|trajectory|rollout|run|trial)[_-]?\d+")
_D3RLPY = ("actions_0", "rewards_0", "terminated_0")
_OF_STEP = ("rewards", "terminals", "timeouts")
_NEXT = re.compile(r"(?P<home>(?:.*/)?)(?P<next>next(?:_[^/]*)?/|next[._])[^/]+")


def find_columns(held: Collection[str], named: Any, source: str) -> dict[str, str]:
    """The array that holds each column, by D4RL's name of the column.

    TorchRL stores what a step led to apart, in the group `next`: the next observation, the reward
    and the ends. Its flags beside the observations are those of the step before.

    Args:
        held: names of the arrays.
        named: what the user says, `dataset.columns`: the array by the column; None for none. If
            all of these lie in one group, or in its group `next`, the others are looked for there
            first.
        source: for messages.

    Raises:
        Mistake: the user names a column that there is not, or an array that is not held; two
            arrays could be the same column.
    """
    known = [*ALIASES, "episodes", "index"]
    if not isinstance(named, Mapping) or not all(
        isinstance(array, str | None) for array in named.values()
    ):
        raise Mistake(
            f"dataset.columns={named} must give one name for a column, e.g. "
            "dataset.columns={terminals: done}"
        )
    for column, array in named.items():
        if column not in known:
            raise Mistake(
                f"dataset.columns has the key {column}; it gives the name that the file has for "
                f"each of {', '.join(known)}, e.g. dataset.columns={{terminals: done}}"
            )
        if array is not None and array not in held:
            raise Mistake(
                f"{source} holds no {array!r}, which dataset.columns names for {column}; it holds "
                f"{listed(held)}"
            )
    found = {column: array for column, array in named.items() if array is not None}
    taken = set(found.values())
    homes = {_home(array) for array in taken}
    home = homes.pop() if len(homes) == 1 else ""
    after = _next_of(held, home, named, source)
    for column in ALIASES:
        if column in named:
            continue
        places = _places(column, home, after)
        holding = (each for each in places if any(each[0] + name in held for name in each[1]))
        place, (usual, *aliases) = next(holding, places[-1])
        others = [place + name for name in aliases if place + name in held]
        others = [name for name in others if name not in taken]
        exact = [name for name in others if not is_loose(name)]
        likely = exact or others
        if place + usual in held:
            found[column] = place + usual
            if exact:
                log.warning("%s: %s is read, %s is not", source, found[column], " and ".join(exact))
        elif len(likely) > 1:
            raise _ambiguous(source, likely, column)
        elif likely:
            found[column] = likely[0]
    return found


def find_episodes(held: Collection[str], found: Mapping[str, str]) -> str | None:
    """The array beside the observations that tells episodes apart, None for none.

    Args:
        held: names of the arrays.
        found: as `find_columns` gives it, with the observations.
    """
    home, arrays = _home(found["observations"]), set(arrays_of(held))
    names = (home + name for name in (*EPISODES, *FIRST_ROWS))
    return next((name for name in names if name in arrays), None)


def _next_of(held: Collection[str], home: str, named: Mapping[str, Any], source: str) -> str:
    """How the names begin of what a step led to, beside observations at `home`; mostly ""."""
    if named.get("rewards") is not None:
        match = _NEXT.fullmatch(named["rewards"])
        return match["home"] + match["next"] if match else ""
    names = _usual("rewards")
    own = [home + name for name in names if home + name in held]
    for after in (f"{home}next/", f"{home}next.", f"{home}next_"):
        rewards = [after + name for name in names if after + name in held]
        if rewards and own and not after.endswith("_"):
            raise _ambiguous(source, [rewards[0], own[0]], "rewards")
        if rewards and not own:  # beside a reward, `next_reward` is that of another row
            return after
    return ""


def _places(column: str, home: str, after: str) -> list[tuple[str, tuple[str, ...]]]:
    """Where a column is looked for: how the name begins, and how it may go on, the best first."""
    names = _usual(column)
    first = after if after and column in _OF_STEP else home
    places = [(first, names), (home, names)]
    if column == "next_observations":
        nexts = (after, f"{home}next/", f"{home}next.")
        places += [(place, _usual("observations")) for place in nexts if place]
    return [*places, ("", names)]


def _usual(column: str) -> tuple[str, ...]:
    return column, *ALIASES[column]


def _home(array: str) -> str:
    """How the names of observations beside an array begin: its group, but never `next`."""
    match = _NEXT.fullmatch(array)
    return match["home"] if match else array[: array.rfind("/") + 1]


def _ambiguous(source: str, likely: list[str], column: str) -> Mistake:
    return Mistake(
        f"{source} holds {' and '.join(likely)}, each of which could be {column}; choose "
        f"with dataset.columns={{{column}: {likely[0]}}}"
    )


def require_flat(held: Collection[str], source: str) -> None:
    """Refuse a file that holds its episodes one by one.

    Raises:
        Mistake: there is a group for each episode, as in files of Minari and robomimic, or an array
            of each quantity, as in d3rlpy's.
    """
    groups = {part for name in arrays_of(held) for part in name.split("/")[:-1]}
    if any(_EPISODE.fullmatch(group) for group in groups):
        raise Mistake(
            f"{source} holds its episodes one by one ({listed(arrays_of(held)[:3])}, ...), as "
            "Minari's files do; a Minari dataset is read with dataset=minari, others need flat "
            "arrays, of all episodes one after another"
        )
    if all(name in held for name in _D3RLPY):
        raise Mistake(
            f"{source} holds its episodes one by one ({', '.join(_D3RLPY)}, ...), as d3rlpy writes "
            "them; in Python give reverie.make(dataset=...) what reverie.datasets.from_d3rlpy("
            f"d3rlpy.dataset.ReplayBuffer.load(open({source!r}, 'rb'), "
            "d3rlpy.dataset.InfiniteBuffer())) returns"
        )
