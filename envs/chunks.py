"""Action chunks in an environment: the actions of several control steps, decided at once."""

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from reverie.envs.specs import Spec

TAKEN = "chunk_steps"
"""Where `info` tells how many control steps of a chunk were taken."""


class PlayedChunks(gymnasium.Wrapper):
    """Executes the actions of a chunk one after the other, until the episode ends.

    The reward is that of chunks in a dataset: the sum of the rewards of its control steps,
    discounted within the chunk.

    Args:
        env: takes flat actions in [-1, 1], one a control step.
        spec: of the task with chunks.
    """

    def __init__(self, env: gymnasium.Env, spec: Spec) -> None:
        super().__init__(env)
        self.action_space = spaces.Box(-1.0, 1.0, (spec.action_dim,), np.float32)
        self._steps, self._discount = spec.chunk, spec.chunk_discount

    def step(self, action):
        total, taken = 0.0, 0
        for each in np.reshape(action, (self._steps, -1)):
            obs, reward, terminated, truncated, info = self.env.step(each)
            total += self._discount**taken * float(reward)
            taken += 1
            if terminated or truncated:
                break
        return obs, total, terminated, truncated, {**info, TAKEN: taken}


class OneAtATime:
    """Turns a policy of chunks into one of control steps: executes a chunk's actions in turn.

    One object for one episode of each copy that acts, all from the first step on.

    Args:
        spec: of the task with chunks.
        policy: from observations `[S, P, D]` to chunks `[S, P, N A]`.
    """

    def __init__(self, spec: Spec, policy) -> None:
        self._steps, self._policy = spec.chunk, policy
        self._waiting: list[Tensor] = []

    def __call__(self, obs: Float[Tensor, "S P D"]) -> Float[Tensor, "S P A"]:
        if not self._waiting:
            chunk = self._policy(obs)
            self._waiting = [*chunk.unflatten(-1, (self._steps, -1)).unbind(-2)]
        return self._waiting.pop(0)
