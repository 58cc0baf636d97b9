"""One thing that a check found."""

from typing import NamedTuple


class Finding(NamedTuple):
    """A line for people.

    Attributes:
        poisons: training would be wrong for sure; otherwise the data may be right.
        text: what was found, why it matters, what to do.
    """

    poisons: bool
    text: str


def problem(text: str) -> Finding:
    """What would poison training."""
    return Finding(True, text)


def warning(text: str) -> Finding:
    """What a user should know but may be right."""
    return Finding(False, text)
