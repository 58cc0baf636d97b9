"""Dates as people and programs write them: ISO, 31.12.2026, 12/31/2026 3:04 PM, 0:00:02.5."""

import re
from typing import NamedTuple

import numpy as np
import pandas

from reverie.text import one_line

DAY_FIRST, MONTH_FIRST = "day-first", "month-first"

_ZONES = {
    **dict.fromkeys(("Z", "UTC", "GMT", "WET"), 0.0),
    **dict.fromkeys(("CET", "MEZ", "WEST"), 1.0),
    **dict.fromkeys(("EET", "CEST", "MESZ"), 2.0),
    "EEST": 3.0,
}
"""Hours ahead of UTC, of names that mean one zone: EST, IST and their like mean several."""
_NAMES = "|".join(_ZONES)
_ZONE = rf"(?P<zone>{_NAMES}|[+-]\d{{2}}:?\d{{2}}|[+-]\d{{2}})?"
_CLOCK = r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}(?:[.,]\d+)?))?"
_HALF = r"(?:\s*(?P<half>[AaPp])\.?[Mm]\.?)?"
_TIME = rf"(?:(?:[T,]\s*|\s+){_CLOCK}{_HALF}\s*{_ZONE})?"
_ISO = re.compile(rf"(?P<year>\d{{4}})([-/.])(?P<month>\d{{1,2}})\2(?P<day>\d{{1,2}}){_TIME}")
_OTHER = re.compile(rf"(?P<a>\d{{1,2}})([-/.])(?P<b>\d{{1,2}})\2(?P<year>\d{{4}}|\d{{2}}){_TIME}")
_DAYS = r"(?:(?P<days>\d+) days?,?\s+)?"  # as Python and pandas write durations
_ELAPSED = re.compile(rf"{_DAYS}(?P<hour>\d+):(?P<minute>\d{{2}}):(?P<second>\d{{2}}(?:[.,]\d+)?)")
_ZONED = re.compile(rf":\d{{2}}\S*(?:\s*(?:{_NAMES})|[+-]\d{{2}}(?::?\d{{2}})?)\Z")
_DOT = 2  # group of the separator
_COMPACT = {1: "%Y%m%d", 10**4: "%Y%m%d%H%M", 10**6: "%Y%m%d%H%M%S"}
"""Formats of dates without separators, by what stands behind the day."""
_SHORT = "%y%m%d%H%M%S"
"""Another one, that may have as many digits."""


class Unread(NamedTuple):
    """Why a column holds no times.

    Attributes:
        row: of the first cell that shows it.
        why: what is wrong with it, and what to do, following `holds TEXT in line N`.
    """

    row: int
    why: str


def parse_dates(column: np.ndarray, date_format: str | None) -> np.ndarray | Unread:
    """Seconds since the first of a column of dates or times.

    A date without a zone is taken as if its clock never changed.

    Args:
        column: `[N]` of texts and of dates, None or NaN where there is none.
        date_format: `day-first`, `month-first`, a format of `strptime`, or None to find it out.

    Returns:
        `[N]` float64, NaN where there is none; or why not.
    """
    present = np.flatnonzero(~pandas.isna(column))
    for row in present:
        if isinstance(column[row], list | dict | np.ndarray):
            return Unread(int(row), "which is no date; name another column as dataset.columns.time")
    codes, cells = pandas.factorize(column[present])
    first = {code: int(present[int(np.argmax(codes == code))]) for code in (0,) if len(present)}
    if not len(cells):
        return np.full(len(column), np.nan)

    def row_of(code: int) -> int:
        return first.get(code, int(present[int(np.argmax(codes == code))]))

    texts = [each.strip() if isinstance(each, str) else each for each in cells]
    if date_format not in (None, DAY_FIRST, MONTH_FIRST):
        times = _by_format(texts, str(date_format))
    elif not all(isinstance(each, str) for each in texts):
        times = pandas.to_datetime(pandas.Series(texts, dtype=object), utc=True, errors="coerce")
        times = _seconds(times)
    else:
        found = _by_pattern(texts, date_format)
        if isinstance(found, Unread):
            return Unread(row_of(found.row), found.why)
        times = found
    # pandas takes `now` and `today` for the time at which it reads them.
    words = [isinstance(each, str) and not any(map(str.isdigit, each)) for each in texts]
    times = np.where(words, np.nan, times)
    if np.isnan(times).any():
        code = int(np.argmax(np.isnan(times)))
        how = (
            f"which does not follow dataset.date_format={one_line(str(date_format), 80)}"
            if date_format is not None
            else "which is neither a number nor a date such as 2026-01-31T12:00:00"
        )
        return Unread(
            row_of(code),
            f"{how}; say how dates are written, e.g. 'dataset.date_format=\"%d %b %Y %H:%M:%S\"', "
            "or set dataset.columns.time=[] if it is no time",
        )
    seconds = np.full(len(column), np.nan)
    seconds[present] = times[codes]
    return seconds - np.nanmin(seconds)


def parse_compact(column: np.ndarray) -> np.ndarray | None:
    """Seconds since the first of dates that are written as numbers, 20260131 or 20260131150405.

    As numbers they would jump at the end of every minute, hour, day and month.

    Args:
        column: `[N]` numbers, NaN where there is none.

    Returns:
        `[N]` float64, NaN where there is none; None of numbers that are no dates.
    """
    known = np.isfinite(column)
    numbers, codes = np.unique(column[known], return_inverse=True)
    if not len(numbers):
        return None
    written = [
        each
        for scale, each in _COMPACT.items()
        if numbers[0] >= 1900_01_01 * scale and numbers[-1] < 2101_01_01 * scale
    ]
    if numbers[0] >= 1e11 and numbers[-1] < 1e12:  # 12 digits, which may begin with 19 or 20 too
        written.append(_SHORT)
    if not written or (numbers % 1 != 0).any():
        return None
    texts = pandas.Series(numbers.astype(np.int64)).astype(str)
    for each in written:
        times = _seconds(pandas.to_datetime(texts, format=each, utc=True, errors="coerce"))
        if not np.isnan(times).any():
            seconds = np.full(len(column), np.nan)
            seconds[known] = times[codes] - times.min()
            return seconds
    return None


def _seconds(times: pandas.Series) -> np.ndarray:
    """Seconds since 1970 of dates with a zone."""
    # A unit in which any year has its place: pandas counts in nanoseconds, which end in 2262.
    since = times.dt.as_unit("us") - pandas.Timestamp(0, tz="UTC").as_unit("us")
    return since.dt.total_seconds().to_numpy(np.float64)


def _by_format(texts: list[str], date_format: str) -> np.ndarray:
    """Seconds, NaN where a text does not follow the format, or throughout where it is none."""
    try:
        series = pandas.Series(texts, dtype=object).astype(str)
        times = pandas.to_datetime(series, format=date_format, utc=True, errors="coerce")
        return _seconds(times)
    except (ValueError, TypeError, re.error):
        return np.full(len(texts), np.nan)


def _by_pattern(texts: list[str], order: str | None) -> np.ndarray | Unread:
    if _ELAPSED.fullmatch(texts[0]):
        clocks = [_ELAPSED.fullmatch(text) for text in texts]
        if all(clocks):
            days = [float(each["days"] or 0) for each in clocks if each]
            return 86_400.0 * np.array(days) + [_clock(each) for each in clocks if each]
    if _ISO.match(texts[0]) and order is None:  # what most programs write, and pandas reads fast
        times = _by_format_iso(texts)
        zones = pandas.Series(texts).str.contains(_ZONED)
        if not np.isnan(times).any() and (zones.all() or not zones.any()):
            return times
    matches = [_ISO.fullmatch(text) or _OTHER.fullmatch(text) for text in texts]
    unread = [code for code, each in enumerate(matches) if each is None]
    if unread:
        rest = _by_format_iso([texts[code] for code in unread])
        if np.isnan(rest).any():
            bad = unread[int(np.argmax(np.isnan(rest)))]
            return Unread(
                bad,
                "which is neither a number nor a date such as 2026-01-31T12:00:00; say how dates "
                "are written, e.g. 'dataset.date_format=\"%d %b %Y %H:%M:%S\"', or set "
                "dataset.columns.time=[] if it is no time",
            )
    zoned = [bool(each and each["zone"]) for each in matches]
    if any(zoned) and not all(zoned):
        return Unread(
            zoned.index(not zoned[0]),
            "of which some dates have a time zone and others have none; write all with one",
        )
    parts = [each.groupdict() if each else {} for each in matches]
    others = [code for code, each in enumerate(parts) if "a" in each]
    slashed = [code for code in others if matches[code][_DOT] != "."]  # type: ignore[index]
    pair = {code: (int(parts[code]["a"]), int(parts[code]["b"])) for code in slashed}
    day_first = [code for code in slashed if pair[code][0] > 12]
    month_first = [code for code in slashed if pair[code][1] > 12]
    if day_first and month_first and order is None:
        return Unread(
            month_first[0],
            "where the month comes first, and the day in other rows; write them alike, as "
            "2026-01-31T12:00:00",
        )

    def read(by_month: bool) -> np.ndarray:
        values = np.empty(len(texts), np.float64)
        for code, each in enumerate(parts):
            dotted = "a" in each and matches[code][_DOT] == "."  # type: ignore[index]
            # With dots the day comes first wherever people write so.
            values[code] = _date(each, by_month and not (dotted and order is None))
        if unread:
            values[unread] = rest
        return values

    if order is not None:
        return read(order == MONTH_FIRST)
    if not slashed or day_first or month_first:
        values = read(bool(month_first))
        if slashed and _is_year_first(parts, values):
            return Unread(
                slashed[0],
                "in which the year seems to come first; set 'dataset.date_format=\"%y/%m/%d "
                "%H:%M:%S\"' with the marks between as they are written, or "
                "dataset.date_format=day-first",
            )
        return values
    by_month, by_day = read(True), read(False)
    # Of one day both give the same steps, and nothing else is asked of a time.
    if np.allclose(by_month - by_month.min(), by_day - by_day.min(), rtol=0, atol=1e-6):
        return by_day
    return Unread(
        slashed[0],
        "in which day and month cannot be told apart; set dataset.date_format=day-first or "
        "dataset.date_format=month-first",
    )


def _is_year_first(parts: list[dict[str, str | None]], values: np.ndarray) -> bool:
    """Whether dates such as 26/01/31 span less time with the year first than as they were read."""
    if not all(each and len(each["year"] or "") == 2 and "a" in each for each in parts):
        return False
    turned = [each | {"a": each["year"], "year": each["a"]} for each in parts]
    others = np.array([_date(each, False) for each in turned])
    return bool(np.ptp(others) < np.ptp(values))  # not so with NaN


def _by_format_iso(texts: list[str]) -> np.ndarray:
    """Other dates of ISO 8601, 2026-01-31 or 20260131T120000."""
    series = pandas.Series(texts, dtype=object)
    return _seconds(pandas.to_datetime(series, format="ISO8601", utc=True, errors="coerce"))


def _date(parts: dict[str, str | None], by_month: bool) -> float:
    """Seconds since 1970, NaN for a day that there is not."""
    if not parts:
        return float("nan")
    year = int(parts["year"] or 0)
    if year < 100:
        year += 2000 if year < 69 else 1900  # as POSIX does
    if "a" in parts:
        first, second = int(parts["a"] or 0), int(parts["b"] or 0)
        month, day = (first, second) if by_month else (second, first)
    else:
        month, day = int(parts["month"] or 0), int(parts["day"] or 0)
    try:
        days = np.datetime64(f"{year:04d}-{month:02d}-{day:02d}", "D").astype(np.int64)
    except ValueError:
        return float("nan")
    return 86_400.0 * float(days) + _clock(parts) - _offset(parts.get("zone"))


def _clock(parts: "dict[str, str | None] | re.Match[str]") -> float:
    """Seconds since midnight, NaN for an hour that there is not."""
    hour, minute, second = (parts[key] for key in ("hour", "minute", "second"))
    if hour is None:
        return 0.0
    hours, half = int(hour), None if isinstance(parts, re.Match) else parts.get("half")
    if half is not None:
        if not 1 <= hours <= 12:
            return float("nan")
        hours = hours % 12 + (12 if half in "pP" else 0)
    seconds = float((second or "0").replace(",", "."))
    if int(minute or 0) > 59 or seconds >= 61:
        return float("nan")
    return 3600.0 * hours + 60.0 * int(minute or 0) + seconds


def _offset(zone: str | None) -> float:
    """Seconds of a zone ahead of UTC."""
    if zone is None or zone in _ZONES:
        return 0.0 if zone is None else 3600.0 * _ZONES[zone]
    digits = zone[1:].replace(":", "").ljust(4, "0")
    seconds = 3600.0 * int(digits[:2]) + 60.0 * int(digits[2:])
    return -seconds if zone[0] == "-" else seconds
