"""Zip archives that tell whether every bit of them is as it was written: what torch and NumPy save.

The archive's comment, which all readers pass over, is a digest of everything before it. The
checksums of the records alone say nothing of the rest, of which readers take bits for flags.
"""

import hashlib
import os
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

_MARK = b"sha256:"
_LENGTH = len(_MARK) + 64


class Damaged(ValueError):
    """A file is not what was written; the message says what is wrong with it."""


def seal(file: BinaryIO) -> None:
    """Add the digest to a zip archive without a comment, open for reading and writing."""
    file.seek(-2, os.SEEK_END)  # an archive ends with the length of its comment
    file.write(struct.pack("<H", _LENGTH))
    file.write(_MARK + _digest(file, file.tell()).encode())


def require_whole(path: Path) -> None:
    """Compare an archive with its digest; where it has none, its records with their checksums.

    Raises:
        Damaged: they differ, or it is no archive.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        length = max(file.seek(0, os.SEEK_END) - _LENGTH, 0)
        file.seek(length)
        told = file.read()
        if told.startswith(_MARK):
            if told != _MARK + _digest(file, length).encode():
                raise Damaged("its bits are not those that were written")
            return
        try:
            with zipfile.ZipFile(file) as archive:  # of an earlier version
                broken = archive.testzip()
        except Exception as error:  # of a dozen types, some of them errors of the system
            raise Damaged(" ".join(str(error).split()) or type(error).__name__) from error
    if broken is not None:
        raise Damaged(f"its record {broken} is not what was written")


def _digest(file: BinaryIO, length: int) -> str:
    """SHA-256 of the first bytes of a file, in hex; the file stands behind them then."""
    file.seek(0)
    digest = hashlib.sha256()
    while length:
        chunk = file.read(min(length, 1 << 20))
        if not chunk:
            raise Damaged("it became shorter while it was read")
        digest.update(chunk)
        length -= len(chunk)
    return digest.hexdigest()
