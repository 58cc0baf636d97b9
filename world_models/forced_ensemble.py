"""The probabilistic ensemble, trained on multi-step predictions by generalised teacher forcing.

arXiv:2306.04406 and, of the ensemble, `world_models.ensemble`. Only the fit differs.
"""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.ranges import Count
from reverie.world_models.base import FitProgress
from reverie.world_models.ensemble import ProbabilisticEnsemble
from reverie.world_models.forced_fit import ForcedFit
from reverie.world_models.forcing import Forcing
from reverie.world_models.selection import cut


class ForcedEnsemble(ProbabilisticEnsemble):
    """An ensemble whose members learn from windows of their own predictions.

    Args:
        forcing: length of the windows, and strength of teacher forcing.
        select_steps: of the windows that measure the fit; None: those of `forcing`.
        batch: windows per member and update.
        others: see `ProbabilisticEnsemble`; `holdout_fraction` is of whole episodes.

    Source: arXiv:2306.04406. Differs: the state is propagated by the means of Gaussians, and the
    loss is each step's likelihood, so that the variances include the error of propagated states; no
    regulariser besides weight decay.
    """

    def __init__(self, *, forcing: Forcing, select_steps: Count | None, **others: Any) -> None:
        steps = forcing.steps if select_steps is None else select_steps
        super().__init__(select_steps=steps, **others)
        self.forcing: Forcing = forcing

    def signature(self) -> dict[str, Any]:
        own = {"forcing": self.forcing.signature(), "select_by": self.select_by}
        fixed = super().signature() | own
        if self.select_steps == self.forcing.steps:  # as it was before there was a choice
            fixed.pop("select_steps", None)
        return fixed

    def learn(
        self, data: Dataset, seen: Bool[Tensor, " N"], progress: FitProgress | None
    ) -> dict[str, Any]:
        device = self.elite_members.device
        rows = cut(data, seen, self.holdout_fraction, self.seed, device)
        lanes = (each.expand(self.replicas, -1) for each in (rows.mean, rows.std))
        self.gaussians.normalise_by(*lanes)
        cell, test = self.cell(rows, self.dropout), self.cell(rows, 0.0)
        fit = ForcedFit(
            forcing=self.forcing,
            select_by=self.select_by,
            select_steps=self.select_steps,
            batch=self.batch,
            learning_rate=self.learning_rate,
            holdout_limit=self.holdout_limit,
            improvement=self.improvement,
            patience=self.patience,
            max_epochs=self.max_epochs,
            precision=self.precision,
            wrap=self._wrap,
        )
        self.gaussians.requires_grad_(True)
        try:
            with torch.enable_grad():
                stopping, said = fit.run(
                    cell, test, (self.replicas, self.members), rows, data, progress
                )
        finally:
            self.gaussians.requires_grad_(False)
        return said | self.conclude(stopping)

    def require_refit(self) -> None:
        raise Mistake(
            "a model trained on windows of episodes cannot be refitted to single transitions that "
            "were collected; set online.refit_every=0, or choose world_model=ensemble"
        )
