"""A clone of the policy behind the data: for guidance, planners, and agents that stay near it."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.ranges import Bounds, Count, Positive, Widths
from reverie.world_models.base import FitProgress, Fitted
from reverie.world_models.diffusion.segments import Segments
from reverie.world_models.fitting import held_out_episodes, rows_of
from reverie.world_models.networks import BatchedMLP
from reverie.world_models.optimiser import Adam


class BehaviourClone(Fitted):
    """N(m(s), std(s)^2) over arctanh of the action, by maximum likelihood; one for all seeds.

    In these units, which are those of segments, a generator's guidance reads it without error.

    Args:
        spec, seeds, seed: see `world_models.diffusion.generator.DiffusionGenerator`.
        hidden, activation: of the network.
        log_std_bounds: clip of ln std.
        learning_rate: of Adam.
        steps, batch: updates of the fit, rows in each.
        heldout_episodes: at most so many, and a tenth of all, measure the fit.
        measure_every: updates between two measurements; the best weights are kept.

    Source: the behaviour term of STITCH-OPE, arXiv:2505.20781, asks for a fitted policy; how it is
    fitted here is ours.
    """

    fit_unit = "update"
    fit_measure = "holdout loss"
    obs_mean: Tensor
    obs_std: Tensor

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        seed: int,
        hidden: Widths,
        activation: str,
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
                raise Mistake(f"behaviour.{name} must be at least 1, got {value}")
        self.spec, self.seeds, self.seed = spec, seeds, seed
        self.low, self.high = log_std_bounds
        self.learning_rate, self.steps, self.batch = learning_rate, steps, batch
        self.heldout_episodes, self.measure_every = heldout_episodes, measure_every
        self.hidden, self.activation = list(hidden), activation
        self.network = self._new_network()
        self.register_buffer("obs_mean", torch.zeros(spec.obs_dim))
        self.register_buffer("obs_std", torch.ones(spec.obs_dim))
        self.fit_total = steps

    def _new_network(self) -> BatchedMLP:
        outputs = 2 * self.spec.action_dim
        return BatchedMLP((1,), self.spec.obs_dim, self.hidden, outputs, self.activation)

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

    @torch.no_grad()
    def moments(
        self, obs: Float[Tensor, "S B D"]
    ) -> tuple[Float[Tensor, "S B A"], Float[Tensor, "S B A"]]:
        """Mean and std of actions in [-1, 1], to first order around the mean."""
        mean, log_std = self.gaussian(obs)
        action = torch.tanh(mean)
        return action, log_std.exp() * (1 - action.square())

    def gaussian(
        self, obs: Float[Tensor, "S B D"]
    ) -> tuple[Float[Tensor, "S B A"], Float[Tensor, "S B A"]]:
        """Mean and ln std of arctanh of the action."""
        mean, log_std = self._gaussian(obs.reshape(1, -1, obs.shape[-1]))
        shape = (*obs.shape[:-1], self.spec.action_dim)
        return mean.view(shape), log_std.view(shape)

    @torch.no_grad()
    def log_ratio(
        self,
        obs: Float[Tensor, "B D"],
        action: Float[Tensor, "B A"],
        chosen: Float[Tensor, "S B A"],
    ) -> Float[Tensor, "S B"]:
        """Log of how much likelier actions are of who acts about `chosen` than of the clone.

        Both spread as the clone does, so the ratio is that of two Gaussians of one width.
        """
        mean, log_std = self._gaussian(obs.unsqueeze(0))
        taken, std = _before_tanh(action), log_std.exp()
        own, cloned = (taken - _before_tanh(chosen)) / std, (taken - mean) / std
        return (cloned.square() - own.square()).sum(-1) / 2

    def _gaussian(self, obs: Float[Tensor, "1 B D"]) -> tuple[Tensor, Tensor]:
        """Mean and ln std of arctanh of the action."""
        mean, log_std = self.network((obs - self.obs_mean) / self.obs_std).chunk(2, -1)
        return mean, log_std.clamp(self.low, self.high)

    def _loss(self, obs: Float[Tensor, "B D"], before: Float[Tensor, "B A"]) -> Float[Tensor, "1"]:
        """Negative log-likelihood per dimension, without its constant."""
        mean, log_std = self._gaussian(obs.unsqueeze(0))
        return (((before - mean) / log_std.exp()).square() / 2 + log_std).mean((1, 2))

    def fit(self, data: Dataset, progress: FitProgress | None = None) -> dict[str, Any]:
        """Fit from scratch on a random stream seeded by `seed`; keeps the best weights seen."""
        self.spec.require_same_spaces(data.spec, "the clone", f"dataset {data.name}")
        device = self.obs_mean.device
        held = rows_of(data, held_out_episodes(data, self.heldout_episodes, self.seed))
        rows = data.transitions
        before = _before_tanh(rows.action)
        self.obs_mean.copy_(rows.obs[~held].mean(0))
        self.obs_std.copy_(rows.obs[~held].std(0).clamp_min(1e-6))
        obs, before = rows.obs[~held].to(device), before[~held].to(device)
        measured = rows.map(lambda x: x[held if held.any() else ~held].to(device))
        target = _before_tanh(measured.action)
        history: dict[str, list[Any]] = {"measured_at": [], "holdout_loss": []}
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            self.network.load_state_dict(self._new_network().state_dict())
            optimiser = Adam(self.network.parameters(), self.learning_rate).to(device)
            best, kept = float("inf"), {}
            for done in range(1, self.steps + 1):
                drawn = torch.randint(len(obs), (self.batch,), device=device)
                with torch.enable_grad():
                    optimiser.step(self._loss(obs[drawn], before[drawn]))
                if done % self.measure_every and done != self.steps:
                    continue
                with torch.no_grad():
                    loss = self._loss(measured.obs, target).item()
                history["measured_at"].append(done)
                history["holdout_loss"].append(loss)
                if loss < best:
                    best = loss
                    kept = {k: v.clone() for k, v in self.network.state_dict().items()}
                if progress is not None:
                    progress(done, loss)
        if not kept:
            raise Mistake(
                "the loss of the behaviour clone was never finite; check the data "
                "(python -m reverie.datasets.check), or lower behaviour.learning_rate"
            )
        self.network.load_state_dict(kept)
        return {**history, "best_holdout_loss": best, "updates": self.steps}


def _before_tanh(action: Float[Tensor, "*B A"]) -> Float[Tensor, "*B A"]:
    return torch.atanh(action.clamp(-Segments.ACTION_LIMIT, Segments.ACTION_LIMIT))
