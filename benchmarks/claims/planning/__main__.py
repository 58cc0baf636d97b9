"""Plans in world models: against the optimum, in the truth, in fitted models, and beside MOPO.

Every claim was chosen before anything was run. `policies/...` give planning and MOPO's policy the
same fitted ensemble, so that what differs is who uses it. All of it takes hours of a core:
`--only ... --continue` measures some tasks and keeps what is recorded of the others, with the date
of each. Hopper is read from Minari's folder, see MINARI_DATASETS_PATH.
"""

import argparse
import sys
from collections.abc import Callable, Collection
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from reverie.benchmarks.claims.experiment import prefix_names, run_all, split_by_task, timed
from reverie.benchmarks.claims.planning import hidden_velocity, linear_quadratic, pendulum, policies
from reverie.benchmarks.claims.report import Claim, Findings, carry_out, parser
from reverie.benchmarks.speed.hardware import describe
from reverie.mistake import Mistake
from reverie.training.launch.mistakes import one_line_errors
from reverie.training.stored import contents_of, read_record

NAME = "planning"
TITLE = "Planning in world models"
MODULES = {
    "policies": policies,
    "hidden_velocity": hidden_velocity,
    "pendulum": pendulum,
    "linear-quadratic": linear_quadratic,
}
"""Each gives jobs for its arms, `jobs(quick)`, and judges what came of them, `judge(found, quick)`;
the longest first."""


class Known(NamedTuple):
    """What was measured.

    Attributes:
        runs: results by module and arm.
        measured: of each task, its `date`, the `cpu`, and `seconds` of a core.
    """

    runs: dict[str, dict[str, Any]]
    measured: dict[str, dict[str, Any]]


def task_of(job: str) -> str:
    """What is measured and judged together: a task of `policies`, or a whole module."""
    module, _, _ = job.partition("/")
    return job if module == "policies" else module


def all_jobs(quick: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Every arm of every module, as `module/arm`."""
    jobs: dict[str, Callable[[], dict[str, Any]]] = {}
    for name, module in MODULES.items():
        jobs |= prefix_names(name, module.jobs(quick))
    return jobs


TASKS = tuple(dict.fromkeys(map(task_of, all_jobs(quick=False))))
QUICK_TASKS = tuple(task for task in TASKS if task != "policies/hopper")
"""Of a quick look where none are named: those whose data are builtin."""


def measure(asked: Collection[str], read: Callable[[], Known], quick: bool) -> Findings:
    """Run the arms of the tasks that are asked for side by side, and judge all that is known.

    Args:
        asked: of `TASKS`.
        read: says what else was measured, other commands that ran meanwhile included; what is
            asked for takes the place of what is there.
    """
    jobs = {name: job for name, job in all_jobs(quick).items() if task_of(name) in asked}
    found = run_all({name: partial(timed, job) for name, job in jobs.items()}) if jobs else {}
    runs, measured = read()
    about = {"date": date.today().isoformat(), "cpu": describe(torch.device("cpu"))["cpu"]}
    for task in asked:
        seconds = sum(own for name, (_, own) in found.items() if task_of(name) == task)
        measured[task] = {**about, "seconds": seconds}
    for name, arms in split_by_task({name: result for name, (result, _) in found.items()}).items():
        runs[name] = {**runs.get(name, {}), **arms}
    # In the order of the modules, whenever they were measured.
    runs = {
        name: {arm: runs[name][arm] for arm in module.jobs(quick) if arm in runs[name]}
        for name, module in MODULES.items()
        if name in runs
    }
    parts = [MODULES[name].judge(arms, quick) for name, arms in reversed(runs.items())]
    missing = [task for task in TASKS if task not in measured]
    absent = ", ".join(missing) or "none"
    claim = Claim("tasks that were not measured", "none", absent, None, "ours")
    when = {
        "caption": "When each task was measured",
        "header": ["task", "date", "on"],
        "rows": [
            [task, measured[task]["date"], measured[task]["cpu"]]
            for task in TASKS
            if task in measured
        ],
    }
    return Findings(
        [*(claim for part in parts for claim in part.claims), claim],
        {
            # Of a core: what is measured in parts has no other clock.
            "seconds": sum(own["seconds"] for own in measured.values()),
            "measured": measured,
            "missing": missing,
            "tables": [when],
            **runs,
        },
        {stem: figure for part in parts for stem, figure in part.figures.items()},
    )


def read_known(path: Path) -> Known:
    """What is recorded; nothing where there is no file."""
    if not path.is_file():
        return Known({}, {})
    remedy = "restore it, or move it away and leave --continue out"
    found = read_record(path, remedy)
    jobs = all_jobs(quick=False)
    with contents_of(path, "this benchmark", remedy):
        recorded = {
            f"{name}/{arm}": run for name in MODULES for arm, run in found.get(name, {}).items()
        }
        # One that has gained an arm is measured anew.
        lacking = {task_of(job) for job in jobs if job not in recorded}
        measured = {
            task: dict(found["measured"][task])
            for task in TASKS
            if task in found["measured"] and task not in lacking
        }
        runs = {job: dict(recorded[job]) for job in jobs if task_of(job) in measured}
    return Known(split_by_task(runs), measured)


def command() -> argparse.ArgumentParser:
    """The options of the command."""
    found = parser(NAME, __doc__)
    found.add_argument("--only", nargs="+", metavar="NAME", choices=TASKS, help=" ".join(TASKS))
    found.add_argument(
        "--continue",
        dest="go_on",
        action="store_true",
        help=f"add to {NAME}.json what is asked for, or what is missing, and keep the others",
    )
    return found


def main() -> int:
    """Be the command; returns the exit status, 1 where a claim fails."""
    arguments = command().parse_args()
    if arguments.go_on and arguments.quick:
        raise Mistake("--continue adds to what is evidence; leave it out, or --quick")
    path = arguments.output / f"{NAME}.json"

    def read() -> Known:
        return read_known(path) if arguments.go_on else Known({}, {})

    measured = read().measured  # early, so that a damaged file costs no time
    tasks = QUICK_TASKS if arguments.quick else TASKS
    asked = arguments.only or [task for task in tasks if task not in measured]
    # A part never takes the place of the whole.
    part = bool(arguments.only) and not arguments.go_on
    name = f"{NAME}-part" if part else NAME

    def found() -> Findings:
        whole = measure(asked, read, arguments.quick)
        figures = {stem.replace(NAME, name, 1): each for stem, each in whole.figures.items()}
        return Findings(whole.claims, {**whole.details, "partial": part}, figures)

    return carry_out(name, TITLE, arguments, found)


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
