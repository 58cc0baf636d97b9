"""The edge-of-reach problem on a plane, where reach and true values are known exactly.

Protocol and hyperparameters: after the two-dimensional example of RAVL, arXiv:2402.12527, in the
rebuilt environment `envs/edge_of_reach.py`. All arms roll out the true dynamics.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.agents.base import Agent
from reverie.agents.edac import EDAC
from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims import plane as shared
from reverie.benchmarks.claims.experiment import Budget, History
from reverie.benchmarks.claims.plane import SCALE, OfThePlane
from reverie.datasets.dataset import Dataset
from reverie.envs import edge_of_reach as plane
from reverie.training.launch.options import build_option
from reverie.training.probes.values import auc
from reverie.world_models.filters import UncertaintyPenalty
from reverie.world_models.true_dynamics import TrueDynamics

BUDGET = Budget(
    seeds=8,
    updates=8_000,
    batch=128,
    real_ratio=0.0,
    starts=500,
    horizon=plane.HORIZON,
    every=100,
    retain=5,
    evaluate=400,
    episodes=20,
    probe=256,
)
QUICK = {"seeds": 4, "updates": 4_400}
NETWORK = {
    **shared.NETWORK,
    # As in nn.Linear. The public code's nearly equal starts (agent=ravl) leave the critics of these
    # small networks too alike to disagree: with them RAVL fails here too.
    "hidden_bias": None,
    "actor_output_bound": None,
    "critic_output_bound": None,
}
BAND_STATES = 2_000
PENALTY = 1.0  # of MOPO; the true dynamics know no uncertainty, so any value gives the same


@dataclass(frozen=True)
class Arm:
    """One line of the experiment: critics, diversity, and what else is different."""

    critics: int
    diversity: float
    patched: bool = False
    penalised: bool = False


ARMS = {
    "ravl": Arm(critics=20, diversity=1.0),
    "base": Arm(critics=2, diversity=0.0),
    "mopo": Arm(critics=2, diversity=0.0, penalised=True),
    "base + oracle patch": Arm(critics=2, diversity=0.0, patched=True),
}


class PlaneAgent(OfThePlane, EDAC):
    """EDAC on the plane."""


class OraclePatched(PlaneAgent):
    """Bootstraps from the truth at edge-of-reach next states, the paper's oracle experiment.

    The truth is the value of the controller that goes straight to the hill.
    """

    patched_rows: Tensor
    all_rows: Tensor

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.register_buffer("patched_rows", torch.zeros(self.seeds))
        self.register_buffer("all_rows", torch.zeros(()))

    def next_value(self, next_obs: Float[Tensor, "S B D"]) -> Float[Tensor, "S B"]:
        position = next_obs * SCALE
        edge = plane.edge_of_reach(position, plane.HORIZON)
        self.patched_rows += edge.sum(1)
        self.all_rows += edge.shape[1]
        truth = plane.controller_value(position, self.discount)
        return torch.where(edge, truth, super().next_value(next_obs))


def run(arm: str, data: Dataset, budget: Budget) -> History:
    """Train one arm."""
    settings = ARMS[arm]
    changes = {
        **NETWORK,
        "critics": settings.critics,
        "diversity": settings.diversity,
        "_target_": f"{__name__}.{'OraclePatched' if settings.patched else 'PlaneAgent'}",
    }
    model: TrueDynamics = build_option(
        "world_model", "true_dynamics", spec=data.spec, seeds=budget.seeds, seed=0
    )
    penalty = UncertaintyPenalty(penalty=PENALTY, unit="raw") if settings.penalised else None
    return experiment.run(
        f"plane, {arm}",
        data,
        budget,
        agent="ravl",
        changes=changes,
        make_source=partial(budget.branch, model, penalty),
        edge_of_reach=plane.edge_of_reach,
    )


def budget_for(quick: bool) -> Budget:
    """Of the full experiment or of its quick variant."""
    return replace(BUDGET, **QUICK) if quick else BUDGET


def jobs(data: Dataset, budget: Budget) -> dict[str, Callable[[], History]]:
    """Every arm, the longest first."""
    return {arm: partial(run, arm, data, budget) for arm in ARMS}


@torch.no_grad()
def spread_by_region(agent: Agent) -> tuple[Tensor, Tensor]:
    """Standard deviation over critics at policy actions, `[S, BAND_STATES]` within reach and at the
    edge, both uniform over their region."""
    limit = plane.reach(plane.HORIZON)
    generator = torch.Generator().manual_seed(0)
    box = (torch.rand(20 * BAND_STATES, 2, generator=generator) * 2 - 1) * (limit + 1)
    edge = plane.edge_of_reach(box, plane.HORIZON)

    def spread(obs: Tensor) -> Tensor:
        obs = obs[:BAND_STATES].expand(agent.seeds, -1, -1)
        values = agent.values(obs, agent.act(obs, deterministic=True))
        assert values is not None
        return values.std(1, correction=0)

    return spread(box[~edge]), spread(box[edge])


def region_auc(agent: Agent) -> list[float]:
    """ROC-AUC per seed of telling edge states from those within reach by the critics' spread."""
    return auc(*spread_by_region(agent)).tolist()


def patched_share(agent: Agent) -> list[float]:
    """Share of the next states in all updates, per seed, whose value was the oracle's."""
    assert isinstance(agent, OraclePatched)
    return (agent.patched_rows / agent.all_rows).tolist()
