"""H2O and what it is judged against, where the simulator has another gravity than the truth.

After the comparison of H2O, arXiv:2206.13464, section 5, at a budget of two CPU cores, the same for
all arms: smaller networks, larger learning rates, a shorter horizon and fewer updates; the paper
trains for 1,000,000.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from reverie import datasets
from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims.experiment import History, Schedule
from reverie.datasets.dataset import Dataset
from reverie.training.launch.options import build_option, load_option
from reverie.world_models.simulator import SimulatorRollouts

NETWORK = {
    "actor_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "temperature_learning_rate": 1e-3,
    "value_learning_rate": 1e-3,  # of H2O+
    "learning_rate": 1e-3,  # of behaviour cloning
    "tau": 0.01,
    "samples": 4,  # of CQL, from each source; its 10 would cost more than all other arms together
}
DISCRIMINATORS = {"pair_logit_bound": 10.0, "fresh_rows": 0}


@dataclass(frozen=True)
class Task:
    """A dataset, the gravity of its simulator, and a budget.

    Attributes:
        dataset: its option, with the changes of `options`.
        gravity: factor in the simulator; the truth has 1.
        hidden: widths of every network.
        discount: of every agent.
        schedule: of an arm that mixes real and simulated rows half and half.
        arms: names in `ARMS`, the longest first.
    """

    dataset: str
    options: dict[str, Any]
    gravity: float
    hidden: list[int]
    discount: float
    schedule: Schedule
    arms: tuple[str, ...]


@dataclass(frozen=True)
class Arm:
    """An agent, its share of real rows (1: no simulator), and what else is different."""

    agent: str
    real_ratio: float
    changes: dict[str, Any]


SAC_OF_H2O = (
    "log_std_bounds",
    "actor_cosine",
    "max_temperature",
    "entropy_in_target",
    "order",
)
ARMS = {
    "h2o": Arm("h2o", 0.5, {}),
    # The mean value of random torques, the default, is no target to lean on.
    "h2o_plus": Arm("h2o_plus", 0.5, {"expectile": 0.9}),
    "darc": Arm("darc", 0.5, {}),
    "darc_plus": Arm("darc", 0.5, {"learn_from_real": True}),
    "sac_sim": Arm("sac", 0.0, {}),
    "cql": Arm("cql", 1.0, {}),
    "bc": Arm("bc", 1.0, {}),
}
JUDGED = ("h2o", "cql", "sac_sim")
OTHER_SEEDS = 4  # of the arms that inform only
# In half the gravity a push to one side and back lifts the pendulum; in truth it must be pumped.
# Three episodes of random torques never hold it up and are too few for an offline learner; what
# they lack the simulator can teach: near the top, as at the bottom, gravity hardly matters. They
# must reach above the horizontal, though: 0.18 of the rows of draw 3, 0.08 and none of 0 and 2.
PENDULUM = Task(
    dataset="builtin/pendulum-mixed",
    options={
        "mixture": [{"strength": 1.0, "random": 1.0}],
        "subset": {"episodes": 3, "fraction": None, "seed": 3},
    },
    gravity=0.5,
    hidden=[64, 64],
    discount=0.98,
    schedule=Schedule(
        seeds=8,
        updates=5_000,
        batch=128,
        real_ratio=0.5,
        evaluate=500,
        episodes=5,
        probe=0,
    ),
    arms=("h2o", "cql", "h2o_plus", "darc", "darc_plus", "sac_sim", "bc"),
)
# A sample of everything from falling to nearly expert running, like a medium-replay dataset.
CHEETAH = Task(
    dataset="minari",
    options={
        "id": "bench/halfcheetah/mixed-v0",
        "name": "halfcheetah",
        "subset": {"episodes": 20, "fraction": None, "seed": 0},
    },
    gravity=2.0,
    hidden=[64, 64],
    discount=0.99,
    schedule=Schedule(
        seeds=4,
        updates=8_000,
        batch=256,
        real_ratio=0.5,
        evaluate=1_000,
        episodes=2,
        probe=0,
    ),
    arms=JUDGED,
)


def task_for(task: Task, quick: bool, **changes: int) -> Task:
    """The task, or its quick variant: the judged arms with these settings of the schedule."""
    return replace(task, schedule=replace(task.schedule, **changes), arms=JUDGED) if quick else task


def load(task: Task) -> Dataset:
    """The dataset; Minari's is found through MINARI_DATASETS_PATH."""
    return datasets.load(task.dataset, **task.options)


def run(label: str, task: Task, data: Dataset, name: str, seed: int = 0) -> History:
    """Train one arm; scores are those in the true environment."""
    if name not in JUDGED:
        seeds = min(task.schedule.seeds, OTHER_SEEDS)
        task = replace(task, schedule=replace(task.schedule, seeds=seeds))
    arm, schedule = ARMS[name], task.schedule
    if arm.real_ratio == 1:  # as many recorded rows an update as H2O sees
        schedule = replace(schedule, batch=int(schedule.batch * schedule.real_ratio))
    schedule = replace(schedule, real_ratio=arm.real_ratio)
    return experiment.run(
        f"{label}, {name}",
        data,
        schedule,
        agent=arm.agent,
        changes=agent_changes(task, arm),
        make_source=partial(make_source, task, data) if arm.real_ratio < 1 else None,
        seed=seed,
    )


def agent_changes(task: Task, arm: Arm) -> dict[str, Any]:
    """The numbers that all arms share, as far as the agent has them, and the arm's own."""
    own, base = load_option("agent", arm.agent), load_option("agent", "h2o")
    shared = {**NETWORK, **{key: base[key] for key in SAC_OF_H2O}}
    shared |= {
        "hidden": task.hidden,
        "discount": task.discount,
        "discriminators": {**DISCRIMINATORS, "hidden": task.hidden},
    }
    return {key: value for key, value in shared.items() if key in own} | arm.changes


def make_source(task: Task, data: Dataset) -> SimulatorRollouts:
    """One copy a seed, one step an update."""
    settings = load_option("source", "simulator")
    hyperparameters = {key: settings[key] for key in ("steps", "every", "warmup", "random_warmup")}
    return SimulatorRollouts(
        simulator=build_option(
            *("simulator", "perturbed"),
            changes={"gravity": task.gravity},
            spec=data.spec,
            seeds=task.schedule.seeds,
        ),
        capacity=task.schedule.updates + settings["warmup"] + settings["steps"],
        **hyperparameters,
    )


def jobs(label: str, task: Task, data: Dataset) -> dict[str, Callable[[], History]]:
    """Every arm, the longest first."""
    return {name: partial(run, label, task, data, name) for name in task.arms}
