"""Where generated and downloaded files live, and arrays that are made once and read ever after."""

import logging
import math
import mmap
import os
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np
from filelock import FileLock

from reverie.mistake import Mistake, writing
from reverie.paths import expanded
from reverie.sealed import require_whole, seal
from reverie.temporary import remove_abandoned, replacing

log = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]

_chosen: ContextVar[Path | None] = ContextVar("chosen", default=None)


@contextmanager
def cache_at(folder: Path | str | None) -> Iterator[None]:
    """Let `cache_root` be another folder while the block runs; None leaves it as it is."""
    before = _chosen.set(_chosen.get() if folder is None else expanded(folder))
    try:
        yield
    finally:
        _chosen.reset(before)


_HEADER = 30 + 20 + 4
"""Bytes of a zip archive before an array, besides its name and the padding."""
_PADDING = 0xD935
"""The mark of what only fills, as Android's zipalign has it."""
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0  # of mmap, which Python 3.11 does not name

REMEDY = (
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
    return expanded(os.environ.get("REVERIE_CACHE") or "~/.cache/reverie", "REVERIE_CACHE")


def cached_arrays(
    path: Path, make: Callable[[], Mapping[str, np.ndarray]], *, mapped: bool = False
) -> Arrays:
    """Named arrays stored in the `.npz` file at `path`; `make` provides them the first time.

    Of several processes that ask at once one makes the file and the others wait for it. A file
    that is not what was written (cut short by a crash of the machine, a flipped bit) is made
    again, with a warning.

    Args:
        mapped: let the arrays stay in the file, of which the system reads what is asked for. What
            is changed in them is not written.

    Raises:
        Mistake: the file cannot be written or read; the message names it and the remedy.
    """
    stored = _read(path, mapped)
    if stored is not None:
        return stored
    with alone(path):
        stored = _read(path, mapped)
        if stored is None:
            stored = dict(make())
            save_arrays(path, stored)
            if mapped:
                stored = _mapped(path)
    return stored


def cached_text(path: Path, make: Callable[[], str]) -> Path:
    """A text file at `path`, which `make` provides the first time; others wait for it meanwhile.

    It is the user's to look at and to copy, and is read as it stands, changed or not.

    Raises:
        Mistake: the file cannot be written; the message names it and the remedy.
    """
    with writing(path, REMEDY):  # it may lie in a folder that is closed
        there = path.exists()
    if there:
        return path
    with alone(path):
        if not path.exists():
            text = make()
            with writing(path, REMEDY), replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
    return path


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let no other process make the file at `path` while the block runs."""
    lock = FileLock(f"{path}.lock")
    with writing(path, REMEDY):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an uncompressed `.npz` so that readers see the whole file or none."""
    with writing(path, REMEDY), replacing(path) as temporary, temporary.open("w+b") as file:
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                info = zipfile.ZipInfo(f"{name}.npy")
                # What follows begins at a multiple of 64 bytes, as arrays that are mapped must.
                used = file.tell() + _HEADER + len(info.filename)
                info.extra = struct.pack("<HH", _PADDING, -used % 64) + bytes(-used % 64)
                with archive.open(info, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
        seal(file)
        file.flush()
        os.fsync(file.fileno())


def _mapped(path: Path) -> Arrays:
    """The arrays in a whole file, where they are."""
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        # Changes stay here, and no memory is set aside for them.
        memory = (
            mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE | _NO_RESERVE)
            if hasattr(mmap, "MAP_PRIVATE")
            else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        )
        arrays = {}
        for info in archive.infolist():
            file.seek(info.header_offset + 26)
            file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            array = np.frombuffer(memory, dtype, math.prod(shape), file.tell())
            arrays[info.filename.removesuffix(".npy")] = array.reshape(shape)
    return arrays


def _read(path: Path, mapped: bool) -> Arrays | None:
    try:
        require_whole(path)
        if mapped:
            return _mapped(path)
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
