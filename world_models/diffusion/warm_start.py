"""Warm starts for receding-horizon use: the last plan, shifted, is close to the next one."""

import torch
from torch import Tensor

from reverie.mistake import Mistake
from reverie.ranges import Count, Positive
from reverie.world_models.diffusion.samplers import Denoiser, Nudge, Sampler


class WarmStart:
    """Real-time iteration: treats the guess as a sample at a low noise level and denoises it.

    Not for data: without new noise the spread shrinks and modes hardly change.

    Args:
        sigma: level at which the guess is put.
        steps: of the sampler from there.
        noisy: add noise of that level to the guess, which keeps the distribution of samples as far
            as sigma covers the error of the guess; false: as published.

    Source: RTI-DP, arXiv:2508.05396, in the levels of EDM. Differs: steps jump from level to
    level of the sampler, where public code moves one of 100 timesteps and skips the rest.
    """

    def __init__(self, *, sigma: Positive, steps: Count, noisy: bool) -> None:
        if sigma <= 0 or steps < 1:
            raise Mistake(
                "warm_start.sigma must be positive and warm_start.steps at least 1, got "
                f"{sigma} and {steps}"
            )
        self.sigma, self.steps, self.noisy = sigma, steps, noisy

    def sample(
        self, sampler: Sampler, denoiser: Denoiser, guess: Tensor, nudge: Nudge | None = None
    ) -> Tensor:
        """A sample near a clean `guess [*]`, such as `moved_on(plan, 1)`."""
        x = guess + self.sigma * torch.randn_like(guess) if self.noisy else guess
        return sampler.resume(denoiser, x, self.sigma, self.steps, nudge)


def moved_on(plan: Tensor, rows: int) -> Tensor:
    """A plan `[*, L, F]` with its first rows gone and its last row repeated in their stead."""
    last = plan[..., -1:, :].expand(*plan.shape[:-2], rows, plan.shape[-1])
    return torch.cat([plan[..., rows:, :], last], -2)
