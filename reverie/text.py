"""Text that somebody else may have written, made harmless to show."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


def printable(text: str) -> str:
    """Text in which what controls a terminal, hides or reorders is spelt out; lines stay lines."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode()
        for each in text.replace("\t", " ")
    )


def one_line(text: str, longest: int = 2000) -> str:
    """Printable text on one line, cut where it is endless."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= longest else f"{line[:longest]}..."


def counted(count: int, noun: str) -> str:
    """`1 row`, `2 rows`, `1,000 rows`, `2 entries`."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else many}"


def near(name: str, known: Iterable[str], most: int = 3, cutoff: float = 0.6) -> list[str]:
    """Known names that one may have meant, nearest first, whatever their case, `-` and `_`."""
    by_plain: dict[str, list[str]] = {}
    for each in known:
        by_plain.setdefault(_plain(each), []).append(each)
    same = [_plain(name)] if _plain(name) in by_plain else []
    close = same or difflib.get_close_matches(_plain(name), by_plain, most, cutoff)
    return [each for match in close for each in by_plain[match]][:most]


def _plain(name: str) -> str:
    return name.casefold().replace("-", "_")


def all_printable(value: Any) -> Any:
    """Nested plain values of which every text, keys included, is printable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(key): all_printable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [all_printable(each) for each in value]
    return value
