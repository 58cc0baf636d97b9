"""Keeps memory freed by a training step in the process, because the next step needs it again."""

import ctypes
import os
import sys

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # of glibc's mallopt
LARGEST = 256 * 2**20
"""Bytes of the largest block that is kept."""
KEPT = 512 * 2**20
"""Bytes at the end of the heap that stay with the process though nothing uses them."""
_OF_USER = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Tell the C library so; returns whether it listens, which only glibc does.

    It gives large blocks back to the system as soon as they are free, and the system fills every
    page with zeros before it hands it out again: in updates with large batches, many critics or
    many seeds a fifth of all time. Nothing happens where the user has chosen an allocator or set
    its thresholds by environment variables.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _OF_USER):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST) and mallopt(TRIM_THRESHOLD, KEPT))
