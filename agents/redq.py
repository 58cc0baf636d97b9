"""SAC with a large ensemble of critics and little pessimism: targets and actor of REDQ.

Randomised ensembled double Q-learning, arXiv:2101.05982. NEUBAY (arXiv:2512.04341) uses both for
long rollouts without a penalty. REDQ's twenty updates per environment step are set by the run,
not by the agent.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.agents.losses import huber_error
from reverie.agents.sac import SAC
from reverie.datasets.transition import Transition
from reverie.mistake import Mistake
from reverie.ranges import Count, Positive


class REDQ(SAC):
    """SAC whose targets take the minimum over a few random critics, and whose actor their mean.

    Args:
        target_subset: M, critics sampled in every update, over which targets take the minimum;
            M = N gives the targets of SAC-N.
        huber: TD error above which the critics' loss is linear, in units of the reward; None for
            the squared error.
        sac: see `SAC`.

    Source: REDQ, arXiv:2101.05982, algorithm 1, with the squared error; `huber` is NEUBAY's.
    """

    def __init__(self, *, target_subset: Count, huber: Positive | None, **sac: Any) -> None:
        super().__init__(**sac)
        if target_subset > self.critics.critics:
            raise Mistake(
                f"agent.target_subset={target_subset} of agent.critics={self.critics.critics} "
                "cannot be drawn; lower it"
            )
        self.target_subset, self.huber = target_subset, huber

    def pessimistic(self, values: Float[Tensor, "S N B"]) -> Float[Tensor, "S B"]:
        """The minimum over M critics, drawn for each seed."""
        seeds, critics, _ = values.shape
        if self.target_subset == critics:
            return values.amin(1)
        chosen = (
            torch.rand(seeds, critics, device=values.device).topk(self.target_subset, 1).indices
        )
        left_out = torch.ones_like(values[..., 0]).scatter(1, chosen, 0.0) > 0
        return torch.where(left_out.unsqueeze(-1), torch.inf, values).amin(1)

    def next_value(self, next_obs: Float[Tensor, "S B D"]) -> Float[Tensor, "S B"]:
        """V(s') = min_{i in M random} Q'_i(s', a') - alpha log pi(a'|s')."""
        action, log_prob = self.actor.sample(next_obs)
        value = self.pessimistic(self.target_critics(next_obs, action))
        if self.entropy_in_target:
            value = value - self.temperature.unsqueeze(1) * log_prob
        return value

    def critic_loss(
        self, batch: Transition, prediction: Float[Tensor, "S N B"], target: Float[Tensor, "S B"]
    ) -> Float[Tensor, " S"]:
        """Huber's or squared TD error of every critic."""
        if self.huber is None:
            return super().critic_loss(batch, prediction, target)
        return huber_error(prediction, target, self.huber)

    def actor_loss(
        self, batch: Transition, action: Float[Tensor, "S B A"], log_prob: Float[Tensor, "S B"]
    ) -> Float[Tensor, " S"]:
        """E[alpha log pi(a|s) - mean_i Q_i(s, a)], anchored to recorded actions if asked for."""
        value = self.critics(batch.obs, action).mean(1)
        loss = (self.temperature.unsqueeze(1) * log_prob - value).mean(1)
        return self.anchored(loss, value, batch, action) if self.anchors else loss
