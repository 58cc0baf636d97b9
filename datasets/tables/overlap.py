"""Files of one log that are not in the order of time, or repeat rows of each other."""

import logging

import numpy as np
import pandas

from reverie.datasets.tables.roles import Roles
from reverie.datasets.tables.table import Table
from reverie.text import counted

log = logging.getLogger(__name__)


def arrange_files(table: Table, roles: Roles) -> Table:
    """The table with its files in the order of their times, and repeated rows once.

    The order of time is taken where each file begins after the middle of the one before, which
    excludes clocks that begin anew in each. A file repeats what a logger or an export wrote before
    if all its rows stand in files before it, or all that are no later than the end of the one
    before.

    Args:
        table: of N rows, as the files were read; one file, or no time, is left as it is.
    """
    if table.files is None or roles.time is None:
        return table
    table = _by_time(table, roles.time)
    repeated = _find_repeated(table, roles, roles.time)
    if not repeated.any():
        return table
    assert table.files is not None
    log.warning(
        "%s: %s in %s, first in %s, stand in files before them too, with the same time and values; "
        "they are read once",
        table.source,
        counted(int(repeated.sum()), "row"),
        counted(len(np.unique(table.files[repeated])), "file"),
        table.places.at(int(np.argmax(repeated))),
    )
    return table.take(~repeated)


def _by_time(table: Table, name: str) -> Table:
    assert table.files is not None
    seconds = table.seconds(name)
    starts = np.flatnonzero(np.append(True, np.diff(table.files) != 0))
    first, last = (each.reduceat(seconds, starts) for each in (np.fmin, np.fmax))
    order = np.argsort(first, kind="stable")
    apart = first[order][1:] > (0.5 * (first + last))[order][:-1]  # not so without a time
    if not apart.all() or (np.diff(order) > 0).all():
        return table
    ends = np.append(starts[1:], len(table))
    late = int(np.argmax(np.diff(order) < 0))
    log.warning(
        "%s: the files are put in the order of their times, by %s, which is not that of their "
        "names: what begins in %s comes before what begins in %s",
        table.source,
        name,
        *(table.places.at(int(starts[order[each]])) for each in (late, late + 1)),
    )
    return table.take(np.concatenate([np.arange(starts[each], ends[each]) for each in order]))


def _find_repeated(table: Table, roles: Roles, name: str) -> np.ndarray:
    """`[N]` bool."""
    assert table.files is not None
    seconds = table.seconds(name)
    values = (*roles.observations, *roles.actions, *([roles.reward] if roles.reward else ()))
    rows = {each: pandas.Series(table.columns[each]) for each in values}
    # What stands in cells that are no numbers need not have a hash.
    cells = {each: row.astype(str) if row.dtype == object else row for each, row in rows.items()}
    known = pandas.DataFrame({"": seconds, **cells}).duplicated().to_numpy()
    known = known & np.isfinite(seconds)
    repeated = np.zeros(len(table), dtype=bool)
    starts = np.flatnonzero(np.append(True, np.diff(table.files) != 0))
    reached = -np.inf  # the end of the file before
    for start, end in zip(starts, np.append(starts[1:], len(table)), strict=True):
        part = slice(start, end)
        head = end - start
        if not known[part].all():
            later = ~(seconds[part] <= reached)
            head = int(np.argmax(later)) if later.any() else 0
        if start and known[start : start + head].all():
            repeated[start : start + head] = True
        if head < end - start:
            reached = seconds[end - 1]
    return repeated
