"""Statistics of few runs: aggregates over tasks, and bootstrap intervals.

arXiv:2108.13264. Scores are `[..., runs, tasks]`; a task with fewer runs than others is filled up
with NaN below them, see `columns`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from reverie.mistake import Mistake

REPLICATES = 50_000
"""Resampled tables of an aggregate, as the paper's code draws."""
CURVE_REPLICATES = 2_000
"""The same where every point of a curve has its own interval."""
LEVEL = 0.95
"""Coverage of intervals."""
Values = ndarray | np.floating
"""One number for every leading index of the scores."""

_TRIMMED = 0.25
"""Share of the scores that the interquartile mean leaves out at each end."""
_CHUNK = 1_000_000
"""Numbers held at a time while resampling, 8 MB."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its percentile bootstrap interval.

    Attributes:
        estimate: of the scores as they are, a number or an array.
        low, high: bounds; NaN if a task has a single run, whose spread is unknown.
    """

    estimate: ndarray
    low: ndarray
    high: ndarray


def columns(tasks: Sequence[Sequence[float]]) -> Float[ndarray, "runs tasks"]:
    """One column a task from one list of scores a task, filled up with NaN.

    Raises:
        ValueError: no task, a task without runs, or a score that is not finite.
    """
    if not tasks or not all(len(scores) for scores in tasks):
        raise ValueError("statistics need at least one task and one run on each")
    table = np.full((max(map(len, tasks)), len(tasks)), np.nan)
    for task, scores in enumerate(tasks):
        table[: len(scores), task] = scores
    if np.isfinite(table).sum() != sum(map(len, tasks)):
        raise Mistake("a score is not finite; leave that run out and say so")
    return table


def task_means(scores: Float[ndarray, "*lead runs tasks"]) -> Float[ndarray, "*lead tasks"]:
    """Mean over the runs of every task."""
    return np.nanmean(scores, -2)


def mean(scores: Float[ndarray, "*lead runs tasks"]) -> Values:
    """Mean over tasks of the means of their runs."""
    return task_means(scores).mean(-1)


def median(scores: Float[ndarray, "*lead runs tasks"]) -> Values:
    """Median over tasks of the means of their runs; the scores of half the tasks do not matter."""
    return np.median(task_means(scores), -1)


def interquartile_mean(scores: Float[ndarray, "*lead runs tasks"]) -> Values:
    """Mean of the middle half of all runs of all tasks.

    floor(runs * tasks / 4) scores are left out at each end. Differs: where tasks have unequal
    numbers of runs, each run counts once, so a task with more of them weighs more.
    """
    flat = np.sort(scores.reshape(*scores.shape[:-2], -1), -1)  # NaN last
    # Resampling keeps the number of runs of a task, so the first table's count is everybody's.
    count = int(np.isfinite(flat.reshape(-1, flat.shape[-1])[0]).sum())
    dropped = int(_TRIMMED * count)
    return flat[..., dropped : count - dropped].mean(-1)


def optimality_gap(scores: Float[ndarray, "*lead runs tasks"], goal: float = 100.0) -> Values:
    """How far runs stay below the goal on average; what lies above it does not make up for that."""
    return goal - mean(np.minimum(scores, goal))


def performance_profile(
    scores: Float[ndarray, "*lead runs tasks"], thresholds: Float[ndarray, " T"]
) -> Float[ndarray, "*lead T"]:
    """Share of runs that score above each threshold, every task weighing the same."""
    missing = np.isnan(scores)
    profile = [
        task_means(np.where(missing, np.nan, scores > threshold)).mean(-1)
        for threshold in thresholds
    ]
    return np.stack(profile, -1)


def probability_of_improvement(
    x: Float[ndarray, "*lead runs tasks"], y: Float[ndarray, "*lead others tasks"]
) -> Values:
    """Chance that a run of X beats one of Y on the same task, a tie counting half; mean over tasks.

    One half says that neither is better; it does not say how much better the better one is.
    """
    difference = x[..., :, None, :] - y[..., None, :, :]
    wins = np.where(np.isnan(difference), np.nan, (1 + np.sign(difference)) / 2)
    return np.nanmean(wins, (-3, -2)).mean(-1)


def resample(
    scores: Float[ndarray, "runs tasks"], replicates: int, rng: np.random.Generator
) -> Float[ndarray, "replicates runs tasks"]:
    """Tables whose runs are drawn with replacement, independently within each task."""
    counts = np.isfinite(scores).sum(0)
    drawn = rng.integers(0, counts, (replicates, *scores.shape))
    taken = np.take_along_axis(scores[None], drawn, 1)
    return np.where(np.isfinite(scores), taken, np.nan)


def bootstrap(
    statistic: Callable[..., Values],
    *samples: Float[ndarray, "_ tasks"],
    replicates: int = REPLICATES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """A statistic of one or several tables of scores with its stratified bootstrap interval.

    Args:
        statistic: of tables with any leading shape; may return arrays.
        samples: tables `[runs, tasks]`, resampled independently of each other.
        replicates: number of resampled tables.
        level: coverage of the interval between percentiles.
        seed: of the resampling.

    Episodes are no runs: average them first.
    """
    estimate = np.asarray(statistic(*samples))
    if any((np.isfinite(scores).sum(0) < 2).any() for scores in samples):
        unknown = np.full_like(estimate, np.nan, dtype=float)
        return Interval(estimate, unknown, unknown)
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // sum(scores.size for scores in samples))
    found = [
        statistic(*(resample(scores, min(chunk, replicates - done), rng) for scores in samples))
        for done in range(0, replicates, chunk)
    ]
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(found), [tail, 1 - tail], axis=0)
    return Interval(estimate, low, high)
