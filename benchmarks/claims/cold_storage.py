"""The refrigerator of MOREC: a model of one thermostat's recordings meets other set points.

Each policy's true windows are replayed in the model with and without the filter. Nothing is cut:
off the data the filter's threshold would end most rollouts before there is an error to compare.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.claims import experiment
from datasets.dataset import Dataset
from envs import refrigerator
from envs.true_dynamics import Simulator, simulator_for
from training.seeding import seed_everything
from world_models import selection_diagnostics
from world_models.selection import RewardSelection

RECIPES = ("adversarial", "plain")
RECORDED = "5"
GAINS = {RECORDED: 0.05, "-3": 0.1, "12": 0.1}
"""Gain of the thermostat by set point; data are of the first."""


@dataclass(frozen=True)
class Budget:
    """Sizes of the experiment.

    Attributes:
        seeds: models and rewards, all of the same recording.
        iterations, starts, horizon: of the dynamics reward's game.
        epochs: of the world model, at most.
        windows: episodes of each policy.
    """

    seeds: int = 4
    iterations: int = 3_000
    starts: int = 64
    horizon: int = 10
    epochs: int = 200
    windows: int = 20


QUICK: dict[str, Any] = {"iterations": 1_000, "epochs": 60}
MODEL = {"hidden": [64, 64], "weight_decay": [2.5e-5, 5.0e-5, 1.0e-4], "heldout_episodes": 0}
REWARD = {"hidden": [128, 128], "heldout_episodes": 0}
PLAYERS = {"player_hidden": [64, 64], "behaviour_updates": 1_000}
SELECTION: dict[str, Any] = {
    "candidates": 10,
    "select": "argmax",
    "temperature": 0.1,
    "min_reward": 0.0,
    "min_length": 0,
    "on_cut": "terminal",
    "bound": None,
}


def budget_for(quick: bool) -> Budget:
    """Of the full experiment or of its quick variant."""
    return replace(Budget(), **QUICK) if quick else Budget()


def run(recipe: str, budget: Budget) -> dict[str, Any]:
    """Fit model and reward to the recording and follow every policy in the model."""
    data: Dataset = experiment.build("dataset/builtin/refrigerator.yaml")
    given = {"spec": data.spec, "seeds": budget.seeds, "seed": 0}
    seed_everything(0)
    model = experiment.build(
        "world_model/ensemble.yaml", changes={**MODEL, "max_epochs": budget.epochs}, **given
    )
    model.fit(data)
    reward = experiment.build_reward(
        recipe,
        changes={**REWARD, "iterations": budget.iterations},
        game={**PLAYERS, "starts": budget.starts, "horizon": budget.horizon},
        **given,
    )
    described = reward.fit(data)
    judge = RewardSelection(dynamics_reward=reward, **SELECTION)
    simulator = simulator_for(data.spec, threads=1)
    ruler = selection_diagnostics.Ruler.of(data)
    policies = {}
    for point, gain in GAINS.items():
        torch.manual_seed(1)
        obs, action = episodes(simulator, float(point), gain, budget.windows)
        rows = selection_diagnostics.true_rows(
            simulator, obs[:, :-1].flatten(0, 1), action.flatten(0, 1)
        )
        policies[point] = {
            "one_step": selection_diagnostics.one_step(
                model, reward.score, rows, ruler, candidates=judge.candidates
            ),
            "rollouts": selection_diagnostics.rollouts(model, judge, obs, action, ruler, seed=0),
        }
    return {"reward": described, "policies": policies}


def episodes(
    simulator: Simulator, set_point: float, gain: float, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """True episodes of a thermostat without noise: states `[W, 101, 1]` and actions `[W, 100, 1]`.

    The recorded policy's jitter is left out for the same reason as the noise of the task: replayed
    in the model, the difference that remains is the model's.
    """
    low, high = refrigerator.STARTS
    states = [low + (high - low) * torch.rand(count, 1)]
    actions = []
    for _ in range(refrigerator.EPISODE_STEPS):
        actions.append(refrigerator.thermostat(states[-1], set_point, gain))
        states.append(simulator.step(states[-1], actions[-1]).next_obs)
    return torch.stack(states, 1), torch.stack(actions, 1)
