"""Floating-point operations of the matrix products alone, counted by hand.

An affine layer of `in` inputs and `out` outputs multiplies and adds in * out times per row: 2 in
out operations forward, as many again for the gradient of its weights, and as many again for the
gradient of its inputs. Each is counted only where the algorithm needs it: data needs no
gradient, so a first layer passes none on, and critics that guide the actor pass gradients through
without any for their own weights. Activations, losses, optimisers and sampling count as nothing,
so the share of the matrix-product rate says how much of the machine the rest costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Products:
    """Operations per row of a stack of affine layers in each direction."""

    forward: int
    weights: int
    inputs: int
    first: int  # the part of `inputs` that passes the first layer

    @classmethod
    def of(cls, widths: Sequence[int]) -> "Products":
        """Of layers between consecutive widths."""
        each = [2 * widths[i] * widths[i + 1] for i in range(len(widths) - 1)]
        return cls(sum(each), sum(each), sum(each), each[0])

    @property
    def training(self) -> int:
        """Forward and backward on data."""
        return self.forward + self.weights + self.inputs - self.first


def sac_update(
    *, obs_dim: int, action_dim: int, hidden: Sequence[int], critics: int, batch: int
) -> int:
    """One update of one agent.

    Target: actor and target critics forward. Critics: training on data. Actor: training on data,
    with the critics forward and backward to their inputs in between.
    """
    actor = Products.of([obs_dim, *hidden, 2 * action_dim])
    critic = Products.of([obs_dim + action_dim, *hidden, 1])
    target = actor.forward + critics * critic.forward
    guided = actor.training + critics * (critic.forward + critic.inputs)
    return batch * (target + critics * critic.training + guided)


def ensemble_row(*, obs_dim: int, action_dim: int, hidden: Sequence[int]) -> int:
    """Training one member on one row: two outputs for each observation dimension and the reward."""
    return Products.of([obs_dim + action_dim, *hidden, 2 * (obs_dim + 1)]).training


def rollout_step(
    *,
    obs_dim: int,
    action_dim: int,
    policy_hidden: Sequence[int],
    model_hidden: Sequence[int],
    members: int,
) -> int:
    """One imagined transition: the policy once and every member once, for the penalty needs all."""
    policy = Products.of([obs_dim, *policy_hidden, 2 * action_dim])
    member = Products.of([obs_dim + action_dim, *model_hidden, 2 * (obs_dim + 1)])
    return policy.forward + members * member.forward
