"""A plane on which short rollouts end in states that are never trained.

Rollouts of k steps from the start box enter the replay as next states up to extent `2 + k`, but as
states only up to `2 + k - 1`. With k = `HORIZON` the penalty lies beyond that:
the reward increases outwards, and decreases steeply from the edge on.

After the two-dimensional example of RAVL, arXiv:2402.12527, section on the edge-of-reach problem.
Differs: the paper's reward is not public; this one was built so that the plain procedure fails.
"""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float
from torch import Tensor

from reverie.envs.controllers import walk_straight

ENV_ID = "ReverieEdgeOfReach-v0"
EPISODE_STEPS = 30
START_HALF_WIDTH = 2.0
HORIZON = 10
"""Steps of the rollouts for which the reward was laid out."""
HILL = (-4.2, -4.2)
"""The good place: a reward of 1 for ever."""

_HILL_SPREAD = 8.0  # twice the variance of the bump
_LURE_LENGTH = 22.0  # the lure reaches 1 at the corner (11, 11) of what rollouts show
_FALL = 2.0  # reward lost per unit of extent beyond the reach
# Steps after which `controller_value` takes the controller to stand on the hill.
_LONGEST_WALK = 64


def extent(obs: Float[Tensor, "*lead 2"]) -> Float[Tensor, "*lead"]:
    """max(|x|, |y|), the distance in which one step covers at most 1."""
    return obs.abs().amax(-1)


def reach(horizon: int) -> float:
    """Greatest extent that is the state, not only the next state, of some rollout's row."""
    return START_HALF_WIDTH + horizon - 1


def edge_of_reach(obs: Float[Tensor, "*lead 2"], horizon: int) -> Bool[Tensor, "*lead"]:
    """Which states rollouts of `horizon` steps from the start box meet as next states only."""
    return extent(obs) > reach(horizon)


def dynamics(
    obs: Float[Tensor, "*lead 2"], action: Float[Tensor, "*lead 2"]
) -> tuple[Float[Tensor, "*lead 2"], Float[Tensor, "*lead"], Bool[Tensor, "*lead"]]:
    """Next observation, reward and termination, exactly what the environment does.

        s' = s + a
        r(s) = exp(-|s - hill|^2 / 8) + clip((x + y) / 22, 0, 1) - 2 max(0, extent(s) - 11)

    The reward is that of the current state, so no rollout of ten steps sees that of an edge state.
    Nothing terminates. The reward never exceeds 1, so no value exceeds 1 / (1 - discount).

    Args:
        obs: position.
        action: step, clipped to [-1, 1].
    """
    hill = torch.exp(-(obs - obs.new_tensor(HILL)).square().sum(-1) / _HILL_SPREAD)
    lure = (obs.sum(-1) / _LURE_LENGTH).clamp(0.0, 1.0)
    fall = _FALL * (extent(obs) - reach(HORIZON)).clamp(min=0.0)
    ended = torch.zeros(obs.shape[:-1], dtype=torch.bool, device=obs.device)
    return obs + action.clamp(-1.0, 1.0), hill + lure - fall, ended


def controller(obs: Float[Tensor, "*lead 2"]) -> Float[Tensor, "*lead 2"]:
    """The expert: straight to the hill, and stay."""
    return walk_straight(obs, HILL)


def controller_value(obs: Float[Tensor, "*lead 2"], discount: float) -> Float[Tensor, "*lead"]:
    """Discounted return of `controller` for ever after, the truth that an oracle patch gives.

    Args:
        obs: position, no farther than 60 from the origin, so that the walk ends within the rollout.
        discount: per control step, below 1.
    """
    value = torch.zeros_like(obs[..., 0])
    for step in range(_LONGEST_WALK):
        next_obs, reward, _ = dynamics(obs, controller(obs))
        value = value + discount**step * reward
        obs = next_obs
    _, reward, _ = dynamics(obs, controller(obs))
    return value + discount**_LONGEST_WALK / (1 - discount) * reward


class EdgeOfReach(gymnasium.Env):
    """`dynamics` from uniform starts in [-2, 2]^2; unbounded, never terminated."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012, Gymnasium declares it so

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        # An array, which `envs.snapshot` takes for state.
        self._obs = np.zeros(2, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        start = self.np_random.uniform(-START_HALF_WIDTH, START_HALF_WIDTH, 2)
        self._obs = start.astype(np.float32)
        return self._obs.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        step = torch.as_tensor(action, dtype=torch.float32)
        after, reward, ended = dynamics(torch.from_numpy(self._obs), step)
        self._obs = after.numpy()
        return self._obs.copy(), reward.item(), bool(ended), False, {}
