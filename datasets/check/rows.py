"""A dataset as the checks see it: numpy views, and how rows relate to the rows that follow them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from reverie.datasets.dataset import Dataset
from reverie.envs.specs import Spec

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
        step: how far it is from the row's own observation, in standard deviations of which more
            than one count as one, mean over dimensions.
    """

    differs: np.ndarray
    gap: np.ndarray
    fine: np.ndarray
    step: np.ndarray


class Rows:
    """Columns of N rows as numpy arrays, `obs` and `next_obs` `[N, D]`, `action` `[N, A]`.

    Attributes:
        ends: last row of each episode.
        truncated: `[P]` whether that row ended otherwise than by terminating.
    """

    def __init__(self, data: Dataset) -> None:
        self.spec: Spec = data.spec
        columns = data.transitions
        self.obs, self.next_obs = columns.obs.numpy(), columns.next_obs.numpy()
        self.action, self.reward = columns.action.numpy(), columns.reward.numpy()
        self.terminated = columns.terminated.numpy()
        self.valid_next = data.valid_next.numpy()
        self.starts = data.episode_starts.numpy()
        self.lengths = data.episode_lengths.numpy()
        self.ends = self.starts + self.lengths - 1
        self.truncated = ~self.terminated[self.ends]

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """Those that hold numbers, by name."""
        return {name: getattr(self, name) for name in ("obs", "action", "reward", "next_obs")}

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
        """`[D]` standard deviation of each observation, 0 where it never changes."""
        constant = self.obs.min(axis=0) == self.obs.max(axis=0)
        return np.where(constant, 0.0, self.obs.std(axis=0, dtype=np.float64))

    @cached_property
    def pairs(self) -> Pairs:
        """Rows beside the rows that follow them."""
        shape = len(self) - 1
        differs = np.zeros(shape, dtype=bool)
        gap, fine, step = (np.zeros(shape, dtype=np.float32) for _ in range(3))
        for part in self.chunks(shape):
            obs, own_next = self.obs[part], self.next_obs[part]
            following = self.obs[part.start + 1 : part.stop + 1]
            away = np.abs(own_next - following)
            if away.any():
                size = 1.0 + np.abs(following).max(axis=1)
                fine[part] = away.max(axis=1) / size
                gap[part] = away @ self._weights
            moved = np.abs(own_next - obs) * self._inverse
            step[part] = np.minimum(moved, 1.0, out=moved) @ self._even
        differs = (fine > EXACT) & self.valid_next[:-1]
        step[~self.valid_next[:-1]] = 0.0
        return Pairs(differs, gap, fine, step)

    def equal_share(self, later: int) -> float:
        """Share of rows whose next observation is exactly that of the row so many rows later.

        Rows at which nothing moves are left out, for there every row is equal. Of many rows a
        sample tells.
        """
        rows = np.arange(max(0, -later), len(self) - max(1, later))
        if len(rows) > _SAMPLE:
            rows = np.random.default_rng(0).choice(rows, _SAMPLE)
        rows = rows[self.valid_next[rows]]
        if not len(rows):
            return 0.0
        same = (self.next_obs[rows] == self.obs[rows + later]).all(axis=1)
        moves = (self.obs[rows + 1] != self.obs[rows + later]).any(axis=1)
        return float((same & moves).mean())

    def distance(self, first: np.ndarray, second: np.ndarray) -> float:
        """Mean distance of the observations of pairs of rows, measured as `Pairs.step`."""
        apart = np.abs(self.obs[first] - self.obs[second]) * self._inverse
        return float((np.minimum(apart, 1.0) @ self._even).mean())

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
        varying = (self._inverse > 0).astype(np.float32)
        return varying / max(1.0, float(varying.sum()))

    @cached_property
    def _weights(self) -> np.ndarray:
        return self._inverse * self._even
