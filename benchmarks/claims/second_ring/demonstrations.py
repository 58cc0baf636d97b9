"""Demonstration-regularised RL, arXiv:2310.17303: a divergence to a clone in place of a penalty.

In finite tasks the best policy of a scarce model comes nearer to the optimum with demonstrations,
and few demonstrations harm a good model. On the pendulum `algorithm=drrl` goes from SAC on rollouts
to the clone as lambda grows.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console

import reverie
from reverie import datasets
from reverie.benchmarks.claims.experiment import run_all
from reverie.benchmarks.claims.judging import (
    Estimate,
    estimate,
    estimate_difference,
    judge_order,
    subtract,
)
from reverie.benchmarks.claims.report import Claim, Findings
from reverie.benchmarks.claims.second_ring import tabular
from reverie.benchmarks.claims.second_ring.scoring import score
from reverie.training.seeding import seed_everything

TITLE = "Demonstration-regularised RL: mean ± 95 % interval"
TASKS, STATES, ACTIONS, HORIZON, REWARDED = 40, 15, 4, 8, 0.1
TABULAR_WEIGHTS = (0.05, 0.2, 1.0)
SETTINGS = ((1, 20), (1, 100), (3, 20), (3, 100), (10, 5), (10, 100), (100, 5), (100, 100))
"""Samples of the model at every step, state and action, and demonstrations."""
HALVED, HARMED = ((1, 100), (3, 100)), (100, 5)
HALF = 0.65
"""Share of the plain gap that is about half of it."""

WEIGHTS = (0.0, 0.1, 1.0, 10.0, 100.0)
DATASETS = {"mixed": {}, "the best tenth": {"subset": {"fraction": 0.1, "order": "return"}}}
EPOCHS = {"mixed": 20, "the best tenth": 200}
"""Of the cloning of the actor: about 2,000 updates either way."""
SEEDS, UPDATES, EPISODES = 3, 3_000, 10
QUICK: dict[str, Any] = {
    "updates": 60,
    "pretraining.epochs": 1,
    "world_model.max_epochs": 2,
    "behaviour.steps": 200,
}
QUICK_EPISODES = 2
CLONED, NEAR = 10.0, 5.0
"""Weight from which the policy should be the clone, and points of score between them."""
RUN: dict[str, Any] = {
    "seeds": SEEDS,
    "batch_size": 128,
    "source.horizon": 5,
    "source.starts": 1_000,
    "source.every": 250,
    "world_model.hidden": [64, 64, 64],
    "world_model.weight_decay": [2.5e-5, 5.0e-5, 7.5e-5, 1.0e-4],
    "world_model.max_epochs": 30,
    "behaviour.hidden": [64, 64],
    "behaviour.steps": 3_000,
    "pretraining.learning_rate": 1.0e-3,
    "agent.hidden": [64, 64],
    "agent.actor_learning_rate": 1.0e-3,
    "agent.critic_learning_rate": 1.0e-3,
    "agent.discount": 0.97,
    "agent.tau": 0.02,
    "probe_starts": 0,
    "value_gap.starts": 0,
    "verdict.starts": 0,
    "evaluate.every": 0,
    "checkpoint_every": 0,
    "compile": False,
    "threads": 1,
}
"""Of `algorithm=drrl`; chosen before anything was run."""


def measure(quick: bool) -> Findings:
    """Both halves."""
    weights = (0.0, 10.0) if quick else WEIGHTS
    names = list(DATASETS)[:1] if quick else list(DATASETS)
    jobs = {
        (name, weight): partial(run, name, weight, quick) for name in names for weight in weights
    }
    arms = run_all({f"{name}/{weight:g}": job for (name, weight), job in jobs.items()})
    found = measure_tables()
    return Findings(
        [*claim_tables(found), *claim_pendulum(arms, names, weights, judge=not quick)],
        {"finite_tasks": found, "pendulum": arms, "run": RUN, "updates": UPDATES},
        {} if quick else {"scores": plot(arms, names, weights)},
    )


def measure_tables(
    settings: Sequence[tuple[int, int]] = SETTINGS,
) -> dict[str, dict[str, Estimate]]:
    """Relative gaps by setting and way of planning, with intervals over tasks."""
    seed_everything(0)
    tasks = tabular.draw_tasks(TASKS, STATES, ACTIONS, HORIZON, REWARDED)
    expert = tabular.plan(tasks)
    found = {}
    for samples, trajectories in settings:
        own = tabular.gaps(
            tasks=tasks,
            expert=expert,
            samples=samples,
            trajectories=trajectories,
            weights=TABULAR_WEIGHTS,
        )
        named = {name: estimate(gap.tolist()) for name, gap in own.items()}
        # An oracle's choice, as the paper's lambda depends on what nobody knows.
        near = min((named[f"{weight:g}"] for weight in TABULAR_WEIGHTS), key=lambda e: e.mean)
        found[f"{samples}/{trajectories}"] = {**named, "near": near}
    return found


def claim_tables(found: Mapping[str, Mapping[str, Estimate]]) -> list[Claim]:
    """About half of the gap for scarce models, and harm by few demonstrations."""
    claims = []
    for setting, own in found.items():
        samples, trajectories = map(int, setting.split("/"))
        expected, holds = "no claim", None
        if (samples, trajectories) in HALVED:
            expected = f"near the clone at most {HALF:g} of plain planning's gap"
            holds = own["near"].mean <= HALF * own["plain"].mean
        if (samples, trajectories) == HARMED:
            expected = "near the clone worse than plain planning"
            holds = estimate_difference(own["near"].values, own["plain"].values).low > 0
        claims.append(
            Claim(
                f"{TASKS} finite tasks, model of {samples} samples, {trajectories} demonstrations: "
                "share of the best value that is missing",
                expected,
                f"plain {own['plain']}, clone {own['clone']}, near the clone {own['near']}",
                holds,
            )
        )
    return claims


def run(name: str, weight: float, quick: bool) -> dict[str, Any]:
    """Train `algorithm=drrl`, and score its policy and its clone on the same starts."""
    data = datasets.load("builtin/pendulum-mixed", **DATASETS[name])
    settings = (
        RUN
        | {"pretraining.epochs": EPOCHS[name]}
        | {"agent.weight": weight, "updates": UPDATES}
        | (QUICK if quick else {})
    )
    made = reverie.make(
        "algorithm=drrl",
        dataset=data,
        console=Console(quiet=True),
        **settings,
    )
    results = made.train(console=Console(quiet=True))
    clone: Any = made.parts["behaviour"].model
    episodes = QUICK_EPISODES if quick else EPISODES

    assert data.reference is not None
    scored = partial(score, data=data, seeds=SEEDS, episodes=episodes)
    return {
        "policy": scored(made.policy),
        "clone": scored(lambda obs: clone.moments(obs)[0]),
        "recorded": float(data.reference.normalise(data.returns.mean())),
        "divergence": results.series["divergence"][1][:, -1].tolist(),
        "seconds": made.seconds,
    }


def claim_pendulum(
    arms: Mapping[str, Mapping[str, Any]],
    names: Sequence[str],
    weights: Sequence[float],
    *,
    judge: bool,
) -> list[Claim]:
    """The clone's score at the largest weight; what a weight does to good and to mixed data."""
    claims = []
    for name in names:
        scores = {weight: estimate(arms[f"{name}/{weight:g}"]["policy"]) for weight in weights}
        last = arms[f"{name}/{weights[-1]:g}"]
        clone = sum(last["clone"]) / len(last["clone"])
        for weight in weights:
            if weight < CLONED:
                continue
            divergence = estimate(arms[f"{name}/{weight:g}"]["divergence"])
            claims.append(
                Claim(
                    f"pendulum, {name}: at lambda {weight:g} the policy scores as the clone does",
                    f"within {NEAR:g} points of {clone:.1f}",
                    f"{scores[weight]}, divergence {divergence} nats",
                    abs(scores[weight].mean - clone) <= NEAR if judge else None,
                    "ours",
                )
            )
        claims.append(
            Claim(
                f"pendulum, {name}: score by lambda; recorded mean {last['recorded']:.1f}",
                "no claim",
                ", ".join(f"{weight:g}: {each}" for weight, each in scores.items()),
                None,
                "ours",
            )
        )
        middle = [scores[weight] for weight in weights[1:] if weight < CLONED]
        if middle and name == "the best tenth":
            best = max(middle, key=lambda each: each.mean)
            claims.append(
                Claim(
                    f"pendulum, {name}: good demonstrations help, best of lambda "
                    "0.1 and 1 against 0",
                    "above, intervals apart",
                    f"{best} against {scores[0.0]}: {subtract(best, scores[0.0])}",
                    judge_order(scores[0.0], best) if judge else None,
                    "ours",
                )
            )
        elif middle:
            claims.append(
                Claim(
                    f"pendulum, {name}: poor demonstrations harm, lambda {weights[-1]:g} against 0",
                    "below, intervals apart",
                    f"{scores[weights[-1]]} against {scores[0.0]}",
                    judge_order(scores[weights[-1]], scores[0.0]) if judge else None,
                    "ours",
                )
            )
    return claims


def plot(
    arms: Mapping[str, Mapping[str, Any]], names: Sequence[str], weights: Sequence[float]
) -> Figure:
    """Scores by lambda with the clone's, a panel a dataset."""
    figure = Figure(figsize=(4.4 * len(names), 3.2), layout="constrained")
    for ax, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for place, weight in enumerate(weights):
            own = arms[f"{name}/{weight:g}"]
            ax.bar(place, torch.tensor(own["policy"]).mean(), color="C0", alpha=0.5)
            ax.plot([place] * len(own["policy"]), own["policy"], "k.")
        ax.axhline(torch.tensor(own["clone"]).mean(), color="C1", label="clone")
        ax.axhline(own["recorded"], color="0.4", ls="--", label="recorded mean")
        ax.set_xticks(range(len(weights)), [f"{weight:g}" for weight in weights])
        ax.set(title=name, xlabel="lambda", ylabel="score")
        ax.legend(fontsize=8)
    return figure
