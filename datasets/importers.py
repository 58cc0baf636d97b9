"""Episodes that other libraries hold in memory, by their public attributes: none is imported.

What each one stores was read from its source: d3rlpy 2 (`dataset/components.py`), `imitation` 1
(`data/types.py`). `ring_buffers` reads those that keep rows instead. They differ in what an end is
and in which successors are true. Every episode is checked by itself, for a row too few in one and a
row too many in the next would shift all rows between.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from reverie.datasets.dataset import Dataset
from reverie.datasets.options import from_arrays, read_arrays_option
from reverie.datasets.readers.columns import is_loose
from reverie.datasets.readers.layouts import find_columns
from reverie.mistake import Mistake
from reverie.text import counted

ALIKE = (
    "so time limits and terminations look alike; give max_episode_steps=..., the time limit, or "
    "dones_terminate=True where there is none"
)
_LIMIT = "TimeLimit.truncated"


def from_padded(
    arrays: Mapping[str, Any], lengths: Sequence[int] | np.ndarray | None = None, **settings: Any
) -> Dataset:
    """A dataset of E episodes side by side, padded to the longest.

    Args:
        arrays: `observations [E, T, D]`, or `[E, T + 1, D]` with the one after the last step;
            `actions [E, T, A]`, `rewards [E, T]`, `terminals [E, T]` or `[E]`, which say whether
            an episode ended by itself; where there are any `next_observations [E, T, D]` and
            `timeouts [E, T]`, which must lie at the ends. Other usual names are understood.
        lengths: steps of each episode, None where all have T.
        settings: of `conf/dataset/file.yaml`.

    Raises:
        Mistake: missing arrays or unequal shapes; flags other than 0 and 1; an end before the end
            of its episode; rows of zeros at the end of an episode without `lengths`; see
            `datasets.load`.
    """
    source = "the padded arrays"
    read_arrays_option(settings)
    given = _padded_columns(arrays, settings.pop("columns", None) or {}, source)
    if given["actions"].ndim != 3 or given["observations"].ndim != 3:
        raise Mistake(
            f"{source} have observations {list(given['observations'].shape)} and actions "
            f"{list(given['actions'].shape)}, expected [E, T, D] and [E, T, A]"
        )
    episodes, steps = given["actions"].shape[:2]
    if not episodes or not steps:
        raise Mistake(f"{source} hold {episodes} episodes of {steps} steps; record something first")
    if given["observations"].shape[1] == steps + 1:
        if "next_observations" in given:
            raise Mistake(
                f"{source} have {steps + 1} observations for {steps} steps and next_observations "
                "too; leave one of them out"
            )
        given["next_observations"] = given["observations"][:, 1:]
        given["observations"] = given["observations"][:, :-1]
    for name in ("terminals", "timeouts"):
        if name in given and given[name].shape == (episodes, steps, 1):
            given[name] = given[name][..., 0]
    for name, column in given.items():
        ends = (episodes,) if name == "terminals" else None
        wanted = 2 if name in ("terminals", "timeouts") else column.ndim
        if column.shape != ends and (
            column.shape[:2] != (episodes, steps) or column.ndim != wanted
        ):
            raise Mistake(
                f"{source} have {name} {list(column.shape)}, expected {episodes} episodes of "
                f"{steps} steps"
            )
    count = _lengths(lengths, episodes, steps)
    last = np.arange(steps) == count[:, None] - 1  # [E, T]
    inside = np.arange(steps) < count[:, None]
    if lengths is None:
        _require_no_padding(given, source)
    if given["terminals"].ndim == 1:
        flags = require_flags(given["terminals"], "terminals", source)
        given["terminals"] = last & flags[:, None]
    for name in ("terminals", "timeouts"):
        if name not in given:
            continue
        flags = np.zeros((episodes, steps), bool)
        flags[inside] = require_flags(given[name][inside], name, source)
        if (flags & ~last).any():
            episode, step = np.argwhere(flags & ~last)[0]
            raise Mistake(
                f"{source}: episode {episode} has {name} in step {step} of {count[episode]}; give "
                "its length so that it ends there"
            )
        given[name] = flags
    flat = {name: column[inside] for name, column in given.items()}
    flat["timeouts"] = last[inside] & ~flat["terminals"]
    return from_arrays(flat, source, settings)


def _padded_columns(
    arrays: Mapping[str, Any], named: Mapping[str, str | None], source: str
) -> dict[str, np.ndarray]:
    """The arrays of the columns, by D4RL's names."""
    needed = ("observations", "actions", "rewards", "terminals")
    held = list(arrays) if isinstance(arrays, Mapping) else []
    found = find_columns(held, named, source)
    # A "done" that may be a time limit is taken for a termination by nobody but its owner.
    found = {
        column: array for column, array in found.items() if not is_loose(array) or column in named
    }
    missing = [name for name in needed if name not in found]
    if missing:
        raise Mistake(f"{source} lack {', '.join(missing)}; give {', '.join(needed)} by name")
    return {column: _array(arrays[array], f"{source}: {array}") for column, array in found.items()}


def _array(column: Any, what: str) -> np.ndarray:
    try:
        return np.asarray(column)
    except (TypeError, ValueError) as error:
        raise Mistake(f"{what} is no array of numbers; pad it and give a numpy array") from error


def _lengths(lengths: Any, episodes: int, steps: int) -> np.ndarray:
    """Steps of each episode, `[E]`."""
    if lengths is None:
        return np.full(episodes, steps)
    count = _array(lengths, "lengths")
    whole = count.dtype.kind in "iu" and count.shape == (episodes,)
    if not whole or count.min(initial=1) < 1 or count.max(initial=1) > steps:
        raise Mistake(
            f"lengths must be {episodes} whole numbers from 1 to {steps}, one for each episode"
        )
    return count


def _require_no_padding(given: Mapping[str, np.ndarray], source: str) -> None:
    """Refuse rows of nothing but zeros behind the others: somebody forgot the lengths."""
    state = given.get("next_observations", given["observations"])
    empty = np.ones(given["actions"].shape[:2], bool)  # [E, T]
    for column in (state, given["actions"], given["rewards"]):
        empty &= (column == 0).reshape(*empty.shape, -1).all(-1)
    padded = empty[:, -1:].any(-1) & ~empty.all(-1)
    if padded.any():
        episode = int(padded.argmax())
        rows = int(empty[episode, ::-1].argmin())
        raise Mistake(
            f"{source}: {counted(rows, 'row')} at the end of episode {episode} hold nothing but "
            "zeros, which looks like padding; give lengths=[...], the steps of each episode (all "
            "T if they were recorded so)"
        )


def require_flags(column: Any, name: str, source: str) -> np.ndarray:
    """Flags as booleans.

    Raises:
        Mistake: some are neither 0 nor 1.
    """
    flags = np.asarray(column)
    if flags.dtype.kind not in "biuf" or not np.isin(flags, (0, 1)).all():
        raise Mistake(f"{source}: {name} must hold only 0 and 1; repair that column")
    return flags != 0


def from_d3rlpy(dataset: Any, **settings: Any) -> Dataset:
    """A dataset of a d3rlpy `ReplayBuffer` or `MDPDataset`, or of its episodes.

    An episode holds no observation after its last action: the last row of one that terminated is
    kept without a successor, that of another is dropped, as d3rlpy does.

    Args:
        dataset: has `episodes`, or is a sequence of them, each with `observations [T, D]`,
            `actions [T, A]`, `rewards [T, 1]` and `terminated`.
        settings: of `conf/dataset/file.yaml`.

    Raises:
        Mistake: no such episodes, tuples of observations; see `datasets.load`.
    """
    source = "the d3rlpy dataset"
    read_arrays_option(settings)
    episodes = []
    needed = ("terminated", "observations", "actions", "rewards")
    for where, episode in _each(getattr(dataset, "episodes", dataset), source, needed):
        terminated = _one_flag(episode.terminated, "terminated", where)
        columns = {
            "observations": _vectors(episode.observations, where),
            "actions": _array(episode.actions, f"{where}: actions"),
            "rewards": _array(episode.rewards, f"{where}: rewards"),
        }
        episodes.append(_with_ends(columns, terminated, where))
    return from_arrays(_joined(episodes, source), source, settings)


def from_imitation(
    trajectories: Iterable[Any], *, dones_terminate: bool = False, **settings: Any
) -> Dataset:
    """A dataset of the `TrajectoryWithRew` objects of `imitation`.

    Their `terminal` is true at time limits too. Those are told apart by
    `infos[-1]["TimeLimit.truncated"]`, or by their length where infos were not kept.

    Args:
        trajectories: each with `obs [T + 1, D]`, `acts [T, A]`, `rews [T]`, `infos` and `terminal`.
        dones_terminate: every `terminal` is a termination.
        settings: of `conf/dataset/file.yaml`; `max_episode_steps` tells time limits apart where
            there are no infos.

    Raises:
        Mistake: trajectories without rewards, dict observations; ends that nobody can tell apart;
            see `datasets.load`.
    """
    source, longest = "the trajectories", read_arrays_option(settings)["max_episode_steps"]
    needed = ("rews", "obs", "acts", "infos", "terminal")
    given = list(_each(trajectories, source, needed))
    told = [_told_limit(each, where) for where, each in given]
    # Older wrappers write the key at time limits alone: one that has it speaks for all.
    speak = any(limit is not None for limit in told)
    episodes = []
    for (where, each), limit in zip(given, told, strict=True):
        obs = _vectors(each.obs, where)
        columns = {
            "observations": obs[:-1],
            "next_observations": obs[1:],
            "actions": _array(each.acts, f"{where}: acts"),
            "rewards": _array(each.rews, f"{where}: rews"),
        }
        rows = len(columns["actions"]) if columns["actions"].ndim else 0
        terminated = _one_flag(each.terminal, "terminal", where)
        if terminated and not dones_terminate:
            if speak and each.infos is not None:
                terminated = not limit
            elif longest:
                if rows > longest:
                    raise Mistake(
                        f"{where} has {rows} steps, more than max_episode_steps={longest}; "
                        "correct it"
                    )
                terminated = rows < longest
            else:
                raise Mistake(f"{source} were kept without infos[-1][{_LIMIT!r}], {ALIKE}")
        episodes.append(_with_ends(columns, terminated, where))
    return from_arrays(_joined(episodes, source), source, settings)


def _told_limit(each: Any, where: str) -> bool | None:
    """Whether a trajectory was ended by a time limit, by its last info; None if that is silent."""
    if each.infos is None:
        return None
    if len(each.infos) != len(each.acts):
        raise Mistake(
            f"{where} has {len(each.infos)} infos for {len(each.acts)} actions; set infos=None or "
            "repair it"
        )
    last = each.infos[-1] if len(each.infos) else None
    if not isinstance(last, Mapping) or _LIMIT not in last:
        return None
    return bool(last[_LIMIT])


def _with_ends(
    columns: dict[str, np.ndarray], terminated: bool, where: str
) -> dict[str, np.ndarray]:
    """The columns of one episode with its end.

    Raises:
        Mistake: they differ in length, or there is no row.
    """
    lengths = {name: len(column) if column.ndim else 0 for name, column in columns.items()}
    rows = lengths["actions"]
    if set(lengths.values()) != {rows} or not rows:
        counts = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise Mistake(
            f"{where} has columns that differ in length or are empty ({counts}); every step needs "
            "one row in each, so repair or leave out that episode"
        )
    rewards = columns["rewards"]
    if rewards.shape[1:] not in ((), (1,)):
        raise Mistake(f"{where} has rewards {list(rewards.shape)}, expected one for each step")
    last = np.arange(rows) == rows - 1
    ends = {"terminals": last & terminated, "timeouts": last & (not terminated)}
    return {**columns, "rewards": rewards.reshape(-1), **ends}


def _one_flag(value: Any, name: str, where: str) -> bool:
    """Whether one flag is set.

    Raises:
        Mistake: it is no flag.
    """
    flag = np.atleast_1d(np.asarray(value))
    if flag.size != 1:
        raise Mistake(f"{where} has {name} of shape {list(flag.shape)}, expected True or False")
    return bool(require_flags(flag, name, where).item())


def _each(episodes: Any, source: str, needed: Sequence[str]) -> Iterable[tuple[str, Any]]:
    """Episodes that have the attributes by which one knows them, each with its name."""
    if not isinstance(episodes, Iterable):
        raise Mistake(f"{source} holds no episodes; give an object that has them, or a list")
    for index, episode in enumerate(episodes):
        for attribute in needed:
            if not hasattr(episode, attribute):
                raise Mistake(f"{source}: episode {index} has no attribute {attribute!r}; add it")
        yield f"{source}: episode {index}", episode


def _vectors(column: Any, where: str) -> np.ndarray:
    """Observations as `[T, D]`."""
    if not isinstance(column, np.ndarray):
        raise Mistake(
            f"{where} has observations of several parts, or no array ({type(column).__name__}); "
            "join the parts to one vector, and give a numpy array [T, D]"
        )
    return column


def _joined(episodes: Sequence[Mapping[str, np.ndarray]], source: str) -> dict[str, np.ndarray]:
    """The columns of all episodes, one after another.

    Raises:
        Mistake: there is none, or they differ in shape.
    """
    if not episodes:
        raise Mistake(f"{source} holds no episodes; record something first")
    for name, first in episodes[0].items():
        for index, episode in enumerate(episodes):
            if episode[name].shape[1:] != first.shape[1:]:
                raise Mistake(
                    f"{source}: episode {index} has {name} of {list(episode[name].shape[1:])} a "
                    f"step, episode 0 of {list(first.shape[1:])}; give episodes of one task"
                )
    return {name: np.concatenate([each[name] for each in episodes]) for name in episodes[0]}
