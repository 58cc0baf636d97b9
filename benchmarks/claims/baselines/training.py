"""What is trained, on what and for how long.

Every preset runs as `python train.py` runs it at `budget=laptop`, with the same updates, rows of a
batch, widths and learning rates, and without hyperparameters that are tuned for a dataset. What is
left is the method: its loss, its penalties, its critics, its share of recorded rows.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

import reverie
from reverie.benchmarks.claims import comparison
from reverie.training.launch.make import load_preset
from reverie.training.run import Run

# The first one fits what others share; meanwhile another core trains those that fit nothing.
METHODS = (
    *("morec_mobile", "rambo", "leq", "cql", "cal_ql", "edac", "sac_n", "fql", "td3_awr"),
    *("combo", "mobile", "ravl", "morec_mopo", "mobrac", "mopo", "mbpo", "morel", "sindy_rl"),
    *("sac", "rebrac", "awac", "iql", "td3_bc", "rvs", "bc_best", "bc"),
)
"""Presets that learn offline from one recorded dataset and nothing else, longest first."""
_ONLINE = "steps the true environment"
_SIMULATOR = "steps a simulator beside the dataset"
_GENERATOR = (
    "its generator takes longer to fit than all others train; benchmarks.claims."
    "policy_guided_diffusion measures it"
)
LEFT_OUT = {
    **dict.fromkeys(("mbpo_online", "sac_online", "sindy_rl_online"), _ONLINE),
    **dict.fromkeys(("h2o", "h2o_plus", "darc", "darc_plus", "sac_sim"), _SIMULATOR),
    "admpo": "fits another model than the others; docs/methods/admpo.md measures it",
    "apg": "an update is a hundred times as long; benchmarks.claims.second_ring measures it",
    "drrl": "stays near a clone; benchmarks.claims.second_ring demonstrations measures it",
    "mopo_bc": "benchmarks.claims.laptop_budget measures it at the budget that it is meant for",
    "neubay": "long rollouts; benchmarks.claims.long_rollouts measures it",
    "mpc": "trains no agent; benchmarks.claims.planning measures it",
    **dict.fromkeys(("pgd", "pgd_iql", "synther"), _GENERATOR),
}
"""The other presets, and why."""


@dataclass(frozen=True, kw_only=True)
class Task(comparison.Task):
    """A dataset whose task can be played.

    Attributes:
        epochs: of the ensemble: passes over the rows, so fewer where they are many.
        changes: settings by method that the task asks for.
    """

    epochs: int
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


# MOBILE cuts targets at zero; this task has nothing but costs.
_NO_FLOOR = {"agent": {"target_floor": None}}
TASKS = {
    "pendulum": Task(
        dataset="builtin/pendulum-mixed",
        epochs=30,
        changes={"mobile": _NO_FLOOR, "morec_mobile": _NO_FLOOR},
    ),
    "hopper": Task(
        dataset="minari",
        options={"id": "bench/hopper/mixed-v0", "name": "hopper"},
        unsuited={"sindy_rl": "whose equations are meant for few variables and no contacts"},
        epochs=10,
    ),
}


@dataclass(frozen=True)
class Budget(comparison.Budget):
    """One size for all; chosen before anything was seen.

    What it takes, from CPU seconds of runs of 10 to 30 updates on one thread of a busy machine: an
    update of 24 of the methods together 0.6 s, so 2,500 of them on two datasets 3,000 s; fits of
    models 450 s, rollouts 350 s, evaluations 450 s, verdicts 350 s. That is 77 minutes of one core
    and 38 of two, and less where nothing else runs; RAMBO and LEQ joined later.

    Attributes:
        seeds: S, replicas in one process.
        updates, batch: of every agent.
        evaluate, episodes: updates between evaluations, and their episodes per seed.
        epochs: of the ensemble, at most; None for the task's own.
        iterations: of the game behind MOREC's dynamics reward.
        fqe_updates: of fitted Q evaluation, for the verdict at the end.
    """

    seeds: int = 4
    updates: int = 2_500
    batch: int = 128
    evaluate: int = 500
    episodes: int = 5
    epochs: int | None = None
    iterations: int = 1_600
    fqe_updates: int = 1_000


QUICK = Budget(
    seeds=2, updates=300, evaluate=100, episodes=2, epochs=1, iterations=100, fqe_updates=100
)
RATE = 1e-3
"""Of every optimiser, as in the demos of `conf/tuned`: a short run needs larger steps."""
AGENT: dict[str, Any] = {"hidden": [64, 64], "tau": 0.01, "actor_cosine": False}
ENSEMBLE: dict[str, Any] = {
    "hidden": [128, 128, 128],
    "weight_decay": [2.5e-5, 5.0e-5, 7.5e-5, 1.0e-4],
    "holdout_limit": 1_000,
}
DYNAMICS_REWARD: dict[str, Any] = {
    "hidden": [64, 128, 128],
    "keep": 80,
    "thin": 8,
    "game": {"player_hidden": [64, 64]},
}
VERDICT: dict[str, Any] = {
    "fqe": {"share": 1.0, "replicas": 2, "hidden": [64, 64]},
    "doubly_robust": {"updates": 0},
}


def build(method: str, task: Task, budget: Budget) -> Run:
    """The run of one preset on one dataset."""
    preset = load_preset(method)
    agent = {key: value for key, value in AGENT.items() if key in preset["agent"]}
    # A rate of zero means that something is not learned at all.
    rates = [key for key, rate in preset["agent"].items() if key.endswith("learning_rate") and rate]
    parts: dict[str, Any] = {"agent": agent | dict.fromkeys(rates, RATE)}
    if "holdout_limit" in (preset["world_model"] or {}):
        parts["world_model"] = ENSEMBLE | {"max_epochs": budget.epochs or task.epochs}
    if preset["dynamics_reward"]:
        parts["dynamics_reward"] = DYNAMICS_REWARD | {"iterations": budget.iterations}
    for group, changes in task.changes.get(method, {}).items():
        parts[group] = parts.get(group, {}) | changes
    run = reverie.make(
        f"algorithm={method}",
        f"dataset={task.dataset}",
        "budget=laptop",
        "~tuned",
        "threads=1",
        "compile=false",
        "probe_starts=0",
        console=Console(quiet=True),
        **({"dataset": task.options} if task.options else {}),
        **parts,
        seeds=budget.seeds,
        updates=budget.updates,
        batch_size=budget.batch,
        log_every=min(budget.updates, 500),
        evaluate={"every": budget.evaluate, "episodes": budget.episodes},
        value_gap={"starts": 8},
        verdict=VERDICT | {"fqe": VERDICT["fqe"] | {"updates": budget.fqe_updates}},
    )
    # Runs share the machine, and each has a thread of its own.
    run.clock = time.process_time
    return run


def train_or_read(method: str, name: str, budget: Budget, folder: Path) -> dict[str, Any]:
    """The record of one method on one task, see `comparison.train_or_read`."""
    return comparison.train_or_read(build(method, TASKS[name], budget), method, name, folder)
