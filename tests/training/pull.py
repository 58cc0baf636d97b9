"""A task outside of MuJoCo for tests of collections: pull to the right; the left end is a fall."""

import gymnasium
import numpy as np
from gymnasium import spaces

LIMIT = 8


class Pull(gymnasium.Env):
    """Position follows the force; the reward is the force as a share of the most."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-3.0, 3.0, (1,), np.float64)
        self.action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)
        self.position = 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = float(self.np_random.uniform(-1.0, 1.0))
        return np.array([self.position]), {}

    def step(self, action):
        force = float(action[0])
        self.position = 0.9 * self.position + 0.2 * force
        return np.array([self.position]), force / 2, self.position < -0.6, False, {}


class Hidden(Pull):
    """The same with a state that no attribute of its own shows."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = [0.0]

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        self.kept[0] = self.position
        return obs, info

    def step(self, action):
        self.position = self.kept[0]
        result = super().step(action)
        self.kept[0] = self.position
        return result


for name, task in (("Pull-v0", Pull), ("Hidden-v0", Hidden)):
    if name not in gymnasium.registry:
        gymnasium.register(name, entry_point=task, max_episode_steps=LIMIT)
