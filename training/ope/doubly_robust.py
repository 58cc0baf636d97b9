"""Doubly robust evaluation: fitted Q evaluation corrected by its errors on recorded steps.

Each step's Bellman error is weighted by the likelihood ratio of the steps up to it under the policy
and under a clone of the recorded behaviour. The estimate is correct if either the values or the
weights are. Weights of whole episodes degenerate, so steps are weighted only while the effective
number of starts is large enough; beyond them the fitted values are used alone.

A deterministic policy has no density. Its actions get the clone's standard deviation, which changes
the weights and not the values: such a kernel is that of Kallus and Uehara, arXiv:2006.03900.
The sum is Jiang and Li's, arXiv:1511.03722, with the normalised weights of Thomas and Brunskill,
arXiv:1604.00923, who also stop weighting after some steps.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reverie.agents.fitted_q_evaluation import FittedQEvaluation
from reverie.datasets.dataset import Dataset
from reverie.training.ope.estimates import REPLICATES
from reverie.training.ope.recorded import recorded_window
from reverie.training.results.statistics import LEVEL
from reverie.world_models.diffusion.behaviour import BehaviourClone


@dataclass(frozen=True)
class Weighed:
    """Recorded steps from P starts weighted for S policies, of T steps, with R fits of values.

    Attributes:
        start_values: `[S, R, P]` fitted values of the starts.
        weights: `[S, T, P]` products of ratios, up to a scale per step; 0 for starts that are
            excluded.
        errors: `[S, R, T, P]` discounted Bellman errors of the fitted values.
        steps: `[S]` number of first steps with enough effective starts; later ones are not used.
        effective: `[S]` effective number of starts at the first step.
    """

    start_values: Float[Tensor, "S R P"]
    weights: Float[Tensor, "S T P"]
    errors: Float[Tensor, "S R T P"]
    steps: Int[Tensor, " S"]
    effective: Float[Tensor, " S"]


@torch.no_grad()
def weigh(
    learner: FittedQEvaluation,
    clone: BehaviourClone,
    data: Dataset,
    rows: Int[Tensor, " P"],
    present: Int[Tensor, " P"],
    *,
    effective: int,
) -> Weighed:
    """Weigh the recorded steps from `rows` on until no policy's weights are worth enough starts.

    Args:
        learner: fitted values of the policies.
        clone: of the recorded behaviour.
        present: steps from each row on that are recorded.
        effective: starts that a step's weights must be worth: (sum w)^2 / sum w^2.
    """
    window = recorded_window(rows, present)
    device = next(learner.parameters()).device
    ended = data.transitions.terminated[window[:, -1]]
    start_values = learner.state_values(data.transitions.obs[rows].to(device))
    policies, replicas, count = start_values.shape
    log_weight = torch.zeros(policies, count, dtype=torch.float64, device=device)
    worth_it = torch.ones(policies, dtype=torch.bool, device=device)
    weights, errors = [], []
    steps, worth = torch.zeros(policies, dtype=torch.long, device=device), None
    for age, indices in enumerate(window.unbind(1)):
        batch = data.transitions[indices].map(lambda column: column.to(device))
        recorded = (age < present).to(device)
        chosen = learner.policy(batch.obs.expand(policies, -1, -1))
        ratio = clone.log_ratio(batch.obs, batch.action, chosen).double()
        log_weight = torch.where(recorded, log_weight + ratio, log_weight)
        # A start counts as long as its episode is known: also after a termination, never a cut.
        known = recorded | ended.to(device)
        shown = log_weight.where(known, -torch.inf)
        weight = (shown - shown.amax(1, keepdim=True)).exp().nan_to_num(0.0)
        size = weight.sum(1).square() / weight.square().sum(1).clamp(min=1e-300)
        worth = size if worth is None else worth
        worth_it = worth_it & (size >= effective)
        if not worth_it.any():
            break
        steps += worth_it
        error = learner.bellman_errors(batch).view(policies, replicas, count)
        weights.append(weight)
        errors.append(torch.where(recorded, learner.discount**age * error.double(), 0.0))
    assert worth is not None
    if not weights:
        weights.append(torch.zeros_like(log_weight))
        errors.append(torch.zeros(policies, replicas, count, dtype=torch.float64, device=device))
    return Weighed(
        start_values.double().cpu(),
        torch.stack(weights, 1).cpu(),
        torch.stack(errors, 2).cpu(),
        steps.cpu(),
        worth.cpu(),
    )


def correct(weighed: Weighed, known: Float[Tensor, " P"], seed: int = 0) -> dict[str, Any]:
    """Corrected values, and what they exceed the recorded ones from the same starts by.

    Intervals are of a bootstrap over replicas and starts, see `training.ope.estimates.interval`,
    which weighs every replicate anew.
    """
    rng = np.random.default_rng(seed)
    policies, replicas, count = weighed.start_values.shape
    drawn = rng.integers(replicas, size=REPLICATES)
    times = rng.multinomial(count, np.full(count, 1 / count), size=REPLICATES)
    each = np.arange(replicas)
    recorded = known.double().numpy()
    values, differences = [], []
    for policy in range(policies):
        steps = int(weighed.steps[policy])
        own = (
            weighed.start_values[policy].numpy(),
            weighed.weights[policy, :steps].numpy(),
            weighed.errors[policy, :, :steps].numpy(),
        )
        whole = _corrected(*own, np.ones((replicas, count)), each)
        spread = _corrected(*own, times, drawn)
        base, bases = recorded.mean(), times @ recorded / count
        values.append(_interval(whole.mean(), spread))
        differences.append(_interval(whole.mean() - base, spread - bases))
    return {
        "value": values,
        "difference": differences,
        "steps": weighed.steps.tolist(),
        "effective": weighed.effective.tolist(),
    }


def _corrected(
    start_values: Float[np.ndarray, "R P"],
    weights: Float[np.ndarray, "T P"],
    errors: Float[np.ndarray, "R T P"],
    times: Float[np.ndarray, "B P"],
    replicas: Int[np.ndarray, " B"],
) -> Float[np.ndarray, " B"]:
    """The estimate of one policy from starts that are drawn so many times, by chosen replicas."""
    total = np.maximum(times @ weights.T, 1e-300)  # [B, T]
    found = np.empty(len(times))
    for replica in np.unique(replicas):
        own = replicas == replica
        plain = times[own] @ start_values[replica] / times[own].sum(1)
        found[own] = plain + (times[own] @ (weights * errors[replica]).T / total[own]).sum(1)
    return found


def _interval(estimate: float, spread: Float[np.ndarray, " B"]) -> list[float]:
    tail = (1 - LEVEL) / 2
    return [float(estimate), *map(float, np.quantile(spread, [tail, 1 - tail]))]
