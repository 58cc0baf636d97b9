"""A reward as a formula of columns, `-(h2 - setpoint)**2 - 0.01 * valve**2`.

It is parsed by Python's own parser, and each part is looked up in the tables below: nothing of it
is ever run as Python.
"""

import ast
import re
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np

from reverie.datasets.tables.table import Table, bare
from reverie.mistake import Mistake
from reverie.text import one_line

_LONGEST = 2000
_DEEPEST = 50
_QUOTED = re.compile(r"`([^`]*)`")
NEXT = "next"
"""Before the name of a column, `next.h2`: its value in the following row of the episode."""

_BINARY: dict[type[ast.operator], Callable[..., Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
}
_UNARY: dict[type[ast.unaryop], Callable[..., Any]] = {ast.UAdd: np.positive, ast.USub: np.negative}
_COMPARE: dict[type[ast.cmpop], Callable[..., Any]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}
FUNCTIONS: dict[str, tuple[Callable[..., Any], int]] = {
    **{name: (getattr(np, name), 1) for name in ("abs", "sqrt", "exp", "log", "sin", "cos")},
    **{name: (getattr(np, name), 1) for name in ("tanh", "sign")},
    "min": (np.minimum, 2),
    "max": (np.maximum, 2),
    "clip": (np.clip, 3),
    "where": (lambda *parts: _choose(*parts), 3),
}
"""What may be called, by name, with the number of its arguments; `log` is the natural one."""


def evaluate(text: str, table: Table, ends: np.ndarray) -> tuple[np.ndarray, bool]:
    """The value of a formula in each row.

    Numbers, columns by name (without unit; in backquotes where the name has spaces or a unit must
    be said), `next.NAME`, `+ - * / **`, comparisons (1 or 0), and `FUNCTIONS`.

    Args:
        text: the formula.
        table: of N rows.
        ends: `[N]` bool, rows that no row of the same episode follows.

    Returns:
        `[N]` float64, NaN where a column is missing or where `next` is asked of an end; and
        whether the formula asks for the following row.

    Raises:
        Mistake: it cannot be parsed, or holds anything but the above, or an unknown name.
    """
    parsed = _Formula(text, table, ends)
    with np.errstate(all="ignore"):  # what is not finite is told where rows are judged
        value = np.broadcast_to(np.asarray(parsed.value, np.float64), (len(table),)).copy()
    return value, parsed.looks_ahead


class _Formula:
    def __init__(self, text: str, table: Table, ends: np.ndarray) -> None:
        self.text, self.table, self.ends = text, table, ends
        self.looks_ahead = False
        self._quoted: list[str] = []
        with np.errstate(all="ignore"):
            self.value = self._value(self._parse(), 0)

    def _parse(self) -> ast.expr:
        if len(self.text) > _LONGEST:
            raise self._mistake(f"it has {len(self.text):,} letters, at most {_LONGEST:,} are read")
        plain = _QUOTED.sub(self._keep, self.text).strip()
        if "#" in plain:  # Python would not read on
            raise self._mistake("names with # stand in backquotes, `tank #2`")
        try:
            return ast.parse(plain, mode="eval").body
        # The parser gives up on deep nesting in one of several ways.
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            told = error.msg if isinstance(error, SyntaxError) else type(error).__name__
            raise self._mistake(f"it is no formula ({told})") from error

    def _keep(self, found: re.Match[str]) -> str:
        self._quoted.append(found[1])
        return f"_quoted_{len(self._quoted) - 1}_"

    def _value(self, node: ast.expr, depth: int) -> Any:
        if depth > _DEEPEST:
            raise self._mistake(f"it is nested deeper than {_DEEPEST} parts; write it flatter")

        def of(part: ast.expr) -> Any:
            return self._value(part, depth + 1)

        match node:
            case ast.Constant(value=bool() | int() | float() as number):
                return np.float64(_as_float(number))
            case ast.Name(id=name):
                return self._column(name)
            case ast.Attribute(value=ast.Name(id="next"), attr=name):
                return self._following(self._column(name))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return _BINARY[type(op)](of(left), of(right))
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
                return _UNARY[type(op)](of(operand))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARE:
                return _unless_missing(_COMPARE[type(op)], of(left), of(right))
            case ast.Call(func=ast.Name(id=name), args=parts, keywords=[]) if name in FUNCTIONS:
                function, count = FUNCTIONS[name]
                if len(parts) != count:
                    raise self._mistake(f"{name} takes {count} values, found {len(parts)}")
                return function(*map(of, parts))
        raise self._mistake(
            f"{one_line(self._shown(node), 80)} is not allowed; use numbers, names of columns, "
            f"next.NAME, + - * / ** < > and {', '.join(FUNCTIONS)}"
        )

    def _shown(self, node: ast.expr) -> str:
        try:
            return ast.unparse(node)
        except (RecursionError, ValueError):
            return type(node).__name__

    def _column(self, name: str) -> np.ndarray:
        quoted = re.fullmatch(r"_quoted_(\d+)_", name)
        if quoted and int(quoted[1]) < len(self._quoted):
            name = self._quoted[int(quoted[1])]
        found = self.table.find(name)
        if found is None:  # Python's parser spells names in its own way: the micro sign as mu
            spelt = {unicodedata.normalize("NFKC", bare(each)): each for each in self.table.columns}
            found = spelt.get(name)
        if found is None:
            raise self._mistake(
                f"{self.table.source} has no column {name!r}; {self.table.near(name)}"
            )
        return self.table.numbers(found)

    def _following(self, column: np.ndarray) -> np.ndarray:
        self.looks_ahead = True
        after = np.append(column[1:], np.nan)
        after[self.ends] = np.nan
        return after

    def _mistake(self, why: str) -> Mistake:
        return Mistake(f"dataset.reward={one_line(self.text, 200)}: {why}")


def _unless_missing(compare: Callable[..., Any], left: Any, right: Any) -> np.ndarray:
    """1 or 0, and NaN of a missing value, which compares as false with everything."""
    missing = np.isnan(left) | np.isnan(right)
    return np.where(missing, np.nan, np.asarray(compare(left, right), np.float64))


def _choose(condition: Any, yes: Any, no: Any) -> np.ndarray:
    """One of two values, NaN where it is unknown which."""
    return np.where(np.isnan(condition), np.nan, np.where(condition != 0, yes, no))


def _as_float(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:
        return float("inf")
