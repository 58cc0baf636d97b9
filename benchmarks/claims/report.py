"""What a paper claims beside what was measured: a table, a JSON file and an exit status."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reverie.benchmarks.claims.judging import Estimate
from reverie.benchmarks.speed.hardware import describe
from reverie.training.files import write_atomically, write_json
from reverie.training.launch.mistakes import one_line_errors

RESULTS = Path(__file__).parent.parent / "results"
AFTER = "after a first result"
"""The words that mark what was changed, narrowed or added when results had been seen."""


@dataclass(frozen=True)
class Claim:
    """One line of the result.

    Attributes:
        text: what is claimed, and where.
        expected: what should be seen.
        measured: what was seen.
        holds: whether it agrees; None where the line only informs.
        source: `paper`, or `ours` where the paper says nothing; behind a comma, what a reader
            should know besides, such as what was chosen `AFTER` results had been seen.
    """

    text: str
    expected: str
    measured: str
    holds: bool | None
    source: str = "paper"


@dataclass(frozen=True)
class Findings:
    """What came of a measurement.

    Attributes:
        claims: judged.
        details: everything behind them, for the JSON file.
        figures: by the names of their files, without `-quick` and the ending.
    """

    claims: Sequence[Claim]
    details: Mapping[str, Any]
    figures: Mapping[str, Figure] = field(default_factory=dict)


def run_command(
    name: str, title: str, description: str | None, measure: Callable[[bool], Findings]
) -> None:
    """Be `python -m benchmarks.claims.<name>`: measure, print, write, exit.

    The status is 1 where a claim fails.

    Args:
        measure: told whether the run is a quick one.
    """
    with one_line_errors():
        arguments = parser(name, description).parse_args()
        sys.exit(carry_out(name, title, arguments, lambda: measure(arguments.quick)))


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The options that every claim has."""
    found = argparse.ArgumentParser(
        prog=f"python -m benchmarks.claims.{name}", description=description
    )
    found.add_argument("--quick", action="store_true", help="under 5 minutes on two cores")
    found.add_argument("--output", type=Path, default=RESULTS, help="folder for JSON and plots")
    return found


def carry_out(
    name: str, title: str, arguments: argparse.Namespace, measure: Callable[[], Findings]
) -> int:
    """Measure, print and write; returns the exit status.

    Args:
        name: of the files.
        arguments: with `quick` and `output`.
    """
    begun = time.monotonic()
    found = measure()
    for stem, figure in found.figures.items():
        suffix = "-quick" if arguments.quick else ""
        save_figure(figure, arguments.output / f"{stem}{suffix}.png")
    return finish(
        name,
        title,
        found.claims,
        found.details,
        quick=arguments.quick,
        output=arguments.output,
        seconds=time.monotonic() - begun,
    )


def table(title: str, claims: Sequence[Claim]) -> Table:
    """Expected beside measured."""
    shown = Table(title=title, title_justify="left", show_lines=True)
    for column in ("claim", "expected", "measured", "holds"):
        shown.add_column(column)
    for claim in claims:
        verdict = {True: "yes", False: "NO", None: "-"}[claim.holds]
        text = claim.text if claim.source == "paper" else f"{claim.text} [{claim.source}]"
        shown.add_row(*map(escape, (text, claim.expected, claim.measured, verdict)))
    return shown


def finish(
    name: str,
    title: str,
    claims: Sequence[Claim],
    details: Mapping[str, Any],
    *,
    quick: bool,
    output: Path,
    seconds: float,
) -> int:
    """Print, write `<name>[-quick].json`, and return the exit status: 1 where a claim fails."""
    Console().print(table(title, claims))
    path = output / f"{name}{'-quick' if quick else ''}.json"
    report = {
        "benchmark": name,
        "title": title.partition(":")[0],
        "date": date.today().isoformat(),
        "quick": quick,
        "hardware": describe(torch.device("cpu")),
        "seconds": seconds,
        "claims": [asdict(claim) for claim in claims],
        **details,
    }
    write_json(path, json.loads(json.dumps(report, default=_plain)))
    print(f"written: {path}, after {seconds / 60:.1f} minutes")
    return 1 if any(claim.holds is False for claim in claims) else 0


def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture atomically."""
    FigureCanvasAgg(figure)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))


def draw_range(
    ax: Axes, at: Any, by_seed: Any, *, label: str | None, color: str, line: str = "-"
) -> None:
    """Draw the mean and the range over seeds of values `[S, T]`."""
    values = np.asarray(by_seed)
    ax.plot(at, values.mean(0), line, color=color, label=label)
    ax.fill_between(at, values.min(0), values.max(0), color=color, alpha=0.2)


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return asdict(value)
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
