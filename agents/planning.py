"""No agent: a planner in a fitted world model acts, and only the model is learned."""

from typing import NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.agents.base import Agent
from reverie.agents.layers import Layer
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.world_models.base import Plans, Policy

AT_ONCE = 256
"""States that are planned for at once, each with all its plans, so that memory is bounded."""


class Planning(Agent):
    """Takes the place of a run's agent and acts by the run's planner.

    In episodes (`begin`) each plan starts from the last one. A single state (`act`) is planned for
    from scratch, always with the same random numbers, so that its action is a function of it.

    Args:
        spec, seeds: see `Agent`.
        updates: of the run, 0.
    """

    plans = True
    empty: Tensor

    def __init__(self, *, spec: Spec, seeds: int, updates: int) -> None:
        super().__init__(spec=spec, seeds=seeds)
        if updates:
            raise Mistake(f"agent=none learns nothing in updates={updates}; set updates=0")
        self.planner: Plans | None = None
        self.register_buffer("empty", torch.zeros(0), persistent=False)  # where it is

    def plan_by(self, planner: Plans) -> None:
        """Take the planner, whose model may be fitted later and is no part of `state_dict`."""
        self.planner, self.discount = planner, planner.discount

    def act(
        self, obs: Float[Tensor, "S B D"], deterministic: bool = False
    ) -> Float[Tensor, "S B A"]:
        planner = self._ready()

        def first(some: Tensor) -> Tensor:
            torch.manual_seed(0)
            return planner.plan(some, alike=True)[..., 0, :]

        devices = [obs.device] if obs.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():
            return torch.cat([first(some) for some in obs.split(AT_ONCE, 1)], 1)

    def begin(self) -> Policy:
        return self._ready().restart()

    def moments(
        self, obs: Float[Tensor, "S B D"]
    ) -> tuple[Float[Tensor, "S B A"], Float[Tensor, "S B A"] | None]:
        return self.act(obs, deterministic=True), None

    def policy_layers(self, seed: int) -> list[Layer]:
        raise Mistake(
            "a run of agent=none has no policy network to export, it plans in its world model; "
            "export the model with what=world_model, or train an agent"
        )

    def update(self, batch: Transition) -> NoReturn:
        raise RuntimeError("a planner learns nothing; its run has updates=0")

    def _ready(self) -> Plans:
        if self.planner is None:
            raise RuntimeError("agent=none acts by a planner; call plan_by first")
        return self.planner
