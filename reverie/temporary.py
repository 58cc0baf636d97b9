"""Temporary neighbours of files that are written, and what killed processes left of them."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NAME = re.compile(r"\.(?P<name>.+)\.(?P<process>\d{1,9})\.part(?:\.\w+)?", re.ASCII)


@contextmanager
def replacing(path: Path, suffix: str = "") -> Iterator[Path]:
    """A name to write to, in the same folder, which becomes `path` when the block succeeds.

    What processes that are gone left of earlier attempts at `path` is deleted.

    Args:
        path: of the file.
        suffix: end of the temporary name, for those who tell the format by it; with one, the file
            stays as it is where the block writes nothing.
    """
    remove_abandoned(path.parent, path.name)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part{suffix}")
    try:
        yield temporary
        if not suffix or temporary.exists():
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_of(name: str) -> str | None:
    """The name of the file that a temporary one was to become, None for any other file."""
    found = _NAME.fullmatch(name)
    return None if found is None else found["name"]


def remove_abandoned(folder: Path, name: str | None = None) -> None:
    """Delete temporary files of processes that are gone, all of them or those of one file."""
    with suppress(OSError):  # no such folder, or one that cannot be read or written
        for entry in list(os.scandir(folder)):
            found = _NAME.fullmatch(entry.name)
            if found is None or not entry.is_file(follow_symlinks=False):
                continue
            if name in (None, found["name"]) and is_gone(int(found["process"])):
                os.unlink(entry.path)


def is_gone(process: int) -> bool:
    """Whether no process of this machine has the number; False where that cannot be asked."""
    if os.name == "nt":  # there the question would end the process
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
