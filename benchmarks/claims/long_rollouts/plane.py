"""The plane of the edge-of-reach problem, in its true dynamics: horizons in the place of pessimism.

Where the model is exact nothing is uncertain, so NEUBAY's cut is idle: what is left is how far
rollouts go. Networks and rows are those of `benchmarks.claims.edge_of_reach`, whose results, at the
same number of updates, are what RAVL and short rollouts without pessimism stand for.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from reverie.agents.edac import EDAC
from reverie.agents.redq import REDQ
from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims.experiment import Budget, History
from reverie.benchmarks.claims.plane import NETWORK, OfThePlane
from reverie.benchmarks.claims.report import RESULTS
from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.training.launch.options import build_option
from reverie.world_models.sources import RolloutSource

RECORDED = {"ravl, 10 steps": "ravl", "10 steps": "base"}
"""Arms that `edge_of_reach.json` has, by their names there; eight seeds each."""
LONG, NEUBAY = "30 steps", "neubay, 30 steps"
BUDGET = Budget(
    seeds=4,
    updates=4_400,
    batch=128,
    real_ratio=0.0,
    starts=500,
    horizon=10,
    every=100,
    retain=5,
    evaluate=400,
    episodes=20,
    probe=0,
)
"""As for short rollouts, whose numbers say how many rows the replay of long ones holds."""
QUICK = {"updates": 400, "evaluate": 200}
LANES = 50
"""Of long rollouts, which take a step every update: as many rows as short ones make."""


class PlaneREDQ(OfThePlane, REDQ):
    """REDQ on the plane."""


class PlaneSAC(OfThePlane, EDAC):
    """Two critics on the plane, without any term that keeps them apart."""


@dataclass(frozen=True)
class Arm:
    """How far rollouts go, 30 being the task's limit, and NEUBAY's critics or two."""

    horizon: int
    many: bool = False


ARMS = {NEUBAY: Arm(30, many=True), LONG: Arm(30)}


def budget_for(quick: bool) -> Budget:
    """Of the full experiment or of its quick variant."""
    return replace(BUDGET, **QUICK) if quick else BUDGET


def train(arm: str, data: Dataset, budget: Budget) -> History:
    """Train an arm with long rollouts."""
    settings = ARMS[arm]
    option: dict[str, Any] = {"huber": 1.0} if settings.many else {"critics": 2, "diversity": 0.0}
    if not settings.many:  # starts as in nn.Linear
        starts = ("hidden_bias", "actor_output_bound", "critic_output_bound")
        option |= dict.fromkeys(starts)
    option["_target_"] = f"{__name__}.{'PlaneREDQ' if settings.many else 'PlaneSAC'}"
    return experiment.run(
        *(f"plane, {arm}", data, budget),
        agent="redq" if settings.many else "ravl",
        changes={**NETWORK, **option},
        make_source=partial(long_rollouts, settings.horizon, data, budget),
    )


def long_rollouts(horizon: int, data: Dataset, budget: Budget) -> RolloutSource:
    """Rollouts of the true dynamics; the replay holds as many rows as that of short ones."""
    spec = replace(data.spec, max_episode_steps=horizon)
    model = build_option("world_model", "true_dynamics", spec=spec, seeds=budget.seeds, seed=0)
    sizes = {"lanes": LANES, "every": 1, "horizon": horizon}
    return build_option(
        *("source", "long_rollouts"),
        changes=sizes | {"capacity": budget.horizon * budget.starts * budget.retain},
        spec=spec,
        seeds=budget.seeds,
        model=model,
        transition_filter=build_option("filter", "none"),
    )


def jobs(data: Dataset, quick: bool) -> dict[str, Callable[[], History]]:
    """Every arm, the longest first."""
    return {arm: partial(train, arm, data, budget_for(quick)) for arm in ARMS}


def recorded(metric: str, updates: int) -> dict[str, list[float]]:
    """What short rollouts came to after so many updates, a number a seed.

    Raises:
        Mistake: there are no such results.
    """
    path = RESULTS / "edge_of_reach.json"
    try:
        found = json.loads(path.read_text())["plane"]
        series = {arm: found[name]["series"][metric] for arm, name in RECORDED.items()}
        return {
            arm: [values[each["updates"].index(updates)] for values in each["by_seed"]]
            for arm, each in series.items()
        }
    except (OSError, ValueError, KeyError) as error:
        raise Mistake(
            f"{path} has no results after {updates} updates to compare with ({error}); run python "
            "-m benchmarks.claims.edge_of_reach"
        ) from error
