"""The fit of Gaussian members to single rows, each to a bootstrap sample of them.

MBPO, arXiv:1906.08253.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reverie.mistake import Mistake
from reverie.world_models.base import FitProgress
from reverie.world_models.fitting import (
    EarlyStopping,
    bootstrap,
    described,
    moments,
    most_epochs,
    patience_of,
    run_epochs,
    shuffle,
    split,
)
from reverie.world_models.gaussian import GaussianMembers
from reverie.world_models.optimiser import Adam
from reverie.world_models.precision import Precision, in_precision
from reverie.world_models.selection import Cut, WindowErrors


@dataclass(frozen=True, kw_only=True)
class RowFit:
    """How members descend, and when they stop.

    Attributes:
        batch: rows of each member in an update.
        wrap: compiles the update, a function of fixed shapes.
        others: see `ProbabilisticEnsemble`.
    """

    batch: int
    learning_rate: float
    holdout_fraction: float
    holdout_limit: int
    improvement: float
    patience: int
    patience_updates: int
    max_epochs: int | Literal["auto"] | None
    precision: Precision
    wrap: Callable[[Callable[..., Tensor]], Callable[..., Tensor]]

    def by_rows(
        self,
        members: GaussianMembers,
        inputs: Float[Tensor, "R X"],
        targets: Float[Tensor, "R Y"],
        rows: Int[Tensor, "L N"],
        progress: FitProgress | None,
    ) -> tuple[EarlyStopping, dict[str, Any]]:
        """Stop and choose by the error of random rows; see `ProbabilisticEnsemble.fit_rows`.

        Raises:
            Mistake: no row would be left for the holdout or for training.
        """
        count = rows.shape[1]
        holdout = min(int(self.holdout_fraction * count), self.holdout_limit)
        if holdout < 1:
            raise Mistake(
                f"{count} usable transitions leave none for the holdout of "
                f"world_model.holdout_fraction={self.holdout_fraction}; the fit needs more data"
            )
        train, held = split(rows, holdout)
        members.normalise_by(*moments(inputs, train))
        table = torch.cat([inputs, targets], -1)
        kept = table[held].unsqueeze(1)
        stopping, said = self._run(members, table, train, lambda: members.errors(kept), progress)
        counts = {"rows": count, "train_rows": count - holdout, "holdout_rows": holdout}
        return stopping, counts | said

    def by_windows(
        self,
        members: GaussianMembers,
        table: Float[Tensor, "R W"],
        rows: Cut,
        errors: WindowErrors,
        progress: FitProgress | None,
    ) -> tuple[EarlyStopping, dict[str, Any]]:
        """Stop and choose by the error of windows of held-out episodes.

        Args:
            members: that are normalised by `rows`.
            table: inputs and targets of the rows of the fit, which all ensembles learn from.
        """
        lanes = len(members.input_mean)
        train = torch.arange(len(table), device=table.device).expand(lanes, -1)
        stopping, said = self._run(members, table, train, errors.measure, progress)
        counts = {"train_rows": len(table), "holdout_rows": int(rows.held.sum())}
        return stopping, {"rows": sum(counts.values()), **counts, **said, **errors.described()}

    def _run(
        self,
        members: GaussianMembers,
        table: Float[Tensor, "R W"],
        train: Int[Tensor, "L N"],
        measure: Callable[[], Float[Tensor, "L E"]],
        progress: FitProgress | None,
    ) -> tuple[EarlyStopping, dict[str, Any]]:
        """Train until every ensemble has stopped and put its best weights in place.

        Draws from torch's global generator, in fixed shapes: no ensemble depends on another.

        Args:
            table: input and target, side by side.
            train: rows of the table that each ensemble learns from.
            measure: the error that stops and selects.
        """
        device = table.device
        replicas, rows = train.shape
        batches = -(-rows // self.batch)
        # The last batch is filled up with rows of weight zero, so that all have one shape.
        positions = torch.arange(batches * self.batch, device=device).view(batches, -1)
        weights = (positions < rows).to(table.dtype)
        positions = positions.remainder(rows)
        # 32 bits halve what 7 members times a million rows times S seeds take.
        order = bootstrap(train.to(torch.int32), members.members)
        optimiser = Adam(members.trained_parameters(), self.learning_rate).to(device)

        def step(batch: Tensor, weight: Tensor) -> Tensor:
            return members.update(optimiser, batch, weight)

        update = in_precision(self.precision, self.wrap(step))
        stopping = EarlyStopping.start(
            replicas,
            members.members,
            improvement=self.improvement,
            patience=patience_of(self.patience, self.patience_updates, batches),
            device=device,
        )

        def epoch() -> None:
            nonlocal order
            order = shuffle(order)
            for position, weight in zip(positions, weights, strict=True):
                drawn = order.index_select(-1, position)  # [L, E, batch]
                update(table.index_select(0, drawn.flatten()).view(*drawn.shape, -1), weight)

        members.requires_grad_(True)
        try:
            with torch.enable_grad():
                losses = run_epochs(
                    members,
                    stopping,
                    epoch,
                    measure,
                    cap=most_epochs(self.max_epochs, batches),
                    progress=progress,
                )
        finally:
            members.requires_grad_(False)
        return stopping, described(stopping, losses)
