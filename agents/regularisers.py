"""Regularisers of critics, for any agent that has critics: small Lipschitz constants.

arXiv:2302.01244 claims that a single world model does as well as an ensemble if the critics'
Lipschitz constant is limited, by the spectral norms of their weights or with adversarial states.
Its exact losses could not be read; these are the standard forms of each.

An agent builds one with its critics and calls `prepare` once; then, in every critic update, it adds
`penalty` to their loss, takes the step, and calls `project_`.
"""

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reverie.agents.networks import Critics
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.envs.termination import rule_for_spec
from reverie.mistake import Mistake
from reverie.ranges import Count, NonNegative, Positive, Range, Whole

Ends = Callable[[Tensor, Tensor], Tensor]
"""`(obs [*, D], action [*, A]) -> ended [*]`, observations as critics are given them."""


def endings(spec: Spec, physical: Callable[[Tensor], Tensor] | None = None) -> Ends | None:
    """Whether the task has terminated in a state; None where its rule is not known.

    Args:
        spec: of the task.
        physical: from observations as the critics are given them to those of the task.
    """
    rule = rule_for_spec(spec)
    if rule is None:
        return None

    def ends(obs: Tensor, action: Tensor) -> Tensor:
        state = obs if physical is None else physical(obs)
        return rule(state, action, state)

    return ends


class Regulariser(nn.Module):
    """No regularisation; the base class of the regularisers.

    Args:
        critics: what is regularised. Only its shapes and current weights are read: an agent
            passes it to every call, and it is not part of the regulariser's own state.
        ends: the task's termination rule, see `endings`.
    """

    def __init__(self, *, critics: Critics, ends: Ends | None) -> None:
        super().__init__()

    def prepare(
        self, obs: Float[Tensor, "N D"], standardise: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Take statistics of the dataset's observations.

        Args:
            standardise: what makes of them what the critics are given; None for nothing.
        """

    def penalty(
        self, critics: Critics, batch: Transition, prediction: Float[Tensor, "S N B"]
    ) -> Float[Tensor, " S"] | float:
        """What is added to the critic loss, 0.0 for nothing.

        Args:
            batch: observations as the critics are given them.
            prediction: Q_1..Q_N(s, a) of the batch, with its gradient.
        """
        return 0.0

    def project_(self, critics: Critics) -> dict[str, Float[Tensor, " S"]]:
        """Change the critics in place after each step of theirs; returns measurements."""
        return {}


class SpectralNorm(Regulariser):
    """Limits the largest singular value sigma of the critics' weight matrices.

    penalty = coefficient sum_{critics, layers} sigma^power, and after every step
    W <- W / max(1, sigma / cap), or W <- W cap / sigma with `normalise`.

    A perceptron of 1-Lipschitz activations changes by at most prod_l sigma_l |dx|_2. sigma comes
    from a power iteration that starts from its last vectors, `iterations` steps per update, so it
    is always slightly too small while the weights change. Biases are not regularised.

    Args:
        critics, ends: see `Regulariser`.
        coefficient: weight of the penalty; 0 omits it.
        power: of sigma in the penalty, 1 or 2.
        cap: beta, None for none. Matrices below it are not changed at all.
        normalise: bring every matrix to the cap, also the smaller ones.
        layers: linear layers concerned, counted from 0, negative from the last; None for all.
        iterations: steps of the power iteration per update.
        warmup: steps at the start.

    Source: arXiv:2302.01244 for the idea; power iteration as in arXiv:1802.05957.
    """

    def __init__(
        self,
        *,
        critics: Critics,
        ends: Ends | None,
        coefficient: NonNegative,
        power: Annotated[int, Range(1, 2)],
        cap: Positive | None,
        normalise: bool,
        layers: Sequence[Annotated[int, Range()]] | None,
        iterations: Count,
        warmup: Count,
    ) -> None:
        super().__init__(critics=critics, ends=ends)
        if critics.body.norms:
            raise Mistake(
                "regulariser=spectral would bound nothing: agent.critic_layer_norm=true makes the "
                "size of the critics' weights irrelevant; set agent.critic_layer_norm=false, or "
                "regulariser=none"
            )
        weights = _weights(critics)
        count = len(weights)
        chosen = list(range(count)) if layers is None else list(layers)
        if not chosen or not all(-count <= layer < count for layer in chosen):
            raise Mistake(
                f"agent.regulariser.layers={layers} must name layers from {-count} to "
                f"{count - 1}, the critics have {count}; null takes all"
            )
        _require(coefficient >= 0, "coefficient", coefficient, "must not be negative")
        _require(power in (1, 2), "power", power, "must be 1 or 2")
        _require(cap is None or cap > 0, "cap", cap, "must be positive; null sets none")
        _require(
            not normalise or cap is not None,
            "normalise",
            normalise,
            "needs the norm to aim for; set agent.regulariser.cap, for example 1",
        )
        _require(min(iterations, warmup) >= 1, "iterations", iterations, "and warmup: at least 1")
        self.coefficient, self.power, self.cap, self.normalise = coefficient, power, cap, normalise
        self.layers = sorted({layer % count for layer in chosen})
        self.iterations = iterations
        # A generator of its own: a regulariser must not change what the agent draws.
        generator = torch.Generator().manual_seed(0)
        for i, weight in enumerate(weights):
            for side, size in (("left", weight.shape[-2]), ("right", weight.shape[-1])):
                start = torch.randn(*weight.shape[:-2], size, 1, generator=generator)
                self.register_buffer(f"{side}_{i}", start / start.norm(dim=-2, keepdim=True))
            self._iterate(i, weight.detach(), warmup)
        self.project_(critics)

    def norms(self, critics: Critics) -> list[Float[Tensor, "S N"]]:
        """sigma of every layer at the present vectors, with the gradient u v^T."""
        return [
            (self._vectors(i)[0] * (weight @ self._vectors(i)[1])).sum((-1, -2))
            for i, weight in enumerate(_weights(critics))
        ]

    def penalty(
        self, critics: Critics, batch: Transition, prediction: Float[Tensor, "S N B"]
    ) -> Float[Tensor, " S"] | float:
        """coefficient sum_{critics, layers} sigma^power."""
        if self.coefficient == 0:
            return 0.0
        norms = self.norms(critics)
        chosen = torch.stack([norms[layer] for layer in self.layers])
        return self.coefficient * chosen.pow(self.power).sum((0, 2))

    @torch.no_grad()
    def project_(self, critics: Critics) -> dict[str, Float[Tensor, " S"]]:
        """Follow the weights by the power iteration, then rescale those of the chosen layers.

        Returns:
            `spectral_bound`: product of sigma over all layers, the largest critic's. With a cap
            `spectral_capped`: share of the chosen matrices that the step had left at or above it.
        """
        weights = _weights(critics)
        for i, weight in enumerate(weights):
            self._iterate(i, weight, self.iterations)
        norms = self.norms(critics)
        measured = {}
        if self.cap is not None:
            capped = torch.stack([norms[layer] for layer in self.layers]) >= self.cap
            measured["spectral_capped"] = capped.to(norms[0].dtype).mean((0, 2))
            for layer in self.layers:
                over = norms[layer] / self.cap
                over = torch.where(over > 0, over, 1.0) if self.normalise else over.clamp(min=1.0)
                weights[layer].div_(over[..., None, None])
                norms[layer] = norms[layer] / over
        return {"spectral_bound": torch.stack(norms).prod(0).amax(1), **measured}

    def _vectors(self, layer: int) -> tuple[Tensor, Tensor]:
        """Left and right singular vector, [S, N, in, 1] and [S, N, out, 1]."""
        return self.get_buffer(f"left_{layer}"), self.get_buffer(f"right_{layer}")

    @torch.no_grad()
    def _iterate(self, layer: int, weight: Tensor, steps: int) -> None:
        left, right = self._vectors(layer)
        for _ in range(steps):
            right.copy_(_unit(weight.mT @ left, right))
            left.copy_(_unit(weight @ right, left))


class AdversarialRobustness(Regulariser):
    """Penalises the change of each critic's value under the worst small change of the state.

    penalty = coefficient sum_i mean_b ( (Q_i(s + d_i, a) - Q_i(s, a)) / e )^2, d_i the
    perturbation within radius e that changes Q_i(s, a) most; without `slope` not divided by e.

    d_i is a constant; both values keep their gradient. Perturbations are in units of the
    dataset's standard deviation of each dimension, so constant dimensions are not perturbed.

    Args:
        critics, ends: see `Regulariser`.
        coefficient: weight of the penalty; 0 omits it.
        attack: how d is found. `fgsm`: the better of the two first-order moves, along and
            against the gradient of Q. `pgd`: gradient ascent on the squared change from a random
            start. `uniform`: the best of random draws.
        norm: of the ball, `linf` or `l2`.
        radius: e at the end of its schedule, standard deviations.
        radius_start: e at the first update.
        radius_updates: updates of the critics over which e goes linearly from `radius_start` to
            `radius`; 0 for `radius` throughout.
        slope: divide the change by e, so that the coefficient weighs a squared slope.
        steps, step_size: of `pgd`; each step is `step_size` e / `steps` long.
        draws: of `uniform`.
        spare_endings: transitions whose perturbed state is terminal contribute nothing, because the
            value is discontinuous there. Applies if the task's rule is known.

    Source: arXiv:2302.01244 for the idea; FGSM arXiv:1412.6572, PGD arXiv:1706.06083, best of
    uniform draws RORL arXiv:2206.02829.
    """

    ATTACKS = ("fgsm", "pgd", "uniform")
    NORMS = ("linf", "l2")
    scale: Tensor
    updates: Tensor

    def __init__(
        self,
        *,
        critics: Critics,
        ends: Ends | None,
        coefficient: NonNegative,
        attack: str,
        norm: str,
        radius: Positive,
        radius_start: NonNegative,
        radius_updates: Whole,
        slope: bool,
        steps: Count,
        step_size: Positive,
        draws: Count,
        spare_endings: bool,
    ) -> None:
        super().__init__(critics=critics, ends=ends)
        self.ends = ends if spare_endings else None
        _require(attack in self.ATTACKS, "attack", attack, f"must be one of {self.ATTACKS}")
        _require(norm in self.NORMS, "norm", norm, f"must be one of {self.NORMS}")
        _require(coefficient >= 0, "coefficient", coefficient, "must not be negative")
        _require(radius > 0, "radius", radius, "must be positive; coefficient=0 switches it off")
        _require(
            radius_start > 0 or (radius_start == 0 and not slope),
            "radius_start",
            radius_start,
            "must be positive; 0 works with agent.regulariser.slope=false only",
        )
        _require(radius_updates >= 0, "radius_updates", radius_updates, "must not be negative")
        _require(steps >= 1, "steps", steps, "must be at least 1")
        _require(step_size > 0, "step_size", step_size, "must be positive")
        _require(draws >= 1, "draws", draws, "must be at least 1")
        self.coefficient, self.attack, self.norm, self.slope = coefficient, attack, norm, slope
        self.radius, self.radius_start, self.radius_updates = radius, radius_start, radius_updates
        self.steps, self.step_size, self.draws = steps, step_size, draws
        self.register_buffer("scale", torch.ones(critics.obs_dim))
        self.register_buffer("updates", torch.zeros(()))

    def prepare(
        self, obs: Float[Tensor, "N D"], standardise: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        if standardise is not None:
            obs = standardise(obs.to(self.scale.device))
        self.scale.copy_(obs.std(0, correction=0))

    def present_radius(self) -> Float[Tensor, ""]:
        """e of the coming update."""
        if self.radius_updates == 0:
            return torch.full_like(self.updates, self.radius)
        progress = (self.updates / self.radius_updates).clamp(max=1.0)
        return torch.lerp(
            torch.full_like(progress, self.radius_start),
            torch.full_like(progress, self.radius),
            progress,
        )

    def penalty(
        self, critics: Critics, batch: Transition, prediction: Float[Tensor, "S N B"]
    ) -> Float[Tensor, " S"] | float:
        """Squared change of the value under the worst move, see the class."""
        if self.coefficient == 0:
            return 0.0
        radius = self.present_radius()
        moved = self.worst(critics, batch.obs, batch.action, prediction.detach(), radius)
        change = critics.each(moved, batch.action) - prediction
        if self.slope:
            change = change / radius
        if self.ends is not None:
            action = batch.action.unsqueeze(1).expand(-1, critics.critics, -1, -1)
            change = torch.where(self.ends(moved, action), 0.0, change)
        self.updates.add_(1)
        return self.coefficient * change.square().mean(2).sum(1)

    def worst(
        self,
        critics: Critics,
        obs: Float[Tensor, "S B D"],
        action: Float[Tensor, "S B A"],
        value: Float[Tensor, "S N B"],
        radius: Float[Tensor, ""],
    ) -> Float[Tensor, "S N B D"]:
        """For every critic the states near `obs` where it differs most from `value`, Q(s, a)."""
        origin = obs.detach().unsqueeze(1).expand(-1, critics.critics, -1, -1)
        if self.attack == "pgd":
            move = radius * self._draw(origin)
            for _ in range(self.steps):
                gradient = self._gradient(critics, origin + self.scale * move, action, value)
                move = move + self.step_size * radius / self.steps * self._steepest(gradient)
                move = self._into_ball(move, radius)
            return origin + self.scale * move
        if self.attack == "fgsm":
            # Of the value itself: that of the squared change is zero where nothing has moved.
            gradient = self._gradient(critics, origin, action, None)
            ahead = self._steepest(gradient)
            move = radius * torch.stack([ahead, -ahead], 2)
        else:
            shape = origin.unsqueeze(2).expand(-1, -1, self.draws, -1, -1)
            move = radius * self._draw(shape)
        tried = origin.unsqueeze(2) + self.scale * move  # [S, N, K, B, D]
        count = tried.shape[2]
        with torch.no_grad():
            found = critics.each(tried.flatten(2, 3), action.repeat(1, count, 1))
            change = found.unflatten(2, (count, -1)) - value.unsqueeze(2)
            best = change.square().argmax(2)  # [S, N, B]
        return tried.take_along_dim(best[:, :, None, :, None], 2).squeeze(2)

    def _gradient(
        self, critics: Critics, at: Tensor, action: Tensor, value: Tensor | None
    ) -> Float[Tensor, "S N B D"]:
        """Of Q, or of (Q - value)^2, with respect to the standardised state."""
        at = at.detach().requires_grad_()
        objective = critics.each(at, action)
        if value is not None:
            objective = (objective - value).square()
        (gradient,) = torch.autograd.grad(objective.sum(), at)
        return gradient * self.scale

    def _steepest(self, gradient: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        """The move of norm one that a linear function with this gradient grows most along."""
        if self.norm == "linf":
            return gradient.sign()
        length = gradient.norm(dim=-1, keepdim=True)
        return torch.where(length > 0, gradient / length, 0.0)

    def _into_ball(
        self, move: Float[Tensor, "*lead D"], radius: Float[Tensor, ""]
    ) -> Float[Tensor, "*lead D"]:
        """The nearest move of at most that norm."""
        if self.norm == "linf":
            return torch.minimum(torch.maximum(move, -radius), radius)
        length = move.norm(dim=-1, keepdim=True)
        return torch.where(length > radius, move * (radius / length), move)

    def _draw(self, shape: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        """Uniform in the ball of radius one, of the shape of the argument."""
        if self.norm == "linf":
            return 2 * torch.rand_like(shape) - 1
        direction = torch.randn_like(shape)
        length = torch.rand_like(shape[..., :1]).pow(1 / shape.shape[-1])
        return length * direction / direction.norm(dim=-1, keepdim=True)


BuildRegulariser = Callable[..., Regulariser]
"""A regulariser that lacks nothing but `critics` and `ends`."""


def _weights(critics: Critics) -> list[nn.Parameter]:
    return [layer.get_parameter("weight") for layer in critics.body.layers]


def _unit(vector: Tensor, instead: Tensor) -> Tensor:
    """Scaled to length one; a vector of length zero says nothing, so the old one stays."""
    length = vector.norm(dim=-2, keepdim=True)
    return torch.where(length > 0, vector / length, instead)


def _require(holds: bool, key: str, value: object, what: str) -> None:
    if not holds:
        raise Mistake(f"agent.regulariser.{key}={value} {what}")
