"""Presets as `train.py` trains them at `budget=laptop`: no number is changed.

`python train.py algorithm=X dataset=Y budget=laptop ~tuned` decides about networks, rates, rows of
a batch and updates; `~tuned` because nobody has tuned them for a stranger's data.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

import reverie
from reverie.benchmarks.claims import comparison
from reverie.benchmarks.claims.comparison import Task, digest, record_path, train_or_read
from reverie.benchmarks.speed.hardware import describe
from reverie.training.launch.make import load_preset
from reverie.training.launch.options import limits
from reverie.training.run import Run

MODEL_BASED = (
    *("leq", "ravl", "mobile", "morec_mobile", "combo", "rambo", "mobrac"),
    *(
        "morec_mopo",
        "apg",
        "admpo",
        "neubay",
        "drrl",
        "mopo_bc",
        "mopo",
        "mbpo",
        "morel",
        "sindy_rl",
    ),
)
"""Presets that learn offline in a world model, longest first; generators of whole records are
left out, for the fit of one takes longer than most of these train."""
MODEL_FREE = ("rebrac", "iql", "td3_bc", "bc")
METHODS = (*MODEL_BASED[:7], "rebrac", *MODEL_BASED[7:], *MODEL_FREE[1:])


@dataclass(frozen=True)
class Budget(comparison.Budget):
    """How a run is measured; how long it is, `budget=laptop` says.

    Attributes:
        option: `laptop`, or `paper` for as long as the preset's paper says.
        evaluate, episodes: updates between evaluations, and their episodes per seed.
        updates, epochs: of every agent and of every ensemble at most; None for what the option
            says.
    """

    option: str = "laptop"
    seeds: int = 4
    evaluate: int = 5_000
    episodes: int = 10
    updates: int | None = None
    epochs: int | None = None


QUICK = Budget(seeds=2, evaluate=30, episodes=2, updates=60, epochs=1)


def name_task(dataset: str) -> tuple[str, Task]:
    """A task of somebody else's by its Minari id or its option, and a name for its files."""
    name = re.sub(r"[^\w.-]+", "-", dataset)
    builtin = dataset.startswith("builtin/")
    return name, Task(dataset=dataset) if builtin else Task(
        dataset="minari", options={"id": dataset}
    )


def build(
    method: str,
    task: Task,
    budget: Budget,
    seed: int | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Run:
    """The run of one preset on one task.

    Args:
        seed: of the run; None for that of `train.py`.
        changes: settings that are not as shipped, as `reverie.make` takes them.
    """
    parts: dict[str, Any] = dict(changes or {})
    parts |= {"dataset": task.options} if task.options else {}
    if budget.updates is not None:
        most = limits(budget.option, {"algorithm": method}).get("updates", budget.updates)
        parts["updates"] = min(budget.updates, most)
    if seed is not None:
        parts["seed"] = seed
    if budget.epochs is not None and "max_epochs" in (load_preset(method)["world_model"] or {}):
        parts["world_model"] = {"max_epochs": budget.epochs}
    run = reverie.make(
        f"algorithm={method}",
        f"dataset={task.dataset}",
        f"budget={budget.option}",
        "~tuned",
        "threads=1",
        "compile=auto",
        console=Console(quiet=True),
        **parts,
        seeds=budget.seeds,
        evaluate={"every": budget.evaluate, "episodes": budget.episodes},
    )
    # Runs share the machine, and each has a thread of its own.
    run.clock = count_core_seconds
    return run


def count_core_seconds() -> float:
    """Of this process and of those that it has waited for, such as the compiler."""
    return sum(os.times()[:4])


def train_or_find(
    method: str,
    name: str,
    task: Task,
    budget: Budget,
    folder: Path,
    known: Mapping[str, Any] | None,
    *,
    train: bool,
    seed: int | None = None,
    keep: bool = False,
) -> dict[str, Any] | None:
    """The record of one method on one task.

    Args:
        name: of the task.
        folder: of the records.
        known: one that may be of other settings; None for none.
        train: whether it is trained where neither is a record of these settings; else the answer
            is None then.
        seed: of the run; None for that of `train.py`.
        keep: the run directory, below `folder`, from which a killed training goes on.
    """
    run = build(method, task, budget, seed)
    own = digest(run)
    if known is not None and known.get("digest") == own:
        return dict(known)
    label = record_label(method, seed)
    if not (train or record_path(folder, name, label, own).is_file()):
        return None
    hardware = describe(run.device)
    about: dict[str, Any] = {"digest": own, "date": date.today().isoformat()}
    about["cpu"] = hardware["gpu"] or hardware["cpu"]
    if seed is not None:
        reference = run.data.reference
        scale = None if reference is None else [reference.low, reference.high]
        about |= {"method": method, "seed": seed, "reference": scale}
    place = run_folder(folder, name, method, own) if keep else None
    return train_or_read(run, label, name, folder, about, place)


def record_label(method: str, seed: int | None) -> str:
    """What a method's record is called, so that its seeds are told apart without a look inside."""
    return method if seed is None else f"{method}-seed{seed}"


def run_folder(folder: Path, name: str, method: str, digest: str) -> Path:
    """Where the run directory of a training lies that is kept."""
    return folder / "runs" / name / method / digest
