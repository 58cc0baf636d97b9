"""The edge-of-reach problem in a MuJoCo task: HalfCheetah with its true dynamics.

After the true-dynamics experiment of RAVL, arXiv:2402.12527, at a budget of two CPU cores, the same
for all arms: rollouts of one step (the paper uses one or five), smaller networks, larger learning
rates and a faster target network. The paper trains for 3,000,000 updates.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from reverie import datasets
from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims.experiment import Budget, History
from reverie.datasets.dataset import Dataset
from reverie.training.launch.options import build_option
from reverie.world_models.filters import UncertaintyPenalty
from reverie.world_models.true_dynamics import TrueDynamics

DATASET = "bench/halfcheetah/mixed-v0"
BUDGET = Budget(
    seeds=4,
    updates=5_000,
    batch=256,
    real_ratio=0.05,
    starts=2_000,
    horizon=1,
    every=500,
    retain=5,
    evaluate=500,
    episodes=3,
    probe=256,
)
QUICK: dict[str, Any] = {"seeds": 2, "updates": 300, "evaluate": 100, "episodes": 1}
NETWORK = {
    "hidden": [128, 128],
    "actor_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "tau": 0.02,
}
PENALTY = 1.0  # of MOPO; the true dynamics know no uncertainty, so any value gives the same
ARMS: dict[str, dict[str, Any]] = {
    # As in the paper, only the diversity is tuned anew for the true dynamics.
    "ravl": {"critics": 10, "diversity": 10.0},
    "base": {"critics": 2, "diversity": 0.0},
    "mopo": {"critics": 2, "diversity": 0.0},
}


def load() -> Dataset:
    """The dataset, found through MINARI_DATASETS_PATH."""
    return datasets.load("minari", id=DATASET, name="halfcheetah")


def run(arm: str, data: Dataset, budget: Budget) -> History:
    """Train one arm."""
    model: TrueDynamics = build_option(
        "world_model", "true_dynamics", spec=data.spec, seeds=budget.seeds, seed=0
    )
    model.fit(data)  # warns where the simulator is not the one that made the data
    penalty = UncertaintyPenalty(penalty=PENALTY, unit="raw") if arm == "mopo" else None
    return experiment.run(
        f"halfcheetah, {arm}",
        data,
        budget,
        agent="ravl",
        changes={**NETWORK, **ARMS[arm]},
        make_source=partial(budget.branch, model, penalty),
    )


def budget_for(quick: bool) -> Budget:
    """Of the full experiment or of its quick variant, which only shows that it runs."""
    return replace(BUDGET, **QUICK) if quick else BUDGET


def jobs(data: Dataset, budget: Budget) -> dict[str, Callable[[], History]]:
    """Every arm, the longest first."""
    return {arm: partial(run, arm, data, budget) for arm in ARMS}
