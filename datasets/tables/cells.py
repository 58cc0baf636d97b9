"""Cells of text as numbers: decimal points or commas, thousands separators, missing values."""

import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from numbers import Number
from typing import Any, Literal

import numpy as np
import pandas

Decimal = Literal[".", ","]
DECIMALS: tuple[Decimal, Decimal] = (".", ",")

MISSING = frozenset(
    (
        *("", "-", "--", "---", "----", "?", "nan", "na", "n/a", "n.a.", "n. a.", "null", "none"),
        *("nv", "k.a.", "<na>", "nat", "missing"),
        # Of historians of process data.
        *("bad", "bad input", "bad data", "bad quality", "no data", "no sample", "i/o timeout"),
        *("comm fail", "pt created", "scan off", "scan timeout", "shutdown", "not connect"),
        *("out of serv", "configure", "under range", "over range", "no result"),
    )
)
"""Texts that stand for no value, in lower case."""
# Errors of spreadsheets, in any language: #VALUE!, #DIV/0!, #NAME?, #N/A, #WERT!, #NV, a narrow
# cell; and what C of Windows prints for no number, 1.#INF or -1.#IND00.
_ERROR = re.compile(r"#[^\W\d_]+(/[^\W\d_]+|/0)?[!?]?\Z|#{3,}\Z|[+-]?1[.,]#[A-Z]+\d*\Z")
# What may stand between groups of three digits in any country.
_SPACES = re.compile("(?<=\\d)[\u00a0\u202f\u2009 '\u2019](?=\\d{3}(?!\\d))")
_FRACTION = {
    ".": re.compile(r"[+-]?(\d*\.\d*|\d{1,3}(,\d{3})+\.\d*|\d{1,3}(,\d{3}){2,})(e[+-]?\d+)?", re.I),
    ",": re.compile(r"[+-]?(\d*,\d*|\d{1,3}(\.\d{3})+,\d*|\d{1,3}(\.\d{3}){2,})(e[+-]?\d+)?", re.I),
}
_EITHER = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")
_GROUPED = {
    ".": re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?"),
    ",": re.compile(r"[+-]?\d{1,3}(\.\d{3})+(,\d*)?"),
}
_WITH_UNIT = re.compile(
    "([+\\-\u2212]?[\\d.,' \u00a0\u202f\u2009\u2019]*\\d(?:e[+-]?\\d+)?)\\s*"
    "((?:[^\\W\\d_]|[%\u2030\u00b0$\u20ac\u00a3])\\S{0,11})",
    re.I,
)
_NO_UNIT = re.compile(r"[de][+-]?\d+|[ap]\.?m\.?", re.I)
"""An exponent, also Fortran's, and the half of a day."""


_YES_NO = {
    word: float(number)
    for pair in (("false", "true"), ("no", "yes"), ("off", "on"), ("n", "y"), ("f", "t"))
    for number, word in enumerate(pair)
}
"""Words for 0 and 1, in lower case, of a column that holds nothing else."""


@dataclass(frozen=True)
class Numbers:
    """A column of text as numbers.

    Attributes:
        values: `[N]` float64, NaN where there is none.
        text: `[N]` bool, cells that are text and no mark of a missing value.
        unclear: row of a cell that is one number with a decimal point and another with a decimal
            comma, where nothing tells which; None for none.
    """

    values: np.ndarray
    text: np.ndarray
    unclear: int | None


def plain(cell: str) -> str:
    """A cell without what surrounds or groups its digits."""
    cell = cell.replace("\ufeff", "").replace("\u2212", "-")  # a mark of joined files, a minus
    return _SPACES.sub("", cell.strip())


def is_missing(cell: str, also: Collection[str] = ()) -> bool:
    """Whether a text says that there is no value; `also` holds more such texts."""
    cell = cell.strip()
    return cell.lower() in MISSING or _ERROR.match(cell) is not None or cell in also


def split_unit(cell: object) -> tuple[str, str] | None:
    """A number and the unit behind it in one cell, `1.2 cm`; None of anything else."""
    found = _WITH_UNIT.fullmatch(cell.strip()) if isinstance(cell, str) else None
    return None if found is None or _NO_UNIT.fullmatch(found[2]) else (found[1], found[2])


def take_unit(column: np.ndarray, missing: Collection[str]) -> tuple[np.ndarray, str] | None:
    """A column in which one unit stands behind each number, as `[N]` of numbers, and the unit.

    None where a cell holds anything else, or all hold the same.
    """
    if column.dtype.kind not in "OUT":
        return None
    absent = pandas.isna(column)
    if not all(isinstance(each, str) for each in column[~absent]):
        return None
    codes, cells = pandas.factorize(np.where(absent, "", column))
    bare: list[str] = []
    units: set[str] = set()
    for cell in cells:
        if is_missing(cell, missing):
            bare.append("")
            continue
        found = split_unit(cell)
        units |= set() if found is None else {found[1]}
        if found is None or len(units) > 1:
            return None
        bare.append(found[0])
    if len({*bare} - {""}) < 2:
        return None
    return np.array(bare, dtype=object)[codes], units.pop()


def marking_numbers(missing: Collection[str | int | float]) -> list[float]:
    """The numbers among marks of missing values, such as -999."""
    found = []
    for each in missing:
        with suppress(ValueError):
            found.append(float(each))
    return found


def decimals_of(cell: str) -> Collection[Decimal]:
    """What may be the decimal mark of a cell: one, both where it is unclear, none without any."""
    if _EITHER.fullmatch(cell):
        return DECIMALS
    return [
        mark
        for mark in DECIMALS
        if _FRACTION[mark].fullmatch(cell) and any(letter.isdigit() for letter in cell)
    ]


def parse_numbers(
    column: np.ndarray, decimal: Decimal | None, usual: Decimal | None, missing: Collection[str]
) -> Numbers:
    """A column of objects as numbers.

    Args:
        column: `[N]` of anything.
        decimal: the decimal mark that is given, None to find it out.
        usual: the decimal mark of the other columns, for what a column does not tell; None for
            unknown.
        missing: texts that stand for no value besides `MISSING`.
    """
    values = np.full(len(column), np.nan)
    absent = pandas.isna(column)
    is_text = np.fromiter((isinstance(each, str) for each in column), bool, len(column)) & ~absent
    bad = np.zeros(len(column), bool)
    for row in np.flatnonzero(~is_text & ~absent):
        bad[row] = not isinstance(column[row], Number)  # a date, for example
        values[row] = np.nan if bad[row] else float(column[row])
    rows = np.flatnonzero(is_text)
    # A log repeats itself: each text is looked at once.
    codes, texts = pandas.factorize(column[rows])
    cells = [plain(str(each)) for each in texts]
    words = {cell.lower() for cell in cells if not is_missing(cell, missing)}
    if words and words <= _YES_NO.keys() and len(rows) + int(absent.sum()) == len(column):
        cells = [
            cell if is_missing(cell, missing) else f"{_YES_NO[cell.lower()]:g}" for cell in cells
        ]
    marks: list[Collection[Decimal]] = [decimals_of(cell) for cell in cells]
    unclear = None
    if decimal is None:
        sure = {mark for each in marks if len(each) == 1 for mark in each}
        decimal = sure.pop() if len(sure) == 1 else None
        # Of whole numbers in groups, `1.250`, the other columns do not tell.
        settled = decimal is not None
        decimal = decimal or usual
        for code, each in enumerate(marks):
            read_as_group = decimal is None or _GROUPED[decimal].fullmatch(cells[code])
            if len(each) == 2 and read_as_group and not (settled and _any_group(cells, decimal)):
                unclear = int(rows[int(np.argmax(codes == code))])
                break
        decimal = decimal or "."
    numbers = np.array([_number(cell, decimal, missing) for cell in cells], np.float64)
    text = np.array([np.isnan(n) for n in numbers], bool) & np.array(
        [not is_missing(str(each), missing) for each in texts], bool
    )
    if len(rows):
        values[rows] = numbers[codes]
        bad[rows] = text[codes]
    return Numbers(values, bad, unclear)


def _any_group(cells: Collection[str], decimal: Decimal | None) -> bool:
    """Whether a cell shows that thousands are set apart: two marks, or two groups."""
    return decimal is not None and any(
        _GROUPED[decimal].fullmatch(cell) and not _EITHER.fullmatch(cell) for cell in cells
    )


def _number(cell: str, decimal: Decimal, missing: Collection[str]) -> float:
    if is_missing(cell, missing):
        return float("nan")
    other = DECIMALS[1 - DECIMALS.index(decimal)]
    if _GROUPED[decimal].fullmatch(cell):
        cell = cell.replace(other, "")
    if other in cell or "_" in cell:
        return float("nan")
    try:
        return float(cell.replace(",", "."))
    except ValueError:
        return float("nan")


def as_missing(cell: Any) -> str:
    """What to call a cell without a number: its text, or empty."""
    if isinstance(cell, str) and cell.strip():
        return repr(cell.strip())
    return "empty or NaN" if pandas.isna(cell) or isinstance(cell, str) else str(cell)
