"""How far ahead a fitted model can be believed, and data with noise on what is observed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.world_models.base import WorldModel
from reverie.world_models.diagnostics import VALID
from reverie.world_models.fitting import rows_of, uninterrupted
from reverie.world_models.measures import plain, quantile, valid_steps

PAST = 15
"""Recorded steps before each start, for models that remember."""


def noisy(data: Dataset, share: float, seed: int) -> Dataset:
    """The same record seen through noise of `share` standard deviations of each observation.

    A state has the noise once: the next observation of a row is the observation of the row behind.
    Actions, rewards and ends are as they were.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = data.transitions
    std = share * rows.obs.std(0)
    now, last = (std * torch.randn(rows.obs.shape, generator=generator) for _ in range(2))
    ends = torch.zeros(len(data), dtype=torch.bool)
    ends[data.episode_starts + data.episode_lengths - 1] = True
    behind = torch.where(ends.unsqueeze(-1), last, now.roll(-1, 0))
    seen = replace(rows, obs=rows.obs + now, next_obs=rows.next_obs + behind)
    return replace(data, transitions=seen)


def starts(data: Dataset, episodes: Int[Tensor, " P"], steps: int, count: int) -> Tensor:
    """Rows of these episodes with so many steps ahead and `PAST` behind, evenly chosen."""
    first, last = uninterrupted(data)
    row = torch.arange(len(data))
    fits = rows_of(data, episodes) & (row + steps - 1 <= last) & (row - PAST >= first)
    found = fits.nonzero().flatten()
    return found[torch.linspace(0, len(found) - 1, min(count, len(found))).long()]


@torch.no_grad()
def errors_ahead(
    model: WorldModel, truth: Dataset, seen: Dataset, rows: Int[Tensor, " W"], steps: int
) -> Float[Tensor, "S W T"]:
    """Root mean square error over observations, in std of the truth, after each step.

    Args:
        truth, seen: the same rows without noise, against which is compared, and as the model sees
            start and past.
        rows: where segments start; recorded actions are replayed.
    """
    seeds = int(getattr(model, "seeds", 1))
    obs = seen.transitions.obs[rows].expand(seeds, -1, -1)
    past = model.recorded_state(seen, rows)
    past = None if past is None else past.expand(seeds, -1, -1)
    state = model.begin(obs, rows.expand(seeds, -1), past)
    unit = truth.transitions.obs.std(0)
    found = []
    for t in range(steps):
        here = truth.transitions[rows + t]
        step = model.advance(obs, here.action.expand(seeds, -1, -1), 1, state, expected=True)
        obs, state = step.next_obs[0], None if step.state is None else step.state[0]
        error = ((obs - here.next_obs) / unit).square().mean(-1).sqrt()
        found.append(error.nan_to_num(torch.inf, torch.inf))
    return torch.stack(found, -1)


@dataclass(frozen=True)
class Ahead:
    """Errors of every seed: median over starts at some horizons, and the valid prediction time."""

    at: dict[int, list[float]]
    valid: list[float]

    @classmethod
    def of(cls, errors: Float[Tensor, "S W T"], horizons: Sequence[int]) -> "Ahead":
        lengths = torch.full(errors.shape[1:2], errors.shape[2])
        return cls(
            {k: plain(quantile(errors[..., k - 1], 0.5)) for k in horizons},
            plain(valid_steps(errors, lengths, VALID)),
        )

    def described(self) -> dict[str, Any]:
        """Plain values."""
        return {"errors": self.at, "valid_steps": self.valid}
