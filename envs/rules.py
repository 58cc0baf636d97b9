"""What a rule of rewards, or of terminations, is."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TerminationRule = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`(obs [*, D], action [*, A], next_obs [*, D]) -> terminated [*]`, raw units."""

RewardRule = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`(obs [*, D], action [*, A], next_obs [*, D]) -> reward [*]`, raw units, actions in [-1, 1]."""


def finite(next_obs: Float[Tensor, "*lead D"]) -> Bool[Tensor, "*lead"]:
    """Simulators never reach a state that is not, a model that blows up does."""
    return torch.isfinite(next_obs).all(-1)


def never(
    obs: Float[Tensor, "*lead D"],
    action: Float[Tensor, "*lead A"],
    next_obs: Float[Tensor, "*lead D"],
) -> Bool[Tensor, "*lead"]:
    """Ends where the next observation is not finite, and nowhere else."""
    return ~finite(next_obs)


def of_newest(
    rule: Callable[[Tensor, Tensor, Tensor], Tensor],
    width: int,
    obs: Float[Tensor, "*lead D"],
    action: Float[Tensor, "*lead A"],
    next_obs: Float[Tensor, "*lead D"],
) -> Tensor:
    """A rule asked about histories, of which it sees the `width` columns that are seen now."""
    return rule(obs[..., :width], action, next_obs[..., :width])


def constants(values: Sequence[int | float], like: Tensor) -> Float[Tensor, " V"]:
    """Numbers of the type and on the device of a tensor.

    Written one by one, where a copy from the host would make a GPU wait.
    """
    if not values:
        return like.new_empty(0)
    return torch.stack(
        [torch.full((), each, dtype=like.dtype, device=like.device) for each in values]
    )
