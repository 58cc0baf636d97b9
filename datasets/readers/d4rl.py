"""D4RL's HDF5 files (arXiv:2004.07219), read without its package.

Only the corrected generation of each family is accepted. The environments of the files no longer
exist as such; `TASKS` says what stands for them in today's Gymnasium.
"""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from reverie.datasets.arrays import stretches_of
from reverie.datasets.build import build
from reverie.datasets.dataset import Dataset
from reverie.datasets.download import fetch, verify
from reverie.datasets.names import short_name
from reverie.datasets.readers.columns import (
    flag,
    limit_ends,
    read_hdf5,
    require_columns,
    require_file,
    require_widths,
)
from reverie.datasets.subset import Subset
from reverie.envs.reference import reference_for
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.paths import expanded
from reverie.ranges import Count
from reverie.text import near

log = logging.getLogger(__name__)

REQUIRED = ["observations", "actions", "rewards", "terminals"]
OPTIONAL = ["timeouts", "next_observations"]

LOCOMOTION_SPLITS = ("random", "medium", "medium-replay", "medium-expert", "expert", "full-replay")
ANTMAZE_SPLITS = (
    "umaze",
    "umaze-diverse",
    "medium-play",
    "medium-diverse",
    "large-play",
    "large-diverse",
)


@dataclass(frozen=True)
class Task:
    """What is known about a D4RL dataset before its file is opened.

    Attributes:
        id: of the dataset.
        file: path below the archive's root.
        obs_dim, action_dim: widths of the stored arrays.
        steps: time limit of an episode, in the data and for scores.
        env_id: today's environment with the same spaces, None where none has them.
        obs_slice: leading observations that the environment has too, None for all.
        terminals_end: whether a terminal row ends its episode.
        needs_timeouts: whether a file without time limits must be an older, defective one.
        physics: may be corrected for MuJoCo's changed contacts.
    """

    id: str
    file: str
    obs_dim: int
    action_dim: int
    steps: int
    env_id: str | None = None
    obs_slice: int | None = None
    terminals_end: bool = True
    needs_timeouts: bool = False
    physics: bool = False


def _tasks() -> dict[str, Task]:
    tasks = []
    # Ant's contact forces (84 of 111) were always zero in MuJoCo 2.0; today's are not.
    for env, obs_dim, action_dim, env_id, obs_slice in (
        ("halfcheetah", 17, 6, "HalfCheetah-v4", None),
        ("hopper", 11, 3, "Hopper-v4", None),
        ("walker2d", 17, 6, "Walker2d-v4", None),
        ("ant", 111, 8, "Ant-v4", 27),
    ):
        for split in LOCOMOTION_SPLITS:
            tasks.append(
                Task(
                    f"{env}-{split}-v2",
                    f"gym_mujoco_v2/{env}_{split.replace('-', '_')}-v2.hdf5",
                    obs_dim,
                    action_dim,
                    1000,
                    env_id=env_id,
                    obs_slice=obs_slice,
                    needs_timeouts=True,
                    physics=True,
                )
            )
    # Neither maze has a stand-in: Gymnasium-Robotics puts the origin of the coordinates, which
    # are observed here, in the middle of the maze, and draws goals that are not observed here.
    for size, version, steps in (
        ("open", 0, 150),
        ("umaze", 1, 300),
        ("medium", 1, 600),
        ("large", 1, 800),
    ):
        for kind, infix in (("sparse", ""), ("dense", "-dense")):
            suffix = f"-v{version}" if version else ""
            file = f"maze2d/maze2d-{size}-{kind}{suffix}.hdf5"
            tasks.append(Task(f"maze2d-{size}{infix}-v{version}", file, 4, 2, steps))
    mazes = {"umaze": "u-maze", "medium": "big-maze", "large": "hardest-maze"}
    for split in ANTMAZE_SPLITS:
        size = split.partition("-")[0]
        starts, goals = split != "umaze", split.endswith("diverse")
        file = (
            f"ant_maze_v2/Ant_maze_{mazes[size]}_noisy_multistart_{starts}_multigoal_{goals}"
            "_sparse_fixed.hdf5"
        )
        steps = 700 if size == "umaze" else 1000
        # Terminals were relabelled by the distance to a goal while the motion went on.
        tasks.append(Task(f"antmaze-{split}-v2", file, 29, 8, steps, terminals_end=False))
    for hand, obs_dim, action_dim, steps in (
        ("pen", 45, 24, 100),
        ("hammer", 46, 26, 200),
        ("door", 39, 28, 200),
        ("relocate", 39, 30, 200),
    ):
        for split in ("human", "cloned", "expert"):
            id_ = f"{hand}-{split}-v1"
            file = f"hand_dapg_v1/{id_}.hdf5"
            env_id = f"AdroitHand{hand.capitalize()}-v1"
            tasks.append(Task(id_, file, obs_dim, action_dim, steps, env_id=env_id))
    for split, file in (
        ("complete", "mini_kitchen_microwave_kettle_light_slider-v0.hdf5"),
        ("partial", "kitchen_microwave_kettle_light_slider-v0.hdf5"),
        ("mixed", "kitchen_microwave_kettle_bottomburner_light-v0.hdf5"),
    ):
        # FrankaKitchen-v1 has other observations.
        tasks.append(Task(f"kitchen-{split}-v0", f"kitchen/{file}", 60, 9, 280))
    return {task.id: task for task in tasks}


TASKS = _tasks()


def load(
    *,
    name: str | None,
    id: str,
    path: str | None,
    env_id: str | None,
    env_kwargs: Mapping[str, object] | None = None,
    physics: Literal["as-is", "d4rl"],
    compat: str | None,
    max_episode_steps: Count | None,
    clip_actions: bool,
    mirrors: Sequence[str],
    sha256: str | None,
    subset: Subset | None = None,
) -> Dataset:
    """Read a D4RL dataset, downloading its file the first time.

    Every row is kept where the file stores next observations (all locomotion sets); otherwise
    rows whose successor the file does not hold are treated as `datasets.build.build` says.

    Args:
        name: short name, None to use the id.
        id: D4RL id with version, a key of `TASKS`.
        path: the file, None to look for it in D4RL_DATASET_DIR (default `~/.d4rl/datasets`) and
            to download it there.
        env_id: Gymnasium id for scores; `standard` for the one in `TASKS`, None for none.
        env_kwargs: options for that environment.
        physics: `d4rl` undoes MuJoCo's contact change in locomotion tasks, `as-is` does not.
        compat: None, or `d4rl` for exactly the rows of D4RL's own Q-learning conversion: next
            observations are the following rows (at a terminal row a reset state, so `valid_next`
            is false there), timed-out rows and the last row are left out.
        max_episode_steps: time limit for files that do not record timeouts, None for D4RL's.
        clip_actions: clip actions outside [-1, 1] instead of refusing them.
        mirrors: address templates with `{path}` (below the archive's root) or `{file}` (its last
            part), tried in turn.
        sha256: expected checksum of the file, None if unknown.
        subset: which whole episodes to keep, see `datasets.subset.choose_episodes`; None for all.

    Raises:
        Mistake: unknown or defective dataset, damaged file, wrong spaces, bad values; `path` does
            not exist; no mirror delivers the file.
    """
    task = find_task(id)
    if compat not in (None, "d4rl"):
        raise Mistake(f"compat={compat!r} is unknown; use null, or d4rl for the original rows")
    file = _locate(task, path, mirrors, sha256)
    columns = read_hdf5(file, lambda held: [key for key in REQUIRED + OPTIONAL if key in held])
    require_columns(file, columns, REQUIRED)
    if task.needs_timeouts and "timeouts" not in columns:
        raise Mistake(
            f"{file} records no timeouts, so it is a v0 file and not {task.id}: v0 locomotion "
            "files do not tell time limits from terminations; fetch the v2 file"
        )
    require_widths(file, columns, task.obs_dim, task.action_dim, task.id)
    obs_slice = task.obs_slice
    if obs_slice is not None:
        _warn_if_varying(task, columns["observations"], obs_slice)
    obs = columns["observations"][:, :obs_slice]
    next_obs = columns.get("next_observations")
    next_obs = None if next_obs is None else next_obs[:, :obs_slice]

    limit = max_episode_steps or task.steps
    terminated = flag(columns["terminals"])
    stored = "timeouts" in columns
    timeouts = flag(columns["timeouts"]) if stored else limit_ends(terminated, limit)
    ends = timeouts | terminated if task.terminals_end else timeouts
    if next_obs is not None:
        _compare_successors(task, obs, next_obs, ends)

    rows: dict[str, Any] = {
        "obs": obs,
        "action": columns["actions"],
        "reward": columns["rewards"],
        "terminated": columns["terminals"],
        "truncated": columns["timeouts"] if stored else timeouts,
        "next_obs": next_obs,
        "ends": ends,
    }
    if compat == "d4rl":
        kept = original_rows(terminated, timeouts if stored else None, limit)
        if not len(kept):
            raise Mistake(f"{file} has no row that D4RL's conversion keeps; use compat=null")
        rows = {key: rows[key][kept] for key in ("obs", "action", "reward", "terminated")}
        rows["next_obs"] = obs[kept + 1]
        rows["truncated"] = np.zeros(len(kept), dtype=bool)
        rows["valid_next"] = ~ends[kept]
        rows["ends"] = ends[kept] | (np.diff(kept, append=len(terminated)) > 1)
    return build(
        name=short_name(name=name, id=id),
        spec=_spec(task, obs.shape[1], env_id, physics, env_kwargs),
        reference=reference_for(task.id),
        origin={
            "source": "D4RL" if compat is None else "D4RL, its own rows",
            "id": task.id,
            "file": str(file),
        },
        clip_actions=clip_actions,
        subset=subset,
        given=True,
        **rows,
    )


def source_of(settings: Mapping[str, Any]) -> Path:
    """The file that `load` reads with these settings, and fetches where it is not there."""
    if settings["path"] is not None:
        return expanded(settings["path"])
    return dataset_dir() / find_task(settings["id"]).file.rpartition("/")[2]


def find_task(id: str) -> Task:
    """The task of a D4RL id.

    Raises:
        Mistake: unknown, or an older generation of a known dataset; the message says why.
    """
    if id in TASKS:
        return TASKS[id]
    stem = re.sub(r"-v\d+$", "", id)
    known = [task for task in TASKS if re.sub(r"-v\d+$", "", task) == stem]
    if known and TASKS[known[0]].needs_timeouts and id.endswith("-v0"):
        raise Mistake(
            f"D4RL dataset {id} is defective (no record of time limits, and the hopper "
            f"medium-expert file holds another mixture than it says); use {known[0]}"
        )
    if known:
        raise Mistake(f"D4RL dataset {id} was corrected since; use {known[0]}")
    close = near(id, TASKS) or ["hopper-medium-v2"]
    raise Mistake(
        f"D4RL dataset {id!r} is unknown; did you mean {' or '.join(close)}? "
        "`python train.py --help hydra/help=options` lists all that can be used"
    )


def dataset_dir() -> Path:
    """D4RL's own folder for downloads, so that files it fetched are used: D4RL_DATASET_DIR."""
    return expanded(os.environ.get("D4RL_DATASET_DIR") or "~/.d4rl/datasets", "D4RL_DATASET_DIR")


def urls(task: Task, mirrors: Sequence[str]) -> list[str]:
    """Addresses of a task's file, from templates with `{path}` or `{file}`.

    Raises:
        Mistake: a template has neither.
    """
    for mirror in mirrors:
        if "{path}" not in mirror and "{file}" not in mirror:
            raise Mistake(
                f"mirror {mirror!r} has neither {{path}} nor {{file}}, so it does not say which "
                "file to fetch; add one of them"
            )
    file = task.file.rpartition("/")[2]
    return [mirror.replace("{path}", task.file).replace("{file}", file) for mirror in mirrors]


def original_rows(terminated: np.ndarray, timeouts: np.ndarray | None, limit: int) -> np.ndarray:
    """Indices `[M]` of the rows that D4RL's Q-learning conversion emits.

    The last row never, and no row that its time limit ends: by the file's `timeouts`, or, without
    them, by a counter of steps. That counter starts at 0 for the first episode and after a time
    limit, but at 1 after a termination, so that later episodes lose a row that is no time limit.
    """
    count = len(terminated)
    if timeouts is not None:
        return np.flatnonzero(~timeouts[:-1])
    dropped = np.zeros(count, dtype=bool)
    begin, counter = 0, 0
    for end in [*np.flatnonzero(terminated), count - 1]:
        first = begin + limit - 1 - counter  # row at which the counter reaches the limit
        dropped[first : end + 1 : limit] = True
        begin, counter = end + 1, 0 if dropped[end] else 1
    return np.flatnonzero(~dropped[:-1])


def _locate(task: Task, path: str | None, mirrors: Sequence[str], sha256: str | None) -> Path:
    if path is not None:
        file = expanded(path)
        require_file(file)
        verify(file, sha256)
        return file
    file = dataset_dir() / task.file.rpartition("/")[2]
    remedy = "fetch the file elsewhere and give it as dataset.path=..."
    fetch(urls(task, mirrors), file, sha256=sha256, remedy=remedy)
    return file


def _spec(
    task: Task,
    obs_dim: int,
    env_id: str | None,
    physics: str,
    env_kwargs: Mapping[str, object] | None = None,
) -> Spec:
    return Spec(
        env_id=task.env_id if env_id == "standard" else env_id,
        obs_dim=obs_dim,
        action_dim=task.action_dim,
        # D4RL's environments take actions in [-1, 1] throughout.
        action_low=(-1.0,) * task.action_dim,
        action_high=(1.0,) * task.action_dim,
        max_episode_steps=task.steps,
        env_kwargs=dict(env_kwargs or {}),
        physics=physics if task.physics else "as-is",
        obs_slice=task.obs_slice,
    )


def _warn_if_varying(task: Task, obs: np.ndarray, obs_slice: int) -> None:
    dropped = obs[:, obs_slice:]
    varying = int((dropped.min(axis=0) != dropped.max(axis=0)).sum())
    if varying:
        log.warning(
            "%s: %d of the %d observations beyond the first %d vary, expected none; they are left "
            "out because today's environment computes them differently",
            task.id,
            varying,
            dropped.shape[1],
            obs_slice,
        )


def _compare_successors(
    task: Task, obs: np.ndarray, next_obs: np.ndarray, ends: np.ndarray
) -> None:
    """Warn if stored next observations are not the following rows where an episode goes on."""
    wrong, largest = 0, 0.0
    with np.errstate(invalid="ignore"):
        for part in stretches_of(obs[:-1]):
            following = obs[part.start + 1 : part.stop + 1]
            gap = np.abs(next_obs[part] - following).max(axis=1)
            scale = np.abs(following).max(axis=1)
            odd = ~ends[part] & (gap > 1e-5 * (1.0 + scale))
            wrong, largest = wrong + int(odd.sum()), max(largest, gap[odd].max(initial=0.0))
    if wrong:
        log.warning(
            "%s: in %d of %d rows inside episodes the stored next observation is not the following "
            "row's observation (largest difference %.3g); episodes may be split wrongly",
            task.id,
            wrong,
            int((~ends[:-1]).sum()),
            largest,
        )
