"""Policies and critics, batched over seeds and over the critics of an ensemble."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from agents.losses import tanh_normal_log_prob
from world_models.networks import BatchedMLP


class TanhGaussianActor(nn.Module):
    """A squashed Gaussian policy for each seed: a = tanh(mean + std * noise).

    Args:
        seeds, obs_dim, action_dim: S, D, A.
        hidden: widths; mean and log-std are the two halves of the last layer's output.
        log_std_bounds: the log-std is clipped to this interval.

    Source: SAC, arXiv:1812.05905, appendix C.
    """

    def __init__(
        self,
        *,
        seeds: int,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        activation: str,
        log_std_bounds: Sequence[float],
    ) -> None:
        super().__init__()
        self.body = BatchedMLP((seeds,), obs_dim, hidden, 2 * action_dim, activation)
        self.log_std_bounds = tuple(log_std_bounds)

    def forward(
        self, obs: Float[Tensor, "S B D"]
    ) -> tuple[Float[Tensor, "S B A"], Float[Tensor, "S B A"]]:
        """Mean and log-std before the squashing."""
        mean, log_std = self.body(obs).chunk(2, -1)
        return mean, log_std.clamp(*self.log_std_bounds)

    def act(self, obs: Float[Tensor, "S B D"], deterministic: bool) -> Float[Tensor, "S B A"]:
        """The squashed mean, which evaluations use, or a sample without its density."""
        mean, log_std = self(obs)
        pre_tanh = mean if deterministic else mean + log_std.exp() * torch.randn_like(mean)
        return torch.tanh(pre_tanh)

    def sample(
        self, obs: Float[Tensor, "S B D"]
    ) -> tuple[Float[Tensor, "S B A"], Float[Tensor, "S B"]]:
        """A reparameterised action and its log density."""
        mean, log_std = self(obs)
        noise = torch.randn_like(mean)
        pre_tanh = mean + log_std.exp() * noise
        return torch.tanh(pre_tanh), tanh_normal_log_prob(noise, log_std, pre_tanh)


class Critics(nn.Module):
    """N action-value functions for each seed.

    Args:
        seeds, critics: S and N.
        obs_dim, action_dim: D, A.
        hidden, activation: architecture of every critic.
    """

    def __init__(
        self,
        *,
        seeds: int,
        critics: int,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        activation: str,
    ) -> None:
        super().__init__()
        if critics < 1:
            raise ValueError(f"critics must be at least 1, got {critics}")
        self.critics = critics
        self.body = BatchedMLP((seeds, critics), obs_dim + action_dim, hidden, 1, activation)

    def forward(
        self, obs: Float[Tensor, "S B D"], action: Float[Tensor, "S B A"]
    ) -> Float[Tensor, "S N B"]:
        """Q_1..Q_N of the same states and actions."""
        pair = torch.cat([obs, action], -1).unsqueeze(1)
        return self.body(pair.expand(-1, self.critics, -1, -1)).squeeze(-1)

    def action_gradient(
        self, obs: Float[Tensor, "S B D"], action: Float[Tensor, "S B A"]
    ) -> Float[Tensor, "S N B A"]:
        """grad_a Q_1..Q_N at the same states and actions, itself differentiable in the weights."""
        # Each critic gets its own copy of the actions, so one backward pass keeps them apart.
        obs, action = (x.unsqueeze(1).expand(-1, self.critics, -1, -1) for x in (obs, action))
        action = action.detach().requires_grad_()
        value = self.body(torch.cat([obs, action], -1))
        (gradient,) = torch.autograd.grad(value.sum(), action, create_graph=True)
        return gradient


@torch.no_grad()
def initialise_(body: BatchedMLP, *, hidden_bias: float | None, output_bound: float | None) -> None:
    """Start perceptrons otherwise than `nn.Linear`; None keeps what is there.

    Args:
        body: weights and biases to overwrite.
        hidden_bias: value of every bias but the last layer's.
        output_bound: the last layer's weights and biases become uniform in +-output_bound.
    """
    *hidden, last = body.layers
    if hidden_bias is not None:
        for layer in hidden:
            nn.init.constant_(layer.get_parameter("bias"), hidden_bias)
    if output_bound is not None:
        for parameter in last.parameters():
            nn.init.uniform_(parameter, -output_bound, output_bound)
