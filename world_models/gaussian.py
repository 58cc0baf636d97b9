"""Gaussian MLPs for S seeds and E members as one batched network, and their training.

PETS arXiv:1805.12114, MBPO arXiv:1906.08253. Each member maps a raw input vector to a diagonal
Gaussian over a raw target vector; inputs are normalised inside, targets never, so losses and
standard deviations are in the units of the data.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.world_models.networks import (
    ActivationName,
    BatchedLayerNorm,
    BatchedLinear,
    BatchedMLP,
    normal_start_,
)
from reverie.world_models.optimiser import Adam


def soft_clamp(
    log_variance: Float[Tensor, "*lead Y"],
    low: Float[Tensor, "*bound Y"],
    high: Float[Tensor, "*bound Y"],
) -> Float[Tensor, "*lead Y"]:
    """Bend log-variances into (low, high) with gradients that never vanish abruptly.

    Source: PETS, arXiv:1805.12114, appendix A.1, upper bound first. Differs: none.
    """
    log_variance = high - F.softplus(high - log_variance)
    return low + F.softplus(log_variance - low)


def gaussian_loss(
    mean: Float[Tensor, "*lead B Y"],
    log_variance: Float[Tensor, "*lead B Y"],
    target: Float[Tensor, "*lead B Y"],
    weight: Float[Tensor, " B"],
) -> Float[Tensor, "*lead"]:
    """Mean over rows and dimensions of (mean - target)^2 exp(-l) + l, with l the log-variance.

    Twice the negative log-likelihood without its constant. `weight` is 1 for rows that count and
    0 for those that only fill up the last batch.
    """
    errors = (mean - target).square() * torch.exp(-log_variance) + log_variance
    return (errors.mean(-1) * weight).sum(-1) / weight.sum()


def members_of_rows(
    chosen: Int[Tensor, "L K B"], *values: Float[Tensor, "L E B Y"]
) -> tuple[Float[Tensor, "L K B Y"], ...]:
    """What the chosen members of each row say."""
    _, members, rows, _ = values[0].shape
    replica = torch.arange(len(chosen), device=chosen.device)[:, None, None]
    row = torch.arange(rows, device=chosen.device)
    # Whole rows by their number: a CPU takes ten times as long to gather element by element.
    index = ((replica * members + chosen) * rows + row).flatten()
    return tuple(
        each.flatten(0, 2).index_select(0, index).view(*chosen.shape, -1) for each in values
    )


class GaussianMembers(nn.Module):
    """S x E MLPs with two outputs per target dimension: mean and log-variance.

    The bounds of the log-variance are trained too, one pair of vectors per seed, shared by its
    members. Rows of training data are (input, target) side by side.

    Args:
        seeds, members: S and E.
        inputs, outputs: X and Y, lengths of input and target.
        hidden, activation: of each perceptron.
        log_variance_bounds: initial values of lower and upper bound.
        bound_coefficient: weight of sum(upper) - sum(lower) in the loss.
        weight_decay: per layer, L2 in the loss (not decoupled), weights only.
        dropout: dropout probability of hidden units in `update`; 0 for none.
        start_cut: see `normal_start_`.
        layer_norm: layer normalisation before the activation in every hidden layer; the input of
            the next layer then has a norm of at most the square root of its width.
        left_out: indices of outputs that are not learned and excluded from loss and error.
    """

    input_mean: Tensor
    input_std: Tensor
    learned: Tensor

    def __init__(
        self,
        *,
        seeds: int,
        members: int,
        inputs: int,
        outputs: int,
        hidden: Sequence[int],
        activation: ActivationName,
        log_variance_bounds: Sequence[float],
        bound_coefficient: float,
        weight_decay: Sequence[float],
        dropout: float,
        start_cut: float | None,
        layer_norm: bool = False,
        left_out: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.members, self.widths = members, [inputs, outputs]
        self.log_variance_bounds = log_variance_bounds
        self.bound_coefficient, self.weight_decay = bound_coefficient, weight_decay
        self.dropout, self.start_cut = dropout, start_cut
        learned = [output for output in range(outputs) if output not in left_out]
        self.all_learned = len(learned) == outputs
        self.register_buffer("learned", torch.tensor(learned), persistent=False)
        self.network = BatchedMLP(
            *((seeds, members), inputs, hidden, 2 * outputs, activation),
            layer_norm=layer_norm,
            norm_first=True,
        )
        self.low = nn.Parameter(torch.empty(seeds, 1, 1, outputs))
        self.high = nn.Parameter(torch.empty(seeds, 1, 1, outputs))
        self.register_buffer("input_mean", torch.zeros(seeds, 1, 1, inputs))
        self.register_buffer("input_std", torch.ones(seeds, 1, 1, inputs))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Start over: weights from torch's global generator, bounds at their initial values."""
        for layer in self.network.modules():
            if isinstance(layer, BatchedLinear):
                normal_start_(layer, self.start_cut)
            elif isinstance(layer, BatchedLayerNorm):
                layer.scale.fill_(1.0)
                layer.shift.zero_()
        self.low.fill_(self.log_variance_bounds[0])
        self.high.fill_(self.log_variance_bounds[1])

    def normalise_by(self, mean: Float[Tensor, "S X"], std: Float[Tensor, "S X"]) -> None:
        """Take over the input statistics of each seed."""
        self.input_mean.copy_(mean[:, None, None])
        self.input_std.copy_(std[:, None, None])

    def forward(
        self,
        inputs: Float[Tensor, "S E1 B X"],
        dropout: float = 0.0,
        masks: Sequence[Float[Tensor, "S 1 B _"]] = (),
    ) -> tuple[Float[Tensor, "S E B Y"], Float[Tensor, "S E B Y"]]:
        """Mean and log-variance of the target for raw inputs. E1 is 1 where members share them.

        Args:
            dropout, masks: see `BatchedMLP`.
        """
        normalised = (inputs - self.input_mean) / self.input_std
        normalised = normalised.expand(-1, self.members, -1, -1)
        mean, log_variance = self.network(normalised, dropout, masks=masks).chunk(2, -1)
        return mean, soft_clamp(log_variance, self.low, self.high)

    @torch.no_grad()
    def errors(self, rows: Float[Tensor, "S E1 B W"]) -> Float[Tensor, "S E"]:
        """Mean squared error of every member's mean over rows and dimensions, raw units."""
        inputs, target = rows.split(self.widths, -1)
        mean, _ = self(inputs)
        return self.of_learned((mean - target).square()).mean((-1, -2))

    def of_learned(self, outputs: Float[Tensor, "*lead Y"]) -> Float[Tensor, "*lead L"]:
        """Those columns that are learned."""
        return outputs if self.all_learned else outputs.index_select(-1, self.learned)

    def stochastic_means(
        self, inputs: Float[Tensor, "S E1 B X"], passes: int
    ) -> Float[Tensor, "S E K B Y"]:
        """Means of `passes` networks, each with its own hidden units left out for every row.

        Source: Monte Carlo dropout, arXiv:1506.02142.
        """
        mean, _ = self(inputs.repeat(1, 1, passes, 1), self.dropout)
        return mean.unflatten(2, (passes, -1))

    def trained_parameters(self) -> list[nn.Parameter]:
        """All trained tensors: weight and bias of each layer in turn, norms, the two bounds."""
        return [*self.network.parameters(), self.low, self.high]

    def update(
        self, optimiser: Adam, rows: Float[Tensor, "S E B W"], weight: Float[Tensor, " B"]
    ) -> Float[Tensor, " S"]:
        """One step of Adam over `trained()`; fixed shapes, no host sync.

        Minimises per seed, with e the members and k the layers,
        sum_e gaussian_loss_e + bound_coefficient (sum high - sum low)
        + sum_e,k decay_k |W_ek|^2 / 2.

        Returns the seeds' losses without their last term: it enters as its gradient, decay W,
        because evaluating it would cost one more pass over all weights.

        Source: MBPO, arXiv:1906.08253. Differs: none.
        """
        losses = self.loss(rows, weight)
        self.descend(optimiser, losses)
        return losses.detach()

    def loss(
        self, rows: Float[Tensor, "S E B W"], weight: Float[Tensor, " B"]
    ) -> Float[Tensor, " S"]:
        """What `update` minimises, without the decay of the weights."""
        inputs, target = rows.split(self.widths, -1)
        mean, log_variance = self(inputs, self.dropout)
        mean, log_variance, target = map(self.of_learned, (mean, log_variance, target))
        losses = gaussian_loss(mean, log_variance, target, weight).sum(-1)
        return losses + self.bound_penalty()

    def bound_penalty(self) -> Float[Tensor, " S"]:
        """bound_coefficient (sum high - sum low)."""
        return self.bound_coefficient * (self.high - self.low).sum((1, 2, 3))

    def descend(self, optimiser: Adam, losses: Float[Tensor, " S"]) -> None:
        """One step of Adam down the losses and the decay of the weights."""
        trained = self.trained_parameters()
        gradients = list(torch.autograd.grad(losses.sum(), trained))
        for layer, decay in enumerate(self.weight_decay):
            weights = trained[2 * layer].detach()
            gradients[2 * layer] = torch.add(gradients[2 * layer], weights, alpha=decay)
        optimiser.apply_gradients(gradients)

    def snapshot(self) -> list[Tensor]:
        """A copy of all trained tensors."""
        return [parameter.detach().clone() for parameter in self.trained_parameters()]

    def merge(
        self,
        kept: Sequence[Tensor],
        improved: Bool[Tensor, "S E"],
        running: Bool[Tensor, " S"],
    ) -> list[Tensor]:
        """A snapshot with the present weights of `improved` members and bounds of `running` seeds.

        Bounds always follow the run: all members share them, so no member's best epoch is theirs.
        """
        *network, low, high = (
            (now.detach(), then) for now, then in zip(self.trained_parameters(), kept, strict=True)
        )
        member, seed = improved[..., None, None], running[:, None, None, None]
        return [
            *(torch.where(member, now, then) for now, then in network),
            *(torch.where(seed, now, then) for now, then in (low, high)),
        ]

    @torch.no_grad()
    def restore(self, kept: Sequence[Tensor]) -> None:
        """Put a snapshot in place."""
        for parameter, value in zip(self.trained_parameters(), kept, strict=True):
            parameter.copy_(value)
