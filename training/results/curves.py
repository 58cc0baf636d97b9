"""Pictures of a finished run: its learning curves and the measurements of its probes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reverie.training.files import write_atomically
from reverie.training.population import label
from reverie.training.results.summary import read_metrics
from reverie.training.run_directory import METRICS

Panel = tuple[str, dict[str, str], str]
"""Label of the axis, the metrics on it with their names for people, and its scale."""

_WIDE = 1000.0
"""Values beyond which an axis is logarithmic on both sides of zero."""


def plot_run(directory: Path, summary: Mapping[str, Any]) -> None:
    """Draw everything that a run directory's `metrics.csv` has curves for."""
    for name, plot in (
        ("curves", plot_curves),
        ("values", plot_values),
        ("lipschitz", plot_lipschitz),
    ):
        plot(directory / METRICS, directory / f"{name}.png", summary)


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
    # A name may hold what else would begin a formula.
    figure.suptitle(f"{summary['name']} on {summary['dataset']['name']}", parse_math=False)
    population = summary.get("population", {})
    for index, (name, text) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        curves = series[name]
        table = np.array([values for _, values in curves.values()])
        updates: Sequence[float] = next(iter(curves.values()))[0]
        unit_of_time = "gradient steps"
        if name == unit and "env_steps" in series:  # both were written at the same updates
            updates, unit_of_time = series["env_steps"][0][1], "steps in the environment"
        marker = "o" if table.shape[1] == 1 else None  # a line of one point is invisible
        if population:  # a mean over different settings would say nothing
            for seed, values in enumerate(table):
                axes.plot(updates, values, lw=1.5, marker=marker, label=label(population, seed))
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
    """Draw what `ValueProbe` measured: values over training, and uncertainty where rollouts end."""
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
    seeds = "mean of seeds" if summary["seeds"] > 1 else "one seed"
    title = f"{summary['name']} on {summary['dataset']['name']}, {seeds}"
    figure.suptitle(title, parse_math=False)
    for index, (unit, curves, scale) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        for name, text in curves.items():
            if name not in series:
                continue
            per_seed = series[name]
            table = np.array([values for _, values in per_seed.values()])
            marker = "o" if table.shape[1] == 1 else None
            axes.plot(next(iter(per_seed.values()))[0], table.mean(0), label=text, marker=marker)
        drawn = np.concatenate([np.ravel(line.get_ydata()) for line in axes.lines])
        # Within few powers of ten a logarithm on both sides of zero leaves one number on the axis.
        axes.set_yscale("linear" if scale == "symlog" and np.abs(drawn).max() < _WIDE else scale)
        axes.set_xlabel("gradient steps")
        axes.set_ylabel(unit, fontsize=8)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    write_atomically(picture, lambda file: figure.savefig(file, format="png", dpi=120))
