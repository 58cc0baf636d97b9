"""Samples that satisfy a condition: a return, by classifier-free guidance, or known entries."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reverie.world_models.diffusion.samplers import Denoiser, leading

ConditionalDenoiser = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""`(x, sigma, condition) -> E[y | x, condition]`; without a condition, the mean over all."""


class ClassifierFree:
    """Classifier-free guidance: D = w D(x, c) + (1 - w) D(x), for returns or any other condition.

    Args:
        weight: w; 1 is the conditional model, more exaggerates the condition, 0 ignores it.
        levels: sigma outside of these two bounds has w = 1.

    Source: arXiv:2207.12598, equation 6 (their w is ours less one); bounds: arXiv:2404.07724.
    Two calls a call.
    """

    def __init__(self, *, weight: float, levels: Sequence[float]) -> None:
        self.weight = weight
        self.low, self.high = levels

    def guide(self, denoiser: ConditionalDenoiser, condition: Tensor) -> Denoiser:
        """A denoiser for samples that share or each have a `condition [*lead, C]`."""

        def guided(x: Tensor, sigma: Tensor) -> Tensor:
            given, free = denoiser(x, sigma, condition), denoiser(x, sigma, None)
            level = leading(sigma, x)
            inside = (self.low <= level) & (level <= self.high)
            return given + torch.where(inside, self.weight - 1, 0.0) * (given - free)

        return guided


def holding(denoiser: Denoiser, known: Tensor, mask: Tensor) -> Denoiser:
    """A denoiser that is certain of some entries, so that samplers end there exactly.

    Args:
        known: clean values in the model's units; broadcasts against samples. Of a sampler that
            tries several candidates for each of `[S, B, *event]`, those of a row follow each other.
        mask: bool, true where an entry is known; broadcasts too.

    Source: replacement of known entries, arXiv:2011.13456, appendix I.2, within the estimate
    instead of the noisy sample.
    """

    def held(x: Tensor, sigma: Tensor) -> Tensor:
        values = known
        if known.ndim == x.ndim and known.shape[1] not in (1, x.shape[1]):
            values = known.repeat_interleave(x.shape[1] // known.shape[1], 1)
        return torch.where(mask, values, denoiser(x, sigma))

    return held


def bound(
    network: Callable[..., Tensor], asked: Tensor | None
) -> Callable[[Tensor, Tensor], Tensor]:
    """A network of records and labels, which asks for the same whenever it is called."""
    return network if asked is None else lambda x, label: network(x, label, asked)
