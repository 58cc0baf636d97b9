"""Flow Q-learning, arXiv:2502.02538: a one-step policy distilled from a flow of the data."""

import copy
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.agents.base import Agent
from reverie.agents.layers import Layer, Linear, Standardise, folded, perceptron_layers
from reverie.agents.losses import (
    bellman_target,
    critic_metrics,
    inverse_value_scale,
    masked_mean,
    polyak_,
    settled_share,
    squared_error,
)
from reverie.agents.networks import Critics, Standardiser
from reverie.agents.regularisers import BuildRegulariser, Regulariser, endings
from reverie.datasets.columns import where_taken
from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.ranges import Count, NonNegative, Positive, Range, Share, UnitInterval, Widths
from reverie.world_models.networks import ActivationName, BatchedMLP
from reverie.world_models.optimiser import Adam
from reverie.world_models.per_seed import PerSeed, set_per_seed


class FQL(Agent):
    """S policies a = clip(mu(s, z)), z ~ N(0, 1), each with a flow of the data and N critics.

    The flow turns noise z into recorded actions along dx/dt = v(s, x, t). mu does it in one step:
    it is trained to match the end of the flow from the same z, and to maximise the critics.

    Args:
        spec, seeds: see `Agent`.
        updates: length of the run; nothing here depends on it.
        critics: N; the actor sees their mean.
        hidden, activation: architecture of flow, policy and critics.
        actor_learning_rate, critic_learning_rate, adam_epsilon: of Adam; flow and policy share one.
        discount: per control step.
        tau: Polyak step of the target critics, every update.
        alpha: weight of the distillation; a list gives each seed its own.
        flow_steps: Euler steps of the flow.
        normalise_value: divide the actor's value by mean |Q|, so that its unit does not matter.
        target_value: `mean` or `min` of the target critics in targets.
        latent: z of deterministic actions, which are a function of the observation alone: `zero`
            for all, or `drawn` once for each seed.
        normalise_obs: standardise observations with the dataset's statistics.
        critic_layer_norm: layer normalisation in the hidden layers of the critics.
        regulariser: builds the regulariser of the critics, see `Regulariser`; null: none.
    """

    imitates = True
    alpha: float | Tensor
    latent: Tensor

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
        flow_steps: Count,
        normalise_value: bool,
        target_value: Literal["mean", "min"],
        latent: Literal["zero", "drawn"],
        normalise_obs: bool,
        critic_layer_norm: bool,
        regulariser: BuildRegulariser | None,
    ) -> None:
        super().__init__(spec=spec, seeds=seeds)
        obs, action = spec.obs_dim, spec.action_dim
        built: dict[str, Any] = {"hidden": hidden, "activation": activation}
        self.standardise = Standardiser(obs)
        self.flow = BatchedMLP((seeds,), obs + action + 1, outputs=action, **built)
        self.actor = BatchedMLP((seeds,), obs + action, outputs=action, **built)
        # Observations are standardised before they reach any network.
        self.critics = Critics(
            seeds=seeds,
            critics=critics,
            obs_dim=obs,
            action_dim=action,
            normalise_obs=False,
            layer_norm=critic_layer_norm,
            **built,
        )
        self.regulariser = (regulariser or Regulariser)(
            critics=self.critics, ends=endings(spec, self.standardise.inverse)
        )
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.actor_optimiser = Adam(
            [*self.flow.parameters(), *self.actor.parameters()],
            actor_learning_rate,
            eps=adam_epsilon,
        )
        self.critic_optimiser = Adam(
            self.critics.parameters(), critic_learning_rate, eps=adam_epsilon
        )
        set_per_seed(self, "alpha", alpha, trailing=0)
        fixed = torch.randn if latent == "drawn" else torch.zeros
        self.register_buffer("latent", fixed(seeds, 1, action))
        self.discount, self.tau, self.flow_steps = discount, tau, flow_steps
        self.normalise_value, self.target_value = normalise_value, target_value
        self.normalise_obs = normalise_obs

    def prepare(self, data: Dataset) -> None:
        if self.normalise_obs:
            self.standardise.fit(data.transitions.obs)
        self.regulariser.prepare(data.transitions.obs, self.standardise)

    @torch.no_grad()
    def act(
        self, obs: Float[Tensor, "S B D"], deterministic: bool = False
    ) -> Float[Tensor, "S B A"]:
        latent = self.latent.expand(-1, obs.shape[1], -1)
        noise = latent if deterministic else torch.randn_like(latent)
        return self.policy(self.standardise(obs), noise).clamp(-1, 1)

    def policy_layers(self, seed: int) -> list[Layer]:
        """With `latent`, which becomes part of the first bias; whoever acts clips to the box."""
        first, *others = perceptron_layers(self.actor, seed, self.spec.action_dim)
        assert isinstance(first, Linear)
        mean, scale = (each.cpu() for each in (self.standardise.mean, self.standardise.scale))
        return [Standardise(mean, scale), folded(first, self.latent[seed, 0]), *others]

    @torch.no_grad()
    def moments(
        self, obs: Float[Tensor, "S B D"]
    ) -> tuple[Float[Tensor, "S B A"], Float[Tensor, "S B A"]]:
        """The deterministic action, and how far others lie from it, root mean square.

        Of z = +-sqrt(A) e_j for every dimension j, which have the mean and covariance of N(0, 1).
        """
        mean, dims = self.act(obs, deterministic=True), self.spec.action_dim
        ends = dims**0.5 * torch.eye(dims, dtype=obs.dtype, device=obs.device)
        noise = torch.cat([ends, -ends]).repeat(obs.shape[1], 1).expand(len(obs), -1, -1)
        rows = self.standardise(obs).repeat_interleave(2 * dims, 1)
        action = self.policy(rows, noise).clamp(-1, 1).unflatten(1, (-1, 2 * dims))
        return mean, (action - mean.unsqueeze(2)).square().mean(2).sqrt()

    def values(
        self, obs: Float[Tensor, "S B D"], action: Float[Tensor, "S B A"]
    ) -> Float[Tensor, "S N B"]:
        return self.critics(self.standardise(obs), action)

    def settled(self, updates: int) -> float:
        return settled_share(updates, self.tau, self.discount)

    def update(self, batch: Transition) -> dict[str, Float[Tensor, " S"]]:
        batch = replace(
            batch, obs=self.standardise(batch.obs), next_obs=self.standardise(batch.next_obs)
        )
        # Both losses look at all networks as they were, as if one optimiser moved them at once.
        target = self.target(batch)
        measured = self._update_actor(batch) | self._update_critic(batch, target)
        polyak_(self.target_critics.parameters(), self.critics.parameters(), self.tau)
        return measured

    def policy(
        self, obs: Float[Tensor, "S B D"], noise: Float[Tensor, "S B A"]
    ) -> Float[Tensor, "S B A"]:
        """mu(s, z), of standardised observations, as everywhere below; it may leave the box."""
        return self.actor(torch.cat([obs, noise], -1))

    def velocity(
        self,
        obs: Float[Tensor, "S B D"],
        action: Float[Tensor, "S B A"],
        time: Float[Tensor, "S B 1"],
    ) -> Float[Tensor, "S B A"]:
        """v(s, x, t) of the flow."""
        return self.flow(torch.cat([obs, action, time], -1))

    def flow_loss(
        self, batch: Transition, noise: Float[Tensor, "S B A"], time: Float[Tensor, "S B 1"]
    ) -> Float[Tensor, " S"]:
        """mean |v(s, (1 - t) z + t a, t) - (a - z)|^2 over recorded rows and dimensions."""
        between = (1 - time) * noise + time * batch.action
        error = self.velocity(batch.obs, between, time) - (batch.action - noise)
        return masked_mean(where_taken(error.square(), batch).mean(-1), batch.is_real)

    @torch.no_grad()
    def teacher(
        self, obs: Float[Tensor, "S B D"], noise: Float[Tensor, "S B A"]
    ) -> Float[Tensor, "S B A"]:
        """Where the flow leads from z by Euler steps, clipped to the box; no gradient."""
        action = noise
        for step in range(self.flow_steps):
            time = torch.full_like(action[..., :1], step / self.flow_steps)
            action = action + self.velocity(obs, action, time) / self.flow_steps
        return action.clamp(-1, 1)

    @torch.no_grad()
    def target(self, batch: Transition) -> Float[Tensor, "S B"]:
        """y = r + discount (1 - terminated) mean_i or min_i Q'_i(s', clip(mu(s', z')))."""
        action = self.policy(batch.next_obs, torch.randn_like(batch.action)).clamp(-1, 1)
        values = self.target_critics(batch.next_obs, action)
        value = values.mean(1) if self.target_value == "mean" else values.amin(1)
        return bellman_target(batch.reward, batch.terminated, value, self.discount)

    def _update_actor(self, batch: Transition) -> dict[str, Tensor]:
        """L_flow + alpha mean |mu(s, z) - teacher(s, z)|^2 - lambda mean Q(s, clip(mu(s, z)))."""
        noise, time = torch.randn_like(batch.action), torch.rand_like(batch.action[..., :1])
        flow_loss = self.flow_loss(batch, noise, time)
        noise = torch.randn_like(noise)
        action = self.policy(batch.obs, noise)
        distance = (action - self.teacher(batch.obs, noise)).square().mean((1, 2))
        value = self.critics(batch.obs, action.clamp(-1, 1)).mean(1)
        scale = inverse_value_scale(value, 1.0) if self.normalise_value else 1.0
        loss = flow_loss + self.alpha * distance - scale * value.mean(1)
        self.actor_optimiser.step(loss)
        return {
            "actor_loss": loss.detach(),
            "flow_loss": flow_loss.detach(),
            "distillation_error": distance.detach(),
        }

    def _update_critic(self, batch: Transition, target: Float[Tensor, "S B"]) -> dict[str, Tensor]:
        prediction = self.critics(batch.obs, batch.action)
        loss = squared_error(prediction, target)
        penalty = self.regulariser.penalty(self.critics, batch, prediction)
        self.critic_optimiser.step(loss + penalty)
        projected = self.regulariser.project_(self.critics)
        return critic_metrics(loss, penalty, prediction, target) | projected
