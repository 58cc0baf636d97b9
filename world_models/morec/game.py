"""Adversarial inverse RL that trains a discriminator of true and generated transitions.

MOREC, arXiv:2310.05422. A generator of transitions and a clone of the recorded behaviour roll out
together; the discriminator separates their transitions from recorded ones, and the generator is
trained against it. All in normalised units, all seeds as one batched network.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.ranges import (
    Bounds,
    Count,
    NonNegative,
    Positive,
    PositiveBounds,
    UnitInterval,
    Widths,
)
from reverie.world_models.gaussian import GaussianMembers
from reverie.world_models.networks import ActivationName, BatchedMLP
from reverie.world_models.optimiser import Adam

Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]


class DynamicsGame:
    """S games side by side, on normalised (s, a, change of s).

        max_D E_data[log D] + (1 - q) E_generator[log(1 - D)] + q E_noise[log(1 - D)] + entropy
        max_P sum_t discount^t softplus(logit_t)     along rollouts of H steps

    Noise transitions are recorded ones with c std(change) N(0, 1) added to the change, with a
    log-uniform c in `noise_scale` for each.

    Args:
        spec, seeds: see `DynamicsReward`.
        hidden, activation, delta_input: of the discriminator.
        learning_rate: of the discriminator.
        entropy_bonus: weight of the entropy of its output.
        starts, horizon: B recorded states from which the generator takes H steps per iteration,
            against as many recorded transitions, B H.
        discount: of the generator's return.
        player_hidden, player_activation, log_variance_bounds, bound_coefficient: architecture of
            generator and behaviour, see `GaussianMembers`.
        generator_learning_rate: of the generator.
        behaviour_updates, behaviour_batch, behaviour_learning_rate: of behaviour cloning.
        noise_share: q.
        noise_scale: least and largest c.

    Source: the saddle problem is that of MOREC, its learning code was never published. Generator
    by reparametrised gradients, noise and hyperparameters are a reconstruction.
    """

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        hidden: Widths,
        activation: ActivationName,
        delta_input: bool,
        learning_rate: Positive,
        entropy_bonus: NonNegative,
        starts: Count,
        horizon: Count,
        discount: UnitInterval,
        player_hidden: Widths,
        player_activation: ActivationName,
        log_variance_bounds: Bounds,
        bound_coefficient: NonNegative,
        generator_learning_rate: Positive,
        behaviour_updates: Count,
        behaviour_batch: Count,
        behaviour_learning_rate: Positive,
        noise_share: UnitInterval,
        noise_scale: PositiveBounds,
    ) -> None:
        if min(starts, horizon, behaviour_batch, behaviour_updates) < 1:
            raise Mistake(
                "dynamics_reward.game needs starts, horizon, behaviour_batch and behaviour_updates "
                f">= 1, got {[starts, horizon, behaviour_batch, behaviour_updates]}"
            )
        if not 0 <= noise_share <= 1:
            raise Mistake(f"dynamics_reward.game.noise_share={noise_share} must lie in [0, 1]")
        low, high = noise_scale
        if not 0 < low <= high:
            raise Mistake(
                f"dynamics_reward.game.noise_scale={list(noise_scale)} must be [low, high] with "
                "0 < low <= high"
            )
        self.hyperparameters: dict[str, Any] = {
            "learning_rate": learning_rate,
            "entropy_bonus": entropy_bonus,
            "starts": starts,
            "horizon": horizon,
            "discount": discount,
            "player_hidden": list(player_hidden),
            "player_activation": player_activation,
            "log_variance_bounds": list(log_variance_bounds),
            "bound_coefficient": bound_coefficient,
            "generator_learning_rate": generator_learning_rate,
            "behaviour_updates": behaviour_updates,
            "behaviour_batch": behaviour_batch,
            "behaviour_learning_rate": behaviour_learning_rate,
            "noise_share": noise_share,
            "noise_scale": [low, high],
        }
        self.obs_dim, self.action_dim, self.seeds = spec.obs_dim, spec.action_dim, seeds
        self.hidden, self.activation, self.delta_input = hidden, activation, delta_input
        self.entropy_bonus, self.starts, self.horizon = entropy_bonus, starts, horizon
        self.discount = discount
        self.noise_share, self.noise_scale = noise_share, (low, high)

    def begin(self, table: Float[Tensor, "N X"], wrap: Wrapper) -> None:
        """Draw new networks and clone the behaviour behind `table`.

        Args:
            table: recorded rows, on the device to train on.
            wrap: what the training steps, functions of fixed shapes, are passed through.
        """
        device, obs_dim, action_dim = table.device, self.obs_dim, self.action_dim
        self.table = table
        self.change_std = table[:, -obs_dim:].std(0, correction=0)
        self.discriminator = BatchedMLP(
            (self.seeds,), table.shape[-1], self.hidden, 1, self.activation
        ).to(device)
        self.behaviour = self._player(obs_dim, action_dim).to(device)
        self.generator = self._player(obs_dim + action_dim, obs_dim).to(device)
        self.discriminator_optimiser = Adam(
            self.discriminator.parameters(), self.hyperparameters["learning_rate"]
        ).to(device)
        self.generator_optimiser = Adam(
            self.generator.trained_parameters(), self.hyperparameters["generator_learning_rate"]
        ).to(device)
        self._unmoved = {
            name: value.clone() for name, value in self.generator_optimiser.state_dict().items()
        }
        self._clone_behaviour(wrap)
        self.update: Callable[[], tuple[Tensor, Tensor, Tensor]] = wrap(self._update)

    def restart_generator(self) -> None:
        """A generator with new weights, and an optimiser without a past."""
        self.generator.reset()
        self.generator_optimiser.load_state_dict(self._unmoved)

    def discriminator_input(self, rows: Float[Tensor, "*lead X"]) -> Float[Tensor, "*lead X"]:
        """What the discriminator is shown of rows: the change of s, or s' itself."""
        if self.delta_input:
            return rows
        obs, action, change = rows.split([self.obs_dim, self.action_dim, self.obs_dim], -1)
        return torch.cat([obs, action, obs + change], -1)

    def draw(self, count: int) -> Float[Tensor, "S count X"]:
        """Recorded rows, other ones for every seed."""
        index = torch.randint(len(self.table), (self.seeds, count), device=self.table.device)
        return self.table[index]

    def perturb(self, rows: Float[Tensor, "S B X"]) -> Float[Tensor, "S B X"]:
        """Rows whose change carries noise of many scales."""
        low, high = self.noise_scale
        exponent = torch.rand_like(rows[..., :1])
        noise = low * (high / low) ** exponent * self.change_std
        before, change = rows.split([rows.shape[-1] - self.obs_dim, self.obs_dim], -1)
        return torch.cat([before, change + noise * torch.randn_like(change)], -1)

    def rollout(self, obs: Float[Tensor, "S B D"]) -> Float[Tensor, "S H B X"]:
        """H steps of the generator under the cloned behaviour, differentiable in the generator."""
        rows = []
        for _ in range(self.horizon):
            action = _sample(self.behaviour, obs).clamp(-1, 1)
            pair = torch.cat([obs, action], -1)
            change = self.change_std * _sample(self.generator, pair)
            rows.append(torch.cat([pair, change], -1))
            obs = obs + change
        return torch.stack(rows, 1)

    def _update(self) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"], Float[Tensor, " S"]]:
        """One step of either side; the discriminator's loss and its mean logits.

        Returns:
            Loss, mean logit on recorded and on generated rows, before the step.
        """
        count = self.starts * self.horizon
        made = self.rollout(self.draw(self.starts)[..., : self.obs_dim])
        parts, share = [self.draw(count), made.detach().flatten(1, 2)], self.noise_share
        weights = [1.0, 1.0 - share]
        if share:
            parts.append(self.perturb(self.draw(count)))
            weights.append(share)
        logits = self._logit(torch.cat(parts, 1)).split(count, 1)
        loss = discriminator_loss(logits, weights, self.entropy_bonus)
        self.discriminator_optimiser.step(loss)

        flattery = F.softplus(self._logit(made.flatten(1, 2))).unflatten(1, (self.horizon, -1))
        steps = torch.arange(self.horizon, device=flattery.device)
        discounted = flattery.mean(-1) * self.discount**steps
        self.generator_optimiser.step(-discounted.sum(1))
        return loss.detach(), logits[0].detach().mean(1), logits[1].detach().mean(1)

    def _logit(self, rows: Float[Tensor, "S B X"]) -> Float[Tensor, "S B"]:
        return self.discriminator(self.discriminator_input(rows)).squeeze(-1)

    def _player(self, inputs: int, outputs: int) -> GaussianMembers:
        hyperparameters = self.hyperparameters
        return GaussianMembers(
            seeds=self.seeds,
            members=1,
            inputs=inputs,
            outputs=outputs,
            hidden=hyperparameters["player_hidden"],
            activation=hyperparameters["player_activation"],
            log_variance_bounds=hyperparameters["log_variance_bounds"],
            bound_coefficient=hyperparameters["bound_coefficient"],
            weight_decay=(),
            dropout=0.0,
            start_cut=2.0,
        )

    def _clone_behaviour(self, wrap: Wrapper) -> None:
        """Fit a Gaussian of a given s by maximum likelihood."""
        hyperparameters, width = self.hyperparameters, self.obs_dim + self.action_dim
        optimiser = Adam(
            self.behaviour.trained_parameters(), hyperparameters["behaviour_learning_rate"]
        )
        optimiser.to(self.table.device)
        weight = torch.ones(hyperparameters["behaviour_batch"], device=self.table.device)

        def step() -> Tensor:
            rows = self.draw(len(weight))[..., :width].unsqueeze(1)
            return self.behaviour.update(optimiser, rows, weight)

        update = wrap(step)
        for _ in range(hyperparameters["behaviour_updates"]):
            update()
        self.behaviour.requires_grad_(False)


def discriminator_loss(
    logits: Sequence[Float[Tensor, "S B"]], weights: Sequence[float], entropy_bonus: float
) -> Float[Tensor, " S"]:
    """Cross-entropy of recorded (the first) against made rows (the others), less the entropy.

    -w_0 E[log D] - sum_i w_i E[log(1 - D)] - entropy_bonus sum_i w_i E[H(D)] / sum_i w_i, with
    D = sigmoid(logit) and H in nats.
    """
    loss = torch.zeros_like(logits[0][:, 0])
    for turn, (logit, weight) in enumerate(zip(logits, weights, strict=True)):
        error = F.softplus(logit if turn else -logit)
        # H = -p log p - (1 - p) log(1 - p) = softplus(l) - p l.
        entropy = F.softplus(logit) - logit.sigmoid() * logit
        loss = loss + weight * (error - entropy_bonus / sum(weights) * entropy).mean(1)
    return loss


def _sample(player: GaussianMembers, inputs: Float[Tensor, "S B X"]) -> Float[Tensor, "S B Y"]:
    mean, log_variance = player(inputs.unsqueeze(1))
    return (mean + (0.5 * log_variance).exp() * torch.randn_like(mean)).squeeze(1)
