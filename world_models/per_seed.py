"""Settings that may differ between the seeds of a run: a population in one process."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

PerSeed = float | Sequence[float]
"""One number for all seeds, or one for each.

As the annotation of a constructor's argument it says that the class can do either, which is what
the configuration is checked against.
"""


def set_per_seed(module: nn.Module, name: str, value: PerSeed, trailing: int) -> None:
    """Make `value` the attribute `name`: the number itself, or a buffer `[S, 1, ..., 1]`.

    The buffer is no part of `state_dict`, for a setting is no state.

    Args:
        trailing: dimensions behind S of what the attribute meets.
    """
    if isinstance(value, Sequence):
        seeds = torch.tensor(value, dtype=torch.get_default_dtype())
        module.register_buffer(name, seeds.view(-1, *[1] * trailing), persistent=False)
    else:
        setattr(module, name, value)


def as_tensor(value: PerSeed, seeds: int) -> Tensor:
    """The number of every seed, `[S]`."""
    return torch.as_tensor(value, dtype=torch.get_default_dtype()).expand(seeds).clone()


def as_list(value: PerSeed) -> Sequence[float]:
    """All numbers given, to be checked one by one."""
    return value if isinstance(value, Sequence) else [value]
