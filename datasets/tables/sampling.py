"""The time between the rows of a table: where it goes back or jumps, and files that carry it on."""

import logging

import numpy as np

from reverie.datasets.tables.clock import change_of_clock
from reverie.datasets.tables.roles import Roles
from reverie.datasets.tables.table import Table
from reverie.mistake import Mistake
from reverie.text import counted

log = logging.getLogger(__name__)

GAP = 1.5
"""Sampling times between two rows, beyond which rows are missing between them."""
JITTER = 0.2
"""Relative difference from the sampling time that is worth a line."""
_MOST = 0.2  # share of steps that may be gaps; more is no sampling time
_FEW = 5  # steps from which an episode has a sampling time of its own


def find_new_files(
    table: Table, roles: Roles, ends: np.ndarray, longest_step: float | None
) -> np.ndarray:
    """`[N - 1]` bool: rows after which a file begins that does not carry on the last one."""
    assert table.files is not None
    border = table.files[1:] != table.files[:-1]
    anew = border.copy()
    if roles.time is not None:
        steps = np.diff(table.seconds(roles.time))
        forward = steps[~border & ~ends[:-1] & (steps > 0)]
        if len(forward):
            longest = GAP * np.median(forward) if longest_step is None else longest_step
            anew &= ~((steps > 0) & (steps <= longest))
    if not border.any():  # no row of another file is left
        return anew
    goes_on = border & ~anew & ~ends[:-1]
    log.warning(
        "%s: %s in the order of their %s; %s",
        table.source,
        counted(len(np.unique(table.files)), "file"),
        "names" if (np.diff(table.files) >= 0).all() else "times",
        "an episode ends with each"
        if not goes_on.any()
        else f"{counted(int(goes_on.sum()), 'time')} an episode goes on in the next, by "
        f"{roles.time}, and else it ends with its file",
    )
    return anew


def find_breaks(
    table: Table, name: str, ends: np.ndarray, longest_step: float | None
) -> np.ndarray:
    """`[N]` bool: rows after which time goes back, or so far ahead that rows are missing."""
    seconds = table.seconds(name)
    steps = np.diff(seconds)
    inside = ~ends[:-1]
    forward = inside & (steps > 0)
    broken = np.zeros(len(table), dtype=bool)
    if not inside.any():
        return broken
    if not forward.any():
        falls = int((inside & (steps < 0)).sum())
        remedy = "name another column as dataset.columns.time, or [] for none"
        if falls:
            remedy = f"it goes back after {counted(falls, 'row')}; sort the rows, the oldest first"
        raise Mistake(f"{table.source}: {name} never advances within an episode; {remedy}")
    step = float(np.median(steps[forward]))
    with np.errstate(over="ignore"):
        ratio = steps / step
    unit = f" {table.unit_of_time(name)}".rstrip()
    longest = GAP * step if longest_step is None else longest_step
    if longest_step is None:
        _require_one_sampling_time(table, name, steps, ends, step)
    back, gap = inside & (steps < 0), inside & ~(steps <= longest)  # a missing time is a gap
    # Without other signs, time that starts again is how a log shows its episodes.
    odd = gap | back if ends[:-1].any() else gap
    if not ends[:-1].any() and back.sum() > _MOST * inside.sum():
        raise Mistake(
            f"{table.source}: {name} is not sorted: it goes back after "
            f"{counted(int(back.sum()), 'row')} of {len(table):,}, first after "
            f"{table.places.at(int(np.argmax(back)))}; sort the rows by it, name the episodes as "
            "dataset.columns.episode, or set dataset.columns.time=[] if it is no time"
        )
    if odd.sum() > _MOST * inside.sum():
        low, high = np.nanquantile(steps[inside], [0.1, 0.9])
        advances = f"from row to row it advances by {low:.4g} to {high:.4g}{unit} (10 % to 90 %)"
        if longest_step is not None:
            raise Mistake(
                f"{table.source}: dataset.longest_step={longest_step:g} cuts {name} after more "
                f"than {_MOST:.0%} of the rows: {advances}; raise it"
            )
        raise Mistake(
            f"{table.source}: {name} has no one sampling time: {advances}; resample the table to "
            f"equal steps, keep them for world_model=neural_ode with "
            f"dataset.longest_step={2 * high:.2g}, or set dataset.columns.time=[] if it is no time"
        )
    unknown = np.isnan(steps)
    if (inside & unknown).any():
        log.warning(
            "%s: %s has no value in %s, first in %s; episodes are cut there",
            table.source,
            name,
            counted(int(np.isnan(seconds).sum()), "row"),
            table.places.at(int(np.argmax(np.isnan(seconds)))),
        )
    broken[:-1] = back | gap
    gap &= ~unknown
    if gap.any() and longest_step is not None:
        log.warning(
            "%s: %s has %s beyond dataset.longest_step, the first after %s, the longest of %.4g%s; "
            "episodes are cut there%s",
            table.source,
            name,
            counted(int(gap.sum()), "gap"),
            table.places.at(int(np.argmax(gap))),
            float(np.nanmax(steps[gap], initial=step)),
            unit,
            change_of_clock(table, name, steps, step, gap),
        )
    elif gap.any():
        longest = float(np.nanmax(steps[gap], initial=step))
        lost = float(np.nansum(np.rint(ratio[gap]) - 1))
        log.warning(
            "%s: %s has %s, the first after %s, the longest of %.4g%s where a step is %.4g%s (%s "
            "missing); episodes are cut there%s",
            table.source,
            name,
            counted(int(gap.sum()), "gap"),
            table.places.at(int(np.argmax(gap))),
            longest,
            unit,
            step,
            unit,
            "1 row is" if lost == 1 else f"{lost:,.0f} rows are",
            change_of_clock(table, name, steps, step, gap),
        )
    if back.any():
        log.warning(
            "%s: %s goes back after %s, and in %s in all; episodes end there%s",
            table.source,
            name,
            table.places.at(int(np.argmax(back))),
            counted(int(back.sum()), "place"),
            change_of_clock(table, name, steps, step, back),
        )
    still = inside & (steps == 0)
    repeats = int(still.sum())
    if repeats and longest_step is not None:
        raise Mistake(
            f"{table.source}: {name} stands still in {counted(repeats, 'row')}, first after "
            f"{table.places.at(int(np.argmax(still)))}, and nothing can change in no time; leave "
            "out rows that are there twice, or write times more exactly"
            f"{change_of_clock(table, name, steps, step, still)}"
        )
    if repeats:
        log.warning(
            "%s: %s stands still in %s, first after %s; is its clock too coarse, or are rows there "
            "twice?%s",
            table.source,
            name,
            counted(repeats, "row"),
            table.places.at(int(np.argmax(still))),
            change_of_clock(table, name, steps, step, still),
        )
    uneven = int((forward & ~gap & (np.abs(ratio - 1.0) > JITTER)).sum())
    if longest_step is not None:
        kept = steps[forward & ~gap]
        log.warning(
            "%s: steps last %.4g to %.4g%s, %.4g in the middle, which the data keep; only "
            "world_model=neural_ode knows it, to a policy and other models all steps are alike",
            table.source,
            kept.min(),
            kept.max(),
            unit,
            np.median(kept),
        )
    elif uneven:
        log.warning(
            "%s: %s of %s steps differ by more than %.0f %% from the sampling time of %.4g%s; to a "
            "model and a policy all steps are alike (dataset.longest_step keeps their lengths for "
            "world_model=neural_ode)",
            table.source,
            f"{uneven:,}",
            f"{int(inside.sum()):,}",
            100 * JITTER,
            step,
            unit,
        )
    return broken


def _require_one_sampling_time(
    table: Table, name: str, steps: np.ndarray, ends: np.ndarray, step: float
) -> None:
    """Refuse episodes of which each has a sampling time, but not all the same."""
    unit = f" {table.unit_of_time(name)}".rstrip()
    last = np.flatnonzero(ends)
    first = np.append(0, last[:-1] + 1)
    forward = {
        int(start): steps[start:end][steps[start:end] > 0]
        for start, end in zip(first, last, strict=True)
    }
    medians = {row: float(np.median(each)) for row, each in forward.items() if len(each) >= _FEW}
    other = [row for row, each in medians.items() if abs(each / step - 1.0) > JITTER]
    if other:
        raise Mistake(
            f"{table.source}: mixed sampling times: {name} advances by {step:.4g}{unit} in most "
            f"rows, by {medians[other[0]]:.4g}{unit} in the episode from "
            f"{table.places.at(other[0])} on, and in {len(other):,} of {len(medians):,} "
            "episodes by another step than most; resample them to one, train on those of one, or "
            "keep them for world_model=neural_ode with "
            f"dataset.longest_step={_enough(np.concatenate(list(forward.values())), medians):.2g}"
        )


def _enough(steps: np.ndarray, medians: dict[int, float]) -> float:
    """A longest step that cuts few rows."""
    return max(GAP * max(medians.values()), 2 * float(np.nanquantile(steps, 0.9)))
