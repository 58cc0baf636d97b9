"""What H2O's discriminators see of a known gap: recorded steps of Pendulum, replayed under another
gravity from the same states with the same actions.

Only s' differs between the two sides, so what the perturbation changed is known for every row.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from gymnasium.envs.classic_control import PendulumEnv

from reverie import datasets
from reverie.agents.h2o import H2O
from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition, concatenate
from reverie.envs.perturbed import Perturbation, make_perturbed
from reverie.training.launch.options import build_option
from reverie.training.probes.values import auc
from reverie.training.seeding import seed_everything

GRAVITIES = (1.0, 0.6, 0.3)
SEEDS = 4
ROWS = 4_000
UPDATES, QUICK_UPDATES = 1_500, 600
BATCH = 256
DISCRIMINATORS = {"hidden": [64, 64], "learning_rate": 1e-3}


class Seen(NamedTuple):
    """What the discriminators say of the replayed rows, per seed.

    Attributes:
        weight: mean TD weight w.
        least_gap, most_gap: mean u, in nats, of the quarter of rows that gravity changed least, and
            of the quarter that it changed most.
        ratio_order: ROC-AUC by which log Mhat/M at s' tells these two quarters apart.
    """

    weight: list[float]
    least_gap: list[float]
    most_gap: list[float]
    ratio_order: list[float]


def load() -> Dataset:
    """All of the recorded swing-ups."""
    return datasets.load("builtin/pendulum-mixed")


def run(data: Dataset, gravity: float, updates: int) -> Seen:
    """Train the discriminators on recorded against replayed rows and ask them about the latter."""
    torch.set_num_threads(1)
    seed_everything(0)
    real = data.transitions[torch.randperm(len(data))[:ROWS]]
    simulated = replayed(data, real, gravity)
    agent: H2O = build_option(
        *("agent", "h2o"),
        changes={"discriminators": DISCRIMINATORS},
        spec=data.spec,
        seeds=SEEDS,
        updates=updates,
    )
    agent.prepare(data)
    for _ in range(updates):
        agent.discriminators.learn(concatenate([draw(real), draw(simulated)], 1))
    lanes = simulated.map(lambda column: column.expand(SEEDS, *column.shape))
    seen = agent.weigh(lanes)
    changed = (simulated.next_obs - real.next_obs).norm(dim=-1)
    order = changed.argsort()
    least, most = order[: ROWS // 4], order[-ROWS // 4 :]
    gap, doubt = seen.dynamics_gap, -seen.log_ratio
    return Seen(
        seen.td_weight.mean(1).tolist(),
        gap[:, least].mean(1).tolist(),
        gap[:, most].mean(1).tolist(),
        auc(doubt[:, least], doubt[:, most]).tolist(),
    )


def draw(rows: Transition) -> Transition:
    """A batch for every seed."""
    return rows[torch.randint(len(rows.reward), (SEEDS, BATCH))]


def replayed(data: Dataset, rows: Transition, gravity: float) -> Transition:
    """The same states and actions under another gravity."""
    env = make_perturbed(data.spec, Perturbation(gravity=gravity))
    env.reset(seed=0)
    task = env.unwrapped
    assert isinstance(task, PendulumEnv)
    next_obs = np.empty(rows.next_obs.shape, np.float32)
    states = torch.stack([torch.atan2(rows.obs[:, 1], rows.obs[:, 0]), rows.obs[:, 2]], 1)
    for row, (state, action) in enumerate(
        zip(states.double().numpy(), rows.action.numpy(), strict=True)
    ):
        task.state = state
        next_obs[row] = env.step(action)[0]
    env.close()
    return replace(
        rows, next_obs=torch.from_numpy(next_obs), is_real=torch.zeros_like(rows.is_real)
    )
