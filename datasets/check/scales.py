"""Checks of units: the same throughout, and no value that is none, such as -999."""

from collections.abc import Iterator

import numpy as np

from reverie.datasets.check.finding import Finding, problem, warning
from reverie.datasets.check.rows import Rows, some
from reverie.datasets.check.values import list_dims
from reverie.text import counted

LEAST = 8.0
"""Factor in level and spread that is a change of unit, not of what the plant did."""
MARKS = (
    *(-99.0, -99.9, -99.99, -999.0, -999.9, -999.99, -999.25, -9999.0, -9999.9, -99999.0),
    *(999.0, 999.9, 999.99, 9999.0, 9999.9, 99999.0, 999999.0, 32767.0, 65535.0, -32768.0),
)
"""Numbers by which loggers say that there is no value."""
_PARTS = 20  # stretches of whole episodes that are compared
_FEW = 8  # fewer episodes are cut into as many parts
_FINE = 1e-3  # change of a step below which the noise of a new ensemble, 0.007, drowns it
_SIDE = 0.1  # share of the parts that must lie on each side


def find_in_scales(rows: Rows) -> Iterator[Finding]:
    """Columns of which each part before a row is many times larger or smaller than each later one.

    It may be what the plant did where an environment is named, which has one unit, and within an
    episode, in which a plant may have been switched on.
    """
    poisons = rows.spec.env_id is None and len(rows.starts) >= _FEW
    starts = _parts(rows)
    if len(starts) < _FEW:
        return
    low, high = np.asarray(rows.spec.action_low), np.asarray(rows.spec.action_high)

    def told(dim: int) -> np.ndarray:
        return low[dim] + (rows.action[:, dim] + 1.0) / 2.0 * (high[dim] - low[dim])

    for labels, column in (
        (rows.spec.obs_labels, lambda dim: rows.obs[:, dim].astype(np.float64)),
        (rows.spec.action_labels, told),
    ):
        for dim, label in enumerate(labels):
            found = _change(column(dim), starts)
            if found is None:
                continue
            row, factor = found
            size = f"{factor:.3g} times larger" if factor > 1 else f"{1 / factor:.3g} times smaller"
            where = rows.where(row)
            yield Finding(
                poisons,
                f"{label} is about {size} from {where} on: did its unit change? Convert one of "
                "the two parts, or leave it out",
            )


def find_marks_of_missing(rows: Rows) -> Iterator[Finding]:
    """Columns that hold one of `MARKS`, further from their other values than those spread."""
    columns = [
        *zip(rows.obs_labels, rows.obs.T, strict=True),
        *zip(rows.action_labels, rows.commands.T, strict=True),
        ("reward", rows.reward),
    ]
    marks = np.array(MARKS, np.float32)
    for label, column in columns:
        values = column.astype(np.float32)
        for mark in marks[np.isin(marks, [values.min(), values.max()])]:
            others = values[~np.isin(values, marks)]
            if not len(others):
                continue
            low, high = float(others.min()), float(others.max())
            if max(low - mark, mark - high) > high - low:
                # A reward of -999 may well be meant: what it costs to crash.
                tell = warning if label == "reward" else problem
                found = values == mark
                yield tell(
                    f"{label} is {mark:g} in {counted(int(found.sum()), 'row')}, first in "
                    f"{rows.where(int(np.argmax(found)))}, and {low:.4g} to {high:.4g} elsewhere: "
                    "if it marks missing values, leave those rows out (of a table: "
                    f"'dataset.missing=[{mark:g}]')"
                )


def find_small_changes(rows: Rows) -> Iterator[Finding]:
    """Observations whose steps are tiny numbers: no world model is told of their size.

    The ensemble learns changes in the units of the data, and begins with a standard deviation of
    at least 0.007 in each; what moves by far less is lost in it.
    """
    first = some(np.flatnonzero(rows.valid_next))
    if not len(first):
        return
    change = (rows.next_obs[first] - rows.obs[first]).std(axis=0, dtype=np.float64)
    moved = (rows.spread > 0) & (change > 0)
    small = [
        dim
        for dim in np.flatnonzero(moved & (change < _FINE)).tolist()
        if dim not in rows.spec.exogenous
    ]
    if small:
        least = float(change[small].min())
        yield warning(
            f"observations {list_dims(rows.name_obs(small))} change by {least:.1g} a step, too "
            "little for a world model, which learns in the units of the data: give them in smaller "
            f"units, about {10.0 ** np.ceil(-np.log10(least)) / 100:,.0f} times (mm instead of m), "
            "where you fit one"
        )


def _parts(rows: Rows) -> np.ndarray:
    """First rows of stretches of about equal size, of whole episodes where there are enough."""
    starts = rows.starts
    if len(starts) < _FEW:
        starts = np.arange(0, len(rows), max(1, len(rows) // _PARTS))
    return starts[np.unique(np.linspace(0, len(starts) - 1, _PARTS).astype(int))]


def _change(column: np.ndarray, starts: np.ndarray) -> tuple[int, float] | None:
    """The row from which a column has another scale, and the factor; None for none."""
    counts = np.diff(np.append(starts, len(column)))
    level = np.add.reduceat(np.abs(column), starts) / counts
    mean = np.add.reduceat(column, starts) / counts
    square = np.add.reduceat((column - np.repeat(mean, counts)) ** 2, starts) / counts
    sizes = np.stack([level, np.sqrt(square)])  # [2, parts]
    if (sizes <= 0).any():
        return None
    sizes = np.log(sizes)
    # Between parts k and k + 1: how far the lowest on one side is above the highest on the other.
    highest, lowest = np.maximum.accumulate(sizes, 1), np.minimum.accumulate(sizes, 1)
    later = sizes[:, ::-1]
    highest_later = np.maximum.accumulate(later, 1)[:, ::-1]
    lowest_later = np.minimum.accumulate(later, 1)[:, ::-1]
    up = (lowest_later[:, 1:] - highest[:, :-1]).min(0)
    down = (lowest[:, :-1] - highest_later[:, 1:]).min(0)
    apart = np.maximum(up, down)
    side = max(2, int(_SIDE * len(starts)))
    apart[: side - 1], apart[len(apart) - side + 1 :] = -np.inf, -np.inf
    split = int(np.argmax(apart))
    if apart[split] < np.log(LEAST):
        return None
    ratio = np.exp(np.median(sizes[0, split + 1 :]) - np.median(sizes[0, : split + 1]))
    return int(starts[split + 1]), float(ratio)
