"""Positions of rows in their source, for messages."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np


@dataclass(frozen=True)
class Places:
    """Positions of rows in their source.

    Attributes:
        rows: `[N]` number of each row in the source, from 0.
        lines: for a text file: gives the first line `[M]`, from 1, of each of its M rows; None for
            what has no lines. It may read the file again, so it is asked for messages only.
    """

    rows: np.ndarray
    lines: Callable[[], np.ndarray] | None = None

    def take(self, chosen: np.ndarray) -> "Places":
        """The places of these rows: their numbers, or a mask."""
        return replace(self, rows=self.rows[chosen])

    def at(self, row: int) -> str:
        """`line 7`, or `row 5 (counted from 0)`."""
        number = int(self.rows[row])
        if self.lines is None:
            return f"row {number:,} (counted from 0)"
        return f"line {self._line(number):,}"

    def between(self, first: int, last: int) -> str:
        """`lines 7 to 12`, or `rows 5 to 10 (counted from 0)`."""
        numbers = [int(self.rows[row]) for row in (first, last)]
        if self.lines is None:
            return f"rows {numbers[0]:,} to {numbers[1]:,} (counted from 0)"
        begin, end = (self._line(number) for number in numbers)
        return f"lines {begin:,} to {end:,}"

    def _line(self, number: int) -> int:
        assert self.lines is not None
        lines = self.lines()
        # A file that has shrunk since tells nothing any more.
        return int(lines[min(number, len(lines) - 1)]) if len(lines) else number + 2


@dataclass(frozen=True)
class JoinedPlaces(Places):
    """Positions of rows in several sources, one after another.

    Attributes:
        rows: `[N]` number of each row in all of them together, from 0.
        parts: name and places of each source.
    """

    parts: Sequence[tuple[str, Places]] = ()

    def at(self, row: int) -> str:
        """`line 7 of monday.csv`."""
        name, places, within = self._part(row)
        return f"{places.at(within)} of {name}"

    def between(self, first: int, last: int) -> str:
        """`lines 7 to 12 of monday.csv`, or `line 7 of monday.csv to line 3 of tuesday.csv`."""
        (name, places, begin), (_, others, end) = self._part(first), self._part(last)
        if places is others:
            return f"{places.between(begin, end)} of {name}"
        return f"{self.at(first)} to {self.at(last)}"

    def _part(self, row: int) -> tuple[str, Places, int]:
        number = int(self.rows[row])
        starts = [0, *accumulate(len(places.rows) for _, places in self.parts)]
        part = bisect_right(starts, number) - 1
        return (*self.parts[part], number - starts[part])
