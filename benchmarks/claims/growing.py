"""Tables that grow in parts: what is trained, what an earlier command has trained, what is missing.

An arm is a line of a table, such as a method, or a method with a seed. Records lie in a folder of
the machine, and in the JSON file of the table, so that a part can be added on another machine.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from reverie.benchmarks.claims.comparison import Record, Recorded, Task
from reverie.benchmarks.claims.experiment import run_all
from reverie.mistake import Mistake
from reverie.training.stored import contents_of, read_record

Records = dict[str, dict[str, Record]]
"""By task and arm."""


class Find(Protocol):
    """Trains an arm on a task, or finds the record of one that was trained at these settings."""

    def __call__(
        self, task: str, arm: str, known: Record | None, *, train: bool
    ) -> Record | None: ...


def gather(
    find: Find,
    asked: Iterable[tuple[str, str]],
    others: Iterable[tuple[str, str]],
    known: Records,
) -> Records:
    """Train what no record is of, side by side, and add what was trained before.

    Args:
        find: a picklable function.
        asked: tasks and arms, longest first.
        others: further ones, of which a record at the settings of today is shown, too.
        known: records of a table that is there, which may be of other settings.

    Returns:
        Tasks in the order of `known`'s and then the jobs', arms in that of the jobs.
    """
    torch.set_num_threads(1)  # as the jobs, which run side by side
    pairs = dict.fromkeys(asked, True)
    pairs |= {each: each in pairs for each in others}
    jobs: dict[str, Callable[[], Any]] = {
        f"{task}/{arm}": partial(find, task, arm, known.get(task, {}).get(arm), train=train)
        for (task, arm), train in pairs.items()
    }
    trained = run_all(jobs) if jobs else {}
    records: Records = {}
    for task, arm in pairs:
        if (record := trained[f"{task}/{arm}"]) is not None:
            records.setdefault(task, {})[arm] = record
    for task, own in known.items():
        if old := [arm for arm in own if arm not in records.get(task, {})]:
            print(f"{task}: left out, because settings or data are others: {', '.join(old)}")
    return records


def add_continue(command: argparse.ArgumentParser) -> None:
    """The option by which a command adds to its recorded table, as `go_on`."""
    command.add_argument(
        "--continue",
        dest="go_on",
        action="store_true",
        help="add to the table of benchmarks/results, whose results of the same settings are kept",
    )


def sort_records(records: Records, tasks: Iterable[str], arms: Iterable[str]) -> Records:
    """The same in this order of tasks and arms."""
    order = list(arms)
    return {
        task: {arm: records[task][arm] for arm in order if arm in records[task]}
        for task in tasks
        if task in records
    }


def read_behaviour(task: Task) -> Recorded:
    """What was recorded of a task.

    Raises:
        Mistake: its data name no environment.
    """
    data = task.load()
    if data.spec.env_id is None:
        raise Mistake(
            f"{data.name} names no environment in which policies could be compared; choose a "
            "dataset that does, or run train.py, whose verdict needs none"
        )
    return Recorded.of(data)


def read_known(path: Path) -> Records:
    """The records of a table that is there, none where there is no table."""
    if not path.is_file():
        return {}
    remedy = "restore it, or move it away and leave --continue out"
    found = read_record(path, remedy)
    with contents_of(path, "this benchmark", remedy):
        return {
            str(name): {arm: dict(record) for arm, record in own.items()}
            for name, own in found["records"].items()
        }


def core_seconds(records: Mapping[str, Mapping[str, Record]]) -> float:
    """Of a core, of all trainings: a table made in parts has no other clock."""
    return sum(
        sum(record["seconds"].values()) for own in records.values() for record in own.values()
    )
