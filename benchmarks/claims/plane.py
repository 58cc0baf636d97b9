"""What claims about `envs/edge_of_reach.py` share: networks, starts, and what is attainable."""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from reverie import datasets
from reverie.agents.sac import SAC
from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition

NETWORK = {
    "hidden": [64, 64],
    "actor_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "temperature_learning_rate": 1e-3,
    "tau": 0.03,  # shortens the experiment; 0.005 shows the same growth six times later
}
SCALE = 5.0
START_STATES = 2_000
CEILING = 100.0
"""No true value on the plane exceeds 1 / (1 - 0.99): rewards are at most 1."""
CONTROLLER_RETURN = 26.8


class OfThePlane(SAC):
    """An agent whose networks see positions divided by `SCALE`, so that they are of order one."""

    def act(
        self, obs: Float[Tensor, "S B D"], deterministic: bool = False
    ) -> Float[Tensor, "S B A"]:
        return super().act(obs / SCALE, deterministic)

    def values(
        self, obs: Float[Tensor, "S B D"], action: Float[Tensor, "S B A"]
    ) -> Float[Tensor, "S N B"]:
        return super().values(obs / SCALE, action)

    def update(self, batch: Transition) -> dict[str, Float[Tensor, " S"]]:
        return super().update(
            replace(batch, obs=batch.obs / SCALE, next_obs=batch.next_obs / SCALE)
        )


def start_states(seed: int) -> Dataset:
    """Steps from the start box only: where rollouts begin, and nothing to learn from."""
    return datasets.load("builtin/edge-of-reach", episodes=START_STATES, episode_steps=1, seed=seed)
