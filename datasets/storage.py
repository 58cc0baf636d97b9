"""Storage of a dataset: in memory, or on disk, from where batches are gathered.

On disk they are one uncompressed file in the cache, mapped into memory: the system reads the pages
that are asked for, and drops them again where memory is short. Nearly all code works as it is; what
copies all rows says so by `require_memory`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from reverie.datasets.arrays import on_disk
from reverie.datasets.cache import Arrays, cache_root, cached_arrays
from reverie.datasets.dataset import Dataset
from reverie.datasets.places import Places
from reverie.datasets.transition import Transition
from reverie.envs.specs import Reference, Spec
from reverie.mistake import Mistake
from reverie.paths import expanded

Storage = Literal["memory", "memmap"]
FOLDER = "rows"
"""Of the cache."""
# Raise it whenever readers make other rows of the same file, or the stored form changes.
VERSION = 2
_COLUMNS = ("obs", "action", "reward", "next_obs", "terminated")
_MASKS = ("truncated", "valid_next", "episode_starts")


def read_into(
    storage: Storage | None, read: Callable[[], Dataset], settings: Mapping[str, Any]
) -> Dataset:
    """A dataset with its rows where they are wanted; None for in memory.

    Args:
        read: gives the dataset.
        settings: of its reader, all of them, with its name as `_target_`.

    Raises:
        Mistake: as `keep_on_disk`.
    """
    if storage != "memmap":
        return read()
    return keep_on_disk(read, settings, _find_sources(settings))


def find_newer(settings: Mapping[str, Any], than: Path) -> Path | None:
    """The file that a dataset is read from, if it was written after another; else None.

    Or its folder, in which a file came or went since.

    Args:
        settings: of its reader, all of them, with its name as `_target_`.
        than: the other file.
    """
    try:
        written = than.stat().st_mtime
        sources = _find_sources(settings)
        folder = expanded(settings.get("path") or "")
        if settings.get("path") and sources and folder.is_dir():
            sources = [*sources, folder]  # older files may be put there, and none tells of one less
        return next((each for each in sources if each.stat().st_mtime > written), None)
    except (OSError, Mistake):  # they may be gone: what is finished does not need them
        return None


def _find_sources(settings: Mapping[str, Any]) -> list[Path]:
    module = import_module(settings["_target_"].rpartition(".")[0])  # a reader's
    find = getattr(module, "source_of", None)  # which those that read files have
    found: Path | list[Path] = [] if find is None else find(settings)
    return [found] if isinstance(found, Path) else found


def keep_on_disk(
    read: Callable[[], Dataset], settings: Mapping[str, Any], sources: Sequence[Path]
) -> Dataset:
    """A dataset whose rows lie on disk, converted where the cache does not hold it yet.

    A conversion that is interrupted leaves nothing that counts, and is done again; so is one whose
    source or settings have changed since, or whose file is not what was written.

    Args:
        read: gives the dataset.
        settings: of its reader, all of them.
        sources: files or folders that it reads, none for what depends on its settings alone.

    Raises:
        Mistake: the cache cannot be written or has no room; or as `read`.
    """
    folder = cache_root() / FOLDER

    def make() -> Arrays:
        with on_disk(folder):
            return _as_arrays(read())

    if not all(source.exists() for source in sources):
        read()  # which fetches it, or says what is wrong
    path = folder / f"{settings['name']}-{_key(settings, sources)}.npz"
    return _as_dataset(cached_arrays(path, make, mapped=True))


def require_memory(data: Dataset, copies: float, what: str) -> None:
    """Refuse what copies all rows of a dataset on disk into memory where they do not fit.

    Args:
        copies: of the rows that are held at once.
        what: needs them, for the message.

    Raises:
        Mistake: as above.
    """
    free = free_memory()
    if not data.mapped or free is None:
        return
    needed = copies * sum(column.nbytes for column in vars(data.transitions).values())
    if needed > free:
        raise Mistake(
            f"{what} holds all rows of {data.name} in memory, about {needed / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free; learn it from a part, "
            f"dataset.subset.fraction={max(0.9 * free / needed, 0.001):.1g}, or use a machine with "
            "more memory"
        )


def free_memory() -> int | None:
    """Bytes that the system could still give, None where it does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvail"))
    except (OSError, StopIteration, ValueError):
        return None


def _key(settings: Mapping[str, Any], sources: Sequence[Path]) -> str:
    """What the stored rows depend on: the settings, and the files as they are now."""
    digest = hashlib.sha256(repr((VERSION, sorted(settings.items()))).encode())
    for source in sources:
        files = [source] if source.is_file() else sorted(source.rglob("*"))
        for file in files:
            if file.is_file():
                status = file.stat()
                entry = (str(file.resolve()), status.st_size, status.st_mtime_ns)
                digest.update(repr(entry).encode())
    return digest.hexdigest()[:16]


def _as_arrays(data: Dataset) -> Arrays:
    facts = {
        "name": data.name,
        "spec": asdict(data.spec),
        "reference": None if data.reference is None else asdict(data.reference),
        "origin": dict(data.origin),
        "fingerprint": data.fingerprint,
    }
    arrays = {name: getattr(data.transitions, name).numpy() for name in _COLUMNS}
    arrays |= {name: getattr(data, name).numpy() for name in _MASKS}
    if data.action_missing is not None:
        arrays["action_missing"] = data.action_missing.numpy()
    if data.places is not None:
        arrays["places"] = data.places.rows
    if data.dt is not None:
        arrays["dt"] = data.dt.numpy()
    return {"facts": np.frombuffer(json.dumps(facts).encode(), np.uint8), **arrays}


def _as_dataset(arrays: Arrays) -> Dataset:
    facts = json.loads(arrays["facts"].tobytes())
    plain: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in facts["spec"].items()
    }
    columns = {name: torch.from_numpy(arrays[name]) for name in _COLUMNS}
    masks: dict[str, Any] = {name: torch.from_numpy(arrays[name]) for name in _MASKS}
    data = Dataset(
        name=facts["name"],
        spec=Spec(**plain),
        transitions=Transition(
            **columns, is_real=torch.ones(1, dtype=torch.bool).expand(len(arrays["reward"]))
        ),
        **masks,
        reference=None if facts["reference"] is None else Reference(**facts["reference"]),
        origin=facts["origin"],
        places=Places(arrays["places"]) if "places" in arrays else None,
        dt=torch.from_numpy(arrays["dt"]) if "dt" in arrays else None,
        action_missing=(
            torch.from_numpy(arrays["action_missing"]) if "action_missing" in arrays else None
        ),
        mapped=True,
    )
    # The file is what was written, so the digest is that of these rows, and no second pass is due.
    vars(data)["fingerprint"] = facts["fingerprint"]
    return data
