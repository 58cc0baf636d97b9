"""The plane of the edge-of-reach problem, in its true dynamics: horizons in the place of pessimism.

Where the model is exact nothing is uncertain, so NEUBAY's cut is idle: what is left is how far
rollouts go. Networks and rows are those of `benchmarks.claims.edge_of_reach`, whose results, at the
same number of updates, are what RAVL and short rollouts without pessimism stand for.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from reverie.agents.redq import REDQ
from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims.edge_of_reach import plane as short
from reverie.benchmarks.claims.edge_of_reach.plane import OfThePlane
from reverie.benchmarks.claims.experiment import Budget, History
from reverie.benchmarks.claims.report import RESULTS
from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.training.launch.options import build_option
from reverie.world_models.sources import RolloutSource

RECORDED = {"ravl, 10 steps": "ravl", "10 steps": "base"}
"""Arms that `edge_of_reach.json` has, by their names there; eight seeds each."""
LONG, NEUBAY = "30 steps", "neubay, 30 steps"
BUDGET = replace(short.BUDGET, seeds=4, updates=4_400, probe=0)
QUICK = {"updates": 400, "evaluate": 200}
LANES = 50
"""Of long rollouts, which take a step every update: as many rows as short ones make."""


class PlaneREDQ(OfThePlane, REDQ):
    """REDQ on the plane."""


@dataclass(frozen=True)
class Arm:
    """How far rollouts go, 30 being the task's limit, and NEUBAY's critics or two."""

    horizon: int
    many: bool = False


ARMS = {NEUBAY: Arm(30, many=True), LONG: Arm(30)}


def start_states() -> Dataset:
    """Where rollouts begin, and nothing to learn from."""
    return short.start_states(0)


def budget_for(quick: bool) -> Budget:
    """Of the full experiment or of its quick variant."""
    return replace(BUDGET, **QUICK) if quick else BUDGET


def train(arm: str, data: Dataset, budget: Budget) -> History:
    """Train an arm with long rollouts."""
    settings = ARMS[arm]
    network = dict(short.NETWORK)
    if settings.many:
        agent = {"_target_": f"{__name__}.PlaneREDQ", "huber": 1.0}
        network = {key: value for key, value in network.items() if "bound" not in key}
        del network["hidden_bias"]
    else:
        target = f"{short.__name__}.PlaneAgent"
        agent = {"_target_": target, "critics": 2, "diversity": 0.0}
    return experiment.run(
        *(f"plane, {arm}", data, budget),
        agent="redq" if settings.many else "ravl",
        changes=network | agent,
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
