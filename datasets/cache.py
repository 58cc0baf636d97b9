"""Where generated and downloaded files live, and arrays that are made once and read ever after."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np
from filelock import FileLock

from reverie.mistake import Mistake, writing
from reverie.sealed import require_whole, seal
from reverie.temporary import remove_abandoned, replacing

log = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]

_chosen: ContextVar[Path | None] = ContextVar("chosen", default=None)


@contextmanager
def cache_at(folder: Path | str | None) -> Iterator[None]:
    """Let `cache_root` be another folder while the block runs; None leaves it as it is."""
    before = _chosen.set(_chosen.get() if folder is None else Path(folder).expanduser())
    try:
        yield
    finally:
        _chosen.reset(before)


_REMEDY = (
    "free some space there or point the environment variable REVERIE_CACHE to a folder that can be "
    "written"
)


def cache_root() -> Path:
    """Folder of everything this platform makes for itself; not created here.

    What `cache_at` says, else the environment variable REVERIE_CACHE, else `~/.cache/reverie`.
    """
    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    return Path(os.environ.get("REVERIE_CACHE") or "~/.cache/reverie").expanduser()


def cached_arrays(path: Path, make: Callable[[], Mapping[str, np.ndarray]]) -> Arrays:
    """Named arrays stored in the `.npz` file at `path`; `make` provides them the first time.

    Of several processes that ask at once one makes the file and the others wait for it. A file
    that is not what was written (cut short by a crash of the machine, a flipped bit) is made
    again, with a warning.

    Raises:
        Mistake: the file cannot be written or read; the message names it and the remedy.
    """
    stored = _read(path)
    if stored is not None:
        return stored
    with alone(path):
        stored = _read(path)
        if stored is None:
            stored = dict(make())
            save_arrays(path, stored)
    return stored


def cached_text(path: Path, make: Callable[[], str]) -> Path:
    """A text file at `path`, which `make` provides the first time; others wait for it meanwhile.

    It is the user's to look at and to copy, and is read as it stands, changed or not.

    Raises:
        Mistake: the file cannot be written; the message names it and the remedy.
    """
    if path.exists():
        return path
    with alone(path):
        if not path.exists():
            text = make()
            with writing(path, _REMEDY), replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
    return path


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let no other process make the file at `path` while the block runs."""
    lock = FileLock(f"{path}.lock")
    with writing(path, _REMEDY):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an uncompressed `.npz` so that readers see the whole file or none."""
    with writing(path, _REMEDY), replacing(path) as temporary, temporary.open("w+b") as file:
        np.savez(file, allow_pickle=False, **arrays)
        seal(file)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> Arrays | None:
    try:
        require_whole(path)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Mistake(
            f"cached file {path} cannot be read: {error.strerror or error}; make it readable, or "
            "point the environment variable REVERIE_CACHE to another folder"
        ) from error
    except ValueError as error:  # of one that was never ours too
        log.warning("cached file %s cannot be read (%s); making it again", path, error)
        return None
