"""Columns beyond those of every transition, made of a dataset for the agents that ask for them."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.datasets.storage import require_memory
from reverie.datasets.transition import Transition, register

SAME_STATE = 1e-3
"""Standard deviations of the dataset by which a successor and the next row may differ."""


@register
@dataclass(frozen=True)
class WithNextAction(Transition):
    """Rows with the action that was recorded where they led.

    Attributes:
        next_action: `[*, A]` what was done at `next_obs`; anything where there is none.
        has_next_action: `[*]` bool; false after the end of an episode.
    """

    next_action: Float[Tensor, "*lead A"]
    has_next_action: Bool[Tensor, "*lead"]


def with_next_action(data: Dataset) -> WithNextAction:
    """The dataset's rows `[N]`, each with the action of the row after it in the same episode.

    The last row of an episode has none, and neither has one that the next row does not go on from:
    a terminated one, or one in data whose rows were left out or shuffled.
    """
    require_memory(data, 2.0, "an agent that compares with the next recorded action")
    rows = data.transitions
    following = torch.arange(1, len(data) + 1).clamp(max=len(data) - 1)
    last = torch.zeros(len(data), dtype=torch.bool)
    last[data.episode_starts + data.episode_lengths - 1] = True
    tolerance = SAME_STATE * rows.obs.std(0, correction=0)
    goes_on = ((rows.next_obs - rows.obs[following]).abs() <= tolerance).all(-1)
    return WithNextAction(
        **vars(rows),
        next_action=rows.action[following],
        has_next_action=goes_on & data.valid_next & ~last & ~rows.terminated,
    )
