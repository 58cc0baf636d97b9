"""Sweeps over cases of one kind: `make test` tries some of them, `make check` the others."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import pytest


def some(cases: Sequence[Any], step: int) -> list[Any]:
    """Every `step`-th case stays quick, the others are slow.

    A step that no number of options in the sweep divides meets all of them in turn.
    """
    return [each if index % step == 0 else _slow(each) for index, each in enumerate(cases)]


def some_of_each(cases: Sequence[Any], options: Iterable[Iterable[Hashable]]) -> list[Any]:
    """A case stays quick that has an option which no case before it has.

    Args:
        cases: of the sweep.
        options: those of each case.
    """
    seen: set[Hashable] = set()
    found = []
    for case, has in zip(cases, options, strict=True):
        new = set(has) - seen
        seen |= new
        found.append(case if new else _slow(case))
    return found


def _slow(case: Any) -> Any:
    if hasattr(case, "marks"):  # a `pytest.param`
        return pytest.param(*case.values, marks=(*case.marks, pytest.mark.slow), id=case.id)
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.slow)
