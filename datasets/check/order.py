"""Checks of the order of rows: whether each row is followed by its own next observation."""

from collections.abc import Iterator

import numpy as np

from reverie.datasets.check.finding import Finding, problem, warning
from reverie.datasets.check.rows import Rows, some

MOST = 0.5  # share of rows beyond which something is the rule rather than an exception
NOISE = 0.05  # mean difference in standard deviations, below which two observations are one state
ROUNDING = 1e-3  # likewise, relative to the numbers: float16 keeps 5e-4
HARMLESS = 1e-3  # in standard deviations; less is lost in any normalisation
FEWEST = 100  # rows below which steps cannot be called unusual
_KNOWN = 0.01  # share of next observations that are some row's, below which they are none
_EXCEPTIONS = 0.1  # share of rows up to which they are in order but for some
_SHORT = 5  # mean length below which episodes are hardly episodes
_LAGS = 64  # environments side by side that are recognised
_SHIFTS = 3  # rows by which successors may be shifted the wrong way
_STILL = 0.3  # share of rows beyond which a record that repeats itself is no plant at rest
_NEARLY_ALL = 0.9
_FAR = 2.0  # times the usual step, beyond which a step leads to no state of the task
_FEW = 5  # episodes from which their starts, or their ends, can be compared


def find_in_order(rows: Rows) -> Iterator[Finding]:
    """Successors that belong to other rows, ends that were not recorded, rows out of order."""
    if len(rows) < 2 or not (rows.spread > 0).any():
        return
    later = _find_shift(rows)
    shifted = None if later is None else _name_shift(rows, later)
    if shifted is not None:
        yield shifted
        return
    found = [*_out_of_order(rows, later), *_many_ends(rows, later)]
    yield from found or [*_shuffled(rows), *_jumps(rows)]
    padded, findings = _find_padding(rows)
    yield from findings
    yield from _resets(rows, padded)
    yield from _repeated(rows)


def _find_shift(rows: Rows) -> int | None:
    """How many rows later the next observation stands, to the bit; None where that is as usual."""
    if rows.pairs.differs.mean() < MOST:
        return None
    shifts = (0, *range(-1, -_SHIFTS - 1, -1), *range(2, _LAGS + 1))
    return next((later for later in shifts if rows.equal_share(later) > MOST), None)


def _name_shift(rows: Rows, later: int) -> Finding | None:
    """Next observations that are those of another row of the same trajectory."""
    told = "in nearly all rows" if rows.equal_share(later) > _NEARLY_ALL else "in most rows"
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
    first = some(np.flatnonzero(rows.valid_next[:-1]))
    by_next = rows.unexplained(first, rows.next_obs[first])
    if rows.unexplained(first, rows.obs[first + 1]) > by_next:
        return None  # the rows between are of others
    return warning(
        f"{told} that of {later} rows later: are these {later}-step transitions? A policy that "
        "acts at every row needs the following one"
    )


def _disorder(
    rows: Rows, wrong: np.ndarray, later: int | None, *, sequences: str = "", remedy: str = ""
) -> str:
    """What it means that the next observation is not the following row's observation.

    Args:
        wrong: these rows.
        later: how many rows later the successors stand, None where that is not one number.
        sequences: what is wrong then besides returns and lengths.
        remedy: what else helps than to sort the rows.
    """
    if rows.known_share(wrong) < _KNOWN:
        return (
            ", nor that of any other row: are these differences, or in another scale than the "
            "observations? Then every transition is wrong: store both alike, or timeouts and "
            "no next_observations. Only transitions drawn one by one from a recording may be so"
        )
    how = "shuffled, a replay buffer, or environments side by side"
    if later is not None:
        how = f"{later} environments side by side, as the successors {later} rows later show"
    return (
        f": the rows are not in the order they were recorded ({how}). Single transitions stay "
        f"right; returns, lengths{sequences} and all that learns from sequences do not: sort the "
        f"rows by environment, episode and time{remedy}"
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
    if count < _EXCEPTIONS * total:
        yield warning(
            f"{told} the next observation is not the following row's observation: there an end was "
            "not recorded, or rows are missing or out of order; store timeouts at ends"
        )
        return
    yield warning(
        f"{told} the next observation is not the following row's observation"
        + _disorder(rows, np.flatnonzero(wrong & ~near), later, sequences=", scores of the data")
    )


def _many_ends(rows: Rows, later: int | None) -> Iterator[Finding]:
    """Episodes of next to no rows, which came of successors that are not the following rows."""
    if not rows.ends_inferred:
        return
    ends = rows.ends[:-1][rows.truncated[:-1]]
    cut = ends[rows.pairs.differs[ends]]
    # Where the step itself is odd, it is the end that is misplaced.
    if len(cut) < 10 or (rows.pairs.surprise[cut] > _unusual(rows)).mean() > MOST:
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
            f"row's observation{_disorder(rows, cut, later, remedy=', or store timeouts')}"
        )


def _shuffled(rows: Rows) -> Iterator[Finding]:
    """Following rows that have nothing in common, where the file stores no successors."""
    first = np.flatnonzero(rows.inside & rows.valid_next[:-1])
    if len(first) < FEWEST:
        return
    first = some(first)
    usual = rows.unexplained(first, rows.next_obs[first])
    if usual < MOST:
        return
    lags = range(2, min(_LAGS, len(rows) // 4) + 1)
    first = some(np.arange(len(rows) - lags[-1]))
    by_lag = {lag: rows.unexplained(first, rows.obs[first + lag]) for lag in lags}
    lag = min(by_lag, key=by_lag.__getitem__)
    if by_lag[lag] < 0.5 * usual:
        yield warning(
            f"following rows have little in common, while every {lag}th row has: are these {lag} "
            "environments side by side? Then most transitions lead from one into another: sort the "
            "rows by environment and time, or store next_observations"
        )
    elif usual > 0.9:
        yield warning(
            "following rows have no more in common than any two rows: are they shuffled? Then "
            "every transition is wrong: sort the rows by episode and time, or store "
            "next_observations"
        )


def _jumps(rows: Rows) -> Iterator[Finding]:
    """Single steps inside episodes that are as unlikely as from an end to a start."""
    surprise, inside = rows.pairs.surprise, rows.inside & rows.valid_next[:-1]
    if inside.sum() < FEWEST:
        return
    around = np.maximum(np.append(0.0, surprise[:-1]), np.append(surprise[1:], 0.0))
    for threshold in _unusual(rows) * np.array([1.0, 1.25, 1.5, 2.0]):
        found = np.flatnonzero(inside & (surprise > threshold) & (around < 0.7 * surprise))
        nearly = (surprise[inside] > 0.75 * threshold).sum() - (surprise[inside] > threshold).sum()
        # Apart from all other steps, rather than the largest of many that are somewhat unusual.
        if len(found) >= max(3, len(rows.ends) / 2) and nearly < MOST * len(found):
            break
    else:
        return
    told = (
        f"inside episodes {len(found):,} single steps are unlike all others, as from the end of an "
        "episode to the start of another"
    )
    offset = _offset_of_ends(rows, found)
    if offset:
        yield _misplaced_ends(told, offset)
        return
    apart = int(np.gcd.reduce(found + 1))
    remedy = f"set dataset.max_episode_steps={apart} (they lie {apart} rows apart), or "
    cuts = apart > 1 and not rows.truncated[:-1].any()  # where limits are recorded, none is set
    yield warning(
        f"{told}: were ends not recorded? Then those transitions are wrong, and returns and "
        f"lengths too; {remedy if cuts else ''}store timeouts or next_observations (a table: name "
        "a column as dataset.columns.truncated or episode)"
    )


def _find_padding(rows: Rows) -> tuple[np.ndarray, list[Finding]]:
    """Rows at ends where something stands in for the next observation, and what to say of them."""
    padded, findings = [np.zeros(0, np.int64)], []
    known = rows.valid_next[rows.ends] & (rows.lengths > 1)
    for limits in (False, True):
        ends = rows.ends[known & (rows.truncated == limits)]
        if len(ends) < _FEW:
            continue
        own = (rows.next_obs[ends] == rows.obs[ends]).all(axis=1)
        one = _equal_most(rows.next_obs[ends])
        before = ends - 1
        resting = (rows.next_obs[before] == rows.obs[before]).all(axis=1).mean() > _STILL
        if own.mean() > _NEARLY_ALL and not resting:
            found, told = own, "the row's own, though the rows before move"
        elif one.mean() > _NEARLY_ALL and _made_up(rows, ends, limits):
            found, told = one, "one and the same, whatever comes before"
        else:
            continue
        padded.append(ends[found])
        where = "rows at time limits" if limits else "terminal rows"
        why = "it stands in for one that was not kept;" if limits else "was another not kept? Then"
        findings.append(
            (problem if limits else warning)(
                f"in {int(found.sum()):,} of {len(ends):,} {where} the next observation is {told}: "
                f"{why} store the true ones, or timeouts and no next_observations (of a file "
                "'dataset.columns={next_observations: null}' leaves them out)"
            )
        )
    return np.concatenate(padded), findings


def _made_up(rows: Rows, ends: np.ndarray, limits: bool) -> bool:
    """Whether one observation after all these ends is none of the task's.

    Episodes that are alike end alike, starts of following episodes are told of elsewhere, and many
    tasks end in one state, as a tank that is empty: by a step of the usual size.
    """
    state = rows.next_obs[ends]
    alike = _equal_most(rows.obs[ends]).mean() > MOST
    if alike or (rows.obs[rows.starts] == np.median(state, axis=0)).all(axis=1).mean() > MOST:
        return False
    inside = some(np.flatnonzero(rows.inside))
    return limits or _median_step(rows, ends) > _FAR * _median_step(rows, inside)


def _equal_most(obs: np.ndarray) -> np.ndarray:
    """`[M]` whether each of some observations `[M, D]` is the one that most of them are."""
    return (obs == np.median(obs, axis=0)).all(axis=1)


def _median_step(rows: Rows, first: np.ndarray) -> float:
    """How far the next observation mostly is from a row's, in standard deviations."""
    varying = rows.spread > 0
    steps = np.abs(rows.next_obs[first] - rows.obs[first])[:, varying] / rows.spread[varying]
    return float(np.median(steps.mean(axis=1)))


def _resets(rows: Rows, padded: np.ndarray) -> Iterator[Finding]:
    """The mark of files made by shifting the observations by one row across the ends.

    Args:
        padded: rows at ends that are left out, because their next observation is none.
    """
    ends = rows.ends[:-1][rows.valid_next[rows.ends[:-1]]]
    ends = ends[~np.isin(ends, padded)]
    same = (rows.next_obs[ends] == rows.obs[ends + 1]).all(axis=1)
    terminated = rows.terminated[ends]
    told = (
        "the next observation is the first of the following episode; store the true one, or leave "
        "next_observations out"
    )
    if (same & terminated).any():
        count, total = int((same & terminated).sum()), int(terminated.sum())
        yield problem(f"in {count:,} of {total:,} terminal rows {told}")
    limits = ends[~terminated]
    copied = same[~terminated]
    # A recording that was only cut into pieces goes on as usual, and begins anywhere.
    odd = rows.pairs.surprise[limits] > _unusual(rows)
    if len(limits) > 1 and (odd.mean() > MOST or (copied.mean() > MOST and _start_alike(rows))):
        count = int((odd | copied).sum())
        if not copied.any():
            told = (
                "the step to the next observation is unlike all others, as to the start of another "
                "episode: are timeouts stored one row too late?"
            )
        yield (problem if copied.any() else warning)(
            f"in {count:,} of {len(limits):,} rows at time limits {told}"
        )


def _repeated(rows: Rows) -> Iterator[Finding]:
    """Rows that are stored several times in a row, or written faster than anything is measured."""
    first = some(np.flatnonzero(rows.inside))
    if len(first) < FEWEST:
        return
    same = np.ones(len(first), dtype=bool)
    for column in (rows.obs, rows.action, rows.reward[:, None]):
        same &= (column[first] == column[first + 1]).all(1)
    if same.mean() > _STILL:
        yield warning(
            f"{_percent(int(same.sum()), len(first))} of the rows repeat the row before in "
            "observation, action and reward: is each stored several times, or written more often "
            "than the plant is measured? A model would learn that actions change nothing: keep one "
            "of each (in pandas: frame[(frame != frame.shift()).any(axis=1)], without the time)"
        )


def _start_alike(rows: Rows) -> bool:
    """Whether episodes begin in a small part of all states."""
    varying = rows.spread > 0
    starts = rows.obs[rows.starts][:, varying].std(axis=0)
    return len(rows.starts) >= _FEW and bool(np.median(starts / rows.spread[varying]) < MOST)


def _unusual(rows: Rows) -> float:
    """The least surprise that is out of the ordinary."""
    known = rows.pairs.surprise[rows.valid_next[:-1]]
    return max(0.25, 4.0 * float(np.median(known))) if len(known) else np.inf


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
