"""Policies of the pendulum without its velocity, whose models are in `claims.blind_pendulum`.

They have the settings of MOPO's demo.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from reverie.benchmarks.claims import blind_pendulum, experiment
from reverie.benchmarks.claims.blind_pendulum import FULL, VELOCITY
from reverie.benchmarks.claims.experiment import Budget, Fit, History
from reverie.datasets import hide, stack
from reverie.datasets.dataset import Dataset
from reverie.training.launch.options import build_option

POLICIES = ("k=1", "k=3", FULL)
CLONES = {"BC, k=1": (1, 0), "BC, k=3": (3, 2), "BC, k=3, no actions": (3, 0)}
"""Observations and past actions of behaviour clones, which past actions may mislead."""
AGENT: dict[str, Any] = {
    "hidden": [128, 128],
    "actor_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "temperature_learning_rate": 1e-3,
    "actor_cosine": False,
    "tau": 0.01,
}
CLONE: dict[str, Any] = {"hidden": [128, 128]}
BUDGET = Budget(
    seeds=4,
    updates=10_000,
    batch=256,
    real_ratio=0.3,
    evaluate=1_000,
    episodes=5,
    probe=0,
    starts=2_000,
    horizon=5,
    every=250,
    retain=5,
)
CLONE_UPDATES = 5_000


@dataclass(frozen=True)
class Size(blind_pendulum.Size):
    """How much a run of the benchmark does.

    Attributes:
        budget: of a policy.
        clone: updates of a behaviour clone.
    """

    budget: Budget
    clone: int


WHOLE = Size(**vars(blind_pendulum.WHOLE), budget=BUDGET, clone=CLONE_UPDATES)
QUICK = Size(
    **vars(blind_pendulum.QUICK),
    budget=replace(BUDGET, updates=500, evaluate=250, episodes=2, starts=200),
    clone=500,
)


def clones(log: Dataset) -> dict[str, Dataset]:
    """What each behaviour clone sees of the log."""
    blind = hide(log, VELOCITY)
    return {arm: stack(blind, *lengths) for arm, lengths in CLONES.items()}


def train(arm: str, data: Dataset, fitted: Fit, size: Size) -> History:
    """MOPO in a model that is fitted already."""
    penalty = build_option("filter", "penalty")
    return experiment.run(
        arm,
        data,
        size.budget,
        agent="sac",
        changes=AGENT,
        make_source=partial(size.budget.branch, fitted.model, penalty),
        fitted=fitted,
    )


def clone(arm: str, data: Dataset, size: Size) -> History:
    """Behaviour cloning, which no model serves."""
    budget = replace(size.budget, updates=size.clone, evaluate=size.clone // 5)
    return experiment.run(arm, data, budget, agent="bc", changes=CLONE)
