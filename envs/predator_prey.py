"""Predator-prey dynamics: random counts of both, controlled by removing predators.

A stochastic birth-death process of the Lotka-Volterra kind with logistic prey and immigration of
predators. Each control step removes a whole number of predators, 0 to 5, to keep both counts near a
steady state that is not an equilibrium without control, and without oscillations.

After the predator-prey task of "Control of medical digital twins with artificial neural networks",
arXiv:2403.13851. Differs: that one is an agent-based model on a grid, and its numbers are not
public; this one is well mixed, with numbers of our own.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

ENV_ID = "ReveriePredatorPrey-v0"
EPISODE_STEPS = 100
TARGET = (110.0, 32.0)
"""Prey and predators that the reward asks for; 2.6 culled a step hold them, but for chance."""
MOST = 5
"""Predators that can be culled in a step."""
STARTS = ((60, 220), (10, 70))
"""Least and most prey and predators of a start."""

_SUBSTEPS = 10
_BIRTH = 0.3  # prey per prey and step, in an empty meadow
_CAPACITY = 300.0  # prey at which births and deaths of an undisturbed meadow balance
_HUNT = 0.006  # prey eaten per pair and step
_BREED = 0.002  # predators born per pair and step
_DEATH = 0.2  # predators that die per predator and step
_ARRIVALS = 2.0  # predators that wander in per step
_SCALES = (40.0, 16.0)  # deviations of prey and predators that cost 1
_EFFORT = 0.02  # cost of a culled predator


def reward_of(obs: Any, action: Any) -> Any:
    """-((x - 110) / 40)^2 - ((y - 32) / 16)^2 - 0.02 u, of what is seen before the step.

    Args:
        obs: `[*, 2]` prey x and predators y, array or tensor.
        action: `[*, 1]` predators u to be culled, in [0, 5].
    """
    prey, predators = ((obs[..., i] - TARGET[i]) / _SCALES[i] for i in (0, 1))
    return -(prey**2) - predators**2 - _EFFORT * action[..., 0]


def rates(prey: Any, predators: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Events per step: prey born, starved and eaten; predators born or wandered in, and dead.

    0.3 x,  0.3 x^2 / 300,  0.006 x y,  0.002 x y + 2,  0.2 y
    """
    pairs = prey * predators
    crowded = _BIRTH / _CAPACITY * prey**2
    joined = _BREED * pairs + _ARRIVALS
    return _BIRTH * prey, crowded, _HUNT * pairs, joined, _DEATH * predators


def controller(obs: Float[Tensor, "*lead 2"]) -> Float[Tensor, "*lead 1"]:
    """The expert: 2.6 predators, 0.6 more for each too many, as a whole number in [0, 5]."""
    wanted = 2.6 + 0.6 * (obs[..., 1] - TARGET[1])
    return wanted.round().clamp(0.0, float(MOST)).unsqueeze(-1)


class PredatorPrey(gymnasium.Env):
    """The process by tau-leaping in tenths of a step: observations `[prey, predators]`, counts.

    The action is rounded to a whole number, at most the number of predators. Never terminated:
    extinct prey stays extinct, at a cost.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012, Gymnasium declares it so

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0.0, np.inf, (2,), np.float32)
        self.action_space = spaces.Box(0.0, float(MOST), (1,), np.float32)
        # An array, which `envs.snapshot` takes for state.
        self._counts = np.zeros(2, np.int64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        low, high = zip(*STARTS, strict=True)
        self._counts = self.np_random.integers(low, high, endpoint=True)
        return self._counts.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        culled = np.rint(np.clip(np.asarray(action, np.float32), 0.0, float(MOST)))
        reward = float(reward_of(self._counts, culled))
        prey, predators = self._counts.tolist()
        predators = max(predators - int(culled[0]), 0)
        for _ in range(_SUBSTEPS):
            mean = np.array(rates(prey, predators)) / _SUBSTEPS
            born, starved, eaten, joined, died = self.np_random.poisson(mean).tolist()
            prey = max(prey + born - starved - eaten, 0)
            predators = max(predators + joined - died, 0)
        self._counts = np.array([prey, predators], np.int64)
        return self._counts.astype(np.float32), reward, False, False, {}
