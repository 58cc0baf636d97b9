"""A pipeline: what is let in at its gate arrives at its far end 20 steps later, to follow a target.

The task Pipeline of NeoRL-2 (arXiv:2503.19267), in code of our own. An observation holds its own
history, so only the jumps of the target are unknown.
"""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from reverie.envs.specs import later

ENV_ID = "ReveriePipeline-v0"
EPISODE_STEPS = 1000
DELAY = 20
"""Cells of the pipe; the flow moves on by one a step."""
HISTORY = 25
"""Earlier flows, and earlier actions, in an observation."""
OBS_NAMES = (
    "flow",
    "target",
    *(later("flow", -step) for step in range(1, HISTORY + 1)),
    *(later("gate", -step) for step in range(1, HISTORY + 1)),
)
ACTION_NAMES = ("gate",)
LARGEST_FLOW = 200.0
TARGETS = (50.0, 80.0, 110.0, 140.0)

_STARTS = (80.0, 120.0)
_CHANGE = 0.003  # probability per step of a target drawn anew


def reward_of(next_obs: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead"]:
    """((200 - |flow' - target'|) / 100)^2 - 3."""
    error = (next_obs[..., 0] - next_obs[..., 1]).abs()
    return (0.01 * (LARGEST_FLOW - error)).square() - 3.0


class Pipeline(gymnasium.Env):
    """The flow at the far end follows the gate, which an action opens by at most 1 a step.

    Each step: the target may jump; gate' = clip(gate + a, 0, 200) enters the pipe, all cells move
    on by one, and the last one is the flow that is seen. All cells start alike, between 80 and 120.
    Never terminated.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012, Gymnasium declares it so

    def __init__(self) -> None:
        box = np.repeat([LARGEST_FLOW, 1.0], [2 + HISTORY, HISTORY]).astype(np.float32)
        low = np.where(box > 1.0, 0.0, -1.0).astype(np.float32)
        self.observation_space = spaces.Box(low, box, dtype=np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        # Numbers and arrays, which `envs.snapshot` takes for state; newest first.
        self._target = TARGETS[0]
        self._cells, self._flows = np.zeros(DELAY), np.zeros(HISTORY + 1)
        self._actions = np.zeros(HISTORY)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        start = self.np_random.uniform(*_STARTS)
        self._cells, self._flows = np.full(DELAY, start), np.full(HISTORY + 1, start)
        self._actions = np.zeros(HISTORY)
        self._target = float(self.np_random.choice(TARGETS))
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self.np_random.random() < _CHANGE:
            self._target = float(self.np_random.choice(TARGETS))
        opened = float(np.clip(np.asarray(action, np.float64).reshape(-1)[0], -1.0, 1.0))
        gate = np.clip(self._cells[0] + opened, 0.0, LARGEST_FLOW)
        self._cells = np.append(gate, self._cells[:-1])
        self._flows = np.append(self._cells[-1], self._flows[:-1])
        self._actions = np.append(opened, self._actions[:-1])
        obs = self._observe()
        return obs, reward_of(torch.from_numpy(obs)).item(), False, False, {}

    def _observe(self) -> np.ndarray:
        flow, *earlier = self._flows
        return np.array([flow, self._target, *earlier, *self._actions], np.float32)
