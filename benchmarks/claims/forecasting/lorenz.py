"""The Lorenz system seen through noise: how strong forcing must be (arXiv:2306.04406).

The system of `envs.lorenz` without control: Runge-Kutta of order 4, step 0.03, in episodes of 500
steps. Models learn from states with noise of 30 % of their std, and are judged on
states without: single networks, two seeds.
"""

from typing import Any

import numpy as np
import torch

from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims.open_loop import (
    errors_ahead,
    noisy,
    starts,
)
from reverie.datasets.build import build
from reverie.datasets.dataset import Dataset
from reverie.envs.flows import runge_kutta
from reverie.envs.lorenz import STEP, slopes
from reverie.envs.specs import Spec
from reverie.world_models.diagnostics import VALID
from reverie.world_models.measures import plain, valid_steps

LYAPUNOV = 0.906
"""The largest Lyapunov exponent, per unit of time."""
ALPHAS = (0.0, 0.2, 1.0)
NOISE, AHEAD, STEPS, STARTS = 0.3, 20, 150, 300
MODEL: dict[str, Any] = {
    "members": 1,
    "elites": 1,
    "hidden": [64, 64],
    "weight_decay": [0.0, 0.0, 0.0],
    "learning_rate": 5e-3,
    "batch": 32,
    "max_epochs": 100,
    "patience": 1000,
    "select_by": "multi_step",
    "termination": "none",
}
WINDOW = 30


def record(episodes: int, length: int = 500) -> Dataset:
    """Episodes on the attractor, from different starts."""
    generator = np.random.default_rng(0)
    state = generator.normal((0.0, 0.0, 25.0), 1.0, (episodes, 3))
    path = []
    for _ in range(200 + length + 1):
        path.append(state)
        state = np.stack(runge_kutta(slopes, tuple(state.T), STEP), -1)
    states = np.stack(path[200:], 1).astype(np.float32)
    count = episodes * length
    last = np.zeros((episodes, length), bool)
    last[:, -1] = True
    return build(
        name="lorenz",
        spec=Spec(env_id=None, obs_dim=3, action_dim=1, action_low=(-1.0,), action_high=(1.0,)),
        obs=states[:, :-1].reshape(count, 3),
        next_obs=states[:, 1:].reshape(count, 3),
        action=np.zeros((count, 1), np.float32),
        reward=np.zeros(count, np.float32),
        terminated=np.zeros(count, bool),
        truncated=last.reshape(count),
        reference=None,
        origin={"source": "lorenz"},
        clip_actions=False,
    )


def run(alpha: float, quick: bool, seed: int = 0) -> dict[str, Any]:
    """Fit with this alpha, and measure."""
    truth = record(20 if quick else 40)
    seen = noisy(truth, NOISE, seed=1)
    changes = MODEL | ({"max_epochs": 2} if quick else {})
    changes["forcing"] = {"steps": WINDOW, "alpha": alpha}
    fitted = experiment.fit("world_model", "forced", seen, changes=changes, seeds=2, seed=seed)
    rows = starts(truth, fitted.model.held_out(truth), STEPS, STARTS)
    errors = errors_ahead(fitted.model, truth, truth, rows, STEPS)
    steps = valid_steps(errors, torch.full((len(rows),), STEPS), VALID)
    return {
        "mse": plain(errors[..., AHEAD - 1].clamp(max=1e3).square().mean(1)),
        "valid_steps": plain(steps),
        "valid_lyapunov_times": plain(steps * STEP * LYAPUNOV),
        "updates": fitted.described["updates"],
        "seconds": fitted.seconds,
    }
