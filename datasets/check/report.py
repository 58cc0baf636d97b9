"""A report on the contents of a dataset and its problems."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from reverie.datasets.arrays import stretches
from reverie.datasets.check.actions import find_in_actions
from reverie.datasets.check.columns import Column, describe_columns
from reverie.datasets.check.ends import find_in_ends
from reverie.datasets.check.excitation import find_missing_excitation
from reverie.datasets.check.exogenous import find_exogenous_columns
from reverie.datasets.check.finding import Finding, warning
from reverie.datasets.check.order import find_in_order
from reverie.datasets.check.rows import Rows
from reverie.datasets.check.scales import (
    find_in_scales,
    find_marks_of_missing,
    find_small_changes,
)
from reverie.datasets.check.values import constant, find_in_values
from reverie.datasets.dataset import Dataset
from reverie.datasets.names import is_next
from reverie.datasets.transforms.copies import describe_copies, find_copies
from reverie.text import counted, printable

QUANTILES = {
    "min": 0.0,
    "10%": 0.1,
    "25%": 0.25,
    "median": 0.5,
    "75%": 0.75,
    "90%": 0.9,
    "max": 1.0,
}
MADE_BY = "reverie check"
"""In every file that holds a report, so that it may be written over."""
BINS = 10
MANY = 0.2  # share of rows that repeat an earlier one, beyond which it is worth a line
_PIECES = 16  # in which rows are compared with each other


@dataclass(frozen=True)
class Report:
    """What a dataset holds.

    Attributes:
        rows, episodes, terminals, time_limits: counts; a time limit is any end but a terminal.
        without_next: rows without the true next observation.
        without_action: rows without a recorded action.
        not_finite: NaN and Inf entries by column, clean columns left out.
        duplicates: rows that repeat an earlier row exactly.
        constant_obs, constant_action: dimensions that never change.
        equal_obs: pairs of other dimensions that are always equal.
        columns: each dimension of the observations and actions, and the reward.
        rewards, returns, lengths: `QUANTILES` of the rows' rewards, of the undiscounted returns of
            episodes that are no fragments, and of the lengths of all.
        scores: those of the returns in percent of the reference gap, None without reference.
        histogram, edges: episodes by length, in bins of equal width.
        warnings: what may be right, but should be known.
        problems: what would make training wrong.
    """

    rows: int
    episodes: int
    terminals: int
    time_limits: int
    without_next: int
    without_action: int
    not_finite: Mapping[str, int]
    duplicates: int
    constant_obs: tuple[int, ...]
    constant_action: tuple[int, ...]
    equal_obs: tuple[tuple[int, int], ...]
    columns: tuple[Column, ...]
    rewards: tuple[float, ...]
    returns: tuple[float, ...]
    lengths: tuple[float, ...]
    scores: tuple[float, ...] | None
    histogram: tuple[int, ...]
    edges: tuple[float, ...]
    warnings: tuple[str, ...]
    problems: tuple[str, ...]


def report(dataset: Dataset) -> Report:
    """Measure a dataset of at least one row; nothing is changed or printed."""
    rows = Rows(dataset)
    with np.errstate(all="ignore"):  # of NaN and Inf, which are counted
        whole = dataset.whole.numpy()
        returns = _quantiles(dataset.returns.numpy()[whole])
        reference = dataset.reference
        constant_obs = constant(rows.obs)
        duplicates = _duplicates(list(rows.columns.values()))
        found = [*_findings(rows), *_repeats(duplicates, len(rows)), *_fragments(rows, whole)]
        if not rows.not_finite:
            found += [
                *find_small_changes(rows),
                *find_missing_excitation(rows),
                *find_exogenous_columns(rows),
                *_copies(dataset),
            ]
        # More bins than lengths would leave gaps between them.
        spread = int(rows.lengths.max() - rows.lengths.min()) + 1
        histogram, edges = np.histogram(rows.lengths, bins=min(BINS, spread))
        return Report(
            rows=len(rows),
            episodes=len(rows.lengths),
            terminals=int(rows.terminated.sum()),
            time_limits=int(dataset.truncated.sum()),
            without_next=int((~rows.valid_next).sum()),
            without_action=int((~rows.acted).sum()),
            not_finite=rows.not_finite,
            duplicates=duplicates,
            constant_obs=constant_obs,
            constant_action=constant(rows.known_action),
            equal_obs=_equal(rows.obs, constant_obs),
            columns=describe_columns(rows),
            rewards=_quantiles(rows.reward),
            returns=returns,
            lengths=_quantiles(rows.lengths),
            scores=None if reference is None else tuple(map(reference.normalise, returns)),
            histogram=tuple(histogram.tolist()),
            edges=tuple(edges.tolist()),
            warnings=tuple(each.text for each in found if not each.poisons),
            problems=tuple(each.text for each in found if each.poisons),
        )


def problems(dataset: Dataset) -> tuple[str, ...]:
    """What would poison training: those of `report`, in a fraction of its time."""
    with np.errstate(all="ignore"):
        return tuple(each.text for each in _findings(Rows(dataset)) if each.poisons)


def as_json(dataset: Dataset, found: Report) -> str:
    """A report and what it is of, as indented JSON with null for what is not finite."""
    reference = dataset.reference
    plain: dict[str, Any] = {
        "made_by": MADE_BY,
        "dataset": dataset.name,
        "origin": dict(dataset.origin),
        "fingerprint": dataset.fingerprint,
        "spec": asdict(dataset.spec),
        "reference": None if reference is None else asdict(reference),
        "quantiles": list(QUANTILES.values()),
        **asdict(found),
    }
    finite = json.loads(json.dumps(plain, default=str), parse_constant=lambda name: None)
    return json.dumps(finite, indent=2, allow_nan=False) + "\n"


def _findings(rows: Rows) -> Iterator[Finding]:
    """All but those that take long; where values are not finite, nothing else can be told."""
    yield from find_in_values(rows)
    yield from find_in_ends(rows)
    if not rows.not_finite:
        yield from find_in_order(rows)
        yield from find_in_actions(rows)
        yield from find_in_scales(rows)
        yield from find_marks_of_missing(rows)
    if not rows.acted.all():
        yield warning(
            f"{int((~rows.acted).sum()):,} of {len(rows):,} rows have no action: training is "
            "refused without inverse_model=ensemble, which infers them"
        )
    if rows.spec.env_id is None:
        yield warning("no environment is named, so policies cannot be scored")


def _copies(dataset: Dataset) -> Iterator[Finding]:
    """Columns of the next row's values, and shift registers that nobody has told of."""
    spec = dataset.spec
    found = spec.copies or find_copies(dataset)
    names = [*spec.obs_labels, *spec.action_labels]
    if ahead := tuple(pair for pair in found if is_next(names[pair[1]])):
        columns = ", ".join(dict.fromkeys(printable(names[source]) for _, source in ahead))
        yield warning(
            f"{columns}: the next row's values of other columns, which nobody knows before acting: "
            "leave them out of the observations"
        )
    found = tuple(pair for pair in found if pair not in ahead)
    if found and not spec.copies:
        told = describe_copies(replace(spec, copies=found))
        yield warning(
            f"{told} of the row before: set dataset.copies=auto, so that no world model learns "
            "what is known"
        )


def _repeats(duplicates: int, rows: int) -> Iterator[Finding]:
    if duplicates > MANY * rows:
        yield warning(
            f"{duplicates:,} of {rows:,} rows repeat an earlier row exactly: was something "
            "recorded or joined twice? Parts that are held out would not be unseen"
        )


def _fragments(rows: Rows, whole: np.ndarray) -> Iterator[Finding]:
    """Pieces of episodes, whose returns are those of fewer steps."""
    if not whole.all():
        count, longest = int((~whole).sum()), int(rows.lengths[~whole].max())
        yield warning(
            f"{count:,} of {counted(len(whole), 'episode')} {'is' if count == 1 else 'are'} cut to "
            f"{longest:,} steps or fewer, less than half of the usual length; returns are those of "
            "the others"
        )


def _equal(column: np.ndarray, fixed: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Pairs of dimensions that are always equal, constant ones left out."""
    varying = [dim for dim in range(column.shape[1]) if dim not in fixed]
    pairs = []
    for index, i in enumerate(varying):
        for j in varying[index + 1 :]:
            # The first row rules out nearly every pair.
            if column[0, i] == column[0, j] and (column[:, i] == column[:, j]).all():
                pairs.append((i, j))
    return tuple(pairs)


def _duplicates(columns: Sequence[np.ndarray]) -> int:
    """Rows that are, bit for bit, equal to an earlier one."""
    bits = [column.reshape(len(column), -1).view(np.uint32) for column in columns]
    # A cheap key leaves few rows to compare in full: equal rows have equal keys.
    key = np.zeros(len(bits[0]), np.uint64)
    for part in stretches(len(key), 4 * sum(column.shape[1] for column in bits)):
        mixed = key[part]
        for column in np.concatenate([column[part] for column in bits], axis=1).T:
            mixed[:] = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
    count = 0
    for piece in range(_PIECES):  # of the keys, one at a time, for little memory
        rows = np.flatnonzero(key % np.uint64(_PIECES) == piece)
        # Sorted by key, equal rows lie side by side; what only collides is told apart by its bits.
        rows = rows[np.argsort(key[rows], kind="stable")]
        alike = np.flatnonzero(key[rows[1:]] == key[rows[:-1]])
        for part in stretches(len(alike), 8 * sum(column.shape[1] for column in bits)):
            later, earlier = rows[alike[part] + 1], rows[alike[part]]
            same = [(column[later] == column[earlier]).all(axis=1) for column in bits]
            count += int(np.logical_and.reduce(same).sum())
    return count


def _quantiles(values: np.ndarray) -> tuple[float, ...]:
    return tuple(np.quantile(values.astype(np.float64), list(QUANTILES.values())).tolist())
