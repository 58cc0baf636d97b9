"""Numpy views of a dataset for the checks, and the relation of each row to the next."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from reverie.datasets.build import INFERRED_ENDS
from reverie.datasets.dataset import Dataset
from reverie.envs.specs import Spec
from reverie.text import printable

EXACT = 1e-5  # relative to 1 + |obs|: closer than that, two observations are the same
_SAMPLE = 10_000  # rows that stand for all of them
_CHUNK = 2**20  # numbers that are compared at a time, to stay within the cache and little memory


@dataclass(frozen=True)
class Pairs:
    """Each row beside the following row, `[N - 1]` each.

    Attributes:
        differs: the next observation is known, and is not the following row's observation.
        gap: how far it is from that, in standard deviations, mean over dimensions.
        fine: likewise, relative to the size of the numbers; the largest of the dimensions.
        surprise: how far it is from a linear prediction of the row's observation and action, in
            standard deviations, at most one, mean over dimensions that are not exogenous, because
            set-points jump inside episodes.
    """

    differs: np.ndarray
    gap: np.ndarray
    fine: np.ndarray
    surprise: np.ndarray


class Rows:
    """Columns of N rows as numpy arrays, `obs` and `next_obs` `[N, D]`, `action` `[N, A]`.

    Attributes:
        ends: last row of each episode.
        acted: `[N]` whether an action was recorded; otherwise the stored one is arbitrary.
        obs_labels, action_labels: what the columns are called, printable.
        where, where_between: what to call a row, and rows from one to another.
        truncated: `[P]` whether that row ended otherwise than by terminating.
        ends_inferred: whether nothing but the next observations told where episodes end.
    """

    def __init__(self, data: Dataset) -> None:
        self.spec: Spec = data.spec
        self.where, self.where_between = data.where, data.where_between
        self.obs_labels = tuple(map(printable, data.spec.obs_labels))
        self.action_labels = tuple(map(printable, data.spec.action_labels))
        columns = data.transitions
        self.obs, self.next_obs = columns.obs.numpy(), columns.next_obs.numpy()
        self.action, self.reward = columns.action.numpy(), columns.reward.numpy()
        missing = data.action_missing
        self.acted = np.ones(len(self.reward), bool) if missing is None else ~missing.numpy()
        self.terminated = columns.terminated.numpy()
        self.valid_next = data.valid_next.numpy()
        self.starts = data.episode_starts.numpy()
        self.lengths = data.episode_lengths.numpy()
        self.ends = self.starts + self.lengths - 1
        self.truncated = ~self.terminated[self.ends]
        self.ends_inferred = data.origin.keys() >= INFERRED_ENDS.keys()

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """Those that hold numbers, by name."""
        return {name: getattr(self, name) for name in ("obs", "action", "reward", "next_obs")}

    @cached_property
    def commands(self) -> np.ndarray:
        """`[N, A]` actions in the units of their own names; where these are unknown, in [-1, 1]."""
        return self.spec.told(self.action)

    @cached_property
    def known_action(self) -> np.ndarray:
        """`[M, A]` actions that were recorded."""
        return self.action[self.acted] if self.acted.any() else self.action

    def name_obs(self, dims: Sequence[int]) -> list[str]:
        """Observations as a sentence lists them: by name, or by number where none is known."""
        return [self.obs_labels[dim] if self.spec.obs_names else str(dim) for dim in dims]

    def name_actions(self, dims: Sequence[int]) -> list[str]:
        """Actions as a sentence lists them, see `name_obs`."""
        return [self.action_labels[dim] if self.spec.action_names else str(dim) for dim in dims]

    @cached_property
    def not_finite(self) -> Mapping[str, int]:
        """NaN and Inf entries by column, clean columns left out."""
        found = {}
        for name, column in self.columns.items():
            # A finite sum proves a column clean in one pass; a sum may also overflow.
            with np.errstate(over="ignore", invalid="ignore"):
                if np.isfinite(column.sum(dtype=np.float64)):
                    continue
            if count := int((~np.isfinite(column)).sum()):
                found[name] = count
        return found

    @cached_property
    def inside(self) -> np.ndarray:
        """`[N - 1]` whether the following row belongs to the same episode."""
        inside = np.ones(len(self) - 1, dtype=bool)
        inside[self.ends[:-1]] = False
        return inside

    @cached_property
    def spread(self) -> np.ndarray:
        """`[D]` standard deviation of each observation, 0 where it never changes; of a sample."""
        constant = self._sample.min(axis=0) == self._sample.max(axis=0)
        return np.where(constant, 0.0, self._sample.std(axis=0, dtype=np.float64))

    @cached_property
    def pairs(self) -> Pairs:
        """Rows beside the rows that follow them."""
        shape = len(self) - 1
        gap, fine, surprise = (np.zeros(shape, dtype=np.float32) for _ in range(3))
        model, moved = self._linear_model, self._even_but(self.spec.exogenous)
        for part in self.chunks(shape):
            own_next = self.next_obs[part]
            following = self.obs[part.start + 1 : part.stop + 1]
            away = np.abs(own_next - following)
            if away.any():
                fine[part] = away.max(axis=1) / (1.0 + np.abs(following).max(axis=1))
                gap[part] = away @ (self._inverse * self._even)
            missed = np.abs(self._scaled(own_next) - self._inputs(part) @ model)
            surprise[part] = np.minimum(missed, 1.0, out=missed) @ moved
        surprise[~self.valid_next[:-1]] = 0.0
        return Pairs((fine > EXACT) & self.valid_next[:-1], gap, fine, surprise)

    def equal_share(self, later: int) -> float:
        """Share of rows whose next observation is exactly that of the row so many rows later.

        Rows at which nothing moves are left out, for there every row is equal. Of many rows a
        sample tells.
        """
        rows = some(np.arange(max(0, -later), len(self) - max(1, later)))
        rows = rows[self.valid_next[rows]]
        if not len(rows):
            return 0.0
        same = (self.next_obs[rows] == self.obs[rows + later]).all(axis=1)
        moves = (self.obs[rows + 1] != self.obs[rows + later]).any(axis=1)
        return float((same & moves).mean())

    def known_share(self, rows: np.ndarray) -> float:
        """Share of rows whose next observation is exactly that of some row; a sample tells."""
        rows = some(rows)
        wanted = [each.tobytes() for each in self.next_obs[rows] + 0.0]  # which makes -0.0 0.0
        left = set(wanted)
        for part in self.chunks(len(self)):
            left.difference_update(each.tobytes() for each in self.obs[part] + 0.0)
        return 1.0 - sum(each in left for each in wanted) / len(wanted)

    def unexplained(self, first: np.ndarray, other: np.ndarray) -> float:
        """Share of the variance of observations that others do not explain linearly.

        Args:
            first: rows `[M]` that explain.
            other: observations `[M, D]`, each in the same dimension; the best one counts.
        """
        x, y = self._scaled(self.obs[first]), self._scaled(other)
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
        scale = np.sqrt((x * x).sum(axis=0) * (y * y).sum(axis=0))
        correlation = np.divide(
            (x * y).sum(axis=0), scale, out=np.zeros_like(scale), where=scale > 0
        )
        return 1.0 - float(np.square(correlation).max())

    def chunks(self, count: int) -> Iterator[slice]:
        """So many rows, some at a time."""
        size = max(1, _CHUNK // self.obs.shape[1])
        for start in range(0, count, size):
            yield slice(start, min(start + size, count))

    @cached_property
    def _inverse(self) -> np.ndarray:
        """`[D]` one over the spread, 0 for what never changes."""
        spread = self.spread
        # Of a tiny spread the inverse would overflow float32.
        large = spread > 1e-30
        return np.divide(1.0, spread, out=np.zeros_like(spread), where=large).astype(np.float32)

    @cached_property
    def _even(self) -> np.ndarray:
        """`[D]` weights of a mean over the dimensions that change."""
        return self._even_but(())

    def _even_but(self, dims: Sequence[int]) -> np.ndarray:
        """`[D]` likewise, without some dimensions."""
        varying = (self._inverse > 0).astype(np.float32)
        varying[list(dims)] = 0.0
        return varying / max(1.0, float(varying.sum()))

    @cached_property
    def _linear_model(self) -> np.ndarray:
        """`[D + A + 1, D]` from the inputs of a row to its next observation, both scaled."""
        rows = some(np.flatnonzero(self.valid_next))
        inputs = self._inputs(rows).astype(np.float64)  # in which the ridge keeps it solvable
        covariance = inputs.T @ inputs + 1e-3 * np.eye(inputs.shape[1])
        model = np.linalg.solve(covariance, inputs.T @ self._scaled(self.next_obs[rows]))
        return model.astype(np.float32)

    def _inputs(self, rows: slice | np.ndarray) -> np.ndarray:
        ones = np.ones((len(self.reward[rows]), 1), dtype=np.float32)
        return np.concatenate([self._scaled(self.obs[rows]), self.action[rows], ones], axis=1)

    def _scaled(self, obs: np.ndarray) -> np.ndarray:
        return (obs - self._middle) * self._inverse

    @cached_property
    def _middle(self) -> np.ndarray:
        return self._sample.mean(axis=0, dtype=np.float64).astype(np.float32)

    @cached_property
    def _sample(self) -> np.ndarray:
        return self.obs[some(np.arange(len(self)))]


def some(rows: np.ndarray) -> np.ndarray:
    """At most 10,000 of these rows, at random: every so many-th could all be starts of episodes."""
    if len(rows) <= _SAMPLE:
        return rows
    return np.random.default_rng(0).choice(rows, _SAMPLE)
