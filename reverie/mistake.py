"""The error that every layer raises where a user can mend what is wrong."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOM = "free some disk space, or choose a folder that can be written"
_FOR_ROOM = re.compile(r"free some (disk )?space( there)?,? or ")
"""What a remedy begins with, and what helps nobody whose path is wrong."""
_MAKE = "make the folder {} first"


class Mistake(ValueError):
    """Something in the settings, data, files, machine or numbers of a run that a user can mend.

    Its message says what was found, what was expected and what to do; the commands print it as one
    line. Every other exception is a defect, of the program or of a new method, and shows its
    traceback.
    """


class Unwritable(Mistake):
    """A file or folder could not be written: the fault of the machine, and none of a run."""


@contextmanager
def writing(path: Path, remedy: str | None = None) -> Iterator[None]:
    """Let what the operating system refuses while the block writes be a mistake.

    Args:
        path: the file or folder that is written.
        remedy: what to do; end of the message. None for room, or for the folder that is missing.

    Raises:
        Unwritable: names the path and the reason.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        if isinstance(error, FileExistsError | NotADirectoryError) and (file := _file_at(path)):
            named = "it" if file == path else file
            reason = f"{named} is a file and no folder"
            remedy = _FOR_ROOM.sub("", remedy or "name a folder instead")
        elif remedy is None:
            missing = isinstance(error, FileNotFoundError) and not path.parent.exists()
            remedy = _MAKE.format(path.parent) if missing else _ROOM
        raise Unwritable(f"could not write {path}: {reason}; {remedy}") from error


def _file_at(path: Path) -> Path | None:
    """What lies at a path, or above it, where only folders can."""
    above = (path, *path.parents)
    return next((each for each in above if os.path.lexists(each) and not each.is_dir()), None)
