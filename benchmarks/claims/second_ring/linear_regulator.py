"""A linear system with a quadratic cost, as a world model, and the cost of its best regulator."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.datasets.build import build
from reverie.datasets.dataset import Dataset
from reverie.envs.specs import Spec
from reverie.world_models.base import FitProgress, Step, WorldModel

STEP = 0.2
_ROUNDS = 400  # of the Riccati equation


class LinearSystem(WorldModel):
    """Two masses on a line, pushed one each: s' = A s + B a, r = -(|s|^2 + |a|^2 / 2).

    s holds two positions and two velocities; a spring joins the masses.
    """

    of_obs: Tensor
    of_action: Tensor

    def __init__(self) -> None:
        super().__init__()
        spring = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
        above = torch.cat([torch.eye(2), STEP * torch.eye(2)], 1)
        below = torch.cat([STEP * spring, torch.eye(2)], 1)
        self.register_buffer("of_obs", torch.cat([above, below]))
        self.register_buffer("of_action", torch.cat([torch.zeros(2, 2), STEP * torch.eye(2)]))
        self.spec = Spec(
            env_id=None, obs_dim=4, action_dim=2, action_low=(-1.0, -1.0), action_high=(1.0, 1.0)
        )

    def fit(self, data: Dataset, progress: FitProgress | None = None) -> dict[str, Any]:
        return {}

    def signature(self) -> dict[str, Any]:
        return {"model": type(self).__name__}

    def step(
        self, obs: Tensor, action: Tensor, candidates: int = 1, state: Tensor | None = None
    ) -> Step:
        after = obs @ self.of_obs.T + action @ self.of_action.T
        reward = -obs.square().sum(-1) - action.square().sum(-1) / 2
        ended = torch.zeros_like(reward, dtype=torch.bool)
        return Step(after[None], reward[None], ended[None], torch.zeros_like(reward))

    def drawn(self, rows: int) -> Dataset:
        """Single steps from states so small that the best actions stay within their box."""
        random = torch.Generator().manual_seed(0)
        obs = 0.1 * torch.randn(rows, 4, generator=random)
        action = 2 * torch.rand(rows, 2, generator=random) - 1
        step = self.step(obs, action)
        return build(
            name="linear",
            spec=self.spec,
            obs=obs.numpy(),
            action=action.numpy(),
            reward=step.reward[0].numpy(),
            next_obs=step.next_obs[0].numpy(),
            terminated=step.terminated[0].numpy(),
            truncated=torch.ones(rows, dtype=torch.bool).numpy(),
            reference=None,
            origin={},
            clip_actions=False,
        )


def optimal_cost(
    system: LinearSystem, obs: Float[Tensor, "*lead 4"], discount: float
) -> Float[Tensor, "*lead"]:
    """s' P s with P of the discounted Riccati equation, iterated until it stands."""
    a, b = system.of_obs.double(), system.of_action.double()
    p = own = torch.eye(4, dtype=torch.float64)
    effort = torch.eye(2, dtype=torch.float64) / 2
    for _ in range(_ROUNDS):
        gain = torch.linalg.solve(effort + discount * b.T @ p @ b, discount * b.T @ p @ a)
        closed = a - b @ gain
        p = own + gain.T @ effort @ gain + discount * closed.T @ p @ closed
    state = obs.double()
    return torch.einsum("...d,de,...e->...", state, p, state).float()
