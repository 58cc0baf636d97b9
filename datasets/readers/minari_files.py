"""Locations, downloads and metadata of Minari datasets."""

import contextlib
import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from filelock import FileLock
from gymnasium import spaces

from reverie.datasets.cache import cache_root
from reverie.datasets.readers.columns import (
    UNREADABLE,
    in_one_line,
    listed,
    require_readable,
    unreadable,
)
from reverie.datasets.readers.rehearsal import rehearse
from reverie.envs import extras
from reverie.mistake import Mistake, writing
from reverie.paths import expanded
from reverie.text import near

log = logging.getLogger(__name__)

MAIN = "main_data.hdf5"
COUNTS = ("total_steps", "total_episodes")
NEEDED = (*COUNTS, "minari_version", "dataset_id")
REMOTE = "hf://farama-minari"
LISTING_SECONDS = 10.0
MANY = 20
"""Ids that a message lists."""


def require_minari(wanted_by: str = "dataset=minari") -> Any:
    """The package, imported at its first use.

    Raises:
        Mistake: it is not installed.
    """
    return extras.require("minari", "minari", wanted_by)


def dataset_root(path: str | None) -> Path:
    """Root folder of local datasets: the given one, MINARI_DATASETS_PATH, or Minari's default."""
    chosen = path or os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets"
    return expanded(chosen, "MINARI_DATASETS_PATH or dataset.path")


def require_id(id: str) -> None:
    """Refuse what is no id of a Minari dataset; a remote may precede it.

    Raises:
        Mistake: the id is malformed.
    """
    if not re.fullmatch(r"(?:[-\w]{2,}/)*[-\w]+-v\d+", split_id(id)[1]):
        raise Mistake(
            f"Minari id {id!r} is malformed; it must read namespace/name-vN, with its version, "
            "e.g. mujoco/hopper/medium-v0"
        )


def split_id(id: str) -> tuple[str, str]:
    """The remote, given with the id or Minari's own, and the id without it."""
    if "://" not in id:
        return os.environ.get("MINARI_REMOTE") or REMOTE, id
    kind, _, rest = id.partition("://")
    place, _, local = rest.partition("/")
    return f"{kind}://{place}", local


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


def locate(root: Path, id: str, download: bool) -> Path:
    """The folder with the dataset's files, fetched if need be.

    Raises:
        Mistake: malformed id; it is not there and may not or cannot be fetched.
    """
    require_id(id)
    _, short = split_id(id)
    data = root / short / "data"
    if _is_there(data):
        return data
    _require_root(root, short)
    if not download:
        if data.is_dir():
            raise Mistake(
                f"{data} holds no metadata.json, which every Minari dataset has; bring it back, or "
                "give another root as dataset.path"
            )
        raise Mistake(
            f"{_absent(root, short)}; correct dataset.id, give another root as dataset.path, or "
            "set dataset.download=true"
        )
    mark = _mark(data)
    with writing(mark, "point the environment variable REVERIE_CACHE to a folder of yours"):
        mark.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{mark}.lock"):
            if not _is_there(data):
                _require_offered(root, id)
                if data.is_dir() and any(data.iterdir()) and not mark.exists():
                    raise Mistake(
                        f"{data} holds files that were not fetched from here, but no metadata.json;"
                        " they are left alone: complete them, or move them away to fetch "
                        f"{short} from Minari's remote"
                    )
                mark.write_text(f"{data.resolve()}\n")
                _download(root, id)
    if not _is_there(data):
        raise Mistake(
            f"Minari fetched {short} but {data} holds no metadata.json; delete that folder and try "
            "again"
        )
    return data


def _require_root(root: Path, short: str) -> None:
    """Refuse a root that no dataset can lie in.

    Raises:
        Mistake: it is a file, or a folder of the very dataset.
    """
    above = next(
        (each for each in root.absolute().parents if _is_there(each / short / "data")), None
    )
    if above is not None:
        raise Mistake(
            f"{root} lies inside of the dataset {short}; the root is the folder above, "
            f"dataset.path={above}"
        )
    if root.exists() and not root.is_dir():
        raise Mistake(
            f"{root} is a file, where the root folder of Minari datasets was expected, which "
            "holds namespace/name-vN/data; correct dataset.path, or MINARI_DATASETS_PATH"
        )


def remedy_for(data: Path) -> str:
    """What to do about unreadable files; only those that were fetched here may be deleted."""
    if _mark(data).exists():
        return f"it was fetched from Minari's remote, so delete {data.parent} to fetch it again"
    return "restore it from a copy, or record it again"


def read_metadata(data: Path) -> dict[str, Any]:
    """What `metadata.json` says, or in the layout of Minari 0.4 the attributes of the main file.

    Raises:
        Mistake: they cannot be read, lack something, or are of a version that is not supported.
    """
    file = data / "metadata.json"
    for each in (file, data / MAIN):
        if each.exists():
            require_readable(each)
    try:
        if file.exists():
            metadata = json.loads(file.read_text())
        else:
            file = data / MAIN
            rehearse(file, partial(_attributes, file), remedy_for(data))
            metadata = _attributes(file)
    except UNREADABLE as error:
        raise Mistake(
            f"{file} cannot be opened as metadata of a Minari dataset: {in_one_line(error)}; "
            f"{remedy_for(data)}"
        ) from error
    missing = [key for key in NEEDED if not isinstance(metadata, dict) or key not in metadata]
    supported = require_minari().supported_dataset_versions
    if "minari_version" in missing and file.name == MAIN:
        metadata["minari_version"] = "before 0.4"
    elif missing:
        raise Mistake(f"{file} lacks {', '.join(missing)}; add it, or {remedy_for(data)}")
    version = str(metadata["minari_version"])
    if version not in supported:
        raise Mistake(
            f"{data} was written by Minari {version}, which the installed Minari does not support; "
            "update it (pip install -U minari), or convert the data: read the episodes of "
            f"{MAIN} with h5py and store them as .npz for dataset=file"
        )
    for key in COUNTS:
        value = metadata[key]
        if not isinstance(value, int | float) or value < 1 or value % 1:
            raise Mistake(
                f"{file}: {key} is {value!r}, expected a whole number from 1 on; correct it"
            )
    return metadata | {key: int(metadata[key]) for key in COUNTS}


def space_of(data: Path, metadata: Mapping[str, Any], key: str) -> spaces.Space | None:
    """A space that the metadata hold; None where they leave it to the environment.

    Minari would build the environment for it, and so import whatever the file names.

    Raises:
        Mistake: it cannot be read.
    """
    if key not in metadata:
        return None
    try:
        return require_minari().serialization.deserialize_space(metadata[key])
    except (ValueError, KeyError, TypeError, AssertionError, NotImplementedError) as error:
        raise Mistake(
            f"{data} has an {key} that cannot be read: {in_one_line(error)}; {remedy_for(data)}"
        ) from error


def _is_there(data: Path) -> bool:
    file = data / MAIN
    try:
        if (data / "metadata.json").exists():
            return True
    except OSError as error:  # a folder that is closed
        raise unreadable(data, error) from error
    if not file.exists():
        return False

    def is_old() -> bool:  # of Minari 0.4; later ones have a main file when they are unfinished
        with h5py.File(file, "r") as opened:
            return "total_steps" in opened.attrs

    rehearse(file, is_old, remedy_for(data))
    try:
        return is_old()
    except OSError:
        return False


def _attributes(file: Path) -> dict[str, Any]:
    with h5py.File(file, "r") as opened:
        return {key: _plain(value) for key, value in opened.attrs.items()}


def _mark(data: Path) -> Path:
    """A file that says that a folder's contents were fetched here, outside of the folder."""
    digest = hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:16]
    return cache_root() / "minari" / f"fetched-{digest}"


def _require_offered(root: Path, id: str) -> None:
    """Look once into the remote's namespace, for Minari's client retries for half a minute.

    Raises:
        Mistake: the remote cannot be reached, or has no such dataset.
    """
    remote, short = split_id(id)
    kind, _, place = remote.partition("://")
    if kind != "hf":
        return
    hub = extras.require("huggingface_hub", "minari", f"fetching {short}")
    group, _, inner = short.partition("/")
    try:
        found = hub.HfApi().dataset_info(f"{place}/{group}", timeout=LISTING_SECONDS)
        paths = [Path(file.rfilename) for file in found.siblings or []]
    except hub.errors.RepositoryNotFoundError:
        paths = []
    except Exception as error:  # whatever its client for HTTP raises
        raise _not_fetched(root, short, error) from error
    folders = [path.parent.parent for path in paths if path.match("data/metadata.json")]
    if Path(inner) in folders:
        return
    offered = [(Path(group) / folder).as_posix() for folder in folders]
    close = near(short, offered) or offered
    there = f"it has {listed(close)}" if close else f"nor anything in {group}/"
    raise Mistake(
        f"{_absent(root, short)} and {remote} does not have it, {there}; correct "
        "dataset.id (https://minari.farama.org lists them), or give a root that holds it as "
        "dataset.path"
    )


def _download(root: Path, id: str) -> None:
    _, short = split_id(id)
    log.info("fetching %s from Minari's remote to %s", id, root)
    try:
        with root_set_to(root), contextlib.redirect_stdout(io.StringIO()):
            # What an interrupted download left behind would otherwise count as the dataset.
            require_minari().download_dataset(id, force_download=(root / short).exists())
    # Minari lets through whatever its remote's client raises, which need not be installed here.
    except Exception as error:
        raise _not_fetched(root, short, error) from error


def _not_fetched(root: Path, short: str, error: Exception) -> Mistake:
    return Mistake(
        f"{_absent(root, short)} and cannot be fetched: {in_one_line(error)}; correct "
        "dataset.id, connect to the network, or give a root that holds it as dataset.path"
    )


def _absent(root: Path, short: str) -> str:
    """That a dataset is not below a root, and which are: if there are many, those like it."""
    found = []
    for folder, children, _ in os.walk(root):
        if "data" in children:
            found.append(Path(folder).relative_to(root).as_posix())
            children.clear()  # nothing of interest below, and arrow has a folder an episode
        children[:] = [child for child in children if not child.startswith(".")]  # half-written
    close = near(short, found) if len(found) > MANY else []
    there = f"{', '.join(close)} and {len(found) - len(close)} others" if close else listed(found)
    none = "none" if root.is_dir() else "there is no such folder"
    return f"Minari dataset {short} is not in {root} (found there: {there if found else none})"


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
