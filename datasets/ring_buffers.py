"""Replay buffers of Stable-Baselines3 and CleanRL, by their public attributes: none is imported.

What they store was read from their sources (`common/buffers.py`; `cleanrl_utils/buffers.py` and the
scripts). They differ in what a "done" is, in the units of actions and in which successors are true.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from reverie.datasets.build import BOX_TOLERANCE
from reverie.datasets.dataset import Dataset
from reverie.datasets.importers import ALIKE, require_flags
from reverie.datasets.options import from_arrays, read_arrays_option
from reverie.datasets.readers.episode_ends import jumps
from reverie.mistake import Mistake
from reverie.text import counted, one_line


def from_sb3(buffer: Any, *, dones_terminate: bool = False, **settings: Any) -> Dataset:
    """A dataset of a Stable-Baselines3 `ReplayBuffer`, such as `model.replay_buffer`.

    Actions stand there scaled to [-1, 1]; they are mapped back to `buffer.action_space`.
    Observations and rewards are raw also under `VecNormalize`. Each environment's rows become
    episodes in order, from the oldest row of a ring that went round. Where the buffer was made
    with `optimize_memory_usage`, ends have no true successor: terminal rows are kept without,
    others are dropped.

    Args:
        buffer: of vector observations and continuous actions.
        dones_terminate: every done is a termination, for a buffer with
            `handle_timeout_termination=False`, which does not tell time limits apart.
        settings: of `conf/dataset/file.yaml`; `max_episode_steps` says where dones are time limits
            if the buffer does not.

    Raises:
        Mistake: no such buffer, dict observations, discrete actions; dones that nobody can tell
            apart; see `datasets.load`.
    """
    options = read_arrays_option(settings)
    rows = _read_ring(buffer, "the replay buffer of Stable-Baselines3")
    scaled, arrays = rows.arrays["actions"], dict(rows.arrays)
    if (np.abs(scaled) > 1 + 2 * BOX_TOLERANCE).any() and not options["clip_actions"]:
        raise Mistake(
            f"{rows.source} holds actions beyond [-1, 1], where its algorithms store them scaled; "
            "if yours are in the units of the environment, read the buffer with from_cleanrl, or "
            "set clip_actions=True to clip them"
        )
    # Clipped by no more than what rounding adds, but for those that are clipped on purpose.
    arrays["actions"] = rows.low + (np.clip(scaled, -1, 1) + 1) / 2 * (rows.high - rows.low)
    done, timeouts = arrays.pop("dones"), arrays["timeouts"]
    kept, longest = np.ones(len(done), bool), options["max_episode_steps"]
    if buffer.handle_timeout_termination:
        limit = done & timeouts
        if dones_terminate and limit.any():
            raise Mistake(
                f"{rows.source} tells {counted(int(limit.sum()), 'time limit')} apart, which "
                "dones_terminate=True contradicts; leave it out"
            )
    elif dones_terminate or not done.any():
        limit = np.zeros_like(done)
    elif longest:
        # Of the oldest episodes of a ring that went round the beginnings are gone.
        since, fragment = _steps_since(done, rows.last)
        kept = ~(fragment & rows.went_round)
        _require_no_longer(since, longest, rows.source)
        limit = done & (since >= longest)
    else:
        raise Mistake(f"{rows.source} was made with handle_timeout_termination=False, {ALIKE}")
    arrays |= {"terminals": done & ~limit, "timeouts": limit | (rows.last & ~done)}
    arrays = {name: column[kept] for name, column in arrays.items()}
    return from_arrays(arrays, rows.source, _with_box(settings, rows))


def from_cleanrl(buffer: Any, **settings: Any) -> Dataset:
    """A dataset of the `ReplayBuffer` of a CleanRL script, `rb`.

    Actions are in the units of the environment. The scripts store terminations only
    (`handle_timeout_termination=False`): episodes also end where a stored successor is not the
    following row. The successor of a terminal row is the start of the next episode there, so it
    counts as unknown.

    Args:
        buffer: of vector observations and continuous actions.
        settings: of `conf/dataset/file.yaml`.

    Raises:
        Mistake: see `from_sb3`.
    """
    longest = read_arrays_option(settings)["max_episode_steps"]
    rows = _read_ring(buffer, "the replay buffer of CleanRL")
    arrays, valid = dict(rows.arrays), None
    done = arrays.pop("dones")
    if buffer.handle_timeout_termination:
        limit = done & arrays["timeouts"]
        terminated = done & ~limit
    elif "next_observations" in arrays:
        limit, terminated = jumps(arrays["observations"], arrays["next_observations"]), done
        valid = ~done
        known = valid[:, None]
        arrays["next_observations"] = np.where(
            known, arrays["next_observations"], arrays["observations"]
        )
    else:
        raise Mistake(
            f"{rows.source} was made with optimize_memory_usage, so nothing in it tells where time "
            "limits cut; record with optimize_memory_usage=False, or give its arrays with timeouts "
            "to reverie.datasets.load"
        )
    arrays |= {"terminals": terminated, "timeouts": (limit | rows.last) & ~terminated}
    if longest:
        ends = arrays["terminals"] | arrays["timeouts"]
        _require_no_longer(_steps_since(ends, rows.last)[0], longest, rows.source)
    return from_arrays(arrays, rows.source, _with_box(settings, rows), valid_next=valid)


class _Ring(NamedTuple):
    """Rows of a ring buffer by environment, each in the order they were met.

    Attributes:
        arrays: by name, `[n_envs * T, ...]`.
        last: `[n_envs * T]`, the newest row of each environment.
        went_round: whether the oldest rows are gone.
        low, high: `[A]` box of the actions.
        source: for messages.
    """

    arrays: dict[str, np.ndarray]
    last: np.ndarray
    went_round: bool
    low: np.ndarray
    high: np.ndarray
    source: str


def _read_ring(buffer: Any, source: str) -> _Ring:
    """A buffer `[buffer_size, n_envs, ...]` with a position to write next, as rows."""
    wanted = ("observations", "actions", "rewards", "dones", "timeouts")
    for name in (*wanted, "pos", "full", "action_space", "handle_timeout_termination"):
        if not hasattr(buffer, name):
            raise Mistake(f"{source} has no attribute {name!r}; give a ReplayBuffer")
    low, high = _box(buffer, source)
    size, went_round = len(buffer.actions), bool(buffer.full)
    if not isinstance(buffer.pos, (int, np.integer)) or not 0 <= buffer.pos <= size:
        raise Mistake(
            f"{source} has pos={one_line(str(buffer.pos), 50)}, expected a whole number from 0 to "
            f"{size}, the next row to write; restore the buffer"
        )
    order = (np.arange(size) + buffer.pos) % size if went_round else np.arange(buffer.pos)
    shared = bool(getattr(buffer, "optimize_memory_usage", False))
    if shared and went_round:
        order = order[1:]  # its observation is the newest row's successor by now
    if not len(order):
        raise Mistake(f"{source} is empty; record something first")
    arrays = {}
    for name in (*wanted, *([] if shared else ["next_observations"])):
        column = _column(buffer, name, source)
        by_environment = column[order].swapaxes(0, 1)  # [n_envs, T, ...]
        arrays[name] = by_environment.reshape(len(order) * by_environment.shape[0], -1)
    if arrays["actions"].shape[1] != len(low):
        raise Mistake(
            f"{source} has actions of {arrays['actions'].shape[1]} numbers, but its action_space "
            f"has {len(low)}; restore the buffer"
        )
    arrays["rewards"] = arrays["rewards"].reshape(-1)
    for name in ("dones", "timeouts"):
        arrays[name] = require_flags(arrays[name].reshape(-1), name, source)
    last = np.arange(len(arrays["rewards"])) % len(order) == len(order) - 1
    return _Ring(arrays, last, went_round, low, high, source)


def _box(buffer: Any, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the actions `[A]`, if they are numbers of a box."""
    if not hasattr(buffer.action_space, "low"):
        raise Mistake(
            f"{source} has discrete actions; only continuous ones are learned "
            "here (d3rlpy learns from discrete ones)"
        )
    low, high = (np.asarray(getattr(buffer.action_space, end)) for end in ("low", "high"))
    if low.dtype.kind != "f" or high.dtype.kind != "f":
        raise Mistake(f"{source} has actions of whole numbers; only continuous ones can be learned")
    if not np.isfinite(low).all() or not np.isfinite(high).all():
        raise Mistake(
            f"{source} has an unbounded action_space; record in an environment with bounds "
            "(gymnasium.wrappers.RescaleAction), or give the arrays with action_low and "
            "action_high to reverie.datasets.load"
        )
    return low.astype(float).ravel(), high.astype(float).ravel()


def _column(buffer: Any, name: str, source: str) -> np.ndarray:
    """One array `[buffer_size, n_envs, ...]` of vectors or numbers."""
    if not hasattr(buffer, name):
        raise Mistake(f"{source} has no attribute {name!r}; give a ReplayBuffer")
    held = getattr(buffer, name)
    if isinstance(held, Mapping):
        raise Mistake(
            f"{source} holds dict observations; join them to one vector and give the arrays to "
            "reverie.datasets.load"
        )
    column = np.asarray(held)
    first = np.shape(buffer.actions)[:2]
    numbers = name in ("rewards", "dones", "timeouts")
    if column.shape[:2] != first or (column.ndim != 2 if numbers else column.ndim < 3):
        width = "" if numbers else ", width"
        raise Mistake(
            f"{source} has {name} {list(column.shape)} beside actions "
            f"{list(buffer.actions.shape)}, expected [buffer_size, n_envs{width}]; restore the "
            "buffer"
        )
    if numbers or name == "actions":
        return column
    # Boxes of three dimensions, or of bytes and two, are images.
    if column.ndim > 4 or (column.ndim > 3 and column.dtype == np.uint8):
        raise Mistake(
            f"{source} holds images {list(column.shape[2:])} as {name}; images are not supported, "
            "so give vectors of features to reverie.datasets.load"
        )
    if not hasattr(getattr(buffer, "observation_space", buffer.action_space), "low"):
        raise Mistake(
            f"{source} has discrete observations, whose numbers mean nothing; encode them as "
            "vectors and give the arrays to reverie.datasets.load"
        )
    return column


def _require_no_longer(steps: np.ndarray, longest: int, source: str) -> None:
    """Refuse a time limit that some episode outlives."""
    if steps.max() > longest:
        raise Mistake(
            f"{source} holds an episode of {int(steps.max())} steps, more than "
            f"max_episode_steps={longest}; correct it"
        )


def _steps_since(done: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps of each row since its episode began, from 1, and whether no beginning is known."""
    since, fragment = np.empty(len(done), int), np.empty(len(done), bool)
    steps, begun = 0, False
    for row in range(len(done)):
        steps += 1
        since[row], fragment[row] = steps, not begun
        if done[row] or last[row]:
            steps, begun = 0, not last[row]
    return since, fragment


def _with_box(settings: Mapping[str, Any], rows: _Ring) -> dict[str, Any]:
    """Settings with the box of the actions, which an environment knows by itself."""
    if settings.get("env_id") is not None:
        return dict(settings)
    return {"action_low": rows.low.tolist(), "action_high": rows.high.tolist(), **settings}
