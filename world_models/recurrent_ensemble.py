"""An ensemble of gated recurrent networks with memory of a rollout's steps.

GRU arXiv:1406.1078; ensembles of them with Gaussian heads, trained on their own predictions:
RWM-U, arXiv:2504.16680. Each member reads (obs, action) and its hidden state, and predicts a
diagonal Gaussian over (next_obs - obs, reward). It can
infer what one observation lacks, such as a speed, from earlier ones.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.ranges import Bounds, Count, Decay, Inside, NonNegative, Positive, Whole
from reverie.world_models.base import FitProgress, Step
from reverie.world_models.copies import Copies
from reverie.world_models.elites import EliteEnsemble, mean_of_elites, sample_elites
from reverie.world_models.fitting import uninterrupted
from reverie.world_models.forced_fit import ForcedFit
from reverie.world_models.forcing import Forcing
from reverie.world_models.recurrent import MemoryNetwork, RecurrentGaussian
from reverie.world_models.recurrent_cell import RecurrentCell
from reverie.world_models.selection import Cut, SelectBy, cut
from reverie.world_models.uncertainty import DROPOUT

# Rows of a CPU that go through the networks at a time; more would leave its caches.
_BLOCK = 2048


class RecurrentEnsemble(EliteEnsemble):
    """E recurrent Gaussians per seed, each fitted to its own windows, elites used in rollouts.

    `Step.state` holds the hidden states of all members, W = E x layers x width. A rollout begins
    without a past, as a window of the fit does; verdicts on recorded transitions, and plans during
    an episode, use the earlier steps.

    Args:
        width, layers: of the gated recurrent units.
        blocks: residual blocks after them.
        dropout: dropout probability in these blocks during the fit.
        learning_rate, batch: of Adam, windows per member and update.
        log_variance_bounds: initial values of the trainable lower and upper bounds.
        bound_coefficient: weight of sum(upper) - sum(lower) in the loss.
        holdout_fraction: of the episodes, kept for early stopping; of a single one its end.
        holdout_limit: maximum number of held-out transitions.
        improvement: smallest relative decrease of a member's holdout error that counts.
        patience: epochs without any improvement after which a seed stops.
        max_epochs: cap on epochs, None for none; auto caps the updates at `fitting.AUTO_UPDATES`.
        forcing: length of the windows, and strength of teacher forcing.
        select_by: error for early stopping, weights and elites, see `ForcedFit`; on windows of
            `forcing.steps`.
        others: see `EliteEnsemble`; no `uncertainty=dropout`.

    Source: ours, after the papers above; no published counterpart with these numbers.
    """

    remembers = True
    remedy = "or lower world_model.learning_rate"
    held: Tensor
    signed = (
        "replicas",
        "seed",
        "members",
        "elites",
        "width",
        "layers",
        "blocks",
        "dropout",
        "learning_rate",
        "batch",
        "log_variance_bounds",
        "bound_coefficient",
        "holdout_fraction",
        "holdout_limit",
        "improvement",
        "patience",
        "max_epochs",
        "select_by",
        "heldout_episodes",
    )

    def __init__(
        self,
        *,
        width: Count,
        layers: Count,
        blocks: Whole,
        dropout: Decay,
        learning_rate: Positive,
        batch: Count,
        log_variance_bounds: Bounds,
        bound_coefficient: NonNegative,
        holdout_fraction: Inside,
        holdout_limit: Count,
        improvement: Decay,
        patience: Count,
        max_epochs: Count | Literal["auto"] | None,
        uncertainty: str,
        forcing: Forcing,
        select_by: SelectBy,
        **others: Any,
    ) -> None:
        if uncertainty == DROPOUT:
            raise Mistake(
                "world_model.uncertainty=dropout is of world_model=ensemble; recurrent members "
                "are compared with world_model.uncertainty=ensemble_std"
            )
        super().__init__(uncertainty=uncertainty, **others)
        self.width, self.layers, self.blocks, self.dropout = width, layers, blocks, dropout
        self.learning_rate, self.batch = learning_rate, batch
        self.log_variance_bounds = list(log_variance_bounds)
        self.bound_coefficient = bound_coefficient
        self.holdout_fraction, self.holdout_limit = holdout_fraction, holdout_limit
        self.improvement, self.patience, self.max_epochs = improvement, patience, max_epochs
        self.forcing: Forcing = forcing
        self.select_by: SelectBy = select_by
        self.copies = Copies(self.spec)
        self.network = self._build().requires_grad_(False)
        exogenous = torch.tensor(self.spec.exogenous, dtype=torch.int64)
        self.register_buffer("held", exogenous, False)
        self._begin_unfitted()

    def _build(self) -> MemoryNetwork:
        """Networks whose weights come from torch's global generator."""
        spec = self.spec
        return RecurrentGaussian(
            lead=(self.replicas, self.members),
            inputs=spec.obs_dim + spec.action_dim,
            outputs=spec.obs_dim + 1,
            width=self.width,
            layers=self.layers,
            blocks=self.blocks,
            dropout=self.dropout,
            log_variance_bounds=self.log_variance_bounds,
            bound_coefficient=self.bound_coefficient,
            left_out=self.not_learned,
        )

    def signature(self) -> dict[str, Any]:
        return super().signature() | {"forcing": self.forcing.signature()}

    def learn(
        self, data: Dataset, seen: Bool[Tensor, " N"], progress: FitProgress | None
    ) -> dict[str, Any]:
        """Fit new weights to the `seen` rows; returns what `ForcedFit` does, and the elites."""
        rows = cut(data, seen, self.holdout_fraction, self.seed, self.fitted.device)
        self.network.load_state_dict(self._build().state_dict())
        self.network.normalise_by((rows.mean, rows.std), rows.of_changes(data))
        stopping, said = self._train(rows, data, progress)
        return said | self.conclude(stopping)

    def _train(self, rows: Cut, data: Dataset, progress: FitProgress | None) -> Any:
        cell, test = (
            RecurrentCell(self.network, rows, self.copies, self.spec.exogenous, dropout)
            for dropout in (self.dropout, 0.0)
        )
        fit = ForcedFit(
            forcing=self.forcing,
            select_by=self.select_by,
            select_steps=self.forcing.steps,
            batch=self.batch,
            learning_rate=self.learning_rate,
            holdout_limit=self.holdout_limit,
            improvement=self.improvement,
            patience=self.patience,
            max_epochs=self.max_epochs,
            precision="float32",
            wrap=self._wrap,
        )
        self.network.requires_grad_(True)
        try:
            with torch.enable_grad():
                return fit.run(cell, test, (self.replicas, self.members), rows, data, progress)
        finally:
            self.network.requires_grad_(False)

    def initial_state(self, obs: Tensor) -> Tensor:
        """No memory: zeros."""
        # Beside it the record of exogenous observations has a row's number, too long for 32 bits.
        kind = torch.float64 if self.spec.exogenous else obs.dtype
        width = self.members * self.network.memory
        return obs.new_zeros(*obs.shape[:-1], width, dtype=kind)

    def recorded_state(self, data: Dataset, rows: Int[Tensor, " R"]) -> Float[Tensor, "L R W"]:
        """The memory of the recorded steps before each row, as many as a window of the fit has.

        Of its episode alone, and of every replica its own.
        """
        first, _ = uninterrupted(data)
        device = self.fitted.device
        begun = torch.maximum(first[rows], rows - self.forcing.steps + 1)
        lead = (self.replicas, self.members, len(rows))
        hidden = self.network.begin(data.transitions.obs[begun].to(device).expand(*lead, -1))
        for back in range(self.forcing.steps - 1, 0, -1):
            there = (rows - back >= begun).to(device)
            before = data.transitions[(rows - back).clamp(min=0)].to(device)
            inputs = torch.cat([before.obs, before.action], -1).expand(*lead, -1)
            after = self.network.advance(inputs, hidden)[-1]
            hidden = torch.where(there.unsqueeze(-1), after, hidden)
        return _flat(hidden)

    def follow(
        self,
        obs: Float[Tensor, "S B D"],
        action: Float[Tensor, "S B A"],
        state: Float[Tensor, "S B W"] | None,
    ) -> Float[Tensor, "S B W"]:
        state = self.initial_state(obs) if state is None else state
        kind, shape = state.dtype, state.shape
        lanes = map(self._by_replica, (obs, action, state.to(obs.dtype)))
        return self.all_members(*lanes)[-1].reshape(shape).to(kind)

    def all_members(
        self,
        obs: Float[Tensor, "L B D"],
        action: Float[Tensor, "L B A"],
        state: Float[Tensor, "L B W"],
    ) -> tuple[Float[Tensor, "L E B Y"], Float[Tensor, "L E B Y"], Float[Tensor, "L B W"]]:
        """Mean and std of (next_obs - obs, reward) from every member, and the memory behind.

        Both are 0 of what is exogenous, copied or a known reward: the members do not learn it.
        """
        if obs.device.type == "cpu" and not torch.is_grad_enabled() and obs.shape[1] > _BLOCK:
            parts = zip(*(each.split(_BLOCK, 1) for each in (obs, action, state)), strict=True)
            found = zip(*(self._all_members(*part) for part in parts), strict=True)
            mean, std, after = (torch.cat(each, -2) for each in found)
            return mean, std, after
        return self._all_members(obs, action, state)

    def _all_members(
        self, obs: Tensor, action: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        net = self.network
        inputs = torch.cat([obs, action], -1).unsqueeze(1).expand(-1, self.members, -1, -1)
        hidden = state.unflatten(-1, (self.members, net.memory)).transpose(1, 2)
        mean, log_variance, after = net.advance(inputs, hidden)
        learned = torch.zeros_like(net.output_std).index_fill(0, net.learned, 1.0)
        mean = (mean * net.output_std + net.output_mean) * learned
        return mean, log_variance.mul(0.5).exp() * net.output_std * learned, _flat(after)

    def step(
        self,
        obs: Float[Tensor, "S B D"],
        action: Float[Tensor, "S B A"],
        candidates: int = 1,
        state: Tensor | None = None,
    ) -> Step:
        """Sample K outcomes per row from the elites' Gaussians, see `sample_elites`.

        All members remember what was seen and done, whoever predicted it. Uncertainty is over all
        members.

        Raises:
            RuntimeError: the model has not been fitted.
            ValueError: another number of seeds than the model was built for.
        """

        def choose(mean: Tensor, std: Tensor) -> Tensor:
            return sample_elites(mean, std, self.elite_members, candidates)

        return self._outcome(obs, action, candidates, state, choose)

    def expect(
        self,
        obs: Float[Tensor, "S B D"],
        action: Float[Tensor, "S B A"],
        candidates: int = 1,
        state: Tensor | None = None,
    ) -> Step:
        """The mean of the elites' means, `candidates` times over; see `step`."""

        def choose(mean: Tensor, std: Tensor) -> Tensor:
            return mean_of_elites(mean, self.elite_members).expand(candidates, -1, -1, -1)

        return self._outcome(obs, action, candidates, state, choose)

    def _outcome(
        self,
        obs: Tensor,
        action: Tensor,
        candidates: int,
        state: Tensor | None,
        choose: Callable[[Tensor, Tensor], Float[Tensor, "K L B Y"]],
    ) -> Step:
        shape = obs.shape[:-1]
        state = self.initial_state(obs) if state is None else state
        kind = state.dtype
        obs, action, state = map(self._by_replica, (obs, action, state.to(obs.dtype)))
        mean, std, after = self.all_members(obs, action, state)
        chosen = choose(mean, std)
        return self._step_to(
            obs,
            action,
            self.copies(obs, action, obs + chosen[..., :-1]),
            chosen[..., -1],
            uncertainty=self._uncertainty(mean, std),
            state=after.to(kind).expand(candidates, -1, -1, -1),
            shape=shape,
        )

    def _uncertainty(
        self, mean: Float[Tensor, "L E B Y"], std: Float[Tensor, "L E B Y"]
    ) -> Float[Tensor, "L B"]:
        if self.standardised:
            unit = self.network.input_std[: self.spec.obs_dim]
            mean = torch.cat([mean[..., :-1] / unit, mean[..., -1:]], -1)
        learned = [each.index_select(-1, self.network.learned) for each in (mean, std)]
        if self.reward_rule is not None:  # stands last, and is without doubt
            learned = [F.pad(each, (0, 1)) for each in learned]
        assert self.uncertainty_of is not None  # only of dropout, which was refused
        return self.uncertainty_of(*learned)

    def predict(
        self,
        obs: Float[Tensor, "S B D"],
        action: Float[Tensor, "S B A"],
        state: Float[Tensor, "S B W"] | None = None,
    ) -> tuple[Float[Tensor, "S E B Y"], Float[Tensor, "S E B Y"]]:
        """Mean and standard deviation of (next_obs, reward) from every elite, raw units."""
        state = self.initial_state(obs) if state is None else state
        lanes = map(self._by_replica, (obs, action, state.to(obs.dtype)))
        return self._of_elites(obs, action, *self.all_members(*lanes)[:2])


def _flat(hidden: Float[Tensor, "L E B H"]) -> Float[Tensor, "L B W"]:
    """Hidden states of all members side by side."""
    return hidden.transpose(1, 2).flatten(2)
