"""Where the episodes of a table end: by its columns, and where time or values are missing."""

import logging
from collections.abc import Collection, Mapping

import numpy as np
import pandas

from reverie.datasets.names import bare
from reverie.datasets.readers.columns import LOOSE, first_rows, limit_ends
from reverie.datasets.tables.roles import Roles
from reverie.datasets.tables.sampling import find_breaks, find_new_files
from reverie.datasets.tables.table import Table
from reverie.mistake import Mistake
from reverie.text import counted

log = logging.getLogger(__name__)

_FALLS = 0.8
"""Share of steps back within episodes, from which the newest row of each is its first."""


def leave_out_blank(table: Table) -> Table:
    """The table without rows that hold nothing at its begin and end, and at those of its files.

    Spreadsheets write as many rows as they once had. Such rows between others stay: they are left
    out with those that lack a value, which cuts the episode.

    Args:
        table: of N rows, as the files were read.
    """
    blank = _blank(table)
    if not blank.any() or blank.all():
        return table
    files = np.zeros(len(table), int) if table.files is None else table.files
    after = np.maximum.accumulate(np.where(blank, -1, files)) == files
    before = np.minimum.accumulate(np.where(blank, files[-1] + 1, files)[::-1])[::-1] == files
    inner = after & before  # rows of the same file that hold something
    if not inner.all():
        log.warning(
            "%s: %s without any value, first in %s, left out",
            table.source,
            counted(int((~inner).sum()), "row"),
            table.places.at(int(np.argmin(inner))),
        )
    return table.take(inner)


def oldest_first(table: Table, roles: Roles) -> Table:
    """The table from its last row to its first where time falls within episodes, file by file.

    Historians and web pages export the newest row first; read as it is, every transition would
    lead back in time. Rows in any other order are left as they are.

    Args:
        table: of N rows, as the files were read.
    """
    if roles.time is None:
        return table
    numbers = np.arange(len(table))
    files = np.zeros(len(table), int) if table.files is None else table.files
    labels = np.zeros(len(table), int) if roles.episode is None else _labels(table, roles.episode)
    together = np.lexsort((numbers, labels, files))
    inside = (np.diff(files[together]) == 0) & (np.diff(labels[together]) == 0)
    steps = np.diff(table.seconds(roles.time)[together])[inside]
    if not len(steps) or (steps < 0).mean() < _FALLS:
        return table
    log.warning(
        "%s: %s falls from row to row, so the newest row is first; rows are read from the last to "
        "the first (a countdown is no time: dataset.columns.time=[] reads rows as they stand)",
        table.source,
        roles.time,
    )
    return table.take(np.lexsort((-numbers, files)))


def in_order(table: Table, roles: Roles) -> Table:
    """The table with the rows of each episode together.

    Raises:
        Mistake: an episode comes back after others, and no time shows how its rows belong together.
    """
    if roles.episode is None:
        return table
    labels = _labels(table, roles.episode)
    if table.files is not None:  # each may count its episodes from 0
        labels = pandas.factorize(table.files * (labels.max() + 1) + labels)[0]
    first = np.append(True, labels[1:] != labels[:-1])
    starts = labels[first]
    _, firsts = np.unique(starts, return_index=True)
    if len(firsts) == len(starts):
        return table
    again = int(np.setdiff1d(np.arange(len(starts)), firsts)[0])
    row = int(np.flatnonzero(first)[again])
    order = np.argsort(labels, kind="stable")
    if roles.time is not None:
        within = labels[order][1:] == labels[order][:-1]
        if (np.diff(table.seconds(roles.time)[order])[within] > 0).all():
            log.warning(
                "%s: %s is not sorted (episode %s comes back in %s); the rows of each episode "
                "are put together, in which %s goes on",
                table.source,
                roles.episode,
                table.columns[roles.episode][row],
                table.places.at(row),
                roles.time,
            )
            return table.take(order)
    raise Mistake(
        f"{table.source}: {roles.episode} is not sorted: {table.columns[roles.episode][row]} comes "
        f"back in {table.places.at(row)} after other episodes; sort the rows by episode and "
        "time, or give every episode a number of its own"
    )


def find_ends(
    table: Table, roles: Roles, longest_step: float | None = None, limit: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Rows that terminate, rows that no row of the same episode follows, and how long rows last.

    An episode ends where the episode column changes, where a row is terminated or truncated, where
    time goes back or jumps, and with its file, unless the next one goes on a step later. Where none
    of these but terminations shows an end, it ends after `limit` steps too.

    Args:
        table: of N rows, in the order of `in_order`.
        longest_step: rows may be unequally far apart, up to so much of the unit of time; None: they
            have one sampling time.
        limit: time limit in control steps, None for none.

    Returns:
        `[N]` bool the first two; terminated rows, and the last row, are among the ends. Then time
        from each row to the next `[N]`, with `longest_step` alone; 0 at the ends.

    Raises:
        Mistake: flags other than 0 and 1, several sampling times or none; with `longest_step` no
            time, or one that stands still.
    """
    if longest_step is not None and roles.time is None:
        raise Mistake(
            f"{table.source}: dataset.longest_step={longest_step:g} says how far apart rows may "
            "be, but no column tells the time; name one as dataset.columns.time"
        )
    terminated = _flag(table, roles.terminated, "terminated")
    limits = _flag(table, roles.truncated, "truncated")
    if roles.terminated is not None and bare(roles.terminated).lower() in LOOSE:
        _require_terminations(table, roles, terminated, limits)
    ends = terminated | limits
    if roles.episode is not None:
        labels = _labels(table, roles.episode)
        ends[:-1] |= labels[1:] != labels[:-1]
    ends[-1] = True
    if table.files is not None:
        ends[:-1] |= find_new_files(table, roles, ends, longest_step)
    if roles.time is not None:
        ends |= find_breaks(table, roles.time, ends, longest_step)
    if limit is not None and not (ends & ~terminated)[:-1].any():
        ends |= limit_ends(terminated, limit)
        log.warning(
            "%s: no column says where a limit ended episodes, so each ends after %s, as "
            "dataset.max_episode_steps says",
            table.source,
            counted(limit, "step"),
        )
    if len(ends) > 1 and not ends[:-1].any():
        log.warning(
            "%s: nothing says where episodes end, so all %s rows are one; "
            "dataset.columns.episode, truncated or time names a column that does",
            table.source,
            f"{len(table):,}",
        )
    if longest_step is None or roles.time is None:
        return terminated, ends, None
    lasts = np.append(np.diff(table.seconds(roles.time)), 0.0)
    return terminated, ends, np.where(ends, 0.0, lasts)


def leave_out_missing(
    table: Table,
    values: Mapping[str, np.ndarray],
    ends: np.ndarray,
    optional: Collection[str] = (),
) -> np.ndarray:
    """Mark ends before rows with missing values, in place, and say which rows have none missing.

    Args:
        table: of N rows.
        values: `[N]` numbers that a row needs, by column.
        ends: `[N]` bool, changed so that nothing goes on across a row that is left out.
        optional: columns without which a row is kept: actions, where somebody infers them.

    Returns:
        `[N]` bool, rows to keep.

    Raises:
        Mistake: a column is empty throughout, or every row lacks something.
    """
    with np.errstate(over="ignore"):
        lacks = {name: ~np.isfinite(column.astype(np.float32)) for name, column in values.items()}
    for name, missing in lacks.items():
        if missing.all():
            remedy = "leave it out of" if name in table.columns else "correct it, or name"
            if name in optional:
                remedy = "nothing can be inferred: record some, or leave it out of"
            raise Mistake(
                f"{table.source}: {name} has no value in any row; {remedy} dataset.columns"
            )
    lacks = {name: each for name, each in lacks.items() if name not in optional}
    keep = ~np.logical_or.reduce(list(lacks.values()))
    if keep.all():
        return keep
    if not keep.any():
        raise Mistake(
            f"{table.source}: every row lacks a value ({_counts(table, lacks)}); leave the "
            "emptiest columns out of dataset.columns"
        )
    lost = int((~keep).sum())
    cut = int((~ends[:-1] & keep[:-1] & ~keep[1:]).sum())
    ends[:-1] |= ~keep[1:]
    log.warning(
        "%s: %s of %s rows %s no finite number in a column that is read (%s); %s left out, and "
        "episodes are cut there, in %s",
        table.source,
        f"{lost:,}",
        f"{len(keep):,}",
        "holds" if lost == 1 else "hold",
        _counts(table, lacks),
        "it is" if lost == 1 else "they are",
        counted(cut, "place"),
    )
    return keep


def _counts(table: Table, lacks: Mapping[str, np.ndarray]) -> str:
    """How many rows each column lacks, and the first of them with what stands there."""
    told = []
    for name, each in lacks.items():
        if each.any():
            row = int(np.argmax(each))
            what = f": {table.lacking(name, row)}" if name in table.columns else ""
            told.append(f"{name} {int(each.sum()):,}, first in {table.places.at(row)}{what}")
    return "; ".join(told)


def _labels(table: Table, name: str) -> np.ndarray:
    """A number for each episode, in the order of their first rows."""
    begins = first_rows(table.as_numbers(name), bare(name).lower())
    if begins is not None:
        return np.cumsum(begins)
    column = table.columns[name]
    if column.dtype == object:  # spaces behind a name make no other one of it
        stripped = [each.strip() if isinstance(each, str) else each for each in column]
        column = pandas.Series(stripped, dtype=object)
    try:
        labels, _ = pandas.factorize(column)
    except TypeError as error:  # of lists and the like, which cannot be told apart
        raise Mistake(
            f"{table.source}: {name} holds a {type(table.columns[name][0]).__name__} in row 0, "
            "where the number or name of an episode was expected; name another column as "
            "dataset.columns.episode"
        ) from error
    lacks = labels < 0
    if lacks.any() and (blank := lacks & _blank(table)).any():  # left out later, with a cut there
        last = np.maximum.accumulate(np.where(blank, 0, np.arange(len(table))))
        labels = labels[last]
        lacks = labels < 0
    if lacks.any():
        raise Mistake(
            f"{table.source}: {name} is empty in {counted(int(lacks.sum()), 'row')}, first in "
            f"{table.places.at(int(np.argmax(lacks)))}; fill in the episode of each row (in "
            f"pandas, if it stands in the first row of each alone: frame[{name!r}].ffill()), or "
            "remove those rows"
        )
    return labels


def _blank(table: Table) -> np.ndarray:
    """`[N]` rows that hold nothing."""
    blank = np.ones(len(table), dtype=bool)
    for column in table.columns.values():
        if blank.any():
            blank &= pandas.isna(column)
    return blank


def _require_terminations(
    table: Table, roles: Roles, terminated: np.ndarray, limits: np.ndarray
) -> None:
    """Refuse a column of a name such as `done` that marks every time limit too."""
    if limits.any() and terminated[limits].all():
        remedy = f"set 'dataset.columns={{terminated: [], truncated: {roles.terminated}}}'"
        raise Mistake(
            f"{table.source}: {roles.terminated} is 1 at every time limit ({roles.truncated}) too, "
            "so it holds ends of episodes, not terminations; write terminated without them, or "
            f"{remedy} if the task never ends by itself"
        )


def _flag(table: Table, name: str | None, role: str) -> np.ndarray:
    if name is None:
        return np.zeros(len(table), dtype=bool)
    if not table.is_numeric(name):
        row = int(np.argmin(pandas.isna(table.columns[name])))
        raise Mistake(
            f"{table.source}: {name} must hold only 0 and 1, found {table.shown(name, row)} in "
            f"{table.places.at(row)}; write it so, or set dataset.columns.{role}=[] for none"
        )
    values = table.numbers(name)
    odd = (values != 0) & (values != 1)
    if odd.any():
        row = int(np.argmax(odd))
        found = "nothing" if np.isnan(values[row]) else f"{values[row]:g}"
        raise Mistake(
            f"{table.source}: {name} must hold only 0 and 1, found {found} in "
            f"{table.places.at(row)}, and something else than 0 and 1 in "
            f"{counted(int(odd.sum()), 'row')} in all; repair that column"
        )
    return values.astype(bool)
