"""Soft actor-critic with N critics, arXiv:1812.05905: the base of most methods here.

With N = 2 it is SAC; with more critics and no world model it is SAC-N (arXiv:2110.01548); with
synthetic data and a penalty filter it is MOPO (arXiv:2005.13239). A method that changes a loss
overrides the one hook it changes: `next_value`, `target`, `critic_loss` or `actor_loss`.
"""

import copy
import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reverie.agents.base import Agent
from reverie.agents.losses import (
    VALUE_FLOOR,
    bellman_target,
    critic_metrics,
    masked_mean,
    polyak_,
    settled_share,
    squared_error,
)
from reverie.agents.networks import Critics, TanhGaussianActor
from reverie.agents.regularisers import BuildRegulariser, Regulariser, endings
from reverie.datasets.columns import where_taken
from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.ranges import Bounds, Count, NonNegative, Positive, Range, Share, UnitInterval, Widths
from reverie.world_models.networks import ActivationName
from reverie.world_models.optimiser import Adam
from reverie.world_models.per_seed import PerSeed, as_list, as_tensor, set_per_seed


class SAC(Agent):
    """S soft actor-critics.

    Args:
        spec, seeds: see `Agent`.
        updates: length of the run in gradient steps, for the actor's cosine schedule.
        critics: N; targets and the actor use the minimum over all N.
        hidden, activation: architecture of actor and critics.
        log_std_bounds: clip of the policy's log-std.
        actor_learning_rate, critic_learning_rate, temperature_learning_rate: Adam step sizes; a
            temperature rate of zero keeps the temperature at its initial value.
        actor_cosine: decay the actor's step size to zero over the run.
        discount: per control step.
        tau: Polyak step of the target critics, every update.
        initial_temperature: weight of the entropy term at the start; a list gives each seed its
            own.
        max_temperature: upper clip of the weight used in the losses, None for none.
        target_entropy: target of the temperature update, None for minus the action size; may be a
            list too.
        entropy_in_target: include the entropy term in the target (off: deterministic backup).
        order: sequence of `critic` and `policy` within an update. The temperature is updated after
            the policy, on its sample, unless `temperature` is listed: then on a new sample.
        normalise_critic_obs: the critics standardise observations with the dataset's statistics.
        critic_layer_norm: layer normalisation in the hidden layers of the critics.
        imitation: weight of the squared distance to recorded actions in the actor's loss, whose
            value is then divided by its standard deviation over the batch; 0 omits both, a list
            gives each seed its own.
        regulariser: builds the regulariser of the critics, see `Regulariser`; null: none.
    """

    target_entropy: float | Tensor
    imitation: float | Tensor

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
        temperature_learning_rate: NonNegative,
        actor_cosine: bool,
        discount: UnitInterval,
        tau: Share,
        initial_temperature: Annotated[PerSeed, Range(above=0)],
        max_temperature: Positive | None,
        target_entropy: Annotated[PerSeed, Range()] | None,
        entropy_in_target: bool,
        order: Sequence[str],
        normalise_critic_obs: bool,
        critic_layer_norm: bool,
        imitation: Annotated[PerSeed, Range(0)],
        regulariser: BuildRegulariser | None,
    ) -> None:
        super().__init__(spec=spec, seeds=seeds)
        if min(as_list(imitation)) < 0:
            raise Mistake(f"agent.imitation={imitation} must not be negative; 0 is off")
        if sorted(order) not in (["critic", "policy"], ["critic", "policy", "temperature"]):
            raise Mistake(
                f"agent.order={list(order)} must name critic and policy once each and temperature "
                "at most once, for example [critic,policy]"
            )
        sizes: dict[str, Any] = {"obs_dim": spec.obs_dim, "action_dim": spec.action_dim}
        self.actor = TanhGaussianActor(
            seeds=seeds,
            hidden=hidden,
            activation=activation,
            log_std_bounds=log_std_bounds,
            **sizes,
        )
        self.critics = Critics(
            seeds=seeds,
            critics=critics,
            hidden=hidden,
            activation=activation,
            normalise_obs=normalise_critic_obs,
            layer_norm=critic_layer_norm,
            **sizes,
        )
        self.regulariser = (regulariser or Regulariser)(critics=self.critics, ends=endings(spec))
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_temperature = nn.Parameter(as_tensor(initial_temperature, seeds).log())
        self.actor_optimiser = Adam(
            self.actor.parameters(),
            actor_learning_rate,
            cosine_steps=updates if actor_cosine else None,
        )
        self.critic_optimiser = Adam(self.critics.parameters(), critic_learning_rate)
        self.temperature_optimiser = Adam([self.log_temperature], temperature_learning_rate)
        self.highest_temperature = max(as_list(initial_temperature))
        if max_temperature is not None:
            self.highest_temperature = min(self.highest_temperature, max_temperature)
        self.discount, self.tau = discount, tau
        self.max_temperature, self.entropy_in_target = max_temperature, entropy_in_target
        aim = -float(spec.action_dim) if target_entropy is None else target_entropy
        set_per_seed(self, "target_entropy", aim, trailing=1)
        set_per_seed(self, "imitation", imitation, trailing=0)
        self.anchors = max(as_list(imitation)) > 0
        self.imitates |= self.anchors
        self.order = tuple(order)

    def prepare(self, data: Dataset) -> None:
        for part in (self.critics, self.target_critics, self.regulariser):
            part.prepare(data.transitions.obs)

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
        return self.critics(obs, action)

    @torch.no_grad()
    def bonus(self, obs: Float[Tensor, "S B D"]) -> Float[Tensor, "S B"] | None:
        """-alpha log pi, of one sampled action a state."""
        if not self.entropy_in_target:
            return obs.new_zeros(obs.shape[:-1])
        _, cost = self.sample(obs)
        return -self.temperature.unsqueeze(1) * cost

    def settled(self, updates: int) -> float:
        return settled_share(updates, self.tau, self.discount)

    def reward_bounds(self, low: float, high: float) -> tuple[float, float]:
        if not self.entropy_in_target:
            return low, high
        # Uniform actions have the largest entropy.
        entropy = self.spec.action_dim * math.log(2)
        return low, high + entropy * max(self.highest_temperature, float(self.temperature.max()))

    def update(self, batch: Transition) -> dict[str, Float[Tensor, " S"]]:
        steps = {
            "critic": self._update_critic,
            "policy": self._update_policy,
            "temperature": self._update_temperature,
        }
        measured: dict[str, Tensor] = {}
        for part in self.order:
            measured |= steps[part](batch)
        polyak_(self.target_critics.parameters(), self.critics.parameters(), self.tau)
        return measured

    def sample(
        self, obs: Float[Tensor, "S B D"]
    ) -> tuple[Float[Tensor, "S B A"], Float[Tensor, "S B"]]:
        """An action of the policy, and what the temperature weighs: log pi(a|s)."""
        return self.actor.sample(obs)

    @property
    def temperature(self) -> Float[Tensor, " S"]:
        """Weight of the entropy term in the losses; no gradient."""
        value = self.log_temperature.detach().exp()
        return value if self.max_temperature is None else value.clamp(max=self.max_temperature)

    @torch.no_grad()
    def target(self, batch: Transition) -> Float[Tensor, "S B"]:
        """y = r + discount (1 - terminated) V(s')."""
        value = self.next_value(batch.next_obs)
        return bellman_target(batch.reward, batch.terminated, value, self.discount)

    def next_value(self, next_obs: Float[Tensor, "S B D"]) -> Float[Tensor, "S B"]:
        """V(s') = min_i Q'_i(s', a') - alpha log pi(a'|s'), what the target bootstraps from."""
        action, log_prob = self.sample(next_obs)
        value = self.target_critics(next_obs, action).amin(1)
        if self.entropy_in_target:
            value = value - self.temperature.unsqueeze(1) * log_prob
        return value

    def fit_critics(
        self, batch: Transition, target: Float[Tensor, "S B"]
    ) -> tuple[Float[Tensor, " S"], Float[Tensor, "S N B"]]:
        """The critics' loss, and their predictions at the batch."""
        prediction = self.critics(batch.obs, batch.action)
        return self.critic_loss(batch, prediction, target), prediction

    def critic_loss(
        self, batch: Transition, prediction: Float[Tensor, "S N B"], target: Float[Tensor, "S B"]
    ) -> Float[Tensor, " S"]:
        """Squared TD error of every critic."""
        return squared_error(prediction, target)

    def actor_loss(
        self, batch: Transition, action: Float[Tensor, "S B A"], log_prob: Float[Tensor, "S B"]
    ) -> Float[Tensor, " S"]:
        """E[alpha log pi(a|s) - min_i Q_i(s, a)], anchored to recorded actions if asked for."""
        value = self.critics(batch.obs, action).amin(1)
        loss = (self.temperature.unsqueeze(1) * log_prob - value).mean(1)
        return self.anchored(loss, value, batch, action) if self.anchors else loss

    def anchored(
        self,
        loss: Float[Tensor, " S"],
        value: Float[Tensor, "S B"],
        batch: Transition,
        action: Float[Tensor, "S B A"],
    ) -> Float[Tensor, " S"]:
        """loss / std Q(s, a) + imitation * mean |a - a_recorded|^2 over the recorded rows.

        Ours, after TD3+BC (arXiv:2106.06860). Differs: divides by the standard deviation of the
        values and not by their mean size, so that a constant added to every reward changes nothing.
        """
        scale = value.detach().std(1, correction=0).clamp(min=VALUE_FLOOR)
        distance = where_taken((action - batch.action).square(), batch).mean(-1)
        return loss / scale + self.imitation * masked_mean(distance, batch.is_real)

    def _update_critic(self, batch: Transition) -> dict[str, Tensor]:
        target = self.target(batch)
        loss, prediction = self.fit_critics(batch, target)
        penalty = self.regulariser.penalty(self.critics, batch, prediction)
        self.critic_optimiser.step(loss + penalty)
        projected = self.regulariser.project_(self.critics)
        return critic_metrics(loss, penalty, prediction, target) | projected

    def _update_policy(self, batch: Transition) -> dict[str, Tensor]:
        action, log_prob = self.sample(batch.obs)
        loss = self.actor_loss(batch, action, log_prob)
        self.actor_optimiser.step(loss)
        if "temperature" not in self.order:
            self._step_temperature(log_prob.detach())
        return {
            "actor_loss": loss.detach(),
            "entropy": -log_prob.detach().mean(1),
            "temperature": self.temperature,
        }

    def _update_temperature(self, batch: Transition) -> dict[str, Tensor]:
        with torch.no_grad():
            _, log_prob = self.sample(batch.obs)
        self._step_temperature(log_prob)
        return {"temperature": self.temperature}

    def _step_temperature(self, log_prob: Float[Tensor, "S B"]) -> None:
        # Gradient of the temperature objective E[-log alpha (log pi + target entropy)].
        surplus = (log_prob + self.target_entropy).mean(1)
        self.temperature_optimiser.step(-self.log_temperature * surplus)
