"""Pictures of policy-guided diffusion: how true windows are, and what learners make of them."""

from collections.abc import Mapping

from matplotlib.figure import Figure
from torch import Tensor

from reverie.benchmarks.claims.experiment import History
from reverie.benchmarks.claims.judging import estimate
from reverie.benchmarks.claims.policy_guided_diffusion.experience import (
    AGENTS,
    ARMS,
    ENSEMBLE,
    GUIDED,
    REAL,
    STRENGTHS,
    SYNTHER,
    UNGUIDED,
    guided,
)
from reverie.benchmarks.claims.report import draw_range
from reverie.datasets.dataset import Dataset

KINDS = {
    REAL: "0.3",
    UNGUIDED: "tab:green",
    **{guided(s): c for s, c in zip(STRENGTHS, ("#9ecae1", "#4292c6", "#08306b"), strict=True)},
    ENSEMBLE: "tab:red",
}
COLOURS = {REAL: "0.3", SYNTHER: "tab:orange", UNGUIDED: "tab:green", GUIDED: "tab:blue"}
PANELS = {
    "error_by_position": "one-step error, root mean square",
    "median_by_position": "one-step error, median",
    "drift_by_position": "distance from a replay, median",
}
FLOOR = 1e-4
"""Smaller errors, such as those of recorded windows, are drawn here."""


def windows(tasks: Mapping[str, Mapping[str, Mapping[str, Tensor]]]) -> Figure:
    """Errors by position, and the exchange of likelihood for error; a row for each task."""
    figure = Figure(figsize=(18, 4 * len(tasks)), layout="constrained")
    grid = figure.subplots(len(tasks), len(PANELS) + 1, squeeze=False)
    for row, (name, kinds) in zip(grid, tasks.items(), strict=True):
        for ax, (metric, label) in zip(row, PANELS.items(), strict=False):
            for kind, colour in KINDS.items():
                values = kinds[kind][metric].clamp(min=FLOOR)
                draw_range(ax, range(values.shape[1]), values, label=kind, color=colour)
            ax.set(yscale="log", xlabel="position in the window", ylabel=f"{label} / std")
        ax = row[-1]
        for kind, colour in KINDS.items():
            error, likely = (
                estimate(kinds[kind][metric].tolist()) for metric in ("error", "log_likelihood")
            )
            ax.errorbar(
                likely.mean,
                max(error.mean, FLOOR),
                xerr=likely.half_width,
                yerr=error.half_width,
                color=colour,
                marker="o",
                label=kind,
            )
        ax.set(
            yscale="log", xlabel="mean log pi(a | s) of the target", ylabel="one-step error / std"
        )
        ax.locator_params(axis="x", nbins=5)
        for ax in row:
            ax.set_title(name, fontsize=9)
            ax.grid(alpha=0.3)
    grid[0, 0].legend(fontsize=8)
    return figure


def returns(tasks: Mapping[str, Mapping[str, History]], data: Mapping[str, Dataset]) -> Figure:
    """Learning curves in the true environment, a panel for each task and learner."""
    figure = Figure(figsize=(6 * len(AGENTS), 4 * len(tasks)), layout="constrained")
    grid = figure.subplots(len(tasks), len(AGENTS), squeeze=False)
    for row, (name, runs) in zip(grid, tasks.items(), strict=True):
        for ax, agent in zip(row, AGENTS, strict=True):
            for arm in ARMS:
                series = runs[f"{agent}/{arm}"].series["return"]
                draw_range(ax, *series, label=arm, color=COLOURS[arm])
            ax.axhline(float(data[name].returns.mean()), color="0.6", ls="--", label="data, mean")
            ax.set(title=f"{name}, {agent}", xlabel="gradient steps", ylabel="return")
            ax.grid(alpha=0.3)
    grid[0, 0].legend(fontsize=8)
    return figure
