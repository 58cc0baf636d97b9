"""Adam as a module: per-seed losses in, one backward pass for all seeds, state in `state_dict`.

Adam: arXiv:1412.6980. `torch.optim` objects keep their moments outside modules and break a
compiled update into pieces; here the moments are buffers and the arithmetic is still torch's own.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.adam import adam


class Adam(nn.Module):
    """Adam over parameters that each carry a leading seed dimension.

    Args:
        parameters: what to train. Held by reference, not registered here a second time.
        learning_rate: step size.
        cosine_steps: anneal the learning rate to zero along half a cosine over this many steps,
            lowered once every `cosine_every` steps; None keeps it constant.
        cosine_every: steps between two changes of an annealed learning rate.
        betas, eps: as in the paper.
    """

    learning_rate: Tensor
    steps: Tensor

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        cosine_steps: int | None = None,
        cosine_every: int = 1000,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__()
        # A tuple hides the parameters from nn.Module, which would list them twice otherwise.
        self.targets: tuple[nn.Parameter, ...] = tuple(parameters)
        self.betas, self.eps = betas, eps
        self.cosine_steps, self.cosine_every = cosine_steps, cosine_every
        self.register_buffer("learning_rate", torch.tensor(learning_rate))
        # fused Adam advances every entry by one, so each parameter needs its own counter.
        self.register_buffer("steps", torch.zeros(len(self.targets)))
        for i, parameter in enumerate(self.targets):
            self.register_buffer(f"mean_{i}", torch.zeros_like(parameter))
            self.register_buffer(f"square_{i}", torch.zeros_like(parameter))

    @property
    def annealed(self) -> bool:
        """Whether the learning rate follows a schedule."""
        return self.cosine_steps is not None

    def step(self, losses: Float[Tensor, " S"]) -> None:
        """Back-propagate losses `[S]`, one per seed, and move the parameters once."""
        if losses.ndim != 1 or losses.shape[0] != self.targets[0].shape[0]:
            raise ValueError(
                f"the optimiser takes one loss per seed, shape [{self.targets[0].shape[0]}], "
                f"got {list(losses.shape)}; reduce over everything but the seed dimension"
            )
        # Summing keeps seeds apart: d(sum)/d(loss of one seed) is exactly one.
        self.apply_gradients(torch.autograd.grad(losses.sum(), self.targets))

    @torch.no_grad()
    def apply_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Move the parameters along given gradients, in the order of `targets`."""
        compiling = torch.compiler.is_compiling()
        adam(
            list(self.targets),
            # The fused kernel walks memory in order and silently misreads anything strided.
            [gradient.contiguous() for gradient in gradients],
            [getattr(self, f"mean_{i}") for i in range(len(self.targets))],
            [getattr(self, f"square_{i}") for i in range(len(self.targets))],
            [],
            list(self.steps.unbind()),
            # The compiler fuses the plain arithmetic itself and cannot look into a fused kernel.
            foreach=compiling,
            capturable=compiling,
            fused=not compiling,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=self.current_learning_rate(),
            weight_decay=0.0,
            eps=self.eps,
            maximize=False,
        )

    def current_learning_rate(self) -> Tensor:
        """The step size of the next step, a scalar tensor."""
        if self.cosine_steps is None:
            return self.learning_rate
        done = (self.steps[0] / self.cosine_every).floor() * self.cosine_every
        progress = (done / self.cosine_steps).clamp(max=1.0)
        return self.learning_rate * 0.5 * (1 + torch.cos(math.pi * progress))


class WarmupCosine(Adam):
    """Adam whose step size rises from `start` to its peak, then falls to zero.

    Args:
        start: step size of the first update.
        warmup: updates of the linear rise.
        steps: updates in all; those after the rise follow half a cosine.
        others: see `Adam`.
    """

    def __init__(
        self, *parameters: Any, start: float, warmup: int, steps: int, **others: Any
    ) -> None:
        super().__init__(*parameters, **others)
        self.start, self.warmup, self.total = start, warmup, steps

    @property
    def annealed(self) -> bool:
        return True

    def current_learning_rate(self) -> Tensor:
        done, peak = self.steps[0], self.learning_rate
        rising = self.start + (peak - self.start) * done / max(self.warmup, 1)
        progress = ((done - self.warmup) / (self.total - self.warmup)).clamp(0.0, 1.0)
        return torch.where(
            done < self.warmup, rising, peak * 0.5 * (1 + torch.cos(math.pi * progress))
        )


def clip_gradients(gradients: Sequence[Tensor], norm: float | None) -> list[Tensor]:
    """Gradients, scaled so that their common norm is at most `norm`."""
    if norm is None:
        return list(gradients)
    length = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    scale = (norm / length).clamp(max=1.0)
    return [gradient * scale for gradient in gradients]


def clip_each_seed(
    gradients: Sequence[Tensor], norm: float
) -> tuple[list[Tensor], Float[Tensor, " S"]]:
    """Gradients `[S, ...]`, those of each seed scaled so that their own norm is at most `norm`.

    Returns:
        The gradients, and the norm of each seed's before.
    """
    length = torch.stack([each.flatten(1).square().sum(1) for each in gradients]).sum(0).sqrt()
    scale = (norm / length).clamp(max=1.0)
    clipped = [each * scale.view(-1, *[1] * (each.ndim - 1)) for each in gradients]
    return clipped, length
