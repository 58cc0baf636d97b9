"""Noise of the fit of a generator: levels, distribution and weights.

For every distribution the target is the clean record y and x = y + sigma n, so denoiser, network
and samplers stay the same. A distribution transforms standard normal samples.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from reverie.mistake import Mistake
from reverie.ranges import Finite, Positive
from reverie.world_models.diffusion.paths import path_named


class NoiseDistribution(ABC):
    """Levels of noise, noise of unit scale, and the weight of the squared error of D.

    Attributes:
        gaussian: whether samplers may add Gaussian noise of their own.
    """

    gaussian: bool = True

    @abstractmethod
    def sigma(self, normal: Tensor) -> Tensor:
        """Levels of noise from standard normal draws, of the same shape."""

    @abstractmethod
    def weight(self, sigma: Tensor, sigma_data: float) -> Tensor:
        """w(sigma) of the loss w |D(y + sigma n, sigma) - y|^2.

        Args:
            sigma_data: d, standard deviation of the data in the model's units.
        """

    def noise(self, normal: Tensor, event_dims: int) -> Tensor:
        """n, for fits and for the start of samples, from standard normal draws `[*lead, *event]`.

        Args:
            event_dims: how many trailing dimensions make one record.
        """
        return normal


class LogNormal(NoiseDistribution):
    """ln sigma ~ N(mean, std^2), w = (sigma^2 + d^2) / (sigma d)^2.

    Args:
        mean, std: of ln sigma.

    Source: EDM, arXiv:2206.00364, table 1 and section 5.
    """

    def __init__(self, *, mean: Finite, std: Positive) -> None:
        self.mean, self.std = mean, std

    def sigma(self, normal: Tensor) -> Tensor:
        return (self.mean + self.std * normal).exp()

    def weight(self, sigma: Tensor, sigma_data: float) -> Tensor:
        return (sigma.square() + sigma_data**2) / (sigma * sigma_data).square()


class PFGMpp(LogNormal):
    """EDM's levels, PFGM++'s noise: Student's t with D degrees of freedom, |n|^2 ~ N F(N, D).

    Its perturbation kernel is p(x | y) proportional to (|x - y|^2 + r^2)^-(N + D)/2 with
    r = sigma sqrt(D) and N values a record, which is this distribution exactly. Small D are more
    robust and have rare, huge noise; D to infinity is Gaussian; D = 1 is PFGM. A denoiser is valid
    only for its D.

    Args:
        dimensions: D.

    Source: arXiv:2302.04265, equations 4 to 6. Differs: radii are not clipped, which public code
    does.
    """

    gaussian = False

    def __init__(self, *, dimensions: Positive, **hyperparameters: float) -> None:
        super().__init__(**hyperparameters)
        if dimensions <= 0:
            raise Mistake(
                f"generator.noise_distribution.dimensions must be positive, got {dimensions}"
            )
        self.dimensions = dimensions

    def noise(self, normal: Tensor, event_dims: int) -> Tensor:
        lead = normal.shape[: normal.ndim - event_dims] + (1,) * event_dims
        # In double precision: the smallest of these draws decide the largest radii.
        degrees = torch.full(lead, self.dimensions, dtype=torch.float64, device=normal.device)
        rate = torch.full_like(degrees, 0.5)
        chi_square = torch.distributions.Gamma(degrees / 2, rate, validate_args=False).sample()
        return normal * (self.dimensions / chi_square).sqrt().to(normal.dtype)


class FlowMatching(NoiseDistribution):
    """Flow matching and stochastic interpolants: the levels of a path at random times t.

    Args:
        path: from noise to data, see `paths.py`: `linear`, `trigonometric` or `bridge`.
        logit_mean, logit_std: t = sigmoid(N(mean, std^2)); a std of None: uniform t.

    Source: arXiv:2210.02747, equation 23, with t = 1 clean; arXiv:2303.08797 for other paths;
    logit-normal t: arXiv:2403.03206. Differs: the loss is written for D, which changes its units
    at each t and nothing else.
    """

    def __init__(self, *, path: str, logit_mean: Finite, logit_std: Positive | None) -> None:
        if logit_std is None and logit_mean != 0:
            raise Mistake(
                f"generator.noise_distribution.logit_mean={logit_mean} means nothing for even "
                "times; set it to 0, or give generator.noise_distribution.logit_std"
            )
        self.path = path_named(path, "generator.noise_distribution.path")
        self.logit_mean, self.logit_std = logit_mean, logit_std

    def sigma(self, normal: Tensor) -> Tensor:
        if self.logit_std is not None:
            logit = self.logit_mean + self.logit_std * normal
            return self.path.sigma(logit.sigmoid(), (-logit).sigmoid())
        # t = Phi(normal), exact in both tails.
        both = (torch.special.log_ndtr(normal), torch.special.log_ndtr(-normal))
        return self.path.sigma(both[0].exp(), both[1].exp())

    def weight(self, sigma: Tensor, sigma_data: float) -> Tensor:
        return self.path.weight(sigma)
