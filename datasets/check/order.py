"""What successors and episode ends say about the order of rows: is each row followed by its own?"""

from collections.abc import Iterator

import numpy as np

from reverie.datasets.check.finding import Finding, problem, warning
from reverie.datasets.check.rows import Rows

MOST = 0.5  # share of rows beyond which something is the rule rather than an exception
NOISE = 0.05  # mean difference in standard deviations, below which two observations are one state
ROUNDING = 1e-3  # likewise, relative to the numbers: float16 keeps 5e-4
HARMLESS = 1e-3  # in standard deviations; less is lost in any normalisation
FEWEST = 100  # rows below which steps cannot be called unusual
_SHORT = 5  # mean length below which episodes are hardly episodes
_LAGS = 64  # environments side by side that are recognised
_SHIFTS = 3  # rows by which successors may be shifted the wrong way
_PAIRS = 4096  # pairs of rows whose distances are averaged


def find_in_order(rows: Rows) -> Iterator[Finding]:
    """Successors that belong to other rows, ends that were not recorded, rows out of order."""
    if len(rows) < 2:
        return
    later = _find_shift(rows)
    shifted = None if later is None else _name_shift(rows, later)
    if shifted is not None:
        yield shifted
        return
    found = [*_out_of_order(rows, later), *_many_ends(rows, later)]
    yield from found or [*_shuffled(rows), *_jumps(rows)]
    yield from _resets(rows)


def _find_shift(rows: Rows) -> int | None:
    """How many rows later the next observation stands, to the bit; None where that is as usual."""
    if rows.pairs.differs.mean() < MOST:
        return None
    shifts = (0, *range(-1, -_SHIFTS - 1, -1), *range(2, _LAGS + 1))
    return next((later for later in shifts if rows.equal_share(later) > MOST), None)


def _name_shift(rows: Rows, later: int) -> Finding | None:
    """Next observations that are those of another row of the same trajectory."""
    told = "in nearly all rows" if rows.equal_share(later) > 0.9 else "in most rows"
    told += " the next observation is"
    if later == 0:
        return problem(
            f"{told} the row's own, though the following row has another: nothing would ever move; "
            "store the true next observations, or leave next_observations out"
        )
    if later < 0:
        return problem(
            f"{told} that of {'the row' if later == -1 else f'{-later} rows'} before: shifted the "
            "wrong way; store the true next observations, or leave next_observations out"
        )
    first = np.arange(len(rows) - 1)[:: max(1, len(rows) // _PAIRS)]
    if rows.distance(first, first + 1) > rows.pairs.step[first].mean():
        return None  # the rows between are of others
    return warning(
        f"{told} that of {later} rows later: are these {later}-step transitions? A policy that "
        "acts at every row needs the following one"
    )


def _disorder(later: int | None, sequences: str) -> str:
    """What rows that are not followed by their successors mean.

    Args:
        later: how many rows later the successors stand, None where that is not one number.
        sequences: what is wrong then besides returns and lengths.
    """
    how = "shuffled, a replay buffer, or environments side by side"
    if later is not None:
        how = f"{later} environments side by side, as the successors {later} rows later show"
    return (
        f"the rows are not in the order they were recorded ({how}). Single transitions stay right; "
        f"returns, lengths{sequences} and all that learns from sequences do not: sort the rows by "
        "environment, episode and time"
    )


def _out_of_order(rows: Rows, later: int | None) -> Iterator[Finding]:
    """Inside episodes: stored successors that are not the following rows."""
    pairs, inside = rows.pairs, rows.inside & rows.valid_next[:-1]
    wrong = pairs.differs & inside
    if not wrong.any():
        return
    near = _near(rows)
    count, total = int(wrong.sum()), int(inside.sum())
    told = f"in {count:,} of {total:,} rows inside episodes ({_percent(count, total)})"
    if near[wrong].mean() > 0.99:
        typical = float(np.median(pairs.gap[wrong]))
        if typical > HARMLESS:
            yield warning(
                f"{told} the next observation differs from the following row's by rounding or "
                f"noise (median {typical:.2g} standard deviations): one of them is not what was "
                "observed; store both with the same precision"
            )
        return
    offset = _offset_of_ends(rows, np.flatnonzero(wrong & ~near))
    if offset:
        yield _misplaced_ends(told + " the next observation is not the following row's", offset)
        return
    yield warning(
        f"{told} the next observation is not the following row's observation: "
        + _disorder(later, ", scores of the data")
    )


def _many_ends(rows: Rows, later: int | None) -> Iterator[Finding]:
    """Episodes of next to no rows, which came of successors that are not the following rows."""
    ends = rows.ends[:-1][rows.truncated[:-1]]
    cut = ends[rows.pairs.differs[ends]]
    if len(cut) < 10:
        return
    near = _near(rows)[cut]
    if near.mean() > MOST:
        typical = float(np.median(rows.pairs.gap[cut][near]))
        yield warning(
            f"{int(near.sum()):,} of {len(rows.ends):,} episodes end only because the next "
            "observation differs from the following row's by rounding or noise (median "
            f"{typical:.2g} standard deviations): store both with the same precision, or store "
            "timeouts; until then returns and lengths mean nothing"
        )
    elif len(rows) / len(rows.ends) < _SHORT and len(cut) > MOST * len(rows.ends):
        yield warning(
            f"{len(rows):,} rows make {len(rows.ends):,} episodes, because in "
            f"{_percent(len(cut), len(rows))} of rows the next observation is not the following "
            f"row's observation: {_disorder(later, '')}, or store timeouts"
        )


def _shuffled(rows: Rows) -> Iterator[Finding]:
    """Following rows that are no nearer than any others, where the file stores no successors."""
    steps = rows.pairs.step[rows.inside & rows.valid_next[:-1]]
    if len(steps) < FEWEST:
        return
    rng = np.random.default_rng(0)
    any_two = rows.distance(
        rng.integers(len(rows), size=_PAIRS), rng.integers(len(rows), size=_PAIRS)
    )
    if any_two == 0.0 or steps.mean() < MOST * any_two:
        return
    first = rng.integers(max(1, len(rows) - _LAGS), size=_PAIRS)
    lags = range(2, min(_LAGS, len(rows) // 4) + 1)
    by_lag = {lag: rows.distance(first, first + lag) for lag in lags}
    lag = min(by_lag, key=by_lag.__getitem__) if by_lag else 0
    told = "following rows are about as far apart as any two rows"
    if lag and by_lag[lag] < 0.5 * steps.mean():
        yield warning(
            f"{told}, while every {lag}th row is near: are these {lag} environments side by side? "
            "Then most transitions lead from one into another: sort the rows by environment and "
            "time, or store next_observations"
        )
    elif steps.mean() > 0.9 * any_two:
        yield warning(
            f"{told}: are they shuffled? Then every transition is wrong: sort the rows by episode "
            "and time, or store next_observations"
        )


def _jumps(rows: Rows) -> Iterator[Finding]:
    """Single steps inside episodes that are as large as from an end to a start."""
    steps, inside = rows.pairs.step, rows.inside & rows.valid_next[:-1]
    if inside.sum() < FEWEST:
        return
    typical = float(np.median(steps[inside]))
    around = np.maximum(np.append(0.0, steps[:-1]), np.append(steps[1:], 0.0))
    found = np.flatnonzero(inside & (steps > max(0.3, 10 * typical)) & (around < 0.3 * steps))
    if typical == 0.0 or len(found) < max(3, len(rows.ends) / 2):
        return
    told = (
        f"inside episodes {len(found):,} single steps are over 10 times the usual size, as from "
        "the end of an episode to the start of another"
    )
    offset = _offset_of_ends(rows, found)
    if offset:
        yield _misplaced_ends(told, offset)
        return
    apart = int(np.gcd.reduce(found + 1))
    remedy = f"dataset.max_episode_steps={apart} (they lie {apart} rows apart)" if apart > 1 else ""
    yield warning(
        f"{told}: were ends not recorded? Then those transitions are wrong, and returns and "
        f"lengths too; {f'set {remedy}, or ' if remedy else ''}store timeouts or "
        "next_observations"
    )


def _resets(rows: Rows) -> Iterator[Finding]:
    """The mark of files made by shifting the observations by one row across the ends."""
    ends = rows.ends[:-1][rows.valid_next[rows.ends[:-1]]]
    same = (rows.next_obs[ends] == rows.obs[ends + 1]).all(axis=1)
    terminated = rows.terminated[ends]
    remedy = "is the first of the following episode; store the true one, or leave next_observations"
    if (same & terminated).any():
        yield problem(
            f"in {int((same & terminated).sum()):,} of {int(terminated.sum()):,} terminal rows the "
            f"next observation {remedy} out"
        )
    # A recording that was only cut into pieces goes on as usual.
    inside = rows.pairs.step[rows.inside & rows.valid_next[:-1]]
    if not len(inside):
        return
    jumps = rows.pairs.step[ends] > max(0.3, 10 * float(np.median(inside)))
    reset = same & jumps & ~terminated
    limits = int((~terminated).sum())
    if reset.sum() > MOST * limits and reset.sum() > 1:
        yield problem(
            f"in {int(reset.sum()):,} of {limits:,} rows at time limits the next observation "
            f"{remedy} out"
        )


def _near(rows: Rows) -> np.ndarray:
    """`[N - 1]` whether the next observation is nearly the following row's."""
    return (rows.pairs.gap < NOISE) | (rows.pairs.fine < ROUNDING)


def _offset_of_ends(rows: Rows, found: np.ndarray) -> int:
    """By how many rows the recorded ends come after the rows found, 0 if that is not the rule."""
    for offset in (1, -1):
        if len(found) > 1 and np.isin(found + offset, rows.ends).mean() > 0.8:
            return offset
    return 0


def _misplaced_ends(told: str, offset: int) -> Finding:
    when = "late" if offset > 0 else "early"
    return problem(
        f"{told}, nearly always beside a recorded end: terminals or timeouts are stored one row "
        f"too {when}; they belong to the last row of an episode"
    )


def _percent(count: int, total: int) -> str:
    return f"{100 * count / total:.3g}%"
