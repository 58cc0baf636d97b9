"""What any-step dynamics answer from several pasts, and how forced training takes a step of them.

ADMPO, arXiv:2405.17031; forcing: `world_models.forcing`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reverie.world_models.copies import Copies
from reverie.world_models.forcing import Cell
from reverie.world_models.recurrent import RecurrentGaussian
from reverie.world_models.selection import Cut


class Answers(NamedTuple):
    """What the model says of one step, from m pasts: jump i goes over k = m - i steps.

    Attributes:
        mean, std: `[L, m, B, D + 1]` of (next_obs, reward), raw units.
        known: `[L, m, B]` bool; whether the rollout is old enough for the jump.
    """

    mean: Float[Tensor, "L m B Y"]
    std: Float[Tensor, "L m B Y"]
    known: Bool[Tensor, "L m B"]

    def average(self) -> Float[Tensor, "L B Y"]:
        """Mean over the jumps that are known."""
        known = self.known.unsqueeze(-1)
        return torch.where(known, self.mean, 0.0).sum(1) / known.sum(1)

    def spread(self) -> Float[Tensor, "L B Y"]:
        """Population variance of the means over the jumps that are known."""
        known = self.known.unsqueeze(-1)
        apart = (self.mean - self.average().unsqueeze(1)).square()
        return torch.where(known, apart, 0.0).sum(1) / known.sum(1)


class JumpCell(Cell):
    """One step of an expected rollout: each jump is judged, their mean goes on.

    A state is the observation and the queue of pairs (s, a) before it, see `AnyStep`; observations
    in both are standardised. A window begins without a past, as rollouts do, so that its t-th step
    is told by min(t, m) jumps, each from the observation that was carried then.

    Args:
        network: of lead `(L,)`; E is 1 here.
        ask: `AnyStep.answers` of (obs, action, queue), raw.
        push: the queue one step later, of the same.
        rows: that it is fitted to, with the units of observations and reward.
        copies: columns that are copied exactly.
        given: exogenous columns.
        pairs: m - 1, of the queue.
    """

    def __init__(
        self,
        network: RecurrentGaussian,
        ask: Callable[[Tensor, Tensor, Tensor], Answers],
        push: Callable[[Tensor, Tensor, Tensor], Tensor],
        rows: Cut,
        copies: Copies,
        given: Sequence[int],
        pairs: int,
    ) -> None:
        self.network: RecurrentGaussian = network
        self.ask, self.push = ask, push
        self.copies, self.given = copies, given
        self.dim = len(network.output_mean) - 1
        self.mean, self.std = rows.mean[: self.dim], rows.std[: self.dim]
        self.unit = torch.cat([self.std, rows.reward_std.unsqueeze(0)])
        self.actions = len(rows.mean) - self.dim
        one = torch.ones_like(rows.mean[self.dim :])
        # Of the queue in raw units: actions in it, and its length, are as they are.
        self.scale = torch.cat([*[torch.cat([self.std, one])] * pairs, one.new_ones(1)])
        self.shift = torch.cat([*[torch.cat([self.mean, 0 * one])] * pairs, one.new_zeros(1)])
        width = self.dim + self.actions
        self.seen = (0, *(self.dim + width * pair for pair in range(pairs)))

    def begin(self, obs: Float[Tensor, "L 1 B D"]) -> Float[Tensor, "L 1 B W"]:
        queue = obs.new_zeros(*obs.shape[:-1], len(self.scale))
        queue[..., -1] = 1.0
        return torch.cat([obs, queue], -1)

    def move(
        self, state: Float[Tensor, "L 1 B W"], action: Float[Tensor, "L 1 B A"]
    ) -> tuple[Float[Tensor, "L 1 B W"], tuple[Tensor, ...]]:
        seen, queue = state.squeeze(1).tensor_split([self.dim], -1)
        action = action.squeeze(1)
        obs = seen * self.std + self.mean
        answers = self.ask(obs, action, queue * self.scale + self.shift)
        next_obs = self.copies(obs, action, answers.average()[..., :-1])
        following = [(next_obs - self.mean) / self.std, self.push(seen, action, queue)]
        told = (each.transpose(1, 2).unsqueeze(1).flatten(3) for each in answers[:2])
        known = answers.known.transpose(1, 2).unsqueeze(1)
        return torch.cat(following, -1).unsqueeze(1), (*told, known)

    def judge(
        self,
        state: Tensor,
        following: Tensor,
        told: tuple[Tensor, ...],
        next_obs: Tensor,
        reward: Tensor,
    ) -> tuple[Float[Tensor, "L 1 N"], Float[Tensor, "L 1 N"]]:
        """(mu - y)^2 exp(-l) + l, y the way from where each jump begins to the recorded next one.

        Mean over the jumps that are known and the learned columns, in variances of the targets of
        all jumps, as the fit to windows of one length has it. The error is that of their mean.
        """
        *gaussian, known = told
        net, known = self.network, known.unsqueeze(-1)
        mean, std = (
            each.unflatten(-1, (known.shape[-2], -1)).index_select(-1, net.learned)
            for each in gaussian
        )
        truth = torch.cat([next_obs * self.std + self.mean, reward], -1)
        target, scale, unit = (
            each.index_select(-1, net.learned) for each in (truth, net.output_std, self.unit)
        )
        off = mean - target.unsqueeze(-2)
        loss = (off / std).square() + 2 * (std / scale).log()
        jumps = known.sum(-2)
        loss = (torch.where(known, loss, 0.0).sum(-2) / jumps).mean(-1)
        error = (torch.where(known, off, 0.0).sum(-2) / jumps / unit).square()
        return loss, error.mean(-1)

    def penalty(self) -> Float[Tensor, " L"]:
        return self.network.bound_penalty()
