"""Every offline preset on every dataset of the suite, at one budget a task.

    python -m benchmarks.suite build --small
    python -m benchmarks.leaderboard --small
    python -m benchmarks.leaderboard --small --only mopo bc --datasets pendulum-medium --continue
    python -m benchmarks.leaderboard --small --until-decided

Four replicas in one process, all runs side by side on the cores there are. A stopped command goes
on, within a training, too. `--continue` adds to the recorded table, `--shard 0/8` trains an eighth
of it, on a node of its own. `--until-decided` adds seeds, four at a time, to whatever is not yet
told from the yardstick, with a stated error (benchmarks/claims/sequential.py). Run directories,
with their metrics.csv and verdicts, stay in the folder of the records, where a report of them all
is written, too.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from reverie.benchmarks.claims.comparison import (
    Comparison,
    Record,
    Recorded,
    Task,
    choose,
    options,
    print_table,
    record_path,
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
from reverie.benchmarks.claims.report import Findings, carry_out
from reverie.benchmarks.claims.sequential import MOST
from reverie.benchmarks.claims.shipped import (
    QUICK,
    Budget,
    record_label,
    run_folder,
    train_or_find,
)
from reverie.benchmarks.leaderboard.page import aggregate, claims, plot, scores_of, tables
from reverie.benchmarks.leaderboard.rounds import BATCHES, Board, batches_of
from reverie.benchmarks.leaderboard.tasks import BUDGETS, METHODS, SHORT, budget_of, datasets, usual
from reverie.benchmarks.suite.tasks import DATASETS
from reverie.mistake import Mistake
from reverie.training.launch.mistakes import one_line_errors
from reverie.training.report.__main__ import report
from reverie.training.run_directory import SUMMARY

NAME = "leaderboard"
TITLE = "Leaderboard: every offline preset on the suite"
AGAINST = "td3_bc"
"""The yardstick, where nobody names another."""
QUICK_METHODS = ("mopo", "iql", "td3_bc", "bc")


@dataclass(frozen=True)
class Shard:
    """A part of the trainings, the same on every node whatever is finished.

    Attributes:
        index, count: the part `index` of so many, from 0.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def read(cls, text: str) -> "Shard":
        """Of `I/N`.

        Raises:
            argparse.ArgumentTypeError: it is not that.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise argparse.ArgumentTypeError(f"{text} must be I/N with I from 0 to N - 1")
        return cls(int(index), int(count))

    def holds(self, number: int) -> bool:
        """Whether the training of this number is its own."""
        return number % self.count == self.index


def comparison(size: str) -> Comparison[Budget, Task]:
    """What can be asked for."""
    name = NAME if size == "full" else f"{NAME}_{size}"
    return Comparison(
        name=name,
        methods=METHODS,
        tasks=datasets(size),
        usual=usual(size),
        budget=BUDGETS[size],
        quick=(QUICK_METHODS, ("pendulum-medium", "pendulum-random"), QUICK),
    )


def find(
    task: str,
    arm: str,
    known: Record | None,
    *,
    train: bool,
    tasks: Mapping[str, Task],
    budget: Budget,
    folder: Path,
) -> Record | None:
    """The record of `method/seed` on a dataset, see `growing.gather`."""
    method, _, seed = arm.partition("/")
    return train_or_find(
        *(method, task, tasks[task], budget_of(task, budget), folder, known),
        train=train,
        seed=int(seed),
        keep=True,
    )


def train_all(
    board: Board,
    tasks: Mapping[str, Task],
    methods: Sequence[str],
    asked: Sequence[str],
    budget: Budget,
    folder: Path,
    known: Records | None,
    shard: Shard,
) -> Records:
    """Round after round until nothing more is wanted; what was there before is taken as it is.

    Args:
        tasks: by name, all that there are.
        methods: those of the board's that are trained, and the yardstick where seeds are added.
        asked: those of the tasks that they are trained on.
        known: records of a table that is there and is continued; None for none.
        shard: which trainings are this process's; with several there is one round, for the next
            one depends on what the others find.
    """
    look = partial(find, tasks=tasks, budget=budget, folder=folder)
    # Methods and datasets in the order of cost, so that every shard has some of each.
    every = [(task, arm) for arm in board.arms() for task in reversed(list(tasks))]
    number = {pair: at for at, pair in enumerate(every)}
    there = known or {}
    rest = [
        (task, arm)
        for task, arm in every
        if (known is not None or task in asked) and is_recorded(task, arm, there, folder)
    ]
    records = gather(look, (), rest, there)
    while True:
        wanted = [
            (task, arm)
            for task in asked
            for arm in board.wanted(
                records.get(task, {}), [m for m in methods if m not in tasks[task].unsuited]
            )
        ]
        mine = sorted((pair for pair in wanted if shard.holds(number[pair])), key=number.get)  # type: ignore[arg-type]
        for task, own in gather(look, mine, (), {}).items():
            records.setdefault(task, {}).update(own)
        if not mine or shard.count > 1:
            return sort_records(records, tasks, board.arms())


def is_recorded(task: str, arm: str, known: Records, folder: Path) -> bool:
    """Whether there is a record that may be of this arm."""
    method, _, seed = arm.partition("/")
    pattern = record_path(Path(), task, record_label(method, int(seed)), "*").name
    return arm in known.get(task, {}) or any(folder.glob(pattern))


def measure(
    board: Board,
    records: Records,
    recorded: Mapping[str, Recorded],
    tasks: Mapping[str, Task],
    budget: Budget,
    missing: Sequence[str],
) -> Findings:
    """The page of what was trained."""
    seconds = {
        method: sum(
            sum(record["seconds"].values())
            for arms in records.values()
            for record in batches_of(arms, method)
        )
        for method in board.methods
    }
    shown = [
        aggregate(records, board, seconds),
        *tables(records, recorded, board, {name: own.unsuited for name, own in tasks.items()}),
    ]
    for table in shown:
        print_table(table)
    _, scores = scores_of(records, board.methods)
    return Findings(
        claims(records, recorded, board, missing),
        {
            "budget": asdict(budget),
            "short": SHORT if budget.option == "laptop" else {},
            "against": board.against,
            "plan": asdict(board.plan),
            "recorded": {name: asdict(own) for name, own in recorded.items()},
            "records": records,
            "tables": shown,
            "seconds": core_seconds(records),
        },
        {NAME: plot(scores)},
    )


def write_report(records: Records, folder: Path) -> list[Path]:
    """One page of all run directories that lie here; none where all records came from elsewhere."""
    found = [
        place
        for task, arms in records.items()
        for arm, record in arms.items()
        if (place := run_folder(folder, task, arm.partition("/")[0], record["digest"])).is_dir()
        and (place / SUMMARY).is_file()
    ]
    return report(found, folder / "report") if found else []


def command(size: str) -> argparse.ArgumentParser:
    """The options of the command."""
    found = options(comparison(size), __doc__)
    found.prog = f"python -m benchmarks.{NAME}"
    found.allow_abbrev = False  # `main` looks for whole words
    found.formatter_class = argparse.RawDescriptionHelpFormatter
    found.add_argument(
        "--small", action="store_true", help="the small suite as shipped at budget=laptop"
    )
    found.add_argument(
        "--data", type=Path, help="folder of the suite; runs/suite[-small], MINARI_DATASETS_PATH"
    )
    found.add_argument("--against", metavar="METHOD", default=AGAINST, help="the yardstick")
    found.add_argument("--shard", type=Shard.read, default=Shard(), metavar="I/N", help="a part")
    found.add_argument(
        "--until-decided", action="store_true", help=f"up to {BATCHES} times the seeds"
    )
    add_continue(found)
    return found


def main() -> int:
    """Be the command; returns the exit status."""
    size = "small" if "--small" in sys.argv or "--quick" in sys.argv else "full"
    arguments = command(size).parse_args()
    if arguments.go_on and (arguments.quick or arguments.seeds):
        raise Mistake(
            "--continue adds to the recorded table; leave it out, or --quick and --seeds, whose "
            "finished runs are found in --records anyway"
        )
    point_to(arguments.data, size)
    whole = comparison(size)
    name, methods, asked, budget = choose(whole, arguments)
    if arguments.against not in METHODS:
        raise Mistake(f"--against {arguments.against} must be one of {', '.join(METHODS)}")
    batches = BATCHES if arguments.until_decided else 1
    if budget.seeds * batches > MOST:
        raise Mistake(
            f"--seeds {budget.seeds} would be {budget.seeds * batches} in all, of which at most "
            f"{MOST} can be compared; give {MOST // batches} or fewer"
        )
    known, members = None, set(methods)
    if arguments.go_on:
        name = whole.name  # nothing is lost: what is there stays
        known = read_known(arguments.output / f"{name}.json")
        there = {arm.partition("/")[0] for own in known.values() for arm in own}
        # A continued table has as many seeds as it had.
        most = max((int(arm.partition("/")[2]) for own in known.values() for arm in own), default=0)
        members, batches = members | there, max(batches, most + 1)
    board = Board([m for m in METHODS if m in members], arguments.against, budget.seeds, batches)
    trained = train_all(
        *(board, whole.tasks, [m for m in METHODS if m in methods], asked),
        *(budget, arguments.records, known, arguments.shard),
    )
    if arguments.shard.count > 1:
        print(f"trained: this part of {sum(map(len, trained.values()))} runs that are there by now")
        return 0

    def found() -> Findings:
        recorded = {task: read_behaviour(whole.tasks[task]) for task in trained}
        made = measure(board, trained, recorded, whole.tasks, budget, missing(whole, trained))
        figures = {name: made.figures[NAME]}
        return Findings(made.claims, {**made.details, "partial": name != whole.name}, figures)

    status = carry_out(name, TITLE, arguments, found)
    for path in write_report(trained, arguments.records):
        print(f"written: {path}")
    return status


def missing(whole: Comparison[Budget, Task], records: Records) -> list[str]:
    """What a whole table would have: datasets by the methods that they lack."""
    lacking: dict[str, list[str]] = {}
    for task in whole.usual:
        suited = [m for m in whole.methods if m not in whole.tasks[task].unsuited]
        absent = [m for m in suited if f"{m}/0" not in records.get(task, {})]
        if absent:
            said = "everything" if absent == suited else ", ".join(absent)
            lacking.setdefault(said, []).append(task)
    return [f"{', '.join(those)}: {said}" for said, those in lacking.items()]


def point_to(data: Path | None, size: str) -> None:
    """Let Minari's datasets be found, here and in the processes of the jobs."""
    found = data or Path("runs") / ("suite" if size == "full" else f"suite-{size}")
    if data is None and "MINARI_DATASETS_PATH" in os.environ:
        return
    if not (found / DATASETS).is_dir():
        small = " --small" if size == "small" else ""
        raise Mistake(
            f"{found} holds no suite; run python -m benchmarks.suite build{small}, or give its "
            "folder with --data"
        )
    os.environ["MINARI_DATASETS_PATH"] = str((found / DATASETS).absolute())


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
