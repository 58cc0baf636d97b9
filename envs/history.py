"""Histories in an environment: observations stacked with earlier ones and past actions."""

import gymnasium
import numpy as np
from gymnasium import spaces

from reverie.envs.specs import Spec


class WithHistory(gymnasium.Wrapper):
    """Gives [o_t, o_{t-1}, .., a_{t-1}, a_{t-2}, ..], as `datasets.transforms.history.stack` does.

    After a reset the first observation replaces earlier ones, and zero replaces past actions, which
    are in [-1, 1] as executed by the environment.

    Args:
        env: gives flat observations and takes flat actions in [-1, 1].
        spec: of the task with histories.
    """

    def __init__(self, env: gymnasium.Env, spec: Spec) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(-np.inf, np.inf, (spec.obs_dim,), np.float32)
        self._seen = np.zeros((spec.stacked_obs, spec.newest_dim), np.float32)
        self._done = np.zeros((spec.stacked_actions, spec.action_dim), np.float32)

    def reset(self, *, seed=None, options=None):
        obs, info = self.env.reset(seed=seed, options=options)
        self._seen[:], self._done[:] = obs, 0.0
        return self._history(), info

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        for held, newest in (
            (self._seen, obs),
            (self._done, np.clip(np.asarray(action, np.float32), -1.0, 1.0)),
        ):
            if len(held):
                held[1:] = held[:-1].copy()
                held[0] = newest
        return self._history(), reward, terminated, truncated, info

    def _history(self) -> np.ndarray:
        return np.concatenate([self._seen.ravel(), self._done.ravel()])
