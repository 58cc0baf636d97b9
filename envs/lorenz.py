"""The Lorenz system, whose orbit changes lobes for ever, and a control input that holds it in one.

x' = 10 (y - x),  y' = x (28 - z) - y + u,  z' = x y - 8/3 z,  |u| <= 20
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reverie.envs.flows import ControlledFlow, runge_kutta

ENV_ID = "ReverieLorenz-v0"
EPISODE_STEPS = 200
STEP = 0.03
"""Time of a control step, in which u is held; 37 of them are a Lyapunov time."""
LIMIT = 20.0
CENTRE = (72**0.5, 72**0.5, 27.0)
"""The fixed point in the middle of the lobe where x > 0; unstable."""

_EFFORT = 1e-3  # cost of u^2
_SCALE = 10.0  # distance from the centre that costs 1
_SETTLE = 100  # steps without control before a start
_GAINS = (1.25, 4.65, -0.98)  # of the expert, see `controller`


def slopes(x: Any, y: Any, z: Any, push: Any = 0.0) -> tuple[Any, Any, Any]:
    """x', y' and z' under a push on y; numbers, arrays or tensors."""
    return 10 * (y - x), x * (28 - z) - y + push, x * y - 8 / 3 * z


def dynamics(
    obs: Float[Tensor, "*lead 3"], action: Float[Tensor, "*lead 1"]
) -> tuple[Float[Tensor, "*lead 3"], Float[Tensor, "*lead"], Bool[Tensor, "*lead"]]:
    """Next observation, reward -|s - centre|^2 / 100 - 0.001 u^2 of what is left; no end.

    Args:
        obs: s = `[x, y, z]`.
        action: u, clipped to [-20, 20].
    """
    push = action[..., 0].clamp(-LIMIT, LIMIT)
    parts = obs.unbind(-1)
    away = sum((part - at).square() for part, at in zip(parts, CENTRE, strict=True))
    reward = -(away / _SCALE**2 + _EFFORT * push.square())
    after = runge_kutta(lambda x, y, z: slopes(x, y, z, push), parts, STEP)
    return torch.stack(after, -1), reward, torch.zeros_like(reward, dtype=torch.bool)


def controller(obs: Float[Tensor, "*lead 3"]) -> Float[Tensor, "*lead 1"]:
    """The expert: the linear-quadratic regulator about the centre, as far as u goes."""
    push = sum(-gain * (obs[..., i] - CENTRE[i]) for i, gain in enumerate(_GAINS))
    return torch.as_tensor(push).clamp(-LIMIT, LIMIT).unsqueeze(-1)


class Lorenz(ControlledFlow):
    """`dynamics` from starts on the attractor, in either lobe."""

    dynamics = staticmethod(dynamics)
    obs_dim, limit = 3, LIMIT

    def start(self) -> np.ndarray:
        state = tuple(self.np_random.normal((0.0, 0.0, 25.0)).tolist())
        for _ in range(_SETTLE):
            state = runge_kutta(slopes, state, STEP)
        return np.array(state)
