"""What the suite is made of: six tasks, four grades of skill, two sizes; all numbers are here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reverie.training.collect.snapshots import KINDS

LICENCE = "MIT"
"""Of the datasets, that of the program that makes them."""
SIZES = ("small", "full")
SEED = 0
DATASETS = "datasets"
"""Folder below that of the suite which MINARI_DATASETS_PATH may name."""
RUNS = "runs"
"""Folder below that of the suite with the trainings, from which a killed build goes on."""


@dataclass(frozen=True)
class Task:
    """An environment and how SAC is trained in it; what is not said is conf/collect.yaml's.

    Attributes:
        env_id: of Gymnasium.
        small, full: settings of `training.collect`, by size.
    """

    env_id: str
    small: Mapping[str, Any]
    full: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, name: str, size: str, folder: Path, seed: int = SEED) -> dict[str, Any]:
        """All that is typed behind `python -m training.collect`.

        Args:
            name: of the task.
            size: one of `SIZES`.
            folder: of the suite.
            seed: another one makes a suite of its own, of the same ids.
        """
        return {
            "env_id": self.env_id,
            "seed": seed,
            "namespace": f"{namespace(size)}/{name}",
            "path": str(folder / DATASETS),
            "run_dir": str(folder / RUNS / name),
            "license": LICENCE,
            "device": "cpu" if size == "small" else "auto",
            "threads": 1 if size == "small" else "auto",
            **(self.small if size == "small" else self.full),
        }


def _classic(
    steps: int, evaluate: int = 500, agent: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Small networks and few rows, for tasks that need no more."""
    return {
        "steps": steps,
        "rows": 10_000,
        "batch_size": 128,
        "agent": {
            "hidden": [64, 64],
            "actor_learning_rate": 1e-3,
            "critic_learning_rate": 1e-3,
            **(agent or {}),
        },
        "dataset": {"steps": 1_000},
        "evaluate": {"every": evaluate, "episodes": 5},
        "checkpoint_every": 2_000,
        "score_episodes": 50,
    }


_FEWER = {
    "steps": 40_000,
    "rows": 50_000,
    "evaluate": {"every": 2_000, "episodes": 5},
    "checkpoint_every": 5_000,
    "score_episodes": 20,
}
_D4RL = {"steps": 1_000_000, "rows": 1_000_000, "evaluate": {"every": 10_000}}
"""Rows and steps as D4RL has them, arXiv:2004.07219."""

TASKS = {
    "pendulum": Task(
        "Pendulum-v1",
        # Learnt so fast that 250 updates jump over the medium skill.
        _classic(6_000, evaluate=100),
        {"steps": 50_000, "rows": 100_000},
    ),
    "swing-up": Task(
        "ReverieCartPoleSwingUp-v0", _classic(20_000), {"steps": 100_000, "rows": 200_000}
    ),
    "two-tanks": Task(
        "ReverieTwoTanks-v0",
        # At the usual temperature of 1 samples of the medium policy wear the valve as random ones.
        _classic(6_000, evaluate=100, agent={"initial_temperature": 0.1}),
        {"steps": 100_000, "rows": 200_000, "agent": {"initial_temperature": 0.1}},
    ),
    "hopper": Task("Hopper-v5", _FEWER, _D4RL),
    "halfcheetah": Task("HalfCheetah-v5", _FEWER, _D4RL),
    "walker2d": Task("Walker2d-v5", _FEWER, _D4RL),
}
"""By name, shortest first."""


def namespace(size: str) -> str:
    """Of the ids of a size."""
    return "reverie-suite" if size == "full" else f"reverie-suite-{size}"


def dataset_id(task: str, kind: str, size: str) -> str:
    """Of Minari."""
    return f"{namespace(size)}/{task}/{kind}-v0"


def dataset_ids(task: str, size: str) -> dict[str, str]:
    """By kind."""
    return {kind: dataset_id(task, kind, size) for kind in KINDS}
