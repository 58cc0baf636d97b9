"""A log in several files, such as one a day: which they are, and their rows one after another."""

import glob
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas

from reverie.datasets.names import bare
from reverie.datasets.places import JoinedPlaces
from reverie.datasets.readers.columns import ARROW_FILES, TEXT_FILES, listed, unreadable
from reverie.datasets.tables.table import Table, Writing, read_table
from reverie.datasets.tables.text import NoRows
from reverie.mistake import Mistake
from reverie.paths import absent_path, expanded
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
    place = expanded(path)
    if place.is_dir():
        known = {each.resolve() for each in files}
        rest = [each.name for each in _held(place) if each.resolve() not in known]
        if rest:
            log.warning("%s: not read: %s", path, _listed(rest))
    if len(files) == 1:
        return read_table(files[0], writing)
    tables, empty = [], []
    for file in files:
        try:
            tables.append(read_table(file, writing))
        except NoRows:  # a logger that was started and stopped
            empty.append(file)
    if not tables:
        raise Mistake(f"{path}: none of {len(files):,} files has rows; check that it is right")
    if empty:
        names = _listed([each.name for each in empty])
        log.warning("%s: %s without rows: %s", path, counted(len(empty), "file"), names)
    return tables[0] if len(tables) == 1 else _join(path, tables)


def find_tables(path: str) -> list[Path]:
    """The files that a path says, see `read_tables`; `log_2` stands before `log_10`.

    Raises:
        Mistake: no path, a folder with tables of several kinds or none, no file fits a pattern, a
            link to a file that is not there.
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
        found = [Path(each) for each in glob.glob(_as_pattern(place), recursive=True)]
    except OSError as error:
        raise unreadable(place, error) from error
    files = _only_files(found)
    # Such as `day.parquet`, of which no part is among the files.
    above = {folder for file in files for folder in file.parents}
    folders = [each for each in found if each.is_dir() and _is_table(each) and each not in above]
    if folders:
        raise Mistake(
            f"{path} fits the folder {folders[0]}; correct dataset.path, or read what such folders "
            f"hold, 'dataset.path={path}/*'"
        )
    if not files:
        raise Mistake(f"{path} fits no file; {absent_path(path)}")
    return files


def _as_pattern(place: Path) -> str:
    """A pattern in which folders that exist as they are written are no patterns."""
    fixed = Path(place.anchor)
    rest = list(place.parts[bool(place.anchor) :])
    while len(rest) > 1 and (fixed / rest[0]).is_dir():
        fixed /= rest.pop(0)
    return os.path.join(glob.escape(str(fixed)), *rest)


def _is_table(file: Path) -> bool:
    return file.suffix.lower() in (*TEXT_FILES, *ARROW_FILES)


def _only_files(found: Sequence[Path]) -> list[Path]:
    """The files, each once: `latest.csv` may be a link to one of the others."""
    gone = [each for each in found if _is_table(each) and each.is_symlink() and not each.exists()]
    if gone:
        raise Mistake(
            f"{gone[0]} is a link to {gone[0].readlink()}, which is not there; bring that back, or "
            "remove the link"
        )
    once: dict[Path, Path] = {}
    for file in sorted(found, key=lambda each: (each.is_symlink(), _in_natural_order(each))):
        if file.is_file():
            once.setdefault(file.resolve(), file)
    return sorted(once.values(), key=_in_natural_order)


def _held(folder: Path) -> list[Path]:
    seen = (each for each in folder.iterdir() if not each.name.startswith("."))
    return sorted(seen, key=_in_natural_order)


def _tables_in(folder: Path) -> list[Path]:
    held = _held(folder)
    files = _only_files([each for each in held if _is_table(each)])
    kinds = list(dict.fromkeys(each.suffix.lower() for each in files))
    if not files:
        holds = listed([each.name for each in held])
        suffix = next((each.suffix for each in held if _is_table(each)), ".csv")
        raise Mistake(
            f"{folder} is a folder without a table (.csv, .tsv, .txt, .parquet or .feather); it "
            f"holds {holds}; correct dataset.path, or give a pattern such as "
            f"'dataset.path={folder}/**/*{suffix}' for folders in it"
        )
    if len(kinds) > 1:
        raise Mistake(
            f"{folder} holds files of several kinds ({', '.join(kinds)}); say which are the log, "
            f"e.g. 'dataset.path={folder}/*{files[0].suffix}'"
        )
    return files


def _in_natural_order(file: Path) -> list[str | int]:
    parts = re.split(r"([0-9]+)", str(file).lower())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def _join(path: str, tables: Sequence[Table]) -> Table:
    """One table of the columns that all have; the others are told."""
    tables = _settled(_with_units(path, tables))
    shared = [name for name in tables[0].columns if all(name in table.columns for table in tables)]
    if not shared:
        first = tables[0]
        other = next((each for each in tables if not set(first.columns) & set(each.columns)), None)
        named = "" if other is None else f": {_named_by(other)}, {_named_by(first)}"
        raise Mistake(
            f"{path}: no column stands in each of {len(tables):,} files{named}; give those of one "
            "log, each with a line of names, by a pattern as dataset.path"
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
    for name in shared:
        dated = [table for table in tables if table.columns[name].dtype.kind == "M"]
        sides = {name in table.zoned: Path(table.source).name for table in dated}
        if len(sides) > 1:
            raise Mistake(
                f"{path}: {name} has a time zone in {sides[True]} and none in {sides[False]}, so "
                "their order is not known; write it with a zone in all files, or in none"
            )
    counts = [len(table) for table in tables]
    above = os.path.commonpath([Path(table.source).parent for table in tables])
    decimals = {table.usual for table in tables if table.usual is not None}
    return Table(
        source=path,
        columns={name: _stacked([table.columns[name] for table in tables]) for name in shared},
        places=JoinedPlaces(
            np.arange(sum(counts)),
            parts=[(os.path.relpath(table.source, above), table.places) for table in tables],
        ),
        writing=tables[0].writing,
        usual=decimals.pop() if len(decimals) == 1 else None,
        index={name: role for name, role in tables[0].index.items() if name in shared},
        files=np.repeat(np.arange(len(tables)), counts),
    )


def _named_by(table: Table) -> str:
    return f"{Path(table.source).name} has {_listed(list(table.columns))}"


def _with_units(path: str, tables: Sequence[Table]) -> list[Table]:
    """The tables with `level [cm]` for `level` where some files leave the units out."""
    names = {name for table in tables for name in table.columns}
    units: dict[str, list[str]] = {}
    for name in names:
        if bare(name) != name:
            units.setdefault(bare(name), []).append(name)
    full = {name: found[0] for name, found in units.items() if name in names and len(found) == 1}
    full = {
        name: unit
        for name, unit in full.items()
        if not any({name, unit} <= set(table.columns) for table in tables)
    }
    if full:
        log.warning(
            "%s: not every file has units; taken for the same: %s",
            path,
            _listed([f"{name} and {unit}" for name, unit in sorted(full.items())]),
        )
    return [
        replace(
            table,
            columns={full.get(name, name): column for name, column in table.columns.items()},
            index={full.get(name, name): role for name, role in table.index.items()},
            zoned=frozenset(full.get(name, name) for name in table.zoned),
        )
        for table in tables
    ]


def _settled(tables: Sequence[Table]) -> list[Table]:
    """The tables with text as numbers where the files write them in different ways."""
    marks = {table.usual for table in tables if table.usual is not None}
    kinds: dict[str, set[bool]] = {}
    for table in tables:
        for name, column in table.columns.items():
            if not pandas.isna(column).all():
                kinds.setdefault(name, set()).add(column.dtype.kind in "fiub")
    mixed = {name for name, found in kinds.items() if len(found) > 1 or len(marks) > 1}
    return [
        replace(
            table,
            columns={
                name: table.as_numbers(name) if name in mixed else column
                for name, column in table.columns.items()
            },
        )
        for table in tables
    ]


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
