"""What other libraries hold in memory as a dataset, by its public attributes: none is imported.

What each one stores was read from its source: Stable-Baselines3 2 (`common/buffers.py`), CleanRL
(`cleanrl_utils/buffers.py` and its scripts), d3rlpy 2 (`dataset/components.py`), `imitation` 1
(`data/types.py`). They differ in what a "done" is, in the units of actions and in which successors
are true.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from reverie.datasets.dataset import Dataset
from reverie.datasets.options import from_arrays
from reverie.datasets.readers.file import jumps
from reverie.mistake import Mistake

_BOTH = (
    "so time limits and terminations look alike; give max_episode_steps=..., the time limit, or "
    "dones_terminate=True where there is none"
)


def from_padded(
    arrays: Mapping[str, Any], lengths: Sequence[int] | None = None, **settings: Any
) -> Dataset:
    """A dataset of E episodes side by side, padded to the longest.

    Args:
        arrays: `observations [E, T, D]`, or `[E, T + 1, D]` with the one after the last step;
            `actions [E, T, A]`, `rewards [E, T]`, `terminals [E, T]` or `[E]`, which say whether
            an episode ended by itself; and where there are any `next_observations [E, T, D]`.
        lengths: steps of each episode, None where all have T.
        settings: of `conf/dataset/file.yaml`.

    Raises:
        Mistake: missing arrays or unequal shapes; a terminal before the end of its episode; see
            `datasets.load`.
    """
    source = "the padded arrays"
    needed = ("observations", "actions", "rewards", "terminals")
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise Mistake(f"{source} lack {', '.join(missing)}; give {', '.join(needed)} by name")
    given = {name: np.asarray(arrays[name]) for name in arrays}
    if given["actions"].ndim != 3 or given["observations"].ndim != 3:
        raise Mistake(
            f"{source} have observations {list(given['observations'].shape)} and actions "
            f"{list(given['actions'].shape)}, expected [E, T, D] and [E, T, A]"
        )
    episodes, steps = given["actions"].shape[:2]
    if given["observations"].shape[1] == steps + 1:
        given["next_observations"] = given["observations"][:, 1:]
        given["observations"] = given["observations"][:, :-1]
    count = np.full(episodes, steps) if lengths is None else np.asarray(lengths)
    if count.shape != (episodes,) or count.min(initial=1) < 1 or count.max(initial=1) > steps:
        raise Mistake(
            f"lengths must be {episodes} whole numbers from 1 to {steps}, one for each episode"
        )
    last = np.arange(steps) == count[:, None] - 1  # [E, T]
    if given["terminals"].shape == (episodes,):
        given["terminals"] = last & (given["terminals"] != 0)[:, None]
    inside = np.arange(steps) < count[:, None]
    for name in (*needed, *(["next_observations"] if "next_observations" in given else [])):
        if given[name].shape[:2] != (episodes, steps):
            raise Mistake(
                f"{source} have {name} {list(given[name].shape)}, expected {episodes} episodes of "
                f"{steps} steps"
            )
    early = (given["terminals"] != 0) & inside & ~last
    if early.any():
        episode, step = np.argwhere(early)[0]
        raise Mistake(
            f"{source}: episode {episode} terminates in step {step} of {count[episode]}; give its "
            "length so that it ends there"
        )
    flat = {name: given[name][inside] for name in (*needed, "next_observations") if name in given}
    flat["timeouts"] = last[inside] & (flat["terminals"] == 0)
    return from_arrays(flat, source, settings)


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
    rows = _read_ring(buffer, "the replay buffer of Stable-Baselines3")
    low, high = (np.asarray(getattr(rows.space, end), float).ravel() for end in ("low", "high"))
    arrays = {**rows.arrays, "actions": low + (rows.arrays["actions"] + 1) / 2 * (high - low)}
    arrays["actions"] = np.clip(arrays["actions"], low, high)  # but for what rounding adds
    done = arrays.pop("dones") != 0
    kept = np.ones(len(done), bool)
    if buffer.handle_timeout_termination:
        limit = done & (arrays["timeouts"] != 0)
    elif dones_terminate or not done.any():
        limit = np.zeros_like(done)
    elif settings.get("max_episode_steps"):
        # Of the oldest episodes of a ring that went round the beginnings are gone.
        since, fragment = _steps_since(done, rows.last)
        kept = ~(fragment & rows.went_round)
        limit = done & (since >= settings["max_episode_steps"])
    else:
        raise Mistake(f"{rows.source} was made with handle_timeout_termination=False, {_BOTH}")
    arrays |= {"terminals": done & ~limit, "timeouts": limit | (rows.last & ~done)}
    arrays = {name: column[kept] for name, column in arrays.items()}
    return from_arrays(arrays, rows.source, _with_box(settings, low, high))


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
    rows = _read_ring(buffer, "the replay buffer of CleanRL")
    arrays, valid = dict(rows.arrays), None
    done = arrays.pop("dones") != 0
    if buffer.handle_timeout_termination:
        limit = done & (arrays["timeouts"] != 0)
    elif "next_observations" in arrays:
        limit = jumps(arrays["observations"], arrays["next_observations"])
        valid = ~done
        known = valid[:, None]
        arrays["next_observations"] = np.where(
            known, arrays["next_observations"], arrays["observations"]
        )
    else:
        limit = np.zeros_like(done)
    terminated = done & ~(limit if buffer.handle_timeout_termination else False)
    arrays |= {"terminals": terminated, "timeouts": (limit | rows.last) & ~terminated}
    low, high = (np.asarray(getattr(rows.space, end), float).ravel() for end in ("low", "high"))
    return from_arrays(arrays, rows.source, _with_box(settings, low, high), valid_next=valid)


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
    arrays: dict[str, list[np.ndarray]] = {}
    for episode in _each(getattr(dataset, "episodes", dataset), source, "terminated"):
        rows = len(episode.actions)
        ends = np.arange(rows) == rows - 1
        columns = {
            "observations": _vectors(episode.observations, source),
            "actions": np.asarray(episode.actions),
            "rewards": np.asarray(episode.rewards).reshape(rows, -1),
            "terminals": ends & bool(episode.terminated),
            "timeouts": ends & (not episode.terminated),
        }
        for name, column in columns.items():
            arrays.setdefault(name, []).append(column)
    return from_arrays(_joined(arrays, source), source, settings)


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
    source, longest = "the trajectories", settings.get("max_episode_steps")
    arrays: dict[str, list[np.ndarray]] = {}
    for each in _each(trajectories, source, "rews"):
        rows = len(each.acts)
        limit = not each.terminal
        if each.terminal and not dones_terminate:
            if each.infos is not None:
                limit = bool(each.infos[-1].get("TimeLimit.truncated", False))
            elif longest:
                limit = rows >= longest
            else:
                raise Mistake(f"{source} were kept without infos, {_BOTH}")
        ends = np.arange(rows) == rows - 1
        obs = _vectors(each.obs, source)
        columns = {
            "observations": obs[:-1],
            "next_observations": obs[1:],
            "actions": np.asarray(each.acts),
            "rewards": np.asarray(each.rews),
            "terminals": ends & (not limit),
            "timeouts": ends & limit,
        }
        for name, column in columns.items():
            arrays.setdefault(name, []).append(column)
    return from_arrays(_joined(arrays, source), source, settings)


class _Ring(NamedTuple):
    """Rows of a ring buffer by environment, each in the order they were met.

    Attributes:
        arrays: by name, `[n_envs * T, ...]`.
        last: `[n_envs * T]`, the newest row of each environment.
        went_round: whether the oldest rows are gone.
        space: of the actions.
        source: for messages.
    """

    arrays: dict[str, np.ndarray]
    last: np.ndarray
    went_round: bool
    space: Any
    source: str


def _read_ring(buffer: Any, source: str) -> _Ring:
    """A buffer `[buffer_size, n_envs, ...]` with a position to write next, as rows."""
    wanted = ("observations", "actions", "rewards", "dones", "timeouts")
    for name in (*wanted, "pos", "full", "action_space", "handle_timeout_termination"):
        if not hasattr(buffer, name):
            raise Mistake(f"{source} has no attribute {name!r}; give a ReplayBuffer")
    if not hasattr(buffer.action_space, "low"):
        raise Mistake(f"{source} has discrete actions; only continuous ones can be learned")
    size, went_round = len(buffer.actions), bool(buffer.full)
    order = (np.arange(size) + buffer.pos) % size if went_round else np.arange(buffer.pos)
    shared = bool(getattr(buffer, "optimize_memory_usage", False))
    if shared and went_round:
        order = order[1:]  # its observation is the newest row's successor by now
    if not len(order):
        raise Mistake(f"{source} is empty; record something first")

    def flat(column: Any) -> np.ndarray:
        by_environment = np.asarray(column)[order].swapaxes(0, 1)  # [n_envs, T, ...]
        return by_environment.reshape(len(order) * by_environment.shape[0], -1)

    for name in ("observations", *([] if shared else ["next_observations"])):
        if isinstance(getattr(buffer, name, None), Mapping):
            raise Mistake(
                f"{source} holds dict observations; join them to one vector and give the arrays to "
                "reverie.datasets.load"
            )
    arrays = {name: flat(getattr(buffer, name)) for name in wanted}
    if not shared:
        arrays["next_observations"] = flat(buffer.next_observations)
    for name in ("rewards", "dones", "timeouts"):
        arrays[name] = arrays[name].reshape(-1)
    last = np.arange(len(arrays["rewards"])) % len(order) == len(order) - 1
    return _Ring(arrays, last, went_round, buffer.action_space, source)


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


def _with_box(settings: Mapping[str, Any], low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    """Settings with the box of the actions, which an environment knows by itself."""
    if settings.get("env_id") is not None:
        return dict(settings)
    return {"action_low": low.tolist(), "action_high": high.tolist(), **settings}


def _each(episodes: Any, source: str, attribute: str) -> Iterable[Any]:
    """Episodes that have an attribute by which one knows them."""
    if not isinstance(episodes, Iterable):
        raise Mistake(f"{source} holds no episodes; give an object that has them, or a list")
    for index, episode in enumerate(episodes):
        if not hasattr(episode, attribute):
            raise Mistake(f"{source}: episode {index} has no attribute {attribute!r}; add it")
        yield episode


def _vectors(column: Any, source: str) -> np.ndarray:
    """Observations as `[T, D]`."""
    if not isinstance(column, np.ndarray):
        raise Mistake(
            f"{source} holds observations of several parts ({type(column).__name__}); join them to "
            "one vector first"
        )
    return column


def _joined(arrays: Mapping[str, list[np.ndarray]], source: str) -> dict[str, np.ndarray]:
    if not arrays:
        raise Mistake(f"{source} holds no episodes; record something first")
    return {name: np.concatenate(columns) for name, columns in arrays.items()}
