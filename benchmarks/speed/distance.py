"""How far samples are from a distribution: Wasserstein distances along many directions."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST_SHARE = 0.01
"""Directions whose standard deviation is a smaller share of the largest are left out."""


@dataclass(frozen=True)
class SlicedDistance:
    """The mean of |F_n^-1 - F^-1| over directions, each in its standard deviation there.

    Attributes:
        directions: `[P, E]`, scaled so that the distribution has unit variance along each.
        quantiles: `[n, P]` of the distribution, (i + 1/2) / n.

    Source: sliced Wasserstein distance, order 1. Directions of small variance count as much as
    others, so that a sampler that stops too early or too wide anywhere is seen.
    """

    directions: Float[Tensor, "P E"]
    quantiles: Float[Tensor, "n P"]

    def __call__(self, samples: Float[Tensor, "n ..."]) -> float:
        """Of n samples, as many as there are quantiles; NaN where one is not finite."""
        along = samples.flatten(1).double() @ self.directions.T
        return float((along.sort(0).values - self.quantiles).abs().mean())


def scaled_directions(
    axes: Float[Tensor, "P E"], std: Float[Tensor, " P"], mixed: int, seed: int
) -> Float[Tensor, "Q E"]:
    """Axes in units of the distribution's std, and random mixtures of them all.

    The mixtures have unit variance where the axes are uncorrelated, and nearly so elsewhere.
    """
    kept = std >= SMALLEST_SHARE * std.max()
    unit = axes[kept] / std[kept].unsqueeze(1)
    own = torch.Generator().manual_seed(seed)
    weights = torch.randn(mixed, len(unit), generator=own, dtype=torch.float64)
    return torch.cat([unit, weights / weights.norm(dim=1, keepdim=True) @ unit])


def principal_axes(samples: Float[Tensor, "N ..."]) -> Float[Tensor, "E E"]:
    """Directions along which samples are uncorrelated, one a row."""
    return torch.linalg.eigh(samples.flatten(1).double().T.cov()).eigenvectors.T


def quantiles_of(
    samples: Float[Tensor, "N ..."], directions: Float[Tensor, "P E"], count: int
) -> Float[Tensor, "count P"]:
    """Quantiles (i + 1/2) / count of projected samples, N a multiple of count."""
    along = (samples.flatten(1).double() @ directions.T).sort(0).values
    return along.unflatten(0, (count, -1)).mean(1)
