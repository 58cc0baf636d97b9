"""Duffing's oscillator, driven into chaos and held in one of its two wells by a second force.

    x'' = x - x^3 - 0.3 x' + 0.5 cos(phase) + u,  phase' = 1.2,  |u| <= 0.5

Without control it jumps between wells at -1 and 1 for ever. After the driven oscillator of dysts,
arXiv:2110.05266. Differs: parameters of our own, and the control.
"""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reverie.envs.flows import ControlledFlow, runge_kutta

ENV_ID = "ReverieDuffing-v0"
EPISODE_STEPS = 200
STEP = 0.2
"""Time of a control step, in which u is held; a period of the drive has 26 of them."""
DRIVE, FREQUENCY = 0.5, 1.2
LIMIT = 0.5
"""Of the control: what cancels the drive, and no more."""
WELL = 1.0

_DAMPING = 0.3
_EFFORT = 0.1  # cost of u^2
_STARTS = (1.5, 1.0)  # bounds of position and speed
_STIFFNESS, _BRAKE = 1.0, 1.5  # of the expert


def slopes(x: Any, speed: Any, force: Any) -> tuple[Any, Any]:
    """x' and x'' under a force; numbers, arrays or tensors."""
    return speed, x - x**3 - _DAMPING * speed + force


def dynamics(
    obs: Float[Tensor, "*lead 4"], action: Float[Tensor, "*lead 1"]
) -> tuple[Float[Tensor, "*lead 4"], Float[Tensor, "*lead"], Bool[Tensor, "*lead"]]:
    """Next observation, reward -(x - 1)^2 - x'^2 - 0.1 u^2 of the state that is left; no end.

    Args:
        obs: `[x, x', cos phase, sin phase]`.
        action: u, clipped to [-0.5, 0.5].
    """
    x, speed, cosine, sine = obs.unbind(-1)
    push = action[..., 0].clamp(-LIMIT, LIMIT)
    reward = -((x - WELL).square() + speed.square() + _EFFORT * push.square())

    def driven(x: Any, speed: Any, time: float) -> tuple[Any, Any, float]:
        turn = FREQUENCY * time
        drive = DRIVE * (cosine * math.cos(turn) - sine * math.sin(turn))
        return *slopes(x, speed, drive + push), 1.0

    x, speed, _ = runge_kutta(driven, (x, speed, 0.0), STEP)
    cos, sin = math.cos(FREQUENCY * STEP), math.sin(FREQUENCY * STEP)
    turned = (cosine * cos - sine * sin, sine * cos + cosine * sin)
    ended = torch.zeros_like(reward, dtype=torch.bool)
    return torch.stack([x, speed, *turned], -1), reward, ended


def controller(obs: Float[Tensor, "*lead 4"]) -> Float[Tensor, "*lead 1"]:
    """The expert: against the drive, towards the well, against the speed, as far as u goes."""
    x, speed, cosine, _ = obs.unbind(-1)
    wanted = -DRIVE * cosine - _STIFFNESS * (x - WELL) - _BRAKE * speed
    return wanted.clamp(-LIMIT, LIMIT).unsqueeze(-1)


class Duffing(ControlledFlow):
    """`dynamics` from both wells and all phases of the drive."""

    dynamics = staticmethod(dynamics)
    obs_dim, limit = 4, LIMIT

    def start(self) -> np.ndarray:
        x, speed = self.np_random.uniform(-1, 1, 2) * _STARTS
        phase = self.np_random.uniform(0, 2 * math.pi)
        return np.array([x, speed, math.cos(phase), math.sin(phase)])
