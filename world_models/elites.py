"""Predictions of an ensemble's best members: in turn, or on average.

MBPO, arXiv:1906.08253: the members with the lowest holdout error take turns in rollouts.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reverie.world_models.gaussian import members_of_rows


def of_elites(
    values: Float[Tensor, "L E B Y"], elites: Int[Tensor, "L N"]
) -> Float[Tensor, "L N B Y"]:
    """What the elites say of what all members say."""
    return values.gather(1, elites[..., None, None].expand(-1, -1, *values.shape[2:]))


def mean_of_elites(
    mean: Float[Tensor, "L E B Y"], elites: Int[Tensor, "L N"]
) -> Float[Tensor, "L B Y"]:
    """The mean of the elites' means."""
    return of_elites(mean, elites).mean(1)


def sample_elites(
    mean: Float[Tensor, "L E B Y"],
    std: Float[Tensor, "L E B Y"],
    elites: Int[Tensor, "L N"],
    candidates: int,
) -> Float[Tensor, "K L B Y"]:
    """K draws per row from the elites' Gaussians.

    One candidate comes from an elite drawn uniformly for every row. Of several, candidate k comes
    from elite (first + k) mod elites with `first` drawn for every row, so all elites are used
    alike; every candidate has its own noise.
    """
    replicas, _, rows = mean.shape[:-1]
    first = torch.randint(elites.shape[1], (replicas, 1, rows), device=mean.device)
    turn = torch.arange(candidates, device=mean.device).unsqueeze(-1)
    chosen = elites.unsqueeze(-1).expand(-1, -1, rows)
    chosen = chosen.gather(1, (first + turn).remainder(elites.shape[1]))  # [L, K, B]
    centre, spread = members_of_rows(chosen, mean, std)
    return (centre + spread * torch.randn_like(centre)).transpose(0, 1)
