"""MOPO's policy, plans in its model, and plans that its policy proposes and its critics value.

One ensemble a seed, that of `algorithm=mpc`, serves all three.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console

import reverie
from reverie import datasets
from reverie.benchmarks.claims.judging import Estimate, estimate
from reverie.benchmarks.claims.plans import ensemble, plan, score
from reverie.benchmarks.claims.report import Claim, Findings
from reverie.world_models.base import WorldModel

SEEDS, EPISODES, UPDATES = 2, 5, 10_000
QUICK_UPDATES, QUICK_EPOCHS, QUICK_EPISODES = 200, 4, 1
MARGIN = 5.0
"""Points of score by which plans may lie below the policy."""
POLICY, PLANS, BOTH = "MOPO", "plans", "plans with MOPO's policy and critics"
ARMS = (POLICY, PLANS, BOTH)


@dataclass(frozen=True)
class Task:
    """A dataset, and how far ahead its plans look.

    Attributes:
        changes: of `planner=mppi`.
        shorter: further ones where critics value the end.
    """

    dataset: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    shorter: Mapping[str, Any] = field(default_factory=dict)


TASKS = {
    # A swing-up takes a hundred steps, and none pays before the pole rises.
    "swing-up": Task(
        "builtin/cartpole-swingup",
        {"horizon": 50, "noise_exponent": 2.0},
        {"horizon": 15},
    ),
    "pendulum": Task("builtin/pendulum-mixed"),
}
MOPO = {
    "real_ratio": 0.3,
    "source.horizon": 5,
    "source.starts": 2_000,
    "source.every": 250,
    "agent.hidden": [128, 128],
    "agent.actor_learning_rate": 1e-3,
    "agent.critic_learning_rate": 1e-3,
    "agent.temperature_learning_rate": 1e-3,
    "agent.actor_cosine": False,
    "agent.tau": 0.01,
    "probe_starts": 0,
    "value_gap.starts": 0,
    "verdict.starts": 0,
    "evaluate.every": 0,
    "checkpoint_every": 0,
    "compile": False,
    "threads": 1,
}
"""The hyperparameters that are tuned for `builtin/pendulum-mixed`, for both tasks."""


def run(name: str, quick: bool) -> dict[str, Any]:
    """Train MOPO once, then score its policy and both kinds of plans in its model."""
    task = TASKS[name]
    data = datasets.load(task.dataset)
    model_settings = ensemble() | ({"max_epochs": QUICK_EPOCHS} if quick else {})
    del model_settings["terminal_head"]
    settings = {
        **MOPO,
        "updates": QUICK_UPDATES if quick else UPDATES,
        "seeds": SEEDS,
        **{f"world_model.{key}": value for key, value in model_settings.items()},
    }
    made = reverie.make(
        "algorithm=mopo", dataset=task.dataset, console=Console(quiet=True), **settings
    )
    made.train()
    model = made.parts["world_model"].model
    assert isinstance(model, WorldModel)
    size: dict[str, Any] = {"episodes": QUICK_EPISODES if quick else EPISODES, "seeds": SEEDS}
    with torch.no_grad():
        return {
            POLICY: score(data, made.policy, **size),
            PLANS: plan(data, model, task.changes, **size),
            BOTH: plan(data, model, {**task.changes, **task.shorter}, agent=made.agent, **size),
            "seconds": made.seconds,
        }


def jobs(quick: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """One a task."""
    return {name: partial(run, name, quick) for name in TASKS}


def judge(found: Mapping[str, Mapping[str, Any]], quick: bool) -> Findings:
    """Whether plans, with and without the agent, are no worse than the policy."""
    claims = []
    for name, arms in found.items():
        scores = {arm: estimate(arms[arm]["score"]) for arm in ARMS}
        for arm in (PLANS, BOTH):
            least = scores[POLICY].mean - MARGIN
            claims.append(
                Claim(
                    f"{name}: {arm}, beside MOPO's policy at equal model",
                    f"at most {MARGIN:g} points below it",
                    f"{_plain(scores[arm])} against {_plain(scores[POLICY])}; "
                    f"{arms[arm]['milliseconds']:.3g} ms per decision of {SEEDS} seeds",
                    None if quick else scores[arm].mean >= least,
                    "ours",
                )
            )
    return Findings(claims, {}, {"planning": plot(found)})


def plot(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Scores of the arms by task, a dot a seed."""
    figure = Figure(figsize=(4 * len(found), 3.2), layout="constrained")
    for axes, (name, arms) in zip(
        np.atleast_1d(figure.subplots(1, len(found))), found.items(), strict=True
    ):
        for place, arm in enumerate(ARMS):
            scores = arms[arm]["score"]
            axes.bar(place, np.mean(scores), color=f"C{place}", alpha=0.5)
            axes.plot([place] * len(scores), scores, "k.")
        axes.set_xticks(range(len(ARMS)), ["MOPO", "plans", "plans with\nMOPO's agent"])
        axes.set_title(name)
        axes.set_ylabel("score")
    return figure


def _plain(scores: Estimate) -> str:
    return f"{scores.mean:.1f} ({', '.join(f'{each:.1f}' for each in scores.values)})"
