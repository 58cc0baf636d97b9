"""The precision of matrix products in MLPs during training and rollouts.

Mixed precision, arXiv:1710.03740, with bfloat16, whose range needs no scaling of losses.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, ParamSpec, TypeVar

import torch

Precision = Literal["float32", "bfloat16"]
"""Of the hidden layers. Weights, their gradients, Adam, the last layer and losses are float32."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class _Chosen:
    half = False


def in_precision(
    precision: Precision, function: Callable[Arguments, Result]
) -> Callable[Arguments, Result]:
    """A function with the perceptrons that it calls in this precision, and none after it."""
    if precision == "float32":
        return function

    def call(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        before, _Chosen.half = _Chosen.half, True
        try:
            return function(*arguments, **named)
        finally:
            _Chosen.half = before

    return call


def is_half() -> bool:
    """Whether hidden layers are to be multiplied in bfloat16 now."""
    return _Chosen.half


def hidden_products(device: torch.device) -> AbstractContextManager[torch.autocast | None]:
    """What hidden layers are called within."""
    return torch.autocast(device.type, torch.bfloat16) if _Chosen.half else nullcontext()
