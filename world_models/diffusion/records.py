"""Records of a generator: normalised channels, and their conversion from and to transitions."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec

CONSTANT = 1e-12
"""A channel with a smaller standard deviation does not vary."""


def first_rows(index: Tensor) -> Tensor:
    """The row of the dataset that each record begins with."""
    return index.reshape(len(index), -1)[:, 0]


class Records(nn.Module, ABC):
    """A layout of channels with the statistics that normalise them, as buffers.

    The first channels are the observation and the action, in this order; the last is `done`, which
    is 1 if the task ended. One record is a tensor of shape `event`, whose last dimension C is the
    channels.

    Attributes:
        event: shape of one record.
        transitions: how many transitions a record decodes to.
        obs, action: slices of the channels.
        exogenous: channels of observations that actions do not move.
        squashed: whether tanh leads from the action channels to actions.
    """

    squashed: bool

    DONE_THRESHOLD = 0.5
    mean: Tensor
    std: Tensor
    varies: Tensor

    def __init__(self, *, spec: Spec, event: tuple[int, ...], transitions: int) -> None:
        super().__init__()
        self.spec, self.event, self.transitions = spec, event, transitions
        self.obs, self.exogenous = slice(0, spec.obs_dim), list(spec.exogenous)
        self.action = slice(spec.obs_dim, spec.obs_dim + spec.action_dim)
        self.register_buffer("mean", torch.zeros(event[-1]))
        self.register_buffer("std", torch.ones(event[-1]))
        self.register_buffer("varies", torch.ones(event[-1]))

    @abstractmethod
    def table(self, data: Dataset) -> Float[Tensor, "R C"]:
        """Raw rows of channels that `index` points into, each stored once."""

    @abstractmethod
    def index(self, data: Dataset, rows: Bool[Tensor, " N"]) -> Int[Tensor, "W ..."]:
        """Rows of the table that make up each of W records, from these rows of the dataset only."""

    @abstractmethod
    def decode(self, records: Float[Tensor, "*lead C"]) -> tuple[Transition, Bool[Tensor, "*rows"]]:
        """Transitions in raw units `[*lead, transitions]` and which of them exist."""

    def normalise_by(self, table: Float[Tensor, "R C"], index: Int[Tensor, "W ..."]) -> None:
        """Take mean and standard deviation of each channel over all records.

        Rows count as often as records contain them. Sums are in float64 relative to one row, so
        that a constant channel has no variance however large it is; its std becomes 1, and what
        is generated gets the constant itself. Data that never terminate thus teach "never".
        """
        weight = torch.bincount(index.flatten(), minlength=len(table)).double()
        weight = (weight / weight.sum()).unsqueeze(-1)
        origin = table[index.flatten()[0]].double()
        shifted = table.double() - origin
        mean = (weight * shifted).sum(0)
        std = (weight * (shifted - mean).square()).sum(0).sqrt()
        self.mean.copy_(mean + origin)
        self.std.copy_(torch.where(std < CONSTANT, torch.ones_like(std), std))
        self.varies.copy_(std >= CONSTANT)

    def encode(self, raw: Float[Tensor, "*lead C"]) -> Float[Tensor, "*lead C"]:
        """Rows of the table in the units of the generator."""
        return (raw - self.mean) / self.std

    def raw(self, records: Float[Tensor, "*lead C"]) -> Float[Tensor, "*lead C"]:
        """The inverse of `encode`; channels that are constant in the data get their constant."""
        return records * self.std * self.varies + self.mean
