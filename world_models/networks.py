"""Batched networks: many independent MLPs as one set of tensors.

Every weight has a leading shape such as `(seeds,)` or `(seeds, members)`, so one matrix product per
layer computes all of them and no Python loop runs over seeds or members.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn import functional as F

from reverie.mistake import Mistake
from reverie.world_models.precision import hidden_products, is_half

Activation = Callable[[Tensor], Tensor]
ActivationName = Literal["relu", "silu", "tanh", "gelu", "leaky_relu"]


def gelu(x: Tensor) -> Tensor:
    """x Phi(x) with the usual approximation of the normal's Phi by a tanh, which is Flax's gelu."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[ActivationName, Activation] = {
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "gelu": gelu,
    "leaky_relu": F.leaky_relu,
}
IN_PLACE: dict[ActivationName, Activation] = {
    "relu": F.relu_,
    "silu": partial(F.silu, inplace=True),
    "tanh": torch.tanh_,
    "gelu": lambda x: x.copy_(gelu(x)),  # torch has none in place
    "leaky_relu": F.leaky_relu_,
}
"""The same functions written over their argument, which nobody needs where no gradient is taken."""
FROM_OUTPUT = ("relu", "tanh", "leaky_relu")
"""Those whose derivative comes from their result, so that nobody needs the argument at all."""

_NARROW = 16
"""Outputs of a layer up to which products are arranged for them."""

# Inference on a CPU takes as many rows at a time through all layers as give so many activations
# in the widest one. They stay in the caches, and two such buffers are all the memory it needs.
# Fewer go through the layers as they are: the book-keeping would take longer than the products.
_CPU_ACTIVATIONS = 2**20


def activation_named(name: ActivationName) -> Activation:
    """Look up an activation by its configuration name."""
    if name not in ACTIVATIONS:
        raise Mistake(f"activation={name!r} is unknown; use one of {sorted(ACTIVATIONS)}")
    return ACTIVATIONS[name]


class BatchedLinear(nn.Module):
    """`lead` independent affine layers: weight `[*lead, in, out]`, bias `[*lead, 1, out]`.

    Weights and biases are initialised as in `nn.Linear`, uniform in +-1/sqrt(in), independently.
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

    def forward(
        self, x: Float[Tensor, "*part B inputs"], first: int | None = None
    ) -> Float[Tensor, "*part B outputs"]:
        """All layers, or the first so many along the last dimension of the lead."""
        product = self.flat(x.flatten(0, -3), first)
        return product.view(*x.shape[:-1], product.shape[-1])

    def flat(
        self, rows: Float[Tensor, "N B inputs"], first: int | None = None
    ) -> Float[Tensor, "N B outputs"]:
        """The same with the lead as the one dimension that products take; flattening is free."""
        slots = slice(first)
        weight, bias = (each[..., slots, :, :].flatten(0, -3) for each in (self.weight, self.bias))
        narrow = weight.shape[-1] <= _NARROW and rows.device.type == "cpu"
        if narrow and not is_compiling() and not torch.is_autocast_enabled("cpu"):
            return _NarrowProduct.apply(rows, weight) + bias
        if weight.shape[-1] == 1:
            # Matrix libraries are slow at a single column, the usual output of a critic.
            return (rows * weight.mT).sum(-1, keepdim=True) + bias
        return torch.baddbmm(bias, rows, weight)

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

    def forward(
        self, x: Float[Tensor, "*part B width"], first: int | None = None
    ) -> Float[Tensor, "*part B width"]:
        """Of all, or of the `first` ones along the last dimension of the lead."""
        part = slice(first)
        scale, shift = (each[..., part, :, :] for each in (self.scale, self.shift))
        return torch.addcmul(shift, scale, F.layer_norm(x, x.shape[-1:], eps=self.EPSILON))


class _NarrowProduct(torch.autograd.Function):
    """x W `[N, B, Y]` for few columns Y, at which matrix libraries are slow.

    They are several times faster where the long side of a factor lies in order in memory: W
    transposed in the product, and the gradient of W transposed as a whole.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        if weight.shape[-1] == 1:
            return (x * weight.mT).sum(-1, keepdim=True)
        return torch.bmm(x, weight.mT.contiguous().mT)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            one = weight.shape[-1] == 1
            of_x = gradient * weight.mT if one else torch.bmm(gradient, weight.mT)
        if ctx.needs_input_grad[1]:
            of_weight = torch.bmm(gradient.mT, x).mT.contiguous()
        return of_x, of_weight


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
    """`lead` independent MLPs of the same architecture.

    Args:
        lead: shape of the independent ones, such as `(seeds, critics)`.
        inputs, hidden, outputs: widths.
        activation: see `ACTIVATIONS`.
        layer_norm: normalise the units of every hidden layer, after their activation.
        norm_first: before it instead.
    """

    def __init__(
        self,
        lead: Sequence[int],
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        activation: ActivationName,
        layer_norm: bool = False,
        norm_first: bool = False,
    ) -> None:
        super().__init__()
        widths = [inputs, *hidden, outputs]
        self.layers = nn.ModuleList(
            BatchedLinear(lead, widths[i], widths[i + 1]) for i in range(len(widths) - 1)
        )
        self.norms = nn.ModuleList(BatchedLayerNorm(lead, width) for width in hidden if layer_norm)
        self.norm_first = norm_first
        self.widths = widths[1:]
        self.activation = activation_named(activation)
        self.activation_in_place = IN_PLACE[activation]
        self.from_output = activation in FROM_OUTPUT

    def forward(
        self,
        x: Float[Tensor, "*part B inputs"],
        dropout: float = 0.0,
        first: int | None = None,
        masks: Sequence[Tensor] = (),
    ) -> Float[Tensor, "*part B outputs"]:
        """What the perceptrons say.

        Args:
            dropout: probability that a hidden unit is left out; the others are scaled up.
            first: only so many perceptrons along the last dimension of the lead.
            masks: what the units of each hidden layer are multiplied by; each broadcasts against
                `[*part, B, width]`.
        """
        inference = x.device.type == "cpu" and not torch.is_grad_enabled() and not is_compiling()
        wide = math.prod(x.shape[:-1]) * max(self.widths) > _CPU_ACTIVATIONS
        if inference and wide and first is None and not self.norms and not masks:
            return self._infer_on_cpu(x, dropout)
        # In place wherever that is possible: fresh memory would cost more than the function. The
        # compiler sees to that itself.
        in_place = not torch.is_grad_enabled() or (self.from_output and not is_compiling())
        activation = self.activation_in_place if in_place else self.activation
        layers = [layer for layer in self.layers if isinstance(layer, BatchedLinear)]
        lead, rows = x.shape[:-1], x.flatten(0, -3)
        with hidden_products(x.device):
            for number, layer in enumerate(layers[:-1]):
                rows = layer.flat(rows, first)
                if not self.norm_first:
                    rows = activation(rows)
                if self.norms:
                    rows = self.norms[number](rows.unflatten(0, lead[:-1]), first).flatten(0, -3)
                if self.norm_first:
                    rows = activation(rows)
                if dropout:
                    rows = F.dropout(rows, dropout)
                if masks:
                    kept = masks[number].to(rows.dtype)
                    rows = (rows.unflatten(0, lead[:-1]) * kept).flatten(0, -3)
        return layers[-1].flat(rows.to(x.dtype), first).view(*lead, self.widths[-1])

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
        kind = torch.bfloat16 if is_half() else x.dtype
        spare = x.new_empty(2, width * block, dtype=kind)
        layers = [layer.of(slots) for layer in self.layers if isinstance(layer, BatchedLinear)]
        *hidden, last = layers
        layers = [*((weight.to(kind), bias.to(kind)) for weight, bias in hidden), last]
        for values, target in zip(x.split(block, 1), out.split(block, 1), strict=True):
            for turn, (weight, bias) in enumerate(layers):
                if turn:
                    self.activation_in_place(values)
                    if dropout:
                        F.dropout(values, dropout, inplace=True)
                shape = (*values.shape[:2], weight.shape[-1])
                if weight.dtype == kind:
                    result = spare[turn % 2, : math.prod(shape)].view(shape)
                else:  # the last layer of hidden ones in half precision
                    result = weight.new_empty(shape)
                affine_(values.to(weight.dtype), weight, bias, result)
                values = result
            target.copy_(values)


@torch.no_grad()
def orthogonal_start_(body: BatchedMLP, gain: float) -> None:
    """Weights orthogonal times a gain, each slot its own draw; biases zero.

    Args:
        gain: singular value of every weight matrix.

    Source: arXiv:1312.6120, as initialised by Flax in much code of offline learning.
    """
    for layer in body.layers:
        assert isinstance(layer, BatchedLinear)
        *lead, inputs, outputs = layer.weight.shape
        tall = torch.randn(*lead, max(inputs, outputs), min(inputs, outputs))
        basis, corner = torch.linalg.qr(tall)
        # Of the two signs of each direction QR always takes one; a uniform draw takes either.
        basis = basis * corner.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
        layer.weight.copy_(gain * (basis if inputs >= outputs else basis.mT))
        layer.bias.zero_()


def normal_start_(layer: BatchedLinear, cut: float | None) -> None:
    """Weights from a normal of std 1/(2 sqrt(in)), biases zero.

    Args:
        cut: standard deviations at which the normal is cut, None for a whole one.

    Source: MBPO's TensorFlow initialiser, arXiv:1906.08253, which cuts at two. torch takes absolute
    bounds; its defaults of -2 and 2 would not truncate at all.
    """
    std = 1 / (2 * math.sqrt(layer.weight.shape[-2]))
    if cut is None:
        nn.init.normal_(layer.weight, std=std)
    else:
        nn.init.trunc_normal_(layer.weight, std=std, a=-cut * std, b=cut * std)
    nn.init.zeros_(layer.bias)
