"""The plane of the edge-of-reach problem, in its true dynamics: horizons in the place of pessimism.

Where the model is exact nothing is uncertain, so NEUBAY's cut is idle: what is left is how far
rollouts go. Networks, rows and the arm of RAVL are those of `benchmarks.claims.edge_of_reach`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from reverie.agents.redq import REDQ
from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims.edge_of_reach import plane as short
from reverie.benchmarks.claims.edge_of_reach.plane import OfThePlane
from reverie.benchmarks.claims.experiment import Budget, History
from reverie.datasets.dataset import Dataset
from reverie.training.launch.options import build_option
from reverie.world_models.sources import RolloutSource

BASE, RAVL = "10 steps", "ravl, 10 steps"
LONG, LONGER, NEUBAY = "30 steps", "100 steps", "neubay, 30 steps"
BUDGET = replace(short.BUDGET, seeds=4, updates=4_400, probe=0)
QUICK = {"updates": 400, "evaluate": 200}
LANES = 50
"""Of long rollouts, which take a step every update: as many rows as short ones make."""


class PlaneREDQ(OfThePlane, REDQ):
    """REDQ on the plane."""


@dataclass(frozen=True)
class Arm:
    """How far rollouts go, beyond the task's limit of 30 steps too, and NEUBAY's critics or two."""

    horizon: int
    many: bool = False


ARMS = {LONG: Arm(30), LONGER: Arm(100), NEUBAY: Arm(30, many=True)}


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
    budget = budget_for(quick)
    return {
        RAVL: partial(short.run, "ravl", data, budget),
        **{arm: partial(train, arm, data, budget) for arm in (NEUBAY, LONGER, LONG)},
        BASE: partial(short.run, "base", data, budget),
    }
