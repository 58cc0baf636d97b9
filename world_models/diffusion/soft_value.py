"""Guidance by a value that need not be differentiable: candidates at every step, and a choice.

SVDD: arXiv:2408.08252.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from world_models.diffusion.samplers import DDIM, Denoiser, level, renoised

Value = Callable[[Tensor], Tensor]
"""`clean samples [*lead, *event] -> [*lead]`: a return, a Q, minus a doubt, ..."""


class SoftValueSampler(DDIM):
    """Samples of p(x) exp(value(x) / temperature), nearly.

    Every step draws candidates from the kernel of ancestral sampling, judges each by the value of
    its denoised estimate, and keeps one, candidate m with probability proportional to
    exp(value_m / temperature). The bias falls with the number of candidates and of steps. The
    estimate of the one that stays serves the next step: candidates * (steps - 1) + 1 calls.

    Args:
        candidates: M; 1 is ancestral sampling.
        temperature: alpha, in units of the value; None keeps the best candidate.
        event_dims: how many trailing dimensions make one sample; 2 for windows, 1 for rows.

    Source: SVDD-PM, arXiv:2408.08252, algorithm 1; None is what its public code does.
    """

    def __init__(
        self, *, candidates: int, temperature: float | None, event_dims: int, **levels: Any
    ) -> None:
        super().__init__(eta=1.0, **levels)
        if candidates < 1:
            raise ValueError(f"sampler.candidates must be at least 1, got {candidates}")
        if temperature is not None and temperature <= 0:
            raise ValueError(f"sampler.temperature must be positive or null, got {temperature}")
        self.candidates, self.temperature = candidates, temperature
        self.event_dims = event_dims
        self.value: Value | None = None

    def attach(self, value: Value) -> None:
        """Take the value that later samples are judged by."""
        self.value = value

    def step(
        self,
        denoiser: Denoiser,
        x: Tensor,
        sigma: float,
        following: float,
        steps: int,
        memory: Any,
    ) -> tuple[Tensor, Any]:
        if self.value is None:
            raise RuntimeError("the sampler has no value to go by; attach one before sampling")
        clean = denoiser(x, level(sigma, x)) if memory is None else memory
        if following == 0:
            return clean, None
        mean, std = renoised(x, clean, sigma, following, self.eta)
        rows = x.ndim - self.event_dims - 1  # the dimension that counts samples
        tried = mean.repeat_interleave(self.candidates, rows)
        tried = tried + std * torch.randn_like(tried)
        estimate = denoiser(tried, level(following, x))
        chosen = self._choose(self.value(estimate).unflatten(rows, (-1, self.candidates)))
        index = chosen.reshape(*chosen.shape, 1, *[1] * self.event_dims)
        index = index.expand(*chosen.shape, 1, *x.shape[rows + 1 :])
        kept = [
            each.unflatten(rows, (-1, self.candidates)).gather(rows + 1, index).squeeze(rows + 1)
            for each in (tried, estimate)
        ]
        return kept[0], kept[1]

    def _choose(self, value: Tensor) -> Tensor:
        """The place of the candidate that stays, of `value [*lead, M]`."""
        if self.temperature is not None:
            # The largest of log weight + Gumbel noise is a draw in proportion to the weights.
            gumbel = -torch.empty_like(value).exponential_().log()
            value = value / self.temperature + gumbel
        return value.argmax(-1)
