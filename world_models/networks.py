"""Batched networks: many independent perceptrons as one set of tensors.

A leading shape such as `(seeds,)` or `(seeds, members)` stands in front of every weight, so one
matrix product per layer serves all of them and no Python loop runs over seeds or members.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn import functional as F

from reverie.mistake import Mistake

Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Activation] = {"relu": F.relu, "silu": F.silu, "tanh": torch.tanh}
IN_PLACE: dict[str, Activation] = {
    "relu": F.relu_,
    "silu": partial(F.silu, inplace=True),
    "tanh": torch.tanh_,
}
"""The same functions written over their argument, which nobody needs where no gradient is taken."""

# Inference on a CPU takes as many rows at a time through all layers as give so many activations
# in the widest one. They stay in the caches, and two such buffers are all the memory it needs.
# Fewer go through the layers as they are: the book-keeping would take longer than the products.
_CPU_ACTIVATIONS = 2**20


def activation_named(name: str) -> Activation:
    """Look up an activation by its configuration name."""
    if name not in ACTIVATIONS:
        raise Mistake(f"activation={name!r} is unknown; use one of {sorted(ACTIVATIONS)}")
    return ACTIVATIONS[name]


class BatchedLinear(nn.Module):
    """`lead` independent affine layers: weight `[*lead, in, out]`, bias `[*lead, 1, out]`.

    Weights and biases start as in `nn.Linear`, uniform in +-1/sqrt(in); each slot draws its own.
    """

    def __init__(self, lead: Sequence[int], inputs: int, outputs: int) -> None:
        super().__init__()
        if inputs < 1 or outputs < 1:
            raise Mistake(
                f"a layer from {inputs} to {outputs} numbers cannot be built; give widths "
                "(hidden) of at least 1"
            )
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(*lead, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(*lead, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Float[Tensor, "*lead B inputs"]) -> Float[Tensor, "*lead B outputs"]:
        if self.weight.shape[-1] == 1:
            # Matrix libraries are slow at a single column, the usual output of a critic.
            return (x * self.weight.mT).sum(-1, keepdim=True) + self.bias
        # baddbmm takes exactly one batch dimension; flattening the lead is free.
        product = torch.baddbmm(
            self.bias.flatten(0, -3), x.flatten(0, -3), self.weight.flatten(0, -3)
        )
        return product.view(*x.shape[:-1], product.shape[-1])

    def of(self, slots: slice) -> tuple[Tensor, Tensor]:
        """Weight `[N, in, out]` and bias `[N, 1, out]` of some slots of the flattened lead."""
        return self.weight.flatten(0, -3)[slots], self.bias.flatten(0, -3)[slots]


class BatchedLayerNorm(nn.Module):
    """`lead` independent layer normalisations over units: scale and shift `[*lead, 1, width]`.

    Source: arXiv:1607.06450; epsilon as in Flax, which the code of ReBRAC uses.
    """

    EPSILON = 1e-6

    def __init__(self, lead: Sequence[int], width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(*lead, 1, width))
        self.shift = nn.Parameter(torch.zeros(*lead, 1, width))

    def forward(self, x: Float[Tensor, "*lead B width"]) -> Float[Tensor, "*lead B width"]:
        return torch.addcmul(
            self.shift, self.scale, F.layer_norm(x, x.shape[-1:], eps=self.EPSILON)
        )


def affine_(
    x: Float[Tensor, "N B inputs"],
    weight: Float[Tensor, "N inputs outputs"],
    bias: Float[Tensor, "N 1 outputs"],
    out: Float[Tensor, "N B outputs"],
) -> None:
    """x W + b into memory of the caller, without gradients."""
    if weight.shape[-1] == 1:
        torch.sum(x * weight.mT, -1, keepdim=True, out=out).add_(bias)
    elif len(weight) == 1:
        torch.addmm(bias[0], x[0], weight[0], out=out[0])
    else:
        torch.baddbmm(bias, x, weight, out=out)


class BatchedMLP(nn.Module):
    """`lead` independent perceptrons that share an architecture and nothing else.

    Args:
        lead: shape of the independent ones, such as `(seeds, critics)`.
        inputs, hidden, outputs: widths.
        activation: see `ACTIVATIONS`.
        layer_norm: normalise the units of every hidden layer, after their activation.
    """

    def __init__(
        self,
        lead: Sequence[int],
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        activation: str,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        widths = [inputs, *hidden, outputs]
        self.layers = nn.ModuleList(
            BatchedLinear(lead, widths[i], widths[i + 1]) for i in range(len(widths) - 1)
        )
        self.norms = nn.ModuleList(BatchedLayerNorm(lead, width) for width in hidden if layer_norm)
        self.widths = widths[1:]
        self.activation = activation_named(activation)
        self.activation_in_place = IN_PLACE[activation]

    def forward(
        self, x: Float[Tensor, "*lead B inputs"], dropout: float = 0.0
    ) -> Float[Tensor, "*lead B outputs"]:
        """Each hidden unit is left out with probability `dropout`, and the others scaled up."""
        inference = x.device.type == "cpu" and not torch.is_grad_enabled() and not is_compiling()
        large = math.prod(x.shape[:-1]) * max(self.widths) > _CPU_ACTIVATIONS
        if inference and large and not self.norms:
            return self._infer_on_cpu(x, dropout)
        activation = self.activation if torch.is_grad_enabled() else self.activation_in_place
        *hidden, last = self.layers
        for number, layer in enumerate(hidden):
            x = activation(layer(x))
            if self.norms:
                x = self.norms[number](x)
            if dropout:
                x = F.dropout(x, dropout)
        return last(x)

    def _infer_on_cpu(
        self, x: Float[Tensor, "*lead B inputs"], dropout: float
    ) -> Float[Tensor, "*lead B outputs"]:
        """The same by blocks of rows: fresh memory for every layer would cost more time."""
        lead, rows = x.shape[:-2], x.shape[-2]
        x = x.flatten(0, -3)
        out = x.new_empty(len(x), rows, self.widths[-1])
        # Threads share out whole matrices. Where one is left over, all but one thread would wait
        # for it, so that one is multiplied by itself, with all threads.
        shared = len(x) - (len(x) % torch.get_num_threads() == 1)
        for slots in (slice(0, shared), slice(shared, None)):
            if len(x[slots]):
                self._infer_slots(x[slots], slots, out[slots], dropout)
        return out.view(*lead, rows, -1)

    def _infer_slots(
        self,
        x: Float[Tensor, "N B inputs"],
        slots: slice,
        out: Float[Tensor, "N B outputs"],
        dropout: float,
    ) -> None:
        """Outputs of some of the perceptrons, into `out`."""
        width = len(x) * max(self.widths)
        blocks = max(math.ceil(x.shape[1] * width / _CPU_ACTIVATIONS), 1)
        block = max(math.ceil(x.shape[1] / blocks), 1)
        spare = x.new_empty(2, width * block)
        layers = [layer.of(slots) for layer in self.layers if isinstance(layer, BatchedLinear)]
        for values, target in zip(x.split(block, 1), out.split(block, 1), strict=True):
            for turn, (weight, bias) in enumerate(layers):
                if turn:
                    self.activation_in_place(values)
                    if dropout:
                        F.dropout(values, dropout, inplace=True)
                shape = (*values.shape[:2], weight.shape[-1])
                result = spare[turn % 2, : math.prod(shape)].view(shape)
                affine_(values, weight, bias, result)
                values = result
            target.copy_(values)


def truncated_normal_(layer: BatchedLinear) -> None:
    """Weights from a normal of std 1/(2 sqrt(in)) cut at two stds, biases zero.

    Source: MBPO's TensorFlow initialiser, arXiv:1906.08253. torch takes absolute bounds, so the
    two stds are passed explicitly; its defaults of -2 and 2 would not truncate at all.
    """
    std = 1 / (2 * math.sqrt(layer.weight.shape[-2]))
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    nn.init.zeros_(layer.bias)
