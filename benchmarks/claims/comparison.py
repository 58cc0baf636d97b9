"""Presets beside each other on the same tasks: records of trainings, tables, alarms, the command.

Each finished (method, task) is recorded under a digest of its settings and its data, so that a
stopped command goes on with the next one. What is compared, at which budget, and what is claimed of
it, is for each benchmark to say.
"""

import argparse
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reverie import datasets
from reverie.benchmarks.claims.judging import Estimate, estimate, plain
from reverie.benchmarks.claims.report import AFTER, Claim, parser
from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake, Unwritable
from reverie.training.files import write_json
from reverie.training.results.summary import behaviour
from reverie.training.run import Run
from reverie.training.run_directory import CARRIED_OUT, claimed, flat
from reverie.training.stored import read_record

LAST = 2
"""Evaluations of each seed whose mean is its return."""
HEADER = ("method", "return", "score", "alarms", "minutes")

_LATER = ("extend",)
"""Settings that came after the first records, which had null in their place."""
Record = Mapping[str, Any]
"""What `train_or_read` returns."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A dataset whose task can be played.

    Attributes:
        dataset, options: its option and settings of it.
        unsuited: methods that are not trained on it, and why.
    """

    dataset: str
    options: Mapping[str, Any] = field(default_factory=dict)
    unsuited: Mapping[str, str] = field(default_factory=dict)

    def load(self) -> Dataset:
        """All of it; Minari's is found through MINARI_DATASETS_PATH."""
        return datasets.load(self.dataset, **self.options)


@dataclass(frozen=True)
class Budget:
    """What every benchmark decides; its own say the rest.

    Attributes:
        seeds: S, replicas in one process.
    """

    seeds: int


B = TypeVar("B", bound=Budget)
T = TypeVar("T", bound=Task)


@dataclass(frozen=True)
class Comparison(Generic[B, T]):
    """A benchmark.

    Attributes:
        name: of its command and its files.
        methods: presets, longest first.
        tasks: by name, all that can be asked for.
        usual: those that are taken where nobody asks.
        budget: how long everything takes.
        quick: methods, tasks and budget of `--quick`.
    """

    name: str
    methods: Sequence[str]
    tasks: Mapping[str, T]
    usual: Sequence[str]
    budget: B
    quick: tuple[Sequence[str], Sequence[str], B]


def options(comparison: Comparison[B, T], description: str | None) -> argparse.ArgumentParser:
    """Of the command line."""
    name, methods, tasks = comparison.name, comparison.methods, comparison.tasks
    found = parser(name, description)
    found.add_argument("--only", nargs="+", metavar="METHOD", choices=methods, help="these presets")
    found.add_argument("--datasets", nargs="+", choices=tuple(tasks), help="these datasets")
    found.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help=f"replicas in one process; {comparison.budget.seeds}",
    )
    found.add_argument(
        "--records",
        type=Path,
        default=Path("runs") / name,
        help="folder of what is finished, from which a stopped command goes on",
    )
    return found


def choose(
    comparison: Comparison[B, T], arguments: argparse.Namespace
) -> tuple[str, list[str], list[str], B]:
    """What to train, and the name of its files: a part never takes the place of the whole.

    Raises:
        Mistake: a single seed, which has no interval; a dataset that suits none of the methods.
    """
    chosen = (comparison.methods, comparison.usual, comparison.budget)
    all_methods, usual, budget = comparison.quick if arguments.quick else chosen
    methods = arguments.only or list(all_methods)
    tasks = arguments.datasets or list(usual)
    if arguments.seeds is not None:
        if arguments.seeds < 2:
            raise Mistake(f"--seeds {arguments.seeds} leaves no interval; give at least 2")
        budget = replace(budget, seeds=arguments.seeds)
    for name in tasks:
        unsuited = comparison.tasks[name].unsuited
        if set(methods) <= set(unsuited):
            raise Mistake(
                f"--datasets {name} leaves nothing to train with --only {' '.join(methods)}, "
                f"{unsuited[methods[0]]}; add a method, or give other --datasets"
            )
    part = bool(arguments.only or arguments.datasets or arguments.seeds)
    return f"{comparison.name}-part" if part else comparison.name, methods, tasks, budget


def digest(run: Run) -> str:
    """Of all that decides the numbers of a run."""
    settings = {
        key: value
        for key, value in flat(run.settings).items()
        if key.split(".")[0] not in CARRIED_OUT and not (key in _LATER and value is None)
    }
    text = json.dumps([settings, run.data.fingerprint], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def record_path(folder: Path, name: str, method: str, digest: str) -> Path:
    """Where the record of a training lies; `digest` may be `*`, for all of them."""
    return folder / f"{name}-{method}-{digest}.json"


def train_or_read(
    run: Run,
    method: str,
    name: str,
    folder: Path,
    about: Record | None = None,
    place: Path | None = None,
) -> dict[str, Any]:
    """Train, or read what an earlier command has trained.

    Args:
        run: of the method on the task, not trained yet.
        name: of the task.
        folder: of the records.
        about: what else is recorded of a training.
        place: of a run directory that is kept; None for none.

    Returns:
        What is known of the training, as plain values: `updates` `[T]` and `returns` `[S, T]` of
        evaluations, `alarms`, `outcome` of the verdict by seed and `promised`, see `promises`,
        `seconds` by stage, `stopped`, why it did not come to its end (then the others are empty).
    """
    path = record_path(folder, name, method, digest(run))
    if path.is_file():
        return read_record(path, "delete it and run the same command again")
    record: dict[str, Any] = {
        "method": method,
        "dataset": name,
        "fingerprint": run.data.fingerprint,
    }
    record |= {**(about or {}), **train(run, place)}
    write_json(path, record, with_digest=True)
    said = record["stopped"] or f"{sum(record['seconds'].values()) / 60:.1f} minutes"
    print(f"{name}, {method}: {said}", flush=True)
    return record


def train(run: Run, place: Path | None = None) -> dict[str, Any]:
    """What `train_or_read` records of a run, which may diverge: that is a result, too."""
    # Claimed outside, for a folder that another process works in is no result of the method.
    with claimed(place) if place else nullcontext():
        return _train(run, place)


def _train(run: Run, place: Path | None) -> dict[str, Any]:
    try:
        results = run.train(directory=place, console=Console(quiet=True))
    except Unwritable:
        raise
    except Mistake as error:
        return {
            "updates": [],
            "returns": [],
            "alarms": [],
            "outcome": [],
            "promised": {},
            "seconds": dict(run.seconds),
            "stopped": str(error),
        }
    updates, returns = results.series["return"]
    verdict = results.summary["verdict"]
    return {
        "updates": updates.tolist(),
        "returns": returns.tolist(),
        "alarms": results.summary["alarms"],
        "outcome": verdict["outcome"],
        "promised": promises(verdict),
        "seconds": dict(run.seconds),
        "stopped": None,
    }


def promises(verdict: Record) -> dict[str, Any]:
    """Discounted values as `[estimate, low, high]`: `recorded`, and by seed `fqe` and `model`.

    An estimate that there is not, or that diverged, is None.
    """
    return {
        "discount": verdict["discount"],
        "recorded": verdict["recorded"]["value"],
        **{name: (verdict[name] or {}).get("value") for name in ("fqe", "model")},
    }


@dataclass(frozen=True)
class Recorded:
    """What the policies that made the data earned: mean and best return of an episode."""

    mean: float
    best: float

    @classmethod
    def of(cls, data: Dataset) -> "Recorded":
        """Over episodes that are no fragments."""
        found = behaviour(data)
        return cls(found["return_mean"], found["return_best"])

    def score(self, found: Estimate) -> Estimate:
        """A return on the scale where 0 is the recorded mean and 100 the best episode."""
        scale = 100 / (self.best - self.mean)
        values = [scale * (value - self.mean) for value in found.values]
        return Estimate(scale * (found.mean - self.mean), scale * found.half_width, values)


def returns_of(record: Record) -> Estimate | None:
    """Over seeds, of the mean of each seed's last evaluations; None for a run that stopped."""
    if record["stopped"]:
        return None
    return estimate(np.array(record["returns"], float)[:, -LAST:].mean(1).tolist())


def finished(records: Mapping[str, Record]) -> dict[str, Estimate]:
    """Returns by method, of those that came to their end."""
    found = {method: returns_of(record) for method, record in records.items()}
    return {method: own for method, own in found.items() if own is not None}


def claim_alarms(
    name: str, records: Mapping[str, Record], recorded: Recorded, *, judge: bool
) -> list[Claim]:
    """Whether what lies below the recorded mean says so itself, and what cries wolf."""
    done = finished(records)
    below = [method for method, own in done.items() if not own.mean > recorded.mean]
    silent = [method for method in below if not records[method]["alarms"]]
    wolf = [method for method in done if method not in below and records[method]["alarms"]]
    return [
        Claim(
            f"{name}: a policy below the recorded mean of {recorded.mean:.4g} raises an alarm",
            "none is silent",
            f"{len(below)} of {len(done)} below, silent: {', '.join(silent) or 'none'}",
            not silent if judge and done else None,
            f"ours, alarms added {AFTER}",
        ),
        Claim(
            f"{name}: alarms of policies above the recorded mean",
            "-",
            f"{len(wolf)} of {len(done) - len(below)}: {', '.join(wolf) or 'none'}",
            None,
            "ours",
        ),
    ]


def tabulate(
    name: str,
    records: Mapping[str, Record],
    recorded: Recorded,
    *,
    notes: Sequence[str] = (),
    behaviour_row: str | None = None,
) -> dict[str, Any]:
    """The table of one task as plain text, best mean first: `caption`, `header`, `rows`.

    Args:
        notes: ends of the caption.
        behaviour_row: what the recorded behaviour is called in a row of its own; None for no row.
    """
    done = finished(records)
    ranked = []
    for method, own in done.items():
        record = records[method]
        minutes = sum(record["seconds"].values()) - record["seconds"]["fitting"]
        score = str(recorded.score(own)) if recorded.best > recorded.mean else "-"
        shown = [str(own), score, str(len(record["alarms"]) or "-")]
        ranked.append((own.mean, [method, *shown, f"{minutes / 60:.1f}"]))
    if behaviour_row is not None:
        earned = plain(f"{recorded.mean:.3g}")
        ranked.append((recorded.mean, [behaviour_row, earned, "0", "-", "-"]))
    rows = [row for _, row in sorted(ranked, key=lambda pair: -pair[0])]
    rows += [
        [method, "stopped", "-", record["stopped"], "-"]
        for method, record in records.items()
        if method not in done
    ]
    fits = sum(record["seconds"]["fitting"] for record in records.values())
    caption = (
        f"{name}: recorded episodes earned {recorded.mean:.4g} in the mean (score 0), the best one "
        f"{recorded.best:.4g} (score 100). Minutes are of one core, without the {fits / 60:.1f} "
        "that fits of models took, which methods share"
    )
    return {"caption": "; ".join([caption, *notes]), "header": list(HEADER), "rows": rows}


def print_table(shown: Mapping[str, Any]) -> None:
    """On the terminal, as it will stand on the page of results."""
    table = Table(title=escape(shown["caption"]), title_justify="left")
    for number, column in enumerate(shown["header"]):
        # A number that is cut would be another one.
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in shown["rows"]:
        table.add_row(*map(escape, row))
    Console().print(table)


def plot(
    records: Mapping[str, Mapping[str, Record]],
    recorded: Mapping[str, Recorded],
    marked: tuple[str, Collection[str]] = ("", ()),
) -> Figure:
    """Means with their intervals and every seed, a panel a task, two beside each other.

    Args:
        marked: methods that have a colour of their own, and what they are.
    """
    label, special = marked
    columns = min(2, len(records))
    lines = -(-len(records) // 2)
    longest = max(len(own) for own in records.values())
    size = (5.6 * columns, lines * (1.6 + 0.24 * longest))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax in panels[len(records) :]:
        ax.remove()
    for ax, (name, own) in zip(panels, records.items(), strict=False):
        done = sorted(finished(own).items(), key=lambda pair: pair[1].mean)
        for at, (method, each) in enumerate(done):
            color = "C1" if method in special else "C0"
            ax.errorbar(each.mean, at, xerr=each.half_width, fmt="o", color=color, ms=4, capsize=2)
            ax.plot(each.values, [at] * len(each.values), "|", color=color, alpha=0.6)
        ax.axvline(recorded[name].mean, color="0.3", ls="--", label="recorded mean")
        ax.axvline(recorded[name].best, color="0.6", ls=":", label="best recorded episode")
        if label:
            ax.plot([], [], "o", color="C1", ms=4, label=label)
        ax.set_yticks(range(len(done)), [method for method, _ in done])
        ax.set(xlabel="return in the true environment", title=name)
        ax.grid(alpha=0.3)
        ax.locator_params(axis="x", nbins=6)
        ax.legend(fontsize=8)
    return figure
