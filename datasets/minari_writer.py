"""Writes Minari datasets that are either complete or absent.

Minari creates a dataset in place and drops reference scores in some cases, so each is made in a
hidden folder of the root, which Minari does not list, and renamed when it is complete.
"""

import copy
import hashlib
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from reverie.datasets.cache import alone, cache_root
from reverie.datasets.readers.columns import in_one_line
from reverie.datasets.readers.minari_files import (
    dataset_root,
    require_id,
    require_minari,
    root_set_to,
)
from reverie.datasets.recording import Arrays
from reverie.envs.make import make_raw_env
from reverie.envs.specs import Reference, Spec
from reverie.mistake import Mistake, Unwritable, writing

PROVENANCE = "provenance"
"""Key of a dataset's metadata for what we say of its making."""
_OURS = {"run", "kind", "dataset", "settings"}
"""What a collection always says there; others may use the same key for words of their own."""
_FILES = {"data", "data/metadata.json", "data/main_data.hdf5"}
"""What Minari writes in the folder of a dataset."""


def root_of(path: str | None) -> Path:
    """The root folder of datasets, absolute, for Minari joins a relative one to itself.

    Args:
        path: as the reader's: None for MINARI_DATASETS_PATH or Minari's default.

    Raises:
        Mistake: Minari is not installed.
    """
    require_minari("collect")
    return dataset_root(path).absolute()


def require_writable(root: Path) -> None:
    """Refuse a root folder that nothing can be written to; it is made if need be."""
    with writing(root, "give another folder with path=... or MINARI_DATASETS_PATH"):
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass


def provenance_of(root: Path, id: str) -> Mapping[str, Any] | None:
    """What a collection says of its dataset, empty if another made it; None if there is none.

    Raises:
        Mistake: the id is malformed.
    """
    require_id(id)
    if not (root / id).exists():
        return None
    try:
        metadata = json.loads((root / id / "data" / "metadata.json").read_text())
    except (OSError, ValueError):
        return {}
    found = metadata.get(PROVENANCE) if isinstance(metadata, dict) else None
    return found if isinstance(found, dict) and found.keys() >= _OURS else {}


def require_made_here(root: Path, id: str) -> None:
    """Refuse a dataset that exists and was not written by `write` for a collection.

    Raises:
        Mistake: names it.
    """
    found = provenance_of(root, id)
    if found == {}:
        raise Mistake(
            f"dataset {id} in {root} was not made by this command, so it is left alone; give "
            "another namespace=... or path=..."
        )


def require_removable(root: Path, id: str) -> None:
    """Refuse to delete a dataset of another origin, or one to which somebody added files.

    Raises:
        Mistake: names the dataset or the file.
    """
    require_made_here(root, id)
    folder = root / id
    added = sorted({str(path.relative_to(folder)) for path in folder.rglob("*")} - _FILES)
    if added:
        raise Mistake(
            f"{folder / added[0]} is no file of a dataset, so overwrite=true leaves {id} alone; "
            "move that file elsewhere"
        )


def remove(root: Path, id: str) -> None:
    """Delete a dataset, if there is one; at no moment is there a half of it.

    Raises:
        Mistake: see `require_removable`.
    """
    require_removable(root, id)
    if (root / id).exists():
        with _hidden(root, id) as folder, suppress(FileNotFoundError):  # removed meanwhile
            os.rename(root / id, folder / "old")


def remove_abandoned(root: Path, id: str) -> None:
    """Delete what a killed process left of making or removing a dataset."""
    with alone(_claim(root, id)):
        shutil.rmtree(_hidden_folder(root, id), ignore_errors=True)


def write(
    root: Path,
    id: str,
    arrays: Arrays,
    *,
    spec: Spec,
    reference: Reference,
    algorithm: str,
    description: str,
    requirements: list[str],
    provenance: Mapping[str, Any],
    licence: str | None = None,
) -> None:
    """Write recorded columns as a Minari dataset of this id.

    Observations are stored as the flat float32 vectors that agents see, actions in the units of
    the environment.

    Args:
        root: from `root_of`.
        arrays: columns as `datasets.recording.record_episodes` gives them; an episode also ends
            wherever the next observation is not the following row's.
        spec: of the task.
        reference: the returns that score 0 and 100.
        algorithm, description, requirements: Minari's fields of these meanings.
        provenance: plain values, how the dataset came about.
        licence: of the data; None leaves it out.

    Raises:
        Mistake: the disk is full, or there is such a dataset already.
    """
    require_id(id)
    with _hidden(root, id) as folder:
        if (root / id).exists():
            raise Mistake(
                f"dataset {id} came to be in {root} meanwhile, so it is left alone; give another "
                "namespace=..., or replace it with overwrite=true"
            )
        try:
            _create(folder, id, arrays, spec, algorithm, description, requirements)
            # Through Minari's own argument they would be lost without an environment.
            require_minari().MinariDataset(folder / id / "data").storage.update_metadata(
                {
                    "ref_min_score": reference.low,
                    "ref_max_score": reference.high,
                    PROVENANCE: dict(provenance),
                    **({} if licence is None else {"license": licence}),
                }
            )
            (root / id).parent.mkdir(parents=True, exist_ok=True)
            _keep_namespaces(folder, root, id)
            os.rename(folder / id, root / id)
        except (OSError, RuntimeError) as error:
            reason = _refusal(error)
            if reason is None:
                raise
            raise Unwritable(
                f"could not write dataset {id} to {root}: {reason}; free some disk space, or give "
                "another folder with path=..., then run the same command again"
            ) from error


def _refusal(error: OSError | RuntimeError) -> str | None:
    """What the operating system said, None of an error that comes from elsewhere.

    HDF5 passes it on as text, and as RuntimeError where a file is closed.
    """
    told = re.search(r"error message = '([^']*)'", str(error))
    if told:
        return told[1]
    return (error.strerror or in_one_line(error)) if isinstance(error, OSError) else None


def episode_ends(arrays: Arrays, limit: int | None) -> np.ndarray:
    """`[N]` bool, the last row of each episode.

    An episode ends at a termination, a truncation, the last row, where the next observation is not
    the following row's, and after `limit` steps, should a reset lead to where an episode ended.
    """
    ends = arrays["terminated"] | arrays["truncated"]
    ends[:-1] |= (arrays["next_obs"][:-1] != arrays["obs"][1:]).any(1)
    ends[-1] = True
    if limit is not None:
        steps = 0
        for row, ended in enumerate(ends.tolist()):
            steps += 1
            if ended or steps == limit:
                ends[row], steps = True, 0
    return ends


def _create(
    folder: Path,
    id: str,
    arrays: Arrays,
    spec: Spec,
    algorithm: str,
    description: str,
    requirements: list[str],
) -> None:
    minari = require_minari()
    ends = np.flatnonzero(episode_ends(arrays, spec.max_episode_steps)) + 1
    buffers = []
    for begin, end in pairwise([0, *ends]):
        terminated = arrays["terminated"][begin:end]
        truncated = np.zeros_like(terminated)
        truncated[-1] = not terminated[-1]  # the end of the recording cuts an episode too
        buffers.append(
            minari.data_collector.EpisodeBuffer(
                observations=np.append(
                    arrays["obs"][begin:end], arrays["next_obs"][end - 1 : end], axis=0
                ),
                actions=arrays["action"][begin:end],
                rewards=arrays["reward"][begin:end],
                terminations=terminated,
                truncations=truncated,
            )
        )
    low, high = np.array(spec.action_low), np.array(spec.action_high)
    with warnings.catch_warnings(), root_set_to(folder):
        # About fields that we leave empty, and versions of tasks that Gymnasium calls old.
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            id,
            buffers,
            env=_environment(spec),
            observation_space=spaces.Box(-np.inf, np.inf, (spec.obs_dim,), np.float32),
            action_space=spaces.Box(low.astype(np.float32), high.astype(np.float32)),
            algorithm_name=algorithm,
            description=description,
            requirements=requirements,
            data_format="hdf5",
        )


def _environment(spec: Spec) -> EnvSpec:
    """Gymnasium's own record of a task, by the id under which it can be made again."""
    env = make_raw_env(spec)
    found = copy.deepcopy(env.spec)
    env.close()
    assert found is not None and spec.env_id is not None  # it was made by its id
    found.id = spec.env_id  # with the module that registers it
    found.additional_wrappers = ()
    maker: Any = found.entry_point
    if callable(maker):  # which cannot be written down
        found.entry_point = f"{maker.__module__}:{maker.__qualname__}"
    return found


@contextmanager
def _hidden(root: Path, id: str) -> Iterator[Path]:
    """A folder that neither Minari nor our reader lists; what a killed process left there goes.

    Another process that makes or removes the same dataset waits.
    """
    folder = _hidden_folder(root, id)
    with alone(_claim(root, id)):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _claim(root: Path, id: str) -> Path:
    """Known to all processes with one cache, outside of the user's root."""
    digest = hashlib.sha256(str((root / id).resolve()).encode()).hexdigest()[:16]
    return cache_root() / "minari" / f"writing-{digest}"


def _hidden_folder(root: Path, id: str) -> Path:
    return root / f".reverie-{id.replace('/', '-')}"


def _keep_namespaces(folder: Path, root: Path, id: str) -> None:
    """Copy the files that Minari describes namespaces by, where the root has none."""
    for parent in Path(id).parents:
        file = folder / parent / "namespace_metadata.json"
        target = root / parent / file.name
        if file.is_file() and not target.exists():
            shutil.copyfile(file, target)
