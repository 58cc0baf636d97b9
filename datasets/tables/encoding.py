"""How a text file is encoded, and whether it is one."""

import codecs
import logging
from pathlib import Path

from reverie.mistake import Mistake

log = logging.getLogger(__name__)

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CHUNK = 2**20
_ARCHIVES = {
    b"\x1f\x8b": "a gzip archive",
    b"PK\x03\x04": "a zip archive or an .xlsx file",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\0": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"PAR1": "a .parquet file",
    b"ARROW1": "a .feather file",
    b"\x89HDF\r\n": "an HDF5 file",
    b"\xd0\xcf\x11\xe0": "an .xls file",
    b"%PDF": "a PDF",
    b"[{": "a JSON file",
    b"{": "a JSON file",
}
"""How files begin that are no text, whatever they are called."""


def choose_encoding(path: Path, encoding: str | None) -> str:
    """The encoding of a text file: as its mark says, as it is given, or as its bytes fit.

    Raises:
        Mistake: it is no text, an encoding that Python does not know, UTF-16 without a mark.
    """
    _require_text(path)
    return _known(path, encoding) or _find_encoding(path)


def _require_text(path: Path) -> None:
    with path.open("rb") as file:
        begin = file.read(8).lstrip()
    for mark, what in _ARCHIVES.items():
        if begin.startswith(mark):
            raise Mistake(
                f"{path} is {what} and no text; unpack it, give it the suffix of what it is, or "
                "save the table as .csv"
            )


def _known(path: Path, encoding: str | None) -> str | None:
    """The encoding that is given, if Python knows it as one of text."""
    if encoding is None:
        return None
    try:
        "a".encode(encoding)
    except (LookupError, UnicodeError, TypeError, ValueError) as error:
        raise Mistake(
            f"dataset.encoding={encoding} is no encoding of text; utf-8, cp1252, latin-1 and "
            "utf-16 are some"
        ) from error
    with path.open("rb") as file:
        marked = _marked(file.read(4))
    if marked is None:
        return encoding
    if codecs.lookup(encoding).name not in _same_text(marked):
        log.warning(
            "%s begins with the mark of %s, so it is read as that and not as dataset.encoding=%s",
            path,
            marked.removesuffix("-sig"),
            encoding,
        )
    return marked  # by which the mark is no part of the first name


def _marked(begin: bytes) -> str | None:
    """The encoding that a mark at the beginning tells, None without a mark."""
    return next((name for mark, name in _MARKS if begin.startswith(mark)), None)


def _same_text(marked: str) -> tuple[str, ...]:
    """Other names of a marked encoding, as Python spells them."""
    plain = marked.removesuffix("-sig")
    return plain, marked, f"{plain}-le", f"{plain}-be"


def _find_encoding(path: Path) -> str:
    """As the mark at the beginning says; else UTF-8 where that fits, else that of Windows."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        begin = file.read(_CHUNK)
        marked = _marked(begin)
        if marked is not None:
            return marked
        if b"\0" in begin[:2]:
            order = "utf-16-le" if begin[1:2] == b"\0" else "utf-16-be"
            raise Mistake(
                f"{path} holds zero bytes, so it is no text in UTF-8; set dataset.encoding={order} "
                "if it is text in UTF-16 without a mark, else save it as .csv again"
            )
        try:
            while begin:
                decoder.decode(begin)
                begin = file.read(_CHUNK)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            log.warning(
                "%s is not text in UTF-8, so it is read as cp1252, which Windows writes in western "
                "Europe and America; dataset.encoding says otherwise",
                path,
            )
            return "cp1252"
    return "utf-8"
