"""Policies of graded skill from four offline methods, and what they are worth: estimated and true.

Every method trains briefly with small networks and is kept four times on the way, so that bad,
middling and good policies are among the sixteen. Fitted Q evaluation and rollouts of world models
then see the dataset only; the models are not those that MOPO learned from.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from reverie import datasets
from reverie.agents.base import Agent
from reverie.agents.fitted_q_evaluation import FittedQEvaluation
from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims.experiment import Budget
from reverie.datasets.dataset import Dataset
from reverie.training.launch.options import load_option
from reverie.training.logging import Log, NoTracker
from reverie.training.ope import estimates as value_estimates
from reverie.training.ope.recorded import start_states
from reverie.training.seeding import seed_everything
from reverie.world_models.filters import UncertaintyPenalty
from reverie.world_models.measures import spearman

DISCOUNT = 0.99
ARMS = ("mopo", "td3_bc", "sac", "bc")
FQE = {
    "hidden": [64, 64],
    "activation": "relu",
    "learning_rate": 1e-3,
    "tau": 0.2,
    "offset_rate": 0.01,
    "clip_targets": True,
}
AGENT = {
    "hidden": [64, 64],
    "actor_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "temperature_learning_rate": 1e-3,
    "learning_rate": 1e-3,  # of behaviour cloning
    "actor_cosine": False,
    "tau": 0.02,
}
"""Changed hyperparameters of all agents, each as far as it has them."""
BOX = 1.5
"""States of model rollouts stay within so many times the range of the data."""


def model(width: int, epochs: int, batch: int) -> dict[str, Any]:
    """Changes of world models: two hidden layers, fitted for so many epochs at most."""
    return {
        "batch": batch,
        "hidden": [width, width],
        "weight_decay": [2.5e-5, 5.0e-5, 1.0e-4],
        "max_epochs": epochs,
        "heldout_episodes": 0,
    }


@dataclass(frozen=True)
class Task:
    """A dataset and the budget of everything on it.

    Attributes:
        dataset, options: its option and changed hyperparameters.
        model: changed hyperparameters of the world models.
        budget: of every arm; its evaluations are when policies are kept.
        fits: critics of each policy and world models, the repetitions behind every interval.
        fqe_updates: of fitted Q evaluation, of `batch` rows; 0 for none.
        starts: recorded start states.
        episodes: of every policy in the true environment.
    """

    dataset: str
    options: dict[str, Any]
    model: dict[str, Any]
    budget: Budget
    fits: int
    fqe_updates: int
    batch: int
    starts: int
    episodes: int


@dataclass(frozen=True)
class Found:
    """Estimates `[fits, policies]` beside the truth `[policies]`.

    Attributes:
        names: method and updates of every policy.
        estimates: by method and quantity: `fqe/value`, `model/value`, `model/return`.
        truth: `value` and `return`.
        standard_errors: of the truth, over its episodes.
        fingerprint: of the dataset.
        outside: share of steps at which a model left the box of the data, by model.
    """

    names: list[str]
    estimates: dict[str, Float[Tensor, "fits policies"]]
    truth: dict[str, Float[Tensor, " policies"]]
    standard_errors: dict[str, Float[Tensor, " policies"]]
    fingerprint: str
    outside: list[float]


PENDULUM = Task(
    dataset="builtin/pendulum-mixed",
    options={},
    model=model(width=64, epochs=10, batch=64),
    budget=Budget(
        seeds=1,
        updates=1_200,
        batch=128,
        real_ratio=0.05,
        evaluate=300,
        episodes=1,
        probe=0,
        starts=500,
        horizon=3,
        every=250,
        retain=5,
    ),
    fits=4,
    fqe_updates=2_500,
    batch=128,
    starts=50,
    episodes=20,
)
HOPPER = Task(
    dataset="minari",
    options={"id": "bench/hopper/mixed-v0", "name": "hopper"},
    model=model(width=128, epochs=2, batch=256),
    budget=Budget(
        seeds=1,
        updates=2_000,
        batch=128,
        real_ratio=0.05,
        evaluate=500,
        episodes=1,
        probe=0,
        starts=1_000,
        horizon=3,
        every=250,
        retain=5,
    ),
    fits=4,
    fqe_updates=2_000,
    batch=128,
    starts=50,
    episodes=10,
)


def measure(task: Task, seed: int = 0) -> Found:
    """Train, estimate, act."""
    data: Dataset = datasets.load(task.dataset, **task.options)
    names, policies = grade_policies(task, data, seed)
    seed_everything(seed + 1)

    def act(obs: Float[Tensor, "P B D"]) -> Float[Tensor, "P B A"]:
        pairs = zip(policies, obs.split(1), strict=True)
        return torch.cat([agent.act(own, deterministic=True) for agent, own in pairs])

    starts = start_states(data, task.starts, seed)
    estimates = {}
    if task.fqe_updates:
        estimates["fqe/value"] = fitted_values(task, data, act, len(policies), starts)
    values, returns, outside = roll_out_in_models(task, data, act, len(policies), starts, seed)
    outcomes = value_estimates.true_outcomes(
        data.spec,
        act,
        seeds=len(policies),
        episodes=task.episodes,
        seed=10_000 + seed,
        discount=DISCOUNT,
    )
    return Found(
        names=names,
        estimates={**estimates, "model/value": values, "model/return": returns},
        truth={name: outcomes[f"{name}s"].mean(1) for name in ("value", "return")},
        standard_errors={
            name: (outcomes[f"{name}s"].std(1) / task.episodes**0.5) for name in ("value", "return")
        },
        fingerprint=data.fingerprint,
        outside=outside.tolist(),
    )


def grade_policies(task: Task, data: Dataset, seed: int) -> tuple[list[str], list[Agent]]:
    """Every arm at each of its evaluations."""
    names: list[str] = []
    policies: list[Agent] = []
    for arm in ARMS:
        agent, make_source = arm, None
        if arm == "mopo":
            model = fitted_model(task, data, seeds=1, seed=seed + 100)
            penalty = UncertaintyPenalty(penalty=1.0, unit="raw")
            agent, make_source = "sac", partial(task.budget.branch, model, penalty)
        known = load_option("agent", agent)
        run = experiment.run(
            arm,
            data,
            task.budget,
            agent=agent,
            changes={name: value for name, value in AGENT.items() if name in known},
            make_source=make_source,
            seed=seed,
            keep=True,
        )
        names += [f"{arm} {(1 + turn) * task.budget.evaluate}" for turn in range(len(run.kept))]
        policies += run.kept
    return names, policies


def fitted_model(task: Task, data: Dataset, *, seeds: int, seed: int) -> Any:
    """World models fitted to the dataset, one a seed."""
    seed_everything(seed)
    return experiment.fit(
        "world_model", "ensemble", data, changes=task.model, seeds=seeds, seed=seed
    ).model


def fitted_values(
    task: Task, data: Dataset, act: Any, policies: int, starts: Float[Tensor, "B D"]
) -> Float[Tensor, "fits policies"]:
    """Mean value at the starts by fitted Q evaluation."""
    learner = FittedQEvaluation(
        spec=data.spec,
        policy=act,
        policies=policies,
        replicas=task.fits,
        discount=DISCOUNT,
        **FQE,  # type: ignore[arg-type]
    )
    with TemporaryDirectory() as folder:
        log = Log(Path(folder) / "metrics.csv", NoTracker(), learner.seeds)
        log.begin()
        value_estimates.fit_critics(
            learner,
            data,
            updates=task.fqe_updates,
            batch_size=task.batch,
            log=log,
            log_every=max(task.fqe_updates // 10, 1),
            on_log=lambda update: print(f"fitted Q evaluation {update}", flush=True),
        )
    return learner.state_values(starts).mean(2).T.double()


def roll_out_in_models(
    task: Task, data: Dataset, act: Any, policies: int, starts: Float[Tensor, "B D"], seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean values and returns `[fits, policies]` of rollouts in world models, and what left."""
    models = fitted_model(task, data, seeds=task.fits, seed=seed + 200)
    count = len(starts)

    def together(obs: Float[Tensor, "fits PB D"]) -> Float[Tensor, "fits PB A"]:
        by_policy = obs.unflatten(1, (policies, count)).transpose(0, 1).flatten(1, 2)
        action = act(by_policy).unflatten(1, (task.fits, count))
        return action.transpose(0, 1).flatten(1, 2)

    limit = data.spec.max_episode_steps
    assert limit is not None
    rollouts = value_estimates.model_rollouts(
        models,
        together,
        starts.repeat(policies, 1),
        seeds=task.fits,
        rollouts=1,
        limit=limit,
        discount=DISCOUNT,
        box=value_estimates.box_of(data, BOX),
    )

    def by_policy(table: Tensor) -> Tensor:
        return table[:, 0].unflatten(1, (policies, count)).mean(2)

    return by_policy(rollouts.values), by_policy(rollouts.returns), rollouts.outside


def rank_correlation(
    estimates: Float[Tensor, "fits policies"], truth: Float[Tensor, " policies"]
) -> list[float]:
    """Spearman's, of every fit."""
    return spearman(estimates, truth.expand_as(estimates)).tolist()


def regret(
    estimates: Float[Tensor, "fits policies"], truth: Float[Tensor, " policies"]
) -> list[float]:
    """How far below the best the policy lies that looks best, in shares of the true range."""
    chosen = truth[estimates.argmax(1)]
    return ((truth.max() - chosen) / (truth.max() - truth.min())).tolist()


def random_regret(truth: Float[Tensor, " policies"]) -> float:
    """The expected regret of a policy that is chosen blindly."""
    return float((truth.max() - truth.mean()) / (truth.max() - truth.min()))


def error(
    estimates: Float[Tensor, "fits policies"], truth: Float[Tensor, " policies"]
) -> list[float]:
    """Mean absolute error, in shares of the true range."""
    return ((estimates - truth).abs().mean(1) / (truth.max() - truth.min())).tolist()
