"""The best of several start noises, for samplers that follow an ordinary differential equation.

After optimal boundary conditions of diffusion ODEs, arXiv:2305.15357.
"""

from typing import Any

import torch
from torch import Tensor

from reverie.mistake import Mistake
from reverie.ranges import Count, Positive
from reverie.world_models.diffusion.samplers import Denoiser, DPMSolver2M, Nudge, Value
from reverie.world_models.diffusion.soft_value import choose, keep


class BestNoiseSampler(DPMSolver2M):
    """DPM-Solver++ (2M) from the one of `candidates` start noises whose sample has the best value.

    The start determines where an ordinary differential equation ends. Each candidate is evaluated
    by a sample in `look_ahead` steps; one is kept, with probability proportional to
    exp(value / temperature), and only that one is integrated in all steps.
    candidates * look_ahead + steps calls; with look_ahead = steps it is the best of `candidates`
    samples and costs candidates * steps.

    Args:
        candidates: n; the first is the given noise, the others are new Gaussian noise.
        look_ahead: steps of the samples that are compared.
        temperature: in units of the value; None keeps the best.

    Without a value it is 2M. Warm starts do not begin with noise and are continued unchanged.

    Source: arXiv:2305.15357. Differs: there one noise, the best on average over a reference set,
    is used for all inputs; here every sample chooses its own, because samples must differ.
    """

    chooses = True

    def __init__(
        self, *, candidates: Count, look_ahead: Count, temperature: Positive | None, **levels: Any
    ) -> None:
        super().__init__(noisy=False, **levels)
        for name, value in (("candidates", candidates), ("look_ahead", look_ahead)):
            if value < 1:
                raise Mistake(f"sampler.{name} must be at least 1, got {value}")
        if temperature is not None and temperature <= 0:
            raise Mistake(f"sampler.temperature must be positive or null, got {temperature}")
        self.candidates, self.look_ahead, self.temperature = candidates, look_ahead, temperature
        self.stochastic = True  # candidates are Gaussian
        self.event_dims: int | None = None
        self.value: Value | None = None

    def prepare(self, denoiser: Denoiser, clean: Tensor, event_dims: int) -> None:
        self.event_dims = event_dims

    def attach(self, value: Value | None) -> None:
        self.value = value

    @torch.no_grad()
    def sample(self, denoiser: Denoiser, noise: Tensor, nudge: Nudge | None = None) -> Tensor:
        if self.value is None or self.candidates == 1:
            return super().sample(denoiser, noise, nudge)
        if self.event_dims is None:
            raise RuntimeError("the sampler does not know the shape of a sample; prepare it first")
        rows = noise.ndim - self.event_dims - 1  # the dimension that counts samples
        given = noise.unsqueeze(rows + 1)
        fresh = [torch.randn_like(given) for _ in range(self.candidates - 1)]
        tried = torch.cat([given, *fresh], rows + 1).flatten(rows, rows + 1)
        levels = self.levels(self.look_ahead, self.sigma_max)
        ahead = self.integrate(denoiser, levels[0] * tried, levels, nudge)
        value = self.value(ahead).unflatten(rows, (-1, self.candidates))
        chosen = choose(value, self.temperature)
        if self.look_ahead == self.steps:
            return keep(ahead, chosen, self.candidates)
        return super().sample(denoiser, keep(tried, chosen, self.candidates), nudge)
