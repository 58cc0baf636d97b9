"""Networks of the generators: a temporal U-Net for segments, a residual MLP for transitions."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.mistake import Mistake
from reverie.ranges import Count


class GroupNorm(nn.Module):
    """Normalises groups of channels, at each time step by itself or over all of them.

    Source: the authors' code of arXiv:2404.06356 has `over_time` false, because its normalisation
    treats the steps of a single segment as a batch; the usual layer has it true.
    """

    EPSILON = 1e-6

    def __init__(self, groups: int, channels: int, *, over_time: bool) -> None:
        super().__init__()
        self.over_time = over_time
        self.norm = nn.GroupNorm(groups, channels, eps=self.EPSILON)

    def forward(self, x: Float[Tensor, "B C L"]) -> Float[Tensor, "B C L"]:
        if self.over_time:
            return self.norm(x)
        return self.norm(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(x), -1)).mT


class Block(nn.Module):
    """Convolution, plus a projection of the time embedding if there is one, norm, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, embedding: int, groups: int, over_time: bool
    ) -> None:
        super().__init__()
        # An even kernel is padded by one more row at the end than at the start.
        self.padding = ((kernel - 1) // 2, kernel // 2)
        self.convolution = nn.Conv1d(inputs, outputs, kernel)
        self.project = nn.Linear(embedding, outputs) if embedding else None
        self.norm = GroupNorm(groups, outputs, over_time=over_time)

    def forward(
        self, x: Float[Tensor, "B I L"], time: Float[Tensor, "B T"]
    ) -> Float[Tensor, "B O L"]:
        x = self.convolution(F.pad(x, self.padding))
        if self.project is not None:
            x = x + self.project(time).unsqueeze(-1)
        return F.relu(self.norm(x))


class Condition(nn.Module):
    """Embeds the numbers that a record is conditioned on; NaN means no condition and gives zeros.

    Source: classifier-free guidance, arXiv:2207.12598, with zeros for its null condition.
    """

    OCTAVES = 4
    """Waves per number, the longest of period 2; numbers mostly lie in [0, 1]."""

    def __init__(self, numbers: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear((1 + 2 * self.OCTAVES) * numbers, width)
        self.second = nn.Linear(width, width)

    def forward(self, asked: Float[Tensor, "B N"]) -> Float[Tensor, "B W"]:
        known = ~asked.isnan().any(-1, keepdim=True)
        asked = torch.where(known, asked, 0.0)
        angle = torch.cat([math.pi * 2**octave * asked for octave in range(self.OCTAVES)], -1)
        features = torch.cat([asked, angle.sin(), angle.cos()], -1)
        return known * self.second(F.silu(self.first(features)))


class TemporalUNet(nn.Module):
    """A convolutional network over the steps of a segment, of any length that its pooling allows.

    Args:
        event: (length, channels) of a record.
        width: W, channels of the first block; block i has 2^i W.
        blocks: resolutions, each half as fine as the one before.
        groups: of the normalisation.
        norm_over_time: see `GroupNorm`.
        views: how many versions of a record, side by side in its channels, are inputs.
        numbers: N, how many numbers a record is conditioned on; 0 for none.

    Source: the authors' code of arXiv:2404.06356: no residual connections, no attention.
    """

    def __init__(
        self,
        *,
        event: tuple[int, ...],
        width: Count,
        blocks: Count,
        groups: Count,
        norm_over_time: bool,
        views: int = 1,
        numbers: int = 0,
    ) -> None:
        super().__init__()
        if len(event) != 2:
            raise Mistake(
                f"a temporal U-Net works on segments, and the records are of shape {event}; choose "
                "generator=transition with its own network"
            )
        if width < 16 or width % groups or width % 8 or event[0] < 2 ** (blocks - 1):
            raise Mistake(
                "generator.network needs width >= 16, a multiple of 8 and of groups, and "
                f"length >= 2^(blocks - 1), got width={width}, groups={groups}, blocks={blocks}, "
                f"length={event[0]}"
            )
        features = event[1]
        self.embed = Sinusoids(width)
        self.condition = Condition(numbers, width) if numbers else None

        def block(inputs: int, outputs: int, kernel: int, timed: bool) -> Block:
            return Block(inputs, outputs, kernel, timed * width, groups, norm_over_time)

        widths = [width * 2**i for i in range(blocks)]
        before = [views * features, *widths]
        self.encoder = nn.ModuleList(
            nn.ModuleList([block(before[i], c, 3, True), block(c, c, 3, False)])
            for i, c in enumerate(widths)
        )
        self.decoder = nn.ModuleList(
            nn.ModuleList(
                [block(2 * c, c, 2, True), block(2 * c, c, 3, False), block(c, c, 3, False)]
            )
            for c in reversed(widths[:-1])
        )
        self.output = nn.Conv1d(width, features, 1)
        lecun_normal_(self)

    def forward(
        self,
        x: Float[Tensor, "B L V"],
        label: Float[Tensor, " B"],
        asked: Float[Tensor, "B N"] | None = None,
    ) -> Float[Tensor, "B L C"]:
        time = self.embed(label)
        if self.condition is not None and asked is not None:
            time = time + self.condition(asked)
        time = F.silu(time)
        x = x.mT
        skips: list[Tensor] = []
        for stage in self.encoder:
            assert isinstance(stage, nn.ModuleList)
            first, second = stage
            x = F.max_pool1d(skips[-1], 2) if skips else x
            skips.append(second(first(x, time), time))
        x = skips.pop()
        for stage in self.decoder:
            assert isinstance(stage, nn.ModuleList)
            widen, first, second = stage
            skip = skips.pop()
            x = widen(F.interpolate(x, size=skip.shape[-1], mode="nearest"), time)
            x = second(first(torch.cat([x, skip], 1), time), time)
        return self.output(x).mT


class Sinusoids(nn.Module):
    """Sine and cosine of the label at W / 8 frequencies, through two linear layers."""

    LONGEST = 10_000.0
    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 8
        frequencies = torch.exp(-torch.arange(half) * math.log(self.LONGEST) / (half - 1))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.first, self.second = nn.Linear(2 * half, width), nn.Linear(width, width)

    def forward(self, label: Float[Tensor, " B"]) -> Float[Tensor, "B W"]:
        angle = label.unsqueeze(-1) * self.frequencies
        return self.second(F.silu(self.first(torch.cat([angle.sin(), angle.cos()], -1))))


class ResidualMLP(nn.Module):
    """h <- h + Linear(ReLU(h)), `blocks` times, on a record as one vector.

    Args:
        event: shape of a record; a segment is one long vector, so the network is bound to its
            length and has no notion of time.
        width: of the blocks.
        blocks: their number.
        embedding: width of the embedding of record and noise level.
        frequencies: random Fourier features of the noise level, fixed.
        views, numbers: see `TemporalUNet`.

    Source: the authors' code of SynthER, arXiv:2303.06614, for single transitions.
    """

    frequencies: Tensor

    def __init__(
        self,
        *,
        event: tuple[int, ...],
        width: Count,
        blocks: Count,
        embedding: Count,
        frequencies: Count,
        views: int = 1,
        numbers: int = 0,
    ) -> None:
        super().__init__()
        self.event = event
        channels = math.prod(event)
        self.register_buffer("frequencies", torch.randn(frequencies))
        self.first = nn.Linear(2 * frequencies + 1, embedding)
        self.second = nn.Linear(embedding, embedding)
        self.input = nn.Linear(views * channels, embedding)
        self.widen = nn.Linear(embedding, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.output = nn.Linear(width, channels)
        self.condition = Condition(numbers, embedding) if numbers else None

    def forward(
        self,
        x: Float[Tensor, "B ..."],
        label: Float[Tensor, " B"],
        asked: Float[Tensor, "B N"] | None = None,
    ) -> Float[Tensor, "B ..."]:
        label = label.unsqueeze(-1)
        angle = 2 * math.pi * label * self.frequencies
        time = self.second(F.silu(self.first(torch.cat([label, angle.sin(), angle.cos()], -1))))
        if self.condition is not None and asked is not None:
            time = time + self.condition(asked)
        h = self.widen(self.input(x.flatten(1)) + time)
        for block in self.blocks:
            h = h + block(F.relu(h))
        return self.output(F.relu(h)).unflatten(-1, self.event)


def lecun_normal_(network: nn.Module) -> None:
    """Weights of variance 1 / fan-in, biases zero."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d):
            nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.weight[0].numel()))
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
