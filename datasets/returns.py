"""Discounted returns of recorded episodes from each step on."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.datasets.dataset import Dataset

AfterCut = Literal["mean", "last", "nothing"]
"""What an episode that a limit or the end of the log cut goes on to earn each step."""


def returns_to_go(data: Dataset, discount: float, after_cut: AfterCut) -> Float[Tensor, " N"]:
    """Discounted return from each row on, float64.

    Args:
        discount: per control step; 1 only where every cut earns nothing.
        after_cut: the mean reward of its episode, its last one, or nothing. After a termination
            nothing is earned.
    """
    reward = data.transitions.reward.double()
    starts, lengths = data.episode_starts, data.episode_lengths
    last = starts + lengths - 1
    if after_cut == "nothing" or discount == 1:
        tail = torch.zeros(len(starts), dtype=torch.float64)
    else:
        going_on = data.returns / lengths if after_cut == "mean" else reward[last]
        tail = going_on / (1 - discount)
    # One step back at a time for all episodes together.
    found = torch.zeros_like(reward)
    for remaining in range(int(lengths.max())):
        alive = lengths > remaining
        rows = (last - remaining)[alive]
        later = torch.where(data.transitions.terminated[rows], 0.0, tail[alive])
        tail[alive] = found[rows] = reward[rows] + discount * later
    return found
