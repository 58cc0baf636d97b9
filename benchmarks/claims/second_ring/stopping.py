"""What stops the plain ensemble: the error of single steps, as published, or that of 16 in a row.

Two seeds of two sizes on three tasks, with their own early stopping: the ensemble that
`algorithm=mpc` fits on at most 4,000 rows, and the shipped one, seven of 4 x 200, on 1,500. A
fifth of the episodes is seen by no fit and measures how far ahead each sees; plans act on the
pendulum. Hopper is read from Minari's folder, see MINARI_DATASETS_PATH. The rule was fixed before
the run: many steps become the default where all three claims hold.
"""

from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from reverie import datasets
from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims.experiment import run_all
from reverie.benchmarks.claims.open_loop import Ahead, errors_ahead, starts
from reverie.benchmarks.claims.plans import ensemble, plan
from reverie.benchmarks.claims.report import Claim, Findings
from reverie.datasets.dataset import Dataset
from reverie.datasets.subset import choose_episodes

TITLE = "What stops an ensemble: one step or many, two seeds each"
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "hopper": ("minari", {"id": "bench/hopper/mixed-v0"}),
    "cart-pole": ("builtin/cartpole-swingup", {}),
    "pendulum": ("builtin/pendulum-mixed", {}),
}
SIZES = {"shipped": 1_500, "mpc": 4_000}
"""Rows that each size learns from, at most."""
ONE, MANY = "one_step", "multi_step"
HORIZONS = (1, 16, 32)
STARTS, EPISODES, SEEDS = 500, 2, 2
LIMITS = {"error after 16 steps": 0.9, "error after 1 step": 1.05, "seconds of a fit": 1.25}
"""Of many steps to one, what the median over all fits may reach."""


def split(full: Dataset, rows: int) -> tuple[Dataset, Tensor]:
    """Whole episodes with so many rows at most, and a fifth of all episodes, none of them."""
    lengths = full.episode_lengths
    order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(0))
    tests = len(lengths) // 5
    fits = int((lengths[order[:-tests]].cumsum(0) <= rows).sum())
    choice = {"episodes": max(1, fits), "fraction": None, "seed": 0}
    return choose_episodes(full, choice), order[-tests:]


def run(task: str, size: str, select_by: str, quick: bool) -> dict[str, Any]:
    """Fit, measure, and plan on the pendulum."""
    option, settings = TASKS[task]
    full = datasets.load(option, **settings)
    data, tests = split(full, SIZES[size])
    own: dict[str, Any] = {"select_by": select_by, "heldout_episodes": 0}
    changes = (ensemble() if size == "mpc" else {}) | own
    changes |= {"max_epochs": 2} if quick else {}
    fitted = experiment.fit("world_model", "ensemble", data, changes=changes, seeds=SEEDS)
    rows = starts(full, tests, HORIZONS[-1], STARTS)
    ahead = Ahead.of(errors_ahead(fitted.model, full, full, rows, HORIZONS[-1]), HORIZONS)
    found: dict[str, Any] = {}
    if task == "pendulum":
        found = plan(data, fitted.model, {}, episodes=1 if quick else EPISODES, seeds=SEEDS)
    return {
        **found,
        **ahead.described(),
        "rows": len(data),
        "epochs": fitted.described["epochs"],
        "seconds": fitted.seconds,
    }


def measure(quick: bool) -> Findings:
    """All fits, and whether many steps should be the default."""
    tasks = [task for task in TASKS if task != "hopper" or not quick]
    jobs: dict[str, Callable[[], dict[str, Any]]] = {
        f"{task}/{size}/{by}": partial(run, task, size, by, quick)
        for task in tasks
        for size in SIZES
        for by in (ONE, MANY)
    }
    return judge(run_all(jobs), quick)


def ratios(runs: Mapping[str, Any]) -> dict[str, list[float]]:
    """Of many steps to one: of every task, size and seed the errors, of every task and size the
    seconds."""
    found: dict[str, list[float]] = {name: [] for name in LIMITS}
    for name in runs:
        if not name.endswith(MANY):
            continue
        many, one = runs[name], runs[name.removesuffix(MANY) + ONE]
        for text, steps in zip(LIMITS, (16, 1), strict=False):
            pairs = zip(many["errors"][steps], one["errors"][steps], strict=True)
            found[text] += [mine / its for mine, its in pairs]
        found["seconds of a fit"].append(many["seconds"] / one["seconds"])
    return found


def judge(runs: Mapping[str, Any], quick: bool) -> Findings:
    """The rule's three claims, and every fit."""
    claims = [
        Claim(
            f"{name}, stopped by many steps against one",
            f"median ratio at most {LIMITS[name]:g}",
            f"{median(found):.3g} ({', '.join(f'{each:.3g}' for each in found)})",
            None if quick else median(found) <= LIMITS[name],
            "ours",
        )
        for name, found in ratios(runs).items()
    ]
    for name, each in runs.items():
        score = f", score of plans {_shown(each['score'])}" if "score" in each else ""
        claims.append(Claim(name, "no claim", describe(each) + score, None, "ours"))
    return Findings(claims, {"runs": runs})


def describe(run: Mapping[str, Any]) -> str:
    """A fit in words, with a number a seed."""
    errors = ", ".join(f"{k}: {_shown(values)}" for k, values in run["errors"].items())
    return f"{run['rows']:,} rows, {run['epochs']} epochs, {run['seconds']:.0f} s, {errors}"


def _shown(values: Any) -> str:
    """A number a seed."""
    return " and ".join(f"{each:.3g}" for each in values)
