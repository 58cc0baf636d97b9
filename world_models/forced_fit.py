"""The fit of members to windows of recorded steps by teacher forcing: `world_models.forcing`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.world_models.base import FitProgress
from reverie.world_models.fitting import (
    EarlyStopping,
    Unfinished,
    bootstrap,
    described,
    moments,
    most_epochs,
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
    free_errors,
    window_starts,
)
from reverie.world_models.optimiser import Adam
from reverie.world_models.precision import Precision, in_precision
from reverie.world_models.windows import holdout_rows, room_of

SelectBy = Literal["one_step", "multi_step"]


@dataclass(frozen=True)
class Cut:
    """Recorded rows, cut for a fit by windows.

    Attributes:
        train, held: whether each row of the dataset is learned from, or measures the fit.
        room: steps of the longest window of either kind that begins at each row.
        mean, std: of (obs, action) over the rows of the fit.
        reward_std: of the reward.
    """

    train: Bool[Tensor, " N"]
    held: Bool[Tensor, " N"]
    room: Int[Tensor, " N"]
    mean: Float[Tensor, " X"]
    std: Float[Tensor, " X"]
    reward_std: Float[Tensor, ""]

    def of_changes(self, data: Dataset) -> tuple[Float[Tensor, " Y"], Float[Tensor, " Y"]]:
        """Mean and std of (next_obs - obs, reward) over the rows of the fit."""
        rows = data.transitions[self.train].to(self.mean.device)
        table = torch.cat([rows.next_obs - rows.obs, rows.reward.unsqueeze(-1)], -1)
        return _moments(table)


def cut(
    data: Dataset, seen: Bool[Tensor, " N"], fraction: float, seed: int, device: torch.device
) -> Cut:
    """Whole episodes for the holdout, the rest for the fit.

    Raises:
        Mistake: one of them would be empty.
    """
    holdout = holdout_rows(data, seen, fraction, seed)
    train, held = seen & ~holdout & data.valid_next, seen & holdout & data.valid_next
    if not bool(train.any()) or not bool(held.any()):
        raise Mistake(
            f"dataset {data.name} has {int(seen.sum())} usable rows, too few for a fit and a "
            "holdout of its own; give more data"
        )
    rows = data.transitions[train].to(device)
    table = torch.cat([rows.obs, rows.action, rows.reward.unsqueeze(-1)], -1)
    mean, std = _moments(table)
    room = torch.where(train, room_of(data, train), room_of(data, held))
    return Cut(train, held, room, mean[:-1], std[:-1], std[-1])


def _moments(table: Float[Tensor, "R W"]) -> tuple[Float[Tensor, " W"], Float[Tensor, " W"]]:
    everything = torch.arange(len(table), device=table.device).unsqueeze(0)
    mean, std = moments(table, everything)
    return mean[0], std[0]


@dataclass(frozen=True, kw_only=True)
class ForcedFit:
    """How members are fitted to windows, each to a bootstrap sample of them.

    Attributes:
        forcing: of the training.
        select_by: the holdout error that stops the fit and chooses weights and elites: that of one
            step from recorded states, or the mean over the steps of a window of which only the
            first state is known.
        batch: windows of each member in an update.
        holdout_limit: rows that measure the fit, at most.
        whole: so many members, the first ones, see every window in place of a bootstrap sample.
        refines: whether the members are fitted already, so that only a lower error than theirs
            replaces their weights.
        unfinished: where the fit leaves its state, None for nowhere.
        others: see `ProbabilisticEnsemble`.
    """

    forcing: Forcing
    select_by: SelectBy
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

    def run(
        self,
        cell: Cell,
        test: Cell,
        lead: tuple[int, int],
        rows: Cut,
        data: Dataset,
        progress: FitProgress | None,
        driving: Float[Tensor, "N A"] | None = None,
    ) -> tuple[EarlyStopping, dict[str, Any]]:
        """Train until all seeds have stopped and put the members' best weights in place.

        Draws from torch's global generator, in fixed shapes: no seed depends on another.

        Args:
            cell, test: of the same network, as it is trained and as it is measured.
            lead: L and E.
            driving: what drives each row's step, None for the actions alone.

        Returns:
            Who stopped when, and what describes the fit: beside `described` the two holdout
            errors by epoch, means over members, and the last `alpha` of adaptive forcing.
        """
        device, steps = rows.mean.device, self.forcing.steps
        dim = data.spec.obs_dim
        table = WindowRows(data, rows.room, rows.mean[:dim], rows.std[:dim], driving)
        starts, held = (
            window_starts(torch.where(chosen, rows.room, 0), steps)
            for chosen in (rows.train, rows.held)
        )
        held = held[torch.randperm(len(held))[: max(1, self.holdout_limit // steps)]]
        tests = table.cut(held.to(device).expand(*lead, -1), steps)

        per_epoch = max(1, int(rows.train.sum()) // (self.batch * steps))
        everything = starts.to(device, torch.int32)
        order = bootstrap(everything.expand(lead[0], -1), lead[1])
        order[:, : self.whole] = everything
        positions = torch.arange(per_epoch * self.batch, device=device).remainder(len(starts))
        optimiser = Adam(cell.parameters(), self.learning_rate).to(device)
        stopping = EarlyStopping.start(
            *lead, improvement=self.improvement, patience=self.patience, device=device
        )
        causality = self.forcing.causality
        adaptive = None
        if self.forcing.alpha == ADAPTIVE:
            adaptive = AdaptiveAlpha(lead, self.forcing.adapt_rate, device)
        fixed = None if adaptive is not None else float(self.forcing.alpha)

        def step(alpha: Tensor | None, *parts: Tensor) -> Tensor:
            window = Window(*parts)
            share = fixed if alpha is None else alpha
            assert share is not None
            losses = forced_losses(cell, window, share, causality)[0].sum(-1) + cell.penalty()
            cell.descend(optimiser, losses)
            return losses.detach()

        update = in_precision(self.precision, self.wrap(step))
        curves: dict[str, list[Tensor]] = {"one_step": [], "multi_step": []}
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

        @torch.no_grad()
        def measure() -> Tensor:
            one = forced_losses(test, tests, 1.0, 0.0)[1].mean(-1)
            many = free_errors(test, tests).mean(-1)
            found = {"one_step": one, "multi_step": many}
            for name, error in found.items():
                curves[name].append(error.mean(-1))
            return found[self.select_by]

        def contents() -> dict[str, Any]:
            return {
                "weights": cell.snapshot(),
                "optimiser": optimiser.state_dict(),
                "order": order,
                "done": done,
                "curves": curves,
                "alpha": None if adaptive is None else adaptive.value,
            }

        def restore(state: Mapping[str, Any]) -> None:
            nonlocal order, done
            cell.restore(state["weights"])
            optimiser.load_state_dict(state["optimiser"])
            order, done = state["order"], state["done"]
            for name, values in state["curves"].items():
                curves[name] = list(values)
            if adaptive is not None:
                adaptive.value = state["alpha"]

        if self.refines:
            stopping.best = measure()
        losses = run_epochs(
            cell,
            stopping,
            epoch,
            measure,
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
            **{
                f"{name}_error": torch.stack(values, -1).tolist() for name, values in curves.items()
            },
        }
        if adaptive is not None:
            said["alpha"] = adaptive.value.tolist()
        return stopping, said
