"""TD3+BC, IQL, CQL and EDAC the plain way, the references that ours are timed against.

Written as in `plain_sac`: one agent, a loop over its critics, stacks of `nn.Linear`, one
`torch.optim.Adam` per network. Each computes what the agent of that name in `conf/agent/` computes
with the settings there (a test compares them) and draws its random numbers in the same order.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.benchmarks.speed.plain_sac import (
    COSINE_EVERY,
    PlainSAC,
    least,
    move_towards,
    perceptron,
)


def adam(parameters: nn.Module, rate: float, epsilon: float = 1e-8) -> torch.optim.Adam:
    """Adam that walks the parameters of a network one by one."""
    return torch.optim.Adam(parameters.parameters(), rate, eps=epsilon, foreach=False)


class PlainCQL(PlainSAC):
    """SAC whose critics pay for proposed actions that look good, CQL(H), arXiv:2006.04779."""

    def __init__(
        self, *, conservative_weight: float, samples: int, softness: float, **sac: Any
    ) -> None:
        super().__init__(**sac)
        self.weight, self.samples, self.softness = conservative_weight, samples, softness

    @torch.no_grad()
    def propose(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Actions `[B * K, A]` of the policy and their log densities `[B, K]`."""
        action, log_prob = self.actor(obs.repeat_interleave(self.samples, 0))
        return action, log_prob.view(len(obs), self.samples)

    def step_critics(
        self, obs: Tensor, action: Tensor, next_obs: Tensor, terminated: Tensor, target: Tensor
    ) -> Tensor:
        rows, width = action.shape
        uniform = 2 * torch.rand(rows * self.samples, width, device=obs.device) - 1
        ended = terminated.bool().unsqueeze(-1)
        proposed = [self.propose(obs), self.propose(torch.where(ended, obs, next_obs))]
        repeated = obs.repeat_interleave(self.samples, 0)
        pairs = [torch.cat([repeated, each], -1) for each in (uniform, *(a for a, _ in proposed))]
        density = torch.cat(
            [torch.full((rows, self.samples), -width * math.log(2), device=obs.device)]
            + [log_prob for _, log_prob in proposed],
            1,
        )
        pair = torch.cat([obs, action], -1)
        total = torch.zeros((), device=obs.device)
        for critic, optimiser in zip(self.critics, self.critic_optimisers, strict=True):
            recorded = critic(pair).squeeze(-1)
            values = torch.cat([critic(each).view(rows, -1) for each in pairs], 1)
            soft = self.softness * ((values - density) / self.softness).logsumexp(1)
            gap = soft.mean() - recorded.mean()
            loss = F.mse_loss(recorded, target) + self.weight * gap
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total = total + loss.detach()
        return total


class PlainEDAC(PlainSAC):
    """SAC whose critics' slopes along actions are kept apart, arXiv:2110.01548."""

    def __init__(self, *, diversity: float, **sac: Any) -> None:
        super().__init__(**sac)
        self.diversity = diversity

    def step_critics(
        self, obs: Tensor, action: Tensor, next_obs: Tensor, terminated: Tensor, target: Tensor
    ) -> Tensor:
        count = len(self.critics)
        loss = torch.zeros((), device=obs.device)
        slopes = []
        for critic in self.critics:
            own = action.detach().requires_grad_()
            value = critic(torch.cat([obs, own], -1)).squeeze(-1)
            loss = loss + F.mse_loss(value, target)
            (slope,) = torch.autograd.grad(value.sum(), own, create_graph=True)
            slopes.append(slope / (slope.norm(dim=-1, keepdim=True) + 1e-10))
        unit = torch.stack(slopes, 1)  # [B, N, A]
        others = 1 - torch.eye(count, device=obs.device)
        alike = ((unit @ unit.mT) * others).sum((1, 2)).mean() / (count - 1)
        loss = loss + self.diversity * alike
        for optimiser in self.critic_optimisers:
            optimiser.zero_grad()
        loss.backward()
        for optimiser in self.critic_optimisers:
            optimiser.step()
        return loss.detach()


class PlainTD3BC:
    """TD3 with an actor that imitates too, arXiv:2106.06860."""

    def __init__(
        self,
        *,
        obs_dim: int,
        action_dim: int,
        updates: int,
        critics: int,
        hidden: Sequence[int],
        activation: str,
        actor_learning_rate: float,
        critic_learning_rate: float,
        adam_epsilon: float,
        discount: float,
        tau: float,
        alpha: float,
        policy_noise: float,
        noise_clip: float,
        policy_delay: int,
        device: torch.device,
    ) -> None:
        self.actor = perceptron(obs_dim, hidden, action_dim, activation).to(device)
        self.critics = [
            perceptron(obs_dim + action_dim, hidden, 1, activation).to(device)
            for _ in range(critics)
        ]
        self.target_actor = copy.deepcopy(self.actor)
        self.target_critics = [copy.deepcopy(critic) for critic in self.critics]
        self.mean = torch.zeros(obs_dim, device=device)
        self.scale = torch.ones(obs_dim, device=device)
        self.actor_optimiser = adam(self.actor, actor_learning_rate, adam_epsilon)
        self.critic_optimisers = [
            adam(critic, critic_learning_rate, adam_epsilon) for critic in self.critics
        ]
        self.discount, self.tau, self.alpha = discount, tau, alpha
        self.policy_noise, self.noise_clip = policy_noise, noise_clip
        self.policy_delay, self.done = policy_delay, 0

    def update(
        self, obs: Tensor, action: Tensor, reward: Tensor, next_obs: Tensor, terminated: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Learn from one batch; returns the losses of critics and actor, 0 where it waits."""
        obs, next_obs = ((each - self.mean) / self.scale for each in (obs, next_obs))
        with torch.no_grad():
            next_action = torch.tanh(self.target_actor(next_obs))
            noise = self.policy_noise * torch.randn_like(next_action)
            noise = noise.clamp(-self.noise_clip, self.noise_clip)
            next_action = (next_action + noise).clamp(-1, 1)
            value = least(self.target_critics, torch.cat([next_obs, next_action], -1))
            target = reward + self.discount * (1 - terminated) * value
        pair = torch.cat([obs, action], -1)
        critic_loss = actor_loss = torch.zeros((), device=obs.device)
        for critic, optimiser in zip(self.critics, self.critic_optimisers, strict=True):
            loss = F.mse_loss(critic(pair).squeeze(-1), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            critic_loss = critic_loss + loss.detach()
        self.done += 1
        if self.done % self.policy_delay == 0:
            actor_loss = self._step_actor(obs, action)
            with torch.no_grad():
                for critic, slow in zip(self.critics, self.target_critics, strict=True):
                    move_towards(slow, critic, self.tau)
                move_towards(self.target_actor, self.actor, self.tau)
        return critic_loss, actor_loss

    def _step_actor(self, obs: Tensor, action: Tensor) -> Tensor:
        self.critics[0].requires_grad_(False)
        own = torch.tanh(self.actor(obs))
        value = self.critics[0](torch.cat([obs, own], -1))
        weight = self.alpha / (value.detach().abs().mean() + 1e-7)
        loss = F.mse_loss(own, action) - weight * value.mean()
        self.actor_optimiser.zero_grad()
        loss.backward()
        self.actor_optimiser.step()
        self.critics[0].requires_grad_(True)
        return loss.detach()


class PlainIQL:
    """Implicit Q-learning, arXiv:2110.06169; its steps in the order value, policy, critic."""

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
        value_learning_rate: float,
        adam_epsilon: float,
        discount: float,
        tau: float,
        expectile: float,
        inverse_temperature: float,
        max_weight: float,
        device: torch.device,
    ) -> None:
        self.actor = perceptron(obs_dim, hidden, action_dim, activation).to(device)
        self.log_std = nn.Parameter(torch.zeros(action_dim, device=device))
        self.value = perceptron(obs_dim, hidden, 1, activation).to(device)
        self.critics = [
            perceptron(obs_dim + action_dim, hidden, 1, activation).to(device)
            for _ in range(critics)
        ]
        self.target_critics = [copy.deepcopy(critic) for critic in self.critics]
        self.actor_optimiser = torch.optim.Adam(
            [*self.actor.parameters(), self.log_std],
            actor_learning_rate,
            eps=adam_epsilon,
            foreach=False,
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.actor_optimiser, T_max=max(1, updates // COSINE_EVERY)
        )
        self.value_optimiser = adam(self.value, value_learning_rate, adam_epsilon)
        self.critic_optimisers = [
            adam(critic, critic_learning_rate, adam_epsilon) for critic in self.critics
        ]
        self.low, self.high = log_std_bounds
        self.discount, self.tau, self.expectile = discount, tau, expectile
        self.inverse_temperature, self.max_weight = inverse_temperature, max_weight
        self.done = 0

    def update(
        self, obs: Tensor, action: Tensor, reward: Tensor, next_obs: Tensor, terminated: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Learn from one batch; returns the losses of critics and actor."""
        pair = torch.cat([obs, action], -1)
        with torch.no_grad():
            recorded = least(self.target_critics, pair)

        surplus = recorded - self.value(obs).squeeze(-1)
        side = torch.where(surplus < 0, 1 - self.expectile, self.expectile)
        value_loss = (side * surplus.pow(2)).mean()
        self.value_optimiser.zero_grad()
        value_loss.backward()
        self.value_optimiser.step()

        with torch.no_grad():
            advantage = recorded - self.value(obs).squeeze(-1)
            weight = torch.exp(self.inverse_temperature * advantage).clamp(max=self.max_weight)
        mean = torch.tanh(self.actor(obs))
        log_std = self.log_std.clamp(self.low, self.high)
        noise = (action - mean) / log_std.exp()
        log_prob = (-0.5 * noise.pow(2) - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
        actor_loss = -(weight * log_prob).mean()
        self.actor_optimiser.zero_grad()
        actor_loss.backward()
        self.actor_optimiser.step()

        with torch.no_grad():
            value = self.value(next_obs).squeeze(-1)
            target = reward + self.discount * (1 - terminated) * value
        critic_loss = torch.zeros((), device=obs.device)
        for critic, optimiser in zip(self.critics, self.critic_optimisers, strict=True):
            loss = F.mse_loss(critic(pair).squeeze(-1), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            critic_loss = critic_loss + loss.detach()

        with torch.no_grad():
            for critic, slow in zip(self.critics, self.target_critics, strict=True):
                move_towards(slow, critic, self.tau)
        self.done += 1
        if self.done % COSINE_EVERY == 0:
            self.schedule.step()
        return critic_loss, actor_loss.detach()
