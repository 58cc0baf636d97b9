"""How much faster a run trains than an earlier checkout: `python -m benchmarks.speed.since FOLDER`.

Starts `train.py` of both checkouts in turns, as a user would: with the threads, the waiting policy
and the compiler that each chooses by itself, eager and compiled, on an idle machine and beside a
process that multiplies matrices on every core. Counts updates a second by the wall clock, once the
first rows of `metrics.csv` are there: start, compilation and fits are not counted. The other
checkout needs nothing but this environment's packages.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from rich.console import Console

import reverie
from reverie.benchmarks.claims.report import RESULTS, Claim, Findings, carry_out
from reverie.mistake import Mistake
from reverie.training.launch.mistakes import one_line_errors

NAME = "speed-since"
TITLE = "Updates per second of whole runs, beside those of an earlier checkout"
MODEL = ("world_model.max_epochs=1", "source.starts=1000")
PRESETS: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "bc": (50, ()),
    "td3_bc": (20, ()),
    "iql": (20, ()),
    "cql": (5, ()),
    "sac_n": (10, ()),
    "edac": (5, ()),
    "mopo": (20, MODEL),
    "ravl": (5, MODEL),
    "mobile": (5, MODEL),
}
"""Updates between two rows of metrics, and changed settings: how fast a model is fitted and rolled
out is measured elsewhere."""
COMMON = (
    "dataset=builtin/pendulum-mixed",
    "~tuned",
    "updates=1000000",
    "evaluate.every=0",
    "probe_starts=0",
    "value_gap.starts=0",
)
SECONDS, QUICK_SECONDS, START_SECONDS = 10.0, 3.0, 900.0
WARM_UP_ROWS = 2
ALLOWANCE = 0.05
"""Share by which a rate may fall short and still be noise."""
BUSY = "import torch; a = torch.randn(1024, 1024)\nwhile True: a @ a"
POLL = 0.02


def measure(earlier: Path, presets: list[str], quick: bool) -> Findings:
    """Run everything, the two checkouts in turns; an interrupt ends it with the presets so far."""
    seconds = QUICK_SECONDS if quick else SECONDS
    checkouts = {"before": earlier, "now": Path(reverie.__file__).parents[1]}
    rows: list[dict[str, Any]] = []
    with suppress(KeyboardInterrupt):
        for preset in presets:
            own = [
                run_both(checkouts, preset, load, compiled, seconds)
                for load in ("idle", "busy")
                for compiled in (False, True)
            ]
            rows += own
    if not rows:
        raise Mistake("no preset was measured to its end; let it run longer")
    return Findings(
        claim_all(rows),
        {"runs": rows, "tables": [tabulate(rows)], "revision": revision(earlier)},
        {NAME: draw(rows)},
    )


def run_both(
    checkouts: Mapping[str, Path], preset: str, load: str, compiled: bool, seconds: float
) -> dict[str, Any]:
    """Updates per second by checkout, one after the other, and what was run."""
    row: dict[str, Any] = {"preset": preset, "load": load, "compiled": compiled}
    for name, checkout in checkouts.items():
        with other_work() if load == "busy" else nullcontext():
            row[name] = updates_per_second(checkout, preset, compiled, seconds)
    Console().print(describe(row), highlight=False)
    return row


def updates_per_second(checkout: Path, preset: str, compiled: bool, seconds: float) -> float:
    """Of a run that is killed once it has trained for so long.

    Raises:
        Mistake: the run ended, or trained nothing for `START_SECONDS`.
    """
    between, changes = PRESETS[preset]
    budget = ("budget=paper",) if (checkout / "conf" / "budget").is_dir() else ()
    with TemporaryDirectory() as folder:
        metrics, log = Path(folder, "run", "metrics.csv"), Path(folder, "log")
        settings = [f"algorithm={preset}", f"compile={str(compiled).lower()}", *changes, *budget]
        settings += [f"log_every={between}", f"run_dir={metrics.parent}"]
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "train.py", *COMMON, *settings],
                cwd=checkout,
                env=untouched(),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                return watch(process, metrics, seconds, between)
            except Mistake as error:
                said = log.read_text().strip().splitlines() or ["nothing was printed"]
                raise Mistake(f"{checkout}, algorithm={preset}: {error}: {said[-1]}") from None
            finally:
                process.kill()
                process.wait()


def watch(process: Any, metrics: Path, seconds: float, between: int) -> float:
    """Updates a second, between the times at which rows were written."""
    begun, first = time.monotonic(), None
    while True:
        time.sleep(POLL)
        found = last_row(metrics)
        if first is None and found is not None and found[0] >= WARM_UP_ROWS * between:
            first, begun = found, time.monotonic()
        waited = time.monotonic() - begun
        if first is None and waited > START_SECONDS:
            raise Mistake(f"it trained nothing for {START_SECONDS:.0f} seconds")
        if process.poll() is not None:
            raise Mistake("it ended")
        if first and found and waited > seconds and found[0] > first[0]:
            return (found[0] - first[0]) / (found[1] - first[1])


def last_row(metrics: Path) -> tuple[int, float] | None:
    """The last update that stands in the file, and when it was written; None without any."""
    try:
        changed = metrics.stat().st_mtime
        with metrics.open("rb") as file:
            file.seek(max(0, metrics.stat().st_size - 4096))
            lines = file.read().splitlines()[:-1]  # the last may not be whole
        return (int(lines[-1].split(b",")[0]), changed) if len(lines) > 1 else None
    except (OSError, ValueError):
        return None


def untouched() -> dict[str, str]:
    """The environment without what this process was told about threads, or told itself."""
    own = ("OMP_", "GOMP_", "KMP_")
    return {key: value for key, value in os.environ.items() if not key.startswith(own)}


@contextmanager
def other_work() -> Iterator[None]:
    """A process that keeps every core busy, as programs do that know nothing of each other."""
    process = subprocess.Popen([sys.executable, "-c", BUSY], env=untouched())
    try:
        yield
    finally:
        process.kill()
        process.wait()


def revision(checkout: Path) -> str:
    """What git calls it; empty where it is no repository."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def ratio(row: Mapping[str, Any]) -> float:
    """How many times faster it is now."""
    return float(row["now"] / row["before"])


def kind(row: Mapping[str, Any]) -> str:
    """The column of a run."""
    return f"{'compiled' if row['compiled'] else 'eager'}, {row['load']}"


def describe(row: Mapping[str, Any]) -> str:
    """A run in a line."""
    return (
        f"{row['preset']}, {kind(row)}: {row['before']:.3g} -> {row['now']:.3g} updates/s, "
        f"{ratio(row):.2f} times"
    )


def claim_all(rows: list[dict[str, Any]]) -> list[Claim]:
    """That nothing became slower, by kind of run."""
    claims = []
    for name in dict.fromkeys(map(kind, rows)):
        own = {row["preset"]: ratio(row) for row in rows if kind(row) == name}
        slowest = min(own, key=lambda preset: own[preset])
        claims.append(
            Claim(
                f"{name}: updates a second now over those before, of the slowest preset",
                f"at least {1 - ALLOWANCE:g}",
                f"{own[slowest]:.2f} ({slowest}); median {np.median(list(own.values())):.2f}",
                own[slowest] >= 1 - ALLOWANCE,
                "ours",
            )
        )
    return claims


def tabulate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Presets by kinds of runs."""
    kinds = list(dict.fromkeys(map(kind, rows)))
    by_preset: dict[str, list[str]] = {}
    for row in rows:
        told = f"{row['before']:.3g} -> {row['now']:.3g} ({ratio(row):.2f})"
        by_preset.setdefault(row["preset"], []).append(told)
    return {
        "caption": "Updates per second, before and now, by the wall clock",
        "header": ["preset", *kinds],
        "rows": [[preset, *own] for preset, own in by_preset.items()],
    }


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Ratios by preset and kind of run."""
    kinds = list(dict.fromkeys(map(kind, rows)))
    presets = list(dict.fromkeys(row["preset"] for row in rows))
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(kinds)
    for index, name in enumerate(kinds):
        own = {row["preset"]: ratio(row) for row in rows if kind(row) == name}
        at = np.arange(len(presets)) + (index - (len(kinds) - 1) / 2) * width
        axes.bar(at, [own[preset] for preset in presets], width, label=name)
    axes.axhline(1, color="0.4", lw=1)
    axes.set_yscale("log")
    axes.set_yticks([0.5, 1, 2, 5, 10, 20, 50, 100])
    axes.yaxis.set_major_formatter(ScalarFormatter())
    ratios = [ratio(row) for row in rows]
    axes.set_ylim(0.8 * min(1, *ratios), 1.2 * max(1, *ratios))
    axes.set_xticks(range(len(presets)), presets)
    axes.set(ylabel="times faster than before")
    axes.legend(ncols=len(kinds), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return figure


def main() -> int:
    """Be the command; returns the exit status, 1 where something became slower."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.speed.since", description=__doc__)
    options.add_argument("checkout", type=Path, help="folder of the earlier checkout")
    options.add_argument("--only", nargs="+", choices=list(PRESETS), help="some of the presets")
    options.add_argument("--quick", action="store_true", help="td3_bc alone, for some seconds")
    options.add_argument("--output", type=Path, default=RESULTS, help="folder for JSON and plot")
    arguments = options.parse_args()
    if not (arguments.checkout / "train.py").is_file():
        raise Mistake(f"{arguments.checkout} is no checkout, for it holds no train.py; git clone")
    presets = arguments.only or (["td3_bc"] if arguments.quick else list(PRESETS))
    earlier = arguments.checkout.resolve()
    return carry_out(NAME, TITLE, arguments, lambda: measure(earlier, presets, arguments.quick))


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
