"""Statistics of each dimension: range, moments, repeats, and step size of its values."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from reverie.datasets.check.rows import Rows

EDGE = 0.99  # |action| beyond which it counts as being at the edge of the box
_SAMPLE = 1000  # values of which most columns show that they are continuous
_LEVELS = 10_000  # steps within the range, beyond which everything looks like steps


@dataclass(frozen=True)
class Column:
    """One dimension of the observations, of the actions (see `Rows.commands`), or the rewards.

    Attributes:
        name: such as `obs 3`, or what the data call it.
        min, max, mean, std: over rows.
        repeats: share of rows with the value of the previous row.
        step: distance of which all differences are multiples, 1 for whole numbers and flags; None
            where there is no such distance, or no difference.
        at_edge: share of rows with `|action| > 0.99`, None for other columns.
    """

    name: str
    min: float
    max: float
    mean: float
    std: float
    repeats: float
    step: float | None
    at_edge: float | None


def describe_columns(rows: Rows) -> tuple[Column, ...]:
    """Observations, then actions, then the reward."""
    return tuple(_each(rows))


def _each(rows: Rows) -> Iterator[Column]:
    for dim, name in enumerate(rows.obs_labels):
        yield _describe(name, np.ascontiguousarray(rows.obs[:, dim]))
    known = rows.spec.told(rows.known_action)
    for dim, name in enumerate(rows.action_labels):
        at_edge = float((np.abs(rows.known_action[:, dim]) > EDGE).mean())
        yield _describe(name, np.ascontiguousarray(known[:, dim]), at_edge)
    yield _describe("reward", rows.reward)


def _describe(name: str, column: np.ndarray, at_edge: float | None = None) -> Column:
    return Column(
        name=name,
        min=float(column.min()),
        max=float(column.max()),
        mean=float(column.mean(dtype=np.float64)),
        std=float(column.std(dtype=np.float64)),
        repeats=float((column[1:] == column[:-1]).mean()) if len(column) > 1 else 0.0,
        step=distance_of_steps(column),
        at_edge=at_edge,
    )


def distance_of_steps(column: np.ndarray) -> float | None:
    """The distance of which all differences are multiples, as far as float32 can tell."""
    rng = np.random.default_rng(0)
    few = column[rng.integers(len(column), size=_SAMPLE)].astype(np.float64)
    few = np.unique(np.append(few, [column.min(), column.max()]))
    span = few[-1] - few[0]
    if not np.isfinite(span) or span == 0.0:
        return None
    resolution = 4 * float(np.finfo(np.float32).eps) * float(np.abs(few).max())
    apart = np.diff(few)
    apart = apart[apart > resolution]
    if not len(apart) or span / apart.min() > _LEVELS:
        return None
    step = span / round(span / apart.min())  # the mean of many is nearer than one difference
    if not (_fits(few, step, resolution) and _fits(column.astype(np.float64), step, resolution)):
        return None
    return float(f"{step:.6g}")


def _fits(values: np.ndarray, step: float, resolution: float) -> bool:
    levels = (values - values.min()) / step
    return bool(np.abs(levels - np.rint(levels)).max() < 0.01 + resolution / step)
