"""Rollouts of hundreds of steps that continue across rounds; each restarts when it ends."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition, concatenate
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.ranges import Count
from reverie.world_models.base import Policy, WorldModel
from reverie.world_models.filters import TransitionFilter
from reverie.world_models.simulator import ModelSimulator
from reverie.world_models.sources import RolloutSource
from reverie.world_models.termination import LearnedTermination

log = logging.getLogger(__name__)


class LongRollouts(RolloutSource):
    """Parallel rollouts of the current stochastic policy, a few steps per round.

    A lane ends at a termination, where the filter ends it, at a transition that is not finite, or
    at its horizon; then it restarts from a state of the dataset. Only the first is terminal. The
    state of a rollout (`Step.state`) restarts with it.

    Args:
        spec, seeds: of the task; S.
        model: a fitted world model.
        transition_filter: filters every step.
        lanes: L, parallel rollouts per seed.
        horizon: steps after which a lane restarts; the task's time limit if that is shorter.
        steps: of every lane in a rollout round.
        every: gradient steps between rollout rounds.
        capacity: transitions per seed in the replay.

    Source: NEUBAY, arXiv:2512.04341, which takes a step of all lanes for every so many updates.
    Differs: starts are single recorded states; a prefix of an episode is of use to an agent with
    memory only.
    """

    age: Tensor
    length: Tensor

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        model: WorldModel,
        transition_filter: TransitionFilter,
        lanes: Count,
        horizon: Count,
        steps: Count,
        every: Count,
        capacity: Count,
    ) -> None:
        super().__init__()
        sizes = {"lanes": lanes, "horizon": horizon, "steps": steps, "every": every}
        for name, value in sizes.items():
            if value < 1:
                raise Mistake(f"source.{name} must be at least 1, got {value}")
        if capacity < lanes * steps:
            raise Mistake(
                f"source.capacity={capacity} does not hold the {lanes * steps} rows per seed of "
                "one rollout round; raise it, or lower source.lanes or source.steps"
            )
        limit = spec.max_episode_actions
        self.horizon = horizon if limit is None else min(horizon, limit)
        self.frontier = ModelSimulator(
            spec=spec,
            seeds=seeds,
            model=model,
            transition_filter=transition_filter,
            environments=lanes,
            horizon=self.horizon,
        )
        self.lanes, self.steps, self.every, self.capacity = lanes, steps, every, capacity
        self.starts = lanes * steps
        self.compiles = transition_filter.compiles and model.compiles
        # Steps of the rollout under way, and of the latest one that has ended, 0 before.
        for name in ("age", "length"):
            self.register_buffer(name, torch.zeros(seeds, lanes, dtype=torch.int64))
        self._cut: Tensor | None = None  # [S], of the latest rollout round
        self._warned = False

    def prepare(self, data: Dataset, *, seeds: int, discount: float) -> str | None:
        termination = getattr(self.frontier.model, "termination", None)
        if isinstance(termination, LearnedTermination) and not self._warned:
            self._warned = True
            log.warning(
                "rollouts of up to %d steps end where a learned rule says so, which errs now and "
                "then; where the task's rule is known, world_model.termination=known",
                self.horizon,
            )
        return self.frontier.prepare(data, seeds=seeds, discount=discount)

    @torch.no_grad()
    def generate(
        self, policy: Policy, starts: Float[Tensor, "S B D"]
    ) -> tuple[Transition, Bool[Tensor, "S M"]]:
        moves, cuts = [], []
        for begin in starts.unflatten(1, (self.steps, -1)).unbind(1):
            moved = self.frontier.move(policy, begin)
            age = self.age + 1
            cuts.append(moved.ended & ~moved.rows.terminated & (age < self.horizon))
            self.length.copy_(torch.where(moved.ended, age, self.length))
            self.age.copy_(torch.where(moved.ended, 0, age))
            moves.append(moved)
        self._cut = torch.stack(cuts, 1).to(starts.dtype).mean((1, 2))
        rows = concatenate([moved.rows for moved in moves], 1)
        return rows, torch.cat([moved.keep for moved in moves], 1)

    def metrics(self) -> dict[str, Float[Tensor, " S"]]:
        """How far rollouts come, and what the filter measured on the dataset.

        `rollout_length` and `reached_horizon`: mean and median over lanes of the steps of the
        latest rollout that has ended, of the one under way where none has. `cut`: share of steps
        at which filter or model ended a rollout, neither terminal nor at its horizon.
        """
        if self._cut is None:
            return {}
        length = torch.where(self.length > 0, self.length, self.age).to(self._cut.dtype)
        return {
            "rollout_length": length.mean(1),
            "reached_horizon": length.median(1).values,
            "cut": self._cut,
            **self.frontier.metrics(),
        }

    def contents(self) -> dict[str, Any]:
        return {
            "frontier": self.frontier.contents(),
            "age": self.age.clone(),
            "length": self.length.clone(),
        }

    def restore(self, contents: Mapping[str, Any]) -> None:
        self.frontier.restore(contents["frontier"])
        self.age.copy_(contents["age"])
        self.length.copy_(contents["length"])
