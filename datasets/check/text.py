"""A report as lines of text, which never breaks a number, however narrow the terminal is."""

import math
from collections.abc import Iterator, Sequence

from rich.console import Console

from reverie.datasets.check.columns import EDGE, Column
from reverie.datasets.check.report import QUANTILES, Report
from reverie.datasets.check.values import list_dims
from reverie.datasets.dataset import Dataset
from reverie.text import counted, printable

SHOWN = 40
"""Observations, and actions, of which the table shows a line each."""


def show(dataset: Dataset, found: Report, console: Console) -> None:
    """Print a report: tables, then each warning and problem in a line of its own.

    Lines are never cut or folded, so that numbers stay whole in a pipe too.
    """
    for line in _lines(dataset, found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _lines(dataset: Dataset, found: Report) -> Iterator[str]:
    spec = dataset.spec
    yield dataset.name
    facts = _facts(dataset, found)
    width = max(map(len, facts))
    yield from (f"  {label:<{width}}  {value}" for label, value in facts.items())
    yield ""
    quantiles = {"reward": found.rewards, "length": found.lengths, "return": found.returns}
    quantiles |= {"score": found.scores} if found.scores is not None else {}
    yield from _table(
        ["", *QUANTILES],
        [[label, *_numbers(values)] for label, values in quantiles.items()],
    )
    yield ""
    yield from _columns(found.columns, (spec.obs_dim, spec.action_dim))
    if spec.action_names and {*spec.action_low} | {*spec.action_high} != {-1.0, 1.0}:
        yield "  actions are in their own units here; what learns sees their box as [-1, 1]"
    yield ""
    yield "episodes by length"
    tallest = max(found.histogram)
    for low, high, count in zip(found.edges, found.edges[1:], found.histogram, strict=False):
        bar = "#" * round(30 * count / tallest)
        yield f"{low:10,.0f} to {high:8,.0f} {count:9,} {bar}".rstrip()
    yield from (f"warning: {each}" for each in found.warnings)
    yield from (f"problem: {each}" for each in found.problems)
    if not found.problems:
        yield "nothing found that would poison training"


def _facts(dataset: Dataset, found: Report) -> dict[str, str]:
    spec, reference = dataset.spec, dataset.reference
    return {
        **dataset.origin,
        "environment": f"{spec.env_id or 'none'} (physics {spec.physics})",
        "spaces": f"{counted(spec.obs_dim, 'observation')}, {counted(spec.action_dim, 'action')}",
        "rows": f"{found.rows:,}",
        "episodes": f"{found.episodes:,}",
        "terminals": f"{found.terminals:,} ({found.terminals / found.rows:.2%} of rows)",
        "time limits and cuts": f"{found.time_limits:,}",
        "rows without next obs": f"{found.without_next:,}",
        **({"rows without action": f"{found.without_action:,}"} if found.without_action else {}),
        "NaN or Inf": ", ".join(f"{key} {n:,}" for key, n in found.not_finite.items()) or "none",
        "duplicate rows": f"{found.duplicates:,}",
        **(
            {"exogenous": list_dims(list(map(printable, spec.exogenous_labels)))}
            if spec.exogenous
            else {}
        ),
        "constant observations": list_dims(_named(spec.obs_names, found.constant_obs)),
        "equal observations": list_dims(
            ["=".join(_named(spec.obs_names, pair)) for pair in found.equal_obs]
        ),
        "constant actions": list_dims(_named(spec.action_names, found.constant_action)),
        "reference": "none (raw returns only)"
        if reference is None
        else f"0 = {reference.low:g}, 100 = {reference.high:g} ({reference.source})",
        "fingerprint": dataset.fingerprint,
    }


def _named(names: Sequence[str], dims: Sequence[int]) -> list[str]:
    """Dimensions by name, or by number where there are no names."""
    return [printable(names[dim]) if names else str(dim) for dim in dims]


def _columns(columns: Sequence[Column], sizes: tuple[int, int]) -> list[str]:
    """A line for each column, of many observations and actions (`sizes`) only the first ones."""
    observations, actions = sizes
    shown = [
        *columns[:observations][:SHOWN],
        *columns[observations : observations + actions][:SHOWN],
        columns[-1],
    ]
    cells = [
        [
            each.name,
            *_numbers((each.min, each.max, each.mean)),
            *_numbers((each.std,)),
            f"{each.repeats:.1%}",
            "-" if each.step is None else f"{each.step:g}",
            "-" if each.at_edge is None else f"{each.at_edge:.1%}",
        ]
        for each in shown
    ]
    header = ["", "min", "max", "mean", "std", "repeats", "unit step", f"|a| > {EDGE}"]
    lines = _table(header, cells)
    if len(shown) < len(columns):
        left = len(columns) - len(shown)
        lines.append(f"  ... and {left:,} more columns; --json FILE has them all")
    return lines


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned lines, the first cells to the left, numbers to the right."""
    widths = [max(map(len, cells)) for cells in zip(header, *rows, strict=True)]
    return [
        f"  {row[0]:<{widths[0]}}  "
        + "  ".join(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in (header, *rows)
    ]


def _numbers(values: Sequence[float]) -> list[str]:
    """Numbers of a line with four digits, or as many as tell them apart: 101,325 and 101,327."""
    largest, spread = max(map(abs, values)), max(values) - min(values)
    apart = math.log10(largest / spread) if 0 < spread < math.inf else 0.0
    digits = min(max(4, 3 + math.ceil(apart)), 9)
    return [f"{value:z,.{digits}g}" for value in values]
