"""A fixed dataset in memory: raw transitions, episode boundaries, and facts about the task."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reverie.datasets.arrays import stretches_of
from reverie.datasets.places import Places
from reverie.datasets.transition import Transition, column_names
from reverie.envs.specs import Reference, Spec
from reverie.mistake import Mistake


@dataclass(frozen=True)
class Inferred:
    """Quality of the actions that an inverse model filled in.

    Attributes:
        rows: `[N]` bool, those it filled in.
        unsure: `[N]` bool, those of them that the states do not determine.
        r2: by action, share of the variance explained in held-out recorded actions; None if they do
            not vary.
    """

    rows: Bool[Tensor, " N"]
    unsure: Bool[Tensor, " N"]
    r2: Sequence[float | None]

    def describe(self) -> dict[str, Any]:
        """Counts and R2 as plain values."""
        return {
            "rows": int(self.rows.sum()),
            "unsure": int(self.unsure.sum()),
            "r2": list(self.r2),
        }


@dataclass(frozen=True)
class Dataset:
    """N transitions in the order they were recorded, episodes one after another.

    Attributes:
        name: short name, used in run directories and tables.
        spec: spaces and environment.
        transitions: `[N]` on the CPU, raw units, actions in [-1, 1].
        truncated: `[N]` bool; last row of an episode that a time limit (or the end of the file)
            cut. Such rows bootstrap.
        valid_next: `[N]` bool; false where the source does not hold the true next observation
            (then `next_obs` repeats `obs`, which only a masked target may read).
        episode_starts: `[P]` int64, index of the first row of each episode, ascending from 0.
        reference: returns that define the normalised score, None when unknown.
        origin: source of the data (file, version, environment), for the run's summary.
        places: positions of the rows in the source table; None if they equal the row numbers of the
            dataset.
        untransformed: the recorded rows from which these were computed, see `datasets.transforms`;
            None if these are the recorded ones.
        recorded_episodes: `[P]` int64, the recorded episode of each episode, if several were made
            from one; None otherwise.
        mapped: whether the transitions are on disk, see `datasets.storage`.
        action_missing: `[N]` bool, rows without a recorded action, whose stored one is arbitrary;
            None if all were recorded. Such data are refused for training, see `require_actions`.
        inferred: which actions were filled in, and how well; None: all were recorded.
        taken: of chunks, which of their control steps came before the task ended; None: all.
        dt: `[N]` float32, seconds until the next observation, if the time step varies; None: it is
            constant. Meaningless for rows without a known next observation.
    """

    name: str
    spec: Spec
    transitions: Transition
    truncated: Bool[Tensor, " N"]
    valid_next: Bool[Tensor, " N"]
    episode_starts: Int[Tensor, " P"]
    reference: Reference | None = None
    origin: Mapping[str, str] = field(default_factory=dict)
    places: Places | None = None
    untransformed: "Dataset | None" = None
    recorded_episodes: Int[Tensor, " P"] | None = None
    mapped: bool = False
    taken: Bool[Tensor, "N chunk"] | None = None
    dt: Float[Tensor, " N"] | None = None
    action_missing: Bool[Tensor, " N"] | None = None
    inferred: Inferred | None = None

    def __len__(self) -> int:
        return self.transitions.reward.shape[0]

    @property
    def recorded(self) -> "Dataset":
        """The rows as they were recorded, a control step each: itself if nothing changed them."""
        return self if self.untransformed is None else self.untransformed

    def require_actions(self) -> None:
        """Refuse rows without an action, before anything learns from them.

        Raises:
            Mistake: how many, and what fills them in.
        """
        if self.action_missing is not None:
            count = int(self.action_missing.sum())
            raise Mistake(
                f"{self.name}: {count:,} of {len(self):,} rows have no action, so nothing can be "
                "learned of them; let an inverse model fill them in, inverse_model=ensemble"
            )

    @property
    def first_rows(self) -> Int[Tensor, " R"]:
        """Index of the first row of each recorded episode."""
        if self.recorded_episodes is None:
            return self.episode_starts
        return self.episode_starts[self.recorded_episodes.diff(prepend=torch.tensor([-1])) > 0]

    def where(self, row: int) -> str:
        """Where a row stands, in words: `row 5`, or as `places` tells."""
        return f"row {row:,}" if self.places is None else self.places.at(row)

    def where_between(self, first: int, last: int) -> str:
        """Where some rows stand, in words, the last one included."""
        if self.places is None:
            return f"rows {first:,} to {last:,} of {len(self):,}"
        return self.places.between(first, last)

    @property
    def nominal_dt(self) -> float:
        """Median of `dt`, seconds: the step of whatever is not recorded."""
        if self.dt is None:
            raise ValueError(f"dataset {self.name} does not say how long its steps last")
        return float(self.dt[self.valid_next].median())

    @cached_property
    def episode_lengths(self) -> Int[Tensor, " P"]:
        """Rows of each episode."""
        ends = torch.cat([self.episode_starts[1:], torch.tensor([len(self)])])
        return ends - self.episode_starts

    @cached_property
    def returns(self) -> Tensor:
        """Undiscounted return of each episode, `[P]` float64."""
        total = torch.cumsum(self.transitions.reward.double(), 0)
        ends = self.episode_starts + self.episode_lengths - 1
        before = torch.cat([torch.zeros(1, dtype=torch.float64), total[ends[:-1]]])
        return total[ends] - before

    @cached_property
    def whole(self) -> Bool[Tensor, " P"]:
        """Episodes whose returns can be compared: all but fragments.

        Gaps and missing values cut a table: an episode of one that did not terminate and lasts less
        than half as long as usual is a fragment. Half of the rows lie in episodes of the usual
        length or longer.
        """
        lengths = self.episode_lengths
        if self.places is None:
            return torch.ones_like(lengths, dtype=torch.bool)
        ordered = lengths.sort(descending=True).values
        usual = ordered[(2 * ordered.cumsum(0) >= len(self)).nonzero()[0, 0]]
        terminated = self.transitions.terminated[self.episode_starts + lengths - 1]
        return terminated | (2 * lengths >= usual)

    @cached_property
    def returns_to_go(self) -> Tensor:
        """Undiscounted return from each row to the end of its episode, `[N]` float64."""
        before = torch.cumsum(self.transitions.reward.double(), 0) - self.transitions.reward
        elapsed = before - before[self.episode_starts].repeat_interleave(self.episode_lengths)
        return self.returns.repeat_interleave(self.episode_lengths) - elapsed

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the stored values, of which observations are exogenous and which actions are
        missing, if any are, and of what makes a chunk or a history.

        Fitted models record it and refuse other data.
        """
        digest = hashlib.sha256()
        columns = [getattr(self.transitions, name) for name in column_names(self.transitions)]
        for column in (*columns, self.truncated, self.valid_next, self.episode_starts):
            rows = column.numpy()
            for part in stretches_of(rows):
                digest.update(np.ascontiguousarray(rows[part]).data)
        if self.action_missing is not None:
            digest.update(b"action_missing" + self.action_missing.numpy().tobytes())
        if self.spec.exogenous:  # models that do not predict them are others
            digest.update(repr(self.spec.exogenous).encode())
        if self.spec.chunk > 1:
            digest.update(repr((self.spec.chunk, self.spec.chunk_discount)).encode())
        if self.spec.has_history:  # rules of termination see a part of each observation
            stacked = self.spec.stacked_obs, self.spec.stacked_actions
            digest.update(repr(("history", *stacked)).encode())
        if self.dt is not None:  # models that know of time learn from it
            digest.update(b"dt")
            digest.update(np.ascontiguousarray(self.dt.numpy()).data)
        return digest.hexdigest()[:16]
