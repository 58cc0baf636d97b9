"""Numbers that judge predictions: likelihood, calibration, rank statistics, recall."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LEVELS = tuple(round(0.05 * i, 2) for i in range(1, 20))
"""Nominal coverages of central intervals; the mean error over them is the calibration error."""


def gaussian_nll(
    mean: Float[Tensor, "*lead"], std: Float[Tensor, "*lead"], value: Float[Tensor, "*value"]
) -> Float[Tensor, "*lead"]:
    """Negative log density of a normal distribution, in nats."""
    return 0.5 * math.log(2 * math.pi) + std.log() + 0.5 * ((value - mean) / std).square()


def calibration(z: Float[Tensor, "S N C"]) -> dict[str, Any]:
    """How often the truth falls into central intervals, z being (truth - mean) / std.

    `coverage[s][i]` is the share of values inside the central interval of nominal coverage
    `levels[i]`; `error` is the mean distance between the two (the regression ECE).
    """
    levels = torch.tensor(LEVELS, dtype=z.dtype, device=z.device)
    # P(|z| < q) = erf(q / sqrt 2), so q = sqrt(2) erfinv(level).
    bounds = math.sqrt(2) * torch.erfinv(levels)
    inside = torch.stack([(z.abs() < bound).to(z.dtype).mean((1, 2)) for bound in bounds], -1)
    return {
        "levels": list(LEVELS),
        "coverage": plain(inside),
        "error": plain((inside - levels).abs().mean(-1)),
        "z_std": plain(z.flatten(1).std(1, correction=0)),
    }


def ranks(values: Float[Tensor, "S N"]) -> Float[Tensor, "S N"]:
    """Ranks from 0, equal values sharing their mean rank."""
    ordered = values.sort(-1).values
    first = torch.searchsorted(ordered, values)
    last = torch.searchsorted(ordered, values, right=True) - 1
    return (first + last).double() / 2


def spearman(x: Float[Tensor, "S N"], y: Float[Tensor, "S N"]) -> Float[Tensor, " S"]:
    """Rank correlation, NaN where one side is constant."""
    a, b = (ranks(v.contiguous()) for v in (x, y))
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    return (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()


def auroc(score: Float[Tensor, "S N"], error: Float[Tensor, "S N"]) -> Float[Tensor, " S"]:
    """Chance that a row among the tenth with the largest errors scores above one that is not."""
    bad = ranks(error.contiguous()) >= 0.9 * error.shape[-1]
    count = bad.sum(-1)
    rank_sum = torch.where(bad, ranks(score.contiguous()), 0.0).sum(-1)
    return (rank_sum - count * (count - 1) / 2) / (count * (bad.shape[-1] - count))


def precision_and_recall(said: Bool[Tensor, "S N"], true: Bool[Tensor, " N"]) -> dict[str, Any]:
    """Of terminations that the model announces on recorded transitions."""
    hits = (said & true).sum(-1)
    return {
        "true": int(true.sum()),
        "precision": plain(hits / said.sum(-1)),
        "recall": plain(hits / true.sum()),
    }


def quantile(values: Float[Tensor, "S N"], level: float) -> Float[Tensor, " S"]:
    """Nearest-rank quantile; interpolation would turn infinite errors into NaN."""
    if not values.shape[-1]:
        return torch.full(values.shape[:1], torch.nan, device=values.device)
    ordered = values.nan_to_num(torch.inf, torch.inf, -torch.inf).sort(-1).values
    return ordered[..., max(math.ceil(level * values.shape[-1]) - 1, 0)]


def valid_steps(
    error: Float[Tensor, "S W T"], lengths: Int[Tensor, " W"], threshold: float
) -> Float[Tensor, " S"]:
    """Valid prediction time: the median over segments of the first step with a larger error.

    Segments that end before count as far as they go, by the product-limit estimate of the share
    that is still valid. T, at least, where half of them are valid to the end.

    Args:
        error: after step 1, 2, ..., T, of any value behind the end of a segment.
        lengths: steps of each segment.

    Source: the metric of forecasts of chaos, such as arXiv:2303.08011; doi:10.2307/2281868.
    """
    steps = torch.arange(error.shape[-1], device=error.device)
    within = steps < lengths.to(error.device).unsqueeze(-1)  # [W, T]
    over = ~(error <= threshold) & within  # so is NaN
    over_before = (over.cumsum(-1) - over.long()) > 0
    at_risk = (within & ~over_before).sum(1)  # [S, T]
    ended = (over & ~over_before).sum(1)
    valid = (1 - ended / at_risk.clamp(min=1)).cumprod(-1)
    half = valid <= 0.5
    first = half.int().argmax(-1) + 1
    return torch.where(half.any(-1), first, error.shape[-1]).to(error.dtype)


def plain(values: Tensor) -> Any:
    """Numbers and nested lists; what is not finite becomes None, so that it survives JSON."""

    def clean(value: Any) -> Any:
        if isinstance(value, list):
            return [clean(item) for item in value]
        return value if math.isfinite(value) else None

    return clean(values.tolist())
