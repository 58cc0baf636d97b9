"""The residual of the Fokker-Planck equation in a generator's loss.

That it closes the gap between the distributions of deterministic and stochastic samples, which is
bounded by the residual, and may improve the former at the cost of the latter (score-FPE,
arXiv:2210.04296; the gap: arXiv:2311.15996).
"""

from typing import Any

import torch
from torch import Tensor

from reverie.benchmarks.claims.judging import estimate
from reverie.benchmarks.claims.report import Claim, Findings
from reverie.world_models.diffusion.fokker_planck import FokkerPlanckEDM, residual
from reverie.world_models.diffusion.noise_distributions import LogNormal
from reverie.world_models.diffusion.samplers import DDIM, Denoiser, Heun
from reverie.world_models.networks import BatchedMLP
from reverie.world_models.optimiser import Adam

TITLE = "The Fokker-Planck residual and the gap between ODE and SDE samples"
WEIGHTS = (0.0, 0.1, 1.0)
LEVELS: dict[str, Any] = {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}
COST = 2.5
"""Times as long as without takes an update with the residual on an eighth of the batch."""
_SIDE = torch.tensor([-1.2, 0.0, 1.2])
_CENTRES, _WIDTH = torch.cartesian_prod(_SIDE, _SIDE), 0.15
_BATCH, _LEARNING_RATE = 512, 3e-3
_DIRECTIONS = 64


def measure(quick: bool) -> Findings:
    """Nine blobs in the plane, fitted with each weight from the same starting weights."""
    torch.set_num_threads(1)
    seeds, updates, count = (1, 30, 1000) if quick else (3, 3000, 20_000)
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(seeds):
        for weight in WEIGHTS:
            found.setdefault(f"{weight:g}", []).append(_one(weight, updates, count, seed))
        longer = round(COST * updates)
        found.setdefault("0, longer", []).append(_one(0.0, longer, count, seed))
        found.setdefault("exact", []).append(_judged(_exact, count, seed))
    arms = {
        name: {key: estimate([each[key] for each in runs]) for key in runs[0]}
        for name, runs in found.items()
    }
    gap = {name: arm["gap"] for name, arm in arms.items()}
    best = min(("0.1", "1"), key=lambda name: gap[name].mean)
    claims = [
        Claim(
            "sliced W2 between ODE and SDE samples, with the residual in the loss against without",
            "lower",
            ", ".join(f"weight {weight:g}: {gap[f'{weight:g}']}" for weight in WEIGHTS),
            None if quick else gap[best].mean < 0.8 * gap["0"].mean,
        ),
        Claim(
            "the residual itself, root mean square",
            "lower",
            ", ".join(f"{weight:g}: {arms[f'{weight:g}']['residual']}" for weight in WEIGHTS),
            None if quick else arms["1"]["residual"].mean < arms["0"]["residual"].mean,
        ),
        Claim(
            "ODE samples against the truth",
            "for information",
            ", ".join(f"{weight:g}: {arms[f'{weight:g}']['ode']}" for weight in WEIGHTS),
            None,
        ),
        Claim(
            "SDE samples against the truth",
            "for information",
            ", ".join(f"{weight:g}: {arms[f'{weight:g}']['sde']}" for weight in WEIGHTS),
            None,
        ),
        Claim(
            f"without the residual but {COST:g} times the updates, which take as long: gap, ODE "
            "and SDE samples against the truth",
            "for information",
            ", ".join(str(arms["0, longer"][key]) for key in ("gap", "ode", "sde")),
            None,
            "ours",
        ),
        Claim(
            "the gap of the exact denoiser: what samplers and sampling noise leave",
            "for information",
            str(gap["exact"]),
            None,
            "ours",
        ),
    ]
    details = {
        **{"seeds": seeds, "updates": updates, "batch": _BATCH, "samples": count},
        "by_weight": arms,
    }
    return Findings(claims, details)


def _truth(count: int) -> Tensor:
    return _CENTRES[torch.randint(9, (count,))] + _WIDTH * torch.randn(count, 2)


def _exact(x: Tensor, sigma: Tensor) -> Tensor:
    total = _WIDTH**2 + sigma.reshape(-1, 1) ** 2
    distance = (x.unsqueeze(-2) - _CENTRES).square().sum(-1)
    centre = torch.softmax(-distance / (2 * total), -1) @ _CENTRES
    return centre + _WIDTH**2 / total * (x - centre)


def _one(weight: float, updates: int, count: int, seed: int) -> dict[str, float]:
    """Fit a denoiser and judge its samples."""
    torch.manual_seed(seed)
    network = BatchedMLP((1,), 3, [64, 64, 64], 2, "silu")
    objective = FokkerPlanckEDM(
        noise_distribution=LogNormal(mean=-1.2, std=1.2), sigma_data=1.0, weight=weight, share=0.125
    )
    optimiser = Adam(network.parameters(), _LEARNING_RATE, updates, 1)

    def call(x: Tensor, label: Tensor) -> Tensor:
        return network(torch.cat([x, label.unsqueeze(-1)], -1).unsqueeze(0))[0]

    for _ in range(updates):
        clean, noise, normal = _truth(_BATCH), torch.randn(_BATCH, 2), torch.randn(_BATCH)
        optimiser.step(objective.loss(call, clean, normal, noise).mean().unsqueeze(0))
    network.requires_grad_(False)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return objective.denoise(call, x, sigma.expand(len(x)))

    return _judged(denoise, count, seed)


def _judged(denoise: Denoiser, count: int, seed: int) -> dict[str, Any]:
    """Distances of samples of 40 deterministic and 160 stochastic steps, and the residual."""
    torch.manual_seed(10_000 + seed)
    truth, noise = _truth(count), torch.randn(count, 2)
    plain: dict[str, Any] = {"churn": 0.0, "churn_levels": [0.0, 0.0], "churn_scale": 1.0}
    ode = Heun(steps=40, **plain, step_from_churned=True, **LEVELS).sample(denoise, noise)
    sde = DDIM(steps=160, eta=1.0, **LEVELS).sample(denoise, torch.randn(count, 2))
    some = _truth(2000)
    sigma = LogNormal(mean=-1.2, std=1.2).sigma(torch.randn(2000))
    x = some + sigma.unsqueeze(-1) * torch.randn(2000, 2)
    probe = torch.randint_like(x, 2) * 2 - 1
    missing = residual(denoise, x, sigma, probe).detach() / sigma.unsqueeze(-1)
    return {
        "gap": _distance(ode, sde),
        "ode": _distance(ode, truth),
        "sde": _distance(sde, truth),
        "residual": float(missing.square().mean().sqrt()),
    }


def _distance(one: Tensor, other: Tensor) -> float:
    """Sliced Wasserstein distance of order 2 between samples of the same size."""
    angle = torch.arange(_DIRECTIONS) * torch.pi / _DIRECTIONS
    directions = torch.stack([angle.cos(), angle.sin()])
    apart = (one @ directions).sort(0).values - (other @ directions).sort(0).values
    return float(apart.square().mean().sqrt())
