"""Single models with smooth values against an ensemble, online and offline, on two tasks.

After arXiv:2302.01244 at a budget of two CPU cores, the same for all arms of a task. The paper
trains online on MuJoCo tasks for 125,000 environment steps and more with up to 40 updates each.
Here are 2,500 (Pendulum) and 2,000 (Hopper) steps with 2 updates and 1 update each, networks of two
layers of 64 or 128 units, larger learning rates of the agent, a faster target network, and on
Pendulum a shorter sight. The ensemble has 7 members, of which 5 are used. An arm fits its own
model, one for each seed, for a fixed number of epochs of which the best counts. Early stopping
would not be the same for all arms: the error falls, rises and falls again, which ends a single
model's fit, while one of seven members nearly always improves.

The regularisers' strengths were chosen on other seeds, see docs/methods/lipschitz.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from reverie import datasets
from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims.experiment import Budget, History
from reverie.datasets.dataset import Dataset
from reverie.training.launch.options import build_option, load_option

LIPSCHITZ = {"states": 256, "radius": 0.1, "steps": 10, "samples": 16}
"""Of the probe, the same for all arms; the adversarial arm trains with another radius."""
ENSEMBLE, SINGLE = "ensemble", "single"
SPECTRAL, ADVERSARIAL = "single + spectral", "single + adversarial"
REGULARISED = (SPECTRAL, ADVERSARIAL)
ARMS: dict[str, tuple[str, str | None]] = {  # world model and regulariser, the longest first
    ENSEMBLE: ("ensemble", None),
    ADVERSARIAL: ("single", "adversarial"),
    SPECTRAL: ("single", "spectral"),
    SINGLE: ("single", None),
}
QUICK_MODEL = {"max_epochs": 1}
Strength = dict[str, dict[str, float]]
"""Of each regularised arm: the changed numbers of its option in `conf/regulariser/`."""
PENDULUM_STRENGTH: Strength = {SPECTRAL: {"cap": 10.0}, ADVERSARIAL: {"coefficient": 1e-4}}
HOPPER_STRENGTH: Strength = {SPECTRAL: {"cap": 10.0}, ADVERSARIAL: {"coefficient": 1e-2}}


@dataclass(frozen=True)
class Task:
    """What all arms of one experiment share.

    Attributes:
        dataset, changes: option of `conf/dataset/` and its changed numbers.
        model: changed numbers of the world model.
        network: changed numbers of the agent.
        budget: of every arm.
        quick: what of it is different in a quick run.
        random_return: mean return of uniformly random actions.
        learnt: return of the ensemble from which on something was learnt at all.
        strength: of the regularisers.
        online: changed numbers of `conf/online/collect.yaml`, None for training offline.
    """

    dataset: str
    changes: dict[str, Any]
    model: dict[str, Any]
    network: dict[str, Any]
    budget: Budget
    quick: dict[str, Any]
    random_return: float
    learnt: float
    strength: Strength
    online: dict[str, Any] | None = None


def network(width: int, discount: float) -> dict[str, Any]:
    """Agents of two hidden layers that learn within thousands of updates.

    Values settle after about 1 / (1 - discount) times 1 / target_rate updates.
    """
    return {
        "discount": discount,
        "hidden": [width, width],
        "actor_learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
        "temperature_learning_rate": 1e-3,
        "actor_cosine": False,
        "target_rate": 0.05,
        "normalise_critic_obs": True,
    }


def model(width: int, epochs: int, batch: int) -> dict[str, Any]:
    """World models of two hidden layers; their weight decay is the first two and the last of five.

    Args:
        epochs: of the fit, and of every refit of an online run.
        batch: rows of a step; small where there are few rows, so that an epoch has many steps.
    """
    return {
        "batch": batch,
        "hidden": [width, width],
        "weight_decay": [2.5e-5, 5.0e-5, 1.0e-4],
        "max_epochs": epochs,
        "patience": epochs,
        "heldout_episodes": 0,
    }


PENDULUM = Budget(
    seeds=4,
    updates=5_000,
    batch=128,
    real_fraction=0.05,
    starts=500,
    horizon=3,
    every=250,
    retain=5,
    evaluate=500,
    episodes=5,
    probe=0,
)
HOPPER = replace(PENDULUM, updates=2_000, starts=1_000, evaluate=250)
TASKS = {
    "offline, hopper": Task(
        dataset="minari",
        changes={"id": "bench/hopper/mixed-v0", "name": "hopper"},
        model=model(width=128, epochs=3, batch=256),
        network=network(128, 0.99),
        budget=HOPPER,
        quick={"updates": 400, "evaluate": 100},
        random_return=15.0,
        learnt=150.0,
        strength=HOPPER_STRENGTH,
    ),
    "online, hopper": Task(
        dataset="random",
        changes={"env_id": "Hopper-v5", "steps": 2_000, "name": "hopper"},
        model=model(width=128, epochs=30, batch=64),
        network=network(128, 0.99),
        budget=replace(HOPPER, horizon=1, starts=2_000, retain=2),
        quick={"updates": 400, "evaluate": 100},
        random_return=15.0,
        learnt=150.0,
        strength=HOPPER_STRENGTH,
        online={"steps": 5, "every": 5, "capacity": 5_000, "refit_every": 500},
    ),
    "offline, pendulum": Task(
        dataset="builtin/pendulum-mixed",
        changes={},
        model=model(width=64, epochs=20, batch=256),
        network=network(64, 0.95),
        budget=PENDULUM,
        quick={"updates": 600, "evaluate": 150},
        random_return=-1_200.0,
        learnt=-400.0,
        strength=PENDULUM_STRENGTH,
    ),
    "online, pendulum": Task(
        dataset="random",
        changes={"env_id": "Pendulum-v1", "steps": 1_000, "name": "pendulum"},
        model=model(width=64, epochs=60, batch=64),
        network=network(64, 0.95),
        budget=replace(PENDULUM, starts=1_000, retain=2),
        quick={"updates": 600, "evaluate": 150},
        random_return=-1_200.0,
        learnt=-400.0,
        strength=PENDULUM_STRENGTH,
        online={
            "environments": 5,
            "steps": 1,
            "every": 10,
            "capacity": 5_000,
            "refit_every": 500,
        },
    ),
}


def load(task: Task) -> Dataset:
    """The dataset, or the random steps that an online run starts from."""
    return datasets.load(task.dataset, **task.changes)


def run(name: str, task: Task, arm: str, data: Dataset) -> History:
    """Fit the model of one arm, then train it."""
    world_model, regulariser = ARMS[arm]
    seeds = task.budget.seeds
    fitted = experiment.fit("world_model", world_model, data, changes=task.model, seeds=seeds)
    online = smooth = None
    if task.online is not None:
        online = build_option("online", "collect", changes=task.online, spec=data.spec, seeds=seeds)
    if regulariser is not None:
        smooth = {**load_option("regulariser", regulariser), **task.strength[arm]}
    return experiment.run(
        f"{name}, {arm}",
        data,
        task.budget,
        agent="sac",
        changes={**task.network, "regulariser": smooth},
        make_source=partial(task.budget.branch, fitted.model),
        fitted=fitted,
        online=online,
        lipschitz=LIPSCHITZ,
    )


def shortened(task: Task) -> Task:
    """The quick variant, which only shows that it runs."""
    return replace(
        task, model={**task.model, **QUICK_MODEL}, budget=replace(task.budget, **task.quick)
    )


def jobs(
    tasks: Mapping[str, Task], data: Mapping[str, Dataset]
) -> dict[str, Callable[[], History]]:
    """Every arm of every task as `task/arm`, ensembles first, for they take longest."""
    return {
        f"{name}/{arm}": partial(run, name, task, arm, data[name])
        for arm in ARMS
        for name, task in tasks.items()
    }
