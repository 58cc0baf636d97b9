"""Rollout sources: how the current policy and a model become synthetic transitions."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition, column_names
from reverie.mistake import Mistake
from reverie.ranges import Count
from reverie.world_models.base import Critics, Moments, Policy, WorldModel
from reverie.world_models.filters import FilterResult, TransitionFilter


class RolloutSource(nn.Module, ABC):
    """Turns a policy into rows for a replay; one rollout round is one call of `generate`.

    Attributes:
        every: gradient steps between rollout rounds.
        starts: B, start states a rollout round asks for, per seed.
        capacity: rows per seed that its replay should hold.
        stream: name of the stream that its rows go to.
        compiles: whether `generate` may be compiled: fixed shapes, tensors only.
    """

    every: int
    starts: int
    capacity: int
    stream: str = "synthetic"
    compiles: bool = True

    @abstractmethod
    def generate(
        self, policy: Policy, starts: Float[Tensor, "S B D"]
    ) -> tuple[Transition, Bool[Tensor, "S M"]]:
        """Rows `[S, M]` and which of them exist. Shapes are fixed; nothing is compacted."""

    def attach(self, moments: Moments, critics: Critics | None = None) -> None:
        """Keep what tells mean and std of the current policy, and what its critics think.

        Most sources need actions only.
        """

    def prepare(self, data: Dataset, *, seeds: int, discount: float) -> str | None:
        """Let the filter see the dataset, where there is one: see `TransitionFilter.prepare`."""
        return None

    def metrics(self) -> dict[str, Float[Tensor, " S"]]:
        """What else the latest round tells, by name; `generate` itself is measured anyway."""
        return {}

    def contents(self) -> dict[str, Any]:
        """What later rollout rounds depend on beside the policy, as tensors and plain values."""
        return {}

    def restore(self, contents: Mapping[str, Any]) -> None:
        """Take back what `contents` gave."""


class BranchedRollouts(RolloutSource):
    """Short rollouts of the current stochastic policy, branched off states of the dataset.

    Args:
        model: a fitted world model.
        transition_filter: filters every step.
        horizon: H, steps of a rollout.
        starts: start states per rollout round and seed.
        every: gradient steps between rollout rounds.
        retain: rollout rounds that the replay holds at full rollout length.
        actions: of the `policy`, or `uniform` over the box, whatever the policy does (an option of
            COMBO, arXiv:2102.08363, appendix B, and of RAMBO on AntMaze).

    Source: MBPO, arXiv:1906.08253, algorithm 2. A rollout ends at a termination; rows after its
    end are marked as absent. Rows that are not finite are dropped and end their rollout too, for
    a diverged model must not poison the replay. A model that needs more than the observation to
    go on has its `state` carried along, which never reaches the policy or the replay.
    """

    def __init__(
        self,
        *,
        model: WorldModel,
        transition_filter: TransitionFilter,
        horizon: Count,
        starts: Count,
        every: Count,
        retain: Count,
        actions: Literal["policy", "uniform"],
    ) -> None:
        super().__init__()
        for name, value in (
            ("horizon", horizon),
            ("starts", starts),
            ("every", every),
            ("retain", retain),
        ):
            if value < 1:
                raise Mistake(f"source.{name} must be at least 1, got {value}")
        self.model, self.filter = model, transition_filter
        self.compiles = transition_filter.compiles and model.compiles
        self.horizon, self.starts, self.every = horizon, starts, every
        self.capacity = horizon * starts * retain
        self.uniform = actions == "uniform"
        self._cut: Tensor | None = None  # [S], of the latest rollout round

    def prepare(self, data: Dataset, *, seeds: int, discount: float) -> str | None:
        return self.filter.prepare(data, self.model, seeds=seeds, discount=discount)

    def metrics(self) -> dict[str, Float[Tensor, " S"]]:
        """`cut`: of the steps that were taken, the share at which the filter ended a rollout.

        Beside it what the filter measured on the dataset.
        """
        return {} if self._cut is None else {"cut": self._cut, **self.filter.metrics()}

    @torch.no_grad()
    def generate(
        self, policy: Policy, starts: Float[Tensor, "S B D"]
    ) -> tuple[Transition, Bool[Tensor, "S M"]]:
        obs = starts
        alive = torch.ones(starts.shape[:-1], dtype=torch.bool, device=starts.device)
        state = self.model.begin(obs)
        rows, kept = [], []
        cut, taken = torch.zeros(2, starts.shape[0], device=starts.device)
        for elapsed_steps in range(self.horizon):
            action = policy(obs)
            if self.uniform:
                action = torch.rand_like(action) * 2 - 1
            proposal = self.model.advance(obs, action, self.filter.candidates, state)
            filtered: FilterResult = self.filter(obs, action, proposal, elapsed_steps)
            row = Transition(
                obs=obs,
                action=action,
                reward=filtered.step.reward[0],
                next_obs=filtered.step.next_obs[0],
                terminated=filtered.step.terminated[0],
                is_real=torch.zeros_like(alive),
            )
            finite = row.next_obs.isfinite().all(-1) & row.reward.isfinite()
            rows.append(row)
            kept.append(alive & filtered.keep & finite)
            cut = cut + (alive & ~filtered.goes_on).sum(1)
            taken = taken + alive.sum(1)
            alive = alive & filtered.goes_on & finite & ~row.terminated
            # An ended rollout stands still: its rows are absent, but they must stay finite.
            obs = torch.where(alive.unsqueeze(-1), row.next_obs, obs)
            if state is not None:
                state = torch.where(alive.unsqueeze(-1), carry_state(filtered, self.filter), state)
        self._cut = cut / taken
        stacked = Transition(
            *(
                torch.stack([getattr(row, name) for row in rows], 1).flatten(1, 2)
                for name in column_names(Transition)
            )
        )
        return stacked, torch.stack(kept, 1).flatten(1, 2)


def carry_state(filtered: FilterResult, judge: TransitionFilter) -> Float[Tensor, "S B W"]:
    """The state with which a model that has one goes on.

    Raises:
        RuntimeError: the filter dropped it.
    """
    if filtered.step.state is None:
        raise RuntimeError(
            f"the filter {type(judge).__name__} lost the `state` of the model's step; pass "
            "`step.state` on to the Step that it returns"
        )
    return filtered.step.state[0]
