"""Guidance of an unconditional denoiser towards a policy.

Policy-guided diffusion: arXiv:2404.06356. A guidance takes a denoiser and returns the input of a
sampler: another denoiser, and sometimes a shift of the noisy sample.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from reverie.mistake import Mistake
from reverie.ranges import NonNegative, Positive, UnitInterval, Whole
from reverie.world_models.base import Critics
from reverie.world_models.diffusion.records import Records
from reverie.world_models.diffusion.samplers import Denoiser, Nudge, Value, leading

GaussianPolicy = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""`obs [S, B, D] -> mean, std  [S, B, A]` of the action in [-1, 1], raw observations.

A policy squashed by tanh gives tanh(m) and s (1 - tanh(m)^2); one without noise gives no std.
"""

LARGEST_ACTION = 0.999
"""Data are clipped to this before arctanh, so no action of the model lies beyond."""
SMALLEST_STD = 1e-3
"""In the model's units; policies may be sharper than what a model can follow."""


@dataclass(frozen=True)
class Channels:
    """Channels of observations and actions in a sample, and their units.

    Attributes:
        obs, action: places in the last dimension.
        mean, std: `[*, F]`; x std + mean is an observation in raw units, and an action before tanh.
    """

    obs: slice
    action: slice
    mean: Tensor
    std: Tensor

    def raw(self, x: Tensor, part: slice) -> Tensor:
        """The channels of `part`, without the model's units."""
        return x[..., part] * self.std[..., part] + self.mean[..., part]


class Guided(NamedTuple):
    """What a sampler is given: `sampler.sample(guided.denoiser, noise, guided.nudge)`.

    A sampler that chooses among candidates is handed `value` before.
    """

    denoiser: Denoiser
    nudge: Nudge | None = None
    value: Value | None = None


class Guidance(ABC):
    """Guides samples of segments `[S, B, L, F]` or transitions `[S, B, F]` towards a target.

    Attributes:
        follows_policy: whether it guides actions towards the policy, for segments only.
        needs_agent: whether it needs an agent that has been trained.
        needs_critics: whether it uses the agent's critics.
        needs_behaviour: whether `guide` needs a clone of the behaviour policy.
        needs_condition: whether the denoiser must be conditional.
        nudges: whether it shifts the noisy sample itself.
        chooses: whether it ranks the candidates of a sampler.
    """

    follows_policy: bool = False
    needs_agent: bool = True
    needs_critics: bool = False
    needs_behaviour: bool = False
    needs_condition: bool = False
    nudges: bool = False
    chooses: bool = False

    def attach(self, records: Records, examples: Tensor, critics: Critics | None) -> None:
        """Keep what judging samples takes, before `guide`; most guidance needs nothing of it.

        Args:
            records: layout of the samples.
            examples: `[K, *event]` recorded ones, in the model's units.
            critics: of the agent as they now are.
        """
        return

    @abstractmethod
    def guide(
        self,
        denoiser: Denoiser,
        policy: GaussianPolicy,
        channels: Channels,
        behaviour: GaussianPolicy | None = None,
    ) -> Guided:
        """Guide a denoiser.

        Args:
            denoiser: takes what records are asked for as a third argument, where `needs_condition`
                says so.
            policy: whose actions the samples should hold, where `follows_policy` says so.
            channels: of the denoiser's samples.
            behaviour: a clone of the policy behind the data, where `needs_behaviour` asks for it.
        """


class PolicyGuidance(Guidance):
    """Samples of p(tau) prod_t pi(a_t | s_t)^strength, in a closed form independent of the steps.

    The action of the clean sample, given the noisy one, is taken for N(D, v) with
    v = sigma^2 d^2 / (sigma^2 + d^2). Its product with the policy N(m, s^2)^strength at the
    denoised observations has the mean D + v (m - D) / (s^2 / strength + v), which replaces
    D. Only actions change. Exact if the data are Gaussian with variance d^2.

    Args:
        strength: the power of the policy; 0 = no guidance.
        behaviour_ratio: share of the same guidance towards the cloned behaviour policy that is
            subtracted; 0 = none, and no clone is needed.
        deterministic_std: std assumed for deterministic policies, in units of the action.
        sigma_data: d, standard deviation of the data in the model's units.

    Source: ours. The target distribution is policy-guided diffusion's, arXiv:2404.06356;
    `PaperGuidance` is its rule. The behaviour term is after STITCH-OPE, arXiv:2505.20781.
    """

    follows_policy = True

    def __init__(
        self,
        *,
        strength: NonNegative,
        behaviour_ratio: UnitInterval,
        deterministic_std: Positive,
        sigma_data: Positive,
    ) -> None:
        if strength < 0:
            raise Mistake(f"guidance.strength must not be negative, got {strength}")
        require_positive_std(deterministic_std)
        if not 0 <= behaviour_ratio <= 1:
            raise Mistake(f"guidance.behaviour_ratio must lie in [0, 1], got {behaviour_ratio}")
        self.strength, self.behaviour_ratio = strength, behaviour_ratio
        self.deterministic_std, self.sigma_data = deterministic_std, sigma_data
        self.needs_behaviour = behaviour_ratio > 0

    def guide(
        self,
        denoiser: Denoiser,
        policy: GaussianPolicy,
        channels: Channels,
        behaviour: GaussianPolicy | None = None,
    ) -> Guided:
        if self.needs_behaviour and behaviour is None:
            raise Mistake(
                f"guidance.behaviour_ratio={self.behaviour_ratio} needs a cloned behaviour policy; "
                "set behaviour=clone, or the ratio to 0"
            )

        def guided(x: Tensor, sigma: Tensor) -> Tensor:
            clean = denoiser(x, sigma)
            variance = posterior_variance(leading(sigma, x), self.sigma_data)
            move = self._move(clean, variance, policy, channels)
            if self.needs_behaviour and behaviour is not None:
                back = self._move(clean, variance, behaviour, channels)
                move = move - self.behaviour_ratio * back
            return with_moved_actions(clean, move, channels)

        return Guided(guided)

    def _move(
        self, clean: Tensor, variance: Tensor, policy: GaussianPolicy, channels: Channels
    ) -> Tensor:
        action_mean, action_std = at_segments(policy, channels.raw(clean, channels.obs))
        if action_std is None:
            action_std = torch.full_like(action_mean, self.deterministic_std)
        mean, std = in_model_units(action_mean, action_std, channels)
        return product_move(clean[..., channels.action], variance, mean, std, self.strength)


class PaperGuidance(Guidance):
    """The published rule: before step i of N, noisy actions are shifted by lambda_i grad log pi.

    lambda_i = coefficient [1 - i / N + cosine sin(pi (i + 1) / N)], 0 at the last step. The
    effect depends on steps, solver and churn, so the coefficient does not carry over. For
    segments: gradients are normalised over the actions of a whole segment.

    Args:
        coefficient, cosine: see above.
        delay: initial steps without guidance.
        denoised: policy and gradient are taken at the denoised sample, at one more call a step;
            false: at the noisy one.
        normalise: divide the gradient of a segment by its norm.
        deterministic_std: std assumed for deterministic policies, in units of the action.

    Source: policy-guided diffusion, arXiv:2404.06356, as its public code has it. Differs: the 1e-8
    in the normalisation is added to the norm, not to the result, so a zero gradient stays zero.
    """

    TINY = 1e-8
    follows_policy = True
    nudges = True

    def __init__(
        self,
        *,
        coefficient: NonNegative,
        cosine: NonNegative,
        delay: Whole,
        denoised: bool,
        normalise: bool,
        deterministic_std: Positive,
    ) -> None:
        if coefficient < 0:
            raise Mistake(f"guidance.coefficient must not be negative, got {coefficient}")
        require_positive_std(deterministic_std)
        self.coefficient, self.cosine, self.delay = coefficient, cosine, delay
        self.denoised, self.normalise = denoised, normalise
        self.deterministic_std = deterministic_std

    def guide(
        self,
        denoiser: Denoiser,
        policy: GaussianPolicy,
        channels: Channels,
        behaviour: GaussianPolicy | None = None,
    ) -> Guided:
        def nudge(x: Tensor, sigma: Tensor, step: int, steps: int) -> Tensor:
            weight = self.weight(step, steps)
            if weight == 0:
                return x
            looked_at = denoiser(x, sigma) if self.denoised else x
            return with_moved_actions(
                x, weight * self._slope(looked_at, policy, channels), channels
            )

        return Guided(denoiser, nudge)

    def weight(self, step: int, steps: int) -> float:
        """lambda of one step."""
        if not self.delay <= step < steps - 1:
            return 0.0
        bump = self.cosine * math.sin(math.pi * (step + 1) / steps)
        return self.coefficient * (1 - step / steps + bump)

    def _slope(self, x: Tensor, policy: GaussianPolicy, channels: Channels) -> Tensor:
        """Gradient of log N(tanh(x std + mean); m, s^2) with respect to the actions of x."""
        mean, std = at_segments(policy, channels.raw(x, channels.obs))
        if std is None:
            std = torch.full_like(mean, self.deterministic_std)
        action = torch.tanh(channels.raw(x, channels.action))
        slope = (mean - action) / std.square() * (1 - action.square())
        slope = slope * channels.std[..., channels.action]
        if self.normalise:
            norm = torch.linalg.vector_norm(slope, dim=(-2, -1), keepdim=True)
            slope = slope / (norm + self.TINY)
        return slope


def require_positive_std(std: float) -> None:
    """Raises ValueError for a policy that would be taken for a point."""
    if std <= 0:
        raise Mistake(f"guidance.deterministic_std must be positive, got {std}")


def posterior_variance(sigma: Tensor, sigma_data: float) -> Tensor:
    """Of y given y + sigma n, where y has the standard deviation sigma_data."""
    return sigma.square() * sigma_data**2 / (sigma.square() + sigma_data**2)


def product_move(
    clean: Tensor, variance: Tensor, mean: Tensor, std: Tensor, strength: float
) -> Tensor:
    """From the mean of N(clean, variance) to that of its product with N(mean, std^2)^strength."""
    pull = variance * strength
    return pull * (mean - clean) / (std.square() + pull)


def in_model_units(
    action_mean: Tensor, action_std: Tensor, channels: Channels
) -> tuple[Tensor, Tensor]:
    """A Gaussian over actions in [-1, 1] as one over their standardised arctanh, to first order."""
    mean = action_mean.clamp(-LARGEST_ACTION, LARGEST_ACTION)
    scale = channels.std[..., channels.action]
    std = action_std / ((1 - mean.square()) * scale)
    mean = (torch.arctanh(mean) - channels.mean[..., channels.action]) / scale
    return mean, std.clamp_min(SMALLEST_STD)


def at_segments(policy: GaussianPolicy, obs: Tensor) -> tuple[Tensor, Tensor | None]:
    """A policy, which knows `[S, B, D]`, at observations `[S, ..., D]`."""
    mean, std = policy(obs.reshape(obs.shape[0], -1, obs.shape[-1]))
    shape = (*obs.shape[:-1], mean.shape[-1])
    return mean.reshape(shape), None if std is None else std.expand_as(mean).reshape(shape)


def with_moved_actions(x: Tensor, move: Tensor, channels: Channels) -> Tensor:
    """x with `move` added to its actions."""
    moved = x.clone()
    moved[..., channels.action] += move
    return moved
