"""The temperature of a refrigerator: one state, a compressor, and a heat leak.

A thermostat keeps it near one set point, so recordings cover a narrow band; a policy with another
set point leaves the data of a fitted model. After the synthetic task of MOREC, arXiv:2310.05422.
Differs: its equations are not public; these were sized so that the same effect appears.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float
from torch import Tensor

from reverie.mistake import Mistake

ENV_ID = "ReverieRefrigerator-v0"
EPISODE_STEPS = 100
SET_POINT = 5.0
"""Temperature that the reward asks for, in degrees Celsius."""
NOISE = 0.02
"""Standard deviation of what the environment adds to a step, in degrees."""
STARTS = (2.0, 8.0)

_OUTSIDE = 25.0  # temperature of the kitchen
_LEAK = 0.05  # share of the difference to it that passes the walls in a step
_DOOR = 0.15  # the same through the open door
_COOLING = 3.0  # degrees per step at full power
_COVERED = (-40.0, 60.0)  # box of observations
_DEGREES = 10.0  # that cost 1 of reward


def dynamics(
    obs: Float[Tensor, "*lead 1"], action: Float[Tensor, "*lead 1"], door: int | float = 0.0
) -> tuple[Float[Tensor, "*lead 1"], Float[Tensor, "*lead"], Bool[Tensor, "*lead"]]:
    """Expected next temperature, its reward and termination: the environment but for its noise.

        u = (a + 1) / 2,    s' = s + (0.05 + 0.15 door) (25 - s) - 3 u,    r = -|s' - 5| / 10

    Nothing terminates.

    Args:
        obs: temperature s in degrees.
        action: in [-1, 1], clipped to it; -1 leaves the compressor off, 1 is full power.
        door: how far the door stands open, from 0 to 1, which no observation shows.
    """
    power = (action.clamp(-1.0, 1.0) + 1.0) / 2.0
    next_obs = obs + (_LEAK + _DOOR * door) * (_OUTSIDE - obs) - _COOLING * power
    return next_obs, reward_of(next_obs), torch.zeros_like(obs[..., 0], dtype=torch.bool)


def reward_of(next_obs: Float[Tensor, "*lead 1"]) -> Float[Tensor, "*lead"]:
    """-|s' - 5| / 10."""
    return -(next_obs[..., 0] - SET_POINT).abs() / _DEGREES


def thermostat(
    obs: Float[Tensor, "*lead 1"], set_point: float, gain: float
) -> Float[Tensor, "*lead 1"]:
    """A proportional controller: the power that holds `set_point`, more by `gain` per degree.

    u = clip((25 - set_point) / 60 + gain (s - set_point), 0, 1), returned as an action in [-1, 1].
    """
    steady = _LEAK / _COOLING * (_OUTSIDE - set_point)
    return 2.0 * (steady + gain * (obs - set_point)).clamp(0.0, 1.0) - 1.0


def expert(obs: Float[Tensor, "*lead 1"]) -> Float[Tensor, "*lead 1"]:
    """Expects to be at the set point after one step wherever the compressor can do that."""
    return thermostat(obs, SET_POINT, (1.0 - _LEAK) / _COOLING)


class Refrigerator(gymnasium.Env):
    """`dynamics` with noise, from uniform starts in [2, 8]; never terminated.

    Args:
        door: see `dynamics`.
        openings: `[first, end]` of each spell of an episode, in steps from 0 and without `end`, in
            which the door stands fully open. No observation shows it, so a task with openings has
            no exact dynamics of observation and action (`simulator_for` refuses it).
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012, Gymnasium declares it so

    def __init__(self, door: int | float = 0.0, openings: Sequence[Sequence[int]] = ()) -> None:
        if not 0.0 <= door <= 1.0:
            raise Mistake(f"door={door} must lie between 0, shut, and 1, open")
        if any(len(spell) != 2 or not 0 <= spell[0] < spell[1] for spell in openings):
            raise Mistake(
                f"openings={[list(spell) for spell in openings]} must be pairs of steps "
                "[first, end] with 0 <= first < end"
            )
        self.observation_space = spaces.Box(*_COVERED, (1,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.door, self.openings = door, [tuple(spell) for spell in openings]
        # Numbers and arrays, which `envs.snapshot` takes for state.
        self._obs, self._elapsed_steps = np.zeros(1, np.float32), 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        start = self.np_random.uniform(*STARTS, 1)
        self._obs, self._elapsed_steps = start.astype(np.float32), 0
        return self._obs.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        power = torch.as_tensor(action, dtype=torch.float32)
        is_open = any(first <= self._elapsed_steps < end for first, end in self.openings)
        door = 1.0 if is_open else self.door
        expected, _, ended = dynamics(torch.from_numpy(self._obs), power, door)
        self._elapsed_steps += 1
        after = expected + float(self.np_random.normal(0.0, NOISE))
        reward, self._obs = reward_of(after), after.numpy()
        return self._obs.copy(), reward.item(), bool(ended), False, {}
