"""Tables as text: encoding, separators, and the position of names and units."""

import csv
import io
import logging
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain, count, islice
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas

from reverie.datasets.readers.columns import in_one_line
from reverie.datasets.tables.cells import (
    DECIMALS,
    Decimal,
    decimals_of,
    is_missing,
    plain,
)
from reverie.datasets.tables.encoding import choose_encoding
from reverie.mistake import Mistake
from reverie.text import counted, one_line

log = logging.getLogger(__name__)

MOST_COLUMNS = 10_000
LONGEST_LINE = 1_000_000
"""Letters of a line; what is longer has lost its line ends, or is no table."""
_DELIMITERS = ";\t|,"  # the first of those that fit equally: a comma stands in texts too
_SAMPLE = 1000  # rows that show how numbers are written
_LOOK = 20  # rows that show what separates cells
_BRACKETED = re.compile(r"[\[(]([^\[\]()]*)[\])]")
_LONGEST_UNIT = 12
_SEP = re.compile(r'"?sep=(.)"?\s*', re.I)  # a line by which Excel knows what separates cells
_TOA5 = re.compile(r'"?TOA5"?,')  # with which a line on the logger begins, in files of Campbell's


class NoRows(Mistake):
    """A table without rows."""


@dataclass(frozen=True)
class Layout:
    """How a text is written.

    Attributes:
        names: of the columns, with their units.
        header: the cells that name them, as they stand there.
        delimiter: between cells.
        skipped: lines before the first row of values.
        decimal: the mark that cells show, None where they show none or both.
        unclear: whether numbers could be read with either mark, so that each column must tell.
        unnamed: whether all rows of values have one cell more than there are names.
    """

    names: Sequence[str]
    header: Sequence[str]
    delimiter: str
    skipped: int
    decimal: Decimal | None
    unclear: bool
    unnamed: bool


def read_text(
    path: Path, *, encoding: str | None, decimal: Decimal | None
) -> tuple[pandas.DataFrame, Layout, str]:
    """A table in a text file, its layout, and its encoding.

    Columns of plain numbers are numbers, others texts as they stand there.

    Raises:
        Mistake: another encoding, no names, a name that stands twice, rows longer than the names.
    """
    encoding = choose_encoding(path, encoding)
    try:
        with _opened(path, encoding) as file:
            layout = _find_layout(path, file, decimal)
        cut = _require_cells(path, encoding, layout)
        with _opened(path, encoding) as file:
            for _ in range(layout.skipped):
                file.readline()
            with warnings.catch_warnings():
                # Of a separator behind the last cell; other cells too many are refused.
                warnings.simplefilter("ignore", pandas.errors.ParserWarning)
                frame = pandas.read_csv(
                    file,
                    sep=layout.delimiter,
                    header=None,
                    names=list(range(len(layout.names))),
                    dtype=str if layout.unclear else None,
                    decimal=decimal or layout.decimal or ".",
                    low_memory=False,
                    index_col=False,
                )
    except Mistake:
        raise
    except UnicodeError as error:
        reason = getattr(error, "reason", in_one_line(error))
        raise Mistake(
            f"{path} is not text in {encoding} ({one_line(str(reason), 100)}); set "
            "dataset.encoding=utf-8, cp1250, shift_jis, utf-16-le or the one it is in, or save it "
            "as UTF-8"
        ) from error
    except pandas.errors.EmptyDataError as error:
        raise NoRows(f"{path} has no rows; check that it is the right table") from error
    except MemoryError as error:
        raise Mistake(
            f"{path} holds more than fits into the memory; split it, or leave out columns that are "
            "not needed"
        ) from error
    except (OSError, ValueError, csv.Error, OverflowError) as error:
        raise Mistake(
            f"{path} cannot be read as a table ({one_line(in_one_line(error), 200)}); its first "
            "line must name the columns, and every other line must have as many cells"
        ) from error
    if cut is not None:
        log.warning("%s: line %d is left out, as the file ends within it", path, cut)
        frame = frame.iloc[:-1]
    frame.columns = pandas.Index(layout.names)
    empty = [name for name in layout.names if _is_nameless(name) and frame[name].isna().all()]
    return frame.drop(columns=empty), layout, encoding


@dataclass(frozen=True)
class Lines:
    """The first line, from 1, of each row of a text file; it is read when that is asked."""

    path: Path
    encoding: str
    delimiter: str
    skipped: int

    def __call__(self) -> np.ndarray:
        return _count_lines(self)


@cache
def _count_lines(lines: Lines) -> np.ndarray:
    try:
        with _opened(lines.path, lines.encoding) as file:
            for _ in range(lines.skipped):
                file.readline()
            rows = _records(file, lines.delimiter)
            return np.fromiter((lines.skipped + line for line, _ in rows), np.int64)
    except (OSError, UnicodeError, csv.Error):
        return np.empty(0, np.int64)


@contextmanager
def _opened(path: Path, encoding: str) -> Iterator[io.TextIOWrapper]:
    with path.open(newline="", encoding=encoding) as file:
        yield file


def _lines(file: TextIO) -> Iterator[str]:
    """Lines of a text.

    Raises:
        ValueError: one is too long, or holds a NUL, at which pandas would end a cell.
    """
    for number in count(1):
        line = file.readline(LONGEST_LINE + 1)
        if not line:
            return
        if len(line) > LONGEST_LINE:
            raise ValueError(f"line {number} has more than {LONGEST_LINE:,} letters")
        if "\0" in line:
            raise ValueError(f"line {number} holds a NUL, which is no text")
        yield line


def _records(
    file: Iterable[str], delimiter: str, strict: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, with the line in which each begins, from 1.

    Args:
        strict: raise csv.Error at a stray quote, or one that is never closed.
    """
    reader = csv.reader(file, delimiter=delimiter, strict=strict)
    line = 1
    for cells in reader:
        if len(cells) > 1 or (cells and cells[0].strip()):
            yield line, cells
        line = reader.line_num + 1


def _find_layout(path: Path, file: io.TextIOWrapper, decimal: Decimal | None) -> Layout:
    """How the text is written, by its first rows."""
    lines = _lines(file)
    begin = next(lines, "")
    said = _SEP.fullmatch(begin)
    skipped = 1 if said or _TOA5.match(begin) else 0
    head = "".join(islice(lines if skipped else chain([begin], lines), _SAMPLE))
    if said:
        delimiter = said[1]
    else:
        tabs = path.suffix.lower() == ".tsv" and "\t" in head
        delimiter = "\t" if tabs else _find_delimiter(head)
    rows = list(_records(io.StringIO(head, newline=""), delimiter))
    if not rows:
        raise NoRows(f"{path} has no named columns; its first line must name them")
    line, cells = rows[0]
    names = _without_mark([" ".join(each.replace("\ufeff", "").split()) for each in cells])
    _require_separated(path, names, rows[1:])
    if all(len(name) > 1 and name[0] == name[-1] == "'" for name in names):
        raise Mistake(
            f"{path}: line {skipped + line} names its columns in single quotes ({names[0]}), which "
            "are a part of each cell to CSV; write double quotes, or none"
        )
    numbers = all(map(_is_number, names))
    if numbers and not (all(map(_is_whole, names)) and len(set(names)) == len(names)):
        raise Mistake(
            f"{path}: line {skipped + line} holds numbers, where the columns must be named; add a "
            "line of names"
        )
    # pandas would give a second column of the same name another one.
    require_different([name for name in names if name] or names, str(path))
    values = rows[1:]
    cells_below = [each for _, each in values]
    units, below = _units(names, cells_below), 1
    if units is None and _units(names, cells_below[1:]) is not None:  # mean or sample, for example
        units, below = _units(names, [cells_below[0], *cells_below[2:]]), 2
    last = rows[0]
    if units is not None:
        last, values, first = values[below - 1], values[below:], values[0]
        names = [_with_unit(name, unit) for name, unit in zip(names, units, strict=True)]
        log.warning(
            "%s: line %d is read as the units of the columns (%s)",
            path,
            skipped + first[0],
            one_line(", ".join(unit for unit in units if unit), 200),
        )
        if below > 1:
            log.warning("%s: line %d, texts below units, is left out", path, skipped + last[0])
    # The row ends where the next one may begin.
    ends = next((n - 1 for n, _ in rows if n > last[0]), last[0])
    found, unclear = _find_decimal(delimiter, [each for _, each in values])
    named = [name or f"Unnamed: {index}" for index, name in enumerate(names)]
    unclear = unclear and decimal is None
    # A row may hold the same numbers. Where files were joined, each may begin with a mark.
    header = [] if numbers else [cell.replace("\ufeff", "") for cell in cells]
    unnamed = all(len(each) == len(names) + 1 for _, each in values)
    return Layout(named, header, delimiter, skipped + ends, decimal or found, unclear, unnamed)


def _without_mark(names: list[str]) -> list[str]:
    """The names without the mark of a comment before the first, as numpy.savetxt writes it."""
    if sum(name.startswith("#") for name in names) == 1:
        names[0] = names[0].removeprefix("#").strip() or names[0]
    return names


def _require_separated(
    path: Path, names: Sequence[str], rows: Sequence[tuple[int, list[str]]]
) -> None:
    """Refuse names and numbers that spaces separate, which nobody can tell from spaces in names."""
    numbers = rows[0][1][0].split() if len(names) == 1 and rows and rows[0][1] else []
    if len(numbers) > 1 and len(names[0].split()) > 1 and all(map(_is_number, numbers)):
        raise Mistake(
            f"{path} has spaces between its cells; save it with commas, semicolons or tabs there"
        )
    if len(names) == 1 and rows and all(len(cells) == 1 for _, cells in rows):
        raise Mistake(
            f"{path} has one column, {one_line(names[0], 100)!r}; save it with commas, semicolons, "
            "tabs or bars between its cells, and with columns for observations and actions"
        )


def _find_delimiter(head: str) -> str:
    """What separates as many names as there are cells in the rows below."""
    best, chosen = 0.0, ","
    for delimiter in _DELIMITERS:
        rows = _records(io.StringIO(head, newline=""), delimiter)
        try:
            counts = [len(cells) for _, cells in islice(rows, _LOOK)]
        except csv.Error:
            continue
        if not counts or counts[0] < 2:
            continue
        fits = float(np.mean([count == counts[0] for count in counts]))
        # Three of four: units, or a line that was cut, may stand among them.
        fits = 1.0 if fits > 0.75 else fits
        if fits > best:
            best, chosen = fits, delimiter
    return chosen


def _units(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str] | None:
    """The units in the row below the names; None where that row holds values."""
    if len(rows) < 2 or any(each.strip() for each in rows[0][len(names) :]):
        return None
    cells = [each.strip() for each in rows[0]] + [""] * (len(names) - len(rows[0]))
    cells = cells[: len(names)]  # a separator may stand behind the last one
    said = [cell for cell in cells if cell]
    bracketed = [_BRACKETED.fullmatch(cell) for cell in cells]
    pairs = list(zip(cells, bracketed, strict=True))
    units = [found[1].strip() if found else cell for cell, found in pairs]
    if any(bracketed) and all(found or cell in ("", "-") for cell, found in pairs):
        return units
    # Without brackets: short texts above numbers, that are no mark of a missing value.
    below = rows[1]
    above = [cell for cell, value in zip(cells, below, strict=False) if _is_number(value)]
    texts = [cell for cell in above if cell]
    if (
        texts
        and not any(map(_is_number, said))
        and all(len(cell) <= _LONGEST_UNIT for cell in said)
        and all(cell == "-" or not is_missing(cell) for cell in said)
        and any(cell != "-" for cell in texts)
        and 2 * len(texts) >= len(above)
    ):
        return units
    return None


def _with_unit(name: str, unit: str) -> str:
    return f"{name} [{unit}]" if name and unit and not _BRACKETED.search(name) else name


def _is_nameless(name: str) -> bool:
    return name.startswith("Unnamed: ")


def _is_whole(cell: str) -> bool:
    return re.fullmatch(r"[+-]?\d+", cell.strip()) is not None


def _is_number(cell: str) -> bool:
    cell = plain(cell)
    return _is_whole(cell) or bool(decimals_of(cell))


def _find_decimal(delimiter: str, rows: Sequence[Sequence[str]]) -> tuple[Decimal | None, bool]:
    """The decimal mark, None where cells show none or both; and whether columns must tell."""
    sure: set[Decimal] = set()
    either = False
    for cells in rows:
        for cell in cells:
            found: Collection[Decimal] = decimals_of(plain(cell))
            sure |= set(found) if len(found) == 1 else set()
            either = either or len(found) > 1
    if len(sure) == 1:
        return next(iter(sure)), False
    if not sure and delimiter == ",":
        return DECIMALS[0], False  # a comma that separates is rarely a decimal one too
    return None, either or len(sure) > 1


def _require_cells(path: Path, encoding: str, layout: Layout) -> int | None:
    """Refuse a row of other cells than there are names, before pandas fills or cuts it, and names.

    A separator may stand behind the last cell of every line.

    Returns:
        The last line where it is not complete, because a logger writes it just now.
    """
    width, named = None, len(layout.names)
    with _opened(path, encoding) as file:
        lines = _lines(file)
        for _ in range(layout.skipped):
            next(lines)
        for line, cells in _records(lines, layout.delimiter, strict=True):
            if width is None:
                width = named + (len(cells) == named + 1 and not cells[-1].strip())
            if [cell.replace("\ufeff", "") for cell in cells] == layout.header:
                raise Mistake(
                    f"{path}: line {layout.skipped + line} names the columns again; remove it, or "
                    "if files were joined there, give them apart, by a folder as dataset.path"
                )
            if len(cells) == width and not "".join(cells[named:]).strip():
                continue
            if len(cells) < named and width and next(lines, None) is None and not _is_ended(path):
                return layout.skipped + line
            halves = len(cells) == 2 * named or any(map(_is_whole, cells[named:]))
            hint = "; are decimal commas in a file that commas separate?" if halves else ""
            remedy = "repair that line, or save the table with semicolons between cells"
            if width is not None and len(cells) > width and not any(map(_is_number, cells)):
                hint, remedy = "", "if it names the columns, delete the lines above it"
            if len(cells) == named + 1 and layout.unnamed:
                hint, remedy = ", as have those below", "name the first column too"
            raise Mistake(
                f"{path}: line {layout.skipped + line} has {counted(len(cells), 'cell')}, where "
                f"{counted(named, 'column')} {'is' if named == 1 else 'are'} named{hint}; {remedy}"
            )
    return None


def _is_ended(path: Path) -> bool:
    """Whether the last line has an end."""
    with path.open("rb") as file:
        file.seek(-min(4, path.stat().st_size), io.SEEK_END)
        return b"\n" in (last := file.read()) or b"\r" in last


def require_different(names: Sequence[str], source: str) -> None:
    """Refuse names of which one stands twice, none is one, or which are too many.

    Raises:
        Mistake: says which.
    """
    if not names or all(not name for name in names):
        raise Mistake(f"{source} has no named columns; its first line must name them")
    if len(names) > MOST_COLUMNS:
        raise Mistake(
            f"{source} has {len(names):,} columns, at most {MOST_COLUMNS:,} are read; leave out "
            "those that are not needed"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise Mistake(
            f"{source}: the column {one_line(twice[0], 200)!r} stands {names.count(twice[0])} "
            "times; rename or remove all but one"
        )
