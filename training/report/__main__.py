"""One page about many runs: `python -m training.report runs/mopo runs/td3_bc`.

Takes run directories and folders of them, of any methods and tasks; writes `report.html`, which
needs no other file, `report.md` with the same tables, and the results as `results.csv` and
`results.tex`. Trains and evaluates nothing. `reverie report` is the same where that is installed.
"""

import argparse
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from reverie.mistake import Mistake
from reverie.text import one_line
from reverie.training.files import write_text
from reverie.training.launch import mistakes
from reverie.training.ope.conclusions import name_run
from reverie.training.report.dreams import dreams
from reverie.training.report.figures import Painter, unit_of
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
from reverie.training.report.page import (
    PAGES,
    Folded,
    Picture,
    Section,
    Table,
    Text,
    as_html,
    as_markdown,
    require_ours,
)
from reverie.training.report.selection import PULLS, SUBSET, selected_scores
from reverie.training.report.tables import Score, as_csv, as_latex
from reverie.training.report.verdicts import verdicts
from reverie.training.report.videos import videos
from reverie.training.results import statistics
from reverie.training.results.statistics import CURVE_REPLICATES, Interval, bootstrap
from reverie.training.results.summary import LAST
from reverie.training.run_directory import given_folder

log = logging.getLogger(__name__)

Tasks = Mapping[str, Sequence[Group]]

KINDS = {
    "last10": f"last {LAST} evaluations",
    "final": "last evaluation",
    "best": "best evaluation (chosen on the test task)",
}
_THRESHOLDS = 101
_PULLS_SHOWN = (1, 10, 50, PULLS)
_PULLS_DRAWN = sorted({*_PULLS_SHOWN, 2, 3, 5, 7, 15, 20, 30, 75, 100, 150})


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


def cell(values: Sequence[float], digits: int = 1) -> str:
    """Mean over seeds with its interval; never a mean of one that looks like a mean of many."""
    if not values:
        return "-"
    broken = sum(not np.isfinite(value) for value in values)
    if broken:
        return f"not finite in {broken} of {len(values)} seeds"
    return interval(bootstrap(statistics.mean, statistics.columns([values])), digits)


def interval(found: Interval, digits: int = 1) -> str:
    """`estimate [low, high]`."""
    if np.isnan(found.low):
        return f"{found.estimate:.{digits}f} (one seed)"
    return f"{found.estimate:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


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


def value_estimates(tasks: Tasks, painter: Painter) -> list[Section]:
    """What critics promised beside what came."""
    shown = having(tasks, lambda group: len(group.curves("start/value")[0]) > 0)
    if not shown:
        return []
    rows = []
    for task, groups in shown.items():
        for group in groups:
            updates, promised = group.curves("start/value")
            returns = group.curves("start/return")
            # Without an environment there is a value and no return.
            came = returns[1][:, -1] if len(returns[0]) else np.empty(0)
            gap = promised[:, -1] - came if len(came) else came
            rows.append(
                [
                    f"{group.method} on {task}",
                    f"{updates[-1]}",
                    *(cell(v.tolist(), 2) for v in (promised[:, -1], came, gap)),
                ]
            )
    header = ["", "update", "smallest critic at starts", "discounted return", "over-estimation"]
    caption = "Q at the starts of episodes (thick) against the discounted return from there (thin)"
    picture = Picture(painter.values(shown), caption)
    return [Section("Values against returns", [Table(header, rows), picture])]


def world_models(tasks: Tasks, painter: Painter) -> list[Section]:
    """Errors one step and many steps ahead, and whether uncertainty means anything."""
    shown = having(tasks, lambda group: any(run.world_model.get("open_loop") for run in group.runs))
    if not shown:
        return []
    columns = {
        "one-step error, median": ("one_step", "rmse_median"),
        "R², median": ("one_step", "r2_median"),
        "reward error": ("one_step", "reward_rmse"),
        "NLL, mixture": ("likelihood", "mixture"),
        "calibration error": ("calibration", "error"),
        "std of z": ("calibration", "z_std"),
        "valid steps": ("open_loop", "mean", "valid_steps"),
    }
    rows = [
        [f"{group.method} on {task}", *(cell(diagnostic(group, *k), 3) for k in columns.values())]
        for task, groups in shown.items()
        for group in groups
    ]
    caption = (
        "held-out episodes; errors in standard deviations of the change, NLL in nats a column; "
        "valid steps: of recorded actions, until the error is 0.4 standard deviations of the state"
    )
    section = Section("World models", [Table(["", *columns], rows, caption)])
    for task, groups in shown.items():
        labels = groups[0].runs[0].summary["dataset"].get("exogenous")
        if labels:
            told = f"{task}: not predicted but replayed from the record: {', '.join(labels)}"
            section.blocks.append(Text(told))
    ahead = "error open loop, replaying recorded actions"
    section.blocks.append(Picture(painter.open_loop(shown), ahead))
    judged = having(shown, lambda group: bool(diagnostic(group, "calibration", "error")))
    if judged:
        covered = "share of truths inside central intervals of the prediction"
        section.blocks.append(Picture(painter.calibration(judged), covered))
    return [section]


def diagnostic(group: Group, *keys: str) -> list[float]:
    """A measurement of all world models; empty where they have none."""
    found: list[Any] = []
    for run in group.runs:
        per_seed: Any = run.world_model
        for key in keys:
            per_seed = (per_seed or {}).get(key)
        per_seed = per_seed or []
        shared = run.settings.get("world_model.per_seed") is False
        found += per_seed[:1] if shared else per_seed  # one of a shared model
    return [float("nan") if value is None else value for value in found]


def selection(tasks: Tasks, painter: Painter) -> list[Section]:
    """What a method's policies are worth to somebody who can evaluate few of them."""
    section = Section("Choosing a policy with few evaluations")
    for task, groups in tasks.items():
        pools: dict[str, list[list[float]]] = defaultdict(list)
        for group in groups:
            for run in group.runs:
                # Of episodes without a finite score nobody can say what choosing them gives.
                scores = run.evaluation.get("scores") or []
                pools[run.summary["name"]] += [own for own in scores if own and None not in own]
        found, rows = {}, []
        for name, pool in pools.items():
            if len(pool) < 2:
                continue
            episodes = min(map(len, pool))
            held = selected_scores(np.array([policy[:episodes] for policy in pool], float))
            held = held[:, [pull - 1 for pull in _PULLS_DRAWN]]
            found[name] = bootstrap(statistics.task_means, held, replicates=CURVE_REPLICATES)
            curve = found[name]
            shown = [
                interval(Interval(curve.estimate[at], curve.low[at], curve.high[at]))
                for at in map(_PULLS_DRAWN.index, _PULLS_SHOWN)
            ]
            rows.append([name, str(len(pool)), str(episodes), *shown])
        if found:
            header = [
                "method",
                "policies",
                "episodes of each",
                *(f"pulls: {p}" for p in _PULLS_SHOWN),
            ]
            section.blocks.append(Table(header, rows, f"{task}: normalised score of the choice"))
            caption = f"{task}: score of the chosen policy by episodes spent"
            section.blocks.append(Picture(painter.selection(task, _PULLS_DRAWN, found), caption))
    if not section.blocks:
        return []
    text = (
        "Policies of all settings and seeds of a method are arms of a UCB bandit that spends up to "
        f"{PULLS} of the episodes in evaluation.json; at one pull it is a random policy. Each "
        f"repeat has at most {SUBSET} policies at hand. Intervals are over repeats of the bandit, "
        "not over training."
    )
    return [Section(section.title, [Text(text), *section.blocks])]


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
        Folded(f"Settings that only {m} has ({len(own)})", f"Only {m} has: {', '.join(own)}.")
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


def having(tasks: Tasks, condition: Any) -> dict[str, list[Group]]:
    """Tasks and groups of which something is known."""
    kept = {task: [g for g in groups if condition(g)] for task, groups in tasks.items()}
    return {task: groups for task, groups in kept.items() if groups}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.report", description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path, help="run directories, or folders of them")
    parser.add_argument("--output", default="report", help="folder for the pages")
    arguments = parser.parse_args()
    for path in report(arguments.paths, given_folder("--output", arguments.output)):
        print(f"written: {path}")


if __name__ == "__main__":
    mistakes.run(main)
