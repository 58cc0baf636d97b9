"""Losses and targets as pure functions of tensors, one formula each."""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

VALUE_FLOOR = 1e-7
"""Added to mean |Q| before dividing by it, as in the code of policy-guided diffusion."""


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


def sum_bounds(low: float, high: float, steps: int | float, ends: bool) -> tuple[float, float]:
    """The least and the most that the rewards of an episode come to, each between two bounds.

    Args:
        low, high: of a reward.
        steps: of an episode, or 1 / (1 - discount) for a discounted sum without end.
        ends: whether a task may terminate earlier, after one step at least. Where it never does,
            costs are paid at every step.
    """
    least = low * steps if low < 0 or not ends else low
    most = high * steps if high > 0 or not ends else high
    return least, most


def settled_share(updates: int, tau: float, discount: float) -> float:
    """Share of a constant error that targets lose: 1 - (1 - tau (1 - discount))^updates.

    Args:
        updates: of the target networks, each a Polyak step of `tau`.
        discount: per control step, in [0, 1].
    """
    return 1 - (1 - tau * (1 - discount)) ** updates


def squared_error(
    prediction: Float[Tensor, "S N B"], target: Float[Tensor, "S B"]
) -> Float[Tensor, " S"]:
    """Squared TD error, mean over rows and sum over the N critics, so that each critic moves as
    if it had an optimiser of its own."""
    return (prediction - target.unsqueeze(1)).square().mean(2).sum(1)


def huber_error(
    prediction: Float[Tensor, "S N B"], target: Float[Tensor, "S B"], threshold: float
) -> Float[Tensor, " S"]:
    """Huber's TD error, mean over rows and sum over the N critics: d^2 up to the threshold t, then
    t (2 |d| - t), so that its gradient grows no further. Without a bound it is `squared_error`."""
    size = (prediction - target.unsqueeze(1)).abs()
    inside = size.clamp(max=threshold)
    return (inside * (2 * size - inside)).mean(2).sum(1)


def critic_metrics(
    loss: Float[Tensor, " S"],
    penalty: Float[Tensor, " S"] | float,
    prediction: Float[Tensor, "S N B"],
    target: Float[Tensor, "S B"],
) -> dict[str, Float[Tensor, " S"]]:
    """What every step of critics reports, see the guide; no gradient.

    Args:
        loss: without the penalty.
        penalty: of a regulariser; a plain number, which says that there is none, is not reported.
        prediction: Q_1..Q_N(s, a) of the batch.
        target: y.
    """
    prediction = prediction.detach()
    metrics = {
        "critic_loss": loss.detach(),
        "value": prediction.mean((1, 2)),
        "critic_spread": prediction.std(1, correction=0).mean(1),
        "target": target.mean(1),
    }
    return metrics | ({"regularisation": penalty.detach()} if torch.is_tensor(penalty) else {})


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


def expectile_loss(
    difference: Float[Tensor, "S B"], expectile: float | Float[Tensor, "S 1"]
) -> Float[Tensor, " S"]:
    """Mean over rows of `expectile_error`."""
    return expectile_error(difference, expectile).mean(1)


def expectile_error(
    difference: Float[Tensor, "S B"], expectile: float | Float[Tensor, "S 1"]
) -> Float[Tensor, "S B"]:
    """Asymmetric squares |tau - 1(u < 0)| u^2 of u = target - prediction.

    The prediction with the least mean is the tau-expectile of the targets: their mean at 0.5,
    their maximum as tau goes to 1.

    Source: IQL, arXiv:2110.06169, equation of the expectile regression. Differs: none.
    """
    weight = torch.where(difference < 0, 1 - expectile, expectile)
    return weight * difference.square()


def rollout_returns(
    rewards: Float[Tensor, "S H B"],
    last: Float[Tensor, "S B"],
    alive: Bool[Tensor, "S T B"],
    discount: float,
) -> Float[Tensor, "S T B"]:
    """G_t, the discounted sum of an imagined rollout from step t on, with the value of its end.

    G_H = m_H V(s_H),  G_t = m_t r_t + discount G_{t+1},  m_t = 1 until a step terminates

    Args:
        rewards: r_0..r_{H-1}.
        last: V(s_H).
        alive: m_0..m_H of the T = H + 1 states.
        discount: per step.

    Source: SVG, arXiv:1510.09142, the return of H steps. Differs: none.
    """
    found = [torch.where(alive[:, -1], last, 0.0)]
    for t in reversed(range(rewards.shape[1])):
        found.append(torch.where(alive[:, t], rewards[:, t], 0.0) + discount * found[-1])
    return torch.stack(found[::-1], 1)


def lambda_returns(
    values: Float[Tensor, "S T B"],
    rewards: Float[Tensor, "S H B"],
    alive: Bool[Tensor, "S T B"],
    discount: float,
    decay: float,
) -> Float[Tensor, "S T B"]:
    """G_i, the mean of the 0 to H-i step returns from step i on, weighted by powers of lambda.

    G_H = Q_H,  G_i = (1 - w_i) Q_i + w_i (r_i + discount G_{i+1}), where w_i grows with the steps
    that are left, so that the k-step return weighs lambda^k / sum_j lambda^j.

    Args:
        values: Q_0..Q_H of the T = H + 1 states and actions of imagined rollouts.
        rewards: r_0..r_{H-1}, between them.
        alive: whether step i is reached, before a termination; the first one is. What is not
            reached adds nothing to the returns before it.
        discount: per step.
        decay: lambda, in [0, 1]: 0 leaves Q_i, 1 is the plain mean.

    Source: LEQ, arXiv:2407.00699, its lambda-returns. Differs: none.
    """
    terms = lambda_terms(values, rewards, alive, decay)
    returns = [terms[:, -1]]
    for step, weight in reversed(list(enumerate(lambda_weights(rewards.shape[1], decay)))):
        # where, not a product: what is behind an end must not matter at all.
        following = torch.where(alive[:, step + 1], returns[-1], 0.0)
        returns.append(terms[:, step] + discount * weight * following)
    return torch.stack(returns[::-1], 1)


def lambda_terms(
    values: Float[Tensor, "S T B"],
    rewards: Float[Tensor, "S H B"],
    alive: Bool[Tensor, "S T B"],
    decay: float,
) -> Float[Tensor, "S T B"]:
    """(1 - w_i) Q_i + w_i r_i, what each step of `lambda_returns` adds; Q_H at the last one."""
    terms = [
        (1 - weight) * values[:, step] + weight * torch.where(alive[:, step], rewards[:, step], 0.0)
        for step, weight in enumerate(lambda_weights(rewards.shape[1], decay))
    ]
    return torch.stack([*terms, values[:, -1]], 1)


def lambda_weights(horizon: int, decay: float) -> list[float]:
    """w_0..w_{H-1} of `lambda_returns`: the share that all returns of 1 and more steps have."""
    counts = [1.0]  # sum_{k <= steps left} lambda^k
    for _ in range(horizon):
        counts.append(1 + decay * counts[-1])
    return [1 - 1 / count for count in counts[:0:-1]]


def sparse_error(
    target: Float[Tensor, "S B"], value: Float[Tensor, "S B"], sparsity: float
) -> Float[Tensor, "S B"]:
    """max(0, 1 + (Q - V) / (2 alpha))^2 + V / alpha, Q = target.

    The value V with the least mean satisfies E[ max(0, 1 + (Q - V) / (2 alpha)) ] = 1: the mean of
    Q where alpha is large, and little more than the largest Q as it goes to 0, when targets far
    below V no longer count.

    Source: SQL, arXiv:2303.15810, its loss of the state value. Differs: none.
    """
    share = (1 + (target - value) / (2 * sparsity)).clamp(min=0)
    return share.square() + value / sparsity


def advantage_weight(
    advantage: Float[Tensor, "S B"],
    inverse_temperature: float | Float[Tensor, "S 1"],
    max_weight: float,
) -> Float[Tensor, "S B"]:
    """min(exp(beta A), max_weight), what a recorded action counts in a weighted imitation.

    Source: IQL, arXiv:2110.06169, policy extraction; the clip is its code's. Differs: none.
    """
    return (inverse_temperature * advantage).exp().clamp(max=max_weight)


def normal_log_prob(
    action: Float[Tensor, "*lead A"],
    mean: Float[Tensor, "*lead A"],
    log_std: Float[Tensor, "*#lead A"],
    taken: Bool[Tensor, "*lead A"] | None = None,
) -> Float[Tensor, "*lead"]:
    """Log density of a diagonal Gaussian, summed over action dimensions, or those `taken`."""
    noise = (action - mean) * (-log_std).exp()
    each = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    return (each if taken is None else torch.where(taken, each, 0.0)).sum(-1)


def gaussian_divergence(
    mean: Float[Tensor, "*lead"],
    log_std: Float[Tensor, "*lead"],
    other_mean: Float[Tensor, "*lead"],
    other_log_std: Float[Tensor, "*lead"],
) -> Float[Tensor, "*lead"]:
    """KL(N(m, s^2) || N(m', s'^2)) = ln(s'/s) + (s^2 + (m - m')^2) / (2 s'^2) - 1/2, in nats.

    Of two Gaussians behind one tanh it is the same. A mean far beyond the other's std gives a large
    number, and still a finite one.
    """
    precision = torch.exp(-2 * other_log_std)
    spread = torch.exp(2 * log_std) + (mean - other_mean).square()
    return other_log_std - log_std + (spread * precision - 1) / 2


def smooth_action(
    action: Float[Tensor, "S B A"],
    noise: Float[Tensor, "S B A"],
    std: float | Float[Tensor, "S 1 1"],
    limit: float,
) -> Float[Tensor, "S B A"]:
    """Target policy smoothing: clip(a + clip(std * noise, +-limit), +-1), noise standard normal.

    Source: TD3, arXiv:1802.09477, section 5.3. Differs: none.
    """
    return (action + (std * noise).clamp(-limit, limit)).clamp(-1, 1)


def inverse_value_scale(
    value: Float[Tensor, "S B"], weight: float | Float[Tensor, " S"]
) -> Float[Tensor, " S"]:
    """lambda = weight / mean |Q|, one per seed, without gradient: makes Q's unit irrelevant.

    Source: TD3+BC, arXiv:2106.06860, definition of lambda. Differs: a floor under the divisor.
    """
    return (value.detach().abs().mean(1) + VALUE_FLOOR).reciprocal() * weight


def conservative_gap(
    values: Float[Tensor, "S N B K"],
    log_density: Float[Tensor, "S B K"],
    recorded: Float[Tensor, "S N B"],
    is_real: Bool[Tensor, "S B"],
    softness: float,
    at: Bool[Tensor, "S B"] | None = None,
) -> Float[Tensor, "S N"]:
    """T mean_s log sum_k exp( (Q(s, a_k) - log q(a_k)) / T ) - mean_real Q(s, a), each critic.

    The first term is large where any action looks good; the second takes out what the data show.

    Args:
        values: Q of K sampled actions.
        log_density: log q of each, under what it was drawn from.
        recorded: Q of the batch's own actions.
        is_real: which of those were recorded; the others are not pushed up.
        softness: T.
        at: states of the first mean; None for all.

    Source: CQL, arXiv:2006.04779, CQL(H), as an importance-weighted sum; COMBO, arXiv:2102.08363,
    for batches that are partly synthetic. Differs: the constant log K is left out, as in their
    code.
    """
    pushed_down = softness * ((values - log_density.unsqueeze(1)) / softness).logsumexp(3)
    rows = is_real.sum(1).clamp(min=1).unsqueeze(1)
    pushed_up = torch.where(is_real.unsqueeze(1), recorded, 0.0).sum(2) / rows
    mean = pushed_down.mean(2) if at is None else masked_mean(pushed_down, at.unsqueeze(1))
    return mean - pushed_up


def masked_mean(values: Float[Tensor, "*lead B"], mask: Bool[Tensor, "*#lead B"]) -> Tensor:
    """Mean of the chosen rows, zero where none is chosen. `[*lead]`."""
    # where, not a product: what is not chosen may be anything, NaN included.
    return torch.where(mask, values, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)


def origin_loss(
    logits: Float[Tensor, "S B 2"], is_real: Bool[Tensor, "S B"]
) -> Float[Tensor, " S"]:
    """Cross-entropy of telling real rows (class 0) from simulated ones (class 1), both classes of
    equal weight: E_real[-log p_0] + E_sim[-log p_1]. Guessing scores 2 log 2.

    Source: DARC, arXiv:2006.13916, losses of its classifiers, as H2O's code weighs them.
    Differs: none.
    """
    log_probability = logits.log_softmax(-1)
    real = masked_mean(log_probability[..., 0], is_real)
    return -real - masked_mean(log_probability[..., 1], ~is_real)


def per_stream(weight: Float[Tensor, "S B"], is_real: Bool[Tensor, "S B"]) -> Float[Tensor, "S B"]:
    """Rescale weights of rows so that a mean over the batch becomes the mean over real rows plus
    the mean over simulated rows."""
    real = is_real.sum(1, keepdim=True)
    rows = torch.where(is_real, real, is_real.shape[1] - real)
    return weight * (is_real.shape[1] / rows)


def weighted_squared_error(
    prediction: Float[Tensor, "S N B"],
    target: Float[Tensor, "S B"],
    weight: Float[Tensor, "S B"],
) -> Float[Tensor, " S"]:
    """`squared_error` with a weight for every row; divided by the rows, not by their weights."""
    error = (prediction - target.unsqueeze(1)).square()
    return (weight.unsqueeze(1) * error).mean(2).sum(1)


def simulated_excess(
    values: Float[Tensor, "S N B"],
    gap: Float[Tensor, "S B"],
    is_real: Bool[Tensor, "S B"],
    soft_maximum: bool,
) -> Float[Tensor, "S N"]:
    """How far simulated rows of large dynamics gap are valued above real rows, each critic.

    log sum_sim omega exp(Q) - mean_real Q,  omega = u / sum_sim u;  without the soft maximum its
    first-order form sum_sim omega Q - mean_real Q. Zero for a batch without simulated rows.

    Args:
        values: Q of the batch.
        gap: u, positive; read at simulated rows only.
        is_real: which rows were recorded.
        soft_maximum: the log-sum-exp.

    Source: H2O, arXiv:2206.13464, value regularisation with the inner maximisation solved.
    Differs: none.
    """
    any_simulated = (~is_real).any(1, keepdim=True)
    # A batch of real rows alone keeps all of them, so that nothing is infinite on the way to 0.
    left_out = is_real & any_simulated
    log_gap = gap.log().masked_fill(left_out, -torch.inf)
    log_omega = log_gap.log_softmax(1).unsqueeze(1)
    if soft_maximum:
        simulated = (values + log_omega).logsumexp(2)
    else:
        simulated = torch.where(left_out.unsqueeze(1), 0.0, log_omega.exp() * values).sum(2)
    excess = simulated - masked_mean(values, is_real.unsqueeze(1))
    return torch.where(any_simulated, excess, 0.0)


def tanh_normal_log_prob(
    noise: Float[Tensor, "*lead A"],
    log_std: Float[Tensor, "*lead A"],
    pre_tanh: Float[Tensor, "*lead A"],
    taken: Bool[Tensor, "*lead A"] | None = None,
) -> Float[Tensor, "*lead"]:
    """Log density of a = tanh(u), u = mean + std * noise, summed over action dimensions.

    Only over those `taken`, where some of a chunk's were not.

    Source: SAC, arXiv:1812.05905, appendix C. Differs: log(1 - tanh(u)^2) is written as
    2 (log 2 - u - softplus(-2u)), which is exact where the usual `+ 1e-6` saturates.
    """
    normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    squash = 2 * (math.log(2) - pre_tanh - F.softplus(-2 * pre_tanh))
    each = normal - squash
    return (each if taken is None else torch.where(taken, each, 0.0)).sum(-1)


@torch.no_grad()
def polyak_(targets: Iterable[Tensor], online: Iterable[Tensor], rate: float) -> None:
    """Move target weights towards the online ones: target += rate (online - target)."""
    torch._foreach_lerp_(list(targets), list(online), rate)
