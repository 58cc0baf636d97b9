"""Minari datasets, local or remote, flattened once and cached as plain arrays.

Minari's own readers cost about a millisecond an episode and its arrow and parquet formats
silently cut long episodes, so HDF5 is read at h5py's low level, everything is counted, and the
flat float32 columns are kept for the next time.
"""

import hashlib
import logging
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from reverie.datasets.arrays import are_on_disk, keep_rows, take_rows
from reverie.datasets.build import LowAndHigh, build, given_reference
from reverie.datasets.cache import cache_root, cached_arrays
from reverie.datasets.dataset import Dataset
from reverie.datasets.exogenous import Exogenous, find_exogenous
from reverie.datasets.names import local_id, short_name
from reverie.datasets.readers.columns import in_one_line
from reverie.datasets.readers.minari_environment import Task, choose_task
from reverie.datasets.readers.minari_episodes import Arrays, read_any, read_hdf5
from reverie.datasets.readers.minari_files import (
    MAIN,
    dataset_root,
    locate,
    read_metadata,
    remedy_for,
    require_minari,
    space_of,
)
from reverie.datasets.subset import Subset
from reverie.envs.make import spaces_of, spec_of
from reverie.envs.observations import flatten_space, observation_keys
from reverie.envs.reference import reference_for
from reverie.envs.specs import Reference, Spec, is_bounded
from reverie.mistake import Mistake
from reverie.ranges import Count

log = logging.getLogger(__name__)

# Raise it whenever the cached columns change their meaning.
CACHE_VERSION = 1

# Environments whose returns D4RL's constants describe, at least in scale.
D4RL_FAMILIES = {
    f"{task}-v{version}": task.lower()
    for task in ("HalfCheetah", "Hopper", "Walker2d", "Ant")
    for version in (2, 3, 4, 5)
}


def load(
    *,
    name: str | None,
    id: str,
    path: str | None,
    download: bool,
    env_id: str | None,
    env_kwargs: Mapping[str, object],
    physics: Literal["auto", "as-is", "d4rl"],
    obs_keys: Sequence[str] | None,
    reference: str | LowAndHigh | None,
    clip_actions: bool,
    max_episode_steps: Count | None = None,
    exogenous: Exogenous = None,
    subset: Subset | None = None,
    missing_actions: bool = False,
) -> Dataset:
    """Read a Minari dataset; all rows are kept, since every episode stores its last observation.

    Args:
        name: short name, None to use the id with dashes for slashes.
        id: `namespace/.../name-vN`, a remote such as `hf://farama-minari/` may precede it.
        path: root folder of local datasets; None for MINARI_DATASETS_PATH or Minari's default.
        download: fetch a dataset that is not there.
        env_id: `recorded` for the environment that the dataset names (for evaluation, else the
            one it was recorded in) if no module must be imported for it, an exact Gymnasium id,
            with the module that registers it, or None for no scores.
        env_kwargs: options for the environment, on top of the recorded ones.
        physics: `d4rl` undoes the contact change of MuJoCo 3.5, `as-is` does not, `auto` does if
            the dataset requires an older MuJoCo.
        obs_keys: keys of dict observations in order, None for the standard order.
        reference: `recorded` for the scores in the dataset's metadata, `d4rl` for the constants of
            D4RL's datasets for the same task (which these data are not), two returns, or None.
        clip_actions: clip actions outside the box instead of refusing them.
        max_episode_steps: time limit in control steps, None for the recorded one.
        exogenous: observations that actions do not move, see `datasets.exogenous`.
        subset: which whole episodes to keep, see `datasets.subset.choose_episodes`; None for all.
        missing_actions: keep rows whose action holds NaN, as rows without an action.

    Raises:
        Mistake: the dataset is not there and may not be fetched; it cannot be fetched; bad id,
            damaged data, unsupported spaces, spaces other than the environment's; the environment
            cannot be created; Minari is not installed.
    """
    require_minari()
    short = local_id(id)
    data = locate(dataset_root(path), id, download)
    metadata = read_metadata(data)
    task = choose_task(short, metadata, env_id, env_kwargs, max_episode_steps)
    space, action_space = _spaces(data, metadata, task)
    keys = None if obs_keys is None else tuple(obs_keys)
    obs_dim, box = _require_spaces(short, space, action_space, keys)

    def read() -> Arrays:
        log.info("flattening %s for the cache (the next time is faster)", short)
        if (data / MAIN).exists():
            return read_hdf5(data / MAIN, metadata, space, box, keys, remedy_for(data))
        return _read_any(data, metadata, space, box, keys)

    # What is on its way to the disk is kept there, and not twice.
    arrays = read() if are_on_disk() else cached_arrays(_cache_file(data, short, keys), read)
    # Observations have one row more than actions in each episode.
    lengths, obs = arrays["lengths"], arrays["observations"]
    last = np.cumsum(lengths)
    first, final = np.zeros((2, len(obs)), dtype=bool)
    final[last + np.arange(len(lengths))] = True
    first[0], first[1:] = True, final[:-1]
    next_obs = take_rows(obs, ~first)
    ends = np.zeros(len(next_obs), dtype=bool)
    ends[last - 1] = True
    spec = _spec(short, metadata, obs_dim, box, task, physics, keys)
    unmoved = find_exogenous(
        spec.obs_labels, exogenous, source=f"dataset {short}", key="dataset.exogenous"
    )
    return build(
        name=short_name(name=name, id=id),
        spec=replace(spec, exogenous=unmoved),
        obs=keep_rows(obs, ~final),
        action=arrays["actions"],
        reward=arrays["rewards"],
        terminated=arrays["terminations"],
        truncated=arrays["truncations"],
        next_obs=next_obs,
        ends=ends,
        reference=_reference(short, metadata, spec.env_id, reference),
        origin={
            "source": "Minari",
            "id": short,
            "path": str(data.parent),
            "minari_version": str(metadata["minari_version"]),
            "physics": spec.physics,
        },
        clip_actions=clip_actions,
        subset=subset,
        given=True,
        missing_actions=missing_actions,
    )


def source_of(settings: Mapping[str, Any]) -> Path:
    """The folder that `load` reads with these settings, and fetches where it is not there."""
    return dataset_root(settings["path"]) / local_id(settings["id"]) / "data"


def _spaces(
    data: Path, metadata: Mapping[str, Any], task: Task
) -> tuple[spaces.Space, spaces.Space]:
    """Spaces of the stored observations and actions; what the metadata lack is the task's."""
    obs_space = space_of(data, metadata, "observation_space")
    action_space = space_of(data, metadata, "action_space")
    if obs_space is not None and action_space is not None:
        return obs_space, action_space
    if task.env_id is None:
        raise Mistake(
            f"{data} records no spaces, only the environment that has them; give it as "
            "dataset.env_id"
        )
    theirs = spaces_of(task.env_id, task.env_kwargs, task.wrappers)
    return (
        theirs[0] if obs_space is None else obs_space,
        theirs[1] if action_space is None else action_space,
    )


def _read_any(
    data: Path,
    metadata: Mapping[str, Any],
    space: spaces.Space,
    box: spaces.Box,
    keys: tuple[str, ...] | None,
) -> Arrays:
    """Through Minari's own reader."""
    lacking = {"observation_space", "action_space"} - set(metadata)
    if lacking:  # Minari would build the environment that the file names
        raise Mistake(f"{data} lacks {' and '.join(sorted(lacking))}; store it as HDF5")
    try:
        source = require_minari().MinariDataset(data)
    except ImportError as error:
        raise Mistake(f"reading {data} needs another package: {in_one_line(error)}") from error
    except (OSError, ValueError, KeyError, AssertionError, TypeError) as error:
        raise Mistake(
            f"{data} cannot be opened as a Minari dataset: {in_one_line(error)}; {remedy_for(data)}"
        ) from error
    return read_any(source, space, box, keys, remedy_for(data))


def _require_spaces(
    short: str, space: spaces.Space, box: spaces.Space, keys: tuple[str, ...] | None
) -> tuple[int, spaces.Box]:
    """The width of the observations and the box of actions; what is no such task is refused."""
    if not isinstance(box, spaces.Box):
        raise Mistake(
            f"dataset {short} has the action space {box}; only continuous actions (Box) are "
            "supported, so choose a dataset with continuous actions"
        )
    try:
        return flatten_space(space, keys), box
    except Mistake as error:
        fitting = _fitting_keys(space) if keys is None else []
        choice = f", or choose keys: dataset.obs_keys=[{', '.join(fitting)}]" if fitting else ""
        raise Mistake(f"dataset {short}: {error}{choice}") from error


def _fitting_keys(space: spaces.Space) -> list[str]:
    """The keys of a dict space that can be flattened."""
    found = []
    for key in observation_keys(space):
        with suppress(Mistake):
            flatten_space(space, (key,))
            found.append(key)
    return found


def _cache_file(data: Path, short: str, keys: tuple[str, ...] | None) -> Path:
    digest = hashlib.sha256(repr((CACHE_VERSION, str(data.resolve()), keys)).encode())
    for file in sorted(data.rglob("*")):
        if file.is_file():
            status = file.stat()
            entry = (file.relative_to(data).as_posix(), status.st_size, status.st_mtime_ns)
            digest.update(repr(entry).encode())
    name = f"{short.replace('/', '-')}-{digest.hexdigest()[:16]}.npz"
    return cache_root() / "minari" / name


def _spec(
    short: str,
    metadata: Mapping[str, Any],
    obs_dim: int,
    box: spaces.Box,
    task: Task,
    physics: str,
    keys: tuple[str, ...] | None,
) -> Spec:
    low = tuple(box.low.astype(float).ravel().tolist())
    high = tuple(box.high.astype(float).ravel().tolist())
    found = Spec(
        env_id=None,
        obs_dim=obs_dim,
        action_dim=len(low),
        action_low=low,
        action_high=high,
        obs_keys=keys,
    )
    if task.env_id is None:
        return replace(found, max_episode_steps=task.max_episode_steps)
    if physics == "auto":
        physics = "d4rl" if _requires_old_contacts(metadata) else "as-is"
    try:
        spec = spec_of(
            task.env_id,
            env_kwargs=task.env_kwargs,
            physics=physics,
            max_episode_steps=task.max_episode_steps,
            obs_keys=keys,
            wrappers=task.wrappers,
        )
    except Mistake as error:
        raise Mistake(f"{error}; or train without scores: dataset.env_id=null") from error
    found.require_same_spaces(spec, f"dataset {short}", f"environment {task.env_id}")
    if is_bounded(low, high) and not (
        np.allclose(low, spec.action_low) and np.allclose(high, spec.action_high)
    ):
        raise Mistake(
            f"dataset {short} has actions from {list(low)} to {list(high)}, but environment "
            f"{task.env_id} takes {list(spec.action_low)} to {list(spec.action_high)}; give the "
            "environment that the data were recorded in as dataset.env_id, or null for none"
        )
    return spec


def _requires_old_contacts(metadata: Mapping[str, Any]) -> bool:
    """Whether the dataset pins a MuJoCo from before 3.5, when contact margins did not add."""
    requirements = metadata.get("requirements")
    for entry in requirements if isinstance(requirements, list) else [requirements]:
        pinned = re.match(r"\s*mujoco\s*==\s*(\d+)\.(\d+)", str(entry))
        if pinned:
            return (int(pinned[1]), int(pinned[2])) < (3, 5)
    return False


def _reference(
    short: str,
    metadata: Mapping[str, Any],
    env_id: str | None,
    choice: str | Sequence[int | float] | None,
) -> Reference | None:
    if choice is None:
        return None
    if not isinstance(choice, str):
        return given_reference(choice)
    if choice == "recorded":
        low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
        if low is None or high is None:
            return None
        numbers = all(isinstance(bound, int | float) for bound in (low, high))
        if not numbers or not -math.inf < low < high < math.inf:
            raise Mistake(
                f"dataset {short}: its metadata have the reference scores {low!r} and {high!r}, "
                "expected numbers, the first the lower; set dataset.reference=null or [low,high]"
            )
        return replace(given_reference([low, high]), source=f"metadata of {short}")
    if choice == "d4rl":
        family = D4RL_FAMILIES.get(env_id or "")
        constants = reference_for(f"{family}-medium-v2")
        if constants is None:
            raise Mistake(
                f"D4RL has no constants for {env_id}; use dataset.reference=null, recorded or "
                "[low,high]"
            )
        return replace(constants, source="D4RL-constants (the data are not D4RL's)")
    raise Mistake(f"reference={choice!r} is unknown; use recorded, d4rl, [low,high] or null")
