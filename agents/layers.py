"""A policy as a list of plain layers, for exports to other languages.

Each layer maps a vector to a vector; their weights are those of one seed, without a leading
dimension, or with one of members that all get the same inputs.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.world_models.networks import ACTIVATIONS, BatchedLayerNorm, BatchedLinear, BatchedMLP


@dataclass(frozen=True)
class Standardise:
    """(x - mean) / scale, both `[X]`."""

    mean: Float[Tensor, " X"]
    scale: Float[Tensor, " X"]


@dataclass(frozen=True)
class Linear:
    """x W + b with W `[*lead, X, Y]` and b `[*lead, 1, Y]`; `[X, Y]` and `[Y]` without a lead."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Activation:
    """One of `ACTIVATIONS`, `symlog` or `round` (halves to even), elementwise."""

    name: str


@dataclass(frozen=True)
class LayerNorm:
    """scale (x - mean) / sqrt(variance + epsilon) + shift, moments over the row.

    Scale and shift are `[*lead, 1, X]`; `[X]` without a lead.
    """

    scale: Float[Tensor, "*lead X"]
    shift: Float[Tensor, "*lead X"]
    epsilon: float


Layer = Standardise | Linear | Activation | LayerNorm


def perceptron_layers(body: BatchedMLP, slot: int | tuple[int, ...], outputs: int) -> list[Layer]:
    """One perceptron of a set.

    Args:
        slot: which one along the lead, an index for each of its dimensions.
        outputs: only the first so many are kept.
    """
    (activation,) = (name for name, each in ACTIVATIONS.items() if each is body.activation)
    found: list[Layer] = []
    for number, layer in enumerate(body.layers):
        assert isinstance(layer, BatchedLinear)
        kept = outputs if number == len(body.layers) - 1 else None
        weight, bias = (each.detach().cpu()[slot] for each in (layer.weight, layer.bias))
        found.append(Linear(weight[:, :kept], bias[0, :kept]))
        hidden: list[Layer] = [] if kept is not None else [Activation(activation)]
        if kept is None and body.norms:
            norm = body.norms[number]
            assert isinstance(norm, BatchedLayerNorm)
            scale, shift = (each.detach().cpu()[slot][0] for each in (norm.scale, norm.shift))
            place = 0 if body.norm_first else 1
            hidden.insert(place, LayerNorm(scale, shift, norm.EPSILON))
        found += hidden
    return found


def folded(layer: Linear, constant: Float[Tensor, " K"]) -> Linear:
    """The layer without its last K inputs, which always are these numbers."""
    rows = len(constant)
    weight, bias = layer.weight.double(), layer.bias.double()
    bias = bias + constant.detach().cpu().double() @ weight[-rows:]
    return Linear(layer.weight[:-rows], bias.to(torch.float32))
