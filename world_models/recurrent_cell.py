"""A step of recurrent members in teacher forcing, see `world_models.forcing`."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.world_models.copies import Copies
from reverie.world_models.forcing import Cell
from reverie.world_models.recurrent import MemoryNetwork
from reverie.world_models.selection import Cut


class RecurrentCell(Cell):
    """One step of all members by their means; a state is (obs, hidden), obs standardised.

    Args:
        network: of lead `(L, E)`.
        rows: the fitted transitions, with the units of observations and reward.
        copies: columns that are copied exactly.
        given: exogenous columns.
        dropout: dropout probability in the blocks.
    """

    def __init__(
        self,
        network: MemoryNetwork,
        rows: Cut,
        copies: Copies,
        given: Sequence[int],
        dropout: float,
    ) -> None:
        self.network: MemoryNetwork = network
        self.copies, self.given, self.dropout = copies, given, dropout
        self.dim = len(network.output_mean) - 1
        self.mean, self.std = rows.mean[: self.dim], rows.std[: self.dim]
        self.unit = torch.cat([self.std, rows.reward_std.unsqueeze(0)])

    def begin(self, obs: Float[Tensor, "L E B D"]) -> Float[Tensor, "L E B W"]:
        return torch.cat([obs, self.network.begin(obs * self.std + self.mean)], -1)

    def move(
        self, state: Float[Tensor, "L E B W"], action: Float[Tensor, "L E B A"]
    ) -> tuple[Float[Tensor, "L E B W"], tuple[Tensor, ...]]:
        seen, hidden = state.split([self.dim, self.network.memory], -1)
        obs = seen * self.std + self.mean
        inputs = torch.cat([obs, action], -1)
        mean, log_variance, hidden = self.network.advance(inputs, hidden, self.dropout)
        change = mean * self.network.output_std + self.network.output_mean
        next_obs = self.copies(obs, action, obs + change[..., :-1])
        return torch.cat([(next_obs - self.mean) / self.std, hidden], -1), (mean, log_variance)

    def judge(
        self,
        state: Tensor,
        following: Tensor,
        told: tuple[Tensor, ...],
        next_obs: Tensor,
        reward: Tensor,
    ) -> tuple[Float[Tensor, "L E B"], Float[Tensor, "L E B"]]:
        """(mu - y)^2 exp(-l) + l, with y the way from the carried state to the recorded next one.

        Mean over the learned columns, in the variances of the recorded changes.
        """
        net = self.network
        change = (next_obs - state[..., : self.dim]) * self.std
        target = (torch.cat([change, reward], -1) - net.output_mean) / net.output_std
        mean, log_variance, target, scale = (
            each.index_select(-1, net.learned) for each in (*told, target, net.output_std)
        )
        error = (mean - target).square()
        loss = (error * torch.exp(-log_variance) + log_variance).mean(-1)
        unit = self.unit.index_select(-1, net.learned)
        return loss, (error * (scale / unit).square()).mean(-1)

    def penalty(self) -> Float[Tensor, " L"]:
        return self.network.bound_penalty().sum(-1)
