"""The best of several start noises, chosen by short looks ahead.

That the start of a diffusion ODE decides how good its sample is, so that choosing it well raises
quality at no retraining (optimal boundary conditions, arXiv:2305.15357). On distributions whose
denoiser is known exactly, so that nothing but the choice is measured.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from reverie.benchmarks.claims.judging import estimate
from reverie.benchmarks.claims.report import Claim, Findings
from reverie.world_models.diffusion.best_noise import BestNoiseSampler
from reverie.world_models.diffusion.samplers import Sampler
from reverie.world_models.diffusion.soft_value import SoftValueSampler

TITLE = "The best of several start noises"
STEPS, CANDIDATES, LOOK_AHEAD = 32, 8, 6
LEVELS: dict[str, Any] = {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}
EXTREME = 1.42360
"""Mean of the largest of 8 standard normals."""


class Grid:
    """Nine Gaussians of width 0.15 on a square grid; counts its calls."""

    def __init__(self) -> None:
        side = torch.tensor([-1.2, 0.0, 1.2])
        self.centres, self.width, self.rows = torch.cartesian_prod(side, side), 0.15, 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.rows += x.shape[:-1].numel()
        total = self.width**2 + sigma**2
        distance = (x.unsqueeze(-2) - self.centres).square().sum(-1)
        centre = torch.softmax(-distance / (2 * total), -1) @ self.centres
        return centre + self.width**2 / total * (x - centre)


class Normal:
    """N(0.5, 2^2) in every coordinate."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.rows += x.shape[:-1].numel()
        return 0.5 + 4 / (4 + sigma**2) * (x - 0.5)


def near_one_blob(clean: Tensor) -> Tensor:
    """Minus the distance from the blob at the upper right."""
    return -(clean - 1.2).square().sum(-1).sqrt()


def measure(quick: bool) -> Findings:
    """Mean value and calls per sample of each sampler."""
    seeds, count = (2, 500) if quick else (5, 4000)
    best = partial(BestNoiseSampler, steps=STEPS, temperature=None, **LEVELS)
    samplers: dict[str, Callable[[], Sampler]] = {
        "plain": partial(best, candidates=1, look_ahead=1),
        "one step ahead": partial(best, candidates=CANDIDATES, look_ahead=1),
        "best noise": partial(best, candidates=CANDIDATES, look_ahead=LOOK_AHEAD),
        "best of 8": partial(best, candidates=CANDIDATES, look_ahead=STEPS),
        "soft value": partial(
            # As many calls as best noise takes, to a call.
            SoftValueSampler,
            steps=11,
            candidates=CANDIDATES,
            temperature=None,
            **LEVELS,
        ),
    }
    grid = {
        name: _drawn(make, Grid, near_one_blob, seeds, count) for name, make in samplers.items()
    }
    normal = _drawn(samplers["best noise"], Normal, lambda clean: clean[..., 0], seeds, count)
    value = {name: found["value"].mean for name, found in grid.items()}
    gain = (value["best noise"] - value["plain"]) / (value["best of 8"] - value["plain"])
    early = (value["one step ahead"] - value["plain"]) / (value["best of 8"] - value["plain"])
    share = grid["best noise"]["calls"] / grid["best of 8"]["calls"]
    expected = 0.5 + 2 * EXTREME
    claims = [
        Claim(
            "Gaussian data: the mean of the best of 8 is that of an extreme of 8 normals",
            f"{expected:.3f} within 0.03",
            str(normal["value"]),
            None if quick else abs(normal["value"].mean - expected) < 0.03,
            "ours",
        ),
        Claim(
            f"nine blobs, a wanted one: {LOOK_AHEAD} steps ahead of {STEPS} gain what the best of "
            "8 samples gains",
            "at least 0.9 of the gain at a third of the calls",
            f"{gain:.2f} at {share:.2f}",
            None if quick else gain >= 0.9 and share <= 1 / 3,
            "ours",
        ),
        Claim(
            "the same with the estimate at the start alone, one step ahead",
            "for information",
            f"{early:.2f} at {grid['one step ahead']['calls'] / grid['best of 8']['calls']:.2f}",
            None,
            "ours",
        ),
        Claim(
            "SVDD (sampler=soft_value) with as many calls",
            "for information",
            f"{grid['soft value']['value']} against {grid['best noise']['value']}",
            None,
            "ours",
        ),
    ]
    details = {"seeds": seeds, "samples": count, "steps": STEPS, "grid": grid, "normal": normal}
    return Findings(claims, details)


def _drawn(
    make: Callable[[], Sampler],
    target: Callable[[], Any],
    value: Callable[[Tensor], Tensor],
    seeds: int,
    count: int,
) -> dict[str, Any]:
    """Mean value over samples, an estimate over seeds, and calls of the denoiser per sample."""
    means = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        sampler, denoiser = make(), target()
        sampler.prepare(denoiser, torch.zeros(1, 1, 2), 1)
        sampler.attach(value)
        clean = sampler.sample(denoiser, torch.randn(1, count, 2))
        means.append(float(value(clean).mean()))
        calls = denoiser.rows / count
    return {"value": estimate(means), "calls": calls}
