"""DPM-Solver-v3: a multistep sampler fitted to statistics of its denoiser.

arXiv:2310.13268. In ln-sigma time lambda = -ln sigma, with eps = (x - D) / sigma, the flow is
dx/dlambda = -sigma eps. Every coordinate gets coefficients l, s, b of its own, so that
f = sigma eps - l x is as nearly as can be a solution of df/dlambda = s f + b, and only what is
left of f is extrapolated as a polynomial.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from reverie.mistake import Mistake
from reverie.ranges import Count, Range
from reverie.world_models.diffusion.samplers import Denoiser, Nudge, Sampler, level

TINY = 1e-6
"""Share of the variance of sigma eps and l x below which that of f is rounding error."""

LARGEST_RATE = 20.0
"""s beyond it is the noise of an estimate that hardly varies, and e^(int s) would overflow."""


@dataclass(frozen=True)
class Statistics:
    """Coefficients at T even values of lambda, double precision.

    Attributes:
        times: lambda, rising.
        l, s, b: `[T, *]`, of shapes that broadcast against samples.
    """

    times: Sequence[float]
    l: Tensor  # noqa: E741  the paper's letter
    s: Tensor
    b: Tensor

    @classmethod
    def plain(cls, times: Sequence[float], like: Tensor) -> "Statistics":
        """l = 1, s = b = 0: extrapolates the estimate D itself, as DPM-Solver++ does."""
        ones = torch.ones(len(times), *[1] * like.ndim, dtype=torch.float64, device=like.device)
        return cls(times, ones, 0 * ones, 0 * ones)


@torch.no_grad()
def measure(
    denoiser: Denoiser, clean: Tensor, event_dims: int, times: Sequence[float], smoothing: int
) -> Statistics:
    """Statistics from recorded samples with noise added.

    Args:
        denoiser: differentiable in forward mode.
        clean: `[*lead, K, *event]`; expectations are over K, with one draw of noise at each time.
        smoothing: width of a moving average over times; 1 = none.

    Source: arXiv:2310.13268, equations 9, 10 and 12, appendix C.1 of its recipe.
    """
    over = clean.ndim - event_dims - 1
    slopes, moments = [], []
    for time in times:
        x = clean + math.exp(-time) * torch.randn_like(clean)
        at = torch.full((), time, dtype=x.dtype, device=x.device)

        def noise_of(x: Tensor, at: Tensor) -> Tensor:
            sigma = (-at).exp()
            return (x - denoiser(x, sigma)) / sigma

        signs = 1 - 2 * torch.randint_like(x, 2)
        eps, across = torch.func.jvp(noise_of, (x, at), (signs, torch.zeros_like(at)))[:2]
        # Along the flow, where x moves by -sigma eps in a unit of time.
        along_flow = (-(-at).exp() * eps, torch.ones_like(at))
        change = torch.func.jvp(noise_of, (x, at), along_flow)[1]
        slopes.append((math.exp(-time) * across * signs).mean(over, keepdim=True))
        values = torch.stack([eps, x, change]).double()
        mean = values.mean(over + 1, keepdim=True)
        spread = values - mean
        products = (spread.unsqueeze(0) * spread.unsqueeze(1)).mean(over + 2, keepdim=True)
        moments.append((mean, products))
    l = moving_average(torch.stack(slopes).double(), smoothing)  # noqa: E741
    mean, cov = (torch.stack(parts) for parts in zip(*moments, strict=True))
    mean, cov = mean.movedim(1, 0), cov.movedim((1, 2), (0, 1))
    sigma = torch.tensor(times, dtype=torch.float64, device=l.device).neg().exp()
    sigma = sigma.reshape(-1, *[1] * (l.ndim - 1))
    rate = (
        torch.gradient(l, spacing=times[1] - times[0], dim=0)[0]
        if len(times) > 1
        else torch.zeros_like(l)
    )
    # f = sigma eps - l x  and  df/dlambda = sigma (l - 1) eps - rate x + sigma change, as weights
    # on (eps, x, change).
    zero = torch.zeros_like(l)
    weights = torch.stack([sigma + zero, -l, zero])
    weights_of_change = torch.stack([sigma * (l - 1), -rate, sigma + zero])
    variance = torch.einsum("i...,ij...,j...->...", weights, cov, weights)
    covariance = torch.einsum("i...,ij...,j...->...", weights, cov, weights_of_change)
    scale = (weights.square() * torch.stack([cov[0, 0], cov[1, 1], cov[2, 2]])).sum(0)
    known = (variance > TINY * scale) & (covariance.abs() <= LARGEST_RATE * variance)
    s = torch.where(known, covariance / variance, zero)
    b = (weights_of_change * mean).sum(0) - s * (weights * mean).sum(0)
    return Statistics(times, l, moving_average(s, smoothing), moving_average(b, smoothing))


def moving_average(values: Tensor, width: int) -> Tensor:
    """A centred moving average over the first dimension, the ends repeated."""
    if width == 1:
        return values
    rows = values.flatten(1).T.unsqueeze(1)
    padded = F.pad(rows, (width // 2, width // 2), mode="replicate")
    return F.avg_pool1d(padded, width, 1).squeeze(1).T.reshape(values.shape)


class Integrals:
    """What a step needs of the statistics, accumulated from the first time.

    L = int l, S = int s, B = int e^-S b, I = int e^(L + S), C = int e^(L + S) B. Differs from the
    paper's trapezoids: e^(L + S) is integrated as an exponential between two times, so plain
    statistics are exact on any table.
    """

    def __init__(self, statistics: Statistics) -> None:
        self.times = statistics.times
        self.span = self.times[1] - self.times[0]
        self.l = statistics.l
        self.L, self.S = self._sum(self.l), self._sum(statistics.s)
        self.B = self._sum((-self.S).exp() * statistics.b)
        self.I = self._grow(self._weights())
        self.C = self._grow(self._weights() * (self.B[1:] + self.B[:-1]) / 2)
        # Once, for every step would wait for such a copy.
        middles = [(a + b) / 2 for a, b in pairwise(self.times)]
        self.middles = torch.tensor(middles, dtype=torch.float64, device=self.I.device)

    def _grow(self, pieces: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(pieces[:1]), pieces.cumsum(0)])

    def _sum(self, values: Tensor) -> Tensor:
        return self._grow((values[1:] + values[:-1]) / 2 * self.span)

    def _weights(self) -> Tensor:
        """int e^(L + S) between neighbours, `[T - 1, *]`."""
        power = self.L + self.S
        rise = power.diff(dim=0)
        flat = rise.abs() < TINY
        ratio = torch.where(flat, 1 + rise / 2, torch.expm1(rise) / torch.where(flat, 1.0, rise))
        return power[:-1].exp() * ratio * self.span

    def moment(self, i: int, j: int, power: int) -> Tensor:
        """int from i to j of e^(L + S - L_i - S_i) (lambda - lambda_i)^power."""
        lags = (self.middles[i:j] - self.times[i]).reshape(-1, *[1] * (self.I.ndim - 1))
        pieces = self.I[i + 1 : j + 1] - self.I[i:j]
        return (pieces * lags**power).sum(0) * (-self.L[i] - self.S[i]).exp()

    def jump(self, x: Tensor, i: int, j: int, points: Sequence[tuple[int, Tensor]]) -> Tensor:
        """x at time j from x at time i.

        Args:
            points: times and f there; i first, then as many others as the polynomial has powers.
        """
        (_, f), *others = points
        inward, base = self.I[j] - self.I[i], (self.L[i] - self.L[j]).exp()
        x = cast(base, x) * x - cast((-self.L[j] - self.S[i]).exp() * inward, x) * f
        x = x - cast((-self.L[j]).exp() * (self.C[j] - self.C[i] - self.B[i] * inward), x)
        if not others:
            return x
        lags = torch.tensor([self.times[k] - self.times[i] for k, _ in others], dtype=torch.float64)
        powers = range(1, len(others) + 1)
        solved = torch.linalg.inv(torch.stack([lags**m for m in powers], 1)).tolist()
        changes = [
            cast((self.S[i] - self.S[k]).exp(), x) * at_k
            - cast(self.S[i].exp() * (self.B[k] - self.B[i]), x)
            - f
            for k, at_k in others
        ]
        for m, row in zip(powers, solved, strict=True):
            slope = sum(weight * change for weight, change in zip(row, changes, strict=True))
            x = x - cast(base * self.moment(i, j, m), x) * slope
        return x


def cast(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype)


class DPMSolverV3(Sampler):
    """A multistep sampler for few steps, of statistics that `prepare` measures once.

    Args:
        order: points a step extrapolates from, fewer at both ends; 2 with guidance, else 3.
        corrector: correct each step with the prediction at its end, without a further call; for up
            to ten steps.
        measured: false uses plain statistics, which need no measurement: DPM-Solver++.
        table: times at which statistics are measured, T; steps snap to them.
        smoothing: odd width, in times, of their moving average; 1 = none.

    Source: DPM-Solver-v3, arXiv:2310.13268, algorithm 1 and its corrector; real samples with noise
    stand for the model's own, as there. N calls. Differs: no pseudo-order; s is 0 where it is
    larger than `LARGEST_RATE`, as in channels that never vary; see `Integrals`.
    """

    def __init__(
        self,
        *,
        order: Annotated[int, Range(1, 3)],
        corrector: bool,
        measured: bool,
        table: Annotated[int, Range(2)],
        smoothing: Count,
        **levels: Any,
    ) -> None:
        super().__init__(**levels)
        if order not in (1, 2, 3):
            raise Mistake(f"sampler.order must be 1, 2 or 3, got {order}")
        if smoothing < 1 or smoothing % 2 == 0:
            raise Mistake(f"sampler.smoothing must be odd and positive, got {smoothing}")
        if table < 2:
            raise Mistake(f"sampler.table must be at least 2, got {table}")
        self.order, self.corrector, self.measures = order, corrector, measured
        self.takes_nudges = not corrector
        self.table, self.smoothing = table, smoothing
        first, last = -math.log(self.sigma_max), -math.log(self.sigma_min)
        self.times = [first + (last - first) * k / max(table - 1, 1) for k in range(table)]
        self.places(self.levels(self.steps, self.sigma_max)[:-1])
        self.integrals: Integrals | None = None

    def prepare(self, denoiser: Denoiser, clean: Tensor, event_dims: int) -> None:
        self.integrals = Integrals(
            measure(denoiser, clean, event_dims, self.times, self.smoothing)
            if self.measures
            else Statistics.plain(self.times, clean)
        )

    def places(self, levels: Sequence[float]) -> list[int]:
        """The times of the table nearest to levels of noise."""
        span = self.times[-1] - self.times[0]
        shares = [(-math.log(sigma) - self.times[0]) / span for sigma in levels]
        found = [min(max(round(share * (self.table - 1)), 0), self.table - 1) for share in shares]
        if len(set(found)) < len(found):
            raise Mistake(
                f"sampler.table={self.table} is too coarse for {len(levels)} levels of noise; "
                "raise it, or take fewer steps"
            )
        return found

    def integrate(
        self, denoiser: Denoiser, x: Tensor, levels: Sequence[float], nudge: Nudge | None = None
    ) -> Tensor:
        if self.integrals is None:
            raise RuntimeError("the sampler has no statistics yet; prepare it with the denoiser")
        if self.corrector and nudge is not None:
            raise Mistake(
                "sampler.corrector would take back what guidance by nudges does; set it to false, "
                "or use guidance=policy"
            )
        to_zero = levels[-1] == 0
        places = self.places(levels[:-1] if to_zero else levels)
        points: list[tuple[int, Tensor]] = []
        start = x
        for step, place in enumerate(places):
            remaining = len(places) - 1 - step
            if remaining == 0 and not to_zero:
                break
            sigma = level(math.exp(-self.times[place]), x)
            if nudge is not None:
                x = nudge(x, sigma, step, len(levels) - 1)
            kept = cast(1 - self.integrals.l[place], x)
            f = kept * x - denoiser(x, sigma)
            if self.corrector and points:
                known = [points[0], (place, f), *points[1 : self.order]]
                x = self.integrals.jump(start, points[0][0], place, known)
            if remaining == 0:
                return kept * x - f
            points = [(place, f), *points[: self.order - 1]]
            start = x
            used = points[: min(self.order, remaining)]
            x = self.integrals.jump(x, place, places[step + 1], used)
        return x
