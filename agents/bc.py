"""Behaviour cloning: maximum likelihood of the recorded actions."""

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.agents.base import Agent
from reverie.agents.networks import GaussianActor
from reverie.datasets.columns import taken_actions
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.ranges import Bounds, Positive, Widths
from reverie.world_models.networks import ActivationName
from reverie.world_models.optimiser import Adam


class BC(Agent):
    """S Gaussian policies fitted by maximum likelihood; rewards are not used.

    Args:
        spec, seeds: see `Agent`.
        updates: length of the run; nothing here depends on it.
        hidden, activation: architecture of the mean.
        log_std_bounds: clip of the policy's log-std. With both bounds 0 the std is one and the
            loss is half the squared error of the mean, up to a constant.
        learning_rate: of Adam.
    """

    imitates = True
    clones = True

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        updates: int,
        hidden: Widths,
        activation: ActivationName,
        log_std_bounds: Bounds,
        learning_rate: Positive,
    ) -> None:
        super().__init__(spec=spec, seeds=seeds)
        self.actor = GaussianActor(
            seeds=seeds,
            obs_dim=spec.obs_dim,
            action_dim=spec.action_dim,
            hidden=hidden,
            activation=activation,
            log_std_bounds=log_std_bounds,
        )
        self.actor_optimiser = Adam(self.actor.parameters(), learning_rate)

    @torch.no_grad()
    def act(
        self, obs: Float[Tensor, "S B D"], deterministic: bool = False
    ) -> Float[Tensor, "S B A"]:
        return self.actor.act(obs, deterministic)

    @torch.no_grad()
    def moments(
        self, obs: Float[Tensor, "S B D"]
    ) -> tuple[Float[Tensor, "S B A"], Float[Tensor, "S B A"]]:
        return self.actor.moments(obs)

    def update(self, batch: Transition) -> dict[str, Float[Tensor, " S"]]:
        taken = taken_actions(batch)
        loss = -self.actor.log_prob(batch.obs, batch.action, taken).mean(1)
        self.actor_optimiser.step(loss)
        return {"actor_loss": loss.detach()}
