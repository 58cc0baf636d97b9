"""A picture of a dataset: returns, lengths, one episode, and a histogram of each column."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reverie.datasets.check.report import MADE_BY
from reverie.datasets.check.rows import Rows
from reverie.datasets.dataset import Dataset
from reverie.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 32
"""Observations of which there is a histogram, and half as many actions."""
_WIDTH = 8  # histograms side by side
_LINES = 6  # curves of one panel that can be told apart
_BESIDE = 4  # names of them in a line of a legend
_LEGIBLE = 20  # characters of a name there
_STEPS = 1000  # of the example
_BINS = 50


def draw(dataset: Dataset) -> bytes:
    """The picture as the contents of a PNG file."""
    # Imported here: matplotlib takes a second to load.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = Rows(dataset)
    panels = _columns(rows)
    beside = min(_WIDTH, len(panels))
    lines = -(-len(panels) // beside)
    figure = Figure(figsize=(2.1 * _WIDTH, 3.2 + 2.8 + 1.5 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(3, 1, height_ratios=(3.2, 2.8, 1.5 * lines))
    top, middle, below = parts
    figure.suptitle(f"{_plain(dataset.name)}: {len(rows):,} rows, {len(rows.ends):,} episodes")
    _episodes(top, dataset, rows)
    _example(middle, rows)
    left = sum(column.shape[-1] for column in (rows.obs, rows.action)) + 1 - len(panels)
    more = f" ({left} more columns are not drawn)" if left else ""
    below.suptitle(f"how often each value occurs, logarithmic{more}", fontsize=9)
    for index, (name, values) in enumerate(panels):
        _histogram(below.add_subplot(lines, beside, index + 1), name, values)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": MADE_BY})
    return file.getvalue()


def _episodes(figure: "Figure", dataset: Dataset, rows: Rows) -> None:
    returns, lengths = dataset.returns[dataset.whole].numpy(), rows.lengths
    reference = dataset.reference
    drawn, along, by_length = figure.subplots(1, 3)
    drawn.stairs(*_count(returns), fill=True)
    if reference is not None:
        for value, line in ((reference.low, ":"), (reference.high, "--")):
            if returns.min() <= value <= returns.max():
                score = reference.normalise(value)
                drawn.axvline(value, color="0.3", ls=line, lw=1, label=f"score {score:.0f}")
                _legend(drawn)
    drawn.set(xlabel="return of an episode", ylabel="episodes")
    along.plot(returns, ".", ms=3)
    along.set(xlabel="episode, as recorded", ylabel="return")
    for ended, name in ((~rows.truncated, "terminated"), (rows.truncated, "time limit or cut")):
        if ended.any():
            span = (lengths.min() - 0.5, lengths.max() + 0.5)
            counts, edges = np.histogram(lengths[ended], min(_BINS, int(span[1] - span[0])), span)
            by_length.stairs(counts, edges, fill=True, alpha=0.6, label=name)
    by_length.set(xlabel="steps of an episode", ylabel="episodes")
    by_length.locator_params(axis="x", integer=True)
    if lengths.min() == lengths.max():  # one bar, and no axis of tenths of a step
        by_length.set_xlim(lengths.min() - 5, lengths.max() + 5)
    _legend(by_length)


def _example(figure: "Figure", rows: Rows) -> None:
    """The episode of median length, with observations in standard deviations."""
    episode = int(np.argsort(rows.lengths, kind="stable")[len(rows.lengths) // 2])
    start = int(rows.starts[episode])
    part = slice(start, start + min(int(rows.lengths[episode]), _STEPS))
    spread = np.where(rows.spread > 0, rows.spread, 1.0)
    varying = np.flatnonzero(rows.spread > 0)[:_LINES]
    scaled = (rows.obs[part] - rows.obs.mean(axis=0, dtype=np.float64)) / spread
    panels: list[tuple[str, np.ndarray, Sequence[str]]] = [
        ("observations (std)", scaled[:, varying], [rows.obs_labels[dim] for dim in varying]),
        ("actions", rows.commands[part, :_LINES], rows.action_labels),
        ("reward", rows.reward[part, None], ["reward"]),
    ]
    figure.suptitle(f"episode {episode}, the one of median length", fontsize=9)
    for axes, (label, values, names) in zip(figure.subplots(1, 3), panels, strict=True):
        marker = "." if len(values) < 3 else None  # a line of one point is invisible
        for name, curve in zip(names, values.T, strict=False):
            axes.plot(curve, lw=1, marker=marker, label=_plain(one_line(name, _LEGIBLE)))
        axes.set(xlabel="step", ylabel=label)
        if axes.lines:
            _legend(axes)


def _legend(axes: "Axes") -> None:
    """Names of curves or bars above the panel, where they hide nothing."""
    axes.legend(fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), ncols=_BESIDE, frameon=False)


def _columns(rows: Rows) -> list[tuple[str, np.ndarray]]:
    """Observations, actions and the reward by name; of many the first ones."""
    return [
        *zip(rows.obs_labels[:SHOWN], rows.obs.T, strict=False),
        *zip(rows.action_labels[: SHOWN // 2], rows.commands.T, strict=False),
        ("reward", rows.reward),
    ]


def _histogram(axes: "Axes", name: str, values: np.ndarray) -> None:
    """A small one; rare values are those that matter, so counts are logarithmic."""
    counts, edges = _count(values)
    axes.stairs(np.log1p(counts), edges, fill=True)
    axes.set_title(_plain(name), fontsize=8)
    ends = edges[[0, -1]]  # ticks that matplotlib chooses take seconds for all panels
    axes.set_xticks(ends, [f"{end:.3g}" for end in ends], fontsize=6)
    first, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")  # so that it does not run into the panel before
    last.set_horizontalalignment("right")
    axes.set_yticks([])


def _count(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts and edges of bins."""
    values = values[np.isfinite(values)].astype(np.float64)
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # no room for bins
        low, high = low - max(1.0, abs(low)), high + max(1.0, abs(high))
    return np.histogram(values, bins=_BINS, range=(low, high))


def _plain(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")
