"""The probabilistic ensemble: a Gaussian ensemble, and how it is fitted.

PETS arXiv:1805.12114, MBPO arXiv:1906.08253, MOPO arXiv:2005.13239. Each member fits its own
bootstrap sample by maximum likelihood until its seed's holdout error stops falling, and the members
with the lowest holdout error become the elites.
"""

import logging
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.mistake import Mistake
from reverie.ranges import Count, Decay, Inside, Positive, Whole
from reverie.world_models.base import FitProgress
from reverie.world_models.fitting import AUTO
from reverie.world_models.forced_fit import ForcedFit
from reverie.world_models.forcing import Forcing, WindowRows
from reverie.world_models.gaussian_ensemble import GaussianEnsemble
from reverie.world_models.precision import Precision
from reverie.world_models.replicated import require_setting
from reverie.world_models.row_fit import RowFit
from reverie.world_models.selection import (
    MULTI_STEP,
    ONE_STEP,
    Cut,
    SelectBy,
    WindowErrors,
    cut,
    held_windows,
    windows_within,
)
from reverie.world_models.termination import LearnedTermination

log = logging.getLogger(__name__)


class ProbabilisticEnsemble(GaussianEnsemble):
    """E Gaussian MLPs per seed, bootstrapped, with early stopping and elites for rollouts.

    Args:
        learning_rate, batch: of Adam, transitions per member and update.
        holdout_fraction, holdout_limit: transitions kept for early stopping, at most `limit`.
        improvement: smallest relative decrease of a member's holdout error that counts.
        patience: epochs without any improvement after which a seed stops ...
        patience_updates: ... if they have at least so many updates; 0: whatever they have. Refits
            of an online run do not ask for it.
        max_epochs: cap on epochs, None for none; auto caps the updates at `AUTO_UPDATES` instead.
        precision: of hidden layers in the updates of a fit, see `world_models.precision`.
        forcing: None for a fit to single transitions; otherwise members learn from windows of their
            own predictions, `batch` / `forcing.steps` of them in an update, and `holdout_fraction`
            is of whole episodes, see `ForcedFit`.
        select_by: the holdout error for early stopping, weights and elites: of one step
            (`one_step`), as published, or the mean over windows of which only the first state is
            known (`multi_step`, see `world_models.selection`); None for the second with `forcing`,
            and the first without. The holdout of `multi_step` is whole episodes,
            `holdout_fraction` of them but no more than windows are needed.
        select_steps: of those windows, which end where episodes do; they have `holdout_limit` rows.
        others: see `GaussianEnsemble`.

    Source: MBPO and MOPO as specified above; holdout of single transitions for early stopping as
    there. Differs: time-limit transitions with a true next observation are used;
    `heldout_episodes` are excluded from the fit, which no published variant does (0 restores it);
    the order of target columns is change of observation, then reward; exogenous observations and
    copies are no targets; a seed that has stopped keeps its weights, bounds and elites while the
    others continue. `forcing`: arXiv:2306.04406. Differs: the state is propagated by the means of
    Gaussians, and the loss is each step's likelihood, so that the variances include the error of
    propagated states; no regulariser besides weight decay.
    """

    remedy = "lower world_model.learning_rate, or rescale observations and rewards"
    signed = (
        "replicas",
        "seed",
        "members",
        "elites",
        "hidden",
        "activation",
        "learning_rate",
        "batch",
        "weight_decay",
        "log_variance_bounds",
        "bound_coefficient",
        "holdout_fraction",
        "holdout_limit",
        "improvement",
        "patience",
        "max_epochs",
        "heldout_episodes",
    )

    def __init__(
        self,
        *,
        learning_rate: Positive,
        batch: Count,
        holdout_fraction: Inside,
        holdout_limit: Count,
        improvement: Decay,
        patience: Count,
        patience_updates: Whole,
        max_epochs: Count | Literal["auto"] | None,
        precision: Precision,
        forcing: Forcing | None,
        select_by: SelectBy | None,
        select_steps: Count,
        **others: Any,
    ) -> None:
        super().__init__(**others)
        require_setting(0 < holdout_fraction < 1, "0 < holdout_fraction < 1", holdout_fraction)
        require_setting(0 <= improvement < 1, "0 <= improvement < 1", improvement)
        require_setting(
            min(batch, holdout_limit, patience) >= 1,
            "batch, holdout_limit, patience >= 1",
            [batch, holdout_limit, patience],
        )
        require_setting(
            max_epochs in (None, AUTO) or (isinstance(max_epochs, int) and max_epochs >= 1),
            "max_epochs >= 1, auto or null",
            max_epochs,
        )
        self.learning_rate, self.batch = learning_rate, batch
        self.holdout_fraction, self.holdout_limit = holdout_fraction, holdout_limit
        self.improvement, self.patience, self.max_epochs = improvement, patience, max_epochs
        self.patience_updates, self.precision = patience_updates, precision
        self.select_by: SelectBy = select_by or (ONE_STEP if forcing is None else MULTI_STEP)
        self.select_steps = select_steps
        self.forcing = forcing
        # Of an update: as many steps as a fit to single rows sees.
        self.windows = 0 if forcing is None else max(1, batch // forcing.steps)

    def signature(self) -> dict[str, Any]:
        fixed = super().signature()
        if self.dropout:  # models fitted without it are the same as before there was any
            fixed["dropout"] = self.dropout
        if self.start_cut != 2:  # likewise: all were cut there
            fixed["start_cut"] = self.start_cut
        if self.layer_norm:
            fixed["layer_norm"] = True
        if self.precision != "float32":
            fixed["precision"] = self.precision
        if self.patience_updates:
            fixed["patience_updates"] = self.patience_updates
        if self.forcing is not None:
            fixed["forcing"] = self.forcing.signature()
        if self.select_by != (ONE_STEP if self.forcing is None else MULTI_STEP):
            fixed["select_by"] = self.select_by
        if self.select_by != ONE_STEP:
            fixed["select_steps"] = self.select_steps
        return fixed

    def learn(
        self, data: Dataset, seen: Bool[Tensor, " N"], progress: FitProgress | None
    ) -> dict[str, Any]:
        """Fit new weights to the `seen` rows, as `fit_rows` describes."""
        self.gaussians.reset()
        if self.forcing is not None:
            return self._learn_windows(data, seen, progress, self.forcing)
        rows = self._cut(data, seen)
        if rows is not None:
            return self._fit_to(rows, data, progress)
        device = self.elite_members.device
        inputs, targets = (x.to(device) for x in self._recorded(data, seen))
        index = torch.arange(len(inputs), device=device).expand(self.replicas, -1)
        return self.fit_rows(inputs, targets, index, progress, self.patience_updates)

    def _learn_windows(
        self,
        data: Dataset,
        seen: Bool[Tensor, " N"],
        progress: FitProgress | None,
        forcing: Forcing,
    ) -> dict[str, Any]:
        rows = cut(data, seen, self.holdout_fraction, self.seed, self.elite_members.device)
        lanes = (each.expand(self.replicas, -1) for each in (rows.mean, rows.std))
        self.gaussians.normalise_by(*lanes)
        fit = ForcedFit(
            forcing=forcing,
            select_by=self.select_by,
            select_steps=self.select_steps,
            batch=self.windows,
            learning_rate=self.learning_rate,
            holdout_limit=self.holdout_limit,
            improvement=self.improvement,
            patience=self.patience,
            patience_updates=self.patience_updates,
            max_epochs=self.max_epochs,
            precision=self.precision,
            wrap=self._wrap,
        )
        lead = (self.replicas, self.members)
        self.gaussians.requires_grad_(True)
        try:
            with torch.enable_grad():
                stopping, said = fit.run(
                    *self.cells(rows), lead, rows, data, progress, self.driving(data)
                )
        finally:
            self.gaussians.requires_grad_(False)
        return said | self.conclude(stopping)

    def _cut(self, data: Dataset, seen: Bool[Tensor, " N"]) -> Cut | None:
        """Held-out episodes and the rows of the fit; None where single rows stop it."""
        if self.select_by == ONE_STEP:
            return None
        most = windows_within(self.holdout_limit, self.select_steps)
        device = self.elite_members.device
        rows = Cut.of(data, seen, self.holdout_fraction, self.seed, device, most)
        if rows is not None and rows.longest > 1:
            return rows
        log.warning(
            "dataset %s: no two rows that could be held out follow each other, so that the error "
            "of single steps stops the fit and chooses weights (world_model.select_by=one_step)",
            data.name,
        )
        return None

    def require_refit(self) -> None:
        if self.forcing is not None:
            raise Mistake(
                "a model trained on windows of episodes is not fitted again to single rows that "
                "were collected; set online.refit_every=0, or choose world_model=ensemble with "
                "forcing=none"
            )
        if self.replicas != self.seeds:
            raise Mistake(
                f"online training with seeds={self.seeds} needs a model for every seed, for each "
                "collects rows of its own; set world_model.per_seed=true, or online.refit_every=0"
            )
        if isinstance(self.termination, LearnedTermination):
            raise Mistake(
                f"the learned termination rule of {self.spec.env_id} is not fitted again during "
                "a run; set world_model.termination=known or none, or online.refit_every=0"
            )
        if self.select_by != ONE_STEP:
            log.info(
                "refits during the run are stopped by the error of single steps, whatever "
                "world_model.select_by says: nothing tells which collected rows follow each other"
            )

    def refit(
        self, data: Dataset, added: Transition, *, warm: bool
    ) -> dict[str, Float[Tensor, " S"]]:
        """Fit again on the dataset's rows and, for each seed, on its own `added[s]`.

        Input statistics, holdout and bootstrap samples are new. `holdout_loss` is the best of the
        fit, mean over members. Single steps stop it whatever `select_by` says: nothing tells which
        collected rows follow each other.
        """
        device = self.elite_members.device
        recorded = self._recorded(data, self._seen(data))
        old, new = len(recorded[0]), added.shape.numel()
        own = torch.arange(old, old + new, device=device).view(self.replicas, -1)
        index = torch.cat([torch.arange(old, device=device).expand(self.replicas, -1), own], -1)
        if not warm:
            self.gaussians.reset()
        collected = self.examples(added.map(lambda column: column.flatten(0, 1)))
        both = zip(recorded, collected, strict=True)
        inputs, targets = (torch.cat([old.to(device), new]) for old, new in both)
        described = self.fit_rows(inputs, targets, index)
        best = torch.tensor(described["best_loss"], device=device).mean(-1)
        return {
            "holdout_loss": best,
            "epochs": torch.tensor(described["epochs"], device=device),
            "rows": torch.full_like(best, described["rows"]),
        }

    def table(self, data: Dataset) -> Float[Tensor, "R W"]:
        """Input and target, side by side, of every row that a fit to this dataset may see."""
        return torch.cat(self._recorded(data, self._seen(data)), -1).to(self.elite_members.device)

    def _recorded(
        self, data: Dataset, seen: Bool[Tensor, " N"]
    ) -> tuple[Float[Tensor, "R X"], Float[Tensor, "R Y"]]:
        """`examples` of those rows that are `seen` and have a successor."""
        chosen = seen & data.valid_next
        return self.examples(data.transitions[chosen], None if data.dt is None else data.dt[chosen])

    def fit_rows(
        self,
        inputs: Float[Tensor, "R X"],
        targets: Float[Tensor, "R Y"],
        rows: Int[Tensor, "L N"],
        progress: FitProgress | None = None,
        patience_updates: int = 0,
    ) -> dict[str, Any]:
        """Go on fitting from the present weights; ensemble l sees the table rows `rows[l]` only.

        Draws from torch's global generator. Draws have fixed shapes, so the fit of one ensemble
        does not depend on what the others see or on when they stop.

        Args:
            inputs: (obs, action), raw.
            targets: (next_obs - obs, reward), raw.
            rows: the same number of table rows for every ensemble.
            progress: told epoch and mean holdout error of those still fitting.
            patience_updates: see the class.

        Returns:
            Counts of rows, and per ensemble: epochs, holdout error by epoch (mean over members
            of the mean squared error of the Gaussian's mean), best error of each member, elites.

        Raises:
            Mistake: no row would be left for the holdout or for training; a holdout error was not
                finite; names seeds and epochs.
        """
        stopping, said = self._fit_of_rows(patience_updates).by_rows(
            self.gaussians, inputs, targets, rows, progress
        )
        return said | self.conclude(stopping)

    def _fit_to(self, rows: Cut, data: Dataset, progress: FitProgress | None) -> dict[str, Any]:
        """Learn from single rows, and be measured by windows of held-out episodes."""
        mean, std = (each.expand(self.replicas, -1) for each in (rows.mean, rows.std))
        self.gaussians.normalise_by(mean, std)
        dim = self.spec.obs_dim
        recorded = WindowRows(data, rows.room, rows.mean[:dim], rows.std[:dim], self.driving(data))
        lead = (self.replicas, self.members)
        windows = held_windows(recorded, rows, self.select_steps, self.holdout_limit, lead)
        errors = WindowErrors(self.cells(rows)[1], windows, self.select_by)
        table = torch.cat(self._recorded(data, rows.train), -1).to(mean.device)
        stopping, said = self._fit_of_rows(self.patience_updates).by_windows(
            self.gaussians, table, rows, errors, progress
        )
        return said | self.conclude(stopping)

    def _fit_of_rows(self, patience_updates: int) -> RowFit:
        return RowFit(
            batch=self.batch,
            learning_rate=self.learning_rate,
            holdout_fraction=self.holdout_fraction,
            holdout_limit=self.holdout_limit,
            improvement=self.improvement,
            patience=self.patience,
            patience_updates=patience_updates,
            max_epochs=self.max_epochs,
            precision=self.precision,
            wrap=self._wrap,
        )
