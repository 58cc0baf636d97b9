"""Records conditioned on a return: the label of the fit, and guidance by it.

Return conditioning: Decision Diffuser, arXiv:2211.15657; classifier-free guidance:
arXiv:2207.12598.
"""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.ranges import Finite, Inside, Levels, NonNegative
from reverie.world_models.diffusion.conditioning import ClassifierFree, ConditionalDenoiser
from reverie.world_models.diffusion.guidance import Channels, GaussianPolicy, Guidance, Guided
from reverie.world_models.diffusion.samplers import Denoiser
from reverie.world_models.fitting import uninterrupted

LIMITS = ("extrapolate", "stop")


class ReturnCondition(nn.Module):
    """Labels a record with the discounted mean reward per step after its first observation.

    Label = (1 - discount) sum_k discount^k r_k, scaled so that the labels of the fitted records
    run from 0 to 1. A terminated episode has no reward after its end.

    Args:
        discount: of rewards, per control step, below 1.
        dropout: share of the records of a batch that are fitted without their label.
        at_time_limit: rewards assumed after a time limit: `extrapolate` uses the discounted mean of
            the recorded ones; `stop` uses 0, as for a termination.

    Source: Decision Diffuser, arXiv:2211.15657, whose code takes the discounted sum of what was
    recorded. Differs: `extrapolate`, because with `stop` the label near a time limit is low
    whatever the policy does.
    """

    numbers = 1
    low: Tensor
    span: Tensor

    def __init__(self, *, discount: Inside, dropout: Inside, at_time_limit: str) -> None:
        super().__init__()
        if not 0 < discount < 1:
            raise Mistake(f"generator.condition.discount must lie in (0, 1), got {discount}")
        if not 0 < dropout < 1:
            raise Mistake(
                f"generator.condition.dropout must lie in (0, 1), got {dropout}; guidance needs a "
                "generator that knows records with and without their label"
            )
        if at_time_limit not in LIMITS:
            raise Mistake(
                f"generator.condition.at_time_limit={at_time_limit!r} is unknown; use one of "
                f"{list(LIMITS)}"
            )
        self.discount, self.dropout, self.at_time_limit = discount, dropout, at_time_limit
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("span", torch.ones(()))

    def scale_by(self, data: Dataset, rows: Int[Tensor, " W"]) -> None:
        """Let the labels of these rows run from 0 to 1.

        Raises:
            Mistake: all are the same.
        """
        earned = self.discounted_means(data)[rows]
        if earned.min() == earned.max():
            raise Mistake(
                f"all records of dataset {data.name} earn the same, so there is no return to ask "
                "for; set condition=none"
            )
        self.low.copy_(earned.min())
        self.span.copy_(earned.max() - earned.min())

    def labels(self, data: Dataset, rows: Int[Tensor, " W"]) -> Float[Tensor, "W 1"]:
        """Scaled labels of records that begin with these rows."""
        return (
            ((self.discounted_means(data)[rows] - self.low.cpu()) / self.span.cpu())
            .float()
            .unsqueeze(-1)
        )

    def discounted_means(self, data: Dataset) -> Float[Tensor, " N"]:
        """Discounted mean reward per step from every row on, in double precision."""
        _, last = uninterrupted(data)
        left = last - torch.arange(len(last))
        total = data.transitions.reward.double().clone()
        # From the last row of every piece backwards, all pieces at a time.
        for rows in left.argsort(stable=True).split(left.bincount().tolist())[1:]:
            total[rows] += self.discount * total[rows + 1]
        whole = 1 / (1 - self.discount)
        seen = (1 - self.discount ** (left + 1).double()) * whole
        goes_on = ~data.transitions.terminated[last] & (self.at_time_limit == "extrapolate")
        return total / torch.where(goes_on, seen, whole)

    def drop_some(self, labels: Float[Tensor, "B 1"]) -> Float[Tensor, "B 1"]:
        """Labels, some of them replaced by NaN, which asks for nothing."""
        lost = torch.rand(labels.shape, device=labels.device) < self.dropout
        return torch.where(lost, torch.nan, labels)


class ReturnGuidance(Guidance):
    """Guides samples towards a return: classifier-free guidance of a generator with that label.

    Args:
        target: the label asked for; 1 is the best of the recorded records.
        strength: w of D = w D(x, target) + (1 - w) D(x): 1 is the conditional distribution, larger
            values exaggerate it.
        levels: outside of these two levels of noise w is 1.

    Source: see `conditioning.ClassifierFree`; two calls a call.
    """

    needs_agent = False
    needs_condition = True

    def __init__(
        self,
        *,
        target: Finite,
        strength: NonNegative,
        levels: Levels,
    ) -> None:
        if strength < 0:
            raise Mistake(f"guidance.strength must not be negative, got {strength}")
        if len(levels) != 2 or levels[0] > levels[1]:
            raise Mistake(
                f"guidance.levels must be two levels of noise, the lower first, got {list(levels)}"
            )
        self.target, self.rule = target, ClassifierFree(weight=strength, levels=levels)

    def guide(
        self,
        denoiser: Denoiser,
        policy: GaussianPolicy,
        channels: Channels,
        behaviour: GaussianPolicy | None = None,
    ) -> Guided:
        asked = torch.full((1,), self.target, device=channels.mean.device)
        return Guided(self.rule.guide(cast(ConditionalDenoiser, denoiser), asked))
