"""Results of methods on tasks: one table a task, aggregates over all, and learning curves."""

from collections import defaultdict
from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np

from reverie.training.report.figures import Painter, unit_of
from reverie.training.report.groups import Tasks, differing, having
from reverie.training.report.page import Picture, Section, Table, Text
from reverie.training.report.tables import Score, cell, interval
from reverie.training.results import statistics
from reverie.training.results.statistics import CURVE_REPLICATES, bootstrap
from reverie.training.results.summary import LAST

KINDS = {
    "last10": f"last {LAST} evaluations",
    "final": "last evaluation",
    "best": "best evaluation (chosen on the test task)",
}
_THRESHOLDS = 101


def scores(tasks: Tasks) -> list[Score]:
    """The numbers of the tables of results, one line each."""
    return [
        Score(
            *(group.method, task, len(values), unit, name),
            bootstrap(statistics.mean, statistics.columns([values])),
        )
        for task, groups in tasks.items()
        for unit in (unit_of(groups),)
        for group in groups
        for kind, name in KINDS.items()
        if (values := group.per_seed(f"{unit}_{kind}_per_seed")) and np.isfinite(values).all()
    ]


def results(tasks: Tasks) -> Section:
    """One table a task: the honest score, and the flattering ones apart."""
    section = Section("Results")
    for task, groups in tasks.items():
        unit = unit_of(groups)
        rows = []
        for group in groups:
            cells = [cell(group.per_seed(f"{unit}_{kind}_per_seed")) for kind in KINDS]
            seeds = sum(run.summary["seeds"] for run in group.runs)
            rows.append([group.method, str(seeds), *cells])
        data = groups[0].runs[0].summary["dataset"]["behaviour"]
        mean, best = f"{data[f'{unit}_mean']:z.1f}", f"{data[f'{unit}_best']:z.1f}"
        rows.append(["data: mean, best episode", "", mean, "-", best])
        summary = groups[0].runs[0].summary
        name = "normalised score" if unit == "score" else "return"
        where = f" in {summary['environment']}, physics {summary['physics']}"
        if summary["environment"] is None:
            where = "; no environment is named, so only the recorded episodes have one"
        caption = f"{task}: {name}{where}"
        section.blocks.append(Table(["method", "seeds", *KINDS.values()], rows, caption))
        if told := _inferred(summary["dataset"]):
            section.blocks.append(Text(f"{task}: {told}"))
    return section


def _inferred(dataset: Mapping[str, Any]) -> str | None:
    """Which of its actions nobody recorded, in words; None where all were."""
    found = dataset.get("inferred_actions")
    if not found:
        return None
    r2 = ", ".join("-" if each is None else f"{each:.3f}" for each in found["r2"])
    return (
        f"{found['rows']:,} of {dataset['transitions']:,} rows have an action that an inverse "
        f"model filled in, {found['unsure']:,} of them a guess; R2 on recorded actions {r2}"
    )


def collect_scores(tasks: Tasks) -> tuple[list[str], dict[str, np.ndarray], list[str]]:
    """Tasks on which all methods have finite scores, `[runs, tasks]` a method, and remarks."""
    found: dict[str, dict[str, list[float]]] = defaultdict(dict)
    remarks = []
    for task, groups in tasks.items():
        for group in groups:
            values = group.per_seed("score_last10_per_seed")
            if values and np.isfinite(values).all():
                found[group.method][task] = values
            elif values:
                remarks.append(f"Not in the aggregates: {group.method} on {task}, no finite score.")
        if not any(group.per_seed("score_last10_per_seed") for group in groups):
            remarks.append(f"Not in the aggregates: {task}, where nothing has a normalised score.")
    shared = [task for task in tasks if found and all(task in own for own in found.values())]
    if not shared:
        if found:
            remarks.append("No aggregates: there is no task on which every method has a score.")
        return [], {}, remarks
    if len(shared) < len(tasks):
        names = ", ".join(shared)
        remarks.append(f"Aggregates cover the tasks on which every method has a score: {names}.")
    table = {m: statistics.columns([own[task] for task in shared]) for m, own in found.items()}
    return shared, table, remarks


def aggregates(tasks: Tasks, painter: Painter) -> list[Section]:
    """Over tasks: interquartile mean and its kin, profiles, probabilities of improvement."""
    shared, table, remarks = collect_scores(tasks)
    if not table:
        return [Section("Over all tasks", [*map(Text, remarks)])] if remarks else []
    kinds = {
        "IQM": statistics.interquartile_mean,
        "median": statistics.median,
        "mean": statistics.mean,
        "optimality gap": statistics.optimality_gap,
    }
    rows = [
        [method, *(interval(bootstrap(kind, scores)) for kind in kinds.values())]
        for method, scores in table.items()
    ]
    over = f"{len(shared)} task{'s' if len(shared) > 1 else ''}"
    caption = f"normalised score, last {LAST} evaluations, over {over}"
    for method in table:
        own = [group for task in shared for group in tasks[task] if group.method == method]
        if changed := differing([group.runs[0] for group in own]):
            told = ", ".join(changed)
            remarks.append(f"{method} has settings of its own on each task, listed below: {told}.")
    section = Section("Over all tasks", [*map(Text, remarks)])
    section.blocks.append(Table(["method", *kinds], rows, caption))
    everything = np.concatenate([scores[np.isfinite(scores)] for scores in table.values()])
    low, high = min(0.0, everything.min()), max(100.0, everything.max())
    thresholds = np.linspace(low - 0.02 * (high - low), high, _THRESHOLDS)
    profiles = {
        method: bootstrap(
            lambda x: statistics.performance_profile(x, thresholds),
            scores,
            replicates=CURVE_REPLICATES,
        )
        for method, scores in table.items()
    }
    caption = "performance profiles: share of runs that score above each threshold, band: interval"
    section.blocks.append(Picture(painter.profiles(thresholds, profiles), caption))
    if len(table) > 1:
        matrix = {
            (x, y): interval(
                bootstrap(
                    *(statistics.probability_of_improvement, table[x], table[y]),
                    replicates=CURVE_REPLICATES,
                ),
                2,
            )
            for x, y in permutations(table, 2)
        }
        rows = [[x, *(matrix.get((x, y), "-") for y in table)] for x in table]
        caption = "probability that the method of the row scores above that of the column"
        section.blocks.append(Table(["", *table], rows, caption))
    return [section]


def learning_curves(tasks: Tasks, painter: Painter) -> list[Section]:
    """Where anything was evaluated."""
    shown = having(tasks, lambda group: len(group.curves(unit_of(tasks[group.task]))[0]) > 0)
    if not shown:
        return []
    caption = "mean over seeds, band: pointwise interval"
    return [Section("Learning curves", [Picture(painter.learning_curves(shown), caption)])]
