"""Logs of a driven pendulum whose rows are unequally far apart, as tables, and how models do on it.

theta'' = 15 sin theta + 6 u - 0.5 theta', the torque u in [-1, 1] held from row to row. A row holds
cos theta, sin theta and theta' with a little noise.
"""

import math
from typing import Any

import numpy as np
import pandas
import torch
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.datasets.readers.table import load_frame
from reverie.world_models.ensemble import ProbabilisticEnsemble
from reverie.world_models.ode import runge_kutta_step

NOMINAL = 0.05
"""Seconds: what the logs' rows last in the median."""
SPREAD = 0.8
"""Standard deviation of ln dt of irregular rows."""
LONGEST = 0.5
"""Seconds: a longer step cuts the episode."""
NOISE = 0.01
SEEN = ("cos", "sin", "speed")
_FINEST = 0.005


def drive(theta: Tensor, action: Tensor, dt: Tensor) -> Tensor:
    """`[*, 2]` angle and speed after holding `action [*]` for `dt [*]` seconds."""

    def field(state: Tensor) -> Tensor:
        angle, speed = state.unbind(-1)
        return torch.stack([speed, 15 * angle.sin() + 6 * action - 0.5 * speed], -1)

    steps = math.ceil(float(dt.max()) / _FINEST)
    for _ in range(steps):
        h = (dt / steps).unsqueeze(-1)
        theta = theta + runge_kutta_step(field, theta, h, field(theta))
    return theta


def record(episodes: int, rows: int, seed: int, *, irregular: bool) -> pandas.DataFrame:
    """A table of `episodes` times `rows` rows; truth without noise in the columns `true *`."""
    generator = torch.Generator().manual_seed(seed)
    dt = torch.full((episodes, rows), NOMINAL, dtype=torch.float64)
    if irregular:
        normal = torch.randn(episodes, rows, generator=generator, dtype=torch.float64)
        dt = (NOMINAL * (SPREAD * normal).exp()).clamp(0.1 * NOMINAL, LONGEST)
    theta = torch.rand(episodes, 2, generator=generator, dtype=torch.float64) * 2 - 1
    theta = theta * torch.tensor([math.pi, 4.0])
    action = torch.rand(episodes, rows, generator=generator, dtype=torch.float64) * 2 - 1
    states = [theta]
    for row in range(rows - 1):
        states.append(drive(states[-1], action[:, row], dt[:, row]))
    state = torch.stack(states, 1)
    true = torch.stack([state[..., 0].cos(), state[..., 0].sin(), state[..., 1]], -1)
    noise = torch.randn(true.shape, generator=generator, dtype=torch.float64)
    seen = true + NOISE * noise
    time = torch.cat([torch.zeros(episodes, 1), dt[:, :-1].cumsum(1)], 1)
    columns = {"episode": torch.arange(episodes).repeat_interleave(rows), "time": time}
    columns |= {name: seen[..., place] for place, name in enumerate(SEEN)}
    columns |= {f"true {name}": true[..., place] for place, name in enumerate(SEEN)}
    columns |= {"torque": action, "dt": dt}
    return pandas.DataFrame({name: value.flatten().numpy() for name, value in columns.items()})


def resampled(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The table at equal steps: observations interpolated, the action as it was held."""
    parts = []
    for episode, rows in frame.groupby("episode"):
        time = rows["time"].to_numpy()
        grid = np.arange(0.0, time[-1], NOMINAL)
        before = np.searchsorted(time, grid, side="right") - 1
        part = {"episode": np.full(len(grid), episode), "time": grid}
        part |= {name: np.interp(grid, time, rows[name].to_numpy()) for name in SEEN}
        parts.append(pandas.DataFrame(part | {"torque": rows["torque"].to_numpy()[before]}))
    return pandas.concat(parts)


def dataset(
    frame: pandas.DataFrame, *, time: bool, longest: float | None = None, column: bool = False
) -> Dataset:
    """The transitions of a table.

    Args:
        time: whether the column of time is read.
        longest: `dataset.longest_step`.
        column: whether the length of a row is an exogenous observation.
    """
    columns: dict[str, Any] = {
        "observations": [*SEEN, *(["dt"] if column else [])],
        "actions": "torque",
        "episode": "episode",
        "time": "time" if time else [],
    }
    if column:
        columns["exogenous"] = "dt"
    return load_frame(
        frame,
        name="pendulum",
        columns=columns,
        reward="cos-0.01*speed**2",
        action_low=-1,
        action_high=1,
        env_id=None,
        env_kwargs={},
        max_episode_steps=None,
        reference=None,
        clip_actions=False,
        longest_step=longest,
    )


@torch.no_grad()
def open_loop_error(model: ProbabilisticEnsemble, frame: pandas.DataFrame, steps: int) -> float:
    """Where the mean gets in so many nominal steps of recorded actions, against the truth.

    Starts are the truth in every tenth row. Root mean square of the difference, in standard
    deviations of the columns.
    """
    episodes = frame["episode"].nunique()
    true, action = (
        torch.tensor(frame[names].to_numpy(), dtype=torch.float32).view(episodes, -1, len(names))
        for names in ([f"true {name}" for name in SEEN], ["torque"])
    )
    starts = range(0, true.shape[1] - steps, 10)
    obs = torch.cat([true[:, start] for start in starts]).unsqueeze(0)
    if model.spec.obs_dim > len(SEEN):
        obs = torch.cat([obs, torch.full_like(obs[..., :1], NOMINAL)], -1)
    for step in range(steps):
        held = torch.cat([action[:, start + step] for start in starts]).unsqueeze(0)
        obs = model.expect(obs, held).next_obs[0]
    end = torch.cat([true[:, start + steps] for start in starts])
    unit = true.flatten(0, 1).std(0)
    return float(((obs[0, :, : len(SEEN)] - end) / unit).square().mean().sqrt())
