"""Losses and targets as pure functions of tensors, one formula each."""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def bellman_target(
    reward: Float[Tensor, "S B"],
    terminated: Bool[Tensor, "S B"],
    next_value: Float[Tensor, "S B"],
    discount: float,
) -> Float[Tensor, "S B"]:
    """One-step target for Q-learning, y = r + discount (1 - terminated) V(s').

    Args:
        reward: environment units per control step, not normalised.
        terminated: true cuts the bootstrap. Time limits are false.
        next_value: value of `next_obs`, entropy term already subtracted.
        discount: per control step, in [0, 1].

    Source: SAC, arXiv:1812.05905, soft policy evaluation. Differs: none.
    """
    # where, not a product: 0 * inf is NaN, and a masked value must not matter at all.
    return reward + discount * torch.where(terminated, 0.0, next_value)


def squared_error(
    prediction: Float[Tensor, "S N B"], target: Float[Tensor, "S B"]
) -> Float[Tensor, " S"]:
    """Squared TD error, mean over rows and sum over the N critics, so that each critic moves as
    if it had an optimiser of its own."""
    return (prediction - target.unsqueeze(1)).square().mean(2).sum(1)


def gradient_similarity(gradient: Float[Tensor, "S N B A"]) -> Float[Tensor, " S"]:
    """How alike the critics' action gradients g_i are, mean over rows: N if all point the same way.

    ES = mean_b [ 1/(N-1) sum_{i != j} <u_i, u_j> ],  u_i = g_i / (|g_i| + 1e-10)

    The double sum is |sum_i u_i|^2 - sum_i |u_i|^2, so its cost grows with N and not with N^2.

    Args:
        gradient: grad_a Q_i(s, a), N of at least 2.

    Source: EDAC, arXiv:2110.01548, equation of the ensemble gradient diversification.
    """
    unit = gradient / (gradient.norm(dim=-1, keepdim=True) + 1e-10)
    pairs = unit.sum(1).square().sum(-1) - unit.square().sum((1, 3))  # [S, B]
    return pairs.mean(1) / (gradient.shape[1] - 1)


def tanh_normal_log_prob(
    noise: Float[Tensor, "*lead A"],
    log_std: Float[Tensor, "*lead A"],
    pre_tanh: Float[Tensor, "*lead A"],
) -> Float[Tensor, "*lead"]:
    """Log density of a = tanh(u), u = mean + std * noise, summed over action dimensions.

    Source: SAC, arXiv:1812.05905, appendix C. Differs: log(1 - tanh(u)^2) is written as
    2 (log 2 - u - softplus(-2u)), which is exact where the usual `+ 1e-6` saturates.
    """
    normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    squash = 2 * (math.log(2) - pre_tanh - F.softplus(-2 * pre_tanh))
    return (normal - squash).sum(-1)


@torch.no_grad()
def polyak_(targets: Iterable[Tensor], online: Iterable[Tensor], rate: float) -> None:
    """Move target weights towards the online ones: target += rate (online - target)."""
    torch._foreach_lerp_(list(targets), list(online), rate)
