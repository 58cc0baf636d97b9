"""A Gaussian ensemble of one-step models, all members and all seeds as one batched network.

PETS arXiv:1805.12114, MBPO arXiv:1906.08253, MOPO arXiv:2005.13239. Each of E members predicts a
diagonal Gaussian over (next_obs - obs, reward) in raw units from normalised (obs, action), and the
elites take turns in rollouts. `world_models.ensemble` fits them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.mistake import Mistake
from reverie.ranges import Bounds, Decay, NonNegative, Positive, Range, Widths
from reverie.world_models.base import Step
from reverie.world_models.copies import Copies
from reverie.world_models.elites import EliteEnsemble, mean_of_elites
from reverie.world_models.gaussian import GaussianMembers, members_of_rows
from reverie.world_models.gaussian_cell import GaussianCell
from reverie.world_models.networks import ActivationName
from reverie.world_models.replicated import require_setting
from reverie.world_models.rollout_state import RolloutState
from reverie.world_models.selection import Cut
from reverie.world_models.uncertainty import CONSTANT, DROPOUT, dropout_std


class GaussianEnsemble(EliteEnsemble):
    """E Gaussian MLPs per seed.

    Args:
        hidden, activation: of each perceptron.
        weight_decay: per layer, L2 in the loss (not decoupled), weights only.
        log_variance_bounds: initial values of the trainable lower and upper bounds.
        bound_coefficient: weight of sum(upper) - sum(lower) in the loss.
        dropout: dropout probability of hidden units in the fit; predictions and holdout errors use
            all units. 0 for none.
        start_cut: truncation of the normal initial weights, in standard deviations; None for none.
        dropout_passes: of `uncertainty=dropout`: passes with different dropout masks.
        layer_norm: layer normalisation before the activation in every hidden layer, so that the
            last layer's weights bound every prediction.
        rollout_member: sample an elite at every `step` of a rollout, or one for the whole
            `rollout`.
        rollout_dropout: dropout probability of hidden units in rollouts; 0 for none. Needs
            `dropout` in the fit.
        rollout_mask: a new dropout mask at every `step`, or one for the whole `rollout`.
        respect_copies: whether columns that copy others (`spec.copies`) are copied exactly, and
            excluded from loss and uncertainty; otherwise they are predicted like all others.
        others: see `EliteEnsemble`.
    """

    make_members: Callable[..., GaussianMembers] = staticmethod(GaussianMembers)
    expects_from_state = False
    held: Tensor

    def __init__(
        self,
        *,
        hidden: Widths,
        activation: ActivationName,
        weight_decay: Sequence[NonNegative],
        log_variance_bounds: Bounds,
        bound_coefficient: NonNegative,
        uncertainty: str,
        dropout: Decay,
        start_cut: Positive | None,
        dropout_passes: Annotated[int, Range(2)],
        layer_norm: bool,
        rollout_member: Literal["step", "rollout"],
        rollout_dropout: Decay,
        rollout_mask: Literal["step", "rollout"],
        respect_copies: bool,
        **others: Any,
    ) -> None:
        super().__init__(uncertainty=uncertainty, **others)
        require_setting(len(hidden) >= 1 and min(hidden) >= 1, "positive hidden widths", hidden)
        layers = len(hidden) + 1
        require_setting(
            len(weight_decay) == layers, f"{layers} values of weight_decay", weight_decay
        )
        low, high = log_variance_bounds
        require_setting(low < high, "log_variance_bounds as [low, high]", log_variance_bounds)
        require_setting(0 <= dropout < 1, "0 <= dropout < 1", dropout)
        cuts = start_cut is None or start_cut > 0
        require_setting(cuts, "a positive start_cut, or null", start_cut)
        require_setting(dropout_passes >= 2, "dropout_passes >= 2", dropout_passes)
        if uncertainty == DROPOUT and dropout == 0:
            raise Mistake(
                "world_model.uncertainty=dropout needs a network fitted with it; set "
                "world_model.dropout, for example 0.1"
            )
        if rollout_dropout and dropout == 0:
            raise Mistake(
                f"world_model.rollout_dropout={rollout_dropout} needs a network fitted with "
                "dropout; set world_model.dropout, for example 0.05"
            )

        spec = self.spec
        self.hidden, self.activation = list(hidden), activation
        self.weight_decay, self.bound_coefficient = list(weight_decay), bound_coefficient
        self.log_variance_bounds = [low, high]
        self.dropout, self.dropout_passes = dropout, dropout_passes
        self.start_cut, self.layer_norm = start_cut, layer_norm
        self.rollout_state = RolloutState(
            elites=self.elites,
            hidden=hidden,
            keeps_member=rollout_member == "rollout",
            dropout=rollout_dropout,
            keeps_mask=rollout_mask == "rollout",
            exact=bool(spec.exogenous),
        )
        self.copies = Copies(spec if respect_copies else replace(spec, copies=()))
        self.gaussians = self.make_members(
            seeds=self.replicas,
            members=self.members,
            inputs=spec.obs_dim + spec.action_dim,
            outputs=spec.obs_dim + 1,
            hidden=hidden,
            activation=activation,
            log_variance_bounds=log_variance_bounds,
            bound_coefficient=bound_coefficient,
            weight_decay=weight_decay,
            dropout=dropout,
            start_cut=start_cut,
            layer_norm=layer_norm,
            left_out=self.not_learned,
        )
        self.register_buffer("held", torch.tensor(self.not_learned, dtype=torch.int64), False)
        self._begin_unfitted()
        self.requires_grad_(False)

    def examples(
        self, rows: Transition, dt: Float[Tensor, " R"] | None = None
    ) -> tuple[Float[Tensor, "R X"], Float[Tensor, "R Y"]]:
        """Inputs and targets of the members, raw.

        Args:
            dt: seconds that each row lasted, None where nobody knows; to an ensemble all are alike.
        """
        change = rows.next_obs - rows.obs
        return torch.cat([rows.obs, rows.action], -1), torch.cat(
            [change, rows.reward.unsqueeze(-1)], -1
        )

    def driving(self, data: Dataset) -> Float[Tensor, "N F"]:
        """What a member's input holds behind the observation: what drives the step."""
        lasting = None if data.dt is None else data.dt.where(data.valid_next, data.nominal_dt)
        return self.examples(data.transitions, lasting)[0][:, self.spec.obs_dim :]

    def cells(self, rows: Cut) -> tuple[GaussianCell, GaussianCell]:
        """One step of all members on windows of these rows, as it is trained and as measured."""
        given = (self.gaussians, self.copies, self.spec.exogenous, rows.reward_std)
        return GaussianCell(*given, self.dropout), GaussianCell(*given, 0.0)

    def inputs(
        self, obs: Float[Tensor, "L B D"], action: Float[Tensor, "L B A"]
    ) -> Float[Tensor, "L 1 B X"]:
        """What the members are given of a step."""
        return torch.cat([obs, action], -1).unsqueeze(1)

    def all_members(
        self,
        obs: Float[Tensor, "L B D"],
        action: Float[Tensor, "L B A"],
        masks: Sequence[Tensor] = (),
    ) -> tuple[Float[Tensor, "L E B Y"], Float[Tensor, "L E B Y"]]:
        """Mean and standard deviation of (next_obs - obs, reward) from every member.

        Both are 0 of what is exogenous or copied, and of a reward that is known: the members do not
        learn it.

        Args:
            masks: of the hidden layers, see `BatchedMLP`.
        """
        mean, log_variance = self.gaussians(self.inputs(obs, action), masks=masks)
        std = log_variance.mul(0.5).exp()
        if not self.gaussians.all_learned:
            mean, std = mean.index_fill(-1, self.held, 0.0), std.index_fill(-1, self.held, 0.0)
        return mean, std

    def initial_state(self, obs: Float[Tensor, "S B D"]) -> Float[Tensor, "S B W"] | None:
        return self.rollout_state.begin(obs)

    def step(
        self,
        obs: Float[Tensor, "S B D"],
        action: Float[Tensor, "S B A"],
        candidates: int = 1,
        state: Tensor | None = None,
    ) -> Step:
        """Sample K outcomes per row from the elites' Gaussians.

        One candidate comes from an elite drawn uniformly for every row. Of several, candidate k
        comes from elite (first + k) mod elites with `first` drawn for every row, so all elites
        are used alike; every candidate has its own noise. In a rollout that keeps its member all
        come from that. The reward is sampled with the next observation. Uncertainty is over all
        members with all their units, whichever rollout asks.

        Raises:
            RuntimeError: the model has not been fitted.
            ValueError: another number of seeds than the model was built for, or a `state` where
                rollouts keep nothing.
        """
        state = self._kept(state)
        shape = obs.shape[:-1]
        obs, action = self._by_replica(obs), self._by_replica(action)
        mean, std = known = self.all_members(obs, action)
        mask = self.rollout_state.mask(state, obs)
        if mask is not None:
            mean, std = self.all_members(obs, action, self.rollout_state.by_layer(mask))

        turn = self.rollout_state.member(state, candidates, obs)  # [L, K, B]
        everywhere = self.elite_members.unsqueeze(-1).expand(-1, -1, obs.shape[1])
        centre, spread = members_of_rows(everywhere.gather(1, turn), mean, std)
        sample = centre + spread * torch.randn_like(centre)
        following = self.rollout_state.following(turn, mask, obs)
        return self._outcome(obs, action, sample.transpose(0, 1), known, following, shape)

    def expect(
        self,
        obs: Float[Tensor, "S B D"],
        action: Float[Tensor, "S B A"],
        candidates: int = 1,
        state: Tensor | None = None,
    ) -> Step:
        """The mean of the elites' means with all their units, `candidates` times over; see `step`.

        Whatever a rollout keeps, so that plans are compared in one world. It needs no state, and
        hands on what it is given.
        """
        kept = self._kept(state)
        shape = obs.shape[:-1]
        obs, action = self._by_replica(obs), self._by_replica(action)
        known = self.all_members(obs, action)
        centre = mean_of_elites(known[0], self.elite_members).expand(candidates, -1, -1, -1)
        following = None if kept is None else kept.expand(candidates, -1, -1, -1)
        return self._outcome(obs, action, centre, known, following, shape)

    def _outcome(
        self,
        obs: Float[Tensor, "L B D"],
        action: Float[Tensor, "L B A"],
        change: Float[Tensor, "K L B Y"],
        known: tuple[Float[Tensor, "L E B Y"], Float[Tensor, "L E B Y"]],
        state: Float[Tensor, "K L B W"] | None,
        shape: torch.Size,
    ) -> Step:
        """What changes of observation with their rewards lead to, for rows of `shape`.

        Args:
            known: what all members say.
        """
        next_obs = self.copies(obs, action, obs + change[..., :-1])
        doubt = self._uncertainty(obs, action, *known)
        return self._step_to(
            obs, action, next_obs, change[..., -1], uncertainty=doubt, state=state, shape=shape
        )

    def _uncertainty(
        self,
        obs: Float[Tensor, "L B D"],
        action: Float[Tensor, "L B A"],
        mean: Float[Tensor, "L E B Y"],
        std: Float[Tensor, "L E B Y"],
    ) -> Float[Tensor, "L B"]:
        if self.standardised:
            unit = self.gaussians.input_std[..., : self.spec.obs_dim]
            unit = torch.where(unit < CONSTANT, 1.0, unit)
            mean = torch.cat([mean[..., :-1] / unit, mean[..., -1:]], -1)
        if self.uncertainty_of is not None:
            return self.uncertainty_of(*map(self._learned, (mean, std)))
        passes = self.gaussians.stochastic_means(self.inputs(obs, action), self.dropout_passes)
        return dropout_std(self._learned(passes))

    def _learned(self, outputs: Float[Tensor, "*lead Y"]) -> Float[Tensor, "*lead L"]:
        """Learned columns, and behind them the reward: 0, and so without doubt, if it is known."""
        learned = self.gaussians.of_learned(outputs)
        return learned if self.reward_rule is None else F.pad(learned, (0, 1))

    def predict(
        self, obs: Float[Tensor, "S B D"], action: Float[Tensor, "S B A"]
    ) -> tuple[Float[Tensor, "S E B Y"], Float[Tensor, "S E B Y"]]:
        """Mean and standard deviation of (next_obs, reward) from every elite, raw units."""
        found = self.all_members(self._by_replica(obs), self._by_replica(action))
        return self._of_elites(obs, action, *found)

    def _kept(self, state: Tensor | None) -> Float[Tensor, "L rows W"] | None:
        """A state, grouped as `_by_replica` does."""
        if state is None:
            return None
        if self.rollout_state.is_empty:
            raise ValueError("this ensemble carries no state between steps; pass state=None")
        return self._by_replica(state)
