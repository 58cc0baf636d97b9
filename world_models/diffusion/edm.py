"""Denoising with preconditioning: the parametrisation of EDM, arXiv:2206.00364, section 5."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

Network = Callable[[Tensor, Tensor], Tensor]
"""F(x `[B, *event]`, noise label `[B]`) `[B, *event]`."""

SMALLEST_SIGMA = 1e-8
"""Noise levels are raised to it before their logarithm is taken."""


class Coefficients(NamedTuple):
    """D = skip x + out F(into x, label), each `[B]`."""

    skip: Tensor
    out: Tensor
    into: Tensor
    label: Tensor


class EDM(nn.Module):
    """How a network becomes a denoiser, and the loss that fits it.

    Args:
        sigma_data: std of the data in the units of the generator.
        log_sigma_mean, log_sigma_std: of the normal law of ln sigma in the fit.

    Source: EDM, table 1 and equation 8.
    """

    def __init__(self, *, sigma_data: float, log_sigma_mean: float, log_sigma_std: float) -> None:
        super().__init__()
        self.sigma_data = sigma_data
        self.log_sigma_mean, self.log_sigma_std = log_sigma_mean, log_sigma_std

    def coefficients(self, sigma: Float[Tensor, " B"]) -> Coefficients:
        """The preconditioning of noise level sigma."""
        total = (sigma.square() + self.sigma_data**2).sqrt()
        return Coefficients(
            skip=(self.sigma_data / total).square(),
            out=sigma * self.sigma_data / total,
            into=1 / total,
            label=sigma.clamp(min=SMALLEST_SIGMA).log() / 4,
        )

    def denoise(
        self, network: Network, x: Float[Tensor, "B ..."], sigma: Float[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """D(x, sigma)."""
        c = self.coefficients(sigma)
        return _scale(c.skip, x) + _scale(c.out, network(_scale(c.into, x), c.label))

    def loss(
        self,
        network: Network,
        clean: Float[Tensor, "B ..."],
        normal: Float[Tensor, " B"],
        noise: Float[Tensor, "B ..."],
    ) -> Float[Tensor, " B"]:
        """w(sigma) times the mean squared error of D, with w = 1 / out^2.

        Args:
            clean: records y.
            normal: standard normal, becomes sigma = exp(mean + std normal).
            noise: standard normal, becomes x = y + sigma noise.

        Written for the network's own output, F - (y - skip x) / out, which is the same number with
        no cancellation at small sigma.
        """
        sigma = (self.log_sigma_mean + self.log_sigma_std * normal).exp()
        x = clean + _scale(sigma, noise)
        c = self.coefficients(sigma)
        target = _scale(1 / c.out, clean - _scale(c.skip, x))
        error = network(_scale(c.into, x), c.label) - target
        return error.square().flatten(1).mean(1)


def _scale(factor: Tensor, values: Tensor) -> Tensor:
    """One factor for each row of any trailing shape."""
    return factor.view(-1, *[1] * (values.ndim - 1)) * values
