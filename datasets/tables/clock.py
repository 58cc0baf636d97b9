"""Wall clocks of tables: a date and a time of day in two columns made one time, and summer time."""

import datetime
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from reverie.datasets.names import bare
from reverie.datasets.tables.table import TIME, Table
from reverie.mistake import Mistake

log = logging.getLogger(__name__)

JOINED = "date and time [s]"
"""What the joined column is called: seconds since the first date."""
_DATES = ("date", "datum", "day")
_CLOCKS = ("time", "uhrzeit", "zeit", "clock")
_DAY = 86_400.0
_HOUR = 3600.0
_TOLERATED = 0.2
"""Of the sampling time, between a jump and one of an hour."""
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}(?:[.,]\d+)?))?(?:\s*([AaPp])\.?[Mm]\.?)?")
_COMPACT = (1900_01_01, 2100_12_31)
"""Dates that are written as numbers."""


def join_clock(table: Table, columns: Any) -> tuple[Table, Any]:
    """The table with one time in the place of a date and a time of day, and with its role.

    They are named as `dataset.columns.time=[date, time]`, or guessed, with a line in the log, where
    columns called so hold dates and times of day: by the time of day alone, midnight would end an
    episode. Other tables are left as they are.

    Args:
        table: as it was read.
        columns: `dataset.columns`, as it was typed.

    Raises:
        Mistake: two columns are named that are no date and time of day; dates that can be read in
            two ways.
    """
    if not isinstance(columns, Mapping | None):
        return table, columns
    named = columns or {}
    said = named.get(TIME)
    if said is None:
        pair = _guess(table, named)
    elif isinstance(said, list | tuple) and len(said) == 2:
        pair = (_found(table, said[0]), _found(table, said[1]))
    else:
        return table, columns
    first, second = pair
    if first is None or second is None:  # names that there are not are refused with the others
        return table, columns
    clock = _time_of_day(table, second)
    if said is None and clock is None:
        return table, columns
    days = None if clock is None else _dates(table, first)
    if clock is None or days is None:
        wrong, what = (second, "times of day") if clock is None else (first, "dates alone")
        raise Mistake(
            f"{table.source}: {wrong} does not hold {what}, so {first} and {second} make no time; "
            "name one column as dataset.columns.time, or two, a date and a time of day"
        )
    if said is None:
        log.warning(
            "%s: time = %s and %s together (guessed, by their names); dataset.columns.time says "
            "otherwise",
            table.source,
            first,
            second,
        )
    # A date that is written as a number would be taken for an observation.
    others = {name: column for name, column in table.columns.items() if name not in pair}
    writing = replace(table.writing, date_format=None)  # which the joined column does not follow
    joined = replace(table, columns={**others, JOINED: days + clock}, writing=writing)
    return joined, {**named, TIME: JOINED}


def change_of_clock(
    table: Table, name: str, steps: np.ndarray, step: float, where: np.ndarray
) -> str:
    """What to make of an hour that comes twice or is missing; empty where none does.

    Args:
        table: of N rows, with the time in the column `name`.
        steps: `[N - 1]` from row to row, in the unit of time.
        step: the sampling time.
        where: `[N - 1]` bool, steps that are told.
    """
    if table.unit_of_time(name) != "s":
        return ""
    jump = steps - step
    hour = where & (np.abs(np.abs(jump) - _HOUR) <= _TOLERATED * step)
    if step > _HOUR / 2:
        hour &= jump < 0  # the other may be a row that is missing
    if not hour.any():
        return ""
    row = int(np.argmax(hour))
    return (
        f"; the hour that {'is missing' if jump[row] > 0 else 'comes twice'} after "
        f"{table.places.at(row)} is likely a clock set to or from daylight-saving time: write "
        "times in UTC, or with their offset (2026-10-25 02:00:00+01:00)"
    )


def _found(table: Table, name: Any) -> str | None:
    return table.find(name) if isinstance(name, str) else None


def _guess(table: Table, named: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The columns called date and time that have no other role."""
    if table.index:
        return None, None
    elsewhere = {
        table.find(each)
        for said in named.values()
        for each in (said if isinstance(said, list | tuple) else [said])
        if isinstance(each, str)  # anything else is refused with the others
    }
    first, second = (
        next((n for n in table.columns if bare(n).lower() in usual and n not in elsewhere), None)
        for usual in (_DATES, _CLOCKS)
    )
    return first, second


def _time_of_day(table: Table, name: str) -> np.ndarray | None:
    """Seconds since midnight `[N]`, NaN where there is none; None of a column of something else."""
    column = table.columns[name]
    if column.dtype.kind in "iu":
        return _compact_time(column)
    if column.dtype.kind not in "OUT":
        return None
    cells = table.texts(name)
    seconds = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        if cell is None:
            continue
        text = cell.isoformat() if isinstance(cell, datetime.time) else cell
        found = _CLOCK.fullmatch(text.strip()) if isinstance(text, str) else None
        if found is None:
            return None
        hour, minute = int(found[1]), int(found[2])
        second = float((found[3] or "0").replace(",", "."))
        if found[4]:
            hour = hour % 12 + (12 if found[4] in "pP" else 0)
        if hour > 23 or minute > 59 or second >= 61:  # a duration
            return None
        seconds[row] = 3600.0 * hour + 60.0 * minute + second
    return None if np.isnan(seconds).all() else seconds


def _compact_time(column: np.ndarray) -> np.ndarray | None:
    """Seconds since midnight of times written as 235959, None of other numbers."""
    hour, minute, second = column // 10_000, column // 100 % 100, column % 100
    # Up to 2359 they may be hours and minutes, or count anything.
    if column.min() < 0 or column.max() <= 2359:
        return None
    if (hour > 23).any() or (minute > 59).any() or (second > 59).any():
        return None
    return np.asarray(3600.0 * hour + 60.0 * minute + second)


def _dates(table: Table, name: str) -> np.ndarray | None:
    """Seconds of dates `[N]` since the first; None where they have a time of day themselves."""
    column = table.columns[name]
    if column.dtype.kind in "fiu":
        if not ((column >= _COMPACT[0]) & (column <= _COMPACT[1])).all():
            return None
        written = [str(int(each)) for each in column]  # 20260131
        texts = [f"{each[:4]}-{each[4:6]}-{each[6:]}" for each in written]
        table = replace(table, columns={name: np.array(texts, dtype=object)})
    days = table.seconds(name)
    known = days[np.isfinite(days)]
    return days if len(known) and (known % _DAY == 0).all() else None
