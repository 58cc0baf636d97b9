"""Where the episodes of a table end: by its columns, and where time or values are missing."""

import logging
from collections.abc import Collection, Mapping

import numpy as np
import pandas

from reverie.datasets.names import bare
from reverie.datasets.readers.columns import LOOSE
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


def in_order(table: Table, roles: Roles) -> Table:
    """The table with the rows of each episode together.

    Raises:
        Mistake: an episode comes back after others, and no time shows how its rows belong together.
    """
    if roles.episode is None:
        return table
    labels = _labels(table, roles.episode)
    first = np.append(True, labels[1:] != labels[:-1])
    starts = labels[first]
    _, firsts = np.unique(starts, return_index=True)
    if len(firsts) == len(starts):
        return table
    again = int(np.setdiff1d(np.arange(len(starts)), firsts)[0])
    row = int(np.flatnonzero(first)[again])
    order = np.argsort(labels, kind="stable")
    if roles.time is not None:
        within = labels[order][1:] == labels[order][:-1]
        if (np.diff(table.seconds(roles.time)[order])[within] > 0).all():
            log.warning(
                "%s: %s is not sorted (episode %s comes back in %s); the rows of each episode "
                "are put together, in which %s goes on",
                table.source,
                roles.episode,
                table.columns[roles.episode][row],
                table.places.at(row),
                roles.time,
            )
            return table.take(order)
    raise Mistake(
        f"{table.source}: {roles.episode} is not sorted: {table.columns[roles.episode][row]} comes "
        f"back in {table.places.at(row)} after other episodes; sort the rows by episode and "
        "time, or give every episode a number of its own"
    )


def find_ends(
    table: Table, roles: Roles, longest_step: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Rows that terminate, rows that no row of the same episode follows, and how long rows last.

    An episode ends where the episode column changes, where a row is terminated or truncated, and
    where time goes back or jumps.

    Args:
        table: of N rows, in the order of `in_order`.
        longest_step: rows may be unequally far apart, up to so much of the unit of time; None: they
            have one sampling time.

    Returns:
        `[N]` bool the first two; terminated rows, and the last row, are among the ends. Then time
        from each row to the next `[N]`, with `longest_step` alone; 0 at the ends.

    Raises:
        Mistake: flags other than 0 and 1, several sampling times or none; with `longest_step` no
            time, or one that stands still.
    """
    if longest_step is not None and roles.time is None:
        raise Mistake(
            f"{table.source}: dataset.longest_step={longest_step:g} says how far apart rows may "
            "be, but no column tells the time; name one as dataset.columns.time"
        )
    terminated = _flag(table, roles.terminated, "terminated")
    limits = _flag(table, roles.truncated, "truncated")
    if roles.terminated is not None and bare(roles.terminated).lower() in LOOSE:
        _require_terminations(table, roles, terminated, limits)
    ends = terminated | limits
    if roles.episode is not None:
        labels = _labels(table, roles.episode)
        ends[:-1] |= labels[1:] != labels[:-1]
    ends[-1] = True
    if roles.time is not None:
        ends |= _breaks(table, roles.time, ends, longest_step)
    if len(ends) > 1 and not ends[:-1].any():
        log.warning(
            "%s: nothing says where episodes end, so all %s rows are one; "
            "dataset.columns.episode, truncated or time names a column that does",
            table.source,
            f"{len(table):,}",
        )
    if longest_step is None or roles.time is None:
        return terminated, ends, None
    lasts = np.append(np.diff(table.seconds(roles.time)), 0.0)
    return terminated, ends, np.where(ends, 0.0, lasts)


def leave_out_missing(
    table: Table,
    values: Mapping[str, np.ndarray],
    ends: np.ndarray,
    optional: Collection[str] = (),
) -> np.ndarray:
    """Mark ends before rows with missing values, in place, and say which rows have none missing.

    Args:
        table: of N rows.
        values: `[N]` numbers that a row needs, by column.
        ends: `[N]` bool, changed so that nothing goes on across a row that is left out.
        optional: columns without which a row is kept: actions, where somebody infers them.

    Returns:
        `[N]` bool, rows to keep.

    Raises:
        Mistake: a column is empty throughout, or every row lacks something.
    """
    with np.errstate(over="ignore"):
        lacks = {name: ~np.isfinite(column.astype(np.float32)) for name, column in values.items()}
    for name, missing in lacks.items():
        if missing.all():
            remedy = "leave it out of" if name in table.columns else "correct it, or name"
            if name in optional:
                remedy = "nothing can be inferred: record some, or leave it out of"
            raise Mistake(
                f"{table.source}: {name} has no value in any row; {remedy} dataset.columns"
            )
    lacks = {name: each for name, each in lacks.items() if name not in optional}
    keep = ~np.logical_or.reduce(list(lacks.values()))
    if keep.all():
        return keep
    if not keep.any():
        raise Mistake(
            f"{table.source}: every row lacks a value ({_counts(table, lacks)}); leave the "
            "emptiest columns out of dataset.columns"
        )
    lost = int((~keep).sum())
    cut = int((~ends[:-1] & keep[:-1] & ~keep[1:]).sum())
    ends[:-1] |= ~keep[1:]
    log.warning(
        "%s: %s of %s rows %s no finite number in a column that is read (%s); %s left out, and "
        "episodes are cut there, in %s",
        table.source,
        f"{lost:,}",
        f"{len(keep):,}",
        "holds" if lost == 1 else "hold",
        _counts(table, lacks),
        "it is" if lost == 1 else "they are",
        counted(cut, "place"),
    )
    return keep


def _counts(table: Table, lacks: Mapping[str, np.ndarray]) -> str:
    """How many rows each column lacks, and the first of them with what stands there."""
    told = []
    for name, each in lacks.items():
        if each.any():
            row = int(np.argmax(each))
            what = f": {table.lacking(name, row)}" if name in table.columns else ""
            told.append(f"{name} {int(each.sum()):,}, first in {table.places.at(row)}{what}")
    return "; ".join(told)


def _labels(table: Table, name: str) -> np.ndarray:
    """A number for each episode, in the order of their first rows."""
    column = table.columns[name]
    if column.dtype == object:  # spaces behind a name make no other one of it
        stripped = [each.strip() if isinstance(each, str) else each for each in column]
        column = pandas.Series(stripped, dtype=object)
    try:
        labels, _ = pandas.factorize(column)
    except TypeError as error:  # of lists and the like, which cannot be told apart
        raise Mistake(
            f"{table.source}: {name} holds a {type(table.columns[name][0]).__name__} in row 0, "
            "where the number or name of an episode was expected; name another column as "
            "dataset.columns.episode"
        ) from error
    if (labels < 0).any():
        raise Mistake(
            f"{table.source}: {name} is empty in {counted(int((labels < 0).sum()), 'row')}, first "
            f"in {table.places.at(int(np.argmax(labels < 0)))}; fill in the episode"
        )
    return labels


def _require_terminations(
    table: Table, roles: Roles, terminated: np.ndarray, limits: np.ndarray
) -> None:
    """Refuse a column of a name such as `done` that marks every time limit too."""
    if limits.any() and terminated[limits].all():
        remedy = f"set 'dataset.columns={{terminated: [], truncated: {roles.terminated}}}'"
        raise Mistake(
            f"{table.source}: {roles.terminated} is 1 at every time limit ({roles.truncated}) too, "
            "so it holds ends of episodes, not terminations; write terminated without them, or "
            f"{remedy} if the task never ends by itself"
        )


def _flag(table: Table, name: str | None, role: str) -> np.ndarray:
    if name is None:
        return np.zeros(len(table), dtype=bool)
    if not table.is_numeric(name):
        raise Mistake(
            f"{table.source}: {name} must hold only 0 and 1, found {table.shown(name, 0)} in "
            f"{table.places.at(0)}; write it as 0 and 1, or set dataset.columns.{role}=[] for none"
        )
    values = table.numbers(name)
    odd = (values != 0) & (values != 1)
    if odd.any():
        row = int(np.argmax(odd))
        found = "nothing" if np.isnan(values[row]) else f"{values[row]:g}"
        raise Mistake(
            f"{table.source}: {name} must hold only 0 and 1, found {found} in "
            f"{table.places.at(row)}, and something else than 0 and 1 in "
            f"{counted(int(odd.sum()), 'row')} in all; repair that column"
        )
    return values.astype(bool)


def _breaks(table: Table, name: str, ends: np.ndarray, longest_step: float | None) -> np.ndarray:
    """`[N]` bool: rows after which time goes back, or so far ahead that rows are missing."""
    steps = np.diff(table.seconds(name))
    inside = ~ends[:-1]
    forward = inside & (steps > 0)
    broken = np.zeros(len(table), dtype=bool)
    if not inside.any():
        return broken
    if not forward.any():
        raise Mistake(
            f"{table.source}: {name} never advances within an episode; name another column as "
            "dataset.columns.time, or [] for none"
        )
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
    broken[:-1] = back | gap
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
