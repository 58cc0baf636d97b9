"""Pictures of a report, as SVG: one panel per task, one colour per method in all of them."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from reverie.text import one_line
from reverie.training.report.groups import Group
from reverie.training.results import statistics
from reverie.training.results.statistics import Interval
from reverie.training.results.summary import of_seeds

_WIDTH = 2
"""Panels side by side."""
_COLOURS = [f"C{index}" for index in range(10)]
_LINES = ["-", "--", "-.", ":"]
_SMALL = 8
"""Points of the smallest text, of names."""
_LONG = 40
"""Letters of a name beside which there is no room for another one."""
_LONGEST = 70
"""Letters of a name that are shown, about as many as fit below a panel."""
_WIDE = 20.0
"""Largest value, in medians, that still fits on a linear axis."""


@dataclass(frozen=True)
class Judged:
    """Estimates of one policy.

    Attributes:
        name: of the policy.
        recorded: `(estimate, low, high)` of the recorded behaviour.
        estimates: of two kinds: name, `(estimate, low, high)` or None, and whether it is fit for
            use.
    """

    name: str
    recorded: Sequence[float]
    estimates: Sequence[tuple[str, Sequence[float] | None, bool]]


class Painter:
    """Draws the results of groups of runs.

    Args:
        methods: all that may appear, in the order of their colours.
    """

    def __init__(self, methods: Sequence[str]) -> None:
        self.style: dict[str, dict[str, Any]] = {
            # After ten methods the colours begin again, with another kind of line.
            method: {
                "color": _COLOURS[index % len(_COLOURS)],
                "ls": _LINES[index // len(_COLOURS) % len(_LINES)],
            }
            for index, method in enumerate(methods)
        }

    def learning_curves(self, tasks: Mapping[str, Sequence[Group]]) -> bytes:
        """Mean over seeds with pointwise intervals, against the mean of the data."""
        figure, panels = _panels(list(tasks))
        for axes, groups in zip(panels, tasks.values(), strict=True):
            unit = unit_of(groups)
            for group in groups:
                self._curve(axes, group, unit, group.method)
            behaviour = groups[0].runs[0].summary["dataset"]["behaviour"]
            axes.axhline(behaviour[f"{unit}_mean"], color="0.4", ls="--", lw=1, label="data, mean")
            axes.set_xlabel("gradient steps")
            axes.set_ylabel("normalised score" if unit == "score" else "return of an episode")
        return _svg(figure, panels)

    def profiles(self, thresholds: Float[np.ndarray, " T"], found: Mapping[str, Interval]) -> bytes:
        """Share of runs above each score."""
        figure, panels = _panels([""])
        for method, profile in found.items():
            panels[0].plot(thresholds, profile.estimate, label=method, **self.style[method])
            panels[0].fill_between(
                thresholds,
                profile.low,
                profile.high,
                color=self.style[method]["color"],
                alpha=0.15,
                lw=0,
            )
        panels[0].set(
            xlabel="normalised score", ylabel="share of runs above it", ylim=(-0.02, 1.02)
        )
        return _svg(figure, panels)

    def values(self, tasks: Mapping[str, Sequence[Group]]) -> bytes:
        """What critics say of the starts of episodes (thick), and the return from there (thin)."""
        figure, panels = _panels(list(tasks))
        for axes, groups in zip(panels, tasks.values(), strict=True):
            for group in groups:
                self._curve(axes, group, "start/value", group.method, lw=2.4)
                self._curve(axes, group, "start/return", None, lw=0.8)
            axes.set(xlabel="gradient steps", ylabel="discounted return from the start")
            drawn = np.abs(np.concatenate([np.asarray(line.get_ydata()) for line in axes.lines]))
            if np.nanmax(drawn) > _WIDE * max(np.nanmedian(drawn), 1.0):
                axes.set_yscale("symlog")  # an axis of few ticks, for values that explode
        return _svg(figure, panels)

    def verdicts(self, tasks: Mapping[str, Sequence[Judged]]) -> bytes:
        """Estimates of policies with their intervals, beside the recorded behaviour's (grey)."""
        figure, panels = _panels(list(tasks))
        for axes, judged in zip(panels, tasks.values(), strict=True):
            for row, policy in enumerate(judged):
                estimate, low, high = policy.recorded
                axes.fill_betweenx(
                    [row - 0.4, row + 0.4], low, high, color="0.85", lw=0, label="recorded"
                )
                axes.vlines(estimate, row - 0.4, row + 0.4, color="0.4", lw=1)
                for index, (name, interval, fit) in enumerate(policy.estimates):
                    if interval is None:
                        continue
                    estimate, low, high = interval
                    at, colour = row + (0.15, -0.15)[index], _COLOURS[index]
                    axes.hlines(at, low, high, color=colour, lw=2)
                    face = colour if fit else "white"
                    axes.plot(estimate, at, "o", color=colour, mfc=face, label=name)
            axes.set_yticks(range(len(judged)), [policy.name for policy in judged], fontsize=_SMALL)
            for text in axes.get_yticklabels():
                text.set_parse_math(False)
            room = 0.25 * len(judged)  # for the legend
            axes.set(xlabel="discounted value", ylim=(-0.6, len(judged) - 0.4 + room))
        return _svg(figure, panels)

    def open_loop(self, tasks: Mapping[str, Sequence[Group]]) -> bytes:
        """Error of the state some steps ahead, beside that of a state that stands still."""
        figure, panels = _panels(list(tasks))
        for axes, groups in zip(panels, tasks.values(), strict=True):
            for group in groups:
                found = [run.world_model.get("open_loop") for run in group.runs]
                curves = [curve for curve in found if curve]
                horizons = curves[0]["horizons"]
                curves = [curve for curve in curves if curve["horizons"] == horizons]
                axes.plot(
                    horizons,
                    _mean([c["mean"]["median"] for c in curves]),
                    marker="o",
                    ms=3,
                    label=group.method,
                    **self.style[group.method],
                )
                still = _mean([c["constant"]["median"] for c in curves])
                axes.plot(horizons, still, color="0.6", ls=":", label="standing still")
            axes.set(xlabel="steps ahead", ylabel="median error, in std of the state")
            axes.set_xscale("log")
            axes.set_yscale("log")
        return _svg(figure, panels)

    def calibration(self, tasks: Mapping[str, Sequence[Group]]) -> bytes:
        """Share of truths inside central intervals of the prediction."""
        figure, panels = _panels(list(tasks))
        for axes, groups in zip(panels, tasks.values(), strict=True):
            axes.plot([0, 1], [0, 1], color="0.6", ls=":", label="calibrated")
            for group in groups:
                models = [run.world_model for run in group.runs]
                found = [model["calibration"] for model in models if model.get("calibration")]
                if found:
                    levels = found[0]["levels"]
                    alike = [each["coverage"] for each in found if each["levels"] == levels]
                    coverage = _mean(alike)
                    style = self.style[group.method]
                    axes.plot(levels, coverage, label=group.method, **style)
            axes.set(xlabel="nominal coverage", ylabel="measured coverage")
        return _svg(figure, panels)

    def selection(self, title: str, pulls: Sequence[int], found: Mapping[str, Interval]) -> bytes:
        """Score of the policy chosen with so many online episodes."""
        figure, panels = _panels([title])
        for method, curve in found.items():
            panels[0].plot(pulls, curve.estimate, label=method)
            panels[0].fill_between(pulls, curve.low, curve.high, alpha=0.15, lw=0)
        panels[0].set(xlabel="episodes in the true environment", ylabel="normalised score")
        panels[0].set_xscale("log")
        return _svg(figure, panels)

    def _curve(
        self, axes: Axes, group: Group, metric: str, label: str | None, lw: float = 1.6
    ) -> None:
        updates, per_seed = group.curves(metric)
        if not len(updates):
            return
        finite = np.isfinite(per_seed).all()
        style = self.style[group.method]
        single = len(updates) == 1  # of which a line and a band would show nothing
        marker = "o" if single else None
        label = label and _with_seeds(label, len(per_seed))
        axes.plot(updates, per_seed.mean(0), label=label, lw=lw, marker=marker, ms=4, **style)
        if finite and len(per_seed) > 1:
            band = statistics.bootstrap(
                statistics.task_means, per_seed, replicates=statistics.CURVE_REPLICATES
            )
            if single:
                axes.vlines(updates, band.low, band.high, color=style["color"], alpha=0.4)
            else:
                axes.fill_between(
                    updates, band.low, band.high, color=style["color"], alpha=0.15, lw=0
                )


def unit_of(groups: Sequence[Group]) -> str:
    """`score` where every run of a task has one, else `return`."""
    scored = all("score_last10" in run.summary["result"] for g in groups for run in g.runs)
    return "score" if scored else "return"


def _with_seeds(label: str, seeds: int) -> str:
    return f"{label} ({of_seeds(seeds)})"


def _mean(per_seed: Sequence[Sequence[Sequence[float | None]]]) -> Float[np.ndarray, " H"]:
    """Over runs and their seeds; what is undefined in one of them stays so."""
    return np.concatenate([np.array(run, float) for run in per_seed]).mean(0)


def _panels(titles: Sequence[str]) -> tuple[Figure, list[Axes]]:
    columns = min(_WIDTH, len(titles))
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.8 * rows), layout="constrained")
    panels = [figure.add_subplot(rows, columns, index + 1) for index in range(len(titles))]
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=10, parse_math=False)
        axes.grid(alpha=0.3)
    return figure, panels


def explain(panels: Sequence[Axes]) -> None:
    """Name the lines of every panel below it, where no curve can run."""
    for axes in panels:
        lines, names = axes.get_legend_handles_labels()
        entries = dict(zip((one_line(name, _LONGEST) for name in names), lines, strict=True))
        if entries:
            legend = axes.legend(
                entries.values(),
                entries.keys(),
                fontsize=_SMALL,
                ncols=1 if max(map(len, entries)) > _LONG else 2,
                loc="upper center",
                bbox_to_anchor=(0.5, -0.16),
            )
            for text in legend.get_texts():  # names, which may hold what else begins a formula
                text.set_parse_math(False)


def _svg(figure: Figure, panels: Sequence[Axes]) -> bytes:
    explain(panels)
    file = io.BytesIO()
    # Identifiers and date would make every page differ from the last one.
    with rc_context({"svg.hashsalt": "reverie"}):
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    return file.getvalue()
