"""Every preset that learns offline from one recorded dataset, on two datasets, at one budget.

The same updates, rows of a batch, widths and learning rates for all, four seeds as replicas of one
process, scored in the true environment. Left out are presets that step a simulator or the true
environment, and those whose generator takes longer to fit than all others train. A comparison at a
small budget: it says how far each gets in a few thousand updates, not what it is worth in the end.

The claims were chosen from published results before anything was run, and none was changed after:
cloning the best tenth of mixed data beats cloning all of it (arXiv:2106.01345), ReBRAC is no worse
than TD3+BC (arXiv:2305.09836), MOPO's penalty does no harm to MBPO (arXiv:2005.13239); and, ours,
no policy below the recorded mean comes without an alarm.

Each finished (method, dataset) is recorded, so that a stopped command goes on with the next one.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reverie.benchmarks.claims.baselines.training import (
    METHODS,
    QUICK,
    TASKS,
    Budget,
    train_or_read,
)
from reverie.benchmarks.claims.experiment import prefix_names, run_all, split_by_task
from reverie.benchmarks.claims.judging import (
    Estimate,
    estimate,
    judge_margin,
    judge_order,
    subtract,
)
from reverie.benchmarks.claims.report import Claim, Findings, carry_out, parser
from reverie.mistake import Mistake
from reverie.training.launch.mistakes import one_line_errors
from reverie.training.results.summary import behaviour

NAME = "baselines"
TITLE = "Offline methods at one budget: mean over seeds ± 95 % interval"
QUICK_METHODS = ("mopo", "mbpo", "rebrac", "iql", "td3_bc", "bc_best", "bc")
QUICK_TASKS = ("pendulum",)
LAST = 2
"""Evaluations of each seed whose mean is its return."""
MARGIN = 0.1
"""Of "no worse": a share of what lies between the recorded mean and the best recorded episode."""
HEADER = ("method", "return", "score", "alarms", "minutes")


@dataclass(frozen=True)
class Recorded:
    """What the policies that made the data earned: mean and best return of an episode."""

    mean: float
    best: float

    def score(self, found: Estimate) -> Estimate:
        """A return on the scale where 0 is the recorded mean and 100 the best episode."""
        scale = 100 / (self.best - self.mean)
        values = [scale * (value - self.mean) for value in found.values]
        return Estimate(scale * (found.mean - self.mean), scale * found.half_width, values)


def measure(
    methods: Sequence[str], tasks: Sequence[str], budget: Budget, folder: Path, *, judge: bool
) -> Findings:
    """Train what no record is of, and put everything side by side."""
    torch.set_num_threads(1)  # as the jobs, which run side by side
    # Early, so that a missing dataset costs no time.
    known = {name: behaviour(TASKS[name].load()) for name in tasks}
    recorded = {
        name: Recorded(found["return_mean"], found["return_best"]) for name, found in known.items()
    }
    jobs: dict[str, Callable[[], dict[str, Any]]] = {}
    for name in tasks:
        jobs |= prefix_names(
            name,
            {
                method: partial(train_or_read, method, name, budget, folder)
                for method in METHODS
                if method in methods and method not in TASKS[name].unsuited
            },
        )
    records = split_by_task(run_all(jobs))
    tables = [tabulate(name, records[name], recorded[name]) for name in tasks]
    for shown in tables:
        print_table(shown)
    return Findings(
        [
            claim
            for name in tasks
            for claim in judge_task(name, records[name], recorded[name], judge=judge)
        ],
        {
            "budget": asdict(budget),
            "recorded": {name: asdict(found) for name, found in recorded.items()},
            "records": records,
            "tables": tables,
        },
        {NAME: plot(records, recorded)},
    )


def returns_of(record: Mapping[str, Any]) -> Estimate | None:
    """Over seeds, of the mean of each seed's last evaluations; None for a run that stopped."""
    if record["stopped"]:
        return None
    return estimate(np.array(record["returns"], float)[:, -LAST:].mean(1).tolist())


def judge_task(
    name: str, records: Mapping[str, Mapping[str, Any]], recorded: Recorded, *, judge: bool
) -> list[Claim]:
    """The claims about one dataset, of those methods that were trained."""
    found = {method: returns_of(record) for method, record in records.items()}
    margin = MARGIN * (recorded.best - recorded.mean)
    claims = []

    def compare(low: str, high: str, text: str, expected: str, order: bool) -> None:
        if low not in found or high not in found:
            return
        one, other = found[low], found[high]
        if one is None or other is None:
            told, holds = f"{low if one is None else high} stopped before its end", None
        else:
            gain = subtract(other, one)
            told = f"{high} {other}, {low} {one}; difference {gain}"
            holds = judge_order(one, other) if order else judge_margin(gain, margin)
        claims.append(Claim(f"{name}: {text}", expected, told, holds if judge else None))

    compare(
        "bc",
        "bc_best",
        "cloning the best tenth of mixed data beats cloning all of it (arXiv:2106.01345)",
        "higher return, intervals apart",
        order=True,
    )
    compare(
        "td3_bc",
        "rebrac",
        "ReBRAC is no worse than TD3+BC (arXiv:2305.09836)",
        f"return not lower by more than {margin:.3g}",
        order=False,
    )
    compare(
        "mbpo",
        "mopo",
        "MOPO's penalty does no harm to MBPO (arXiv:2005.13239)",
        f"return not lower by more than {margin:.3g}",
        order=False,
    )
    return [*claims, *claim_alarms(name, records, found, recorded, judge)]


def claim_alarms(
    name: str,
    records: Mapping[str, Mapping[str, Any]],
    found: Mapping[str, Estimate | None],
    recorded: Recorded,
    judge: bool,
) -> list[Claim]:
    """Whether what lies below the recorded mean says so itself, and what cries wolf."""
    done = {method: own for method, own in found.items() if own is not None}
    below = [method for method, own in done.items() if not own.mean > recorded.mean]
    silent = [method for method in below if not records[method]["alarms"]]
    wolf = [method for method in done if method not in below and records[method]["alarms"]]
    return [
        Claim(
            f"{name}: a policy below the recorded mean of {recorded.mean:.4g} raises an alarm",
            "none is silent",
            f"{len(below)} of {len(done)} below, silent: {', '.join(silent) or 'none'}",
            not silent if judge and done else None,
            "ours",
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
    name: str, records: Mapping[str, Mapping[str, Any]], recorded: Recorded
) -> dict[str, Any]:
    """The table of one dataset as plain text, best mean first: `caption`, `header`, `rows`."""
    found = {method: returns_of(record) for method, record in records.items()}
    done = {method: own for method, own in found.items() if own is not None}
    rows = []
    for method in sorted(done, key=lambda each: -done[each].mean):
        record, own = records[method], done[method]
        minutes = sum(record["seconds"].values()) - record["seconds"]["fitting"]
        rows.append(
            [
                method,
                str(own),
                str(recorded.score(own)),
                str(len(record["alarms"]) or "-"),
                f"{minutes / 60:.1f}",
            ]
        )
    rows += [
        [method, "stopped", "-", records[method]["stopped"], "-"]
        for method, own in found.items()
        if own is None
    ]
    fits = sum(record["seconds"]["fitting"] for record in records.values())
    caption = (
        f"{name}: recorded episodes earned {recorded.mean:.4g} in the mean (score 0), the best one "
        f"{recorded.best:.4g} (score 100). Minutes are of one core, without the {fits / 60:.1f} "
        "that fits of models took, which methods share"
    )
    caption += "".join(f"; without {each}, {why}" for each, why in TASKS[name].unsuited.items())
    return {"caption": caption, "header": list(HEADER), "rows": rows}


def print_table(shown: Mapping[str, Any]) -> None:
    """On the terminal, as it will stand on the page of results."""
    table = Table(title=escape(shown["caption"]), title_justify="left")
    for number, column in enumerate(shown["header"]):
        table.add_column(column, justify="right" if number else "left")
    for row in shown["rows"]:
        table.add_row(*map(escape, row))
    Console().print(table)


def plot(
    records: Mapping[str, Mapping[str, Mapping[str, Any]]], recorded: Mapping[str, Recorded]
) -> Figure:
    """Means with their intervals and every seed, a panel a dataset, the best one on top."""
    longest = max(len(own) for own in records.values())
    figure = Figure(figsize=(5.6 * len(records), 1.6 + 0.24 * longest), layout="constrained")
    axes = figure.subplots(1, len(records), squeeze=False)[0]
    for ax, (name, own) in zip(axes, records.items(), strict=True):
        found = {method: returns_of(record) for method, record in own.items()}
        done = [(method, each) for method, each in found.items() if each is not None]
        done.sort(key=lambda pair: pair[1].mean)
        for at, (_, each) in enumerate(done):
            ax.errorbar(each.mean, at, xerr=each.half_width, fmt="o", color="C0", ms=4, capsize=2)
            ax.plot(each.values, [at] * len(each.values), "|", color="C0", alpha=0.6)
        ax.axvline(recorded[name].mean, color="0.3", ls="--", label="recorded mean")
        ax.axvline(recorded[name].best, color="0.6", ls=":", label="best recorded episode")
        ax.set_yticks(range(len(done)), [method for method, _ in done])
        ax.set(xlabel="return in the true environment", title=name)
        ax.grid(alpha=0.3)
        ax.locator_params(axis="x", nbins=6)
        ax.legend(fontsize=8)
    return figure


def choose(arguments: argparse.Namespace) -> tuple[str, list[str], list[str], Budget]:
    """What to train, and the name of its files: a part never takes the place of the whole.

    Raises:
        Mistake: a single seed, which has no interval; a dataset that suits none of the methods.
    """
    quick = arguments.quick
    methods = arguments.only or list(QUICK_METHODS if quick else METHODS)
    tasks = arguments.datasets or list(QUICK_TASKS if quick else TASKS)
    budget = QUICK if quick else Budget()
    if arguments.seeds is not None:
        if arguments.seeds < 2:
            raise Mistake(f"--seeds {arguments.seeds} leaves no interval; give at least 2")
        budget = replace(budget, seeds=arguments.seeds)
    for name in tasks:
        if set(methods) <= set(TASKS[name].unsuited):
            method = methods[0]
            raise Mistake(
                f"--datasets {name} leaves nothing to train with --only {' '.join(methods)}, "
                f"{TASKS[name].unsuited[method]}; add a method, or give other --datasets"
            )
    part = bool(arguments.only or arguments.datasets or arguments.seeds)
    return f"{NAME}-part" if part else NAME, methods, tasks, budget


def options() -> argparse.ArgumentParser:
    """Of the command line."""
    found = parser(NAME, __doc__)
    found.add_argument("--only", nargs="+", metavar="METHOD", choices=METHODS, help="these presets")
    found.add_argument("--datasets", nargs="+", choices=tuple(TASKS), help="these datasets")
    found.add_argument("--seeds", type=int, metavar="N", help="replicas in one process; 4")
    found.add_argument(
        "--records",
        type=Path,
        default=Path("runs") / NAME,
        help="folder of what is finished, from which a stopped command goes on",
    )
    return found


def main() -> int:
    """Be the command; returns the exit status, 1 where a claim fails."""
    arguments = options().parse_args()
    name, methods, tasks, budget = choose(arguments)

    def found() -> Findings:
        whole = measure(methods, tasks, budget, arguments.records, judge=not arguments.quick)
        details = {**whole.details, "partial": name != NAME}
        return Findings(whole.claims, details, {name: whole.figures[NAME]})

    return carry_out(name, TITLE, arguments, found)


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
