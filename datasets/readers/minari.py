"""Minari datasets, local or remote, flattened once and cached as plain arrays.

Minari's own readers cost about a millisecond an episode and its arrow and parquet formats
silently cut long episodes, so HDF5 is read at h5py's low level, everything is counted, and the
flat float32 columns are kept for the next time.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from gymnasium import spaces

from reverie.datasets.build import LowAndHigh, build, given_reference
from reverie.datasets.cache import cache_root, cached_arrays
from reverie.datasets.dataset import Dataset
from reverie.datasets.names import local_id, short_name
from reverie.datasets.readers.columns import in_one_line
from reverie.datasets.readers.minari_episodes import AGAIN, Arrays, read_any, read_hdf5
from reverie.datasets.subset import Subset
from reverie.envs import extras
from reverie.envs.make import spec_of
from reverie.envs.observations import flatten_space
from reverie.envs.reference import reference_for
from reverie.envs.specs import Reference, Spec
from reverie.mistake import Mistake, writing

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
    physics: str,
    obs_keys: Sequence[str] | None,
    reference: str | LowAndHigh | None,
    clip_actions: bool,
    subset: Subset | None = None,
) -> Dataset:
    """Read a Minari dataset; all rows are kept, since every episode stores its last observation.

    Args:
        name: short name, None to use the id with dashes for slashes.
        id: `namespace/.../name-vN`, a remote such as `hf://farama-minari/` may precede it.
        path: root folder of local datasets; None for MINARI_DATASETS_PATH or Minari's default.
        download: fetch a dataset that is not there.
        env_id: `recorded` for the environment that the dataset names (for evaluation, else the
            one it was recorded in), an exact Gymnasium id, or None for no scores.
        env_kwargs: options for the environment, on top of the recorded ones.
        physics: `d4rl` undoes the contact change of MuJoCo 3.5, `as-is` does not, `auto` does if
            the dataset requires an older MuJoCo.
        obs_keys: keys of dict observations in order, None for the standard order.
        reference: `recorded` for the scores in the dataset's metadata, `d4rl` for the constants of
            D4RL's datasets for the same task (which these data are not), two returns, or None.
        clip_actions: clip actions outside the box instead of refusing them.
        subset: which whole episodes to keep, see `datasets.subset.choose_episodes`; None for all.

    Raises:
        Mistake: the dataset is not there and may not be fetched; it cannot be fetched; bad id,
            damaged data, unsupported spaces, spaces other than the environment's; the environment
            cannot be created; Minari is not installed.
    """
    require_minari()
    short = local_id(id)
    root = dataset_root(path)
    data = _locate(root, id, short, download)
    metadata, source = _open(data)
    space, box = source.observation_space, source.action_space
    keys = None if obs_keys is None else tuple(obs_keys)
    obs_dim = _require_spaces(short, space, box, keys)

    def read() -> Arrays:
        log.info("flattening %s for the cache (the next time is faster)", short)
        main = data / "main_data.hdf5"
        if main.exists():
            return read_hdf5(main, metadata, space, box, keys)
        return read_any(source, space, box, keys)

    arrays = cached_arrays(_cache_file(data, short, keys), read)
    lengths = arrays["lengths"]
    if int(lengths.sum()) != metadata["total_steps"]:
        raise Mistake(
            f"dataset {short}: {int(lengths.sum()):,} steps were read, its metadata says "
            f"{metadata['total_steps']:,}; {AGAIN}"
        )
    # Observations have one row more than actions in each episode.
    rows = np.arange(int(lengths.sum())) + np.repeat(np.arange(len(lengths)), lengths)
    ends = np.zeros(len(rows), dtype=bool)
    ends[np.cumsum(lengths) - 1] = True
    spec = _spec(short, metadata, obs_dim, box, env_id, env_kwargs, physics, keys)
    return build(
        name=short_name(name=name, id=id),
        spec=spec,
        obs=arrays["observations"][rows],
        action=arrays["actions"],
        reward=arrays["rewards"],
        terminated=arrays["terminations"],
        truncated=arrays["truncations"],
        next_obs=arrays["observations"][rows + 1],
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
    )


def require_minari(wanted_by: str = "dataset=minari") -> Any:
    """The package, imported at its first use.

    Raises:
        Mistake: it is not installed.
    """
    return extras.require("minari", "minari", wanted_by)


def dataset_root(path: str | None) -> Path:
    """Root folder of local datasets: the given one, MINARI_DATASETS_PATH, or Minari's default."""
    chosen = path or os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets"
    return Path(chosen).expanduser()


def require_id(id: str) -> None:
    """Refuse what is no id of a Minari dataset; a remote may precede it.

    Raises:
        Mistake: the id is malformed.
    """
    if not re.fullmatch(r"(?:[-\w]{2,}/)*[-\w]+-v\d+", local_id(id)):
        raise Mistake(
            f"Minari id {id!r} is malformed; it must read namespace/name-vN, with its version, "
            "e.g. mujoco/hopper/medium-v0"
        )


@contextlib.contextmanager
def root_set_to(root: Path) -> Iterator[None]:
    """Let Minari work in this root; the environment is the only way to tell it."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


def _locate(root: Path, id: str, short: str, download: bool) -> Path:
    """The folder with the dataset's files, fetched if need be."""
    require_id(id)
    data = root / short / "data"
    if (data / "metadata.json").exists():
        return data
    if not download:
        there = ", ".join(_local_ids(root)) or "none"
        raise Mistake(
            f"Minari dataset {short} is not in {root} (found there: {there}); correct dataset.id, "
            "give another root as dataset.path, or set dataset.download=true"
        )
    lock = cache_root() / "minari" / f"{short.replace('/', '-')}.lock"
    with writing(lock, "point the environment variable REVERIE_CACHE to a folder of yours"):
        lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        if not (data / "metadata.json").exists():
            _download(root, id, short)
    if not (data / "metadata.json").exists():
        raise Mistake(
            f"Minari fetched {short} but {data} holds no metadata.json; delete that folder and try "
            "again"
        )
    return data


def _download(root: Path, id: str, short: str) -> None:
    log.info("fetching %s from Minari's remote to %s", id, root)
    try:
        with root_set_to(root), contextlib.redirect_stdout(io.StringIO()):
            # What an interrupted download left behind would otherwise count as the dataset.
            require_minari().download_dataset(id, force_download=(root / short).exists())
    # Minari lets through whatever its remote's client raises, which need not be installed here.
    except Exception as error:
        there = ", ".join(_local_ids(root)) or "none"
        raise Mistake(
            f"Minari dataset {short} is not in {root} (found there: {there}) and cannot be "
            f"fetched: {in_one_line(error)}; correct dataset.id, connect to the network, or give "
            "a root that holds it as dataset.path"
        ) from error


def _local_ids(root: Path) -> list[str]:
    found = []
    for folder, children, _ in os.walk(root):
        if "data" in children:
            found.append(Path(folder).relative_to(root).as_posix())
            children.clear()  # nothing of interest below, and arrow has a folder an episode
        children[:] = [child for child in children if not child.startswith(".")]  # half-written
    return sorted(found)


def _open(data: Path) -> tuple[dict[str, Any], Any]:
    """Metadata and Minari's own view of a dataset (spaces, iteration)."""
    try:
        metadata = json.loads((data / "metadata.json").read_text())
        # Minari derives what is missing here, but these it cannot do without.
        for key in ("total_steps", "total_episodes", "minari_version", "dataset_id"):
            if key not in metadata:
                raise ValueError(f"metadata.json lacks {key}")
        return metadata, require_minari().MinariDataset(data)
    except ImportError as error:
        raise Mistake(f"reading {data} needs another package: {in_one_line(error)}") from error
    except (OSError, ValueError, KeyError, AssertionError, TypeError) as error:
        raise Mistake(
            f"{data} cannot be opened as a Minari dataset: {in_one_line(error)}; {AGAIN}"
        ) from error


def _require_spaces(
    short: str, space: spaces.Space, box: spaces.Space, keys: tuple[str, ...] | None
) -> int:
    """Refuse what is not a flat continuous task; returns the width of the observations."""
    if not isinstance(box, spaces.Box):
        raise Mistake(
            f"dataset {short} has the action space {box}; only continuous actions (Box) are "
            "supported, so choose a dataset with continuous actions"
        )
    try:
        return flatten_space(space, keys)
    except Mistake as error:
        raise Mistake(f"dataset {short}: {error}") from error


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
    env_id: str | None,
    env_kwargs: Mapping[str, object],
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
    options, limit = dict(env_kwargs), None
    if env_id == "recorded":
        recorded = metadata.get("eval_env_spec") or metadata.get("env_spec")
        if not recorded:
            raise Mistake(
                f"dataset {short} names no environment; give its Gymnasium id as dataset.env_id, "
                "or train without scores: dataset.env_id=null"
            )
        recorded = json.loads(recorded)
        env_id, limit = recorded["id"], recorded.get("max_episode_steps")
        options = {**recorded.get("kwargs", {}), **options}
        options.pop("render_mode", None)
        if recorded.get("additional_wrappers"):
            wrappers = ", ".join(str(item.get("name")) for item in recorded["additional_wrappers"])
            log.warning(
                "%s was recorded with the wrappers %s around %s, which scores do without",
                short,
                wrappers,
                env_id,
            )
    if env_id is None:
        return found
    if physics == "auto":
        physics = "d4rl" if _requires_old_contacts(metadata) else "as-is"
    try:
        spec = spec_of(
            env_id,
            env_kwargs=options,
            physics=physics,
            max_episode_steps=limit,
            obs_keys=keys,
        )
    except Mistake as error:
        raise Mistake(f"{error}; or train without scores: dataset.env_id=null") from error
    found.require_same_spaces(spec, f"dataset {short}", f"environment {env_id}")
    bounded = np.isfinite(low).all() and np.isfinite(high).all()
    if bounded and not (np.allclose(low, spec.action_low) and np.allclose(high, spec.action_high)):
        raise Mistake(
            f"dataset {short} has actions from {list(low)} to {list(high)}, but environment "
            f"{env_id} takes {list(spec.action_low)} to {list(spec.action_high)}; give the "
            "environment that the data were recorded in as dataset.env_id, or null for none"
        )
    return spec


def _requires_old_contacts(metadata: Mapping[str, Any]) -> bool:
    """Whether the dataset pins a MuJoCo from before 3.5, when contact margins did not add."""
    requirements = metadata.get("requirements") or []
    for entry in [requirements] if isinstance(requirements, str) else requirements:
        pinned = re.match(r"\s*mujoco\s*==\s*(\d+)\.(\d+)", entry)
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
