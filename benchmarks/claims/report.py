"""What a paper claims beside what was measured: a table, a JSON file and an exit status."""

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reverie.benchmarks.speed.hardware import describe
from reverie.training.files import write_atomically, write_json

RESULTS = Path(__file__).parent.parent / "results"

# Student's t, two-sided 95 %, by number of samples.
_T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval.

    Attributes:
        mean: over seeds.
        half_width: of Student's interval for the mean; NaN for a single seed.
        values: one a seed.
    """

    mean: float
    half_width: float
    values: list[float]

    def __str__(self) -> str:
        return f"{self.mean:.3g} ± {self.half_width:.2g}"


@dataclass(frozen=True)
class Claim:
    """One line of the result.

    Attributes:
        text: what is claimed, and where.
        expected: what should be seen.
        measured: what was seen.
        holds: whether it agrees; None where the line only informs.
        source: `paper`, or `ours` where the paper says nothing.
    """

    text: str
    expected: str
    measured: str
    holds: bool | None
    source: str = "paper"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and interval of one number a seed."""
    table = np.asarray(values, float)
    count = len(table)
    half = math.nan
    if count > 1:
        half = _T95.get(count, 1.96) * float(table.std(ddof=1)) / math.sqrt(count)
    return Estimate(float(table.mean()), half, table.tolist())


def parse(name: str, description: str | None) -> argparse.Namespace:
    """The options that every claim has."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.claims.{name}", description=description
    )
    parser.add_argument("--quick", action="store_true", help="under 5 minutes on two cores")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for JSON and plots")
    return parser.parse_args()


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


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """A result and the seconds of this process that it took, whatever else the machine did.

    An arm has a process and a thread of its own, so these are the wall-clock of an idle machine.
    """
    begun = time.process_time()
    return work(), time.process_time() - begun


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return asdict(value)
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
