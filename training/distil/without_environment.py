"""Substitutes for an unknown environment: recorded states, and rollouts of a world model.

Both replace `reverie.envs.evaluation.Evaluator` while a student is trained.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.envs.specs import Spec
from reverie.training.ope.estimates import Rollouts, box_of, model_rollouts
from reverie.training.ope.recorded import horizon_of, start_states
from reverie.training.seeding import side_stream
from reverie.world_models.base import WorldModel

Policy = Callable[[Tensor], Tensor]


class Place(Protocol):
    """Where S policies act, in P episodes each."""

    seeds: int
    spec: Spec

    def run(self, policy: Policy, seed: int) -> object:
        """Ask the policy at `[S, P, D]` states at a time; those of ended episodes stand still."""

    def episode_returns(self, policy: Policy, seed: int) -> tuple[Float[Tensor, "S P"], Tensor]:
        """Undiscounted returns of P episodes, and their lengths."""


class InRecords:
    """Recorded states, at which a policy is queried once, without rewards.

    Args:
        seeds, rows: S, and P states, or all there are.
    """

    def __init__(self, data: Dataset, *, seeds: int, rows: int) -> None:
        self.data, self.seeds, self.spec, self.rows = data, seeds, data.spec, rows

    def states(self, seed: int) -> Float[Tensor, "P D"]:
        """Some of the recorded states."""
        drawn = np.random.default_rng(seed).permutation(len(self.data))[: self.rows]
        return self.data.transitions.obs[torch.from_numpy(drawn)]

    def run(self, policy: Policy, seed: int) -> None:
        policy(self.states(seed).expand(self.seeds, -1, -1))

    def episode_returns(self, policy: Policy, seed: int) -> tuple[Float[Tensor, "S P"], Tensor]:
        return torch.zeros(self.seeds, 1), torch.zeros(self.seeds, 1)


class InModel:
    """Episodes in a world model from recorded starts, as long as the recorded ones.

    Args:
        model: of S seeds, or of one that all share.
        seeds, episodes: S and P.
        box: states are clipped to this multiple of the range of the data; None: no clip.
        device: of the model; policies are asked on the host.
    """

    def __init__(
        self,
        model: WorldModel,
        data: Dataset,
        *,
        seeds: int,
        episodes: int,
        box: float | None,
        device: torch.device,
    ) -> None:
        model.replay_exogenous(data)
        self.model, self.data, self.spec = model, data, data.spec
        self.seeds, self.episodes, self.device = seeds, episodes, device
        self.box = None if box is None else box_of(data, box).to(device)
        self.steps = horizon_of(data)

    def run(self, policy: Policy, seed: int) -> Rollouts:
        starts = start_states(self.data, self.episodes, seed).to(self.device)
        with side_stream(seed, self.device):
            return model_rollouts(
                self.model,
                lambda obs: policy(obs.cpu()).to(self.device),
                starts,
                seeds=self.seeds,
                rollouts=1,
                limit=self.steps,
                discount=0.0,  # of values, which nobody reads
                box=self.box,
            )

    def episode_returns(self, policy: Policy, seed: int) -> tuple[Float[Tensor, "S P"], Tensor]:
        found = self.run(policy, seed)
        return found.returns[:, 0].cpu(), found.steps.cpu()
