"""Gaussians over recorded actions, by maximum likelihood: base of clones and inverse models."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.ranges import Bounds, Count, Positive, Widths
from reverie.world_models.base import FitProgress, Fitted
from reverie.world_models.diffusion.segments import Segments
from reverie.world_models.networks import ActivationName, BatchedMLP
from reverie.world_models.optimiser import Adam


class ActionGaussian(Fitted):
    """N(m(x), std(x)^2) over arctanh of the action, E members; one for all seeds.

    After the tanh this is the density of a squashed Gaussian except for the slope of the tanh,
    which does not depend on the parameters.

    Args:
        spec, seeds, seed: of the task; agents; of the fit.
        inputs: width of x.
        members: E, with different initial weights and batches.
        hidden, activation: of the network.
        log_std_bounds: clip of ln std.
        learning_rate: of Adam.
        steps, batch: updates of the fit, transitions per update.
        heldout_episodes: held out to evaluate the fit, at most a tenth of all.
        measure_every: updates between evaluations of the fit; the best weights of each member are
            kept.

    Attributes:
        group: of the configuration, for messages.
    """

    fit_unit = "update"
    fit_measure = "holdout loss"
    group: str
    obs_mean: Tensor
    obs_std: Tensor

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        seed: int,
        inputs: int,
        members: int,
        hidden: Widths,
        activation: ActivationName,
        log_std_bounds: Bounds,
        learning_rate: Positive,
        steps: Count,
        batch: Count,
        heldout_episodes: Count,
        measure_every: Count,
    ) -> None:
        super().__init__()
        for name, value in (("steps", steps), ("batch", batch), ("measure_every", measure_every)):
            if value < 1:
                raise Mistake(f"{self.group}.{name} must be at least 1, got {value}")
        self.spec, self.seeds, self.seed = spec, seeds, seed
        self.inputs, self.members = inputs, members
        self.low, self.high = log_std_bounds
        self.learning_rate, self.steps, self.batch = learning_rate, steps, batch
        self.heldout_episodes, self.measure_every = heldout_episodes, measure_every
        self.hidden, self.activation = list(hidden), activation
        self.network = self._new_network()
        self.register_buffer("obs_mean", torch.zeros(inputs))
        self.register_buffer("obs_std", torch.ones(inputs))
        self.fit_total = steps

    def _new_network(self) -> BatchedMLP:
        outputs = 2 * self.spec.action_dim
        return BatchedMLP((self.members,), self.inputs, self.hidden, outputs, self.activation)

    def signature(self) -> dict[str, Any]:
        fixed = (
            *("seed", "hidden", "activation", "low", "high", "learning_rate", "steps", "batch"),
            *("heldout_episodes", "measure_every"),
        )
        return {
            "model": type(self).__name__,
            "obs_dim": self.spec.obs_dim,
            "action_dim": self.spec.action_dim,
            **{name: getattr(self, name) for name in fixed},
        }

    def _gaussian(self, inputs: Float[Tensor, "E B F"]) -> tuple[Tensor, Tensor]:
        """Mean and ln std `[E, B, A]` of arctanh of the action."""
        mean, log_std = self.network((inputs - self.obs_mean) / self.obs_std).chunk(2, -1)
        return mean, log_std.clamp(self.low, self.high)

    def _loss(
        self, inputs: Float[Tensor, "E B F"], before: Float[Tensor, "E B A"]
    ) -> Float[Tensor, " E"]:
        """Negative log-likelihood per dimension, without its constant."""
        mean, log_std = self._gaussian(inputs)
        return (((before - mean) / log_std.exp()).square() / 2 + log_std).mean((1, 2))

    def _learn(
        self,
        rows: tuple[Float[Tensor, "N F"], Float[Tensor, "N A"]],
        measured: tuple[Float[Tensor, "M F"], Float[Tensor, "M A"]],
        progress: FitProgress | None,
    ) -> dict[str, Any]:
        """Fit from scratch on a random stream seeded by `seed`; keeps the best weights seen.

        Args:
            rows: inputs and actions to learn from, statistics of the inputs taken already.
            measured: those that choose the best weights.
        """
        device = self.obs_mean.device
        inputs, before = rows[0].to(device), before_tanh(rows[1]).to(device)
        shown = measured[0].to(device).expand(self.members, -1, -1)
        target = before_tanh(measured[1]).to(device)
        history: dict[str, list[Any]] = {"measured_at": [], "holdout_loss": []}
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            self.network.load_state_dict(self._new_network().state_dict())
            optimiser = Adam(self.network.parameters(), self.learning_rate).to(device)
            kept = {k: v.clone() for k, v in self.network.state_dict().items()}
            best = torch.full((self.members,), torch.inf, device=device)
            for done in range(1, self.steps + 1):
                drawn = torch.randint(len(inputs), (self.members, self.batch), device=device)
                with torch.enable_grad():
                    optimiser.step(self._loss(inputs[drawn], before[drawn]))
                if done % self.measure_every and done != self.steps:
                    continue
                with torch.no_grad():
                    loss = self._loss(shown, target.expand(self.members, -1, -1))
                better = loss < best  # which NaN never is
                best = torch.where(better, loss, best)
                for name, value in self.network.state_dict().items():
                    mask = better.view(-1, *[1] * (value.ndim - 1))
                    kept[name] = torch.where(mask, value, kept[name])
                history["measured_at"].append(done)
                history["holdout_loss"].append(loss.mean().item())
                if progress is not None:
                    progress(done, loss.mean().item())
        if not best.isfinite().all():
            raise Mistake(
                f"the loss of {self.group} was never finite; check the data "
                f"(python -m reverie.datasets.check), or lower {self.group}.learning_rate"
            )
        self.network.load_state_dict(kept)
        return {**history, "best_holdout_loss": best.mean().item(), "updates": self.steps}


def before_tanh(action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B A"]:
    """arctanh of actions, those at the edge of the box moved inside."""
    return torch.atanh(action.clamp(-Segments.ACTION_LIMIT, Segments.ACTION_LIMIT))
