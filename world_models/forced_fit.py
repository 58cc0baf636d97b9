"""The fit of members to windows of recorded steps by teacher forcing: `world_models.forcing`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.world_models.base import FitProgress
from reverie.world_models.fitting import (
    EarlyStopping,
    Unfinished,
    bootstrap,
    described,
    most_epochs,
    patience_of,
    run_epochs,
    shuffle,
)
from reverie.world_models.forcing import (
    ADAPTIVE,
    AdaptiveAlpha,
    Cell,
    Forcing,
    Window,
    WindowRows,
    forced_losses,
    window_starts,
)
from reverie.world_models.optimiser import Adam
from reverie.world_models.precision import Precision, in_precision
from reverie.world_models.selection import Cut, SelectBy, WindowErrors, held_windows


@dataclass(frozen=True, kw_only=True)
class ForcedFit:
    """Settings of the fit of members to windows, each to a bootstrap sample of them.

    Attributes:
        forcing: of the training.
        select_by: the holdout error for early stopping, weights and elites, see `WindowErrors`.
        select_steps: of the windows that it is measured on.
        batch: windows of each member in an update.
        holdout_limit: maximum number of held-out transitions.
        whole: so many members, the first ones, see every window instead of a bootstrap sample.
        refines: whether the members are fitted already, so that only a lower error than theirs
            replaces their weights.
        unfinished: where the fit leaves its state, None for nowhere.
        others: see `ProbabilisticEnsemble`.
    """

    forcing: Forcing
    select_by: SelectBy
    select_steps: int
    batch: int
    learning_rate: float
    holdout_limit: int
    improvement: float
    patience: int
    max_epochs: int | Literal["auto"] | None
    precision: Precision
    wrap: Callable[[Callable[..., Tensor]], Callable[..., Tensor]]
    whole: int = 0
    refines: bool = False
    unfinished: Unfinished | None = None
    patience_updates: int = 0

    def run(
        self,
        cell: Cell,
        test: Cell,
        lead: tuple[int, int],
        rows: Cut,
        data: Dataset,
        progress: FitProgress | None,
        driving: Float[Tensor, "N F"] | None = None,
    ) -> tuple[EarlyStopping, dict[str, Any]]:
        """Train until all seeds have stopped and put the members' best weights in place.

        Draws from torch's global generator, in fixed shapes: no seed depends on another.

        Args:
            cell, test: of the same network, as it is trained and as it is measured.
            lead: L and E.
            driving: of each row's step, see `WindowRows`.

        Returns:
            Who stopped when, and what describes the fit: beside `described` the two holdout
            errors by epoch, means over members, and the last `alpha` of adaptive forcing.
        """
        device = rows.mean.device
        # Steps after the longest episode would be computed, and count nothing.
        steps = min(self.forcing.steps, int(rows.room[rows.train].max()))
        dim = data.spec.obs_dim
        table = WindowRows(data, rows.room, rows.mean[:dim], rows.std[:dim], driving)
        starts = window_starts(torch.where(rows.train, rows.room, 0), steps)
        tests = held_windows(table, rows, self.select_steps, self.holdout_limit, lead)
        errors = WindowErrors(test, tests, self.select_by)

        per_epoch = max(1, int(rows.train.sum()) // (self.batch * steps))
        everything = starts.to(device, torch.int32)
        order = bootstrap(everything.expand(lead[0], -1), lead[1])
        order[:, : self.whole] = everything
        positions = torch.arange(per_epoch * self.batch, device=device).remainder(len(starts))
        optimiser = Adam(cell.parameters(), self.learning_rate).to(device)
        patience = patience_of(self.patience, self.patience_updates, per_epoch)
        stopping = EarlyStopping.start(
            *lead, improvement=self.improvement, patience=patience, device=device
        )
        causality, interval = self.forcing.causality, self.forcing.interval
        adaptive = None
        if self.forcing.alpha == ADAPTIVE:
            adaptive = AdaptiveAlpha(lead, self.forcing.adapt_rate, device)
        fixed = None if adaptive is not None else float(self.forcing.alpha)

        def step(alpha: Tensor | None, *parts: Tensor) -> Tensor:
            window = Window(*parts)
            share = fixed if alpha is None else alpha
            assert share is not None
            losses, _ = forced_losses(cell, window, share, causality, interval)
            losses = losses.sum(-1) + cell.penalty()
            cell.descend(optimiser, losses)
            return losses.detach()

        update = in_precision(self.precision, self.wrap(step))
        done = 0

        def epoch() -> None:
            nonlocal order, done
            order = shuffle(order)
            for chosen in positions.split(self.batch):
                window = table.cut(order.index_select(-1, chosen), steps)
                if adaptive is not None and done % self.forcing.adapt_every == 0:
                    adaptive.adapt(test, window)
                done += 1
                update(None if adaptive is None else adaptive.value, *window)

        def contents() -> dict[str, Any]:
            return {
                "weights": cell.snapshot(),
                "optimiser": optimiser.state_dict(),
                "order": order,
                "done": done,
                "curves": errors.curves,
                "alpha": None if adaptive is None else adaptive.value,
            }

        def restore(state: Mapping[str, Any]) -> None:
            nonlocal order, done
            cell.restore(state["weights"])
            optimiser.load_state_dict(state["optimiser"])
            order, done = state["order"], state["done"]
            errors.curves = {name: list(values) for name, values in state["curves"].items()}
            if adaptive is not None:
                adaptive.value = state["alpha"]

        if self.refines:
            stopping.best = errors.measure()
        losses = run_epochs(
            cell,
            stopping,
            epoch,
            errors.measure,
            cap=most_epochs(self.max_epochs, per_epoch),
            progress=progress,
            unfinished=self.unfinished and self.unfinished.holding(contents, restore),
        )
        said = described(stopping, losses)
        said |= {
            "rows": int((rows.train | rows.held).sum()),
            "train_rows": int(rows.train.sum()),
            "holdout_rows": int(rows.held.sum()),
            "windows": len(starts),
            "updates": len(losses) * per_epoch,
            **errors.described(),
        }
        if adaptive is not None:
            said["alpha"] = adaptive.value.tolist()
        return stopping, said
