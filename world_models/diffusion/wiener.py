"""EDM that uses the best denoiser for Gaussian records at high noise."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reverie.mistake import Mistake
from reverie.ranges import Positive
from reverie.world_models.diffusion.edm import EDM, scale_rows


class WienerEDM(EDM):
    """D = (1 - g) skip x + g W(x) + out F(into x, g W(x)), with g = sigma^2 / (sigma^2 + c^2).

    W(x) = m + V diag(l / (l + sigma^2)) V^T (x - m) is the Wiener filter of the records: m is their
    mean and V diag(l) V^T their covariance, over all steps and channels at once. As noise grows the
    best denoiser of any data tends to it.

    The steps of a segment are strongly dependent, so its overall content (does it end?) is decided
    at noise far above one. The fit samples few such levels, and a network that has not seen enough
    of them predicts an average: samples then lack variety and terminations. W is correct from the
    start. At low noise, where the dynamics are not linear, g leaves EDM unchanged.

    Args:
        crossover: c, the noise level at which both have the same weight.
        others: of `EDM`.

    Source: ours, after EDM, arXiv:2206.00364; that denoisers are linear at high noise is shown in
    arXiv:2412.09726.
    """

    views = 2
    PART = 4_096
    """Records that are measured at a time."""
    LIMIT = 8_192
    """Numbers of a record; eigenvectors of more take gigabytes."""

    mean: Tensor
    directions: Tensor
    variance: Tensor

    def __init__(self, *, crossover: Positive, **others: Any) -> None:
        super().__init__(**others)
        if crossover <= 0:
            raise Mistake(f"generator.objective.crossover must be positive, got {crossover}")
        self.crossover = crossover

    def make_room(self, event: tuple[int, ...]) -> None:
        numbers = math.prod(event)
        if numbers > self.LIMIT:
            raise Mistake(
                f"records of {numbers} numbers are too large for WienerEDM, which takes "
                f"{self.LIMIT}; lower generator.records.length, or use generator=trajectory_small"
            )
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("directions", torch.eye(numbers))
        self.register_buffer("variance", torch.ones(numbers))

    def measure(self, table: Float[Tensor, "R C"], index: Int[Tensor, "W ..."]) -> None:
        """Mean and covariance over all records, in float64 and a part of them at a time."""
        total = torch.zeros_like(self.mean, dtype=torch.float64)
        square = torch.zeros_like(self.directions, dtype=torch.float64)
        for part in index.split(self.PART):
            records = table[part].flatten(1).double()
            total += records.sum(0)
            square += records.mT @ records
        mean = total / len(index)
        variance, directions = torch.linalg.eigh(square / len(index) - torch.outer(mean, mean))
        self.mean.copy_(mean)
        self.directions.copy_(directions)
        self.variance.copy_(variance.clamp(min=0))

    def wiener(
        self, x: Float[Tensor, "B ..."], sigma: Float[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """W(x)."""
        flat = x.flatten(1)
        if flat.shape[1] != len(self.mean):
            raise Mistake(
                f"records of {flat.shape[1]} numbers, but the generator was fitted to "
                f"{len(self.mean)}; for segments of other lengths use the EDM objective"
            )
        total = self.variance + sigma.square().unsqueeze(-1)
        # Directions in which records never vary meet a noise of zero.
        shrink = self.variance / total.clamp(min=torch.finfo(total.dtype).tiny)
        kept = ((flat - self.mean) @ self.directions) * shrink
        return (self.mean + kept @ self.directions.mT).view_as(x)

    def start(
        self, x: Float[Tensor, "B ..."], sigma: Float[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B ..."], Float[Tensor, "B ..."]]:
        c = self.coefficients(sigma)
        share = sigma.square() / (sigma.square() + self.crossover**2)
        filtered = scale_rows(share, self.wiener(x, sigma))
        base = scale_rows((1 - share) * c.skip, x) + filtered
        return base, torch.cat([scale_rows(c.into, x), filtered], -1)
