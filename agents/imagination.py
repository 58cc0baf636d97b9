"""Imagined rollouts through which gradients flow, for agents that differentiate a world model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reverie.mistake import Mistake
from reverie.world_models.base import Policy, WorldModel


@dataclass(frozen=True)
class Imagined:
    """Rollouts of H steps through T = H + 1 states.

    Attributes:
        obs: `[S, T, B, D]` raw units.
        actions: `[S, B, A]` of each state, on which all later states depend.
        reward: `[S, H, B]` environment units.
        uncertainty: `[S, H, B]` of the model about each step, in its own units.
        alive: `[S, T, B]` whether no earlier step has terminated; rollouts continue regardless.
        inside: `[S, H, B]` whether the model's prediction is valid. After a step that leaves its
            domain (equations and their box) or diverges, the state stays unchanged.
    """

    obs: Float[Tensor, "S T B D"]
    actions: list[Tensor]
    reward: Float[Tensor, "S H B"]
    uncertainty: Float[Tensor, "S H B"]
    alive: Bool[Tensor, "S T B"]
    inside: Bool[Tensor, "S H B"]

    def detach(self) -> "Imagined":
        """The same without gradients."""
        return replace(
            self,
            obs=self.obs.detach(),
            actions=[action.detach() for action in self.actions],
            reward=self.reward.detach(),
            uncertainty=self.uncertainty.detach(),
        )


Imagine = Callable[[Policy, Tensor, Sequence[float]], Imagined]
"""`(policy, starts [S, B, D], flow [H])`, differentiable in every action and state.

The gradient that goes back through step i is multiplied by `flow[i]`, and is 0 through one that
terminates: so a sum over steps has, in the action of step i, the gradient of a sum from i on in
which what comes later is discounted by `flow`.
"""


def imagination_of(model: WorldModel | None, agent: str, *, expected: bool = False) -> Imagine:
    """How a model imagines, as a function, so that the model is no part of an agent's state.

    Args:
        agent: its name, for the message.
        expected: steps are what the model expects (of an ensemble the mean of its elites), in the
            place of samples.

    Raises:
        Mistake: no model, or one whose steps have no gradients.
    """
    if model is None or not model.differentiable:
        found = "there is none" if model is None else f"{type(model).__name__} has none"
        raise Mistake(
            f"agent={agent} learns from gradients of a world model, but {found}; choose "
            "world_model=ensemble"
        )

    def imagine(policy: Policy, starts: Tensor, flow: Sequence[float]) -> Imagined:
        obs, state = starts, model.begin(starts)
        alive = torch.ones_like(starts[..., 0], dtype=torch.bool)
        visited, actions, reached = [obs], [policy(obs)], [alive]
        rewards, uncertainties, known = [], [], []
        for share in flow:
            step = model.advance(obs, actions[-1], 1, state, expected=expected)
            inside = step.next_obs[0].isfinite().all(-1)
            alive = alive & ~(step.terminated[0] & inside)
            # What is not finite would make every gradient NaN, even one that is multiplied by 0.
            after = torch.where(inside.unsqueeze(-1), step.next_obs[0], obs)
            obs = scale_gradient(after, torch.where(alive, share, 0.0).unsqueeze(-1))
            state = None if step.state is None else step.state[0]
            visited.append(obs)
            actions.append(policy(obs))
            rewards.append(step.reward[0])
            uncertainties.append(step.uncertainty)
            reached.append(alive)
            known.append(inside)
        rows = (visited, rewards, uncertainties, reached, known)
        obs, reward, uncertainty, alive, inside = (torch.stack(each, 1) for each in rows)
        return Imagined(obs, actions, reward, uncertainty, alive, inside)

    return imagine


def scale_gradient(x: Tensor, scale: Tensor) -> Tensor:
    """x, whose gradient is multiplied by `scale` on its way back."""
    fixed = x.detach()
    return fixed + scale * (x - fixed)
