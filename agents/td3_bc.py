"""TD3+BC, arXiv:2106.06860: TD3 (arXiv:1802.09477) whose actor also imitates its batch."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.agents.base import Agent
from reverie.agents.layers import Layer, Standardise
from reverie.agents.losses import (
    bellman_target,
    critic_metrics,
    inverse_value_scale,
    polyak_,
    settled_share,
    smooth_action,
    squared_error,
)
from reverie.agents.networks import Critics, DeterministicActor, Standardiser
from reverie.agents.regularisers import BuildRegulariser, Regulariser, endings
from reverie.datasets.columns import where_taken
from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.ranges import Count, NonNegative, Positive, Range, Share, UnitInterval, Widths
from reverie.world_models.networks import ActivationName
from reverie.world_models.optimiser import Adam
from reverie.world_models.per_seed import PerSeed, set_per_seed

MAX_DELAY = 8
"""Every phase of a delay is compiled into a graph of its own, and torch stops at eight."""


class TD3BC(Agent):
    """S deterministic actors, each with N critics.

    Args:
        spec, seeds: see `Agent`.
        updates: length of the run; nothing here depends on it.
        critics: N; targets use the minimum over all N, the actor the first.
        hidden, activation: architecture of actor and critics.
        actor_learning_rate, critic_learning_rate, adam_epsilon: of Adam.
        discount: per control step.
        tau: Polyak step of the target networks, whenever the policy is updated.
        alpha: 0 is plain imitation, a list gives each seed its own.
        policy_noise, noise_clip: std of the noise on the target action, and its clip; the first may
            be a list too.
        critic_steps: critic updates on one batch, each with new smoothing noise.
        policy_delay: updates per update of actor and target networks.
        order: sequence of `critic` and `policy` within an update.
        normalise_obs: standardise observations with the dataset's statistics.
        actor_layer_norm, critic_layer_norm: layer normalisation in their hidden layers.
        regulariser: builds the regulariser of the critics, see `Regulariser`; null: none.
    """

    imitates = True
    alpha: float | Tensor
    policy_noise: float | Tensor

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        updates: int,
        critics: Count,
        hidden: Widths,
        activation: ActivationName,
        actor_learning_rate: Positive,
        critic_learning_rate: Positive,
        adam_epsilon: NonNegative,
        discount: UnitInterval,
        tau: Share,
        alpha: Annotated[PerSeed, Range(0)],
        policy_noise: Annotated[PerSeed, Range(0)],
        noise_clip: NonNegative,
        critic_steps: Count,
        policy_delay: Annotated[int, Range(1, MAX_DELAY)],
        order: Sequence[str],
        normalise_obs: bool,
        actor_layer_norm: bool,
        critic_layer_norm: bool,
        regulariser: BuildRegulariser | None,
    ) -> None:
        super().__init__(spec=spec, seeds=seeds)
        if sorted(order) != ["critic", "policy"]:
            raise Mistake(
                f"agent.order={list(order)} must name critic and policy once each, for example "
                "[critic,policy]"
            )
        if not 1 <= policy_delay <= MAX_DELAY:
            raise Mistake(f"agent.policy_delay={policy_delay} must lie between 1 and {MAX_DELAY}")
        if critic_steps < 1:
            raise Mistake(f"agent.critic_steps={critic_steps} must be at least 1")
        sizes: dict[str, Any] = {
            "seeds": seeds,
            "obs_dim": spec.obs_dim,
            "action_dim": spec.action_dim,
        }
        self.standardise = Standardiser(spec.obs_dim)
        self.actor = DeterministicActor(
            hidden=hidden, activation=activation, layer_norm=actor_layer_norm, **sizes
        )
        # The observations of actor and critics are standardised before they reach either.
        self.critics = Critics(
            critics=critics,
            hidden=hidden,
            activation=activation,
            normalise_obs=False,
            layer_norm=critic_layer_norm,
            **sizes,
        )
        self.regulariser = (regulariser or Regulariser)(
            critics=self.critics, ends=endings(spec, self.standardise.inverse)
        )
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.actor_optimiser = Adam(self.actor.parameters(), actor_learning_rate, eps=adam_epsilon)
        self.critic_optimiser = Adam(
            self.critics.parameters(), critic_learning_rate, eps=adam_epsilon
        )
        self.discount, self.tau = discount, tau
        set_per_seed(self, "alpha", alpha, trailing=0)
        set_per_seed(self, "policy_noise", policy_noise, trailing=2)
        self.normalise_obs, self.noise_clip = normalise_obs, noise_clip
        self.critic_steps, self.policy_delay, self.order = critic_steps, policy_delay, tuple(order)
        # A plain integer, so that an update that leaves the policy alone does not pay for it; it
        # only takes `policy_delay` values, so no more than that many graphs are ever compiled.
        self.phase = 0

    def get_extra_state(self) -> Tensor:
        """Updates since the policy's last one, which makes the delay survive a checkpoint."""
        return torch.tensor(self.phase)

    def set_extra_state(self, state: Tensor) -> None:
        self.phase = int(state)

    def prepare(self, data: Dataset) -> None:
        if self.normalise_obs:
            self.standardise.fit(data.transitions.obs)
        self.regulariser.prepare(data.transitions.obs, self.standardise)

    @torch.no_grad()
    def act(
        self, obs: Float[Tensor, "S B D"], deterministic: bool = False
    ) -> Float[Tensor, "S B A"]:
        """The same actions either way: this policy has no noise."""
        return self.actor(self.standardise(obs))

    def policy_layers(self, seed: int) -> list[Layer]:
        mean, scale = (each.cpu() for each in (self.standardise.mean, self.standardise.scale))
        return [Standardise(mean, scale), *super().policy_layers(seed)]

    @torch.no_grad()
    def moments(self, obs: Float[Tensor, "S B D"]) -> tuple[Float[Tensor, "S B A"], None]:
        return self.act(obs), None

    def values(
        self, obs: Float[Tensor, "S B D"], action: Float[Tensor, "S B A"]
    ) -> Float[Tensor, "S N B"]:
        return self.critics(self.standardise(obs), action)

    def settled(self, updates: int) -> float:
        return settled_share(updates // self.policy_delay, self.tau, self.discount)

    def update(self, batch: Transition) -> dict[str, Float[Tensor, " S"]]:
        self.phase = (self.phase + 1) % self.policy_delay
        policy_is_due = self.phase == 0
        batch = replace(
            batch, obs=self.standardise(batch.obs), next_obs=self.standardise(batch.next_obs)
        )
        measured: dict[str, Tensor] = {}
        for part in self.order:
            if part == "critic":
                for _ in range(self.critic_steps):
                    measured |= self._update_critic(batch)
            elif policy_is_due:
                measured |= self._update_policy(batch)
        if policy_is_due:
            polyak_(self.target_critics.parameters(), self.critics.parameters(), self.tau)
            polyak_(self.target_actor.parameters(), self.actor.parameters(), self.tau)
        return measured

    @torch.no_grad()
    def target(self, batch: Transition) -> Float[Tensor, "S B"]:
        """y = r + discount (1 - terminated) min_i Q'_i(s', smoothed pi'(s'))."""
        action = self.target_actor(batch.next_obs)
        noise = torch.randn_like(action)
        action = smooth_action(action, noise, self.policy_noise, self.noise_clip)
        value = self.next_value(batch, action)
        return bellman_target(batch.reward, batch.terminated, value, self.discount)

    def next_value(self, batch: Transition, action: Float[Tensor, "S B A"]) -> Float[Tensor, "S B"]:
        """What the target bootstraps from, given the smoothed action at `batch.next_obs`."""
        return self.target_critics(batch.next_obs, action).amin(1)

    def actor_loss(self, batch: Transition, action: Float[Tensor, "S B A"]) -> Float[Tensor, " S"]:
        """-lambda mean Q_1(s, pi(s)) + mean (pi(s) - a)^2, the latter over rows and dimensions."""
        value = self.critics.first(batch.obs, action)
        imitation = where_taken((action - batch.action).square(), batch).mean((1, 2))
        return imitation - inverse_value_scale(value, self.alpha) * value.mean(1)

    def _update_critic(self, batch: Transition) -> dict[str, Tensor]:
        target = self.target(batch)
        prediction = self.critics(batch.obs, batch.action)
        loss = squared_error(prediction, target)
        penalty = self.regulariser.penalty(self.critics, batch, prediction)
        self.critic_optimiser.step(loss + penalty)
        projected = self.regulariser.project_(self.critics)
        return critic_metrics(loss, penalty, prediction, target) | projected

    def _update_policy(self, batch: Transition) -> dict[str, Tensor]:
        action = self.actor(batch.obs)
        loss = self.actor_loss(batch, action)
        self.actor_optimiser.step(loss)
        distance = where_taken((action.detach() - batch.action).square(), batch).mean((1, 2))
        return {"actor_loss": loss.detach(), "imitation_error": distance}
