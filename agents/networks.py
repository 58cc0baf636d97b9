"""Policies and critics, batched over seeds and over the critics of an ensemble."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from reverie.agents.losses import normal_log_prob, tanh_normal_log_prob
from reverie.mistake import Mistake
from reverie.world_models.networks import ActivationName, BatchedMLP


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
        activation: ActivationName,
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

    def moments(
        self, obs: Float[Tensor, "S B D"]
    ) -> tuple[Float[Tensor, "S B A"], Float[Tensor, "S B A"]]:
        """Mean and std of the action, to first order around the squashed mean."""
        mean, log_std = self(obs)
        mean = torch.tanh(mean)
        return mean, log_std.exp() * (1 - mean.square())

    def sample(
        self, obs: Float[Tensor, "S B D"]
    ) -> tuple[Float[Tensor, "S B A"], Float[Tensor, "S B"]]:
        """A reparameterised action and its log density."""
        mean, log_std = self(obs)
        noise = torch.randn_like(mean)
        pre_tanh = mean + log_std.exp() * noise
        return torch.tanh(pre_tanh), tanh_normal_log_prob(noise, log_std, pre_tanh)

    def log_prob(
        self,
        obs: Float[Tensor, "S B D"],
        action: Float[Tensor, "S B A"],
        taken: Bool[Tensor, "S B A"] | None = None,
    ) -> Float[Tensor, "S B"]:
        """Log density of given actions, those on the edge of the box moved inside by 1e-6."""
        mean, log_std = self(obs)
        # On the edge itself the density is that of an infinite sample before the squashing.
        pre_tanh = torch.atanh(action.clamp(-1 + 1e-6, 1 - 1e-6))
        noise = (pre_tanh - mean) * (-log_std).exp()
        return tanh_normal_log_prob(noise, log_std, pre_tanh, taken)

    def sample_several(
        self, obs: Float[Tensor, "S B D"], count: int
    ) -> tuple[Float[Tensor, "S B K A"], Float[Tensor, "S B K"]]:
        """`count` actions of each state and their log densities, the network evaluated once."""
        mean, log_std = (x.unsqueeze(2).expand(-1, -1, count, -1) for x in self(obs))
        noise = torch.randn_like(mean)
        pre_tanh = mean + log_std.exp() * noise
        return torch.tanh(pre_tanh), tanh_normal_log_prob(noise, log_std, pre_tanh)


class DeterministicActor(nn.Module):
    """One action per state for each seed: a = tanh(f(s)).

    Args:
        seeds, obs_dim, action_dim: S, D, A.
        hidden, activation: architecture of f.
        layer_norm: of the hidden layers of f.
    """

    def __init__(
        self,
        *,
        seeds: int,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        activation: ActivationName,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.body = BatchedMLP((seeds,), obs_dim, hidden, action_dim, activation, layer_norm)

    def forward(self, obs: Float[Tensor, "S B D"]) -> Float[Tensor, "S B A"]:
        return torch.tanh(self.body(obs))


class GaussianActor(nn.Module):
    """A Gaussian policy in action space for each seed: a ~ N(tanh(f(s)), std^2), fixed std.

    Args:
        seeds, obs_dim, action_dim: S, D, A.
        hidden, activation: architecture of the mean.
        log_std_bounds: the log-std, a free vector that starts at 0, is clipped to this interval.

    Source: the policy of IQL, arXiv:2110.06169.
    """

    def __init__(
        self,
        *,
        seeds: int,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        activation: ActivationName,
        log_std_bounds: Sequence[float],
    ) -> None:
        super().__init__()
        self.body = BatchedMLP((seeds,), obs_dim, hidden, action_dim, activation)
        self.free_log_std = nn.Parameter(torch.zeros(seeds, 1, action_dim))
        self.log_std_bounds = tuple(log_std_bounds)

    def forward(
        self, obs: Float[Tensor, "S B D"]
    ) -> tuple[Float[Tensor, "S B A"], Float[Tensor, "S 1 A"]]:
        """Mean and log-std of the action."""
        return torch.tanh(self.body(obs)), self.free_log_std.clamp(*self.log_std_bounds)

    def act(self, obs: Float[Tensor, "S B D"], deterministic: bool) -> Float[Tensor, "S B A"]:
        """The mean, which evaluations use, or a sample clipped to the box of actions."""
        mean, log_std = self(obs)
        if deterministic:
            return mean
        return (mean + log_std.exp() * torch.randn_like(mean)).clamp(-1, 1)

    def sample(
        self, obs: Float[Tensor, "S B D"]
    ) -> tuple[Float[Tensor, "S B A"], Float[Tensor, "S B"]]:
        """A reparameterised action, clipped to the box, and its density as `log_prob` has it."""
        mean, log_std = self(obs)
        action = (mean + log_std.exp() * torch.randn_like(mean)).clamp(-1, 1)
        return action, normal_log_prob(action, mean, log_std)

    def moments(
        self, obs: Float[Tensor, "S B D"]
    ) -> tuple[Float[Tensor, "S B A"], Float[Tensor, "S B A"]]:
        """Mean and std of the action, before samples are clipped."""
        mean, log_std = self(obs)
        return mean, log_std.exp().expand_as(mean)

    def log_prob(
        self,
        obs: Float[Tensor, "S B D"],
        action: Float[Tensor, "S B A"],
        taken: Bool[Tensor, "S B A"] | None = None,
    ) -> Float[Tensor, "S B"]:
        """Log density of given actions, as if samples were not clipped."""
        mean, log_std = self(obs)
        return normal_log_prob(action, mean, log_std, taken)


class Critics(nn.Module):
    """N action-value functions for each seed.

    Args:
        seeds, critics: S and N.
        obs_dim, action_dim: D, A.
        hidden, activation: architecture of every critic.
        normalise_obs: standardise observations with the statistics that `prepare` is given.
        layer_norm: of every critic's hidden layers.
        norm_first: before their activations, not after them.
    """

    def __init__(
        self,
        *,
        seeds: int,
        critics: int,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        activation: ActivationName,
        normalise_obs: bool,
        layer_norm: bool = False,
        norm_first: bool = False,
    ) -> None:
        super().__init__()
        if critics < 1:
            raise Mistake(f"critics must be at least 1, got {critics}")
        self.critics, self.obs_dim = critics, obs_dim
        self.body = BatchedMLP(
            (seeds, critics),
            obs_dim + action_dim,
            hidden,
            1,
            activation,
            layer_norm,
            norm_first,
        )
        self.standardise = Standardiser(obs_dim) if normalise_obs else nn.Identity()

    def prepare(self, obs: Float[Tensor, "N D"]) -> None:
        """Take the statistics that observations are standardised with, where they are."""
        if isinstance(self.standardise, Standardiser):
            self.standardise.fit(obs)

    def forward(
        self, obs: Float[Tensor, "S B D"], action: Float[Tensor, "S B A"]
    ) -> Float[Tensor, "S N B"]:
        """Q_1..Q_N of the same states and actions."""
        pair = torch.cat([self.standardise(obs), action], -1).unsqueeze(1)
        return self.body(pair.expand(-1, self.critics, -1, -1)).squeeze(-1)

    def first(
        self, obs: Float[Tensor, "S B D"], action: Float[Tensor, "S B A"]
    ) -> Float[Tensor, "S B"]:
        """Q_1 alone, for what the other critics have no part in."""
        pair = torch.cat([self.standardise(obs), action], -1).unsqueeze(1)
        return self.body(pair, first=1).squeeze(-1).squeeze(1)

    def each(
        self, obs: Float[Tensor, "S N B D"], action: Float[Tensor, "S B A"]
    ) -> Float[Tensor, "S N B"]:
        """Q_1..Q_N, each at states of its own, with the same actions."""
        action = action.unsqueeze(1).expand(-1, self.critics, -1, -1)
        return self.body(torch.cat([self.standardise(obs), action], -1)).squeeze(-1)

    def with_action_gradient(
        self, obs: Float[Tensor, "S B D"], action: Float[Tensor, "S B A"]
    ) -> tuple[Float[Tensor, "S N B"], Float[Tensor, "S N B A"]]:
        """Q_1..Q_N and grad_a of each, from one pass; both are differentiable in the weights."""
        # Each critic gets its own copy of the actions, so one backward pass keeps them apart.
        obs = self.standardise(obs)
        obs, action = (x.unsqueeze(1).expand(-1, self.critics, -1, -1) for x in (obs, action))
        action = action.detach().requires_grad_()
        value = self.body(torch.cat([obs, action], -1)).squeeze(-1)
        (gradient,) = torch.autograd.grad(value.sum(), action, create_graph=True)
        return value, gradient


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


class StateValue(nn.Module):
    """A state-value function V(s) for each seed.

    Args:
        seeds, obs_dim: S, D.
        hidden, activation, layer_norm: architecture.
    """

    def __init__(
        self,
        *,
        seeds: int,
        obs_dim: int,
        hidden: Sequence[int],
        activation: ActivationName,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.body = BatchedMLP((seeds,), obs_dim, hidden, 1, activation, layer_norm)

    def forward(self, obs: Float[Tensor, "S B D"]) -> Float[Tensor, "S B"]:
        return self.body(obs).squeeze(-1)


class Standardiser(nn.Module):
    """(s - mean) / (std + offset) with statistics of a dataset as buffers; at first the identity.

    Source: TD3+BC, arXiv:2106.06860, normalisation of states, with its offset of 1e-3.
    """

    OFFSET = 1e-3
    mean: Tensor
    scale: Tensor

    def __init__(self, obs_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(obs_dim))
        self.register_buffer("scale", torch.ones(obs_dim))

    def fit(self, obs: Float[Tensor, "N D"]) -> None:
        """Take mean and standard deviation of every dimension."""
        std, mean = torch.std_mean(obs, 0, correction=0)
        self.mean.copy_(mean)
        self.scale.copy_(std + self.OFFSET)

    def forward(self, obs: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        return (obs - self.mean) / self.scale

    def inverse(self, obs: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        """Physical units again."""
        return self.mean + self.scale * obs


class SymlogStandardiser(Standardiser):
    """symlog of the output of `Standardiser`, so that inputs far outside the data stay small.

    Source: LEQ, arXiv:2407.00699, inputs of its networks. Differs: the offset of `Standardiser`.
    """

    def forward(self, obs: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        return symlog(super().forward(obs))

    def inverse(self, obs: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        """Physical units again."""
        return super().inverse(obs.sign() * obs.abs().expm1())


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|), of every number by itself.

    Source: DreamerV3, arXiv:2301.04104.
    """
    return x.sign() * x.abs().log1p()
