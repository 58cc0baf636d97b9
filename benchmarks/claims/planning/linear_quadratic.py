"""A linear plant with a quadratic cost, whose optimal control the Riccati equation gives."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from reverie.benchmarks.claims.report import Claim, Findings
from reverie.datasets.dataset import Dataset
from reverie.envs.specs import Spec
from reverie.training.launch.compose import asked_by_planner
from reverie.training.launch.options import build_option
from reverie.training.seeding import seed_everything
from reverie.world_models.base import FitProgress, Step, WorldModel

SPEC = Spec(env_id=None, obs_dim=2, action_dim=1, action_low=(-1.0,), action_high=(1.0,))
DYNAMICS = torch.tensor([[1.0, 0.2], [0.0, 1.0]])
CONTROL = torch.tensor([[0.02], [0.2]])
COSTS = torch.diag(torch.tensor([1.0, 0.1]))
EFFORT = 0.3
STARTS = torch.tensor([[[0.65, 0.0], [-0.6, 0.1], [0.2, -0.7], [-0.3, -0.3]]])
STEPS, MARGIN = 40, 1.05
SEARCH = {"horizon": 20, "samples": 256, "elites": 16, "iterations": 8, "discount": 1.0}
OPTIONS = ("mppi", "cem")


class Plant(WorldModel):
    """A double integrator: x' = F x + G u, reward -(x' C x + effort u^2)."""

    def fit(self, data: Dataset, progress: FitProgress | None = None) -> dict[str, Any]:
        return {}

    def signature(self) -> dict[str, Any]:
        return {"model": type(self).__name__}

    def step(
        self, obs: Tensor, action: Tensor, candidates: int = 1, state: Tensor | None = None
    ) -> Step:
        cost = ((obs @ COSTS) * obs).sum(-1) + EFFORT * action.square().sum(-1)
        after = obs @ DYNAMICS.T + action @ CONTROL.T
        return Step(
            next_obs=after.expand(candidates, *after.shape),
            reward=-cost.expand(candidates, *cost.shape),
            terminated=torch.zeros(candidates, *cost.shape, dtype=torch.bool),
            uncertainty=torch.zeros_like(cost),
        )


def riccati(steps: int = 1_000) -> Tensor:
    """The gain `[A, D]` of the optimal control u = -K x, by value iteration."""
    value, gain = COSTS, torch.zeros(1, 2)
    for _ in range(steps):
        gain = torch.linalg.solve(
            EFFORT * torch.eye(1) + CONTROL.T @ value @ CONTROL, CONTROL.T @ value @ DYNAMICS
        )
        value = COSTS + DYNAMICS.T @ value @ (DYNAMICS - CONTROL @ gain)
    return gain


def cost_of(policy: Callable[[Tensor], Tensor]) -> float:
    """What all starts cost together."""
    plant, obs, total = Plant(), STARTS, 0.0
    for _ in range(STEPS):
        step = plant.step(obs, policy(obs))
        total, obs = total - step.reward.sum().item(), step.next_obs[0]
    return total


def run(option: str) -> dict[str, Any]:
    """The cost of a planner beside the least."""
    seed_everything(0)
    gain = riccati()
    planner = build_option(
        "planner",
        option,
        changes=SEARCH,
        spec=SPEC,
        model=Plant(),
        behaviour=None,
        **asked_by_planner(None),
    )
    return {"cost": cost_of(planner), "least": cost_of(lambda obs: -obs @ gain.T)}


def jobs(quick: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """One for each search; seconds, so the same for a quick run."""
    return {option: partial(run, option) for option in OPTIONS}


def judge(found: Mapping[str, Mapping[str, Any]], quick: bool) -> Findings:
    """Whether each is within the margin."""
    return Findings(
        [
            Claim(
                f"linear plant, quadratic cost: {option.upper()} against the Riccati solution",
                f"at most {MARGIN:g} times its cost",
                f"{each['cost'] / each['least']:.3f} times",
                each["cost"] <= MARGIN * each["least"],
                "ours",
            )
            for option, each in found.items()
        ],
        {},
    )
