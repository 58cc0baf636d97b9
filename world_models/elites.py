"""Ensembles that predict by their best members: in turn, or on average.

MBPO, arXiv:1906.08253: the members with the lowest holdout error take turns in rollouts.
"""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.ranges import Count
from reverie.world_models.base import FitProgress, watch_indices
from reverie.world_models.copies import Copies
from reverie.world_models.fitting import EarlyStopping
from reverie.world_models.gaussian import members_of_rows
from reverie.world_models.replicated import ReplicatedModel, require_setting
from reverie.world_models.uncertainty import DROPOUT, STANDARDISED, uncertainty_named


class EliteEnsemble(ReplicatedModel):
    """Ensembles of E members, of which those with the lowest holdout error predict.

    Args:
        members: E.
        elites: members with the lowest holdout error that rollouts sample from.
        uncertainty: `max_aleatoric`, `pairwise_difference`, `ensemble_std`, `scaled_ensemble_std`,
            `max_pairwise` or, of members that can, `dropout`.
        others: see `ReplicatedModel`.
    """

    remedy: str
    """What the user may do about a fit that diverged."""
    copies: Copies
    elite_members: Tensor

    def __init__(self, *, members: Count, elites: Count, uncertainty: str, **others: Any) -> None:
        require_setting(1 <= elites <= members, "1 <= elites <= members", [elites, members])
        super().__init__(**others)
        self.members, self.elites = members, elites
        self.uncertainty_of = (
            None if uncertainty == DROPOUT else uncertainty_named(uncertainty, members)
        )
        self.standardised = uncertainty in STANDARDISED

    def _begin_unfitted(self) -> None:
        self.register_buffer("elite_members", torch.arange(self.elites).repeat(self.replicas, 1))
        watch_indices(self, "elite_members", self.members)
        super()._begin_unfitted()

    def signature(self) -> dict[str, Any]:
        fixed = super().signature()
        if len(self.copies.columns):
            fixed["copies"] = [list(pair) for pair in self.spec.copies]
        return fixed

    @property
    def not_learned(self) -> list[int]:
        """Columns of (next_obs, reward) that are exogenous, copied or known."""
        held = sorted([*self.spec.exogenous, *self.copies.columns.tolist()])
        return held if self.reward_rule is None else [*held, self.spec.obs_dim]

    def fit(self, data: Dataset, progress: FitProgress | None = None) -> dict[str, Any]:
        """Fit from scratch on a random stream of its own, seeded by `seed`.

        Returns:
            What `learn` and `describe` return.

        Raises:
            Mistake: other spaces than the model's, or too few usable rows; the fit diverged.
        """
        self.spec.require_same_spaces(data.spec, "the world model", f"dataset {data.name}")
        device = self.fitted.device
        seen = self._seen(data)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            return self.learn(data, seen, progress) | self.describe(data, seen)

    @abstractmethod
    def learn(
        self, data: Dataset, seen: Bool[Tensor, " N"], progress: FitProgress | None
    ) -> dict[str, Any]:
        """Fit new weights to the `seen` rows, and choose the elites; what describes this."""

    def conclude(self, stopping: EarlyStopping) -> dict[str, Any]:
        """Choose the elites, and say so.

        Raises:
            Mistake: the fit diverged.
        """
        self.elite_members.copy_(stopping.best.argsort(-1)[:, : self.elites])
        self._set_fitted(not bool(stopping.failed.any()))
        stopping.require_finite(self.remedy)
        return {"elites": self.elite_members.tolist()}

    def _of_elites(
        self,
        obs: Float[Tensor, "S B D"],
        action: Float[Tensor, "S B A"],
        mean: Float[Tensor, "L E rows Y"],
        std: Float[Tensor, "L E rows Y"],
    ) -> tuple[Float[Tensor, "S N B Y"], Float[Tensor, "S N B Y"]]:
        """Mean and std of (next_obs, reward) from the elites, given all members' of the change."""
        seeds, rows = obs.shape[:-1]
        mean, std = (of_elites(each, self.elite_members) for each in (mean, std))
        if self.replicas != seeds:  # one ensemble serves all seeds: [1, E, S * B] -> [S, E, B]
            mean, std = (x.view(self.elites, seeds, rows, -1).transpose(0, 1) for x in (mean, std))
        obs, action = obs.unsqueeze(1), action.unsqueeze(1)
        next_obs, reward = self.copies(obs, action, obs + mean[..., :-1]), mean[..., -1]
        if self.reward_rule is not None:
            reward = self.reward_rule(
                obs.expand_as(next_obs), action.expand(*next_obs.shape[:-1], -1), next_obs
            )
        return torch.cat([next_obs, reward.unsqueeze(-1)], -1), std


def of_elites(
    values: Float[Tensor, "L E B Y"], elites: Int[Tensor, "L N"]
) -> Float[Tensor, "L N B Y"]:
    """What the elites say of what all members say."""
    return values.gather(1, elites[..., None, None].expand(-1, -1, *values.shape[2:]))


def mean_of_elites(
    mean: Float[Tensor, "L E B Y"], elites: Int[Tensor, "L N"]
) -> Float[Tensor, "L B Y"]:
    """The mean of the elites' means."""
    return of_elites(mean, elites).mean(1)


def sample_elites(
    mean: Float[Tensor, "L E B Y"],
    std: Float[Tensor, "L E B Y"],
    elites: Int[Tensor, "L N"],
    candidates: int,
) -> Float[Tensor, "K L B Y"]:
    """K draws per row from the elites' Gaussians.

    One candidate comes from an elite drawn uniformly for every row. Of several, candidate k comes
    from elite (first + k) mod elites with `first` drawn for every row, so all elites are used
    alike; every candidate has its own noise.
    """
    replicas, _, rows = mean.shape[:-1]
    first = torch.randint(elites.shape[1], (replicas, 1, rows), device=mean.device)
    turn = torch.arange(candidates, device=mean.device).unsqueeze(-1)
    chosen = elites.unsqueeze(-1).expand(-1, -1, rows)
    chosen = chosen.gather(1, (first + turn).remainder(elites.shape[1]))  # [L, K, B]
    centre, spread = members_of_rows(chosen, mean, std)
    return (centre + spread * torch.randn_like(centre)).transpose(0, 1)
