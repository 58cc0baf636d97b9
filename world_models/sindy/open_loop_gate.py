"""The gate on open-loop errors: equations that lose a recorded episode deserve no trust."""

import logging
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.world_models.sindy.dictionary import spread_of
from reverie.world_models.sindy.equations import SparseEquations

log = logging.getLogger(__name__)


@torch.no_grad()
def open_loop(
    model: SparseEquations, data: Dataset, episodes: Int[Tensor, " P"], *, steps: int, limit: float
) -> dict[str, Any] | None:
    """Median error after so many recorded actions, in stds of the state, of the worst seed.

    Warns above `limit`, and returns None where no episode is long enough to tell.

    Args:
        model: fitted.
        episodes: numbers of those that judge; of none, all do.
        steps, limit: `world_model.gate_steps` and `world_model.gate_error`.
    """
    if not len(episodes):  # too few to keep one back
        episodes = torch.arange(len(data.episode_starts))
    lengths, starts = data.episode_lengths[episodes], data.episode_starts[episodes]
    segments = [
        torch.arange(int(start), int(start + length) - steps + 1, steps)
        for start, length in zip(starts, lengths, strict=True)
        if length >= steps
    ]
    first = torch.cat(segments) if segments else torch.zeros(0, dtype=torch.int64)
    first = first[data.valid_next[first + steps - 1]]
    if not len(first):
        log.warning(
            "no episode that judges the equations has world_model.gate_steps=%d steps, so "
            "their open-loop error is unknown; lower it",
            steps,
        )
        return None
    device = model.unit.device
    rows = data.transitions.to(device)
    obs = rows.obs[first.to(device)].expand(model.seeds, -1, -1)
    exogenous = list(data.spec.exogenous)
    for step in range(steps):
        action = rows.action[(first + step).to(device)].expand(model.seeds, -1, -1)
        obs = model.predict(obs, action)[0][:, 0, :, :-1].clone()
        recorded = rows.next_obs[(first + step).to(device)]
        obs[..., exogenous] = recorded[:, exogenous]
    truth = rows.next_obs[(first + steps - 1).to(device)]
    error = (obs - truth) / spread_of(data.transitions.obs).to(device)
    judged = [dim for dim in range(error.shape[-1]) if dim not in exogenous]
    size = error[..., judged].square().mean(-1).sqrt()
    worst = size.nan_to_num(torch.inf, torch.inf).median(-1).values.max().item()
    if worst > limit:
        log.warning(
            "the equations miss the recorded states by %.2g standard deviations after %d "
            "steps (world_model.gate_error=%g): their rollouts deserve no trust; raise "
            "world_model.degree, choose another world_model.library, or use "
            "world_model=ensemble",
            worst,
            steps,
            limit,
        )
    return {
        "steps": steps,
        "segments": len(first),
        "median": worst if worst < 1e9 else None,
        "limit": limit,
        "alarm": worst > limit,
    }
