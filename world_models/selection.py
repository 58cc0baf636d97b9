"""What stops a fit and chooses its weights: the error of one step, or of many steps in a row.

Windows of whole episodes, which the fit does not see, measure both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.world_models.fitting import moments
from reverie.world_models.forcing import (
    Cell,
    Window,
    WindowRows,
    forced_losses,
    free_errors,
    window_starts,
)
from reverie.world_models.windows import holdout_rows, room_of

SelectBy = Literal["one_step", "multi_step"]
ONE_STEP: SelectBy = "one_step"
MULTI_STEP: SelectBy = "multi_step"
MOST_WINDOWS = 4096
"""Windows that measure a fit at most: more tell no more, and take memory."""


@dataclass(frozen=True)
class Cut:
    """Recorded rows, cut for a fit that windows measure.

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

    @classmethod
    def of(
        cls,
        data: Dataset,
        seen: Bool[Tensor, " N"],
        fraction: float,
        seed: int,
        device: torch.device,
        most: int | None = None,
    ) -> "Cut | None":
        """Whole episodes for the holdout, the rest for the fit; None where one would be empty.

        Args:
            fraction: of the episodes that are `seen`, for the holdout.
            most: episodes at most, None for no limit.
        """
        holdout = holdout_rows(data, seen, fraction, seed, most)
        train, held = seen & ~holdout & data.valid_next, seen & holdout & data.valid_next
        if not bool(train.any()) or not bool(held.any()):
            return None
        rows = data.transitions[train].to(device)
        table = torch.cat([rows.obs, rows.action, rows.reward.unsqueeze(-1)], -1)
        mean, std = _moments(table)
        room = torch.where(train, room_of(data, train), room_of(data, held))
        return cls(train, held, room, mean[:-1], std[:-1], std[-1])

    @property
    def longest(self) -> int:
        """Steps of the longest window that may measure the fit."""
        return int(self.room[self.held].max())

    def of_changes(self, data: Dataset) -> tuple[Float[Tensor, " Y"], Float[Tensor, " Y"]]:
        """Mean and std of (next_obs - obs, reward) over the rows of the fit."""
        rows = data.transitions[self.train].to(self.mean.device)
        table = torch.cat([rows.next_obs - rows.obs, rows.reward.unsqueeze(-1)], -1)
        return _moments(table)


def cut(
    data: Dataset, seen: Bool[Tensor, " N"], fraction: float, seed: int, device: torch.device
) -> Cut:
    """As `Cut.of`, for a fit that cannot do without.

    Raises:
        Mistake: fit or holdout would be empty.
    """
    rows = Cut.of(data, seen, fraction, seed, device)
    if rows is None:
        raise Mistake(
            f"dataset {data.name} has {int(seen.sum())} usable rows, too few for a fit and a "
            "holdout of its own; give more data"
        )
    return rows


def _moments(table: Float[Tensor, "R W"]) -> tuple[Float[Tensor, " W"], Float[Tensor, " W"]]:
    everything = torch.arange(len(table), device=table.device).unsqueeze(0)
    mean, std = moments(table, everything)
    return mean[0], std[0]


def windows_within(limit: int, steps: int) -> int:
    """How many windows have at most so many rows; at least one, at most `MOST_WINDOWS`."""
    return max(1, min(limit // steps, MOST_WINDOWS))


def held_windows(
    table: WindowRows, rows: Cut, steps: int, limit: int, lead: Sequence[int]
) -> Window:
    """Windows that measure a fit, drawn from torch's global generator; the same for all members.

    Args:
        steps: of a window, or as many as the longest held-out stretch has.
        limit: rows of all windows, at most.
        lead: L and E.
    """
    steps = min(steps, rows.longest)
    starts = window_starts(torch.where(rows.held, rows.room, 0), steps)
    starts = starts[torch.randperm(len(starts))[: windows_within(limit, steps)]]
    return table.cut(starts.to(rows.mean.device).expand(*lead, -1), steps)


class WindowErrors:
    """Both errors of members on held-out windows, epoch by epoch.

    Args:
        cell: of the network, as it is measured.
        windows: held-out ones.
        select_by: which of the two `measure` answers: that of one step from recorded states, or
            the mean over the steps of a window of which only the first state is known.
    """

    def __init__(self, cell: Cell, windows: Window, select_by: SelectBy) -> None:
        self.cell, self.windows, self.select_by = cell, windows, select_by
        self.curves: dict[SelectBy, list[Tensor]] = {ONE_STEP: [], MULTI_STEP: []}

    @torch.no_grad()
    def measure(self) -> Float[Tensor, "L E"]:
        """Of the present weights, in variances; no host sync."""
        found: dict[SelectBy, Tensor] = {
            ONE_STEP: forced_losses(self.cell, self.windows, 1.0, 0.0)[1].mean(-1),
            MULTI_STEP: free_errors(self.cell, self.windows).mean(-1),
        }
        for name, error in found.items():
            self.curves[name].append(error.mean(-1))
        return found[self.select_by]

    def described(self) -> dict[str, list[list[float]]]:
        """Both by seed and epoch, means over members."""
        return {
            f"{name}_error": torch.stack(values, -1).tolist()
            for name, values in self.curves.items()
        }
