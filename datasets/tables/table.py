"""A logged table: named columns of equal length, from a file or a DataFrame."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from reverie.datasets.readers.columns import in_one_line, listed
from reverie.datasets.tables.files import read_frame, require_different
from reverie.mistake import Mistake
from reverie.text import one_line

_UNIT = re.compile(r"\s*[\[(]([^\[\]()]*)[\])]\s*$")
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Table:
    """Rows of a log.

    Attributes:
        source: where it comes from, for messages.
        columns: `[N]` each, by full name, as they were stored.
    """

    source: str
    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def take(self, rows: np.ndarray) -> "Table":
        """The table of these rows: their numbers, or a mask."""
        return Table(self.source, {name: column[rows] for name, column in self.columns.items()})

    def find(self, name: str) -> str | None:
        """The column of this full name, or else of this name without its unit; None for none.

        Raises:
            Mistake: several columns differ in the unit alone.
        """
        if name in self.columns:
            return name
        found = [each for each in self.columns if bare(each) == name]
        if len(found) > 1:
            raise Mistake(
                f"{self.source}: {name} could be {' or '.join(found)}; give the whole name"
            )
        return found[0] if found else None

    def near(self, name: str) -> str:
        """What to say of a name that no column has: near ones, or all."""
        known = {bare(each): each for each in self.columns} | {each: each for each in self.columns}
        close = difflib.get_close_matches(name, known, 3, cutoff=0.5)
        if close:
            return f"did you mean {' or '.join(dict.fromkeys(known[each] for each in close))}?"
        return f"it has {listed(self.columns)}"

    def numbers(self, name: str) -> np.ndarray:
        """A column as float64, NaN where an entry is missing.

        Raises:
            Mistake: it holds text.
        """
        column = self.columns[name]
        if column.dtype.kind in "fiub":
            return column.astype(np.float64)
        missing = pandas.isna(column)
        found = pandas.to_numeric(pandas.Series(column, dtype=object), errors="coerce")
        values = found.to_numpy(np.float64, na_value=np.nan)
        text = np.isnan(values) & ~missing
        if text.any() or column.dtype.kind == "M":
            row = int(np.argmax(text))
            raise Mistake(
                f"{self.source}: {name} holds {one_line(str(column[row]), 40)!r} in row {row}, "
                "where a number was expected; leave the cell empty if the value is missing, or "
                "name other columns in dataset.columns"
            )
        return values

    def seconds(self, name: str) -> np.ndarray:
        """A column of times as float64: numbers as they are, dates in seconds since the first.

        Raises:
            Mistake: it holds text that is no date.
        """
        column = self.columns[name]
        if column.dtype.kind in "fiu":
            return column.astype(np.float64)
        try:
            dates = pandas.to_datetime(pandas.Series(column), utc=True, format="ISO8601")
        except (ValueError, TypeError) as error:
            raise Mistake(
                f"{self.source}: {name} holds neither numbers nor dates such as "
                f"2026-01-31T12:00:00 ({one_line(in_one_line(error), 120)}); convert them, or set "
                "dataset.columns.time=[] if it is no time"
            ) from error
        return (dates - dates.min()).dt.total_seconds().to_numpy(np.float64)


def bare(name: str) -> str:
    """A name without its unit: `level` for `level [cm]` and `level (cm)`."""
    return _UNIT.sub("", name) or name


def unit_of(name: str) -> str:
    """The unit behind a name, empty where there is none."""
    found = _UNIT.search(name)
    return found[1].strip() if found and found.start() else ""


def read_table(path: Path) -> Table:
    """A table in a file, whose suffix says which kind.

    `.csv`, `.tsv`: text with one line of names, and as many cells in every other line; separated by
    commas, semicolons, tabs or bars, as the first line says; decimal commas are understood where no
    comma separates. `.parquet`, `.feather`: of Arrow; every column counts, an index with a name
    too.

    Raises:
        Mistake: no such file, another suffix, damaged, a name that stands twice, no rows, more than
            `files.MOST_COLUMNS` columns or than the memory holds; pyarrow is missing.
    """
    return from_frame(read_frame(path), str(path))


def from_frame(frame: Any, source: str) -> Table:
    """The columns of a pandas or polars DataFrame; levels of an index that have names are columns.

    Raises:
        Mistake: a name that stands twice, no rows.
    """
    levels = [name for name in getattr(getattr(frame, "index", None), "names", ()) if name]
    names = [one_line(str(name), _LONGEST_NAME) for name in (*levels, *frame.columns)]
    require_different(names, source)
    held = [
        *(frame.index.get_level_values(level) for level in levels),
        *(frame[key] for key in frame.columns),
    ]
    columns = {
        name: np.asarray(column.to_numpy()) for name, column in zip(names, held, strict=True)
    }
    table = Table(source, columns)
    if not len(table):
        raise Mistake(f"{source} has no rows; check that it is the right table")
    return table
