"""Pictures of SINDy-RL's claims."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from reverie.benchmarks.claims.report import draw_range
from reverie.benchmarks.claims.sindy_rl import dyna
from reverie.benchmarks.claims.sindy_rl import dynamics as sparse_dynamics
from reverie.benchmarks.claims.sindy_rl.dyna import ARMS, ENSEMBLE, SAC, SINDY, Task

COLOURS = {SINDY: "tab:green", ENSEMBLE: "tab:blue", SAC: "tab:red"}


def plot(tasks: Mapping[str, Task], found: Mapping[str, Any], counts: Sequence[int]) -> Figure:
    """Left: returns over environment steps. Right: errors over transitions, if there are some."""
    figure = Figure(figsize=(14, 3.6 * len(tasks)), layout="constrained")
    for row, (name, task) in zip(figure.subplots(len(tasks), 3), tasks.items(), strict=True):
        for arm in ARMS:
            updates, values = found[f"{name}/{arm}"].series["return"]
            steps = dyna.steps_taken(task, arm, updates)
            draw_range(row[0], steps, values, label=arm, color=COLOURS[arm])
        row[0].axhline(task.goal, color="0.4", ls="--", label="goal")
        row[0].set(title=name, xlabel="environment steps", ylabel="return", xscale="log")
        row[0].xaxis.set_major_formatter(ScalarFormatter())
        row[0].xaxis.set_minor_formatter(ScalarFormatter())
        row[0].tick_params(axis="x", which="both", labelsize=7, rotation=45)
        for ax, kind in zip(row[1:], ("one", "many"), strict=True):
            plot_errors(ax, counts, found[f"errors/{name}"], kind)
            ahead = "1 step" if kind == "one" else f"{sparse_dynamics.STEPS} steps"
            ax.set_title(f"{name}: error after {ahead}")
        for ax in row:
            ax.grid(alpha=0.3)
            ax.legend(fontsize=7)
    return figure


def plot_errors(ax: Axes, counts: Sequence[int], found: Mapping[str, Any], kind: str) -> None:
    """Mean and range over seeds; dashed for the test on states that random data lack."""
    for test, arms in found.items():
        for arm, errors in arms.items():
            by_seed = np.array(errors[kind]).T  # [seeds, counts]
            line = "o-" if test == "random" else "o--"
            name = f"{arm}, {test}"
            draw_range(ax, counts, by_seed, label=name, color=COLOURS[arm], line=line)
    unit = "a step's change" if kind == "one" else "the state"
    ax.set(xscale="log", yscale="log", xlabel="transitions", ylabel=f"error / std of {unit}")
    ax.set_xticks(counts, [str(count) for count in counts])
    ax.xaxis.set_minor_formatter(NullFormatter())
