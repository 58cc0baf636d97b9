"""The probabilistic ensemble, trained on multi-step predictions by generalised teacher forcing.

arXiv:2306.04406 and, of the ensemble, `world_models.ensemble`. Only the fit differs.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.world_models.base import FitProgress
from reverie.world_models.copies import Copies
from reverie.world_models.ensemble import ProbabilisticEnsemble
from reverie.world_models.forced_fit import ForcedFit, SelectBy, cut
from reverie.world_models.forcing import Cell, Forcing
from reverie.world_models.gaussian import GaussianMembers
from reverie.world_models.optimiser import Adam


class GaussianCell(Cell):
    """One step of all members by their means; the loss is their negative log-likelihood.

    Args:
        gaussians: the trained networks.
        copies: columns that are copied exactly.
        given: exogenous columns.
        reward_std: unit of the reward in errors.
        dropout: dropout probability of hidden units.
    """

    def __init__(
        self,
        gaussians: GaussianMembers,
        copies: Copies,
        given: Sequence[int],
        reward_std: Tensor,
        dropout: float,
    ) -> None:
        self.network: GaussianMembers = gaussians
        self.copies, self.given, self.dropout = copies, given, dropout
        dim = gaussians.widths[1] - 1
        self.mean, self.std = gaussians.input_mean[..., :dim], gaussians.input_std[..., :dim]
        unit = torch.cat([self.std, reward_std.expand(*self.std.shape[:-1], 1)], -1)
        self.unit = gaussians.of_learned(unit)

    def move(
        self, state: Float[Tensor, "L E B D"], action: Float[Tensor, "L E B A"]
    ) -> tuple[Float[Tensor, "L E B D"], tuple[Tensor, ...]]:
        obs = state * self.std + self.mean
        told = self.network(torch.cat([obs, action], -1), self.dropout)
        next_obs = self.copies(obs, action, obs + told[0][..., :-1])
        return (next_obs - self.mean) / self.std, told

    def judge(
        self,
        state: Tensor,
        following: Tensor,
        told: tuple[Tensor, ...],
        next_obs: Tensor,
        reward: Tensor,
    ) -> tuple[Float[Tensor, "L E B"], Float[Tensor, "L E B"]]:
        """(mu - y)^2 exp(-l) + l, with y the way from the carried state to the recorded next one.

        Mean over the learned columns, raw units, as `gaussian_loss`.
        """
        target = torch.cat([(next_obs - state) * self.std, reward], -1)
        mean, log_variance, target = map(self.network.of_learned, (*told, target))
        error = (mean - target).square()
        loss = (error * torch.exp(-log_variance) + log_variance).mean(-1)
        return loss, (error / self.unit.square()).mean(-1)

    def penalty(self) -> Float[Tensor, " L"]:
        return self.network.bound_penalty()

    def parameters(self) -> list[nn.Parameter]:
        return self.network.trained_parameters()

    def descend(self, optimiser: Adam, losses: Float[Tensor, " L"]) -> None:
        self.network.descend(optimiser, losses)

    def snapshot(self) -> list[Tensor]:
        return self.network.snapshot()

    def merge(
        self, kept: Sequence[Tensor], improved: Bool[Tensor, "L E"], running: Bool[Tensor, " L"]
    ) -> list[Tensor]:
        return self.network.merge(kept, improved, running)

    def restore(self, kept: Sequence[Tensor]) -> None:
        self.network.restore(kept)


class ForcedEnsemble(ProbabilisticEnsemble):
    """An ensemble whose members learn from windows of their own predictions.

    Args:
        forcing: length of the windows, and strength of teacher forcing.
        select_by: error for early stopping, weights and elites, see `ForcedFit`.
        batch: windows per member and update.
        others: see `ProbabilisticEnsemble`; `holdout_fraction` is of whole episodes.

    Source: arXiv:2306.04406. Differs: the state is propagated by the means of Gaussians, and the
    loss is each step's likelihood, so that the variances include the error of propagated states; no
    regulariser besides weight decay.
    """

    def __init__(
        self, *, forcing: Forcing, select_by: Literal["one_step", "multi_step"], **others: Any
    ) -> None:
        super().__init__(**others)
        self.forcing: Forcing = forcing
        self.select_by: SelectBy = select_by

    def signature(self) -> dict[str, Any]:
        own = {"forcing": self.forcing.signature(), "select_by": self.select_by}
        return super().signature() | own

    def learn(
        self, data: Dataset, seen: Bool[Tensor, " N"], progress: FitProgress | None
    ) -> dict[str, Any]:
        device = self.elite_members.device
        rows = cut(data, seen, self.holdout_fraction, self.seed, device)
        lanes = (each.expand(self.replicas, -1) for each in (rows.mean, rows.std))
        self.gaussians.normalise_by(*lanes)
        cell, test = (
            GaussianCell(self.gaussians, self.copies, self.spec.exogenous, rows.reward_std, dropout)
            for dropout in (self.dropout, 0.0)
        )
        fit = ForcedFit(
            forcing=self.forcing,
            select_by=self.select_by,
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
