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

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from reverie.benchmarks.claims.baselines.training import (
    METHODS,
    QUICK,
    TASKS,
    Budget,
    train_or_read,
)
from reverie.benchmarks.claims.comparison import (
    Comparison,
    Recorded,
    choose,
    claim_alarms,
    options,
    plot,
    print_table,
    returns_of,
    tabulate,
)
from reverie.benchmarks.claims.experiment import prefix_names, run_all, split_by_task
from reverie.benchmarks.claims.judging import judge_margin, judge_order, subtract
from reverie.benchmarks.claims.report import Claim, Findings, carry_out
from reverie.training.launch.mistakes import one_line_errors

NAME = "baselines"
TITLE = "Offline methods at one budget: mean over seeds ± 95 % interval"
QUICK_METHODS = ("mopo", "mbpo", "rebrac", "iql", "td3_bc", "bc_best", "bc")
QUICK_TASKS = ("pendulum",)
MARGIN = 0.1
"""Of "no worse": a share of what lies between the recorded mean and the best recorded episode."""


COMPARISON = Comparison(
    name=NAME,
    methods=METHODS,
    tasks=TASKS,
    usual=tuple(TASKS),
    budget=Budget(),
    quick=(QUICK_METHODS, QUICK_TASKS, QUICK),
)


def measure(
    methods: Sequence[str], tasks: Sequence[str], budget: Budget, folder: Path, *, judge: bool
) -> Findings:
    """Train what no record is of, and put everything side by side."""
    torch.set_num_threads(1)  # as the jobs, which run side by side
    # Early, so that a missing dataset costs no time.
    recorded = {name: Recorded.of(TASKS[name].load()) for name in tasks}
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
    tables = [
        tabulate(
            *(name, records[name], recorded[name]),
            notes=[f"without {each}, {why}" for each, why in TASKS[name].unsuited.items()],
        )
        for name in tasks
    ]
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
    return [*claims, *claim_alarms(name, records, recorded, judge=judge)]


def main() -> int:
    """Be the command; returns the exit status, 1 where a claim fails."""
    arguments = options(COMPARISON, __doc__).parse_args()
    name, methods, tasks, budget = choose(COMPARISON, arguments)

    def found() -> Findings:
        whole = measure(methods, tasks, budget, arguments.records, judge=not arguments.quick)
        details = {**whole.details, "partial": name != NAME}
        return Findings(whole.claims, details, {name: whole.figures[NAME]})

    return carry_out(name, TITLE, arguments, found)


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
