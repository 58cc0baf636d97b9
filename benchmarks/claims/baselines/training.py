"""What is trained, on what and for how long, and the record that each finished training leaves.

Every preset runs as `python train.py` runs it at `budget=laptop`, with the same updates, rows of a
batch, widths and learning rates, and without hyperparameters that are tuned for a dataset. What is
left is the method: its loss, its penalties, its critics, its share of recorded rows.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

import reverie
from reverie import datasets
from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake, Unwritable
from reverie.training.files import write_json
from reverie.training.launch.make import load_preset
from reverie.training.run import Run
from reverie.training.run_directory import CARRIED_OUT, flat
from reverie.training.stored import read_record

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
    **dict.fromkeys(("pgd", "pgd_iql", "synther"), _GENERATOR),
}
"""The other presets, and why."""


@dataclass(frozen=True)
class Task:
    """A dataset whose task can be played.

    Attributes:
        dataset, options: its option and settings of it.
        epochs: of the ensemble: passes over the rows, so fewer where they are many.
        changes: settings by method that the task asks for.
        unsuited: methods that are not trained on it, and why.
    """

    dataset: str
    options: Mapping[str, Any]
    epochs: int
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unsuited: Mapping[str, str] = field(default_factory=dict)

    def load(self) -> Dataset:
        """All of it; Minari's is found through MINARI_DATASETS_PATH."""
        return datasets.load(self.dataset, **self.options)


# MOBILE cuts targets at zero; this task has nothing but costs.
_NO_FLOOR = {"agent": {"target_floor": None}}
TASKS = {
    "pendulum": Task(
        "builtin/pendulum-mixed", {}, 30, {"mobile": _NO_FLOOR, "morec_mobile": _NO_FLOOR}
    ),
    "hopper": Task(
        "minari",
        {"id": "bench/hopper/mixed-v0", "name": "hopper"},
        10,
        unsuited={"sindy_rl": "whose equations are meant for few variables and no contacts"},
    ),
}


@dataclass(frozen=True)
class Budget:
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
    """Train, or read what an earlier command has trained.

    Args:
        name: of the task.
        folder: of the records.

    Returns:
        What is known of the training, as plain values: `updates` `[T]` and `returns` `[S, T]` of
        evaluations, `alarms`, `outcome` of the verdict by seed, `seconds` by stage, `stopped`, why
        it did not come to its end (then the others are empty).
    """
    run = build(method, TASKS[name], budget)
    path = folder / f"{name}-{method}-{digest(run)}.json"
    if path.is_file():
        return read_record(path, "delete it and run the same command again")
    record: dict[str, Any] = {
        "method": method,
        "dataset": name,
        "fingerprint": run.data.fingerprint,
    }
    record |= train(run)
    write_json(path, record, with_digest=True)
    said = record["stopped"] or f"{sum(record['seconds'].values()) / 60:.1f} minutes"
    print(f"{name}, {method}: {said}", flush=True)
    return record


def digest(run: Run) -> str:
    """Of all that decides the numbers of a run."""
    settings = {
        key: value
        for key, value in flat(run.settings).items()
        if key.split(".")[0] not in CARRIED_OUT
    }
    text = json.dumps([settings, run.data.fingerprint], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def train(run: Run) -> dict[str, Any]:
    """What `train_or_read` records of a run, which may diverge: that is a result, too."""
    try:
        results = run.train(console=Console(quiet=True))
    except Unwritable:
        raise
    except Mistake as error:
        return {
            "updates": [],
            "returns": [],
            "alarms": [],
            "outcome": [],
            "seconds": dict(run.seconds),
            "stopped": str(error),
        }
    updates, returns = results.series["return"]
    verdict = results.summary["verdict"]
    return {
        "updates": updates.tolist(),
        "returns": returns.tolist(),
        "alarms": results.summary["alarms"],
        "outcome": verdict["outcome"],
        "seconds": dict(run.seconds),
        "stopped": None,
    }
