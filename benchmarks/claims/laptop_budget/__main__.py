"""Model-based presets against TD3+BC, ReBRAC, IQL and BC, as shipped, at the laptop budget.

What a user gets who chooses a preset and nothing else: `python train.py algorithm=X dataset=Y
budget=laptop ~tuned`, four seeds as replicas of one process, scored in the true environment, on
four tasks. `--dataset` takes a task of one's own.

The claims, ours, were chosen before anything was run: on at least half of the tasks a model-based
method is above the best model-free one; no policy below the recorded mean comes without an alarm.
The first was judged by the tasks that were complete until the first was, which said yes of one; it
is now judged by all four. The first takes the best of seventeen against the best of four, which
favours the seventeen: it says what the right choice can gain, not what any choice does. The numbers
of MOPO+BC were chosen on the Hopper and HalfCheetah tasks with other seeds.

Everything takes many hours of a core (never measured as a whole), so it goes in parts:
`--only ... --datasets ... --continue` adds what it trains to the table that is there, and the page
says what is missing.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from reverie.benchmarks.claims.comparison import (
    LAST,
    Comparison,
    Record,
    Recorded,
    Task,
    choose,
    claim_alarms,
    finished,
    options,
    plot,
    print_table,
    record_path,
    tabulate,
)
from reverie.benchmarks.claims.growing import (
    Records,
    add_continue,
    core_seconds,
    gather,
    read_behaviour,
    read_known,
    sort_records,
)
from reverie.benchmarks.claims.judging import is_below
from reverie.benchmarks.claims.laptop_budget.tasks import TASKS, USUAL
from reverie.benchmarks.claims.report import AFTER, RESULTS, Claim, Findings, carry_out
from reverie.benchmarks.claims.shipped import (
    METHODS,
    MODEL_BASED,
    MODEL_FREE,
    QUICK,
    Budget,
    name_task,
    train_or_find,
)
from reverie.mistake import Mistake
from reverie.training.launch.mistakes import one_line_errors

NAME = "laptop_budget"
TITLE = "As shipped, at the laptop budget: mean over seeds ± 95 % interval"
BEHAVIOUR = "recorded behaviour"
REQUIRED = {"td3_bc", "rebrac", "iql"}
"""A task counts once these and one model-based method were trained on it."""
COMPARISON = Comparison(
    name=NAME,
    methods=METHODS,
    tasks=TASKS,
    usual=tuple(USUAL),
    budget=Budget(),
    quick=(("mopo", "rebrac", "iql", "td3_bc", "bc"), ("pendulum",), QUICK),
)


def measure(
    tasks: Mapping[str, Task],
    asked: Sequence[tuple[str, str]],
    budget: Budget,
    folder: Path,
    known: Records | None,
    *,
    judge: bool,
) -> Findings:
    """Train what no record is of, and put everything side by side.

    Args:
        tasks: by name, all that there are.
        asked: tasks and methods, longest first.
        known: what was recorded before and is shown as well where its settings are those of today,
            as is everything in `folder`; None for only what is asked for.
    """
    found = known or {}
    others: list[tuple[str, str]] = []
    if known is not None:
        others = [each for each in pairs_of(tasks, METHODS) if is_recorded(*each, found, folder)]
    shown = [name for name in tasks if name in {task for task, _ in (*asked, *others)}]
    # Early, so that a missing dataset costs no time.
    recorded = {name: read_behaviour(tasks[name]) for name in shown}
    find = partial(find_or_train, tasks=tasks, budget=budget, folder=folder)
    records = sort_records(gather(find, asked, others, found), tasks, METHODS)
    tables = [
        tabulate(
            *(name, own, recorded[name]),
            notes=[
                f"returns: means of the last {LAST} evaluations, {budget.evaluate:,} updates apart",
                f"on {', '.join(sorted({record['cpu'] for record in own.values()}))}",
            ],
            behaviour_row=BEHAVIOUR,
        )
        for name, own in records.items()
    ]
    for table in tables:
        print_table(table)
    return Findings(
        claim_all(records, recorded, judge=judge),
        {
            "budget": asdict(budget),
            "recorded": {name: asdict(recorded[name]) for name in records},
            "missing": missing(records),
            "records": records,
            "tables": tables,
            "seconds": core_seconds(records),
        },
        {NAME: plot(records, recorded, ("model-based", MODEL_BASED))},
    )


def pairs_of(tasks: Mapping[str, Task], methods: Sequence[str]) -> list[tuple[str, str]]:
    """All of a task and a method, longest first: the last task is the longest."""
    return [
        (name, method) for method in METHODS if method in methods for name in reversed(list(tasks))
    ]


def find_or_train(
    task: str,
    arm: str,
    known: Record | None,
    *,
    train: bool,
    tasks: Mapping[str, Task],
    budget: Budget,
    folder: Path,
) -> Record | None:
    """The record of a method on a task, see `growing.gather`."""
    return train_or_find(arm, task, tasks[task], budget, folder, known, train=train, keep=True)


def is_recorded(name: str, method: str, known: Records, folder: Path) -> bool:
    """Whether there is a record of any settings."""
    return method in known.get(name, {}) or any(
        folder.glob(record_path(Path(), name, method, "*").name)
    )


def missing(records: Records) -> dict[str, list[str]]:
    """Methods that were not trained, by task of the claims."""
    return {
        name: absent
        for name in USUAL
        if (absent := [method for method in METHODS if method not in records.get(name, {})])
    }


def counts(records: Mapping[str, Record]) -> bool:
    """Whether enough was trained on a task to judge by."""
    return set(records) >= REQUIRED and any(method in records for method in MODEL_BASED)


def compare(records: Mapping[str, Record]) -> tuple[str, str]:
    """Whether a model-based method is above the best model-free one: yes, no or undecided; and the
    numbers in words."""
    done = finished(records)
    free = [method for method in MODEL_FREE if method in done]
    based = sorted((m for m in MODEL_BASED if m in done), key=lambda method: -done[method].mean)
    if not based:
        return "no", "no: no model-based method came to its end"
    if not free:
        return "undecided", "undecided: no model-free method came to its end"
    best = max(free, key=lambda method: done[method].mean)
    above = [method for method in based if done[method].mean > done[best].mean]
    clear = [method for method in above if is_below(done[best], done[method])]
    named = ", ".join(f"{method} {done[method]}" for method in clear or above or based[:1])
    answer = "yes" if clear else "undecided" if above else "no"
    where = "above" if clear else "above, intervals overlap" if above else "below"
    return answer, f"{answer}: {named} {where}; model-free {best} {done[best]}"


def claim_all(records: Records, recorded: Mapping[str, Recorded], *, judge: bool) -> list[Claim]:
    """The two claims, and what stands behind them; tasks that are not among the four inform."""
    lines, answers = [], {}
    for name, own in records.items():
        here = len([method for method in own if method in MODEL_BASED])
        answer, told = compare(own) if counts(own) else ("", "not enough was trained")
        if counts(own) and name in USUAL:
            answers[name] = answer
        lines.append(
            Claim(
                f"{name}: a model-based method ({here} of {len(MODEL_BASED)} trained) is above the "
                "best model-free one",
                "higher return, intervals apart",
                told,
                None,
                "ours",
            )
        )
        lines += claim_alarms(
            name, own, recorded[name], judge=judge and counts(own) and name in USUAL
        )
    absent = "; ".join(
        f"{name}: {', '.join(own) if len(own) < len(METHODS) else 'all'}"
        for name, own in missing(records).items()
    )
    return [
        Claim(
            "on at least half of the tasks a model-based method as shipped is above the best "
            "model-free one",
            "yes on half of the four",
            tell(answers),
            judge_share(list(answers.values())) if judge else None,
            f"ours, made stricter {AFTER}",
        ),
        *lines,
        Claim("trained on the four tasks; missing", "none", absent or "none", None, "ours"),
    ]


def tell(answers: Mapping[str, str]) -> str:
    """Tasks by answer, in words."""
    said = {
        answer: [name for name, own in answers.items() if own == answer]
        for answer in ("yes", "undecided", "no")
    }
    told = "; ".join(f"{answer}: {', '.join(own) or '-'}" for answer, own in said.items())
    return f"{len(answers)} of {len(USUAL)} tasks count; {told}"


def judge_share(answers: Sequence[str]) -> bool | None:
    """Whether at least half of the tasks say yes; None where that hangs on those that are undecided
    or not trained."""
    sure, no = (sum(each == kind for each in answers) for kind in ("yes", "no"))
    return True if 2 * sure >= len(USUAL) else False if 2 * no > len(USUAL) else None


def command() -> argparse.ArgumentParser:
    """The options of the command."""
    found = options(COMPARISON, __doc__)
    found.add_argument(
        "--dataset", metavar="ID", help="also a task of one's own: a Minari id, or builtin/NAME"
    )
    add_continue(found)
    return found


def main() -> int:
    """Be the command; returns the exit status, 1 where a claim fails."""
    arguments = command().parse_args()
    comparison = COMPARISON
    if arguments.go_on and (arguments.quick or arguments.seeds or arguments.dataset):
        raise Mistake(
            "--continue adds to the table of the four tasks; leave it out, or --quick, --seeds and "
            "--dataset, whose finished runs are found in --records anyway"
        )
    if arguments.dataset:
        name, task = name_task(arguments.dataset)
        comparison = replace(comparison, tasks={**TASKS, name: task})
        arguments.datasets = [*(arguments.datasets or ()), name]
    name, methods, tasks, budget = choose(comparison, arguments)
    known = read_known(RESULTS / f"{NAME}.json") if arguments.go_on else None
    if arguments.go_on:
        name = NAME  # nothing is lost: what is there stays

    def found() -> Findings:
        asked = {each: own for each, own in comparison.tasks.items() if each in tasks}
        whole = measure(
            *(comparison.tasks, pairs_of(asked, methods), budget, arguments.records, known),
            judge=not arguments.quick,
        )
        details = {**whole.details, "partial": name != NAME}
        return Findings(whole.claims, details, {name: whole.figures[NAME]})

    return carry_out(name, TITLE, arguments, found)


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
