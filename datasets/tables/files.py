"""A log in several files, such as one a day: which they are, and their rows one after another."""

import glob
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas

from reverie.datasets.places import JoinedPlaces
from reverie.datasets.readers.columns import ARROW_FILES, TEXT_FILES, listed, unreadable
from reverie.datasets.tables.table import Table, Writing, read_table
from reverie.datasets.tables.text import NoRows
from reverie.mistake import Mistake
from reverie.paths import expanded
from reverie.text import counted

log = logging.getLogger(__name__)

_SHOWN = 3  # names of files in a message


def read_tables(path: str, writing: Writing) -> Table:
    """The rows of one table or of several, in the order of their names.

    Args:
        path: a file, a folder with tables of one kind, or a pattern such as `logs/*.csv`, where
            `**` stands for folders at any depth.
        writing: how cells are written, in all of them.

    Raises:
        Mistake: nothing there, a folder with tables of several kinds or none, files without a
            common column; or as `table.read_table`.
    """
    files = find_tables(path)
    if len(files) == 1:
        return read_table(files[0], writing)
    tables, empty = [], []
    for file in files:
        try:
            tables.append(read_table(file, writing))
        except NoRows:  # a logger that was started and stopped
            empty.append(file.name)
    if not tables:
        raise Mistake(f"{path}: none of {len(files):,} files has rows; check that it is right")
    if empty:
        log.warning("%s: %s without rows: %s", path, counted(len(empty), "file"), _listed(empty))
    return tables[0] if len(tables) == 1 else _join(path, tables)


def find_tables(path: str) -> list[Path]:
    """The files that a path says, see `read_tables`; `log_2` stands before `log_10`.

    Raises:
        Mistake: no path, a folder with tables of several kinds or none, no file fits a pattern.
    """
    if not path:
        raise Mistake("dataset.path is empty; give the file, dataset.path=FILE")
    place = expanded(path)
    try:
        if place.is_dir():
            return _tables_in(place)
        # What exists is no pattern, whatever its name looks like.
        if not glob.has_magic(str(place)) or place.exists():
            return [place]
        found = [Path(each) for each in glob.glob(str(place), recursive=True)]
    except OSError as error:
        raise unreadable(place, error) from error
    files = sorted((each for each in found if each.is_file()), key=_in_natural_order)
    if not files:
        raise Mistake(f"{path} fits no file; correct dataset.path")
    return files


def _tables_in(folder: Path) -> list[Path]:
    held = sorted(
        (each for each in folder.iterdir() if each.is_file() and not each.name.startswith(".")),
        key=_in_natural_order,
    )
    files = [each for each in held if each.suffix.lower() in (*TEXT_FILES, *ARROW_FILES)]
    kinds = list(dict.fromkeys(each.suffix.lower() for each in files))
    if not files:
        holds = listed([each.name for each in held])
        raise Mistake(
            f"{folder} is a folder without a table (.csv, .tsv, .txt, .parquet or .feather); it "
            f"holds {holds}; correct dataset.path, or give a pattern such as "
            f"'dataset.path={folder}/**/*.csv' for folders in it"
        )
    if len(kinds) > 1:
        raise Mistake(
            f"{folder} holds files of several kinds ({', '.join(kinds)}); say which are the log, "
            f"e.g. 'dataset.path={folder}/*{kinds[0]}'"
        )
    return files


def _in_natural_order(file: Path) -> list[str | int]:
    parts = re.split(r"([0-9]+)", str(file))
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def _join(path: str, tables: Sequence[Table]) -> Table:
    """One table of the columns that all have; the others are told."""
    shared = [name for name in tables[0].columns if all(name in table.columns for table in tables)]
    if not shared:
        raise Mistake(
            f"{path}: no column stands in each of {len(tables):,} files; give those of one log, by "
            "a pattern as dataset.path"
        )
    rest = {name: table for table in tables for name in table.columns if name not in shared}
    if rest:
        lacks = {
            name: next(each.source for each in tables if name not in each.columns) for name in rest
        }
        log.warning(
            "%s: columns that not every file has are not read: %s",
            path,
            _listed([f"{name} (not in {Path(lacks[name]).name})" for name in rest]),
        )
    counts = [len(table) for table in tables]
    decimals = {table.usual for table in tables if table.usual is not None}
    return Table(
        source=path,
        columns={name: _stacked([table.columns[name] for table in tables]) for name in shared},
        places=JoinedPlaces(
            np.arange(sum(counts)),
            parts=[(Path(table.source).name, table.places) for table in tables],
        ),
        writing=tables[0].writing,
        usual=decimals.pop() if len(decimals) == 1 else None,
        index={name: role for name, role in tables[0].index.items() if name in shared},
        files=np.repeat(np.arange(len(tables)), counts),
    )


def _stacked(columns: Sequence[np.ndarray]) -> np.ndarray:
    """`[N]` of all, which may be numbers in one file, and texts or nothing in another."""
    kinds = {column.dtype.kind for column in columns if not pandas.isna(column).all()}
    if len(kinds) == 1 and kinds <= set("mM"):
        unknown = np.array("NaT", dtype=f"{kinds.pop()}8[ns]")
        columns = [
            np.full(len(column), unknown) if column.dtype.kind not in "mM" else column
            for column in columns
        ]
    elif len(kinds) > 1 and not kinds <= set("fiub"):
        columns = [pandas.Series(column).astype(object).to_numpy() for column in columns]
    return np.concatenate(columns)


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest:,} more" if rest > 0 else "")
