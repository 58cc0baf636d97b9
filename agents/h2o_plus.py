"""H2O+, arXiv:2309.12716: SAC on recorded and simulated data, with a value of real states.

H2O lowers simulated values; H2O+ instead mixes every target with a value of the recorded actions.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.agents.discriminators import (
    Discriminators,
    DiscriminatorSettings,
    simulated_weight,
    successor,
)
from reverie.agents.losses import (
    expectile_error,
    masked_mean,
    per_stream,
    sparse_error,
    weighted_squared_error,
)
from reverie.agents.networks import StateValue
from reverie.agents.sac import SAC
from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition, register
from reverie.mistake import Mistake
from reverie.ranges import Positive, PositiveBounds, UnitInterval
from reverie.world_models.optimiser import Adam


@register
@dataclass(frozen=True)
class Weighed(Transition):
    """Transitions with `[*]` log M/Mhat and the weight of the squared TD error, 1 for real ones."""

    log_ratio: Float[Tensor, "*lead"]
    td_weight: Float[Tensor, "*lead"]


class H2OPlus(SAC):
    """SAC with y = r + discount (lambda V(s') + (1 - lambda) (min Q'(s', a') - alpha log pi)).

    Args:
        discriminators: keywords of `Discriminators`.
        td_ratio: weight simulated TD errors by w = M/Mhat; false: 1.
        weight_bounds: clip of w.
        value_share: lambda, the share of V in every target; 0 is SAC with weights.
        expectile: of min Q'(s, a) at recorded actions that V learns; 0.5 is their mean.
        sparsity: alpha of sparse Q-learning's loss; None for the expectile loss.
        value_learning_rate: Adam step size of V.
        per_stream_mean: average real and simulated TD errors separately and add them; false: one
            mean over the batch.
        sac: see `SAC`.
    """

    def __init__(
        self,
        *,
        discriminators: DiscriminatorSettings,
        td_ratio: bool,
        weight_bounds: PositiveBounds,
        value_share: UnitInterval,
        expectile: UnitInterval,
        sparsity: Positive | None,
        value_learning_rate: Positive,
        per_stream_mean: bool,
        **sac: Any,
    ) -> None:
        super().__init__(**sac)
        for name, share in {"value_share": value_share, "expectile": expectile}.items():
            if not 0 <= share <= 1:
                raise Mistake(f"agent.{name}={share} must lie between 0 and 1")
        if sparsity is not None and sparsity <= 0:
            raise Mistake(f"agent.sparsity={sparsity} must be positive, or null for the expectile")
        self.discriminators = Discriminators(spec=self.spec, seeds=self.seeds, **discriminators)
        self.value = StateValue(
            seeds=self.seeds,
            obs_dim=self.spec.obs_dim,
            hidden=sac["hidden"],
            activation=sac["activation"],
        )
        self.value_optimiser = Adam(self.value.parameters(), value_learning_rate)
        self.td_ratio, self.weight_bounds = td_ratio, tuple(weight_bounds)
        self.value_share, self.expectile, self.sparsity = value_share, expectile, sparsity
        self.per_stream_mean = per_stream_mean

    def prepare(self, data: Dataset) -> None:
        super().prepare(data)
        self.discriminators.prepare(data)

    def update(self, batch: Transition) -> dict[str, Float[Tensor, " S"]]:
        rows, measured = self.discriminators.learn(batch)
        weighed = self.weigh(rows)
        for name in ("log_ratio", "td_weight"):
            measured[name] = masked_mean(getattr(weighed, name), ~rows.is_real)
        return measured | self._update_value(rows) | super().update(weighed)

    @torch.no_grad()
    def weigh(self, batch: Transition) -> Weighed:
        """The batch with its ratios and weights as the discriminators see them now."""
        log_ratio = self.discriminators.log_ratio(batch.obs, batch.action, successor(batch))
        weight = torch.ones_like(batch.reward)
        if self.td_ratio:
            weight = simulated_weight(log_ratio, batch.is_real, self.weight_bounds)
        return Weighed(**vars(batch), log_ratio=log_ratio, td_weight=weight)

    def next_value(self, next_obs: Float[Tensor, "S B D"]) -> Float[Tensor, "S B"]:
        """lambda V(s') + (1 - lambda) times SAC's."""
        return torch.lerp(super().next_value(next_obs), self.value(next_obs), self.value_share)

    def critic_loss(
        self, batch: Transition, prediction: Float[Tensor, "S N B"], target: Float[Tensor, "S B"]
    ) -> Float[Tensor, " S"]:
        """Weighted TD errors of both streams."""
        if not isinstance(batch, Weighed):
            batch = self.weigh(batch)
        weight = batch.td_weight
        if self.per_stream_mean:
            weight = per_stream(weight, batch.is_real)
        return weighted_squared_error(prediction, target, weight)

    def _update_value(self, batch: Transition) -> dict[str, Tensor]:
        """One step of V towards min_i Q'_i(s, a) at the real rows."""
        with torch.no_grad():
            recorded = self.target_critics(batch.obs, batch.action).amin(1)
        value = self.value(batch.obs)
        if self.sparsity is None:
            error = expectile_error(recorded - value, self.expectile)
        else:
            error = sparse_error(recorded, value, self.sparsity)
        loss = masked_mean(error, batch.is_real)
        self.value_optimiser.step(loss)
        return {
            "value_loss": loss.detach(),
            "state_value": masked_mean(value.detach(), batch.is_real),
        }
