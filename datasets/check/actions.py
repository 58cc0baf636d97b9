"""Checks of actions: whether they are scaled to their box, and continuous."""

from collections.abc import Iterator

import numpy as np

from reverie.datasets.check.finding import Finding, problem, warning
from reverie.datasets.check.rows import Rows
from reverie.datasets.check.values import constant, list_dims

_ROWS = 50  # fewer say little about the range of a policy
_FEW = 16  # values that a dimension may take without being called continuous
_HALF = 0.6  # of the box; a policy that stays within is rare
_FULL = 0.9  # of the box; a policy that reaches it knows that bound


def find_in_actions(rows: Rows) -> Iterator[Finding]:
    """Discrete actions, and actions that use half of a box that nobody gave."""
    fixed = constant(rows.known_action)
    varying = [dim for dim in range(rows.known_action.shape[1]) if dim not in fixed]
    if len(rows) < _ROWS or not varying:
        return
    low, high = rows.known_action.min(axis=0)[varying], rows.known_action.max(axis=0)[varying]
    one_hot = _one_hot(rows.known_action)
    if one_hot is not None:
        yield one_hot
        return
    counts = [_count_values(rows.known_action[:, dim]) for dim in varying]
    if max(counts) <= _FEW:
        spread = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(counts[0])
        yield warning(
            f"every action takes only {spread} different values: is the action space discrete? "
            "Policies act anywhere in the box, and between these values nothing is known"
        )
    elif rows.spec.env_id is None and set(rows.spec.action_low) | set(rows.spec.action_high) == {
        -1.0,
        1.0,
    }:
        yield from _half_used(rows, np.array(varying), low, high)


def _half_used(
    rows: Rows, dims: np.ndarray, low: np.ndarray, high: np.ndarray
) -> Iterator[Finding]:
    """Actions `dims` whose values lie from `low` to `high`, in a box of -1 to 1 that is assumed."""
    largest = float(max(high.max(), -low.min()))
    remedy = "without dataset.env_id the box is taken to be -1 to 1; if it is another, set"
    if largest <= _HALF:
        yield warning(
            f"all actions lie between {low.min():.3g} and {high.max():.3g}: {remedy} "
            f"dataset.action_low={low.min():.2g} dataset.action_high={high.max():.2g} or its true "
            "bounds"
        )
        return
    for name, one_sided, bound in (
        ("dataset.action_low", (low >= 0) & (high >= _FULL), "below 0"),
        ("dataset.action_high", (high <= 0) & (low <= -_FULL), "above 0"),
    ):
        if one_sided.all() or (one_sided.any() and len(dims) > 1):
            named = list_dims(rows.name_actions(dims[one_sided].tolist()))
            which = "no action is" if one_sided.all() else f"actions {named} are"
            never = "ever" if one_sided.all() else "never"
            value = "0" if one_sided.all() else "[...], one for each action, 0 for these"
            yield warning(f"{which} {never} {bound}: {remedy} {name}={value}")


def _one_hot(action: np.ndarray) -> Finding | None:
    """Rows in which one dimension is at the upper of two values, and all others at the lower."""
    low, high = action.min(), action.max()
    if action.shape[1] < 2:
        return None
    upper = action == high
    if not (upper | (action == low)).all() or not (upper.sum(axis=1) == 1).all():
        return None
    return problem(
        f"all actions are one-hot vectors of {action.shape[1]}, a discrete action space; only "
        "continuous actions can be learned"
    )


def _count_values(column: np.ndarray) -> int:
    """How many different values there are, or one more than `_FEW` if it is more than that."""
    found = np.unique(column[:: max(1, len(column) // 1000)])
    if len(found) <= _FEW:  # of the whole column, which a sample may have missed
        found = np.unique(column)
    return min(len(found), _FEW + 1)
