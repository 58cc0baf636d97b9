"""Environment steps to a fixed return: Dyna in sparse equations, in an ensemble, and plain SAC.

After SINDy-RL, arXiv:2403.09110, at a budget of two CPU cores. All arms of a task start from the
same random steps, which count, and train the same SAC through the same online loop; the Dyna arms
take the same number of updates per step and fit their model anew as often. SAC takes one update per
step, as its preset. The paper's agent is PPO, its tasks are others. Hyperparameters were chosen on
seed 1000, see docs/methods/sindy_rl.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from reverie import datasets
from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims.experiment import Budget, Fit, History
from reverie.datasets.dataset import Dataset
from reverie.training.launch.options import build_option

SINDY, ENSEMBLE, SAC = "E-SINDy", "ensemble", "SAC"
ARMS = (SINDY, ENSEMBLE, SAC)
AGENT = {
    "hidden": [64, 64],
    "actor_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "temperature_learning_rate": 1e-3,
    "initial_temperature": 0.1,  # at 1, thousands of updates pass before it is low enough
    "actor_cosine": False,
    "tau": 0.01,
    "discount": 0.98,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    # Refits mend what the equations get wrong; the box only catches what diverges, as the paper's.
    SINDY: ("sindy", {"members": 10, "box_margin": 10.0}),
    ENSEMBLE: (
        "ensemble",
        {
            "hidden": [64, 64],
            "weight_decay": [2.5e-5, 5.0e-5, 1.0e-4],
            "batch": 64,
            "patience": 10,
            "max_epochs": 60,
            "heldout_episodes": 0,
        },
    ),
}


@dataclass(frozen=True)
class Task:
    """What the arms of one task share.

    Attributes:
        start: changed hyperparameters of `conf/dataset/random.yaml`: the first steps, of random
            actions.
        goal: the return that counts as learned.
        updates_per_step: of the Dyna arms.
        refit_every: environment steps between two fits of a model.
        budget: of a Dyna arm, `starts` being its rows per rollout round; SAC has no rollouts.
        horizons: steps of a rollout by arm.
        sac_updates, sac_evaluate: of SAC.
    """

    start: dict[str, Any]
    goal: float
    updates_per_step: int
    refit_every: int
    budget: Budget
    horizons: dict[str, int]
    sac_updates: int
    sac_evaluate: int


PENDULUM = Task(
    start={"env_id": "Pendulum-v1", "steps": 200, "name": "pendulum"},
    goal=-200.0,
    updates_per_step=50,
    refit_every=50,
    budget=Budget(
        seeds=4,
        updates=5_000,
        batch=128,
        real_ratio=0.05,
        starts=1_000,
        horizon=1,
        every=250,
        retain=10,
        evaluate=500,
        episodes=10,
        probe=0,
    ),
    horizons={SINDY: 50, ENSEMBLE: 10},
    sac_updates=6_000,
    sac_evaluate=250,
)
SWING_UP = replace(
    PENDULUM,
    start={"env_id": "ReverieCartPoleSwingUp-v0", "steps": 500, "name": "swing-up"},
    goal=150.0,
    updates_per_step=40,
    # A swing-up takes a hundred steps: only rollouts of whole episodes end upright.
    horizons={SINDY: 200, ENSEMBLE: 20},
    budget=replace(
        PENDULUM.budget,
        updates=12_000,
        batch=256,
        starts=8_000,
        every=500,
        retain=5,
        evaluate=500,
        episodes=5,
    ),
    sac_updates=12_000,
    sac_evaluate=500,
)
TASKS = {"swing-up": SWING_UP, "pendulum": PENDULUM}


def load(task: Task, seed: int = 0) -> Dataset:
    """The random steps that all arms start from."""
    return datasets.load("random", **task.start, seed=seed)


def run(label: str, task: Task, arm: str, data: Dataset, seed: int = 0) -> History:
    """Train one arm in the online loop."""
    budget, per_step = task.budget, task.updates_per_step
    fitted: Fit | None = None
    if arm == SAC:
        budget = replace(budget, updates=task.sac_updates, evaluate=task.sac_evaluate)
        per_step = 1
    else:
        name, changes = MODELS[arm]
        horizon = task.horizons[arm]
        budget = replace(budget, horizon=horizon, starts=budget.starts // horizon)
        fitted = experiment.fit(
            "world_model", name, data, changes=changes, seeds=budget.seeds, seed=seed
        )
    online = build_option(
        *("online", "collect"),
        changes={
            "every": per_step,
            "capacity": budget.updates // per_step,
            "refit_every": 0 if fitted is None else task.refit_every,
        },
        spec=data.spec,
        seeds=budget.seeds,
    )
    return experiment.run(
        f"{label}, {arm}",
        data,
        budget,
        agent="sac",
        changes=AGENT,
        make_source=None if fitted is None else partial(budget.branch, fitted.model),
        fitted=fitted,
        online=online,
        seed=seed,
    )


def shorten(task: Task) -> Task:
    """The quick variant: a tenth of the training, which only shows that it runs."""
    tenth = replace(task.budget, updates=task.budget.updates // 10)
    return replace(task, budget=tenth, sac_updates=task.sac_updates // 10)


def steps_taken(task: Task, arm: str, updates: np.ndarray) -> np.ndarray:
    """Environment steps of a seed after so many updates, the random ones included."""
    per_step = 1 if arm == SAC else task.updates_per_step
    return task.start["steps"] + updates // per_step


def steps_to_goal(task: Task, arm: str, run: History) -> list[int | None]:
    """Steps of each seed at its first evaluation that reaches the goal; None for never."""
    updates, returns = run.series["return"]
    steps = steps_taken(task, arm, updates)
    return [
        int(steps[reached.argmax()]) if reached.any() else None for reached in returns >= task.goal
    ]


def jobs(tasks: dict[str, Task], data: dict[str, Dataset]) -> dict[str, Callable[[], History]]:
    """Every arm of every task as `task/arm`."""
    return {
        f"{name}/{arm}": partial(run, name, task, arm, data[name])
        for name, task in tasks.items()
        for arm in ARMS
    }
