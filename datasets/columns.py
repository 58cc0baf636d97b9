"""Extra columns of transitions, computed from a dataset for the agents that need them."""

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
    """Transitions with the action recorded at the next observation.

    Attributes:
        next_action: `[*, A]` the action taken at `next_obs`; arbitrary if there is none.
        has_next_action: `[*]` bool; false after the end of an episode.
    """

    next_action: Float[Tensor, "*lead A"]
    has_next_action: Bool[Tensor, "*lead"]


@register
@dataclass(frozen=True)
class WithOutcome(Transition):
    """Transitions with the reward of the rest of their episode.

    Attributes:
        outcome: `[*]` reward per step that a full episode has left; zero where unknown.
        has_outcome: `[*]` bool; false for transitions outside recorded episodes.
    """

    outcome: Float[Tensor, "*lead"]
    has_outcome: Bool[Tensor, "*lead"]


@register
@dataclass(frozen=True)
class WithTaken(Transition):
    """Transitions of action chunks with the control steps taken before the task ended.

    Attributes:
        taken: `[*, N]` bool; false where a chunk repeats its last action after a termination.
    """

    taken: Bool[Tensor, "*lead N"]


@register
@dataclass(frozen=True)
class ChunkWithNextAction(WithNextAction, WithTaken):
    """Rows of both kinds."""


@register
@dataclass(frozen=True)
class ChunkWithOutcome(WithOutcome, WithTaken):
    """Rows of both kinds."""


_CHUNKS: dict[type[Transition], type[WithTaken]] = {
    Transition: WithTaken,
    WithNextAction: ChunkWithNextAction,
    WithOutcome: ChunkWithOutcome,
}


def with_taken(rows: Transition, taken: Bool[Tensor, "*lead N"] | None, steps: int) -> WithTaken:
    """Rows of chunks of N steps, with their other columns; all are taken if nothing is known."""
    if taken is None:
        taken = torch.ones(*rows.shape, steps, dtype=torch.bool, device=rows.reward.device)
    return _CHUNKS[type(rows)](**vars(rows), taken=taken)


def taken_actions(rows: Transition) -> Bool[Tensor, "*lead A"] | None:
    """Which entries of `action` were done; None where all were, for rows that are no chunks.

    What clones recorded actions leaves the others out, for nobody decided on them.
    """
    if not isinstance(rows, WithTaken):
        return None
    return rows.taken.repeat_interleave(rows.action.shape[-1] // rows.taken.shape[-1], -1)


def where_taken(values: Float[Tensor, "*lead A"], rows: Transition) -> Float[Tensor, "*lead A"]:
    """Values of the entries of `action`, zero at those that were not done."""
    taken = taken_actions(rows)
    return values if taken is None else torch.where(taken, values, 0.0)


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
