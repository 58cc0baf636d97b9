"""Datasets and budgets of policy-guided diffusion's claims, for two CPU cores.

The papers fit for 100,000 updates and more, and learn for 1,000,000.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from reverie import datasets
from reverie.benchmarks.claims.experiment import Schedule
from reverie.datasets.dataset import Dataset


@dataclass(frozen=True)
class Task:
    """A dataset and a budget.

    Attributes:
        dataset: its option, with the changes of `options`.
        windows, transitions, ensemble: changes of the small generators and of the ensemble.
        agents: changes of every learner.
        schedule: of every arm.
        records, every: windows a refresh and seed, and updates between two.
        single: SynthER's transitions a seed.
        measured: windows of each kind that are measured, a seed.
        steps: calls of the sampler of windows; that of transitions has `SINGLE_STEPS`.
        random_return: mean return of uniformly random actions.
    """

    dataset: str
    options: Mapping[str, Any]
    windows: Mapping[str, Any]
    transitions: Mapping[str, Any]
    ensemble: Mapping[str, Any]
    agents: Mapping[str, Any]
    schedule: Schedule
    records: int
    every: int
    single: int
    measured: int
    steps: int
    random_return: float


LEARNER = {
    "hidden": [64, 64],
    "actor_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "value_learning_rate": 1e-3,
    "target_rate": 0.01,
}
SINGLE_STEPS = 20
"""Calls of the sampler of transitions, which adds no noise: there are many more of them."""
SCHEDULE = Schedule(
    seeds=4,
    updates=4_000,
    batch=128,
    real_fraction=1.0,
    evaluate=500,
    episodes=5,
    probe=0,
)
TASKS = {
    "hopper": Task(
        dataset="minari",
        options={"id": "bench/hopper/mixed-v0", "name": "hopper"},
        windows={"steps": 8_000},
        transitions={"steps": 8_000, "learning_rate": 2e-3, "average_every": 1},
        ensemble={"max_epochs": 10},
        agents=LEARNER,
        schedule=SCHEDULE,
        records=256,
        every=1_500,
        single=60_000,
        measured=256,
        steps=128,
        random_return=18.0,
    ),
    "pendulum": Task(
        dataset="builtin/pendulum-mixed",
        options={},
        windows={"steps": 5_000},
        transitions={"steps": 4_000, "learning_rate": 1e-3, "average_every": 1},
        ensemble={"max_epochs": 40},
        agents=LEARNER,
        schedule=SCHEDULE,
        records=256,
        every=1_500,
        single=20_000,
        measured=256,
        steps=128,
        random_return=-1_220.0,
    ),
}


def load(task: Task) -> Dataset:
    """The dataset; Minari's is found through MINARI_DATASETS_PATH."""
    return datasets.load(task.dataset, **task.options)


def shortened(task: Task) -> Task:
    """The task at a budget that only shows that everything works."""
    return replace(
        task,
        windows={**task.windows, "steps": 400},
        transitions={**task.transitions, "steps": 300},
        ensemble={**task.ensemble, "max_epochs": 1},
        schedule=replace(task.schedule, updates=300, evaluate=100, episodes=1),
        records=32,
        every=100,
        steps=32,
        single=2_000,
        measured=32,
    )
