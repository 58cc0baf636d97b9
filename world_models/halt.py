"""The pessimistic MDP of MOReL: rollouts halt with a low reward where uncertainty is high."""

import logging
from dataclasses import replace
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.datasets.returns import returns_to_go
from reverie.mistake import Mistake
from reverie.ranges import Finite, NonNegative, Range, Share
from reverie.world_models.base import Step, WorldModel
from reverie.world_models.filters import ElapsedSteps, FilterResult, TransitionFilter
from reverie.world_models.per_seed import PerSeed, as_list, as_tensor
from reverie.world_models.uncertainty import limit_on_uncertainty, recorded_uncertainty

log = logging.getLogger(__name__)


class PessimisticHalt(TransitionFilter):
    """Halts where the uncertainty u(s, a) exceeds a limit, and uses the model elsewhere.

    A step with u <= limit is unchanged. Any other is stored with the reward of a halt, whatever the
    model predicts, and ends its rollout. An absorbing halt leads back to its own state, so a policy
    that repeats it has the value floor / (1 - discount), which critics learn as gradually as any
    other value. Otherwise it is terminal and has the value of the floor.

    Args:
        quantile: the limit is this quantile of u over the recorded transitions, 1 for the largest;
            None if `limit` is given.
        limit: the limit itself, in the units of u; None if `quantile` is given.
        scale: factor on either; a list gives each seed its own.
        floor: reward of a halt, in the data's units; auto: their lowest minus their range.
        absorbing: the floor is received at every later step, instead of once.

    Source: MOReL, arXiv:2005.05951, definition of the pessimistic MDP, with the limit of its code:
    the largest u over the data divided by a "pessimism", which is 1 / `scale`. Differs: its
    HALT is one state for all, ours is the state of the halt, with the same value for a policy that
    repeats its action there; the quantile, `floor=auto` and `absorbing=False` are ours; see
    docs/methods/morel.md.
    """

    limit: Tensor
    beyond_limit: Tensor

    def __init__(
        self,
        *,
        quantile: Share | None,
        limit: NonNegative | None,
        scale: Annotated[PerSeed, Range(above=0)],
        floor: Literal["auto"] | Finite,
        absorbing: bool,
    ) -> None:
        super().__init__()
        if (quantile is None) == (limit is None):
            raise Mistake(
                f"filter.quantile={quantile} and filter.limit={limit}: one of them says where to "
                "halt; set the other to null"
            )
        if min(as_list(scale)) <= 0:
            raise Mistake(f"filter.scale must be positive, got {scale}")
        self.quantile, self.given_limit, self.scale = quantile, limit, scale
        self.floor, self.absorbing = floor, absorbing
        self.halt_reward = 0.0  # of one step
        # Measured again at each start, so no part of what is saved. Empty before.
        self.register_buffer("limit", torch.empty(0, 1), persistent=False)  # [S, 1]
        self.register_buffer("beyond_limit", torch.empty(0), persistent=False)  # [S]

    @torch.no_grad()
    def prepare(
        self, data: Dataset, model: WorldModel, *, seeds: int, discount: float
    ) -> str | None:
        """Measure limit and floor; warn where halting would attract.

        Raises:
            Mistake: an absorbing halt without a discount; u of recorded rows is not finite.
        """
        first = not len(self.limit)
        self._set_reward(data, discount, warn=first)
        scale = as_tensor(self.scale, seeds)
        if self.given_limit is not None:
            uncertainty = recorded_uncertainty(model, data, seeds)
            limit = scale.to(uncertainty) * self.given_limit
        else:
            assert self.quantile is not None
            limit, uncertainty = limit_on_uncertainty(model, data, seeds, self.quantile)
            limit = scale.to(limit) * limit
        beyond = (~(uncertainty <= limit.unsqueeze(1))).to(limit.dtype).mean(1)
        if first:
            self.limit, self.beyond_limit = limit.unsqueeze(1), beyond
        else:  # compiled rollouts read it where it was
            self.limit.copy_(limit.unsqueeze(1))
            self.beyond_limit.copy_(beyond)
        return (
            f"filter: halts at {self.halt_reward:.4g}{' a step' if self.absorbing else ''} where "
            "the model's uncertainty exceeds "
            f"{_listed(limit)}; of the recorded rows {_listed(100 * beyond)} % do"
        )

    def metrics(self) -> dict[str, Float[Tensor, " S"]]:
        """The limit on u, and the share of recorded rows above it."""
        return {"limit": self.limit.squeeze(1), "beyond_limit": self.beyond_limit}

    def forward(
        self, obs: Tensor, action: Tensor, step: Step, elapsed_steps: ElapsedSteps = 0
    ) -> FilterResult:
        if not len(self.limit):
            raise RuntimeError("the limit of a halt is not measured; call prepare first")
        known = step.uncertainty <= self.limit
        reward = torch.where(known, step.reward, self.halt_reward)
        if self.absorbing:
            next_obs = torch.where(known.unsqueeze(-1), step.next_obs, obs)
            step = replace(step, next_obs=next_obs, terminated=step.terminated & known)
        else:
            step = replace(step, terminated=step.terminated | ~known)
        step = replace(step, reward=reward)
        return FilterResult(step, keep=torch.ones_like(known), goes_on=known)

    def _set_reward(self, data: Dataset, discount: float, warn: bool) -> None:
        if self.absorbing and discount == 1:
            raise Mistake(
                "filter.absorbing=true repeats filter.floor for ever, which has no finite sum at "
                "a discount of 1; lower agent.discount, or set filter.absorbing=false"
            )
        low, high = (bound.item() for bound in data.transitions.reward.aminmax())
        self.halt_reward = floor = low - (high - low) if self.floor == "auto" else float(self.floor)
        if not warn:
            return
        forever = 1.0 if discount == 1 else 1 / (1 - discount)
        worth = floor * forever if self.absorbing else floor
        lowest = returns_to_go(data, discount, "mean").min().item()
        if worth > lowest:
            enough = lowest / forever if self.absorbing else lowest
            mended = not self.absorbing and discount < 1 and floor * forever <= lowest
            log.warning(
                "a halt is worth %.4g, more than the %.4g that follows the worst recorded row at "
                "discount %g, so the agent may seek it; set %sfilter.floor to %.4g or less",
                *(worth, lowest, discount),
                *("filter.absorbing=true, or " if mended else "", enough),
            )


def _listed(values: Float[Tensor, " S"]) -> str:
    return ", ".join(f"{value:.4g}" for value in values.tolist())
