"""A planner in a model, scored in the true environment."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from reverie.agents.base import Agent
from reverie.benchmarks.claims.comparison import Recorded
from reverie.datasets.dataset import Dataset
from reverie.envs.evaluation import Policy, episode_returns, time_decisions
from reverie.envs.specs import Reference, Spec
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
    plant: Spec | None = None,
) -> dict[str, Any]:
    """What `evaluate.py planner=...` measures, and the time of a decision.

    Args:
        changes: of the option's hyperparameters.
        agent: of the run, whose proposals and critics the planner uses.
        plant: see `score`.
    """
    planner = build_option(
        *("planner", option),
        changes=changes,
        spec=data.spec,
        model=model,
        behaviour=None,
        **asked_by_planner(agent),
    )
    return score(data, planner.restart(), episodes=episodes, seeds=seeds, plant=plant) | {
        "milliseconds": time_decisions(planner.restart(), data.spec, seeds)
    }


def score(
    data: Dataset, policy: Policy, *, episodes: int, seeds: int, plant: Spec | None = None
) -> dict[str, Any]:
    """Returns and scores of each seed, all on the same starts.

    Args:
        plant: where the policy acts; None for the environment that the data name.
    """
    seed_everything(0)
    begun = time.process_time()
    returns, _ = episode_returns(plant or data.spec, policy, seeds, episodes, EVALUATION_SEED)
    return {
        "returns": returns.tolist(),
        "score": scale_of(data).normalise(returns.mean(1)).tolist(),
        "seconds": time.process_time() - begun,
    }


def scale_of(data: Dataset) -> Reference:
    """The normalised score; where there is none, 0 is the recorded mean and 100 the best episode.

    So in `comparison.Recorded.score`.
    """
    if data.reference is not None:
        return data.reference
    recorded = Recorded.of(data)
    return Reference(recorded.mean, recorded.best, "recorded mean and best episode")


def draw_scores(axes: Axes, scores: Mapping[str, list[float]]) -> None:
    """Draw a bar an arm and a dot a seed."""
    for place, values in enumerate(scores.values()):
        axes.bar(place, np.mean(values), color=f"C{place}", alpha=0.5)
        axes.plot([place] * len(values), values, "k.")
    axes.axhline(0.0, color="0.3", lw=0.8)
    axes.set_xticks(range(len(scores)), list(scores))
    axes.set_ylabel("score")
