"""Columns of the next observation that are columns of this row: shift registers, past actions."""

import logging
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from reverie.datasets.arrays import stretches_of
from reverie.datasets.dataset import Dataset
from reverie.envs.specs import Spec
from reverie.text import printable

log = logging.getLogger(__name__)

AUTO = "auto"
FEWEST = 20
"""Rows in which a column must change to be called a copy: a few changes agree by chance."""
_FIRST = 256
"""Rows that rule out nearly every pair of columns."""

Pairs = tuple[tuple[int, int], ...]


def find_copies(data: Dataset) -> Pairs:
    """Columns of `next_obs` that equal a column of `obs` or of the action in every row.

    Pairs (column, source), sources counted through `obs` and then the action, the first one where
    several agree. Rows without a true next observation do not count. Left out is what tells nothing
    of a shift: columns that never move within a step, constant ones, those that change in fewer
    than `FEWEST` rows, and exogenous ones, which rollouts take from the record.
    """
    rows, known = data.transitions, data.valid_next.numpy()
    obs, action, following = (each.numpy() for each in (rows.obs, rows.action, rows.next_obs))
    changes = np.zeros(obs.shape[1], np.int64)
    for part in stretches_of(obs):
        changes += ((following[part] != obs[part]) & known[part, None]).sum(0)
    moving = [
        column
        for column in np.flatnonzero(changes >= FEWEST).tolist()
        if column not in data.spec.exogenous
    ]
    if not moving:
        return ()
    valid = np.flatnonzero(known)
    some = valid[:: max(1, len(valid) // _FIRST)]
    before = np.concatenate([obs[some], action[some]], 1)
    alike = (following[some][:, moving, None] == before[:, None, :]).all(0)  # [moving, D + A]
    pairs = [(moving[target], source) for target, source in np.argwhere(alike).tolist()]
    columns, sources = ([pair[side] for pair in pairs] for side in (0, 1))
    holds = np.ones(len(pairs), bool)
    for part in stretches_of(obs):
        before = np.concatenate([obs[part], action[part]], 1)
        equal = following[part][:, columns] == before[:, sources]
        holds &= (equal | ~known[part, None]).all(0)
    found: dict[int, int] = {}
    for (column, source), held in zip(pairs, holds.tolist(), strict=True):
        if held:
            found.setdefault(column, source)
    return tuple(sorted(found.items()))


def with_copies(data: Dataset) -> Dataset:
    """The dataset whose spec tells the copies that `find_copies` finds."""
    found = find_copies(data)
    if not found:
        log.warning(
            "dataset.copies=auto found no column of %s that copies another one of the row before",
            data.name,
        )
        return data
    spec = replace(data.spec, copies=found)
    return replace(data, spec=spec, origin={**data.origin, "copies": describe_copies(spec)})


def describe_copies(spec: Spec) -> str:
    """The copies of a spec in words, runs together: `columns 3..27 copy columns 2..26`."""
    obs = [printable(name) for name in spec.obs_names] or [*map(str, range(spec.obs_dim))]
    actions = [printable(name) for name in spec.action_names]
    actions = actions or [*map(str, range(spec.action_dim))]
    return ", ".join(
        f"{_run('column', obs, columns)} {'copy' if len(columns) > 1 else 'copies'} "
        + (
            _run("column", obs, sources)
            if sources[0] < spec.obs_dim
            else _run("action", actions, [each - spec.obs_dim for each in sources])
        )
        for columns, sources in _runs(spec.copies, spec.obs_dim)
    )


def _runs(copies: Pairs, obs_dim: int) -> Iterator[tuple[list[int], list[int]]]:
    """Neighbours of the same distance, those from observations and actions apart."""
    columns: list[int] = []
    sources: list[int] = []
    for column, source in copies:
        follows = columns and (column, source) == (columns[-1] + 1, sources[-1] + 1)
        if columns and (not follows or source == obs_dim):
            yield columns, sources
            columns, sources = [], []
        columns.append(column)
        sources.append(source)
    if columns:
        yield columns, sources


def _run(what: str, names: list[str], indices: list[int]) -> str:
    if len(indices) == 1:
        return f"{what} {names[indices[0]]}"
    return f"{what}s {names[indices[0]]}..{names[indices[-1]]}"
