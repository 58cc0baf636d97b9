"""One page about many runs: `python -m training.report runs/mopo runs/td3_bc`.

Takes run directories and folders of them, of any methods and tasks; writes `report.html`, which
needs no other file, `report.md` with the same tables, and the results as `results.csv` and
`results.tex`. Trains and evaluates nothing. `reverie report` is the same where that is installed.
"""

import argparse
import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reverie.mistake import Mistake
from reverie.paths import given_folder
from reverie.text import one_line
from reverie.training.files import write_text
from reverie.training.launch import mistakes
from reverie.training.ope.conclusions import name_run
from reverie.training.report.dreams import dreams
from reverie.training.report.figures import Painter
from reverie.training.report.groups import (
    Group,
    cannot_be_read,
    differing,
    find,
    group_runs,
    nothing_finished,
    read,
    split_population,
    typed,
)
from reverie.training.report.models import value_estimates, world_models
from reverie.training.report.page import (
    PAGES,
    Folded,
    Section,
    Table,
    Text,
    as_html,
    as_markdown,
    require_ours,
)
from reverie.training.report.scores import aggregates, learning_curves, results, scores
from reverie.training.report.selection import selection
from reverie.training.report.tables import as_csv, as_latex
from reverie.training.report.verdicts import verdicts
from reverie.training.report.videos import videos
from reverie.training.results import statistics

log = logging.getLogger(__name__)


def report(paths: Sequence[Path], output: Path) -> list[Path]:
    """Write both pages about all finished runs at or below the paths; returns where.

    Raises:
        Mistake: nothing finished there that can be read; pages of somebody else in `output`.
    """
    for page in PAGES:
        require_ours(output / page)
    finished, left_out = find(paths)
    read_runs = []
    for directory in finished:
        try:
            read_runs.append(read(directory))
        except Mistake as error:
            left_out[directory] = cannot_be_read(error)
    if not read_runs:
        raise nothing_finished(paths, left_out)
    for path, why in left_out.items():
        log.warning("%s", one_line(f"warning: {path} {why} and is left out"))
    groups, remarks = group_runs([each for run in read_runs for each in split_population(run)])
    remarks += [f"{path} {why} and is left out" for path, why in left_out.items()]
    tasks: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        tasks[group.task].append(group)
    painter = Painter(list(dict.fromkeys(group.method for group in groups)))
    sections = [
        overview(groups, remarks),
        *alarms(groups),
        results(tasks),
        *verdicts(tasks, painter),
        *aggregates(tasks, painter),
        *learning_curves(tasks, painter),
        *value_estimates(tasks, painter),
        *world_models(tasks, painter),
        *dreams(groups),
        *selection(tasks, painter),
        wall_clock(groups),
        *settings(groups),
        *videos(groups, output),
    ]
    runs = len({run.directory for group in groups for run in group.runs})
    title = (
        f"{runs} run{'s' if runs > 1 else ''} on {len(tasks)} task{'s' if len(tasks) > 1 else ''}"
    )
    table = scores(tasks)
    texts = (as_html(title, sections), as_markdown(title, sections), as_csv(table), as_latex(table))
    pages = dict(zip(PAGES, texts, strict=True))
    for name, text in pages.items():
        require_ours(output / name)  # which may have come meanwhile
        write_text(output / name, text)
    return [output / name for name in pages]


def overview(groups: Sequence[Group], remarks: Sequence[str]) -> Section:
    """What was read, how to read the numbers, and under which versions they arose."""
    summaries = [run.summary for group in groups for run in group.runs]
    versions = {", ".join(f"{k} {v}" for k, v in s.get("versions", {}).items()) for s in summaries}
    text = (
        f"Numbers are means over seeds with {statistics.LEVEL:.0%} bootstrap intervals, resampled "
        "within each task; episodes are averaged first. 'One seed' stands where there is no "
        "interval because there is nothing to resample. Every seed of a run with several "
        "counts; seeds with settings of their own count as experiments of their own."
    )
    return Section(
        "What this is",
        [
            Text(text),
            *(Text(f"Versions: {each}.") for each in sorted(versions)),
            *map(Text, remarks),
        ],
    )


def alarms(groups: Sequence[Group]) -> list[Section]:
    """What the runs themselves warn of; nothing where none does."""
    said = {
        # A run may stand in several groups.
        f"{run.directory}: {name_run(alarm, run.directory)}": None
        for group in groups
        for run in group.runs
        for alarm in run.summary.get("alarms", [])
    }
    return [Section("Alarms", [*map(Text, said)])] if said else []


def wall_clock(groups: Sequence[Group]) -> Section:
    """Seconds of a run by stage."""
    stages = list(
        dict.fromkeys(s for g in groups for run in g.runs for s in run.summary["seconds"])
    )
    rows = []
    for group in groups:
        taken = [[run.summary["seconds"].get(stage, 0.0) for stage in stages] for run in group.runs]
        means = np.mean(taken, 0)
        seeds = sorted({run.settings["seeds"] for run in group.runs})
        devices = sorted({run.summary.get("device", "unknown") for run in group.runs})
        rows.append(
            [
                f"{group.method} on {group.task}",
                *(f"{seconds:.0f}" for seconds in (*means, means.sum())),
                str(len({run.directory for run in group.runs})),
                ", ".join(map(str, seeds)),
                "; ".join(devices),
            ]
        )
    header = ["", *stages, "total", "runs", "seeds in a run", "device"]
    caption = "seconds a run, mean over runs; a fit reused from the cache took its stage no time"
    return Section("Wall-clock", [Table(header, rows, caption)])


def settings(groups: Sequence[Group]) -> list[Section]:
    """Settings in which methods that have them differ, those of only one in a line apart."""
    keys = differing([run for group in groups for run in group.runs])
    keys = [key for key in keys if key.split(".")[-1] not in ("_partial_", "_convert_")]
    if not keys:
        return []
    methods: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        methods[group.method].append(group)
    rows = []
    alone: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        owners = [m for m, own in methods.items() if any(key in g.runs[0].experiment for g in own)]
        told = [setting(own, key) for own in methods.values()]
        values = {typed(g.runs[0].experiment[key]) for g in groups if key in g.runs[0].experiment}
        if len(methods) == 1 or (len(owners) > 1 and len(values) > 1):
            rows.append([key, *told])
        elif len(owners) == 1:
            alone[owners[0]].append(f"{key}={setting(methods[owners[0]], key)}")
    section = Section("Settings that differ")
    if rows:
        section.blocks.append(Table(["setting", *methods], rows))
    section.blocks.extend(
        Folded(
            f"Settings that only {m} has ({len(own)})",
            [Text(f"Only {m} has: {', '.join(own)}.")],
        )
        for m, own in alone.items()
    )
    return [section]


def setting(groups: Sequence[Group], key: str) -> str:
    """A setting of one method, and by task where it differs between them."""
    experiments = {group.task: group.runs[0].experiment for group in groups}
    values = {task: typed(own[key]) if key in own else "-" for task, own in experiments.items()}
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return "; ".join(f"{value} on {task}" for task, value in values.items())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.report", description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path, help="run directories, or folders of them")
    parser.add_argument("--output", default="report", help="folder for the pages")
    arguments = parser.parse_args()
    for path in report(arguments.paths, given_folder("--output", arguments.output)):
        print(f"written: {path}")


if __name__ == "__main__":
    mistakes.run(main)
