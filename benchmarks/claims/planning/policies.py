"""MOPO's policy, plans in its model, and plans that its policy proposes and its critics value.

One ensemble a seed, that of `algorithm=mpc`, serves all three.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console

import reverie
from reverie import datasets
from reverie.benchmarks.claims.judging import Estimate, estimate
from reverie.benchmarks.claims.plans import draw_scores, ensemble, plan, score
from reverie.benchmarks.claims.report import Claim, Findings
from reverie.envs import two_tanks
from reverie.envs.make import spec_of
from reverie.world_models.base import WorldModel

SEEDS = 2
QUICK_UPDATES, QUICK_EPOCHS, QUICK_EPISODES = 200, 4, 1
MARGIN = 5.0
"""Points of score by which plans may lie below the policy."""
POLICY, PLANS, BOTH = "MOPO", "plans", "plans with MOPO's policy and critics"
ARMS = (POLICY, PLANS, BOTH)
RECORDED = "0 = recorded mean, 100 = best recorded episode"

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
}
"""The hyperparameters that are tuned for `builtin/pendulum-mixed`, for all small tasks."""
BARE = {
    "probe_starts": 0,
    "value_gap.starts": 0,
    "verdict.starts": 0,
    "evaluate.every": 0,
    "checkpoint_every": 0,
    "compile": False,
    "threads": 1,
}
"""Nothing beside the training."""


@dataclass(frozen=True)
class Task:
    """A dataset, how MOPO learns from it, and how far ahead its plans look.

    Attributes:
        dataset: its option.
        changes: of `planner=mppi`.
        shorter: further ones where critics value the end.
        options: of the dataset.
        chosen, settings: options and hyperparameters of MOPO.
        updates: of MOPO.
        epochs: of the ensemble, at most.
        episodes: of every arm and seed.
        plant: id of the environment in which policies act; None for the one that the data name.
        scale: of the score, in words.
    """

    dataset: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    shorter: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=lambda: MOPO)
    updates: int = 10_000
    epochs: int | str | None = None
    episodes: int = 5
    plant: str | None = None
    scale: str = "0 = random, 100 = expert"


TASKS = {
    # A swing-up takes a hundred steps, and none pays before the pole rises.
    "swing-up": Task(
        "builtin/cartpole-swingup",
        {"horizon": 50, "noise_exponent": 2.0},
        {"horizon": 15},
    ),
    # A laptop's sizes at the rates of the paper, and little of everything.
    "hopper": Task(
        "minari",
        {},
        {"horizon": 5},
        options={"id": "bench/hopper/mixed-v0", "name": "hopper"},
        chosen=("budget=laptop", "~tuned"),
        settings={
            "agent.actor_learning_rate": 1e-4,
            "agent.critic_learning_rate": 3e-4,
            "agent.temperature_learning_rate": 1e-4,
            "agent.tau": 0.005,
        },
        updates=5_000,
        epochs="auto",
        episodes=2,
        scale=RECORDED,
    ),
    # A log without an environment; nobody shows the plant to what learns from it.
    "two-tanks": Task("builtin/two-tanks", episodes=10, plant=two_tanks.ENV_ID, scale=RECORDED),
    "pendulum": Task("builtin/pendulum-mixed"),
}
"""The longest first."""


def run(name: str, quick: bool) -> dict[str, Any]:
    """Train MOPO once, then score its policy and both kinds of plans in its model."""
    task = TASKS[name]
    data = datasets.load(task.dataset, **task.options)
    model_settings = ensemble() | {"max_epochs": QUICK_EPOCHS if quick else task.epochs}
    del model_settings["terminal_head"]
    settings: dict[str, Any] = {
        **BARE,
        **task.settings,
        "updates": QUICK_UPDATES if quick else task.updates,
        "seeds": SEEDS,
        **{f"world_model.{key}": value for key, value in model_settings.items()},
    }
    made = reverie.make(
        *("algorithm=mopo", *task.chosen),
        dataset=data,
        console=Console(quiet=True),
        **settings,
    )
    made.train()
    model = made.parts["world_model"].model
    assert isinstance(model, WorldModel)
    size: dict[str, Any] = {
        "episodes": QUICK_EPISODES if quick else task.episodes,
        "seeds": SEEDS,
        "plant": task.plant and spec_of(task.plant, env_kwargs={}, physics="as-is"),
    }
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
                    f"at most {MARGIN:g} points below it ({TASKS[name].scale})",
                    f"{_plain(scores[arm])} against {_plain(scores[POLICY])}; "
                    f"{arms[arm]['milliseconds']:.3g} ms per decision of {SEEDS} seeds",
                    None if quick else scores[arm].mean >= least,
                    "ours",
                )
            )
    return Findings(claims, {}, {"planning": plot(found)})


def plot(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Scores of the arms by task, a dot a seed."""
    rows = -(-len(found) // 2)
    figure = Figure(figsize=(8, 3.2 * rows), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes in panels[len(found) :]:
        axes.remove()
    labels = ("MOPO", "plans", "plans with\nMOPO's agent")
    for axes, (name, arms) in zip(panels, found.items(), strict=False):
        scores = [arms[arm]["score"] for arm in ARMS]
        draw_scores(axes, dict(zip(labels, scores, strict=True)))
        axes.set_title(f"{name}\n{TASKS[name].scale}", fontsize=9)
    return figure


def _plain(scores: Estimate) -> str:
    return f"{scores.mean:.1f} ({', '.join(f'{each:.1f}' for each in scores.values)})"
