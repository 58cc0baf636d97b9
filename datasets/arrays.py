"""Arrays of as many rows as a dataset has: in memory, or on disk while a block says so.

All code that makes such arrays asks `new_array` for them and fills them some rows at a time, so
that reading a dataset takes about as much memory as the dataset, and on disk hardly any.
"""

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np

from reverie.datasets.cache import REMEDY
from reverie.mistake import writing

AT_A_TIME = 2**22
"""Bytes that are worked on together: few beside a dataset, many beside the cost of a call."""

_folder: ContextVar[Path | None] = ContextVar("folder", default=None)


@contextmanager
def on_disk(folder: Path) -> Iterator[None]:
    """Let `new_array` put arrays into files of this folder, which exists, while the block runs."""
    before = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(before)


def are_on_disk() -> bool:
    """Whether new arrays lie on disk."""
    return _folder.get() is not None


def new_array(shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """An array to be filled; its file, where it has one, has no name and goes with the array.

    Raises:
        Unwritable: the disk has no room for it.
    """
    if not are_on_disk():
        return np.empty(shape, dtype)
    descriptor = new_file(shape, dtype)
    try:
        return array_in(descriptor, shape, dtype)
    finally:
        os.close(descriptor)


def new_file(shape: tuple[int, ...], dtype: np.dtype | type) -> int:
    """A file without a name that holds such an array: on disk inside `on_disk`, else in memory.

    Two processes that have the number see the same array. The caller closes it.

    Raises:
        Unwritable: the disk has no room for it.
    """
    size = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
    folder = _folder.get()
    if folder is None and hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("reverie")
        os.ftruncate(descriptor, size)
        return descriptor
    with writing(folder or Path(tempfile.gettempdir()), REMEDY):
        descriptor, path = tempfile.mkstemp(dir=folder)
        os.unlink(path)
        try:
            # A full disk is an error here; where the room were only promised, it would be a crash.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
            else:
                os.ftruncate(descriptor, size)
        except OSError:
            os.close(descriptor)
            raise
    return descriptor


def array_in(descriptor: int, shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """The array of `new_file`, which stays when the file is closed."""
    count = int(np.prod(shape))
    memory = mmap.mmap(descriptor, max(1, count * np.dtype(dtype).itemsize))
    return np.frombuffer(memory, dtype, count).reshape(shape)


def stretches(rows: int, row_bytes: int) -> Iterator[slice]:
    """All rows, as many at a time as make `AT_A_TIME` bytes."""
    step = max(1, AT_A_TIME // max(1, row_bytes))
    for first in range(0, rows, step):
        yield slice(first, min(first + step, rows))


def stretches_of(array: np.ndarray) -> Iterator[slice]:
    """All rows of an array, some at a time."""
    return stretches(len(array), array.nbytes // max(1, len(array)))


def own(array: np.ndarray, dtype: type, *, given: bool) -> np.ndarray:
    """An array of a type, contiguous and free to be changed.

    Args:
        given: whether the array may be kept and changed, where it is as wanted; else it is copied.
    """
    flags = array.flags
    if given and array.dtype == dtype and flags.c_contiguous and flags.writeable:
        return array
    copy = new_array(array.shape, dtype)
    for part in stretches_of(copy):
        copy[part] = array[part]
    return copy


def keep_rows(array: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """The rows that a mask `[N]` keeps, in the array's own memory."""
    count = 0
    for part in stretches_of(array):
        kept = array[part][keep[part]]  # a copy, from behind where it goes or from there
        array[count : count + len(kept)] = kept
        count += len(kept)
    return array[:count]


def take_rows(array: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """The rows that a mask `[N]` keeps, in a new array."""
    taken = new_array((int(keep.sum()), *array.shape[1:]), array.dtype)
    count = 0
    for part in stretches_of(array):
        kept = array[part][keep[part]]
        taken[count : count + len(kept)] = kept
        count += len(kept)
    return taken
