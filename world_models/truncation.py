"""Rollouts that end where the world model's members disagree more than on the data."""

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.ranges import Share
from reverie.world_models.base import Step, WorldModel
from reverie.world_models.filters import ElapsedSteps, FilterResult, TransitionFilter
from reverie.world_models.uncertainty import limit_on_uncertainty

SLACK = 1e-3
"""Share of the limit by which a row may exceed it: batches of another size round otherwise."""


class UncertaintyQuantile(TransitionFilter):
    """Cuts a rollout where u(s, a) exceeds its quantile over the recorded rows.

    A cut is a truncation: nothing is terminal, and what was stored before bootstraps. No reward
    changes.

    Args:
        quantile: of u over all recorded rows, those of the fit among them; 1 is the largest.
        keep_last: whether the step that exceeds the limit is stored before the rollout ends.

    Source: NEUBAY, arXiv:2512.04341, with quantile 1. Its u is `uncertainty=scaled_ensemble_std`;
    others serve, each with a limit of its own. Differs: it is not said whether the last step is
    stored.
    """

    limit: Tensor
    beyond_limit: Tensor

    def __init__(self, *, quantile: Share, keep_last: bool) -> None:
        super().__init__()
        self.quantile, self.keep_last = quantile, keep_last
        # Measured again at each start, so no part of what is saved. Empty before.
        self.register_buffer("limit", torch.empty(0, 1), persistent=False)  # [S, 1]
        self.register_buffer("beyond_limit", torch.empty(0), persistent=False)  # [S]

    @torch.no_grad()
    def prepare(
        self, data: Dataset, model: WorldModel, *, seeds: int, discount: float
    ) -> str | None:
        """Measure the limit.

        Raises:
            Mistake: u of recorded rows is not finite.
        """
        limit, uncertainty = limit_on_uncertainty(model, data, seeds, self.quantile)
        limit = limit.unsqueeze(1) * (1 + SLACK)
        beyond = (uncertainty > limit).to(limit.dtype).mean(1)
        if not len(self.limit):
            self.limit, self.beyond_limit = limit, beyond
        else:  # compiled rollouts read it where it was
            self.limit.copy_(limit)
            self.beyond_limit.copy_(beyond)
        told, shares = (
            ", ".join(f"{x:.4g}" for x in v.flatten().tolist()) for v in (limit, beyond)
        )
        return (
            f"filter: rollouts end where the model's uncertainty exceeds {told}, as it does at a "
            f"share of {shares} of the recorded rows"
        )

    def metrics(self) -> dict[str, Float[Tensor, " S"]]:
        """The limit on u, and the share of recorded rows above it."""
        return {"limit": self.limit.squeeze(1), "beyond_limit": self.beyond_limit}

    def forward(
        self, obs: Tensor, action: Tensor, step: Step, elapsed_steps: ElapsedSteps = 0
    ) -> FilterResult:
        if not len(self.limit):
            raise RuntimeError("the limit of a cut is not measured; call prepare first")
        known = step.uncertainty <= self.limit  # false of NaN
        return FilterResult(
            step, keep=torch.ones_like(known) if self.keep_last else known, goes_on=known
        )
