"""Two masses in a row between walls, on three springs with dampers: push each to its target.

The task DMSD of NeoRL-2 (arXiv:2503.19267), in code of our own. Targets may jump once, half-way.
"""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from reverie.mistake import Mistake

ENV_ID = "ReverieDoubleMassSpring-v0"
EPISODE_STEPS = 100
STEP = 0.2
"""Seconds of a control step, one of explicit Euler."""
OBS_NAMES = (
    *("position 1 [m]", "position 2 [m]", "velocity 1 [m/s]", "velocity 2 [m/s]"),
    *("target 1 [m]", "target 2 [m]"),
)
ACTION_NAMES = ("force 1", "force 2")

_MASS, _STIFFNESS, _DAMPING = 20.0, 2.0, 4.0  # kg, N/m, N s/m; all three springs are alike
_FORCE = 30.0  # newtons of an action of 1
_FARTHEST_TARGET = 1.5
_START_POSITION, _START_VELOCITY = 0.25, 0.1  # half widths of uniform starts around rest


def reward_of(next_obs: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead"]:
    """-ln(|x1' - target1'| + 0.01) - ln(|x2' - target2'| + 0.01)."""
    error = (next_obs[..., :2] - next_obs[..., 4:6]).abs()
    return -(error + 0.01).log().sum(-1)


class DoubleMassSpring(gymnasium.Env):
    """Positions x, velocities v, forces F = 30 a on masses m = 20, k = 2, d = 4. Never terminated.

        x' = x + dt v,    v' = v + dt / m (F + K (k x + d v)),    K = [[-2, 1], [1, -2]]

    Args:
        mass: of both; NeoRL-2's data are of 20, its disturbed copy (`mode` other than train) of 30.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012, Gymnasium declares it so

    def __init__(self, mass: int | float = _MASS) -> None:
        if not mass > 0.0:
            raise Mistake(f"mass={mass} must be positive, in kg")
        self.observation_space = spaces.Box(-np.inf, np.inf, (6,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.mass = mass
        # Numbers and arrays, which `envs.snapshot` takes for state.
        self._state, self._elapsed_steps = np.zeros((2, 2)), 0
        self._targets = np.zeros((2, 2))  # of the first half of the episode and of the second

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        width = np.array([[_START_POSITION], [_START_VELOCITY]])
        self._state, self._elapsed_steps = self.np_random.uniform(-width, width, (2, 2)), 0
        self._targets = self.np_random.uniform(-_FARTHEST_TARGET, _FARTHEST_TARGET, (2, 2))
        keeps = self.np_random.integers(0, 2, 2) == 0  # a mass has one target or two
        self._targets[1, keeps] = self._targets[0, keeps]
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        force = _FORCE * np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        position, velocity = self._state
        pull = _STIFFNESS * position + _DAMPING * velocity
        acceleration = (force + pull[::-1] - 2.0 * pull) / self.mass
        self._state = np.stack([position + STEP * velocity, velocity + STEP * acceleration])
        self._elapsed_steps += 1
        obs = self._observe()
        return obs, reward_of(torch.from_numpy(obs)).item(), False, False, {}

    def _observe(self) -> np.ndarray:
        target = self._targets[int(self._elapsed_steps >= EPISODE_STEPS // 2)]
        return np.array([*self._state[0], *self._state[1], *target], np.float32)
