"""NEUBAY's parts, taken away one by one, on the pendulum's mixed data, beside MOPO and RAVL.

Networks, rates, rows of a batch and the share of recorded ones are the same in every arm. What
differs is the model, how rollouts go on and end, and the agent's critics.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from reverie import datasets
from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims.experiment import Budget, Fit, History
from reverie.datasets.dataset import Dataset
from reverie.training.launch.options import build_option
from reverie.world_models.filters import TransitionFilter
from reverie.world_models.sources import RolloutSource

DATASET = "builtin/pendulum-mixed"
NEUBAY, MOPO, RAVL = "neubay", "mopo", "ravl"
STEPWISE, BARE, UNCUT = "a member a step", "no layer norm", "no cut"
STRICT, SHORT = "quantile .5", "5 steps"
BUDGET = Budget(
    seeds=4,
    updates=2_500,
    batch=128,
    real_ratio=0.3,
    evaluate=500,
    episodes=3,
    probe=0,
    starts=2_000,
    horizon=5,
    every=250,
    retain=5,
)
LANES, EVERY = 100, 5
"""Long rollouts and updates between two of their steps: 20 rows an update, of MOPO's 40."""
FIT: dict[str, Any] = {
    "hidden": [64, 64, 64],
    "weight_decay": [2.5e-5, 5.0e-5, 7.5e-5, 1.0e-4],
    "max_epochs": 20,
    "patience": 20,
}
MODELS: Mapping[str, Mapping[str, Any]] = {
    MOPO: {},
    BARE: {"members": 20, "elites": 16, "activation": "leaky_relu", "layer_norm": False},
    NEUBAY: {"members": 20, "elites": 16, "activation": "leaky_relu", "layer_norm": True},
}
"""Of the ensemble of 7 that MOPO and RAVL share, and of NEUBAY's with and without its layers."""
NETWORK: dict[str, Any] = {
    "hidden": [64, 64],
    "actor_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "temperature_learning_rate": 1e-3,
    "actor_cosine": False,
    "tau": 0.01,
}
QUICK = {"updates": 200, "evaluate": 100, "episodes": 2, "starts": 200}
QUICK_FIT = {"max_epochs": 2}


@dataclass(frozen=True)
class Arm:
    """What is taken from NEUBAY.

    Attributes:
        model: of `MODELS`.
        member: what `world_model.rollout_member` says.
        quantile: of the cut; None for no cut.
        horizon: steps after which a rollout starts anew, the task's 200 at most.
    """

    model: str = NEUBAY
    member: str = "rollout"
    quantile: float | None = 1.0
    horizon: int = 200


ARMS = {
    NEUBAY: Arm(),
    STEPWISE: Arm(member="step"),
    BARE: Arm(model=BARE),
    UNCUT: Arm(quantile=None),
    STRICT: Arm(quantile=0.5),
    SHORT: Arm(horizon=5),
}


def load(quick: bool) -> Dataset:
    """The data."""
    return datasets.load(DATASET, episodes=20) if quick else datasets.load(DATASET)


def budget_for(quick: bool) -> Budget:
    """Of the full experiment or of its quick variant."""
    return replace(BUDGET, **QUICK) if quick else BUDGET


def fits(data: Dataset, quick: bool) -> dict[str, Callable[[], Fit]]:
    """The ensembles, a replica for every seed."""

    def fit(name: str) -> Fit:
        doubt = "max_aleatoric" if name == MOPO else "scaled_ensemble_std"
        changes = {**FIT, **(QUICK_FIT if quick else {}), **MODELS[name], "uncertainty": doubt}
        kept = {"rollout_member": "step" if name == MOPO else "rollout"}
        return experiment.fit(
            *("world_model", "ensemble", data), changes=changes | kept, seeds=BUDGET.seeds
        )

    return {name: partial(fit, name) for name in (NEUBAY, BARE, MOPO)}


def train(arm: str, data: Dataset, fitted: Fit, budget: Budget) -> History:
    """Train an arm in a model that is fitted already."""
    if arm in (MOPO, RAVL):
        judge = build_option("filter", "penalty" if arm == MOPO else "none")
        source: Callable[[], RolloutSource] = partial(budget.branch, fitted.model, judge)
        agent = "sac" if arm == MOPO else "ravl"
    else:
        source = partial(long_rollouts, ARMS[arm], data, fitted, budget)
        agent = "redq"
    return experiment.run(
        *(f"pendulum, {arm}", data, budget),
        agent=agent,
        changes=NETWORK | ({"huber": 1.0} if agent == "redq" else {}),
        make_source=source,
        fitted=fitted,
    )


def long_rollouts(arm: Arm, data: Dataset, fitted: Fit, budget: Budget) -> RolloutSource:
    """The rollouts of an arm; the replay holds as many rows as that of MOPO."""
    # What rollouts keep is no part of the fit, so arms that differ in it share one.
    fitted.model.rollout_state.keeps_member = arm.member == "rollout"
    judge: TransitionFilter = (
        build_option("filter", "none")
        if arm.quantile is None
        else build_option("filter", "uncertainty_quantile", changes={"quantile": arm.quantile})
    )
    sizes = {"lanes": LANES, "every": EVERY, "horizon": arm.horizon}
    return build_option(
        *("source", "long_rollouts"),
        changes=sizes | {"capacity": budget.horizon * budget.starts * budget.retain},
        spec=data.spec,
        seeds=budget.seeds,
        model=fitted.model,
        transition_filter=judge,
    )


def jobs(data: Dataset, fitted: Mapping[str, Fit], quick: bool) -> dict[str, Callable[[], History]]:
    """Every arm, the longest first."""
    model = {arm: settings.model for arm, settings in ARMS.items()} | {MOPO: MOPO, RAVL: MOPO}
    order = (RAVL, *ARMS, MOPO)
    budget = budget_for(quick)
    return {arm: partial(train, arm, data, fitted[model[arm]], budget) for arm in order}
