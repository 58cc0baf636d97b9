"""Tables in files: text of which every line has as many cells, and the binary kinds of Arrow."""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import pandas

from reverie.datasets.readers.columns import in_one_line, require_file
from reverie.envs import extras
from reverie.mistake import Mistake
from reverie.text import one_line

MOST_COLUMNS = 10_000
LONGEST_LINE = 1_000_000
"""Letters of a line of text; what is longer has lost its line ends, or is no table."""
LARGEST_SHARE = 1000
"""Bytes of numbers for a byte of their file, beyond which it is made to fill the memory."""
_SMALL = 2**28  # bytes of numbers that nobody minds
_DELIMITERS = ";\t|,"
_NUMBER = re.compile(r"\s*[-+]?\d*([.,])\d+([eE][-+]?\d+)?\s*")
_ENOUGH = 1000  # rows in which the decimal mark is looked for
_INDEX = re.compile(r"__index_level_\d+__")  # as which pandas stores row numbers
# What readers of binary tables raise for files that are damaged or something else; pyarrow's own
# errors are ValueError, OSError and NotImplementedError too.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, NotImplementedError, OverflowError)


def read_frame(path: Path) -> pandas.DataFrame:
    """The table in a file, see `table.read_table`.

    Raises:
        Mistake: as there.
    """
    require_file(path)
    suffix = path.suffix.lower()
    try:
        if suffix in (".csv", ".tsv"):
            return _read_text(path)
        if suffix in (".parquet", ".feather"):
            return _read_arrow(path, suffix[1:])
    except MemoryError as error:
        raise Mistake(
            f"{path} holds more than fits into the memory ({one_line(in_one_line(error), 200)}); "
            "split it, or leave out columns that are not needed"
        ) from error
    raise Mistake(
        f"{path} has the suffix {path.suffix!r}, expected .csv, .tsv, .parquet or .feather; "
        "save the table as one of these"
    )


def require_different(names: Sequence[str], source: str) -> None:
    """Refuse columns without names, with the same name, or too many.

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


# --- text


def _read_text(path: Path) -> pandas.DataFrame:
    try:
        delimiter, decimal = _examine(path)
        return pandas.read_csv(
            path,
            sep=delimiter,
            decimal=decimal,
            encoding="utf-8-sig",
            low_memory=False,
            index_col=False,
        )
    except Mistake:
        raise
    except UnicodeDecodeError as error:
        raise Mistake(f"{path} is not text in UTF-8 ({error.reason}); save it as UTF-8") from error
    except (OSError, ValueError, csv.Error, OverflowError) as error:
        raise Mistake(
            f"{path} cannot be read as a table ({one_line(in_one_line(error), 200)}); its first "
            "line must name the columns, and every other line must have as many cells"
        ) from error


def _examine(path: Path) -> tuple[str, str]:
    """What separates cells, and the decimal mark, of a text without a damaged line.

    pandas fills short lines with nothing, drops the end of long ones, and ends a cell at a NUL.

    Raises:
        Mistake: names that stand twice or are too many.
        ValueError, csv.Error: a line that is too long, has other cells, a NUL or a stray quote.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = _lines(file)
        first = next(lines, "")
        delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(first)
        rows = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
        names = next(rows, [])
        # pandas would give a second column of the same name another one.
        require_different([name.strip() for name in names], str(path))
        decimal, width, count = None, None, 0
        for count, row in enumerate(rows, 1):
            if len(row) < 2 and not "".join(row).strip():
                continue  # an empty line
            if width is None:  # a delimiter at the end of every line begins no cell
                width = len(names) + (len(row) == len(names) + 1 and not row[-1])
            if len(row) != width or (width > len(names) and row[-1]):
                raise ValueError(
                    f"line {rows.line_num} has {len(row)} cells, where the first names "
                    f"{len(names)} columns"
                )
            if decimal is None and count <= _ENOUGH and delimiter != ",":
                found = map(_NUMBER.fullmatch, row)
                decimal = next((each[1] for each in found if each), None)
    return delimiter, decimal or "."


def _lines(file: TextIO) -> Iterator[str]:
    for number in range(1, 2**63):
        line = file.readline(LONGEST_LINE + 1)
        if not line:
            return
        if len(line) > LONGEST_LINE:
            raise ValueError(f"line {number} has more than {LONGEST_LINE:,} letters")
        if "\0" in line:
            raise ValueError(f"line {number} holds a NUL, which is no text")
        yield line


def _delimiter(line: str) -> str:
    """What separates the names in the first line."""
    outside = re.sub(r'"[^"]*"', "", line)
    return max(_DELIMITERS, key=outside.count)


# --- Arrow


def _read_arrow(path: Path, kind: str) -> pandas.DataFrame:
    module = extras.require(f"pyarrow.{kind}", "tables", f"dataset.path={path}")
    try:
        table = (_read_parquet if kind == "parquet" else _read_feather)(module, path)
        # What the file says of pandas would hide columns as its index.
        return table.to_pandas(ignore_metadata=True)
    except Mistake:
        raise
    except _UNREADABLE as error:
        if isinstance(error, MemoryError):  # pyarrow's is both
            raise
        raise Mistake(
            f"{path} cannot be read as {kind} ({one_line(in_one_line(error), 200)}); "
            "write it again, or save it as .csv"
        ) from error


def _read_parquet(parquet: Any, path: Path) -> Any:
    with parquet.ParquetFile(path) as file:
        names, rows = file.schema_arrow.names, file.metadata.num_rows
        require_different(names, str(path))
        numbers = 8 * rows * len(names)
        if numbers > _SMALL and numbers > LARGEST_SHARE * path.stat().st_size:
            raise Mistake(
                f"{path} has {path.stat().st_size:,} bytes and would fill {numbers:,} with "
                f"{rows:,} rows that are nearly all the same; leave out what repeats"
            )
    # A text that stands in every row is kept once; checksums are compared where there are any.
    texts = [
        field.name for field in file.schema_arrow if str(field.type) in ("string", "large_string")
    ]
    with parquet.ParquetFile(path, read_dictionary=texts, page_checksum_verification=True) as file:
        return _without_index(file.read())


def _read_feather(feather: Any, path: Path) -> Any:
    table = feather.read_table(path, memory_map=False)
    require_different(table.column_names, str(path))
    return _without_index(table)


def _without_index(table: Any) -> Any:
    return table.drop_columns([name for name in table.column_names if _INDEX.fullmatch(name)])
