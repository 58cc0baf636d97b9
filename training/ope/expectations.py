"""Values of an agent's own critics at recorded start states, for the verdict."""

from typing import Any

import torch
from torch import Tensor

from reverie.agents.base import Agent
from reverie.datasets.dataset import Dataset
from reverie.training.ope.estimates import interval
from reverie.training.ope.verdict import plain

STATES = 1_024
"""Recorded states, evenly spread, over which a bonus is averaged."""


@torch.no_grad()
def expectations(
    agent: Agent, data: Dataset, starts: Tensor, *, updates: int
) -> dict[str, Any] | None:
    """The smallest critic at the policy's actions; None without critics, or with unknown bonuses.

    Draws from torch's global generator where the policy has noise.

    Args:
        starts: `[P, D]`, on the agent's device.
        updates: that the agent has learned for.

    Returns:
        `value`, an interval a seed; `bonus`, how much of it a soft agent adds for noise in every
        step to come, by its states in the data, nothing where that is a cost; `settled`, see
        `Agent.settled`.
    """
    obs = starts.expand(agent.seeds, -1, -1)
    values = agent.values(obs, agent.act(obs, deterministic=True))
    if values is None or agent.discount >= 1:
        return None
    rows = torch.linspace(0, len(data) - 1, STATES).round().long()
    bonus = agent.bonus(data.transitions.obs[rows].to(starts).expand(agent.seeds, -1, -1))
    if bonus is None or not values.isfinite().all():
        return None
    return {
        "value": [plain(interval(own[None])) for own in values.amin(1)],
        "bonus": (bonus.mean(1) / (1 - agent.discount)).clamp(min=0).tolist(),
        "settled": agent.settled(updates),
    }
