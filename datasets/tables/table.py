"""A logged table: named columns of equal length, from a file or a DataFrame."""

import datetime
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from reverie.datasets.names import UNIT, bare
from reverie.datasets.places import Places
from reverie.datasets.readers.columns import ARROW_FILES, TEXT_FILES, listed, require_file
from reverie.datasets.tables.arrow import read_arrow
from reverie.datasets.tables.cells import (
    DECIMALS,
    Decimal,
    Numbers,
    as_missing,
    marking_numbers,
    parse_numbers,
    split_unit,
    take_unit,
)
from reverie.datasets.tables.dates import (
    DAY_FIRST,
    MONTH_FIRST,
    Unread,
    parse_compact,
    parse_dates,
)
from reverie.datasets.tables.text import Lines, NoRows, read_text, require_different
from reverie.mistake import Mistake
from reverie.text import near, one_line

log = logging.getLogger(__name__)

LONGEST_NAME = 200
_LONGEST_CELL = 40
_REMEDIES = {
    **dict.fromkeys((".hdf5", ".h5", ".npz"), "choose dataset=file"),
    **dict.fromkeys((".gz", ".zip", ".bz2", ".xz", ".zst", ".7z", ".tar"), "unpack it first"),
    **dict.fromkeys(
        (".xlsx", ".xls", ".xlsm", ".ods"),
        "save the sheet as .csv, or give reverie.datasets.load what pandas.read_excel returns",
    ),
}
_REMEDY = "save the table as one of these, or give reverie.datasets.load a DataFrame of it"
TIME, EPISODE = "time", "episode"
"""What the levels of an index are called that have no names."""


@dataclass(frozen=True)
class Writing:
    """How a table writes its cells, `conf/dataset/table.yaml`; None to find it out.

    Attributes:
        encoding: of a text file, such as utf-8, cp1252 or utf-16.
        decimal: `.` or `,`; the other one then separates thousands.
        date_format: `day-first`, `month-first`, or a format of `strptime`.
        missing: texts and numbers that mark missing values, besides `cells.MISSING`.
    """

    encoding: str | None = None
    decimal: Decimal | None = None
    date_format: str | None = None
    missing: Sequence[str | int | float] = ()


@dataclass(frozen=True)
class Table:
    """Rows of a log.

    Attributes:
        source: where it comes from, for messages.
        columns: `[N]` each, by full name, as they were stored.
        places: positions of the rows in the source.
        writing: how cells are written.
        usual: the decimal mark that the columns together show, None for none.
        index: what the columns that were the index of a DataFrame are, by name: `time`, `episode`,
            or empty where only their name can tell.
        files: `[N]` number of the file of each row; None for what comes from one.
        zoned: columns of dates that had a time zone, and are in UTC.
    """

    source: str
    columns: Mapping[str, np.ndarray]
    places: Places
    writing: Writing = field(default_factory=Writing)
    usual: Decimal | None = None
    index: Mapping[str, str] = field(default_factory=dict)
    files: np.ndarray | None = None
    zoned: frozenset[str] = frozenset()
    # Asked for several times, and slow to find for texts.
    _found: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def take(self, rows: np.ndarray) -> "Table":
        """The table of these rows: their numbers, or a mask."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        files = None if self.files is None else self.files[rows]
        return replace(self, columns=columns, places=self.places.take(rows), files=files)

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
        close = near(name, known, cutoff=0.5)
        if close:
            return f"did you mean {' or '.join(dict.fromkeys(known[each] for each in close))}?"
        return f"it has {listed(self.columns)}"

    def is_numeric(self, name: str) -> bool:
        """Whether a column holds numbers, or more of them than texts that are none."""
        column = self.columns[name]
        if column.dtype.kind in "fiub":
            return True
        found = self._parsed(name) if column.dtype.kind in "OUT" else None
        return found is not None and int(np.isfinite(found.values).sum()) > int(found.text.sum())

    def is_empty(self, name: str) -> bool:
        """Whether a column holds nothing in any row."""
        return bool(pandas.isna(self.columns[name]).all())

    def numbers(self, name: str) -> np.ndarray:
        """A column as float64, durations in seconds, NaN where an entry is missing.

        Raises:
            Mistake: it holds text or dates, or numbers that can be read in two ways.
        """
        values = self._numbers(name)
        marks = marking_numbers(self.writing.missing)
        return np.where(np.isin(values, marks), np.nan, values) if marks else values

    def _numbers(self, name: str) -> np.ndarray:
        """As `numbers`, with numbers that mark missing values."""
        column = self.columns[name]
        if column.dtype.kind in "fiub":
            return column.astype(np.float64)
        if column.dtype.kind == "m":
            return _since(column, np.timedelta64(1, "s"))
        if column.dtype.kind == "M":
            raise Mistake(
                f"{self.source}: {name} holds dates, where numbers belong; leave {name} out of "
                "dataset.columns, or convert it"
            )
        found = self._parsed(name)
        if found.text.any():
            row, count = int(np.argmax(found.text)), int(found.text.sum())
            more = f", and no number in {count:,} rows in all" if count > 1 else ""
            raise Mistake(
                f"{self.source}: {name} holds {self.shown(name, row)} in {self.places.at(row)}, "
                f"where a number belongs{more}; {self._remedy(name, row, found)}"
            )
        if found.unclear is not None:
            raise Mistake(self._unclear(name, found.unclear))
        return found.values

    def shown(self, name: str, row: int) -> str:
        """A cell as messages show it."""
        return one_line(repr(str(self.columns[name][row])), _LONGEST_CELL)

    def lacking(self, name: str, row: int) -> str:
        """What stands where a number is missing."""
        return one_line(as_missing(self.columns[name][row]), _LONGEST_CELL)

    def as_numbers(self, name: str) -> np.ndarray:
        """A column as float64 if it holds nothing but numbers in text, else as it was stored."""
        column = self.columns[name]
        if column.dtype.kind not in "OUT" or self.is_empty(name):
            return column
        found = self._parsed(name)
        sure = np.isfinite(found.values).any() and found.unclear is None
        return found.values if sure and not found.text.any() else column

    def _parsed(self, name: str) -> Numbers:
        if name not in self._found:
            self._found[name] = self._parse(name)
        return self._found[name]

    def _parse(self, name: str) -> Numbers:
        column = np.asarray(self.columns[name], dtype=object)
        missing = [str(each) for each in self.writing.missing]
        return parse_numbers(column, self.writing.decimal, self.usual, missing)

    def _remedy(self, name: str, row: int, found: Numbers) -> str:
        """What helps against a text: it may mean that there is no value."""
        cell = str(self.columns[name][row])
        text = one_line(cell, _LONGEST_CELL)
        if split_unit(cell) is not None:
            return (
                "it is a number with its unit: write numbers alone, or one and the same unit "
                f"behind each number of {name}"
            )
        if (
            np.isfinite(found.values).any()
            and text == cell.strip()
            and not any(each in "'\"\\$" for each in text)
            and (text[:1].isalpha() or not any(map(str.isdigit, text)))
        ):
            return f"'dataset.missing=[\"{text}\"]' takes it as missing, or leave {name} out"
        return f"leave {name} out of dataset.columns, or convert it"

    def _unclear(self, name: str, row: int) -> str:
        cell = str(self.columns[name][row]).strip()
        first, second = DECIMALS if "." in cell else DECIMALS[::-1]
        digits = cell.replace(first, "")
        return (
            f"{self.source}: {name} holds {self.shown(name, row)} in {self.places.at(row)}, which "
            f"could be {cell.replace(first, '.')} or {digits}; set 'dataset.decimal=\"{first}\"' "
            f"for the former, 'dataset.decimal=\"{second}\"' for the latter"
        )

    def seconds(self, name: str) -> np.ndarray:
        """A column of times as float64: numbers as they are, dates in seconds since the first.

        NaN where there is none, or an infinite one.

        Raises:
            Mistake: it holds text that is no date, or dates that can be read in two ways.
        """
        found = self._seconds(name)
        return np.where(np.isfinite(found), found, np.nan)

    def _seconds(self, name: str) -> np.ndarray:
        column = self.columns[name]
        if column.dtype.kind in "fiu":
            return self._counted(name, column)
        if column.dtype.kind == "m":
            return _since(column, np.timedelta64(1, "s"))
        if column.dtype.kind == "M":
            return _since(column - np.nanmin(column), np.timedelta64(1, "s"))
        numbers = self._parsed(name)
        if not numbers.text.any() and np.isfinite(numbers.values).any():
            return self._counted(name, self._numbers(name))
        if np.isfinite(numbers.values).any() and self.writing.date_format is None:
            row = int(np.argmax(np.isfinite(numbers.values)))
            raise Mistake(
                f"{self.source}: {name} holds {self.shown(name, row)} in {self.places.at(row)} and "
                f"dates such as {self.shown(name, int(np.argmax(numbers.text)))} elsewhere; write "
                "all times alike, or set dataset.columns.time=[] for none"
            )
        return self._dates(name, self.texts(name))

    def _counted(self, name: str, column: np.ndarray) -> np.ndarray:
        """`seconds` of numbers, which may be the digits of dates."""
        written = self.writing.date_format
        if written in (DAY_FIRST, MONTH_FIRST):
            raise Mistake(
                f"{self.source}: {name} holds numbers, of which dataset.date_format={written} says "
                "nothing; leave it out, or give the format of dates in digits, e.g. "
                "'dataset.date_format=\"%d%m%Y%H%M%S\"'"
            )
        if written is not None:
            return self._dates(name, _digits(column, written))
        compact = parse_compact(column)
        return column.astype(np.float64) if compact is None else compact

    def _dates(self, name: str, texts: np.ndarray) -> np.ndarray:
        found = parse_dates(texts, self.writing.date_format)
        if isinstance(found, Unread):
            raise Mistake(
                f"{self.source}: {name} holds {self.shown(name, found.row)} in "
                f"{self.places.at(found.row)}, {found.why}"
            )
        return found

    def texts(self, name: str) -> np.ndarray:
        """The cells of a column that are no numbers, None elsewhere and where there is none."""
        cells = self.columns[name].astype(object)
        cells[~self._parsed(name).text] = None  # marks of missing values
        clocks = [isinstance(each, datetime.time) for each in cells]
        cells[clocks] = [each.isoformat() for each in cells[clocks]]
        return cells

    def unit_of_time(self, name: str) -> str:
        """The unit of `seconds`: of numbers as the name says, of dates s."""
        column = self.columns[name]
        is_date = column.dtype.kind in "fiu" and parse_compact(column) is not None
        return unit_of(name) if self.is_numeric(name) and not is_date else "s"


def _digits(column: np.ndarray, written: str) -> np.ndarray:
    """Numbers as the digits of a date, with the zeros in front that a number loses."""
    width = len(pandas.Timestamp(2026, 12, 31).strftime(written))
    return np.array(
        [None if np.isnan(each) else f"{each:.0f}".zfill(width) for each in column], dtype=object
    )


def _since(column: np.ndarray, unit: np.timedelta64) -> np.ndarray:
    """Durations as float64, NaN where there is none."""
    return np.where(np.isnat(column), np.nan, column / unit)


def unit_of(name: str) -> str:
    """The unit behind a name, empty where there is none."""
    found = UNIT.search(name)
    return found[1].strip() if found and found.start() else ""


def read_table(path: Path, writing: Writing | None = None) -> Table:
    """A table in a file, whose suffix says which kind.

    `.csv`, `.tsv`, `.txt`: text with one line of names, see `tables.text`. `.parquet`, `.feather`:
    of Arrow; every column counts, an index with a name too.

    Args:
        path: the file.
        writing: how its cells are written; None to find everything out.

    Raises:
        Mistake: no such file, another suffix, damaged, a name that stands twice, no rows, more than
            `text.MOST_COLUMNS` columns or than the memory holds; pyarrow is missing.
    """
    require_file(path)
    writing = writing or Writing()
    suffix = path.suffix.lower()
    if suffix in TEXT_FILES:
        frame, layout, encoding = read_text(
            path, encoding=writing.encoding, decimal=writing.decimal
        )
        lines = Lines(path, encoding, layout.delimiter, layout.skipped)
        table = from_frame(frame, str(path), writing)
        places = replace(table.places, lines=lines)
        return replace(table, places=places, usual=layout.decimal)
    if suffix in ARROW_FILES:
        if writing.encoding is not None:
            raise Mistake(
                f"{path} is no text, so dataset.encoding={writing.encoding} would not be read; "
                "leave it out"
            )
        frame = read_arrow(path, suffix[1:])
        return from_frame(frame, str(path), writing)
    raise Mistake(
        f"{path} has the suffix {path.suffix!r}, expected .csv, .tsv, .txt, .parquet or .feather; "
        f"{_REMEDIES.get(suffix, _REMEDY)}"
    )


def from_frame(frame: Any, source: str, writing: Writing | None = None) -> Table:
    """The columns of a pandas or polars DataFrame, and of an index that has a name or holds times.

    Raises:
        Mistake: a name that stands twice, levels of an index without names, no rows.
    """
    names = [one_line(str(name), LONGEST_NAME) for name in frame.columns]
    require_different(names, source)
    columns = {name: _as_array(frame[key]) for name, key in zip(names, frame.columns, strict=True)}
    roles: dict[str, str] = {}
    if isinstance(frame, pandas.DataFrame):
        levels = _index_levels(frame.index, source)
        # A column of the same name, as `reset_index` leaves it, holds the same.
        levels = {name: level for name, level in levels.items() if name not in columns}
        roles = _index_roles(levels)
        columns = {name: _as_array(level) for name, level in levels.items()} | columns
    count = len(next(iter(columns.values()), ()))
    if not count:
        raise NoRows(f"{source} has no rows; check that it is the right table")
    zoned = frozenset(name for name, kind in zip(names, frame.dtypes, strict=True) if _zone(kind))
    places, writing = Places(np.arange(count)), writing or Writing()
    columns = _without_units(columns, source, [str(each) for each in writing.missing])
    return Table(source, columns, places, writing, index=roles, zoned=zoned)


def _without_units(
    columns: Mapping[str, np.ndarray], source: str, missing: Sequence[str]
) -> dict[str, np.ndarray]:
    """The columns with units of their cells, `1.2 cm`, in their names instead.

    Raises:
        Mistake: the name has another unit.
    """
    found: dict[str, np.ndarray] = {}
    for name, column in columns.items():
        taken = take_unit(column, missing)
        if taken is None:
            found[name] = column
            continue
        numbers, unit = taken
        said = unit_of(name)
        if said not in ("", unit):
            raise Mistake(
                f"{source}: the cells of {name} are in {unit}, and its name says {said}; correct "
                "one of them"
            )
        new = name if said or f"{name} [{unit}]" in columns else f"{name} [{unit}]"
        log.warning(
            "%s: each cell of %s has its unit, %s; it is read as %s", source, name, unit, new
        )
        found[new] = numbers
    return found


def _index_levels(index: pandas.Index, source: str) -> dict[str, pandas.Index]:
    """The levels of an index that say something, by name."""
    levels = [index.get_level_values(number) for number in range(index.nlevels)]
    vague = [level.name is None and not _is_time(level) for level in levels]
    if index.nlevels > 1 and sum(vague) > 1:
        raise Mistake(
            f"{source}: its index has {index.nlevels} levels without names; name them, e.g. "
            "frame.index.names = ['episode', 'time']"
        )
    found: dict[str, pandas.Index] = {}
    for level in levels:
        usual = TIME if _is_time(level) else EPISODE if index.nlevels > 1 else None
        name = usual if level.name is None else one_line(str(level.name), LONGEST_NAME)
        if name is None:
            continue
        if name in found:
            raise Mistake(
                f"{source}: {name} stands twice in its index; set frame.index.names to others"
            )
        found[name] = level
    return found


def _index_roles(levels: Mapping[str, pandas.Index]) -> dict[str, str]:
    """What the levels of an index are: times by what they hold, the other of two is the episode."""
    roles = {name: TIME if _is_time(level) else "" for name, level in levels.items()}
    other = [name for name, role in roles.items() if not role]
    if len(levels) == 2 and len(other) == 1:
        roles[other[0]] = EPISODE
    return roles


def _as_array(column: Any) -> np.ndarray:
    """Values of a column or of a level, `[N]`; dates of a time zone in UTC."""
    kind = getattr(column, "dtype", None)
    if _zone(kind):
        column = pandas.Series(column).dt.tz_convert("UTC").dt.tz_localize(None)
    if isinstance(kind, pandas.PeriodDtype):
        column = pandas.Series(column).dt.to_timestamp()
    values = np.asarray(column.to_numpy())
    if values.ndim > 1:  # polars gives a matrix of lists and of structures
        rows, values = values, np.empty(len(values), dtype=object)
        values[:] = list(rows)
    return values


def _zone(kind: Any) -> bool:
    return isinstance(kind, pandas.DatetimeTZDtype)


def _is_time(level: pandas.Index) -> bool:
    return isinstance(level, pandas.DatetimeIndex | pandas.TimedeltaIndex | pandas.PeriodIndex)
