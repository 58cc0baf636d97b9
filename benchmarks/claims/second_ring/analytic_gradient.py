"""Analytic policy gradients through world models, after the control of digital twins.

"Control of medical digital twins with artificial neural networks", arXiv:2403.13851: a controller
that is trained by backpropagation through a differentiable surrogate, with whole-numbered actions
by a straight-through estimator, steers the stochastic simulator that the surrogate was fitted to.
Its numbers could not be read, so all thresholds here are ours. A linear system with a known
optimum; Pendulum-v1 through sparse equations, beside SAC in the same ones, and through an ensemble
fitted to few episodes, with and without a penalty; culls of predators through equations and an
ensemble.
"""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from reverie import datasets
from reverie.agents.base import Agent
from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims.judging import estimate, judge_order
from reverie.benchmarks.claims.report import Claim, Findings
from reverie.benchmarks.claims.second_ring.linear_regulator import LinearSystem, optimal_cost
from reverie.datasets.dataset import Dataset
from reverie.datasets.replay import Mixture, Replay
from reverie.envs import predator_prey
from reverie.envs.evaluation import Evaluator
from reverie.envs.specs import Spec
from reverie.training.launch.options import build_option
from reverie.training.seeding import seed_everything
from reverie.world_models.base import WorldModel
from reverie.world_models.uncertainty import recorded_uncertainty

TITLE = "Analytic policy gradient, arXiv:2403.13851: mean over 4 seeds ± 95 % interval"
SEEDS, EPISODES, EPISODES_SEED = 4, 40, 70_000
SEED = 1
"""Of fits and agents. Budgets were sized with seed 0, which is not among what is recorded."""
OPTIMUM = 1.02  # of the cost of the best regulator
GOAL = 1.2 * -163.0
"""Of the pendulum: within 20 % of the return of one seed in an earlier experiment of ours."""
ROWS = 2_000
EQUATIONS: dict[str, Any] = {"members": 10}
ENSEMBLE: dict[str, Any] = {
    "members": 5,
    "elites": 3,
    "hidden": [128, 128],
    "weight_decay": [2.5e-5, 5.0e-5, 1.0e-4],
    "patience": 10,
    "max_epochs": 60,
    "uncertainty": "ensemble_std",
    "heldout_episodes": 0,
}
SAC: dict[str, Any] = {
    "hidden": [64, 64],
    "actor_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "temperature_learning_rate": 1e-3,
    "initial_temperature": 0.1,
    "actor_cosine": False,
    "tau": 0.01,
    "discount": 0.98,
}
SAC_BUDGET = experiment.Budget(
    seeds=SEEDS,
    updates=3_000,
    batch=128,
    real_ratio=0.0,
    evaluate=3_000,
    episodes=EPISODES,
    probe=0,
    starts=64,
    horizon=50,
    every=250,
    retain=20,
)


@dataclass(frozen=True)
class Budget:
    """How an analytic gradient is trained; what is not here is that of `conf/agent/analytic.yaml`.

    Attributes:
        updates, batch, horizon: gradient steps, starts of each, imagined steps of each.
        changes: further hyperparameters.
    """

    updates: int
    batch: int
    horizon: int
    changes: Mapping[str, Any]


LINEAR = Budget(600, 64, 20, {"discount": 0.95, "penalty": 0.0})
PENDULUM = Budget(1_000, 64, 50, {"hidden": [32, 32], "penalty": 0.0})
FEW = Budget(400, 64, 20, {"penalty": 0.0})
CULLS = Budget(200, 64, 30, {"penalty": 0.0})
WHOLE = {"integer_actions": True}


def measure(quick: bool) -> Findings:
    """Train all arms side by side. A quick run judges the linear system only."""
    length = 40 if quick else 1

    def cut(budget: Budget) -> Budget:
        return replace(budget, updates=budget.updates // length)

    updates = SAC_BUDGET.updates // length
    sac = replace(SAC_BUDGET, updates=updates, evaluate=updates)
    jobs: dict[str, Callable[[], Any]] = {
        "pendulum, equations": partial(in_equations, cut(PENDULUM), sac),
        "pendulum, ensemble": partial(in_ensemble, cut(FEW), quick),
        "culls": partial(culls, cut(CULLS), quick),
        "linear": partial(linear, LINEAR),
    }
    found = experiment.run_all(jobs)
    return Findings(
        judge(found, judged=not quick),
        {
            "seeds": SEEDS,
            "seed": SEED,
            "episodes": EPISODES,
            "budgets": {
                name: vars(each)
                for name, each in (
                    ("linear", LINEAR),
                    ("pendulum, equations", cut(PENDULUM)),
                    ("pendulum, ensemble", cut(FEW)),
                    ("culls", cut(CULLS)),
                    ("SAC", sac),
                )
            },
            "equations": EQUATIONS,
            "ensemble": ENSEMBLE,
            **{
                name: {k: v for k, v in each.items() if k != "trace"}
                for name, each in found.items()
            },
        },
        {"culls": plot(found["culls"]["trace"])},
    )


def train(model: WorldModel, data: Dataset, budget: Budget, **changes: Any) -> tuple[Agent, float]:
    """Agents that learn in a model from the states of a dataset, and the seconds that takes."""
    seed_everything(SEED)
    agent: Agent = build_option(
        *("agent", "analytic"),
        changes={**budget.changes, "horizon": budget.horizon, **changes},
        spec=data.spec,
        seeds=SEEDS,
        updates=budget.updates,
    )
    agent.attach(model)
    agent.prepare(data)
    mixture = Mixture({"real": Replay.of(data.transitions)}, {"real": budget.batch}, seeds=SEEDS)

    def learn() -> None:
        for _ in range(budget.updates):
            agent.update(mixture.sample())

    return agent, experiment.timed(learn)[1]


def score(policy: Callable[[Tensor], Tensor], spec: Spec, episodes: int = EPISODES) -> list[float]:
    """True mean return of each seed, over the same starts for all arms."""
    with closing(Evaluator(spec=spec, seeds=SEEDS, episodes=episodes)) as evaluator:
        returns, _ = evaluator.episode_returns(policy, EPISODES_SEED)
    return returns.mean(1).tolist()


def returns_of(agent: Agent, episodes: int = EPISODES) -> list[float]:
    """Those of the deterministic policies."""
    return score(lambda obs: agent.act(obs, deterministic=True), agent.spec, episodes)


def linear(budget: Budget) -> dict[str, Any]:
    """Costs of learned regulators as shares of the optimum, in a system that is known."""
    system = LinearSystem()
    data = system.drawn(1_000)
    agent, seconds = train(system, data, budget)
    obs = data.transitions.obs.expand(SEEDS, -1, -1)
    optimum = optimal_cost(system, obs, budget.changes["discount"]).mean(1)
    cost = torch.zeros(SEEDS)
    for t in range(400):
        step = system.step(obs, agent.act(obs, deterministic=True))
        cost = cost - budget.changes["discount"] ** t * step.reward[0].mean(1)
        obs = step.next_obs[0]
    return {"shares": (cost / optimum).tolist(), "seconds": seconds}


def in_equations(budget: Budget, sac: experiment.Budget) -> dict[str, Any]:
    """The pendulum in equations of random rows: an analytic gradient and SAC."""
    data = datasets.load("random", env_id="Pendulum-v1", steps=ROWS, seed=0, name="pendulum")
    fitted = experiment.fit("world_model", "sindy", data, changes=EQUATIONS, seeds=SEEDS, seed=SEED)
    agent, seconds = train(fitted.model, data, budget)
    other = experiment.run(
        "SAC in equations",
        data,
        sac,
        agent="sac",
        changes=SAC,
        make_source=partial(sac.branch, fitted.model),
        seed=SEED,
    )
    return {
        "analytic": returns_of(agent),
        "SAC": returns_of(other.agent),
        "seconds": {"analytic": seconds, "SAC": other.learning},
        "terms": fitted.described["terms"],
    }


def in_ensemble(budget: Budget, quick: bool) -> dict[str, Any]:
    """The pendulum in an ensemble of 20 recorded episodes, with and without a penalty.

    lambda = std of recorded rewards / mean uncertainty of recorded rows: a penalty without units,
    of 1, chosen before anything was seen.
    """
    data = datasets.load("builtin/pendulum-mixed", subset={"episodes": 20})
    changes = ENSEMBLE | ({"max_epochs": 3} if quick else {})
    fitted = experiment.fit(
        "world_model", "ensemble", data, changes=changes, seeds=SEEDS, seed=SEED
    )
    unit = data.transitions.reward.std() / recorded_uncertainty(fitted.model, data, SEEDS).mean(1)
    arms = {"without": 0.0, "with": unit.tolist()}
    found: dict[str, Any] = {"penalties": arms["with"], "seconds": {"fit": fitted.seconds}}
    for name, penalty in arms.items():
        agent, found["seconds"][name] = train(fitted.model, data, budget, penalty=penalty)
        found[name] = returns_of(agent)
    return found | {"recorded": data.returns.mean().item(), "best": data.returns.max().item()}


def culls(budget: Budget, quick: bool) -> dict[str, Any]:
    """Culls learned in equations and in an ensemble, played among births and deaths by chance."""
    data = datasets.load("builtin/predator-prey")
    found: dict[str, Any] = {"seconds": {}}
    agents = {}
    for name, changes in (("sindy", EQUATIONS), ("ensemble", ENSEMBLE)):
        if quick and name == "ensemble":
            changes = changes | {"max_epochs": 3}
        fitted = experiment.fit("world_model", name, data, changes=changes, seeds=SEEDS, seed=SEED)
        found["seconds"][f"{name}, fit"] = fitted.seconds
        agents[name], found["seconds"][name] = train(fitted.model, data, budget, **WHOLE)
        if name == "sindy":  # which the environment then rounds
            agents["rounded"], found["seconds"]["rounded"] = train(fitted.model, data, budget)
    episodes = 4 if quick else EPISODES
    found |= {name: returns_of(agent, episodes) for name, agent in agents.items()}
    constant = {
        str(count): score(partial(always, count), data.spec, episodes)
        for count in range(predator_prey.MOST + 1)
    }
    best = max(constant, key=lambda count: sum(constant[count]))
    scripted = score(lambda obs: predator_prey.controller(obs) / 2.5 - 1.0, data.spec, episodes)
    trace = {
        "no control": follow(partial(always, 0), data.spec),
        f"constant {best}": follow(partial(always, int(best)), data.spec),
        "learned": follow(lambda obs: agents["sindy"].act(obs, deterministic=True), data.spec),
    }
    return found | {
        "constant": constant,
        "best constant": best,
        "scripted": scripted,
        "recorded": data.returns.mean().item(),
        "trace": trace,
    }


def always(count: int, obs: Float[Tensor, "S P D"]) -> Float[Tensor, "S P 1"]:
    """The same cull in every step."""
    return torch.full_like(obs[..., :1], count / 2.5 - 1.0)


def follow(policy: Callable[[Tensor], Tensor], spec: Spec) -> list[list[float]]:
    """Counts of the first seed in one episode, `[T][2]`."""
    seen: list[list[float]] = []

    def watched(obs: Tensor) -> Tensor:
        seen.append(obs[0, 0].tolist())
        return policy(obs)

    with closing(Evaluator(spec=spec, seeds=SEEDS, episodes=1)) as evaluator:
        evaluator.episode_returns(watched, EPISODES_SEED)
    return seen


def judge(found: Mapping[str, Mapping[str, Any]], judged: bool) -> list[Claim]:
    """All claims; those on agents that need long training only where they had it."""

    def told(holds: bool | None) -> bool | None:
        return holds if judged else None

    def claim(text: str, expected: str, measured: str, holds: bool | None) -> Claim:
        return Claim(text, expected, measured, holds, "ours")

    shares = estimate(found["linear"]["shares"])
    pendulum, few, animals = (
        {name: estimate(values) for name, values in found[task].items() if is_returns(values)}
        for task in ("pendulum, equations", "pendulum, ensemble", "culls")
    )
    none = estimate(found["culls"]["constant"]["0"])
    best = found["culls"]["best constant"]
    constant = estimate(found["culls"]["constant"][best])
    seconds = found["pendulum, equations"]["seconds"]
    return [
        claim(
            "linear system: cost as a share of the regulator's that Riccati gives",
            f"at most {OPTIMUM:g} in every seed",
            f"{shares}",
            max(shares.values) <= OPTIMUM,
        ),
        claim(
            f"pendulum, equations of {ROWS:,} random rows: return",
            f"at least {GOAL:.0f}, within 20 % of -163",
            f"{pendulum['analytic']}, lowest seed {min(pendulum['analytic'].values):.0f}",
            told(pendulum["analytic"].mean >= GOAL),
        ),
        claim(
            "pendulum, the same equations: SAC",
            "no claim: an earlier seed had -151 against -163, in 107 s against 65",
            f"{pendulum['SAC']} in {seconds['SAC'] / SEEDS:.0f} s a seed, "
            f"against {seconds['analytic'] / SEEDS:.0f}",
            None,
        ),
        claim(
            "pendulum, ensemble of 20 episodes: a penalty of its spread raises the return",
            "higher with it, intervals apart",
            f"{few['with']} with, {few['without']} without",
            told(judge_order(few["without"], few["with"])),
        ),
        *(
            claim(
                f"culls learned in {model}, beside {other}, among births and deaths by chance",
                "above it, intervals apart",
                f"{animals[name]} against {baseline}",
                told(judge_order(baseline, animals[name])),
            )
            for name, model in (("sindy", "equations"), ("ensemble", "an ensemble"))
            for other, baseline in (
                ("no control", none),
                (f"the best constant cull ({best})", constant),
            )
        ),
        claim(
            "culls, equations: whole numbers in training, against rounding afterwards",
            "no claim",
            f"{animals['sindy']} against {animals['rounded']}; scripted {animals['scripted']}",
            None,
        ),
    ]


def is_returns(values: object) -> bool:
    """Whether a detail is one number a seed."""
    return isinstance(values, list) and len(values) == SEEDS


def plot(traces: Mapping[str, list[list[float]]]) -> Figure:
    """One episode of each kind from the same start, beside what is asked for."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for panel, (name, wanted) in enumerate(
        zip(("prey", "predators"), predator_prey.TARGET, strict=True)
    ):
        for label, trace in traces.items():
            axes[panel].plot([row[panel] for row in trace], lw=1.2, label=label)
        axes[panel].axhline(wanted, color="0.4", lw=0.8, ls="--")
        axes[panel].set(xlabel="step", ylabel=name)
        axes[panel].grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    return figure
