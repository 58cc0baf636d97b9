"""Text that somebody else may have written, made harmless to show."""

from collections.abc import Mapping
from typing import Any


def printable(text: str) -> str:
    """Text in which what controls a terminal, hides or reorders is spelt out; lines stay lines."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode()
        for each in text.replace("\t", " ")
    )


def counted(number: int, word: str) -> str:
    """`1 step`, `2 steps`; of words that take an s."""
    return f"{number:,} {word}{'s' * (number != 1)}"


def one_line(text: str, longest: int = 2000) -> str:
    """Printable text on one line, cut where it is endless."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= longest else f"{line[:longest]}..."


def all_printable(value: Any) -> Any:
    """Nested plain values of which every text, keys included, is printable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(key): all_printable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [all_printable(each) for each in value]
    return value
