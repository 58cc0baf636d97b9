"""Samplers: from noise to a sample, with a denoiser only.

Everything is in variance-exploding coordinates: x = y + sigma n with y clean and n of unit scale.
Every sampler works with a denoiser of any parametrisation; `flow.denoiser_of` converts velocities.
Noise levels are Python numbers known before the loop, so nothing waits for the device.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from reverie.mistake import Mistake
from reverie.ranges import Count, Levels, NonNegative, Positive, UnitInterval

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""`(x [*], sigma) -> E[y | x]  [*]`; sigma is a scalar, or has the first dimensions of x."""

Nudge = Callable[[Tensor, Tensor, int, int], Tensor]
"""`(x, sigma, step, steps) -> x`: moves the noisy sample before a step, 0 <= step < steps."""


Value = Callable[[Tensor], Tensor]
"""`clean samples [*lead, *event] -> [*lead]`: a return, a Q, minus an uncertainty, ..."""


def noise_levels(steps: int, sigma_min: float, sigma_max: float, rho: float | None) -> list[float]:
    """`steps` levels that fall from sigma_max to sigma_min, and a zero.

    Args:
        rho: sigma^(1/rho) falls evenly; None: ln sigma does, the limit of large rho.

    Source: EDM, arXiv:2206.00364, equation 5.
    """
    shares = [step / max(steps - 1, 1) for step in range(steps)]
    if rho is None:
        levels = [sigma_max * (sigma_min / sigma_max) ** share for share in shares]
    else:
        high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
        levels = [(high + share * (low - high)) ** rho for share in shares]
    return [*levels, 0.0]


def level(sigma: float, like: Tensor) -> Tensor:
    """A level of noise as the scalar tensor that a denoiser takes; made on the device."""
    return torch.full((), sigma, dtype=like.dtype, device=like.device)


def leading(sigma: Tensor, x: Tensor) -> Tensor:
    """sigma with as many trailing dimensions of one as let it meet x."""
    return sigma.reshape(sigma.shape + (1,) * (x.ndim - sigma.ndim))


class Sampler(ABC):
    """Reduces the noise from level to level; a sub-class defines the step.

    Args:
        steps: levels of noise; the jump from the lowest to zero returns the denoiser's estimate.
        sigma_min, sigma_max: the lowest and the highest level.
        rho: spacing of the levels; None is uniform in ln sigma.

    Attributes:
        stochastic: whether steps add noise, which only Gaussian models allow.
        measures: whether `prepare` measures the denoiser, on data with Gaussian noise.
        takes_nudges: whether guidance may shift the noisy sample itself.
        chooses: whether it samples candidates and keeps those of higher value, see `attach`.
    """

    stochastic: bool = False
    measures: bool = False
    takes_nudges: bool = True
    chooses: bool = False

    def __init__(
        self, *, steps: Count, sigma_min: Positive, sigma_max: Positive, rho: Positive | None
    ) -> None:
        if steps < 1:
            raise Mistake(f"sampler.steps must be at least 1, got {steps}")
        if not 0 < sigma_min <= sigma_max:
            raise Mistake(
                "sampler.sigma_min must be positive and not above sampler.sigma_max, got "
                f"{sigma_min} and {sigma_max}"
            )
        if rho is not None and rho <= 0:
            raise Mistake(f"sampler.rho must be positive or null, got {rho}")
        self.steps, self.rho = steps, rho
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def levels(self, steps: int, sigma_max: float) -> list[float]:
        """`steps` levels from sigma_max down, and a zero."""
        return noise_levels(steps, self.sigma_min, sigma_max, self.rho)

    def prepare(self, denoiser: Denoiser, clean: Tensor, event_dims: int) -> None:
        """Measure what the sampler wants to know of a trained denoiser; most want nothing.

        Args:
            clean: `[*lead, K, *event]` recorded samples as the denoiser knows them.
            event_dims: how many trailing dimensions make one sample.
        """
        return

    def attach(self, value: Value | None) -> None:
        """Take the value that later samples are judged by; those that do not choose ignore it."""
        return

    @torch.no_grad()
    def sample(self, denoiser: Denoiser, noise: Tensor, nudge: Nudge | None = None) -> Tensor:
        """Samples of the shape of `noise`.

        Args:
            denoiser: of the model, perhaps wrapped by guidance.
            noise: `[*]` of unit scale, as the model's noise distribution draws it.
            nudge: guidance that moves the noisy sample itself.
        """
        levels = self.levels(self.steps, self.sigma_max)
        return self.integrate(denoiser, levels[0] * noise, levels, nudge)

    @torch.no_grad()
    def resume(
        self,
        denoiser: Denoiser,
        x: Tensor,
        sigma: float,
        steps: int,
        nudge: Nudge | None = None,
    ) -> Tensor:
        """Finish samples `x [*]` that are taken to be at the level `sigma`, in `steps` steps."""
        return self.integrate(denoiser, x, self.levels(steps, sigma), nudge)

    @abstractmethod
    def integrate(
        self, denoiser: Denoiser, x: Tensor, levels: Sequence[float], nudge: Nudge | None = None
    ) -> Tensor:
        """From x at levels[0] to levels[-1]."""


class Stepwise(Sampler):
    """A sampler whose steps are all alike; a sub-class is the rule for one of them."""

    def integrate(
        self, denoiser: Denoiser, x: Tensor, levels: Sequence[float], nudge: Nudge | None = None
    ) -> Tensor:
        memory: Any = None
        for step, (sigma, following) in enumerate(pairwise(levels)):
            if nudge is not None:
                x = nudge(x, level(sigma, x), step, len(levels) - 1)
            x, memory = self.step(denoiser, x, sigma, following, len(levels) - 1, memory)
        return x

    @abstractmethod
    def step(
        self,
        denoiser: Denoiser,
        x: Tensor,
        sigma: float,
        following: float,
        steps: int,
        memory: Any,
    ) -> tuple[Tensor, Any]:
        """x at the level `following`, and what the next of all `steps` steps should remember."""


class Euler(Stepwise):
    """Euler's rule on dx/dsigma = (x - D) / sigma, with churn; the jump to zero returns D.

    Args:
        churn: noise added back, S_churn: every step first raises sigma by the share
            min(churn / steps, sqrt(2) - 1). 0 is the plain differential equation.
        churn_levels: sigma outside of these two bounds is not raised, S_tmin and S_tmax.
        churn_scale: standard deviation of the added noise, S_noise.
        step_from_churned: the step starts where the noise was added. False starts from before,
            as public code of policy-guided diffusion does; its samples are too wide.

    Source: EDM, arXiv:2206.00364, algorithm 2 without its correction. Order 1, N calls.
    """

    def __init__(
        self,
        *,
        churn: NonNegative,
        churn_levels: Levels,
        churn_scale: NonNegative,
        step_from_churned: bool,
        **levels: Any,
    ) -> None:
        super().__init__(**levels)
        if churn < 0:
            raise Mistake(f"sampler.churn must not be negative, got {churn}")
        self.churn, self.churn_scale = churn, churn_scale
        self.churn_from, self.churn_to = churn_levels
        self.step_from_churned = step_from_churned
        self.stochastic = churn > 0

    def step(
        self,
        denoiser: Denoiser,
        x: Tensor,
        sigma: float,
        following: float,
        steps: int,
        memory: Any,
    ) -> tuple[Tensor, Any]:
        churned, raised = self.add_noise(x, sigma, steps)
        clean = denoiser(churned, level(raised, x))
        if following == 0:
            return clean, None
        slope = (churned - clean) / raised
        start = churned if self.step_from_churned else x
        return self.correct(denoiser, churned, start, slope, raised, following), None

    def add_noise(self, x: Tensor, sigma: float, steps: int) -> tuple[Tensor, float]:
        """x with noise added back, and the level it then has."""
        if not self.stochastic or not self.churn_from <= sigma <= self.churn_to:
            return x, sigma
        raised = sigma * (1 + min(self.churn / steps, 2**0.5 - 1))
        added = (raised**2 - sigma**2) ** 0.5 * self.churn_scale
        return x + added * torch.randn_like(x), raised

    def correct(
        self,
        denoiser: Denoiser,
        churned: Tensor,
        start: Tensor,
        slope: Tensor,
        sigma: float,
        following: float,
    ) -> Tensor:
        """x at `following` from the slope at `sigma`; Euler takes that slope for the whole step."""
        return start + (following - sigma) * slope


class Heun(Euler):
    """Euler's rule, corrected by the slope at its end: the sampler of EDM.

    Source: EDM, arXiv:2206.00364, algorithm 2. Order 2, 2 N - 1 calls (the jump to zero is
    Euler's).
    """

    def correct(
        self,
        denoiser: Denoiser,
        churned: Tensor,
        start: Tensor,
        slope: Tensor,
        sigma: float,
        following: float,
    ) -> Tensor:
        guess = start + (following - sigma) * slope
        end_slope = (guess - denoiser(guess, level(following, guess))) / following
        return churned + (following - sigma) * (slope + end_slope) / 2


class DDIM(Stepwise):
    """Re-noises the denoiser's estimate: x' = D + sqrt(sigma'^2 - v^2) eps + v z.

    With eps = (x - D) / sigma and v = eta sigma' sqrt(1 - sigma'^2 / sigma^2).

    Args:
        eta: 0 is deterministic and equals Euler's rule; 1 is ancestral sampling, DDPM.

    Source: DDIM, arXiv:2010.02502, equations 12 and 16. Order 1 (weak order 1 with noise), N calls.
    """

    def __init__(self, *, eta: UnitInterval, **levels: Any) -> None:
        super().__init__(**levels)
        if not 0 <= eta <= 1:
            raise Mistake(f"sampler.eta must lie in [0, 1], got {eta}")
        self.eta = eta
        self.stochastic = eta > 0

    def step(
        self,
        denoiser: Denoiser,
        x: Tensor,
        sigma: float,
        following: float,
        steps: int,
        memory: Any,
    ) -> tuple[Tensor, Any]:
        mean, std = renoise(x, denoiser(x, level(sigma, x)), sigma, following, self.eta)
        return (mean + std * torch.randn_like(x) if std > 0 else mean), None


def renoise(
    x: Tensor, clean: Tensor, sigma: float, following: float, eta: float
) -> tuple[Tensor, float]:
    """Mean and standard deviation of the next noisy sample, given the estimate of the clean one."""
    std = eta * following * (1 - (following / sigma) ** 2) ** 0.5
    return clean + (following**2 - std**2) ** 0.5 * (x - clean) / sigma, std


class DPMSolver2M(Stepwise):
    """DPM-Solver++ (2M): extrapolates the denoiser's estimate linearly in ln sigma.

    With q = sigma' / sigma, h = -ln q, and h_0 the h of the step before,
    x' = q x + (1 - q) [D + (h / 2 h_0) (D - D_0)].

    Args:
        noisy: the stochastic version, whose q above is q^2 and which adds
            sigma' sqrt(1 - q^2) z.

    Source: DPM-Solver++, arXiv:2211.01095, algorithm 2; `noisy`: its SDE-DPM-Solver++(2M).
    Order 2, N calls. Differs: no switch to order 1 before the end, because the last step here is
    the jump to zero.
    """

    def __init__(self, *, noisy: bool, **levels: Any) -> None:
        super().__init__(**levels)
        self.noisy = self.stochastic = noisy

    def step(
        self,
        denoiser: Denoiser,
        x: Tensor,
        sigma: float,
        following: float,
        steps: int,
        memory: Any,
    ) -> tuple[Tensor, Any]:
        clean = denoiser(x, level(sigma, x))
        if following == 0:
            return clean, None
        estimate = clean
        if memory is not None:
            clean_before, sigma_before = memory
            ahead = log_ratio(sigma, following) / log_ratio(sigma_before, sigma)
            estimate = clean + ahead / 2 * (clean - clean_before)
        kept = following / sigma
        if self.noisy:
            kept = kept**2
            fresh = following * (1 - kept) ** 0.5
            x = kept * x + (1 - kept) * estimate + fresh * torch.randn_like(x)
        else:
            x = kept * x + (1 - kept) * estimate
        return x, (clean, sigma)


def log_ratio(sigma: float, following: float) -> float:
    """ln (sigma / following): the length of a step in half the logarithm of signal over noise."""
    return math.log(sigma / following)
