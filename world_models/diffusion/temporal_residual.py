"""A temporal network for segments on a CPU: residual blocks shared by all steps."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.mistake import Mistake
from reverie.ranges import Count, Positive
from reverie.world_models.diffusion.unet import Condition


class TemporalResidual(nn.Module):
    """h <- h + Linear(SiLU(convolution(h) + time)) over the steps of a segment, `blocks` times.

    Block i looks `2^(i mod octaves)` steps ahead and back. Each step also receives its differences
    from both neighbours, in units of the noise and of a learned step size: at small noise the
    dynamics are visible in these differences, whose spread is a tenth of that of observations.

    Args:
        event: (length, channels) of a record; any length may be sampled.
        width: of the blocks.
        blocks: their number.
        octaves: number of distances 1, 2, 4, ... before they start again.
        frequencies: random Fourier features of the noise level, fixed.
        step: initial value of the step size, in standard deviations of the records.
        views: how many versions of a record, side by side in its channels, are inputs; differences
            only those of the first.
        numbers: how many numbers a record is conditioned on; 0 for none.

    Source: ours, after SynthER's network (arXiv:2303.06614) and dilated convolutions
    (arXiv:1609.03499). Weights are shared by all steps, as in the U-Net, but nothing is pooled, and
    channels are last, so that a convolution is one matrix product.
    """

    frequencies: Tensor

    def __init__(
        self,
        *,
        event: tuple[int, ...],
        width: Count,
        blocks: Count,
        octaves: Count,
        frequencies: Count,
        step: Positive,
        views: int = 1,
        numbers: int = 0,
    ) -> None:
        super().__init__()
        if len(event) != 2:
            raise Mistake(
                f"a temporal network works on segments, not on records of shape {event}; choose "
                "generator=transition with its own network"
            )
        channels = self.channels = event[1]
        self.register_buffer("frequencies", torch.randn(frequencies))
        self.step = nn.Parameter(torch.full((channels,), math.log(step)))
        self.first = nn.Linear(2 * frequencies + 1, width)
        self.second = nn.Linear(width, width)
        self.condition = Condition(numbers, width) if numbers else None
        self.input = nn.Linear((views + 2) * channels, width)
        self.reach = [2 ** (block % octaves) for block in range(blocks)]
        self.times = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.convolutions = nn.ModuleList(nn.Linear(3 * width, width) for _ in range(blocks))
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.output = nn.Linear(width, channels)

    def forward(
        self,
        x: Float[Tensor, "B L V"],
        label: Float[Tensor, " B"],
        asked: Float[Tensor, "B N"] | None = None,
    ) -> Float[Tensor, "B L C"]:
        label = label.view(-1, 1, 1)
        angle = 2 * math.pi * label * self.frequencies
        time = self.second(F.silu(self.first(torch.cat([label, angle.sin(), angle.cos()], -1))))
        if self.condition is not None and asked is not None:
            time = time + self.condition(asked).unsqueeze(1)
        step = self.differences(x[..., : self.channels], label)
        before, after = F.pad(step, (0, 0, 1, 0)), F.pad(step, (0, 0, 0, 1))
        h = self.input(torch.cat([x, before, after], -1)) + time
        for reach, *layers in zip(
            self.reach, self.times, self.convolutions, self.blocks, strict=True
        ):
            at, convolution, block = layers
            h = h + block(F.silu(convolution(neighbours(h, reach)) + at(time)))
        return self.output(F.silu(h))

    def differences(
        self, x: Float[Tensor, "B L C"], label: Float[Tensor, "B 1 1"]
    ) -> Float[Tensor, "B M C"]:
        """Of rows that follow each other, scaled to a variance near one at every level of noise.

        EDM hands over (y + sigma n) / sqrt(1 + sigma^2) and ln(sigma) / 4.
        """
        variance = (8 * label).exp()
        spread = ((2 * self.step).exp() + 2 * variance) / (1 + variance)
        return x.diff(dim=1) * spread.rsqrt()


def neighbours(h: Float[Tensor, "B L W"], reach: int) -> Float[Tensor, "B L V"]:
    """Each row between those `reach` before and behind it; zeros where there are none."""
    length = h.shape[1]
    padded = F.pad(h, (0, 0, reach, reach))
    return torch.cat([padded[:, :length], h, padded[:, 2 * reach :]], -1)
