"""Two tanks in a row, filled through a valve: hold the level of the lower one at a set-point.

The upper tank drains into the lower one and that one out of the plant, both by Torricelli's law.
A log contains the plant's measurements: noisy levels, the set-point, and the valve position. It
does not contain the water in the pipe.

Own equations and numbers; the laboratory plant is that of Johansson, "The quadruple-tank process"
(IEEE Transactions on Control Systems Technology 8(3), 2000), of which this is one half.
"""

import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from reverie.mistake import Mistake

ENV_ID = "ReverieTwoTanks-v0"
EPISODE_STEPS = 200
STEP = 2.0
"""Seconds of a control step."""
OBS_NAMES = ("h1 [cm]", "h2 [cm]", "setpoint [cm]", "position [-]")
ACTION_NAMES = ("valve [-]",)
NOISE = 0.1
"""Standard deviation of both level sensors, in cm."""
HEIGHT = 30.0
"""Of both tanks in cm; what flows in beyond it is lost."""
SET_POINTS = (5.0, 20.0)
"""Between which set-points are drawn, in cm."""

_SUBSTEPS = 10
_GRAVITY = 981.0  # cm/s^2
_AREA = 20.0  # cross-section of both tanks, cm^2
_HOLES = (0.45, 0.40)  # outlets of the upper and the lower tank, cm^2
_INFLOW = 120.0  # cm^3/s through the open valve
_PIPE = 1.5  # seconds in which the flow follows the valve to 63 %
_RAMP = 0.5  # cm per step by which a set-point moves to a new target, sparing the valve
_CHANGE = 1.0 / 50.0  # probability per step of a new target
_CM_PER_COST = 5.0  # deviation that costs 1 a step
_WEAR = 2.0  # cost of the squared movement of the valve over its whole range


def reward_of(obs: Any, action: Any) -> Any:
    """-((h2 - setpoint) / 5)^2 - 2 (valve - position)^2, of what is seen before the step.

    Args:
        obs: `[*, 4]` array or tensor, see `OBS_NAMES`.
        action: `[*, 1]` valve, in [0, 1].
    """
    error = (obs[..., 1] - obs[..., 2]) / _CM_PER_COST
    return -(error**2) - _WEAR * (action[..., 0] - obs[..., 3]) ** 2


def steady(level: Any) -> tuple[Any, Any]:
    """Valve and upper level that hold the lower one at `level` cm; numbers, arrays or tensors."""
    outflow = _HOLES[1] * (2.0 * _GRAVITY * level) ** 0.5
    return outflow / _INFLOW, level * (_HOLES[1] / _HOLES[0]) ** 2


@dataclass
class PI:
    """A proportional-integral controller of the lower level, with a memory.

    valve = bias + gain (e + integral of e / reset), e = setpoint - h2, clipped to [0, 1]; the
    integral stands still while the valve is at a limit.

    Attributes:
        gain: share of the valve per cm.
        reset: integral time in seconds.
        bias: valve at rest, in [0, 1].
        integral: of the error so far, cm s.
    """

    gain: int | float
    reset: int | float
    bias: float = 0.5
    integral: float = 0.0

    def __post_init__(self) -> None:
        if self.reset <= 0.0:
            raise Mistake(f"reset={self.reset} must be positive, in seconds")

    def act(self, obs: np.ndarray) -> float:
        """The valve, in [0, 1], for one observation `[4]`; call it once a step."""
        error = float(obs[2] - obs[1])
        integral = self.integral + error * STEP
        wanted = self.bias + self.gain * (error + integral / self.reset)
        if 0.0 <= wanted <= 1.0:
            self.integral = integral
        return min(max(wanted, 0.0), 1.0)


def feedback(
    obs: Float[Tensor, "*lead 4"], gain: float, *, trim: float = 0.0
) -> Float[Tensor, "*lead 1"]:
    """A controller without memory, as good as its numbers: the valve in [0, 1].

    It opens the valve as far as holds the set-point, more by `gain` for each cm that the lower
    level is short of it, and half of that for the upper one.

    Args:
        obs: see `OBS_NAMES`.
        gain: share of the valve per cm.
        trim: error of the valve at rest, a bias that leaves a steady deviation.
    """
    valve, upper = steady(obs[..., 2])
    short = obs[..., 2] - obs[..., 1] + 0.5 * (upper - obs[..., 0])
    return (valve + trim + gain * short).clamp(0.0, 1.0).unsqueeze(-1)


class TwoTanks(gymnasium.Env):
    """The plant: observations as in `OBS_NAMES`, one action, the valve in [0, 1]; never terminated.

    A command is carried out one step later, and the flow follows the valve with a lag. Levels
    start anywhere between 2 and 25 cm. The set-point ramps to new targets at random times.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012, Gymnasium declares it so

    def __init__(self) -> None:
        high = np.array([np.inf, np.inf, HEIGHT, 1.0], np.float32)
        low = np.array([-np.inf, -np.inf, 0.0, 0.0], np.float32)
        self.observation_space = spaces.Box(low, high, dtype=np.float32)
        self.action_space = spaces.Box(0.0, 1.0, (1,), np.float32)
        # Numbers and arrays, which `envs.snapshot` takes for state.
        self._levels, self._flow = np.zeros(2), 0.0
        self._set_point = self._target = self._position = 0.0
        self._obs = np.zeros(4, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._levels = self.np_random.uniform(2.0, 25.0, 2)
        self._set_point = self._target = float(self.np_random.uniform(*SET_POINTS))
        self._position = self._flow = float(self.np_random.uniform(0.0, 1.0))
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        command = np.clip(np.asarray(action, np.float32), 0.0, 1.0)
        reward = float(reward_of(self._obs, command))
        self._flow, self._levels = flow_on(self._flow, self._levels, self._position)
        self._position = float(command[0])
        if self.np_random.random() < _CHANGE:
            self._target = float(self.np_random.uniform(*SET_POINTS))
        self._set_point += min(max(self._target - self._set_point, -_RAMP), _RAMP)
        return self._observe(), reward, False, False, {}

    def _observe(self) -> np.ndarray:
        seen = self._levels + self.np_random.normal(0.0, NOISE, 2)
        self._obs = np.array([*seen, self._set_point, self._position], np.float32)
        return self._obs.copy()


def flow_on(flow: float, levels: np.ndarray, position: float) -> tuple[float, np.ndarray]:
    """What one control step makes of the water, without noise, by Euler's method in 0.2 s.

    T dq/dt = p - q,  A dh1/dt = Q q - a1 sqrt(2 g h1),
    A dh2/dt = a1 sqrt(2 g h1) - a2 sqrt(2 g h2),  levels kept between 0 and 30 cm

    Args:
        flow: q, share of the full inflow that reaches the upper tank.
        levels: `[2]` true levels in cm, the upper tank's first.
        position: p, of the valve, in [0, 1].

    Returns:
        Flow and levels after the step.
    """
    upper, lower = levels.tolist()
    dt = STEP / _SUBSTEPS
    for _ in range(_SUBSTEPS):
        between = _HOLES[0] * math.sqrt(2.0 * _GRAVITY * upper)
        out = _HOLES[1] * math.sqrt(2.0 * _GRAVITY * lower)
        flow += dt * (position - flow) / _PIPE
        upper = min(max(upper + dt * (_INFLOW * flow - between) / _AREA, 0.0), HEIGHT)
        lower = min(max(lower + dt * (between - out) / _AREA, 0.0), HEIGHT)
    return flow, np.array([upper, lower])
