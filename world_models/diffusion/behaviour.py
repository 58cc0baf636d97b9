"""A clone of the behaviour policy, for guidance, planners and agents with a KL term."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.envs.specs import Spec
from reverie.ranges import Bounds, Count, Positive, Widths
from reverie.world_models.action_gaussian import ActionGaussian, before_tanh
from reverie.world_models.base import FitProgress
from reverie.world_models.fitting import held_out_episodes, rows_of
from reverie.world_models.networks import ActivationName


class BehaviourClone(ActionGaussian):
    """N(m(s), std(s)^2) over arctanh of the action, by maximum likelihood; one for all seeds.

    These are the units of segments, so a generator's guidance can use it without conversion.

    Args:
        spec, seeds, seed: see `world_models.diffusion.generator.DiffusionGenerator`.
        hidden, activation, log_std_bounds, learning_rate, steps, batch, heldout_episodes,
            measure_every: see `ActionGaussian`.

    Source: the behaviour term of STITCH-OPE, arXiv:2505.20781, asks for a fitted policy; how it is
    fitted here is ours.
    """

    group = "behaviour"

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        seed: int,
        hidden: Widths,
        activation: ActivationName,
        log_std_bounds: Bounds,
        learning_rate: Positive,
        steps: Count,
        batch: Count,
        heldout_episodes: Count,
        measure_every: Count,
    ) -> None:
        super().__init__(
            spec=spec,
            seeds=seeds,
            seed=seed,
            inputs=spec.obs_dim,
            members=1,
            hidden=hidden,
            activation=activation,
            log_std_bounds=log_std_bounds,
            learning_rate=learning_rate,
            steps=steps,
            batch=batch,
            heldout_episodes=heldout_episodes,
            measure_every=measure_every,
        )

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
        taken, std = before_tanh(action), log_std.exp()
        own, cloned = (taken - before_tanh(chosen)) / std, (taken - mean) / std
        return (cloned.square() - own.square()).sum(-1) / 2

    def fit(self, data: Dataset, progress: FitProgress | None = None) -> dict[str, Any]:
        """Fit from scratch on a random stream seeded by `seed`; keeps the best weights seen."""
        self.spec.require_same_spaces(data.spec, "the clone", f"dataset {data.name}")
        held = rows_of(data, held_out_episodes(data, self.heldout_episodes, self.seed))
        rows, measured = data.transitions, held if held.any() else ~held
        self.obs_mean.copy_(rows.obs[~held].mean(0))
        self.obs_std.copy_(rows.obs[~held].std(0).clamp_min(1e-6))
        return self._learn(
            (rows.obs[~held], rows.action[~held]),
            (rows.obs[measured], rows.action[measured]),
            progress,
        )
