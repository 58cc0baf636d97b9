"""Tasks that are differential equations with a control input, stepped by Runge and Kutta's rule."""

from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

Slopes = Callable[..., tuple[Any, ...]]
"""From the parts of a state to their rates of change; numbers, arrays or tensors."""


def runge_kutta(slopes: Slopes, state: tuple[Any, ...], h: float) -> tuple[Any, ...]:
    """The parts of a state after the time h, by the classical rule of order 4."""

    def moved(by: float, rates: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(part + by * rate for part, rate in zip(state, rates, strict=True))

    one = slopes(*state)
    two = slopes(*moved(h / 2, one))
    three = slopes(*moved(h / 2, two))
    four = slopes(*moved(h, three))
    rates = zip(one, two, three, four, strict=True)
    return moved(h / 6, tuple(a + 2 * b + 2 * c + d for a, b, c, d in rates))


class ControlledFlow(gymnasium.Env):
    """A task that is its function of tensors, whose observation is its state. It never ends.

    Attributes:
        dynamics: `(obs [*, D], action [*, 1]) -> (next_obs, reward, terminated)`.
        obs_dim: D.
        limit: of the control input, in its own units.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012, Gymnasium declares it so
    dynamics: ClassVar[Callable[..., tuple[Tensor, Tensor, Tensor]]]
    obs_dim: ClassVar[int]
    limit: ClassVar[float]

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (self.obs_dim,), np.float32)
        self.action_space = spaces.Box(-self.limit, self.limit, (1,), np.float32)
        # An array, which `envs.snapshot` takes for state.
        self._obs = np.zeros(self.obs_dim, np.float32)

    def start(self) -> np.ndarray:
        """A start `[D]`, drawn from `np_random`."""
        raise NotImplementedError

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._obs = self.start().astype(np.float32)
        return self._obs.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        push = torch.as_tensor(action, dtype=torch.float32)
        after, reward, _ = type(self).dynamics(torch.from_numpy(self._obs), push)
        self._obs = after.numpy()
        return self._obs.copy(), reward.item(), False, False, {}
