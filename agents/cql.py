"""Conservative Q-learning, arXiv:2006.04779: SAC with critics that are low outside the data."""

import math
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.compiler import is_compiling

from reverie.agents.losses import conservative_gap
from reverie.agents.networks import Critics
from reverie.agents.sac import SAC
from reverie.datasets.transition import Transition
from reverie.mistake import Mistake
from reverie.ranges import Count, Finite, Positive, Range
from reverie.world_models.optimiser import Adam
from reverie.world_models.per_seed import PerSeed, as_list, as_tensor

_CPU_ROWS = 1024
"""Rows that critics value at a time on a CPU."""
MAX_WEIGHT = 1e6
"""Upper clip of a trained weight, as in public code."""


class CQL(SAC):
    """SAC whose critics are penalised for valuing any action above the recorded ones, CQL(H).

    Args:
        conservative_weight: weight of the gap in the loss of each critic; its initial value if the
            weight is trained. A list gives each seed its own.
        softness: T of the log-sum-exp.
        samples: actions sampled from each of three sources, uniform, pi(.|s) and pi(.|s').
        gap_limit: target gap of a trained weight, None for a constant weight.
        weight_learning_rate: Adam step size of a trained weight's logarithm.
        max_q_backup: bootstrap from each target critic's best of `samples` actions, no entropy.
        conservative_states: states at which values are pushed down: those of `all` transitions, or
            of the `dreamed` (synthetic) ones only, which is COMBO's other choice.
        sac: see `SAC`.
    """

    gap: Tensor

    def __init__(
        self,
        *,
        conservative_weight: Annotated[PerSeed, Range(above=0)],
        softness: Positive,
        samples: Count,
        gap_limit: Finite | None,
        weight_learning_rate: Positive,
        max_q_backup: bool,
        conservative_states: Literal["all", "dreamed"],
        **sac: Any,
    ) -> None:
        super().__init__(**sac)
        if min(as_list(conservative_weight)) <= 0:
            raise Mistake(
                f"agent.conservative_weight={conservative_weight} must be positive; agent=sac is "
                "the same without the term"
            )
        self.log_weight = nn.Parameter(as_tensor(conservative_weight, self.seeds).log())
        self.weight_optimiser = Adam([self.log_weight], weight_learning_rate)
        self.softness, self.samples, self.gap_limit = softness, samples, gap_limit
        self.max_q_backup, self.conservative_states = max_q_backup, conservative_states
        # What the last critic loss measured; rewritten before every use.
        self.register_buffer("gap", torch.zeros(self.seeds), persistent=False)

    @property
    def weight(self) -> Float[Tensor, " S"]:
        """Weight of the conservative term; no gradient."""
        return self.log_weight.detach().exp().clamp(max=MAX_WEIGHT)

    def next_value(self, next_obs: Float[Tensor, "S B D"]) -> Float[Tensor, "S B"]:
        """SAC's, or V(s') = min_i max_k Q'_i(s', a_k) of several a_k ~ pi(.|s')."""
        if not self.max_q_backup:
            return super().next_value(next_obs)
        action, _ = self.actor.sample_several(next_obs, self.samples)
        return _values(self.target_critics, next_obs, action).amax(3).amin(1)

    def critic_loss(
        self, batch: Transition, prediction: Float[Tensor, "S N B"], target: Float[Tensor, "S B"]
    ) -> Float[Tensor, " S"]:
        """Squared TD error + weight * gap, both summed over the critics."""
        action, log_density = self.proposals(batch)
        values = self.pushed_down(batch, _values(self.critics, batch.obs, action))
        gap = conservative_gap(
            values,
            log_density,
            prediction,
            batch.is_real,
            self.softness,
            at=~batch.is_real if self.conservative_states == "dreamed" else None,
        )
        self.gap.copy_(gap.detach().mean(1))
        return super().critic_loss(batch, prediction, target) + self.weight * gap.sum(1)

    def pushed_down(
        self, batch: Transition, values: Float[Tensor, "S N B K"]
    ) -> Float[Tensor, "S N B K"]:
        """What enters the gap of Q of the proposed actions, in the order of `proposals`."""
        return values

    @torch.no_grad()
    def proposals(
        self, batch: Transition
    ) -> tuple[Float[Tensor, "S B K A"], Float[Tensor, "S B K"]]:
        """Actions to be valued at s, and the log density of each under its own source."""
        lead = (*batch.reward.shape, self.samples)
        uniform = 2 * torch.rand(*lead, self.spec.action_dim, device=batch.obs.device) - 1
        volume = torch.full(lead, -self.spec.action_dim * math.log(2), device=batch.obs.device)
        # Any state may propose actions. What follows a termination must not matter, so s does.
        next_obs = torch.where(batch.terminated.unsqueeze(-1), batch.obs, batch.next_obs)
        current, current_density = self.actor.sample_several(batch.obs, self.samples)
        following, following_density = self.actor.sample_several(next_obs, self.samples)
        return (
            torch.cat([uniform, current, following], 2),
            torch.cat([volume, current_density, following_density], 2),
        )

    def _update_critic(self, batch: Transition) -> dict[str, Tensor]:
        measured = super()._update_critic(batch)
        measured |= {"conservative_gap": self.gap.clone(), "conservative_weight": self.weight}
        if self.gap_limit is not None:
            dual = self.log_weight.exp().clamp(max=MAX_WEIGHT) * (self.gap - self.gap_limit)
            self.weight_optimiser.step(-dual)
        return measured


def _values(
    critics: Critics, obs: Float[Tensor, "S B D"], action: Float[Tensor, "S B K A"]
) -> Float[Tensor, "S N B K"]:
    """Q_1..Q_N of K actions at each state."""
    count = action.shape[2]
    if obs.device.type == "cpu" and not is_compiling():
        # Some states at a time, so that what one operation leaves is in the caches for the next.
        states = max(1, _CPU_ROWS // (count * len(obs)))
        if states < obs.shape[1]:
            parts = zip(obs.split(states, 1), action.split(states, 1), strict=True)
            return torch.cat([_values_at_once(critics, *part) for part in parts], 2)
    return _values_at_once(critics, obs, action)


def _values_at_once(
    critics: Critics, obs: Float[Tensor, "S B D"], action: Float[Tensor, "S B K A"]
) -> Float[Tensor, "S N B K"]:
    count = action.shape[2]
    repeated = obs.unsqueeze(2).expand(-1, -1, count, -1).flatten(1, 2)
    return critics(repeated, action.flatten(1, 2)).unflatten(2, (-1, count))
