"""What a finished run leaves for people: a table, a summary and a picture of its curves."""

import csv
import json
import platform
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from reverie.datasets.dataset import Dataset
from reverie.training.files import FORMAT, write_atomically
from reverie.training.population import label, population

LAST = 10
"""Evaluations averaged into the reported score, as is usual on D4RL."""

Panel = tuple[str, dict[str, str], str]
"""Label of the axis, the metrics on it with their names for people, and its scale."""

VERSIONED = ("torch", "numpy", "gymnasium", "mujoco", "minari", "hydra-core")


def final_scores(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Scores of a run from its evaluations, the honest ones and the flattering ones apart.

    Args:
        evaluations: each with `update`, `returns` (one mean return a seed) and `scores`
            (normalised, or None where the task has no reference).

    Returns:
        Per seed and averaged over seeds: `last10` (mean of the last ten evaluations, the number
        to report), `final` (the last one) and `best` (the best one, which selects by looking at
        the test environment and therefore inflates). Returns always, scores where defined.
    """
    if not evaluations:
        return {}
    result: dict[str, Any] = {"evaluations": len(evaluations)}
    for key in ("returns", "scores"):
        if evaluations[0][key] is None:
            continue
        table = np.array([evaluation[key] for evaluation in evaluations])  # [evaluations, S]
        per_seed = {"last10": table[-LAST:].mean(0), "final": table[-1], "best": table.max(0)}
        name = {"returns": "return", "scores": "score"}[key]
        for kind, values in per_seed.items():
            result[f"{name}_{kind}"] = float(values.mean())
            result[f"{name}_{kind}_per_seed"] = values.tolist()
    return result


def behaviour(data: Dataset) -> dict[str, float]:
    """How well the policies that made the data did, over whole episodes."""
    returns = data.returns.numpy()
    result = {"return_mean": float(returns.mean()), "return_best": float(returns.max())}
    if data.reference is not None:
        result["score_mean"] = float(data.reference.normalise(returns.mean()))
        result["score_best"] = float(data.reference.normalise(returns.max()))
    return result


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version()}
    for package in VERSIONED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def device_name(device: torch.device) -> str:
    """A readable name of the hardware a run used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def results_table(summary: Mapping[str, Any]) -> Table:
    """The end of a run on one small table."""
    table = Table(title=f"{summary['name']} on {summary['dataset']['name']}", title_justify="left")
    unit = "score" if "score_last10" in summary["result"] else "return"
    for column in ("", unit, "spread over seeds" if summary["seeds"] > 1 else "one seed"):
        table.add_column(column, justify="left" if column == "" else "right")
    data = summary["dataset"]["behaviour"]
    table.add_row("behaviour policy, mean", f"{data[f'{unit}_mean']:.1f}", "")
    table.add_row("behaviour policy, best episode", f"{data[f'{unit}_best']:.1f}", "")
    names = {
        "last10": f"{summary['name']}, mean of last {LAST} evaluations",
        "final": f"{summary['name']}, last evaluation",
        "best": f"{summary['name']}, best evaluation (selected on the test task)",
    }
    lanes = summary.get("population", {})
    for kind, text in names.items():
        if f"{unit}_{kind}" not in summary["result"]:
            continue
        # A return that was not a number is written as null.
        per_seed = np.array(summary["result"][f"{unit}_{kind}_per_seed"], dtype=float)
        if lanes:  # of which each is another experiment
            for lane, value in enumerate(per_seed):
                table.add_row(f"{text}, {label(lanes, lane)}", f"{value:.1f}", "one seed")
            continue
        spread = f"std {per_seed.std():.1f} of {len(per_seed)}" if len(per_seed) > 1 else ""
        style = "bold" if kind == "last10" else None
        table.add_row(text, f"{per_seed.mean():.1f}", spread, style=style)
    for stage, seconds in summary["seconds"].items():
        table.add_row(f"wall-clock: {stage}", f"{seconds:.0f} s", "")
    return table


def print_results(summary: Mapping[str, Any], run_dir: Path, console: Console) -> None:
    """Print the table and where everything lies."""
    console.print(results_table(summary))
    for alarm in summary.get("alarms", []):
        console.print(f"warning: {alarm}", style="yellow", highlight=False, soft_wrap=True)
    console.print(f"run directory: {run_dir}", highlight=False, soft_wrap=True)


def summarise(
    settings: Mapping[str, Any],
    data: Dataset,
    evaluations: Sequence[Mapping[str, Any]],
    fitted: Mapping[str, Mapping[str, Any]],
    seconds: Mapping[str, float],
    device: torch.device,
) -> dict[str, Any]:
    """Everything worth knowing about a finished run, as plain values."""
    return {
        "format": FORMAT,
        "name": settings["name"],
        "seed": settings["seed"],
        "seeds": settings["seeds"],
        "updates": settings["updates"],
        "population": population(settings),
        "result": final_scores(evaluations),
        "dataset": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "transitions": len(data),
            "episodes": len(data.episode_starts),
            "origin": dict(data.origin),
            "behaviour": behaviour(data),
        },
        "environment": data.spec.env_id,
        "physics": data.spec.physics,
        "reference": None if data.reference is None else vars(data.reference),
        **{group: dict(described) for group, described in fitted.items()},
        "seconds": dict(seconds),
        "device": device_name(device),
        "versions": versions(),
    }


def of_seeds(count: int) -> str:
    """What a mean is over, for tables in which that of one must not look like that of many."""
    return "one seed" if count == 1 else f"{count} seeds"


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of a finished run.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it and run the same command to write it again"
        ) from error


def read_metrics(path: Path) -> dict[str, dict[int, tuple[list[int], list[float]]]]:
    """`metrics.csv` as {metric: {seed: (updates, values)}}."""
    series: dict[str, dict[int, tuple[list[int], list[float]]]] = defaultdict(dict)
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            updates, values = series[row["metric"]].setdefault(int(row["seed"]), ([], []))
            updates.append(int(row["update"]))
            values.append(float(row["value"]))
    return series


def plot_curves(metrics: Path, picture: Path, summary: Mapping[str, Any]) -> None:
    """Draw the learning curve against the behaviour policy, and what the agent believed."""
    # Imported here: matplotlib takes a second to load, and only the end of a run needs it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    series = read_metrics(metrics)
    unit = "score" if "score" in series else "return"
    panels = [
        (unit, "normalised score" if unit == "score" else "return of an episode"),
        ("value", "Q of the training batch"),
        # An agent without critics may not have been scored either.
        ("critic_loss", "critic loss") if "critic_loss" in series else ("actor_loss", "actor loss"),
    ]
    panels = [panel for panel in panels if panel[0] in series]
    if not panels:
        return
    figure = Figure(figsize=(4.6 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{summary['name']} on {summary['dataset']['name']}")
    lanes = summary.get("population", {})
    for index, (name, text) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        curves = series[name]
        table = np.array([values for _, values in curves.values()])
        updates: Sequence[float] = next(iter(curves.values()))[0]
        unit_of_time = "gradient steps"
        if name == unit and "env_steps" in series:  # both were written at the same updates
            updates, unit_of_time = series["env_steps"][0][1], "steps in the environment"
        marker = "o" if table.shape[1] == 1 else None  # a line of one point is invisible
        if lanes:  # a mean over different settings would say nothing
            for lane, values in enumerate(table):
                axes.plot(updates, values, lw=1.5, marker=marker, label=label(lanes, lane))
        else:
            for values in table:
                faint = 0.25 if len(table) > 1 else 0
                axes.plot(updates, values, color="tab:blue", alpha=faint, lw=1)
            mean = "mean of seeds" if len(table) > 1 else "one seed"
            axes.plot(updates, table.mean(0), color="tab:blue", lw=2, marker=marker, label=mean)
        if name == unit:
            data = summary["dataset"]["behaviour"]
            axes.axhline(data[f"{unit}_mean"], color="0.4", ls="--", label="behaviour, mean")
            axes.axhline(data[f"{unit}_best"], color="0.7", ls=":", label="behaviour, best")
        if name == "critic_loss":
            axes.set_yscale("log")
        axes.set_xlabel(unit_of_time)
        axes.set_ylabel(text, fontsize=8)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    write_atomically(picture, lambda file: figure.savefig(file, format="png", dpi=120))


def plot_values(metrics: Path, picture: Path, summary: Mapping[str, Any]) -> None:
    """Draw what `ValueProbe` measured: values over training, and doubt where rollouts end."""
    panels: list[Panel] = [
        (
            "value",
            {
                "value": "critics, training batch",
                "start/value": "smallest critic at episode starts",
                "start/return": "discounted return from there",
            },
            "symlog",
        ),
        (
            "spread of the critics",
            {"reach/spread_inside": "inside rollouts", "reach/spread_ends": "at their ends"},
            "log",
        ),
        (
            "share",
            {"reach/edge_share": "rollout ends beyond reach", "reach/auc": "ROC-AUC of the spread"},
            "linear",
        ),
    ]
    _plot_means(metrics, picture, panels, summary)


def plot_lipschitz(metrics: Path, picture: Path, summary: Mapping[str, Any]) -> None:
    """Draw what `LipschitzProbe` measured: slopes, and errors of the model's targets."""
    panels: list[Panel] = [
        (
            "change of Q per standard deviation of the state",
            {
                "slope/local": "steepest nearby, mean",
                "slope/local_p95": "steepest nearby, 95 %",
                "slope/gradient": "gradient, mean",
                "slope/gradient_p95": "gradient, 95 %",
            },
            "log",
        ),
        (
            "gap between true and learned Bellman targets",
            {"gap/bellman": "mean", "gap/bellman_p95": "95 %", "gap/value": "without rewards"},
            "log",
        ),
        (
            "relative to the spread of Q",
            {"slope/relative": "steepest nearby, mean", "gap/relative": "gap, mean"},
            "log",
        ),
        ("standard deviations of the state", {"gap/spread": "spread of the model"}, "log"),
    ]
    _plot_means(metrics, picture, panels, summary)


def _plot_means(
    metrics: Path, picture: Path, panels: Sequence[Panel], summary: Mapping[str, Any]
) -> None:
    """One curve a metric, the mean of seeds; no picture where nothing was measured."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    series = read_metrics(metrics)
    panels = [panel for panel in panels if any(name in series for name in panel[1])]
    if not panels:
        return
    figure = Figure(figsize=(4.6 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{summary['name']} on {summary['dataset']['name']}, mean of seeds")
    for index, (unit, curves, scale) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        for name, text in curves.items():
            if name not in series:
                continue
            lanes = series[name]
            table = np.array([values for _, values in lanes.values()])
            marker = "o" if table.shape[1] == 1 else None
            axes.plot(next(iter(lanes.values()))[0], table.mean(0), label=text, marker=marker)
        axes.set_yscale(scale)
        axes.set_xlabel("gradient steps")
        axes.set_ylabel(unit, fontsize=8)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    write_atomically(picture, lambda file: figure.savefig(file, format="png", dpi=120))
