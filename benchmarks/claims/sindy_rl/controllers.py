"""Agents trained only inside equations, the policies of a few terms made of them, and the gate.

Pendulum: 2,000 random rows, equations, SAC in rollouts of them and nothing else. Swing-up: the same
in linear equations, which pay for what is not so. Students are distilled from the agents with the
hyperparameters of `conf/distil.yaml`, smaller ensembles and one copy.
"""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch

from reverie.agents.base import Agent
from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims.experiment import Budget
from reverie.benchmarks.claims.sindy_rl import dynamics as sparse_dynamics
from reverie.benchmarks.claims.sindy_rl.dyna import AGENT, PENDULUM, SWING_UP
from reverie.envs.evaluation import Evaluator
from reverie.envs.specs import Spec
from reverie.training.distil.__main__ import actor_parameters, teach
from reverie.training.distil.sparse_policy import SparsePolicy
from reverie.training.launch.make import compose_command
from reverie.training.probes.value_gap import ValueGap
from reverie.training.seeding import seed_everything

ROWS = 2_000
DISTIL: dict[str, Any] = {"copies": 1, "members": 10, "degrees": [2, 3]}
LOOSE: dict[str, Any] = {**sparse_dynamics.LINEAR, "angles": [], "box_margin": 10.0}
"""Linear equations that pay for what is not so: no circle holds the cosine below 1, and the box,
where the pole never rises, is wide."""
EPISODES, EPISODES_SEED = 40, 50_000
GAP: dict[str, Any] = {"starts": 20, "factor": 3.0}
BUDGETS = {
    "pendulum": replace(
        PENDULUM.budget,
        updates=5_000,
        real_ratio=0.0,
        starts=100,
        horizon=50,
        retain=20,
        evaluate=5_000,
    ),
    "swing-up": replace(
        SWING_UP.budget,
        updates=6_000,
        real_ratio=0.0,
        starts=40,
        horizon=200,
        evaluate=6_000,
    ),
}
"""Of agents in equations alone."""


def shorten(budget: Budget) -> Budget:
    """The quick variant: a tenth of the training, which only shows that it runs."""
    updates = budget.updates // 10
    return replace(budget, updates=updates, evaluate=updates)


def offline(task: str, budget: Budget, linear: bool = False) -> dict[str, Any]:
    """Train SAC in equations of random rows; true returns and the gap of values at the end."""
    data = sparse_dynamics.random_data(task, ROWS, 0)
    changes = LOOSE if linear else {"box_margin": 0.1}
    model = sparse_dynamics.sindy(data, budget.seeds, **changes)
    described = model.fit(data)
    run = experiment.run(
        f"{task}, offline",
        data,
        budget,
        agent="sac",
        changes=AGENT,
        make_source=partial(budget.branch, model),
    )
    seed_everything(0)
    gap = ValueGap(agent=run.agent, model=model, data=data, **GAP).judge()
    return {
        "agent": run.agent,
        "spec": data.spec,
        "equations": described["equations"],
        "returns": score(run.agent, data.spec),
        "gap": gap,
        "random_return": data.returns.mean().item(),
    }


def policy_of(agent: Agent) -> Callable[[torch.Tensor], torch.Tensor]:
    """What an evaluation asks."""
    return lambda obs: agent.act(obs, deterministic=True)


def score(agent: Agent, spec: Spec) -> list[float]:
    """True mean return of each seed over many starts."""
    with closing(Evaluator(spec=spec, seeds=agent.seeds, episodes=EPISODES)) as evaluator:
        returns, _ = evaluator.episode_returns(policy_of(agent), EPISODES_SEED)
    return returns.mean(1).tolist()


def distil(agent: Agent, spec: Spec, quick: bool, **changes: Any) -> dict[str, Any]:
    """Students of an agent: their returns beside its own on the same starts, sizes and times.

    Args:
        changes: further changes of `conf/distil.yaml`.
    """
    settings = compose_command(
        "distil", **{**DISTIL, **({"rounds": 1} if quick else {}), **changes}
    )
    seed_everything(0)
    with closing(Evaluator(spec=spec, seeds=agent.seeds, episodes=settings.episodes)) as evaluator:
        student, chosen = teach(policy_of(agent), evaluator, settings)
    with closing(Evaluator(spec=spec, seeds=agent.seeds, episodes=EPISODES)) as evaluator:
        returns, _ = evaluator.episode_returns(student.act, EPISODES_SEED)
    return {
        "teacher": score(agent, spec),
        "student": returns.mean(1).tolist(),
        "terms": [each["terms"] for each in chosen],
        "parameters": actor_parameters(agent) // agent.seeds,
        "equations": student.equations(),
        "microseconds": times(agent, student),
    }


def times(agent: Agent, student: SparsePolicy) -> dict[str, float]:
    """Microseconds of one action of one state: exported Python, and the network in torch."""
    module: dict[str, Any] = {}
    exec(student.python(0), module)
    state = torch.randn(agent.seeds, 1, agent.spec.obs_dim)
    row = state[0, 0].tolist()

    def timed(call: Callable[[], Any], calls: int) -> float:
        rounds = []
        for _ in range(5):
            begun = time.perf_counter()
            for _ in range(calls):
                call()
            rounds.append((time.perf_counter() - begun) / calls * 1e6)
        return median(rounds)

    return {
        "equation": timed(lambda: module["act"](row), 2_000),
        "network": timed(lambda: agent.act(state, deterministic=True), 200),
    }
