"""A logged table: named columns of equal length, from a file or a DataFrame."""

import csv
import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from reverie.datasets.names import UNIT, bare
from reverie.datasets.readers.columns import in_one_line, listed, require_file
from reverie.envs import extras
from reverie.mistake import Mistake
from reverie.text import one_line

_DELIMITERS = ";\t|,"
_LONGEST_NAME = 200
# What readers of binary tables raise for files that are damaged or something else; pyarrow's own
# errors are ValueError, OSError and NotImplementedError too.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, NotImplementedError, OverflowError)


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


def unit_of(name: str) -> str:
    """The unit behind a name, empty where there is none."""
    found = UNIT.search(name)
    return found[1].strip() if found and found.start() else ""


def read_table(path: Path) -> Table:
    """A table in a file, whose suffix says which kind.

    `.csv`, `.tsv`: text with one line of names; separated by commas, semicolons, tabs or bars, as
    the first line says; decimal commas are understood where no comma separates. `.parquet`,
    `.feather`: of Arrow.

    Raises:
        Mistake: no such file, another suffix, damaged, a name that stands twice, no rows; pyarrow
            is missing.
    """
    require_file(path)
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        frame = _read_text(path)
    elif suffix in (".parquet", ".feather"):
        extras.require("pyarrow", "tables", f"dataset.path={path}")
        read = pandas.read_parquet if suffix == ".parquet" else pandas.read_feather
        try:
            frame = read(path)
        except _UNREADABLE as error:
            raise Mistake(
                f"{path} cannot be read as {suffix[1:]} ({one_line(in_one_line(error), 200)}); "
                "write it again, or save it as .csv"
            ) from error
    else:
        raise Mistake(
            f"{path} has the suffix {path.suffix!r}, expected .csv, .tsv, .parquet or .feather; "
            "save the table as one of these"
        )
    return from_frame(frame, str(path))


def from_frame(frame: Any, source: str) -> Table:
    """The columns of a pandas or polars DataFrame.

    Raises:
        Mistake: a name that stands twice, no rows.
    """
    names = [one_line(str(name), _LONGEST_NAME) for name in frame.columns]
    _require_different(names, source)
    columns = {
        name: np.asarray(frame[key].to_numpy())
        for name, key in zip(names, frame.columns, strict=True)
    }
    table = Table(source, columns)
    if not len(table):
        raise Mistake(f"{source} has no rows; check that it is the right table")
    return table


def _read_text(path: Path) -> pandas.DataFrame:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first, second = file.readline(), file.readline()
        delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(first)
        # pandas would give a second column of the same name another one.
        names = next(csv.reader([first], delimiter=delimiter), [])
        _require_different([name.strip() for name in names], str(path))
        comma = delimiter != "," and "," in second and "." not in second
        return pandas.read_csv(
            path,
            sep=delimiter,
            decimal="," if comma else ".",
            encoding="utf-8-sig",
            low_memory=False,
            index_col=False,
        )
    except Mistake:
        raise
    except UnicodeDecodeError as error:
        raise Mistake(f"{path} is not text in UTF-8 ({error.reason}); save it as UTF-8") from error
    except (OSError, ValueError, csv.Error, MemoryError, OverflowError) as error:
        raise Mistake(
            f"{path} cannot be read as a table ({one_line(in_one_line(error), 200)}); its first "
            "line must name the columns, and every other line must have as many cells"
        ) from error


def _delimiter(line: str) -> str:
    """What separates the names in the first line."""
    outside = re.sub(r'"[^"]*"', "", line)
    return max(_DELIMITERS, key=outside.count)


def _require_different(names: Sequence[str], source: str) -> None:
    if not names or all(not name for name in names):
        raise Mistake(f"{source} has no named columns; its first line must name them")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise Mistake(
            f"{source}: the column {twice[0]!r} stands {names.count(twice[0])} times; rename or "
            "remove all but one"
        )
