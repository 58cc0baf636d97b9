"""Guidance by a value that need not be differentiable, by choosing among candidates at every step.

SVDD: arXiv:2408.08252.
"""

from typing import Any

import torch
from torch import Tensor

from reverie.mistake import Mistake
from reverie.ranges import Count, Positive, UnitInterval
from reverie.world_models.base import Critics
from reverie.world_models.diffusion.guidance import Channels, GaussianPolicy, Guidance, Guided
from reverie.world_models.diffusion.records import Records
from reverie.world_models.diffusion.samplers import DDIM, Denoiser, Value, level, renoise

VALUES = ("reward", "critic")


class SoftValueSampler(DDIM):
    """Approximate samples of p(x) exp(value(x) / temperature).

    Every step samples candidates from the kernel of ancestral sampling, evaluates the value of each
    denoised estimate, and keeps one, candidate m with probability proportional to
    exp(value_m / temperature). The bias decreases with the number of candidates and of steps. The
    estimate of the one kept is reused in the next step: candidates * (steps - 1) + 1 calls.

    Args:
        candidates: M; 1 is ancestral sampling.
        temperature: alpha, in units of the value; None keeps the best candidate.

    Without a value it is ancestral sampling.

    Source: SVDD-PM, arXiv:2408.08252, algorithm 1; None is what its public code does.
    """

    chooses = True

    def __init__(self, *, candidates: Count, temperature: Positive | None, **levels: Any) -> None:
        super().__init__(eta=1.0, **levels)
        if candidates < 1:
            raise Mistake(f"sampler.candidates must be at least 1, got {candidates}")
        if temperature is not None and temperature <= 0:
            raise Mistake(f"sampler.temperature must be positive or null, got {temperature}")
        self.candidates, self.temperature = candidates, temperature
        self.event_dims: int | None = None
        self.value: Value | None = None

    def prepare(self, denoiser: Denoiser, clean: Tensor, event_dims: int) -> None:
        self.event_dims = event_dims

    def attach(self, value: Value | None) -> None:
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
            return super().step(denoiser, x, sigma, following, steps, memory)
        if self.event_dims is None:
            raise RuntimeError("the sampler does not know the shape of a sample; prepare it first")
        clean = denoiser(x, level(sigma, x)) if memory is None else memory
        if following == 0:
            return clean, None
        mean, std = renoise(x, clean, sigma, following, self.eta)
        rows = x.ndim - self.event_dims - 1  # the dimension that counts samples
        tried = mean.repeat_interleave(self.candidates, rows)
        tried = tried + std * torch.randn_like(tried)
        estimate = denoiser(tried, level(following, x))
        chosen = choose(
            self.value(estimate).unflatten(rows, (-1, self.candidates)), self.temperature
        )
        return keep(tried, chosen, self.candidates), keep(estimate, chosen, self.candidates)


def choose(value: Tensor, temperature: float | None) -> Tensor:
    """The place `[*lead]` of the candidate that stays, of `value [*lead, M]`.

    In proportion to exp(value / temperature); None: the best.
    """
    if temperature is not None:
        # The largest of log weight + Gumbel noise is a draw in proportion to the weights.
        gumbel = -torch.empty_like(value).exponential_().log()
        value = value / temperature + gumbel
    return value.argmax(-1)


def keep(tried: Tensor, chosen: Tensor, candidates: int) -> Tensor:
    """Of `tried [*lead * M, *event]`, M candidates after each other, those `chosen [*lead]`."""
    rows = chosen.ndim - 1
    apart = tried.unflatten(rows, (-1, candidates))
    index = chosen.reshape(*chosen.shape, *[1] * (apart.ndim - chosen.ndim))
    return apart.gather(rows + 1, index.expand(*chosen.shape, 1, *apart.shape[rows + 2 :])).squeeze(
        rows + 1
    )


class SoftValueGuidance(Guidance):
    """Values segments or transitions for a sampler that chooses, in the data's own units.

    Args:
        value: `reward` is the discounted sum of a record's rewards, up to its end; `critic` the
            mean over its transitions of the smallest critic of the agent.
        discount: of the rewards, per control step.

    Values are divided by their standard deviation over recorded records, so a temperature means the
    same in every task. If that is zero, they are not divided.
    """

    chooses = True

    def __init__(self, *, value: str, discount: UnitInterval) -> None:
        if value not in VALUES:
            raise Mistake(f"guidance.value={value!r} is unknown; use one of {list(VALUES)}")
        if not 0 <= discount <= 1:
            raise Mistake(f"guidance.discount must lie in [0, 1], got {discount}")
        self.value, self.discount = value, discount
        self.needs_agent = self.needs_critics = value == "critic"
        self.judged: Value | None = None

    def attach(self, records: Records, examples: Tensor, critics: Critics | None) -> None:
        def judged(clean: Tensor) -> Tensor:
            rows, keep = records.decode(clean)  # [*lead, M]
            if self.value == "reward":
                steps = torch.arange(keep.shape[-1], device=keep.device)
                return (torch.where(keep, rows.reward, 0.0) * self.discount**steps).sum(-1)
            assert critics is not None
            found = critics(rows.obs.flatten(1, -2), rows.action.flatten(1, -2))
            if found is None:
                raise Mistake("guidance.value=critic needs an agent with critics")
            lowest = found.amin(1).view_as(keep)
            return torch.where(keep, lowest, 0.0).sum(-1) / keep.sum(-1).clamp(min=1)

        self.judged = judged
        self.examples = examples

    def guide(
        self,
        denoiser: Denoiser,
        policy: GaussianPolicy,
        channels: Channels,
        behaviour: GaussianPolicy | None = None,
    ) -> Guided:
        if self.judged is None:
            raise RuntimeError("guidance by a value has nothing to judge by; attach it first")
        judge, spread = self.judged, None

        def value(clean: Tensor) -> Tensor:
            nonlocal spread
            if spread is None:
                recorded = self.examples.expand(len(clean), *self.examples.shape)
                spread = judge(recorded).std(1, keepdim=True)  # [S, 1]
                spread = torch.where(spread > 0, spread, 1.0)
            return judge(clean) / spread

        return Guided(denoiser, value=value)
