"""One thing that a check found."""

from typing import NamedTuple


class Finding(NamedTuple):
    """A line for the user.

    Attributes:
        poisons: training on these data would certainly be wrong; otherwise they may be right.
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
