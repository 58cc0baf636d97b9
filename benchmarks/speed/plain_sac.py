"""Soft actor-critic the plain way, as the reference that ours is timed against.

One agent at a time, every network a stack of `nn.Linear`, one `torch.optim.Adam` per network that
walks its parameters one by one, a Polyak loop over parameters, and a replay of one tensor per
column. It computes what `agents.sac.SAC` computes for one seed (a test compares them) and draws
its random numbers in the same order. Where public code differs, the faster habit was taken: no
loss is read on the host, densities are written out instead of built from distribution objects,
and the critics are frozen while the actor is updated.
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.datasets.transition import Transition

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}
COSINE_EVERY = 1000  # updates between two changes of the actor's rate, as in ours


def perceptron(inputs: int, hidden: Sequence[int], outputs: int, activation: str) -> nn.Sequential:
    """A stack of `nn.Linear` with activations in between."""
    parts: list[nn.Module] = []
    for width in hidden:
        parts += [nn.Linear(inputs, width), ACTIVATIONS[activation]()]
        inputs = width
    return nn.Sequential(*parts, nn.Linear(inputs, outputs))


class PlainReplay:
    """The dataset as one tensor per column, sampled with replacement."""

    def __init__(self, rows: Transition) -> None:
        self.columns = (rows.obs, rows.action, rows.reward, rows.next_obs, rows.terminated.float())

    def sample(self, batch: int) -> tuple[Tensor, ...]:
        """obs `[B, D]`, action `[B, A]`, reward `[B]`, next_obs `[B, D]`, terminated `[B]`."""
        reward = self.columns[2]
        index = torch.randint(len(reward), (batch,), device=reward.device)
        return tuple(column[index] for column in self.columns)


class PlainActor(nn.Module):
    """A squashed Gaussian policy."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        activation: str,
        log_std_bounds: Sequence[float],
    ) -> None:
        super().__init__()
        self.trunk = perceptron(obs_dim, hidden[:-1], hidden[-1], activation)
        self.activation = ACTIVATIONS[activation]()
        self.mean = nn.Linear(hidden[-1], action_dim)
        self.log_std = nn.Linear(hidden[-1], action_dim)
        self.low, self.high = log_std_bounds

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """A sampled action `[B, A]` and its log density `[B]`."""
        features = self.activation(self.trunk(obs))
        mean = self.mean(features)
        log_std = torch.clamp(self.log_std(features), self.low, self.high)
        noise = torch.randn_like(mean)
        pre_tanh = mean + log_std.exp() * noise
        normal = -0.5 * noise.pow(2) - log_std - 0.5 * math.log(2 * math.pi)
        squash = 2 * (math.log(2) - pre_tanh - F.softplus(-2 * pre_tanh))
        return torch.tanh(pre_tanh), (normal - squash).sum(-1)


class PlainSAC:
    """One agent. The arguments are the hyperparameters of `conf/agent/sac.yaml`."""

    def __init__(
        self,
        *,
        obs_dim: int,
        action_dim: int,
        updates: int,
        critics: int,
        hidden: Sequence[int],
        activation: str,
        log_std_bounds: Sequence[float],
        actor_learning_rate: float,
        critic_learning_rate: float,
        temperature_learning_rate: float,
        actor_cosine: bool,
        discount: float,
        tau: float,
        initial_temperature: float,
        max_temperature: float | None,
        target_entropy: float | None,
        entropy_in_target: bool,
        order: Sequence[str],
        device: torch.device,
    ) -> None:
        if list(order) != ["critic", "policy"]:
            raise ValueError(f"the reference updates critic, then policy; got order={list(order)}")
        self.actor = PlainActor(obs_dim, action_dim, hidden, activation, log_std_bounds).to(device)
        self.critics = [
            perceptron(obs_dim + action_dim, hidden, 1, activation).to(device)
            for _ in range(critics)
        ]
        self.target_critics = [copy.deepcopy(critic) for critic in self.critics]
        self.log_temperature = torch.tensor(
            math.log(initial_temperature), device=device, requires_grad=True
        )
        self.actor_optimiser = torch.optim.Adam(
            self.actor.parameters(), actor_learning_rate, foreach=False
        )
        self.critic_optimisers = [
            torch.optim.Adam(critic.parameters(), critic_learning_rate, foreach=False)
            for critic in self.critics
        ]
        self.temperature_optimiser = torch.optim.Adam(
            [self.log_temperature], temperature_learning_rate, foreach=False
        )
        self.schedule = (
            torch.optim.lr_scheduler.CosineAnnealingLR(
                self.actor_optimiser, T_max=max(1, updates // COSINE_EVERY)
            )
            if actor_cosine
            else None
        )
        self.discount, self.tau = discount, tau
        self.max_temperature, self.entropy_in_target = max_temperature, entropy_in_target
        self.target_entropy = -float(action_dim) if target_entropy is None else target_entropy
        self.done = 0

    def update(
        self, obs: Tensor, action: Tensor, reward: Tensor, next_obs: Tensor, terminated: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Learn from one batch; returns the losses of critics and actor."""
        temperature = self.log_temperature.detach().exp().clamp(max=self.max_temperature)

        with torch.no_grad():
            next_action, next_log_prob = self.actor(next_obs)
            pair = torch.cat([next_obs, next_action], -1)
            value = self.target_critics[0](pair)
            for critic in self.target_critics[1:]:
                value = torch.min(value, critic(pair))
            value = value.squeeze(-1)
            if self.entropy_in_target:
                value = value - temperature * next_log_prob
            target = reward + self.discount * (1 - terminated) * value

        pair = torch.cat([obs, action], -1)
        critic_loss = torch.zeros((), device=obs.device)
        for critic, optimiser in zip(self.critics, self.critic_optimisers, strict=True):
            loss = F.mse_loss(critic(pair).squeeze(-1), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            critic_loss = critic_loss + loss.detach()

        for critic in self.critics:
            critic.requires_grad_(False)
        new_action, log_prob = self.actor(obs)
        pair = torch.cat([obs, new_action], -1)
        value = self.critics[0](pair)
        for critic in self.critics[1:]:
            value = torch.min(value, critic(pair))
        actor_loss = (temperature * log_prob - value.squeeze(-1)).mean()
        self.actor_optimiser.zero_grad()
        actor_loss.backward()
        self.actor_optimiser.step()
        for critic in self.critics:
            critic.requires_grad_(True)

        surplus = (log_prob.detach() + self.target_entropy).mean()
        temperature_loss = -self.log_temperature * surplus
        self.temperature_optimiser.zero_grad()
        temperature_loss.backward()
        self.temperature_optimiser.step()

        with torch.no_grad():
            for critic, target_critic in zip(self.critics, self.target_critics, strict=True):
                pairs = zip(critic.parameters(), target_critic.parameters(), strict=True)
                for online, slow in pairs:
                    slow.copy_(self.tau * online + (1 - self.tau) * slow)

        self.done += 1
        if self.schedule is not None and self.done % COSINE_EVERY == 0:
            self.schedule.step()
        return critic_loss, actor_loss.detach()
