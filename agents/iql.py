"""Implicit Q-learning, arXiv:2110.06169: no action outside the data is ever evaluated."""

import copy
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.agents.base import Agent
from reverie.agents.losses import (
    advantage_weight,
    bellman_target,
    critic_metrics,
    expectile_loss,
    polyak_,
    settled_share,
    squared_error,
)
from reverie.agents.networks import Critics, GaussianActor, StateValue
from reverie.agents.regularisers import BuildRegulariser, Regulariser, endings
from reverie.datasets.columns import taken_actions
from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.ranges import (
    Bounds,
    Count,
    Finite,
    NonNegative,
    Positive,
    Range,
    Share,
    UnitInterval,
    Widths,
)
from reverie.world_models.networks import ActivationName
from reverie.world_models.optimiser import Adam
from reverie.world_models.per_seed import PerSeed, as_list, set_per_seed

RETURN_RANGE = 1000.0
"""Best minus worst recorded return after normalisation, from the authors' code."""


class IQL(Agent):
    """S policies, each with a state value and N critics.

    Args:
        spec, seeds: see `Agent`.
        updates: length of the run in gradient steps, for the actor's cosine schedule.
        critics: N; V is regressed on the minimum over all N target critics.
        hidden, activation: architecture of actor, critics and value.
        log_std_bounds: clip of the policy's log-std.
        actor_learning_rate, critic_learning_rate, value_learning_rate, adam_epsilon: of Adam.
        actor_cosine: decay the actor's step size to zero over the run.
        discount: per control step.
        tau: Polyak step of the target critics, every update.
        expectile: the paper's tau, of the value's regression, in (0, 1); a list gives each seed its
            own.
        inverse_temperature: beta; larger values weight high advantages more; may be a list too.
        max_weight: upper clip of exp(beta A).
        order: sequence of `value`, `policy` and `critic` within an update; each part uses the
            results of those before it.
        normalise_rewards: scale rewards so that the dataset's returns span 1000.
        reward_offset: added to every reward, after that scaling.
        normalise_critic_obs: the critics, not V, standardise observations with the dataset's
            statistics.
        critic_layer_norm: layer normalisation in the hidden layers of the critics.
        regulariser: builds the regulariser of the critics, see `Regulariser`; null: none.
    """

    imitates = True
    reward_scale: Tensor
    expectile: float | Tensor
    inverse_temperature: float | Tensor

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        updates: int,
        critics: Count,
        hidden: Widths,
        activation: ActivationName,
        log_std_bounds: Bounds,
        actor_learning_rate: Positive,
        critic_learning_rate: Positive,
        value_learning_rate: Positive,
        adam_epsilon: NonNegative,
        actor_cosine: bool,
        discount: UnitInterval,
        tau: Share,
        expectile: Annotated[PerSeed, Range(above=0, below=1)],
        inverse_temperature: Annotated[PerSeed, Range(0)],
        max_weight: Positive,
        order: Sequence[str],
        normalise_rewards: bool,
        reward_offset: Finite,
        normalise_critic_obs: bool,
        critic_layer_norm: bool,
        regulariser: BuildRegulariser | None,
    ) -> None:
        super().__init__(spec=spec, seeds=seeds)
        if sorted(order) != ["critic", "policy", "value"]:
            raise Mistake(
                f"agent.order={list(order)} must name value, policy and critic once each, for "
                "example [value,policy,critic]"
            )
        if not all(0 < each < 1 for each in as_list(expectile)):
            raise Mistake(f"agent.expectile={expectile} must lie between 0 and 1, for example 0.7")
        sizes: dict[str, Any] = {"seeds": seeds, "obs_dim": spec.obs_dim}
        self.actor = GaussianActor(
            action_dim=spec.action_dim,
            hidden=hidden,
            activation=activation,
            log_std_bounds=log_std_bounds,
            **sizes,
        )
        self.critics = Critics(
            critics=critics,
            action_dim=spec.action_dim,
            hidden=hidden,
            activation=activation,
            normalise_obs=normalise_critic_obs,
            layer_norm=critic_layer_norm,
            **sizes,
        )
        self.regulariser = (regulariser or Regulariser)(critics=self.critics, ends=endings(spec))
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.value = StateValue(hidden=hidden, activation=activation, **sizes)
        self.actor_optimiser = Adam(
            self.actor.parameters(),
            actor_learning_rate,
            cosine_steps=updates if actor_cosine else None,
            eps=adam_epsilon,
        )
        self.critic_optimiser = Adam(
            self.critics.parameters(), critic_learning_rate, eps=adam_epsilon
        )
        self.value_optimiser = Adam(self.value.parameters(), value_learning_rate, eps=adam_epsilon)
        set_per_seed(self, "expectile", expectile, trailing=1)
        set_per_seed(self, "inverse_temperature", inverse_temperature, trailing=1)
        self.discount, self.tau, self.max_weight = discount, tau, max_weight
        self.normalise_rewards, self.reward_offset = normalise_rewards, reward_offset
        self.order = tuple(order)
        self.register_buffer("reward_scale", torch.ones(()))

    def prepare(self, data: Dataset) -> None:
        """Take the range of the dataset's returns, and what critics and regulariser need.

        Raises:
            Mistake: all episodes have the same return.
        """
        for part in (self.critics, self.target_critics, self.regulariser):
            part.prepare(data.transitions.obs)
        if not self.normalise_rewards:
            return
        spread = data.returns.max() - data.returns.min()
        if not spread > 0:
            raise Mistake(
                "agent.normalise_rewards=true divides by the range of the episodes' returns, but "
                f"all {len(data.returns)} in {data.name} have the same; set "
                "agent.normalise_rewards=false"
            )
        self.reward_scale.copy_(RETURN_RANGE / spread)

    def bonus(self, obs: Float[Tensor, "S B D"]) -> Float[Tensor, "S B"]:
        return obs.new_full(obs.shape[:-1], self.reward_offset) / self.reward_scale

    def settled(self, updates: int) -> float:
        return settled_share(updates, self.tau, self.discount)

    def reward_bounds(self, low: float, high: float) -> tuple[float, float]:
        scale = float(self.reward_scale)
        return scale * low + self.reward_offset, scale * high + self.reward_offset

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

    def values(
        self, obs: Float[Tensor, "S B D"], action: Float[Tensor, "S B A"]
    ) -> Float[Tensor, "S N B"]:
        """Every critic's estimate in units of the raw reward, apart from `reward_offset`."""
        return self.critics(obs, action) / self.reward_scale

    def update(self, batch: Transition) -> dict[str, Float[Tensor, " S"]]:
        steps = {
            "value": self._update_value,
            "policy": self._update_policy,
            "critic": self._update_critic,
        }
        with torch.no_grad():  # min_i Q'_i(s, a); the targets move only at the end
            recorded = self.target_critics(batch.obs, batch.action).amin(1)
        measured: dict[str, Tensor] = {}
        for part in self.order:
            measured |= steps[part](batch, recorded)
        polyak_(self.target_critics.parameters(), self.critics.parameters(), self.tau)
        return measured

    @torch.no_grad()
    def target(self, batch: Transition) -> Float[Tensor, "S B"]:
        """y = r + discount (1 - terminated) V(s'), rewards scaled and shifted."""
        reward = self.reward_scale * batch.reward + self.reward_offset
        value = self.value(batch.next_obs)
        return bellman_target(reward, batch.terminated, value, self.discount)

    def _update_value(self, batch: Transition, recorded: Float[Tensor, "S B"]) -> dict[str, Tensor]:
        value = self.value(batch.obs)
        loss = expectile_loss(recorded - value, self.expectile)
        self.value_optimiser.step(loss)
        return {"value_loss": loss.detach(), "state_value": value.detach().mean(1)}

    def _update_policy(
        self, batch: Transition, recorded: Float[Tensor, "S B"]
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            advantage = recorded - self.value(batch.obs)
            weight = advantage_weight(advantage, self.inverse_temperature, self.max_weight)
        log_prob = self.actor.log_prob(batch.obs, batch.action, taken_actions(batch))
        loss = -(weight * log_prob).mean(1)
        self.actor_optimiser.step(loss)
        return {
            "actor_loss": loss.detach(),
            "advantage": advantage.mean(1),
            "advantage_weight": weight.mean(1),
        }

    def _update_critic(
        self, batch: Transition, recorded: Float[Tensor, "S B"]
    ) -> dict[str, Tensor]:
        target = self.target(batch)
        prediction = self.critics(batch.obs, batch.action)
        loss = squared_error(prediction, target)
        penalty = self.regulariser.penalty(self.critics, batch, prediction)
        self.critic_optimiser.step(loss + penalty)
        projected = self.regulariser.project_(self.critics)
        return critic_metrics(loss, penalty, prediction, target) | projected
