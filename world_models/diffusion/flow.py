"""Flow matching and stochastic interpolants: targets of the fit, and sampling by ODE or SDE.

Stochastic interpolants: arXiv:2303.08797. Time runs from 0, the base, to 1, the data.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from reverie.mistake import Mistake
from reverie.ranges import Count, NonNegative, Positive
from reverie.world_models.diffusion.paths import path_named
from reverie.world_models.diffusion.samplers import Denoiser, Stepwise, level

Fields = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""`(x [*], t) -> u, s  [*]`: the velocity E[dx_t/dt | x_t = x] and the score grad log p_t(x)."""

Coefficients = Callable[[Tensor], tuple[Tensor, ...]]
"""`t -> a, b, c, a', b', c'` of x_t = a base + b clean + c latent."""


def linear(t: Tensor) -> tuple[Tensor, ...]:
    """Straight lines from a Gaussian base: x_t = (1 - t) base + t clean."""
    one, zero = torch.ones_like(t), torch.zeros_like(t)
    return 1 - t, t, zero, -one, one, zero


def trigonometric(t: Tensor) -> tuple[Tensor, ...]:
    """Quarter circles from a Gaussian base; between equal variances, of constant variance."""
    angle, rate, zero = t * torch.pi / 2, torch.pi / 2, torch.zeros_like(t)
    return angle.cos(), angle.sin(), zero, -rate * angle.sin(), rate * angle.cos(), zero


def bridge(t: Tensor) -> tuple[Tensor, ...]:
    """Between two distributions: lines and latent noise of variance t (1 - t), 0 < t < 1."""
    a, b, _, da, db, _ = linear(t)
    c = (t * (1 - t)).sqrt()
    return a, b, c, da, db, (1 - 2 * t) / (2 * c)


INTERPOLANTS: dict[str, Coefficients] = {
    "linear": linear,
    "trigonometric": trigonometric,
    "bridge": bridge,
}


def interpolate(
    coefficients: Coefficients, base: Tensor, clean: Tensor, latent: Tensor, t: Tensor
) -> tuple[Tensor, Tensor]:
    """x_t and the target of its velocity, all `[*]`; t broadcasts.

    A network b(x_t, t) is fitted to the target by least squares. Where c > 0 the score is
    -E[latent | x_t] / c, so a second network is fitted to `latent`; where c = 0 and the base is
    standard normal it is -E[base | x_t] / a.

    Source: arXiv:2303.08797, definition 1 and theorem 6.
    """
    a, b, c, da, db, dc = coefficients(t)
    return a * base + b * clean + c * latent, da * base + db * clean + dc * latent


def denoiser_of(velocity: Callable[[Tensor, Tensor], Tensor]) -> Denoiser:
    """The denoiser of a network that was fitted to velocities of the `linear` interpolant."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        t = 1 / (1 + sigma)
        on_line = t * x
        return on_line + (1 - t) * velocity(on_line, t)

    return denoise


def advance(fields: Fields, x: Tensor, t: float, following: float, diffusion: float) -> Tensor:
    """One step of dx = (u + e s) dt + sqrt(2 e) dW with e = diffusion (1 - t), by Heun's rule.

    The distribution of x_t is the same whatever the diffusion; 0 is the ordinary differential
    equation.

    Source: arXiv:2303.08797, corollary 18. Order 2 without noise, two calls.
    """

    def drift(x: Tensor, t: float) -> Tensor:
        velocity, score = fields(x, t)
        return velocity + diffusion * (1 - t) * score

    span = following - t
    noisy = x
    if diffusion > 0:
        # The exact variance of the noise over the step: e is linear in t.
        noisy = x + (diffusion * (2 - t - following) * span) ** 0.5 * torch.randn_like(x)
    first = drift(x, t)
    second = drift(noisy + span * first, following)
    return noisy + span * (first + second) / 2


class FlowSampler(Stepwise):
    """Follows a path x_t = a n + b y of any denoiser from noise to data, in even steps of t.

    With n = (x_t - b D) / a, the velocity is u = a' n + b' D and the score s = -n / a.

    Args:
        path: see `paths.py`: `linear`, `trigonometric` or `bridge`.
        steps: of t; 2 steps - 1 calls.
        sigma_max: the level a / b to start from.
        diffusion: c in e = c (1 - t), the noise of the stochastic version; 0 = none.

    Source: flow matching, arXiv:2210.02747; other paths and noise: stochastic interpolants,
    arXiv:2303.08797. The last step returns the denoiser's estimate. Order 2 (ODE).
    """

    def __init__(
        self, *, path: str, steps: Count, sigma_max: Positive, diffusion: NonNegative
    ) -> None:
        self.path = path_named(path, "sampler.path")
        lowest = self.levels(steps, sigma_max)[-2] if steps > 0 else sigma_max
        super().__init__(steps=steps, sigma_min=lowest, sigma_max=sigma_max, rho=None)
        if diffusion < 0:
            raise Mistake(f"sampler.diffusion must not be negative, got {diffusion}")
        self.diffusion = diffusion
        self.stochastic = diffusion > 0

    def levels(self, steps: int, sigma_max: float) -> list[float]:
        """Levels of `steps` even steps of t from that of sigma_max to 1."""
        first = self.path.time(sigma_max)
        times = [first + (1 - first) * step / steps for step in range(steps)]
        return [*(self.path.level(t) for t in times), 0.0]

    def step(
        self,
        denoiser: Denoiser,
        x: Tensor,
        sigma: float,
        following: float,
        steps: int,
        memory: Any,
    ) -> tuple[Tensor, Any]:
        if following == 0:
            return denoiser(x, level(sigma, x)), None
        t, later = self.path.time(sigma), self.path.time(following)

        def fields(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
            a, b, da, db = self.path.at(t)
            clean = denoiser(x / b, level(a / b, x))
            noise = (x - b * clean) / a
            return da * noise + db * clean, -noise / a

        start, end = self.path.at(t)[1], self.path.at(later)[1]
        return advance(fields, start * x, t, later, self.diffusion) / end, None
