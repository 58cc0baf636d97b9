"""Transitions with any leading shape: the record type of the whole platform."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Row = TypeVar("Row", bound="Transition")


@dataclass(frozen=True)
class Transition:
    """Tensors of transitions with one common leading shape `[*]`.

    Attributes:
        obs: `[*, D]` float32, raw units.
        action: `[*, A]` float32 in [-1, 1].
        reward: `[*]` float32, environment units per control step, raw.
        next_obs: `[*, D]` float32, the true successor, also at the end of an episode.
        terminated: `[*]` bool; the task ended here. A time limit is never a termination.
        is_real: `[*]` bool; from the dataset rather than synthetic.
    """

    obs: Float[Tensor, "*lead D"]
    action: Float[Tensor, "*lead A"]
    reward: Float[Tensor, "*lead"]
    next_obs: Float[Tensor, "*lead D"]
    terminated: Bool[Tensor, "*lead"]
    is_real: Bool[Tensor, "*lead"]

    @property
    def shape(self) -> torch.Size:
        """The leading shape `[*]`."""
        return self.reward.shape

    def map(self: Row, function: Callable[[Tensor], Tensor]) -> Row:
        """Apply a function of one tensor to every column."""
        return type(self)(**{name: function(getattr(self, name)) for name in column_names(self)})

    def __getitem__(self: Row, index: Any) -> Row:
        return self.map(lambda column: column[index])

    def to(self: Row, device: torch.device | str) -> Row:
        return self.map(lambda column: column.to(device))


# dataclasses.fields cannot be traced by torch.compile, so the names are looked up once.
_COLUMN_NAMES: dict[type, tuple[str, ...]] = {}


def column_names(record: Transition | type[Transition]) -> tuple[str, ...]:
    """Names of the columns of a transition class, base columns first."""
    cls = record if isinstance(record, type) else type(record)
    return _COLUMN_NAMES[cls]


def register(cls: type[Transition]) -> type[Transition]:
    """Make a transition class known to torch's pytrees and to the replay. Usable as a decorator.

    A subclass adds columns after the base columns, each `[*]` or `[*, width]`.
    """
    _COLUMN_NAMES[cls] = tuple(field.name for field in fields(cls))
    torch.export.register_dataclass(cls)
    return cls


register(Transition)


def concatenate(parts: list[Transition], dim: int) -> Transition:
    """Join transitions of one class along a leading dimension."""
    first, *others = parts
    if not others:
        return first
    return type(first)(
        **{
            name: torch.cat([getattr(part, name) for part in parts], dim)
            for name in column_names(first)
        }
    )
