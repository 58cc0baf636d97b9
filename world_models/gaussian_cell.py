"""A step of Gaussian perceptrons as forced training takes it, see `world_models.forcing`."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from reverie.world_models.copies import Copies
from reverie.world_models.forcing import Cell
from reverie.world_models.gaussian import GaussianMembers
from reverie.world_models.optimiser import Adam


class GaussianCell(Cell):
    """One step of all members by their means; the loss is the likelihood that they are fitted by.

    Args:
        gaussians: that are trained.
        copies: columns that are copied exactly.
        given: exogenous columns.
        reward_std: unit of the reward in errors.
        dropout: probability that a hidden unit is left out.
    """

    def __init__(
        self,
        gaussians: GaussianMembers,
        copies: Copies,
        given: Sequence[int],
        reward_std: Tensor,
        dropout: float,
    ) -> None:
        self.network: GaussianMembers = gaussians
        self.copies, self.given, self.dropout = copies, given, dropout
        dim = gaussians.widths[1] - 1
        self.mean, self.std = gaussians.input_mean[..., :dim], gaussians.input_std[..., :dim]
        unit = torch.cat([self.std, reward_std.expand(*self.std.shape[:-1], 1)], -1)
        self.unit = gaussians.of_learned(unit)

    def move(
        self, state: Float[Tensor, "L E B D"], action: Float[Tensor, "L E B A"]
    ) -> tuple[Float[Tensor, "L E B D"], tuple[Tensor, ...]]:
        obs = state * self.std + self.mean
        told = self.network(torch.cat([obs, action], -1), self.dropout)
        next_obs = self.copies(obs, action, obs + told[0][..., :-1])
        return (next_obs - self.mean) / self.std, told

    def judge(
        self,
        state: Tensor,
        following: Tensor,
        told: tuple[Tensor, ...],
        next_obs: Tensor,
        reward: Tensor,
    ) -> tuple[Float[Tensor, "L E B"], Float[Tensor, "L E B"]]:
        """(mu - y)^2 exp(-l) + l, with y the way from the carried state to the recorded next one.

        Mean over the learned columns, raw units, as `gaussian_loss`.
        """
        target = torch.cat([(next_obs - state) * self.std, reward], -1)
        mean, log_variance, target = map(self.network.of_learned, (*told, target))
        error = (mean - target).square()
        loss = (error * torch.exp(-log_variance) + log_variance).mean(-1)
        return loss, (error / self.unit.square()).mean(-1)

    def penalty(self) -> Float[Tensor, " L"]:
        return self.network.bound_penalty()

    def parameters(self) -> list[nn.Parameter]:
        return self.network.trained_parameters()

    def descend(self, optimiser: Adam, losses: Float[Tensor, " L"]) -> None:
        self.network.descend(optimiser, losses)

    def snapshot(self) -> list[Tensor]:
        return self.network.snapshot()

    def merge(
        self, kept: Sequence[Tensor], improved: Bool[Tensor, "L E"], running: Bool[Tensor, " L"]
    ) -> list[Tensor]:
        return self.network.merge(kept, improved, running)

    def restore(self, kept: Sequence[Tensor]) -> None:
        self.network.restore(kept)
