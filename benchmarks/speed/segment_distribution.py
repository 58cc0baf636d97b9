"""A distribution of segments whose denoiser, samples and projections are known in closed form."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

GRID = 4001
"""Points on which the distribution function of a projection is inverted."""
SPAN = 8.0
"""Standard deviations of the widest component that this grid covers on both sides."""


class SegmentMixture:
    """Equal Gaussians around smooth curves, with the same smooth noise around each.

    A segment `[L, F]` is, channel by channel, a sum of cosines over its rows. Cosine j has the
    standard deviation 1 / (1 + j), as smooth motion has: rows are strongly correlated, and the
    scales span 1 to 1 / L. Means move the two slowest cosines of every channel, so the components
    are told apart by the whole segment.

    Args:
        components, length, features: K, L and F.
        distance: standard deviation of the means along each of those cosines.

    Attributes:
        axes: `[E, E]`, E = L F; every cosine of every channel as a segment of unit length.
        std: `[E]` of each component along them.
        means: `[K, E]` in these coordinates.
    """

    def __init__(
        self, *, components: int, length: int, features: int, distance: float, seed: int
    ) -> None:
        self.event = (length, features)
        own = torch.Generator().manual_seed(seed)
        row = torch.arange(length, dtype=torch.float64)
        waves = torch.cos(math.pi / length * row.unsqueeze(1) * (row + 0.5)) * (2 / length) ** 0.5
        waves[0] /= 2**0.5
        self.axes = torch.kron(waves, torch.eye(features, dtype=torch.float64))
        self.std = (1 / (1 + row)).repeat_interleave(features)
        self.means = torch.zeros(components, length * features, dtype=torch.float64)
        moved = distance * torch.randn(components, 2 * features, generator=own).double()
        self.means[:, : 2 * features] = moved

    def denoise(self, x: Float[Tensor, "*lead L F"], sigma: Tensor) -> Float[Tensor, "*lead L F"]:
        """E[y | y + sigma n = x] for a scalar sigma."""
        axes, std, means = (v.to(x) for v in (self.axes, self.std, self.means))
        z = x.reshape(-1, len(std)) @ axes.T
        total = std.square() + sigma.square()
        logits = z @ (means / total).T - (means.square() / total).sum(1) / 2
        centre = torch.softmax(logits, -1) @ means
        return ((centre + std.square() / total * (z - centre)) @ axes).view_as(x)

    def sample(self, count: int, generator: torch.Generator) -> Float[Tensor, "count L F"]:
        """Exact segments."""
        chosen = torch.randint(len(self.means), (count,), generator=generator)
        z = torch.randn(count, len(self.std), generator=generator, dtype=torch.float64)
        segments = (self.means[chosen] + self.std * z) @ self.axes
        return segments.view(count, *self.event).float()

    def spread(self) -> Float[Tensor, " E"]:
        """Standard deviation along each of `axes`, components together."""
        return (self.std.square() + self.means.var(0, correction=0)).sqrt()

    def quantiles(self, directions: Float[Tensor, "P E"], count: int) -> Float[Tensor, "count P"]:
        """Quantiles (i + 1/2) / count of the segments' projections, by their distribution function.

        Args:
            directions: one a row, of any length.
        """
        along = directions @ self.axes.T
        centre = along @ self.means.T  # [P, K]
        std = (along.square() @ self.std.square()).sqrt().unsqueeze(1)
        low, high = centre.amin(1, keepdim=True), centre.amax(1, keepdim=True)
        share = torch.linspace(0, 1, GRID, dtype=torch.float64)
        points = low - SPAN * std + share * (high - low + 2 * SPAN * std)  # [P, GRID]
        below = torch.zeros_like(points)
        for component in centre.unbind(1):
            below += torch.special.ndtr((points - component.unsqueeze(1)) / std) / centre.shape[1]
        wanted = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        after = torch.searchsorted(below, wanted.expand(len(below), -1).contiguous())
        after = after.clamp(1, GRID - 1)
        left, right = below.gather(1, after - 1), below.gather(1, after)
        start, end = points.gather(1, after - 1), points.gather(1, after)
        return (start + (wanted - left) / (right - left) * (end - start)).T
