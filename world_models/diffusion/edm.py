"""Denoising with preconditioning: the parametrisation of EDM, arXiv:2206.00364, section 5."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

from reverie.ranges import Positive
from reverie.world_models.diffusion.noise_distributions import NoiseDistribution

Network = Callable[[Tensor, Tensor], Tensor]
"""F(what it is shown `[B, ..., views C]`, noise label `[B]`) `[B, *event]`."""

SMALLEST_SIGMA = 1e-8
"""Noise levels are raised to it before their logarithm is taken."""


class Coefficients(NamedTuple):
    """D = skip x + out F(into x, label), each `[B]`."""

    skip: Tensor
    out: Tensor
    into: Tensor
    label: Tensor


class EDM(nn.Module):
    """Preconditioning that turns a network into a denoiser, and its loss.

    Args:
        noise_distribution: noise levels of the fit, and their weights.
        sigma_data: std of the data in the units of the generator.

    Attributes:
        views: versions of a record that the network is shown, side by side in the channels.

    Source: EDM, table 1 and equation 8.
    """

    views = 1

    def __init__(self, *, noise_distribution: NoiseDistribution, sigma_data: Positive) -> None:
        super().__init__()
        self.noise_distribution, self.sigma_data = noise_distribution, sigma_data

    def make_room(self, event: tuple[int, ...]) -> None:
        """Buffers for what `measure` finds in records of this shape; EDM needs nothing."""

    def measure(self, table: Float[Tensor, "R C"], index: Int[Tensor, "W ..."]) -> None:
        """Take what the objective must know of the records `table[index]` before a fit."""

    def coefficients(self, sigma: Float[Tensor, " B"]) -> Coefficients:
        """The preconditioning of noise level sigma."""
        total = (sigma.square() + self.sigma_data**2).sqrt()
        return Coefficients(
            skip=(self.sigma_data / total).square(),
            out=sigma * self.sigma_data / total,
            into=1 / total,
            label=sigma.clamp(min=SMALLEST_SIGMA).log() / 4,
        )

    def start(
        self, x: Float[Tensor, "B ..."], sigma: Float[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B ..."], Float[Tensor, "B ..."]]:
        """What D is without the network, and what the network is shown."""
        c = self.coefficients(sigma)
        return scale_rows(c.skip, x), scale_rows(c.into, x)

    def denoise(
        self, network: Network, x: Float[Tensor, "B ..."], sigma: Float[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """D(x, sigma)."""
        c = self.coefficients(sigma)
        base, shown = self.start(x, sigma)
        return base + scale_rows(c.out, network(shown, c.label))

    def loss(
        self,
        network: Network,
        clean: Float[Tensor, "B ..."],
        normal: Float[Tensor, " B"],
        noise: Float[Tensor, "B ..."],
    ) -> Float[Tensor, " B"]:
        """w(sigma) times the mean squared error of D, with the weight of the noise distribution.

        Args:
            clean: records y.
            normal: standard normal; the distribution makes levels sigma of it.
            noise: n of x = y + sigma n, drawn by the distribution.

        Written for the network's own output, F - (y - base) / out, whose weight is w out^2 and
        which has no cancellation at small sigma.
        """
        sigma = self.noise_distribution.sigma(normal)
        x = clean + scale_rows(sigma, noise)
        c = self.coefficients(sigma)
        base, shown = self.start(x, sigma)
        error = network(shown, c.label) - scale_rows(1 / c.out, clean - base)
        weight = self.noise_distribution.weight(sigma, self.sigma_data) * c.out.square()
        return weight * error.square().flatten(1).mean(1)


def scale_rows(factor: Tensor, values: Tensor) -> Tensor:
    """One factor for each row of any trailing shape."""
    return factor.view(-1, *[1] * (values.ndim - 1)) * values
