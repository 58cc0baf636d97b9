"""Numbers of a report in cells, and its results for other programs: CSV, and LaTeX for a paper."""

import csv
import io
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reverie.training.report.page import CSV_HEADER, LATEX_HEADER
from reverie.training.results import statistics
from reverie.training.results.statistics import Interval, bootstrap

_LATEX = {
    **{each: f"\\{each}" for each in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


class Score(NamedTuple):
    """One number of the tables of results.

    Attributes:
        method, task: names.
        seeds: that it is the mean of.
        unit: `score` or `return`.
        measure: which evaluations.
        interval: mean, and its bounds, which are NaN of one seed.
    """

    method: str
    task: str
    seeds: int
    unit: str
    measure: str
    interval: Interval


def as_csv(scores: Sequence[Score]) -> str:
    """A line a number, every digit of it; bounds of one seed are empty."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(CSV_HEADER.split(","))
    for *names, found in scores:
        bounds = ["" if np.isnan(each) else float(each) for each in (found.low, found.high)]
        writer.writerow([*map(_harmless, names), float(found.estimate), *bounds])
    return written.getvalue()


def as_latex(scores: Sequence[Score]) -> str:
    """Methods by tasks, the mean of the first measure with its interval; the best mean is bold."""
    first = [each for each in scores if each.measure == scores[0].measure]
    methods = list(dict.fromkeys(each.method for each in first))
    tasks = list(dict.fromkeys(each.task for each in first))
    cells = {(each.method, each.task): each.interval for each in first}
    best = {
        task: max((m for m in methods if (m, task) in cells), key=lambda m: mean(cells[m, task]))
        for task in tasks
    }
    lines = [
        LATEX_HEADER,
        rf"\begin{{tabular}}{{l{'r' * len(tasks)}}}",
        r"\toprule",
        " & ".join(["", *map(_escape, tasks)]) + r" \\",
        r"\midrule",
    ]
    for method in methods:
        row = [
            _cell(cells[method, task], bold=best[task] == method)
            if (method, task) in cells
            else "--"
            for task in tasks
        ]
        lines.append(" & ".join([_escape(method), *row]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def mean(found: Interval) -> float:
    """Of a number of one seed or of several."""
    return float(found.estimate)


def _cell(found: Interval, *, bold: bool) -> str:
    shown = f"{mean(found):.1f}"
    shown = rf"\textbf{{{shown}}}" if bold else shown
    if np.isnan(found.low):
        return shown
    return rf"{shown} {{\scriptsize [{found.low:.1f}, {found.high:.1f}]}}"


def _escape(text: str) -> str:
    """A name in LaTeX."""
    return re.sub(r"[&%$#_{}\\~^]", lambda sign: _LATEX[sign[0]], text)


def _harmless(value: object) -> object:
    """A name that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@" else value


def cell(values: Sequence[float], digits: int = 1) -> str:
    """Mean over seeds with its interval; never a mean of one that looks like a mean of many."""
    if not values:
        return "-"
    broken = sum(not np.isfinite(value) for value in values)
    if broken:
        return f"not finite in {broken} of {len(values)} seeds"
    return interval(bootstrap(statistics.mean, statistics.columns([values])), digits)


def interval(found: Interval, digits: int = 1) -> str:
    """`estimate [low, high]`."""
    if np.isnan(found.low):
        return f"{found.estimate:.{digits}f} (one seed)"
    return f"{found.estimate:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"
