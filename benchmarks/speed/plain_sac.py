"""Soft actor-critic the plain way, as the reference that ours is timed against.

One agent at a time, every network a stack of `nn.Linear`, one `torch.optim.Adam` per network that
walks its parameters one by one, a Polyak loop over parameters, and a replay of one tensor per
column. It computes what `agents.sac.SAC` computes for one seed (a test compares them) and draws
its random numbers in the same order. Where public code differs, the faster habit was taken: no
loss is read on the host, densities are written out instead of built from distribution objects,
and the critics are frozen while the actor is updated. `plain_agents` builds on it.
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
        self.order = tuple(order)
        self.done = 0

    @property
    def temperature(self) -> Tensor:
        """Weight of the entropy term in the losses."""
        value = self.log_temperature.detach().exp()
        return value if self.max_temperature is None else value.clamp(max=self.max_temperature)

    def update(
        self, obs: Tensor, action: Tensor, reward: Tensor, next_obs: Tensor, terminated: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Learn from one batch; returns the losses of critics and actor."""
        critic_loss = actor_loss = torch.zeros((), device=obs.device)
        for part in self.order:
            if part == "critic":
                target = self.target(reward, next_obs, terminated)
                critic_loss = self.step_critics(obs, action, next_obs, terminated, target)
            elif part == "policy":
                actor_loss = self.step_actor(obs)
            else:
                with torch.no_grad():
                    _, log_prob = self.actor(obs)
                self.step_temperature(log_prob)
        with torch.no_grad():
            for critic, target_critic in zip(self.critics, self.target_critics, strict=True):
                move_towards(target_critic, critic, self.tau)
        self.done += 1
        if self.schedule is not None and self.done % COSINE_EVERY == 0:
            self.schedule.step()
        return critic_loss, actor_loss

    @torch.no_grad()
    def target(self, reward: Tensor, next_obs: Tensor, terminated: Tensor) -> Tensor:
        """What critics are fitted to, `[B]`."""
        next_action, next_log_prob = self.actor(next_obs)
        value = least(self.target_critics, torch.cat([next_obs, next_action], -1))
        if self.entropy_in_target:
            value = value - self.temperature * next_log_prob
        return reward + self.discount * (1 - terminated) * value

    def step_critics(
        self, obs: Tensor, action: Tensor, next_obs: Tensor, terminated: Tensor, target: Tensor
    ) -> Tensor:
        """Move every critic once; returns the sum of their losses."""
        pair = torch.cat([obs, action], -1)
        total = torch.zeros((), device=obs.device)
        for critic, optimiser in zip(self.critics, self.critic_optimisers, strict=True):
            loss = F.mse_loss(critic(pair).squeeze(-1), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total = total + loss.detach()
        return total

    def step_actor(self, obs: Tensor) -> Tensor:
        """Move actor and temperature once; returns the actor's loss."""
        for critic in self.critics:
            critic.requires_grad_(False)
        new_action, log_prob = self.actor(obs)
        value = least(self.critics, torch.cat([obs, new_action], -1))
        loss = (self.temperature * log_prob - value).mean()
        self.actor_optimiser.zero_grad()
        loss.backward()
        self.actor_optimiser.step()
        for critic in self.critics:
            critic.requires_grad_(True)
        if "temperature" not in self.order:
            self.step_temperature(log_prob.detach())
        return loss.detach()

    def step_temperature(self, log_prob: Tensor) -> None:
        """Move the temperature once, towards the entropy that is aimed at."""
        loss = -self.log_temperature * (log_prob + self.target_entropy).mean()
        self.temperature_optimiser.zero_grad()
        loss.backward()
        self.temperature_optimiser.step()


def least(critics: Sequence[nn.Module], pair: Tensor) -> Tensor:
    """The least of the critics' values, `[B]`."""
    value = critics[0](pair)
    for critic in critics[1:]:
        value = torch.min(value, critic(pair))
    return value.squeeze(-1)


def move_towards(slow: nn.Module, online: nn.Module, rate: float) -> None:
    """A Polyak step, parameter by parameter; to be called without gradients."""
    for parameter, target in zip(online.parameters(), slow.parameters(), strict=True):
        target.copy_(rate * parameter + (1 - rate) * target)
