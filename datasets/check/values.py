"""Checks of single columns: not finite, huge, never written, or constant values."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from reverie.datasets.check.finding import Finding, problem, warning
from reverie.datasets.check.rows import Rows

HUGE = 1e6  # float32 keeps a resolution of 0.06 here; beyond, squared errors lose all meaning
_RUN = 20  # rows of equal values that may be an accident
_NAMES = {
    "obs": "observations",
    "next_obs": "next_observations",
    "action": "actions",
    "reward": "rewards",
}


def find_in_values(rows: Rows) -> Iterator[Finding]:
    """Values that no network bears, and columns that hold nothing."""
    for name, column in rows.columns.items():
        yield from _unbearable(rows, name, column)
    if len(constant(rows.obs)) == rows.obs.shape[1]:
        yield problem("no observation ever changes, so all states are the same")
    if len(constant(rows.known_action)) == rows.known_action.shape[1]:
        yield problem("all actions are the same, so nothing can be learned about choosing one")
    elif len(constant(rows.known_action)):
        fixed = rows.name_actions(constant(rows.known_action))
        yield warning(f"actions {list_dims(fixed)} never change")
    if (rows.reward == rows.reward[0]).all():
        yield warning(f"every reward is {rows.reward[0]:zg}")
    yield from _unwritten(rows)


def constant(column: np.ndarray) -> tuple[int, ...]:
    """Dimensions of `[N, width]` that never change."""
    return tuple(np.flatnonzero(column.min(axis=0) == column.max(axis=0)).tolist())


def list_dims(dims: Sequence[object]) -> str:
    """At most 20 of them, in words."""
    shown = ", ".join(str(dim) for dim in dims[:20])
    return (shown + (f", ... ({len(dims)} in all)" if len(dims) > 20 else "")) or "none"


def _unbearable(rows: Rows, name: str, column: np.ndarray) -> Iterator[Finding]:
    if name in rows.not_finite:
        bad = ~np.isfinite(column).reshape(len(column), -1)
        yield problem(
            f"{name} holds {rows.not_finite[name]:,} NaN or Inf entries, first in "
            f"{rows.where(int(np.argmax(bad.any(axis=1))))}{_named(rows, name, bad)}; remove or "
            "repair those rows"
        )
        column = column[np.isfinite(column)]
    largest = float(max(column.max(initial=0.0), -column.min(initial=0.0)))
    if name == "action" and largest > 1.0:
        yield problem(f"actions reach {largest:.3g} after scaling to [-1, 1]; clip them")
    elif largest > HUGE:
        where = _named(rows, name, np.abs(getattr(rows, name)).reshape(len(rows), -1) > HUGE)
        yield problem(
            f"{name} reaches {largest:,.9g} in absolute value{where}, more than {HUGE:.0e}, beyond "
            "what float32 training bears; rescale it or remove the rows"
        )


def _named(rows: Rows, name: str, bad: np.ndarray) -> str:
    """Which columns are bad somewhere, where the data name them."""
    tell = rows.name_actions if name == "action" else rows.name_obs
    known = rows.spec.action_names if name == "action" else rows.spec.obs_names
    if name == "reward" or not known:
        return ""
    return f" (in {list_dims(tell(np.flatnonzero(bad.any(axis=0)).tolist()))})"


def _unwritten(rows: Rows) -> Iterator[Finding]:
    """Stretches in which columns that change elsewhere stay as they are."""
    if len(rows) < 2 * _RUN:
        return
    stretches: dict[tuple[int, int], list[tuple[str, int]]] = defaultdict(list)
    varying = 0
    for name in ("obs", "action", "reward"):
        column = getattr(rows, name).reshape(len(rows), -1)
        for dim in range(column.shape[1]):
            equal = column[1:, dim] == column[:-1, dim]
            varying += not equal.all()
            run = _odd_run(equal)
            if run is not None:
                stretches[run].append((name, dim))
    for (first, last), found in stretches.items():
        values = [getattr(rows, name).reshape(len(rows), -1)[first, dim] for name, dim in found]
        value = f"{values[0]:g}" if len(set(values)) == 1 else "one value each"
        where = f"in {rows.where_between(first, last)}"
        if len(found) == varying and not any(values):
            yield problem(
                f"all columns hold 0 {where}, as if never written; remove those rows, or record "
                "them again"
            )
            continue
        if len(found) < varying and not ((rows.ends >= first) & (rows.ends < last)).any():
            continue  # within one episode, in which the cause may stay away
        dims = {name: [dim for each, dim in found if each == name] for name, _ in found}
        told = "all columns" if len(found) == varying else _list_columns(rows, dims)
        yield warning(
            f"{told} stay at {value} {where}, and nowhere else so long: were they "
            "written, and did the sensors work? Remove those rows if not"
        )


def _odd_run(equal: np.ndarray) -> tuple[int, int] | None:
    """First and last row of a run of equal values that stands out, None if none does.

    Args:
        equal: `[N - 1]` whether a row has the value of the row before.
    """
    changes = np.flatnonzero(~equal)
    runs = np.diff(changes, prepend=-1, append=len(equal))  # rows of each run
    longest = int(np.argmax(runs))
    length = int(runs[longest])
    if length < max(_RUN, len(equal) / 100) or len(runs) == 1:
        return None
    second = int(np.partition(runs, -2)[-2])
    elsewhere = len(equal) + 1 - length
    repeated = 1 - (len(runs) - 1) / elsewhere
    if second > length / 10 or repeated > 0.5:
        return None
    first = int(runs[:longest].sum())
    return first, first + length - 1


def _list_columns(rows: Rows, dims: dict[str, list[int]]) -> str:
    told = []
    for name, found in dims.items():
        whole = name == "reward" or len(found) == getattr(rows, name).shape[1]
        tell = rows.name_actions if name == "action" else rows.name_obs
        told.append(_NAMES[name] if whole else f"{_NAMES[name]} {list_dims(tell(found))}")
    return " and ".join(told)
