"""H2O, arXiv:2206.13464: SAC on recorded and simulated data, weighted by the dynamics gap."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.agents.discriminators import (
    Discriminators,
    DiscriminatorSettings,
    simulated_weight,
    successor,
)
from reverie.agents.losses import masked_mean, per_stream, simulated_excess, weighted_squared_error
from reverie.agents.sac import SAC
from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition, register
from reverie.mistake import Mistake
from reverie.ranges import Count, NonNegative, Positive, PositiveBounds, Range
from reverie.world_models.per_seed import PerSeed, as_list, set_per_seed


@register
@dataclass(frozen=True)
class Weighed(Transition):
    """Transitions with the weights that correct simulated dynamics.

    Attributes:
        log_ratio: `[*]` log M(s'|s, a) / Mhat(s'|s, a).
        td_weight: `[*]` weight of the squared TD error; 1 for real transitions.
        dynamics_gap: `[*]` u(s, a), nats; used for simulated transitions only.
    """

    log_ratio: Float[Tensor, "*lead"]
    td_weight: Float[Tensor, "*lead"]
    dynamics_gap: Float[Tensor, "*lead"]


class H2O(SAC):
    """SAC that corrects simulated TD errors and lowers values where the dynamics differ most.

    Args:
        discriminators: keywords of `Discriminators`.
        td_ratio: weight simulated TD errors by w = M/Mhat; false: 1.
        weight_bounds: clip of w.
        excess_weight: beta, weight of `simulated_excess` in each critic's loss; 0 omits it, a list
            gives each seed its own.
        excess_limit: the excess is clipped to +- this, and has no gradient beyond it.
        adaptive: omega follows the dynamics gap u; false: uniform over simulated transitions.
        soft_maximum: log-sum-exp; false: linear in Q.
        gap_samples: next states sampled around s' for u.
        gap_std: their std, in units of each dimension's std in the dataset.
        gap_bounds: clip of u.
        std_padding: zeros included in that std, per transition of the dataset; 10 reproduces an
            accident of the authors' code.
        per_stream_mean: average real and simulated TD errors separately and add them; false: one
            mean over the batch.
        sac: see `SAC`.

    With `td_ratio` and `per_stream_mean` off and `excess_weight` zero it is SAC on the mixture.
    """

    successor_std: Tensor
    excess_weight: float | Tensor

    def __init__(
        self,
        *,
        discriminators: DiscriminatorSettings,
        td_ratio: bool,
        weight_bounds: PositiveBounds,
        excess_weight: Annotated[PerSeed, Range(0)],
        excess_limit: Positive,
        adaptive: bool,
        soft_maximum: bool,
        gap_samples: Count,
        gap_std: Positive,
        gap_bounds: PositiveBounds,
        std_padding: NonNegative,
        per_stream_mean: bool,
        **sac: Any,
    ) -> None:
        super().__init__(**sac)
        if min(as_list(excess_weight)) < 0:
            raise Mistake(f"agent.excess_weight={excess_weight} must not be negative; 0 is off")
        if gap_samples < 1:
            raise Mistake(f"agent.gap_samples={gap_samples} must be at least 1")
        for name, (low, high) in {"weight": weight_bounds, "gap": gap_bounds}.items():
            if not 0 < low <= high:
                raise Mistake(
                    f"agent.{name}_bounds={[low, high]} must be positive and ascending; the lower "
                    "one keeps logarithms finite"
                )
        self.discriminators = Discriminators(spec=self.spec, seeds=self.seeds, **discriminators)
        self.td_ratio, self.weight_bounds = td_ratio, tuple(weight_bounds)
        set_per_seed(self, "excess_weight", excess_weight, trailing=0)
        self.excessive, self.excess_limit = max(as_list(excess_weight)) > 0, excess_limit
        self.adaptive, self.soft_maximum = adaptive, soft_maximum
        self.gap_samples, self.gap_std, self.gap_bounds = gap_samples, gap_std, tuple(gap_bounds)
        self.std_padding, self.per_stream_mean = std_padding, per_stream_mean
        self.register_buffer("successor_std", torch.ones(self.spec.obs_dim))

    def prepare(self, data: Dataset) -> None:
        """Take the spread of the dataset's states, the unit of `gap_std`."""
        super().prepare(data)
        self.discriminators.prepare(data)
        variance, mean = torch.var_mean(data.transitions.obs, 0, correction=0)
        # Variance of a sample of which 1 / (1 + padding) are states and the rest zeros.
        share = 1 / (1 + self.std_padding)
        self.successor_std.copy_((share * variance + share * (1 - share) * mean.square()).sqrt())

    def update(self, batch: Transition) -> dict[str, Float[Tensor, " S"]]:
        rows, measured = self.discriminators.learn(batch)
        weighed = self.weigh(rows)
        for name in ("log_ratio", "td_weight", "dynamics_gap"):
            measured[name] = masked_mean(getattr(weighed, name), ~rows.is_real)
        return measured | super().update(weighed)

    @torch.no_grad()
    def weigh(self, batch: Transition) -> Weighed:
        """The batch with its ratios, weights and gaps as the discriminators see them now."""
        log_ratio = self.discriminators.log_ratio(batch.obs, batch.action, successor(batch))
        weight = torch.ones_like(batch.reward)
        if self.td_ratio:
            weight = simulated_weight(log_ratio, batch.is_real, self.weight_bounds)
        gap = torch.ones_like(batch.reward)
        if self.adaptive and self.excessive:
            gap = self.dynamics_gap(batch)
        return Weighed(**vars(batch), log_ratio=log_ratio, td_weight=weight, dynamics_gap=gap)

    @torch.no_grad()
    def dynamics_gap(self, batch: Transition) -> Float[Tensor, "S B"]:
        """u = mean_k log Mhat/M (s'_k|s, a), s'_k ~ N(s', gap_std^2 std^2), clipped; estimates
        KL(Mhat || M)."""
        K = self.gap_samples
        obs, action, next_obs = (
            column.unsqueeze(2).expand(-1, -1, K, -1).flatten(1, 2)
            for column in (batch.obs, batch.action, successor(batch))
        )  # [S, B K, ...]
        around = next_obs + self.gap_std * self.successor_std * torch.randn_like(next_obs)
        log_ratio = self.discriminators.log_ratio(obs, action, around).unflatten(1, (-1, K))
        return (-log_ratio.mean(2)).clamp(*self.gap_bounds)

    def critic_loss(
        self, batch: Transition, prediction: Float[Tensor, "S N B"], target: Float[Tensor, "S B"]
    ) -> Float[Tensor, " S"]:
        """Weighted TD errors of both streams + beta times the excess of simulated values."""
        if not isinstance(batch, Weighed):
            batch = self.weigh(batch)
        weight = batch.td_weight
        if self.per_stream_mean:
            weight = per_stream(weight, batch.is_real)
        loss = weighted_squared_error(prediction, target, weight)
        if not self.excessive:
            return loss
        excess = simulated_excess(prediction, batch.dynamics_gap, batch.is_real, self.soft_maximum)
        excess = excess.clamp(-self.excess_limit, self.excess_limit)
        return loss + self.excess_weight * excess.sum(1)
