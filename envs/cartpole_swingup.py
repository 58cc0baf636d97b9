"""Cart-pole swing-up on a bounded rail: the pole hangs at first and is swung up and balanced.

The task of dm_control's cart-pole swing-up with equations of its own: a uniform rod, no friction,
one semi-implicit Euler step per control step, so that the observation is the whole state and the
same function of tensors serves as environment and as true dynamics.

Equations of motion: Barto, Sutton and Anderson (1983), with the pole free to turn all the way.
Differs from dm_control: leaving the rail ends the episode instead of hitting a wall (a wall is a
contact, which no smooth model can learn), and the reward is a polynomial of the observation.
"""

import math
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float
from torch import Tensor

ENV_ID = "ReverieCartPoleSwingUp-v0"
EPISODE_STEPS = 250
STEP = 0.02
"""Seconds of a control step."""
RAIL = 3.0
"""Half the length of the rail in metres; beyond it the episode ends."""

_GRAVITY, _CART_MASS, _POLE_MASS = 9.8, 1.0, 0.1
_HALF_POLE = 0.5  # metres from the hinge to the centre of the pole
_FORCE = 10.0  # newtons of an action of 1
_MASS = _CART_MASS + _POLE_MASS  # of the true cart-pole, which the expert knows
_START_SPREAD = 0.1  # of positions, angles and velocities around hanging at rest

# Energy of the pole about its hinge, in units of its mass times the half length, 0 at rest upright.
_INERTIA = 4.0 / 3.0 * _HALF_POLE
# The scripted expert. Pumping: gain per unit of energy, pull to the middle, damping, limit, all of
# the cart's acceleration. Balancing: a linear-quadratic regulator of the map linearised upright.
_PUMP, _CENTRE, _DAMP, _PUMP_LIMIT = 4.0, 4.0, 2.0, 8.0
_CATCH_COSINE = 0.8
_BALANCE = (-8.5, -67.0, -10.6, -16.8)  # newtons per m, rad, m/s, rad/s


def dynamics(
    obs: Float[Tensor, "*lead 5"],
    action: Float[Tensor, "*lead 1"],
    *,
    gravity: float = _GRAVITY,
    cart_mass: float = _CART_MASS,
    pole_mass: float = _POLE_MASS,
    half_pole: float = _HALF_POLE,
    rail: float = RAIL,
) -> tuple[Float[Tensor, "*lead 5"], Float[Tensor, "*lead"], Bool[Tensor, "*lead"]]:
    """Next observation, reward and termination, exactly what the environment does.

        a_cart = (F + m l w^2 sin) / (M + m),  F = 10 u
        w' = w + dt (g sin - cos a_cart) / (l (4/3 - m cos^2 / (M + m)))
        v' = v + dt (a_cart - m l cos dw/dt / (M + m)),  x' = x + dt v',  angle' = angle + dt w'
        r(s) = (1 + cos) / 2 (1 - x^2 / 9)

    The reward is that of the state that is left, between 0 and 1 on the rail. It ends where
    |x'| > 3.

    Args:
        obs: `[x, cos angle, sin angle, v, w]`, m, m/s and rad/s; angle 0 upright.
        action: force in units of 10 N, clipped to [-1, 1].
        gravity, cart_mass, pole_mass, half_pole, rail: m/s^2, kg, kg, metres from the hinge to the
            centre of the pole, and half the length of the rail (which the reward does not follow).
    """
    x, cosine, sine, speed, turn = obs.unbind(-1)
    mass = cart_mass + pole_mass
    force = _FORCE * action[..., 0].clamp(-1.0, 1.0)
    push = (force + pole_mass * half_pole * turn.square() * sine) / mass
    lever = half_pole * (4.0 / 3.0 - pole_mass * cosine.square() / mass)
    turning = (gravity * sine - cosine * push) / lever
    pushing = push - pole_mass * half_pole * turning * cosine / mass
    speed, turn = speed + STEP * pushing, turn + STEP * turning
    angle = torch.atan2(sine, cosine) + STEP * turn
    reward = (1.0 + cosine) / 2.0 * (1.0 - (x / RAIL).square())
    x = x + STEP * speed
    next_obs = torch.stack([x, torch.cos(angle), torch.sin(angle), speed, turn], -1)
    return next_obs, reward, x.abs() > rail


def controller(obs: Float[Tensor, "*lead 5"]) -> Float[Tensor, "*lead 1"]:
    """The expert: pump the pole to its upright energy, then balance near the top."""
    x, cosine, sine, speed, turn = obs.unbind(-1)
    angle = torch.atan2(sine, cosine)
    energy = 0.5 * _INERTIA * turn.square() + _GRAVITY * (cosine - 1.0)
    # At rest either direction pumps; a sign of zero would hang still for ever.
    swing = torch.where(turn * cosine < 0, -1.0, 1.0)
    wanted = (_PUMP * energy * swing).clamp(-_PUMP_LIMIT, _PUMP_LIMIT)
    pumping = _MASS * (wanted - _CENTRE * x - _DAMP * speed)
    state = torch.stack([x, angle, speed, turn], -1)
    balancing = -(state * state.new_tensor(_BALANCE)).sum(-1)
    force = torch.where(cosine > _CATCH_COSINE, balancing, pumping)
    return (force / _FORCE).clamp(-1.0, 1.0).unsqueeze(-1)


class CartPoleSwingUp(gymnasium.Env):
    """`dynamics` from hanging at rest, within 0.1 in position, angle and velocities.

    Attributes:
        constants: keywords of `dynamics`, which a perturbed copy changes.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012, Gymnasium declares it so

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (5,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.constants = {
            "gravity": _GRAVITY,
            "cart_mass": _CART_MASS,
            "pole_mass": _POLE_MASS,
            "half_pole": _HALF_POLE,
            "rail": RAIL,
        }
        # An array, which `envs.snapshot` takes for state.
        self._obs = np.zeros(5, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        x, angle, speed, turn = self.np_random.uniform(-_START_SPREAD, _START_SPREAD, 4)
        angle += math.pi
        self._obs = np.array([x, math.cos(angle), math.sin(angle), speed, turn], np.float32)
        return self._obs.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        push = torch.as_tensor(action, dtype=torch.float32)
        after, reward, ended = dynamics(torch.from_numpy(self._obs), push, **self.constants)
        self._obs = after.numpy()
        return self._obs.copy(), reward.item(), bool(ended), False, {}
