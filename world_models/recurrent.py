"""Gated recurrent networks with Gaussian outputs, all seeds as one set of tensors.

GRU arXiv:1406.1078. The stack of units, residual blocks and heads is that of ADMPO,
arXiv:2405.17031.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.world_models.fitting import Weights
from reverie.world_models.gaussian import gaussian_loss, soft_clamp
from reverie.world_models.networks import BatchedLayerNorm, BatchedLinear
from reverie.world_models.optimiser import Adam


class BatchedGRUCell(nn.Module):
    """`lead` independent gated recurrent units; torch's own have no leading dimension."""

    def __init__(self, lead: Sequence[int], inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        # Reset gate, update gate and candidate, side by side.
        self.of_input = BatchedLinear(lead, inputs, 3 * width)
        self.of_hidden = BatchedLinear(lead, width, 3 * width)

    def forward(
        self, x: Float[Tensor, "*lead B inputs"], hidden: Float[Tensor, "*lead B width"]
    ) -> Float[Tensor, "*lead B width"]:
        """The hidden state after one more input.

        r, z = sigmoid(W_rz x + U_rz h),  n = tanh(W_n x + r * U_n h),  h' = z h + (1 - z) n.

        Source: arXiv:1406.1078 in the form of torch, where r scales the product U_n h.
        """
        widths = [2 * self.width, self.width]
        gates, candidate = self.of_input(x).split(widths, -1)
        of_hidden, recalled = self.of_hidden(hidden).split(widths, -1)
        reset, update = torch.sigmoid(gates + of_hidden).chunk(2, -1)
        return torch.lerp(torch.tanh(candidate + reset * recalled), hidden, update)


class ResidualBlock(nn.Module):
    """`lead` independent maps x -> LayerNorm(x + dropout(silu(W x)))."""

    def __init__(self, lead: Sequence[int], width: int) -> None:
        super().__init__()
        self.linear = BatchedLinear(lead, width, width)
        self.norm = BatchedLayerNorm(lead, width)

    def forward(
        self, x: Float[Tensor, "*lead B width"], dropout: float
    ) -> Float[Tensor, "*lead B width"]:
        """Leaves units out with this probability, 0 for none."""
        added = F.silu(self.linear(x))
        return self.norm(x + (F.dropout(added, dropout) if dropout else added))


class MemoryNetwork(nn.Module, Weights, ABC):
    """`lead` networks that read one input after another and have a memory.

    Each predicts a diagonal Gaussian. Inputs and outputs are raw; inside, both are
    standardised. The bounds of the log-variance are trained too.

    Args:
        lead: shape of the independent networks, `(seeds,)` or `(seeds, members)`.
        inputs, outputs: X and Y.
        memory: H, size of the memory.
        log_variance_bounds: initial values of lower and upper bound.
        bound_coefficient: weight of sum(upper) - sum(lower) in the loss.
        left_out: indices of outputs that are not learned and excluded from loss and error.
    """

    input_mean: Tensor
    input_std: Tensor
    output_mean: Tensor
    output_std: Tensor
    learned: Tensor

    def __init__(
        self,
        *,
        lead: Sequence[int],
        inputs: int,
        outputs: int,
        memory: int,
        log_variance_bounds: Sequence[float],
        bound_coefficient: float,
        left_out: Sequence[int],
    ) -> None:
        super().__init__()
        self.memory, self.bound_coefficient = memory, bound_coefficient
        low, high = log_variance_bounds
        self.low = nn.Parameter(torch.full((*lead, 1, outputs), low))
        self.high = nn.Parameter(torch.full((*lead, 1, outputs), high))
        for name, size in (("input", inputs), ("output", outputs)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))
        learned = [output for output in range(outputs) if output not in left_out]
        self.register_buffer("learned", torch.tensor(learned), persistent=False)

    def normalise_by(self, inputs: tuple[Tensor, Tensor], outputs: tuple[Tensor, Tensor]) -> None:
        """Take over mean and std `[X]` of the inputs, `[Y]` of the outputs."""
        for name, (mean, std) in (("input", inputs), ("output", outputs)):
            getattr(self, f"{name}_mean").copy_(mean)
            getattr(self, f"{name}_std").copy_(std)

    def begin(self, obs: Float[Tensor, "*lead B D"]) -> Float[Tensor, "*lead B H"]:
        """What is remembered before the first input, whose raw observation this is: zeros."""
        return obs.new_zeros(*obs.shape[:-1], self.memory)

    @abstractmethod
    def advance(
        self,
        raw: Float[Tensor, "*lead B X"],
        hidden: Float[Tensor, "*lead B H"],
        dropout: float = 0.0,
    ) -> tuple[Float[Tensor, "*lead B Y"], Float[Tensor, "*lead B Y"], Float[Tensor, "*lead B H"]]:
        """Mean and log-variance after one more input, in units of the outputs' std, and memory.

        Args:
            dropout: probability that a unit is left out, of networks that can.
        """

    def bound_penalty(self) -> Float[Tensor, "*lead"]:
        """bound_coefficient (sum high - sum low)."""
        return self.bound_coefficient * (self.high - self.low).sum((-1, -2))


class RecurrentGaussian(MemoryNetwork):
    """Reads sequences and predicts a diagonal Gaussian after each one's last input.

    Inputs and outputs are raw; inside, both are standardised. The bounds of the log-variance are
    trained too.

    Args:
        lead: shape of the independent networks, `(seeds,)` or `(seeds, members)`; it stands for L
            below.
        inputs, outputs: X and Y.
        width, layers: of the recurrent units.
        blocks: residual blocks after them.
        dropout: dropout probability in the blocks, in `loss`.
        log_variance_bounds: initial values of lower and upper bound.
        bound_coefficient: weight of sum(upper) - sum(lower) in the loss.
        left_out: indices of outputs that are not learned and excluded from loss and error.
    """

    def __init__(
        self,
        *,
        lead: Sequence[int],
        inputs: int,
        outputs: int,
        width: int,
        layers: int,
        blocks: int,
        dropout: float,
        log_variance_bounds: Sequence[float],
        bound_coefficient: float,
        left_out: Sequence[int],
    ) -> None:
        super().__init__(
            lead=lead,
            inputs=inputs,
            outputs=outputs,
            memory=width * layers,
            log_variance_bounds=log_variance_bounds,
            bound_coefficient=bound_coefficient,
            left_out=left_out,
        )
        self.width, self.dropout = width, dropout
        sizes = [inputs, *[width] * layers]
        self.cells = nn.ModuleList(
            BatchedGRUCell(lead, sizes[layer], width) for layer in range(layers)
        )
        self.blocks = nn.ModuleList(ResidualBlock(lead, width) for _ in range(blocks))
        self.heads = BatchedLinear(lead, width, 2 * outputs)

    def standardised(
        self, sequence: Sequence[Float[Tensor, "L _ X"]], dropout: float = 0.0
    ) -> tuple[Float[Tensor, "L B Y"], Float[Tensor, "L B Y"]]:
        """Mean and log-variance after the last input, in units of the outputs' std.

        Args:
            sequence: inputs in order. One may hold more rows than that before it: those behind
                begin their sequence there, so that sequences of several lengths end together.
            dropout: dropout probability in the blocks.
        """
        first = sequence[0]
        hidden = [first.new_zeros(*first.shape[:-2], 0, self.width) for _ in self.cells]
        x = first
        for raw in sequence:
            x = (raw - self.input_mean) / self.input_std
            for layer, cell in enumerate(self.cells):
                begun = raw.shape[-2] - hidden[layer].shape[-2]
                x = hidden[layer] = cell(x, F.pad(hidden[layer], (0, 0, 0, begun)))
        return self._answer(x, dropout)

    def _answer(self, x: Tensor, dropout: float) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            x = block(x, dropout)
        mean, log_variance = self.heads(x).chunk(2, -1)
        return mean, soft_clamp(log_variance, self.low, self.high)

    def advance(
        self,
        raw: Float[Tensor, "*lead B X"],
        hidden: Float[Tensor, "*lead B H"],
        dropout: float = 0.0,
    ) -> tuple[Float[Tensor, "*lead B Y"], Float[Tensor, "*lead B Y"], Float[Tensor, "*lead B H"]]:
        """Mean and log-variance after one more input, and the hidden state; see `standardised`.

        Args:
            hidden: of all layers side by side, H = layers x width; zeros before the first input.
        """
        x = (raw - self.input_mean) / self.input_std
        following = []
        for cell, before in zip(self.cells, hidden.split(self.width, -1), strict=True):
            x = cell(x, before)
            following.append(x)
        return *self._answer(x, dropout), torch.cat(following, -1)

    def forward(
        self, sequence: Sequence[Float[Tensor, "L _ X"]], dropout: float = 0.0
    ) -> tuple[Float[Tensor, "L B Y"], Float[Tensor, "L B Y"]]:
        """Mean and standard deviation in raw units; see `standardised`.

        Outputs that are not learned have mean and std 0.
        """
        mean, log_variance = self.standardised(sequence, dropout)
        learned = torch.zeros_like(self.output_std).index_fill(0, self.learned, 1.0)
        mean = (mean * self.output_std + self.output_mean) * learned
        return mean, log_variance.mul(0.5).exp() * self.output_std * learned

    def _residuals(
        self, sequence: Sequence[Tensor], target: Tensor, dropout: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, log-variance and target of the learned outputs, standardised."""
        target = (target - self.output_mean) / self.output_std
        answers = (*self.standardised(sequence, dropout), target)
        mean, log_variance, target = (each.index_select(-1, self.learned) for each in answers)
        return mean, log_variance, target

    def loss(
        self, sequence: Sequence[Float[Tensor, "L B X"]], target: Float[Tensor, "L B Y"]
    ) -> Float[Tensor, " L"]:
        """mean((mu - y)^2 exp(-l) + l) + bound_coefficient (sum high - sum low), l log-variances.

        Source: ADMPO, arXiv:2405.17031. Differs: y is standardised.
        """
        mean, log_variance, target = self._residuals(sequence, target, self.dropout)
        losses = gaussian_loss(mean, log_variance, target, target.new_ones(target.shape[-2]))
        return losses + self.bound_penalty()

    @torch.no_grad()
    def errors(
        self, sequence: Sequence[Float[Tensor, "L B X"]], target: Float[Tensor, "L B Y"]
    ) -> Float[Tensor, " L"]:
        """Mean squared error of the mean over rows and learned outputs, in their variances."""
        mean, _, target = self._residuals(sequence, target, 0.0)
        return (mean - target).square().mean((-1, -2))

    def update(
        self,
        optimiser: Adam,
        sequence: Sequence[Float[Tensor, "L B X"]],
        target: Float[Tensor, "L B Y"],
    ) -> Float[Tensor, " L"]:
        """One step of Adam over all parameters; fixed shapes, no host sync."""
        with torch.enable_grad():
            losses = self.loss(sequence, target)
            optimiser.step(losses)
        return losses.detach()
