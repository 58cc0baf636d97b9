"""A planner in a model, scored in the true environment."""

import time
from collections.abc import Mapping
from typing import Any

from reverie.agents.base import Agent
from reverie.datasets.dataset import Dataset
from reverie.envs.evaluation import Policy, episode_returns, time_decisions
from reverie.training.launch.compose import asked_by_planner
from reverie.training.launch.make import load_preset
from reverie.training.launch.options import build_option
from reverie.training.seeding import seed_everything
from reverie.world_models.base import WorldModel

EVALUATION_SEED = 1_000


def ensemble() -> dict[str, Any]:
    """Hyperparameters of the ensemble that `algorithm=mpc` fits."""
    known = load_preset("mpc")["world_model"]
    return {key: value for key, value in known.items() if key != "path" and key[0] != "_"}


def plan(
    data: Dataset,
    model: WorldModel,
    changes: Mapping[str, Any],
    *,
    episodes: int,
    option: str = "mppi",
    agent: Agent | None = None,
    seeds: int = 1,
) -> dict[str, Any]:
    """What `evaluate.py planner=...` measures, and the time of a decision.

    Args:
        changes: of the option's hyperparameters.
        agent: of the run, whose proposals and critics the planner uses.
    """
    planner = build_option(
        *("planner", option),
        changes=changes,
        spec=data.spec,
        model=model,
        behaviour=None,
        **asked_by_planner(agent),
    )
    return score(data, planner.restart(), episodes=episodes, seeds=seeds) | {
        "milliseconds": time_decisions(planner.restart(), data.spec, seeds)
    }


def score(data: Dataset, policy: Policy, *, episodes: int, seeds: int) -> dict[str, Any]:
    """Returns and scores of each seed, all on the same starts."""
    seed_everything(0)
    begun = time.process_time()
    returns, _ = episode_returns(data.spec, policy, seeds, episodes, EVALUATION_SEED)
    assert data.reference is not None
    return {
        "returns": returns.tolist(),
        "score": data.reference.normalise(returns.mean(1)).tolist(),
        "seconds": time.process_time() - begun,
    }
