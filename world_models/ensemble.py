"""A probabilistic ensemble of one-step models, all members and all seeds as one batched network.

PETS arXiv:1805.12114, MBPO arXiv:1906.08253, MOPO arXiv:2005.13239. Each of E members predicts a
diagonal Gaussian over (next_obs - obs, reward) in raw units from normalised (obs, action). Each
fits its own bootstrap sample by maximum likelihood until its seed's holdout error stops falling,
and the members with the lowest holdout error, the elites, take turns in rollouts.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.ranges import Bounds, Count, Decay, Inside, NonNegative, Positive, Range, Whole, Widths
from reverie.world_models.base import FitProgress, Step, WorldModel, watch_indices
from reverie.world_models.copies import Copies
from reverie.world_models.elites import mean_of_elites, of_elites
from reverie.world_models.fitting import (
    AUTO,
    EarlyStopping,
    held_out_episodes,
    rows_of,
)
from reverie.world_models.forced_fit import ForcedFit
from reverie.world_models.forcing import Forcing, WindowRows
from reverie.world_models.gaussian import GaussianMembers, members_of_rows
from reverie.world_models.gaussian_cell import GaussianCell
from reverie.world_models.networks import ActivationName
from reverie.world_models.per_seed import grouped_by_replica
from reverie.world_models.precision import Precision
from reverie.world_models.rewards import Choice, compare, resolve_reward, rewarded
from reverie.world_models.rollout_state import RolloutState
from reverie.world_models.row_fit import RowFit
from reverie.world_models.selection import (
    MULTI_STEP,
    ONE_STEP,
    Cut,
    SelectBy,
    WindowErrors,
    cut,
    held_windows,
    windows_within,
)
from reverie.world_models.termination import LearnedTermination, resolve
from reverie.world_models.uncertainty import (
    CONSTANT,
    DROPOUT,
    STANDARDISED,
    dropout_std,
    uncertainty_named,
)

log = logging.getLogger(__name__)


class ProbabilisticEnsemble(WorldModel):
    """E Gaussian MLPs per seed, bootstrapped, with early stopping and elites for rollouts.

    Args:
        spec: spaces and environment of the task.
        seeds: S, agents trained side by side.
        seed: of all random numbers of the fit, which depends on nothing else but data and settings.
        members: E.
        elites: members with the lowest holdout error that rollouts sample from.
        hidden, activation: of each perceptron.
        learning_rate, batch: of Adam, transitions per member and update.
        weight_decay: per layer, L2 in the loss (not decoupled), weights only.
        log_variance_bounds: initial values of the trainable lower and upper bounds.
        bound_coefficient: weight of sum(upper) - sum(lower) in the loss.
        holdout_fraction, holdout_limit: transitions kept for early stopping, at most `limit`.
        improvement: smallest relative decrease of a member's holdout error that counts.
        patience: epochs without any improvement after which a seed stops ...
        patience_updates: ... if they have at least so many updates; 0: whatever they have. Refits
            of an online run do not ask for it.
        max_epochs: cap on epochs, None for none; auto caps the updates at `AUTO_UPDATES` instead.
        per_seed: one ensemble per seed, or one shared by all seeds.
        uncertainty: `max_aleatoric`, `pairwise_difference`, `ensemble_std`, `scaled_ensemble_std`,
            `max_pairwise` or `dropout`.
        dropout: dropout probability of hidden units in the fit; predictions and holdout errors use
            all units. 0 for none.
        start_cut: truncation of the normal initial weights, in standard deviations; None for none.
        dropout_passes: of `uncertainty=dropout`: passes with different dropout masks.
        termination: `auto`, `known`, `learned` or `none`, see `world_models.termination`.
        terminal_head: builds the classifier that `learned` needs, given `spec` and `seeds`.
        heldout_episodes: whole episodes kept out of the fit for open-loop diagnostics, at most a
            tenth of all; 0 for none.
        precision: of hidden layers in the updates of a fit, see `world_models.precision`.
        layer_norm: layer normalisation before the activation in every hidden layer, so that the
            last layer's weights bound every prediction.
        rollout_member: sample an elite at every `step` of a rollout, or one for the whole
            `rollout`.
        rollout_dropout: dropout probability of hidden units in rollouts; 0 for none. Needs
            `dropout` in the fit.
        rollout_mask: a new dropout mask at every `step`, or one for the whole `rollout`.
        reward: `learned` with the next observation, or `known`, the task's rule of it; then members
            do not learn it, and it is excluded from loss and uncertainty, see
            `world_models.rewards`.
        forcing: None for a fit to single transitions; otherwise members learn from windows of their
            own predictions, `batch` / `forcing.steps` of them in an update, and `holdout_fraction`
            is of whole episodes, see `ForcedFit`.
        respect_copies: whether columns that copy others (`spec.copies`) are copied exactly, and
            excluded from loss and uncertainty; otherwise they are predicted like all others.
        select_by: the holdout error for early stopping, weights and elites: of one step
            (`one_step`), as published, or the mean over windows of which only the first state is
            known (`multi_step`, see `world_models.selection`); None for the second with `forcing`,
            and the first without. The holdout of `multi_step` is whole episodes,
            `holdout_fraction` of them but no more than windows are needed.
        select_steps: of those windows, which end where episodes do; they have `holdout_limit` rows.

    Source: MBPO and MOPO as specified above; holdout of single transitions for early stopping as
    there. Differs: time-limit transitions with a true next observation are used;
    `heldout_episodes` are excluded from the fit, which no published variant does (0 restores it);
    the order of target columns is change of observation, then reward; exogenous observations and
    copies are no targets; a seed that has stopped keeps its weights, bounds and elites while the
    others continue. `forcing`: arXiv:2306.04406. Differs: the state is propagated by the means of
    Gaussians, and the loss is each step's likelihood, so that the variances include the error of
    propagated states; no regulariser besides weight decay.
    """

    draws = True
    make_members: Callable[..., GaussianMembers] = staticmethod(GaussianMembers)
    expects_from_state = False
    elite_members: Tensor
    fitted: Tensor
    held: Tensor

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        seed: int,
        members: Count,
        elites: Count,
        hidden: Widths,
        activation: ActivationName,
        learning_rate: Positive,
        batch: Count,
        weight_decay: Sequence[NonNegative],
        log_variance_bounds: Bounds,
        bound_coefficient: NonNegative,
        holdout_fraction: Inside,
        holdout_limit: Count,
        improvement: Decay,
        patience: Count,
        patience_updates: Whole,
        max_epochs: Count | Literal["auto"] | None,
        per_seed: bool,
        uncertainty: str,
        dropout: Decay,
        start_cut: Positive | None,
        dropout_passes: Annotated[int, Range(2)],
        termination: str,
        terminal_head: Callable[..., LearnedTermination],
        heldout_episodes: Whole,
        reward: Choice,
        precision: Precision,
        layer_norm: bool,
        rollout_member: Literal["step", "rollout"],
        rollout_dropout: Decay,
        rollout_mask: Literal["step", "rollout"],
        forcing: Forcing | None,
        respect_copies: bool,
        select_by: SelectBy | None,
        select_steps: Count,
    ) -> None:
        super().__init__()
        _require(1 <= elites <= members, "1 <= elites <= members", [elites, members])
        _require(len(hidden) >= 1 and min(hidden) >= 1, "positive hidden widths", hidden)
        layers = len(hidden) + 1
        _require(len(weight_decay) == layers, f"{layers} values of weight_decay", weight_decay)
        low, high = log_variance_bounds
        _require(low < high, "log_variance_bounds as [low, high]", log_variance_bounds)
        _require(0 < holdout_fraction < 1, "0 < holdout_fraction < 1", holdout_fraction)
        _require(0 <= improvement < 1, "0 <= improvement < 1", improvement)
        _require(heldout_episodes >= 0, "heldout_episodes >= 0", heldout_episodes)
        _require(
            min(batch, holdout_limit, patience) >= 1,
            "batch, holdout_limit, patience >= 1",
            [batch, holdout_limit, patience],
        )
        _require(
            max_epochs in (None, AUTO) or (isinstance(max_epochs, int) and max_epochs >= 1),
            "max_epochs >= 1, auto or null",
            max_epochs,
        )
        _require(0 <= dropout < 1, "0 <= dropout < 1", dropout)
        _require(start_cut is None or start_cut > 0, "a positive start_cut, or null", start_cut)
        _require(dropout_passes >= 2, "dropout_passes >= 2", dropout_passes)
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

        self.spec, self.seeds, self.seed = spec, seeds, seed
        self.members, self.elites = members, elites
        self.hidden, self.activation = list(hidden), activation
        self.learning_rate, self.batch = learning_rate, batch
        self.weight_decay, self.bound_coefficient = list(weight_decay), bound_coefficient
        self.log_variance_bounds = [low, high]
        self.holdout_fraction, self.holdout_limit = holdout_fraction, holdout_limit
        self.improvement, self.patience, self.max_epochs = improvement, patience, max_epochs
        self.patience_updates = patience_updates
        self.per_seed, self.heldout_episodes = per_seed, heldout_episodes
        self.select_by: SelectBy = select_by or (ONE_STEP if forcing is None else MULTI_STEP)
        self.select_steps = select_steps
        # L, ensembles: one per seed, or one in all.
        self.replicas = seeds if per_seed else 1
        self.dropout, self.dropout_passes = dropout, dropout_passes
        self.start_cut, self.precision, self.layer_norm = start_cut, precision, layer_norm
        self.forcing = forcing
        # Of an update: as many steps as a fit to single rows sees.
        self.windows = 0 if forcing is None else max(1, batch // forcing.steps)
        self.rollout_state = RolloutState(
            elites=elites,
            hidden=hidden,
            keeps_member=rollout_member == "rollout",
            dropout=rollout_dropout,
            keeps_mask=rollout_mask == "rollout",
            exact=bool(spec.exogenous),
        )
        self.uncertainty_of = (
            None if uncertainty == DROPOUT else uncertainty_named(uncertainty, members)
        )
        self.standardised = uncertainty in STANDARDISED
        self.termination = resolve(
            termination, spec, lambda: terminal_head(spec=spec, seeds=self.replicas)
        )
        self.reward_rule = resolve_reward(reward, spec)
        self.copies = Copies(spec if respect_copies else replace(spec, copies=()))
        held = sorted([*spec.exogenous, *self.copies.columns.tolist()])
        held += [] if self.reward_rule is None else [spec.obs_dim]
        self.gaussians = self.make_members(
            seeds=self.replicas,
            members=members,
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
            left_out=held,
        )
        self.register_buffer("held", torch.tensor(held, dtype=torch.int64), False)
        self.register_buffer("elite_members", torch.arange(elites).repeat(self.replicas, 1))
        watch_indices(self, "elite_members", members)
        self.register_buffer("fitted", torch.tensor(False))
        # The flag as a Python value: reading a tensor in `step` would make a GPU wait.
        self.ready = False
        self.register_load_state_dict_post_hook(_read_flag)
        self._wrap: Callable[[Callable[..., Tensor]], Callable[..., Tensor]] = _as_it_is
        self.requires_grad_(False)

    def signature(self) -> dict[str, Any]:
        fixed = {name: getattr(self, name) for name in _SIGNED}
        if self.dropout:  # models fitted without it are the same as before there was any
            fixed["dropout"] = self.dropout
        if self.start_cut != 2:  # likewise: all were cut there
            fixed["start_cut"] = self.start_cut
        if self.layer_norm:
            fixed["layer_norm"] = True
        if self.precision != "float32":
            fixed["precision"] = self.precision
        if self.patience_updates:
            fixed["patience_updates"] = self.patience_updates
        if self.forcing is not None:
            fixed["forcing"] = self.forcing.signature()
        if self.select_by != (ONE_STEP if self.forcing is None else MULTI_STEP):
            fixed["select_by"] = self.select_by
        if self.select_by != ONE_STEP:
            fixed["select_steps"] = self.select_steps
        if self.spec.exogenous:
            fixed["exogenous"] = list(self.spec.exogenous)
        if len(self.copies.columns):
            fixed["copies"] = [list(pair) for pair in self.spec.copies]
        if self.reward_rule is not None:
            fixed["reward"] = "known"
        return {
            "model": type(self).__name__,
            "obs_dim": self.spec.obs_dim,
            "action_dim": self.spec.action_dim,
            "termination": self.termination.signature(),
            **fixed,
        }

    def held_out(self, data: Dataset) -> Int[Tensor, " P"]:
        """Episodes of this dataset that the fit does not see."""
        return held_out_episodes(data, self.heldout_episodes, self.seed)

    def compile_update(
        self, wrapper: Callable[[Callable[..., Tensor]], Callable[..., Tensor]]
    ) -> None:
        """Pass the training step of later fits, a function of fixed shapes, through `wrapper`."""
        self._wrap = wrapper

    def fit(self, data: Dataset, progress: FitProgress | None = None) -> dict[str, Any]:
        """Fit from scratch on a random stream of its own, seeded by `seed`.

        Returns:
            What `fit_rows` returns, the number of `heldout_episodes`, and what the termination
            says of its own fit.

        Raises:
            Mistake: other spaces than the model's, or too few usable rows; the fit diverged.
        """
        self.spec.require_same_spaces(data.spec, "the world model", f"dataset {data.name}")
        device = self.elite_members.device
        seen = self._seen(data)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            self.gaussians.reset()
            described = self.learn(data, seen, progress)
            described["heldout_episodes"] = len(self.held_out(data))
            described["termination"] = self.termination.fit(data, seen)
            if self.reward_rule is not None:
                described["reward"] = compare(self.reward_rule, data, seen)
        return described

    def learn(
        self, data: Dataset, seen: Bool[Tensor, " N"], progress: FitProgress | None
    ) -> dict[str, Any]:
        """Fit new weights to the `seen` rows, as `fit` describes."""
        if self.forcing is not None:
            return self._learn_windows(data, seen, progress, self.forcing)
        rows = self._cut(data, seen)
        if rows is not None:
            return self._fit_to(rows, data, progress)
        device = self.elite_members.device
        inputs, targets = (x.to(device) for x in self._recorded(data, seen))
        index = torch.arange(len(inputs), device=device).expand(self.replicas, -1)
        return self.fit_rows(inputs, targets, index, progress, self.patience_updates)

    def _learn_windows(
        self,
        data: Dataset,
        seen: Bool[Tensor, " N"],
        progress: FitProgress | None,
        forcing: Forcing,
    ) -> dict[str, Any]:
        rows = cut(data, seen, self.holdout_fraction, self.seed, self.elite_members.device)
        lanes = (each.expand(self.replicas, -1) for each in (rows.mean, rows.std))
        self.gaussians.normalise_by(*lanes)
        fit = ForcedFit(
            forcing=forcing,
            select_by=self.select_by,
            select_steps=self.select_steps,
            batch=self.windows,
            learning_rate=self.learning_rate,
            holdout_limit=self.holdout_limit,
            improvement=self.improvement,
            patience=self.patience,
            patience_updates=self.patience_updates,
            max_epochs=self.max_epochs,
            precision=self.precision,
            wrap=self._wrap,
        )
        lead = (self.replicas, self.members)
        self.gaussians.requires_grad_(True)
        try:
            with torch.enable_grad():
                stopping, said = fit.run(
                    *self.cells(rows), lead, rows, data, progress, self.driving(data)
                )
        finally:
            self.gaussians.requires_grad_(False)
        return said | self.conclude(stopping)

    def _cut(self, data: Dataset, seen: Bool[Tensor, " N"]) -> Cut | None:
        """Held-out episodes and the rows of the fit; None where single rows stop it."""
        if self.select_by == ONE_STEP:
            return None
        most = windows_within(self.holdout_limit, self.select_steps)
        device = self.elite_members.device
        rows = Cut.of(data, seen, self.holdout_fraction, self.seed, device, most)
        if rows is not None and rows.longest > 1:
            return rows
        log.warning(
            "dataset %s: no two rows that could be held out follow each other, so that the error "
            "of single steps stops the fit and chooses weights (world_model.select_by=one_step)",
            data.name,
        )
        return None

    def require_refit(self) -> None:
        if self.forcing is not None:
            raise Mistake(
                "a model trained on windows of episodes is not fitted again to single rows that "
                "were collected; set online.refit_every=0, or choose world_model=ensemble with "
                "forcing=none"
            )
        if self.replicas != self.seeds:
            raise Mistake(
                f"online training with seeds={self.seeds} needs a model for every seed, for each "
                "collects rows of its own; set world_model.per_seed=true, or online.refit_every=0"
            )
        if isinstance(self.termination, LearnedTermination):
            raise Mistake(
                f"the learned termination rule of {self.spec.env_id} is not fitted again during "
                "a run; set world_model.termination=known or none, or online.refit_every=0"
            )
        if self.select_by != ONE_STEP:
            log.info(
                "refits during the run are stopped by the error of single steps, whatever "
                "world_model.select_by says: nothing tells which collected rows follow each other"
            )

    def refit(
        self, data: Dataset, added: Transition, *, warm: bool
    ) -> dict[str, Float[Tensor, " S"]]:
        """Fit again on the dataset's rows and, for each seed, on its own `added[s]`.

        Input statistics, holdout and bootstrap samples are new. `holdout_loss` is the best of the
        fit, mean over members. Single steps stop it whatever `select_by` says: nothing tells which
        collected rows follow each other.
        """
        device = self.elite_members.device
        recorded = self._recorded(data, self._seen(data))
        old, new = len(recorded[0]), added.shape.numel()
        own = torch.arange(old, old + new, device=device).view(self.replicas, -1)
        index = torch.cat([torch.arange(old, device=device).expand(self.replicas, -1), own], -1)
        if not warm:
            self.gaussians.reset()
        collected = self.examples(added.map(lambda column: column.flatten(0, 1)))
        both = zip(recorded, collected, strict=True)
        inputs, targets = (torch.cat([old.to(device), new]) for old, new in both)
        described = self.fit_rows(inputs, targets, index)
        best = torch.tensor(described["best_loss"], device=device).mean(-1)
        return {
            "holdout_loss": best,
            "epochs": torch.tensor(described["epochs"], device=device),
            "rows": torch.full_like(best, described["rows"]),
        }

    def table(self, data: Dataset) -> Float[Tensor, "R W"]:
        """Input and target, side by side, of every row that a fit to this dataset may see."""
        return torch.cat(self._recorded(data, self._seen(data)), -1).to(self.elite_members.device)

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

    def _recorded(
        self, data: Dataset, seen: Bool[Tensor, " N"]
    ) -> tuple[Float[Tensor, "R X"], Float[Tensor, "R Y"]]:
        """`examples` of those rows that are `seen` and have a successor."""
        chosen = seen & data.valid_next
        return self.examples(data.transitions[chosen], None if data.dt is None else data.dt[chosen])

    def _seen(self, data: Dataset) -> Bool[Tensor, " N"]:
        """Rows of the dataset that the fit may see."""
        return ~rows_of(data, self.held_out(data))

    def fit_rows(
        self,
        inputs: Float[Tensor, "R X"],
        targets: Float[Tensor, "R Y"],
        rows: Int[Tensor, "L N"],
        progress: FitProgress | None = None,
        patience_updates: int = 0,
    ) -> dict[str, Any]:
        """Go on fitting from the present weights; ensemble l sees the table rows `rows[l]` only.

        Draws from torch's global generator. Draws have fixed shapes, so the fit of one ensemble
        does not depend on what the others see or on when they stop.

        Args:
            inputs: (obs, action), raw.
            targets: (next_obs - obs, reward), raw.
            rows: the same number of table rows for every ensemble.
            progress: told epoch and mean holdout error of those still fitting.
            patience_updates: see the class.

        Returns:
            Counts of rows, and per ensemble: epochs, holdout error by epoch (mean over members
            of the mean squared error of the Gaussian's mean), best error of each member, elites.

        Raises:
            Mistake: no row would be left for the holdout or for training; a holdout error was not
                finite; names seeds and epochs.
        """
        stopping, said = self._fit_of_rows(patience_updates).by_rows(
            self.gaussians, inputs, targets, rows, progress
        )
        return said | self.conclude(stopping)

    def _fit_to(self, rows: Cut, data: Dataset, progress: FitProgress | None) -> dict[str, Any]:
        """Learn from single rows, and be measured by windows of held-out episodes."""
        mean, std = (each.expand(self.replicas, -1) for each in (rows.mean, rows.std))
        self.gaussians.normalise_by(mean, std)
        dim = self.spec.obs_dim
        recorded = WindowRows(data, rows.room, rows.mean[:dim], rows.std[:dim], self.driving(data))
        lead = (self.replicas, self.members)
        windows = held_windows(recorded, rows, self.select_steps, self.holdout_limit, lead)
        errors = WindowErrors(self.cells(rows)[1], windows, self.select_by)
        table = torch.cat(self._recorded(data, rows.train), -1).to(mean.device)
        stopping, said = self._fit_of_rows(self.patience_updates).by_windows(
            self.gaussians, table, rows, errors, progress
        )
        return said | self.conclude(stopping)

    def _fit_of_rows(self, patience_updates: int) -> RowFit:
        return RowFit(
            batch=self.batch,
            learning_rate=self.learning_rate,
            holdout_fraction=self.holdout_fraction,
            holdout_limit=self.holdout_limit,
            improvement=self.improvement,
            patience=self.patience,
            patience_updates=patience_updates,
            max_epochs=self.max_epochs,
            precision=self.precision,
            wrap=self._wrap,
        )

    def driving(self, data: Dataset) -> Float[Tensor, "N F"]:
        """What a member's input holds behind the observation: what drives the step."""
        lasting = None if data.dt is None else data.dt.where(data.valid_next, data.nominal_dt)
        return self.examples(data.transitions, lasting)[0][:, self.spec.obs_dim :]

    def cells(self, rows: Cut) -> tuple[GaussianCell, GaussianCell]:
        """One step of all members on windows of these rows, as it is trained and as measured."""
        given = (self.gaussians, self.copies, self.spec.exogenous, rows.reward_std)
        return GaussianCell(*given, self.dropout), GaussianCell(*given, 0.0)

    def conclude(self, stopping: EarlyStopping) -> dict[str, Any]:
        """Choose the elites, and say so.

        Raises:
            Mistake: the fit diverged.
        """
        self.elite_members.copy_(stopping.best.argsort(-1)[:, : self.elites])
        self.ready = not bool(stopping.failed.any())
        self.fitted.fill_(self.ready)
        stopping.require_finite(
            "lower world_model.learning_rate, or rescale observations and rewards"
        )
        return {"elites": self.elite_members.tolist()}

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
        outcome = self._outcome(obs, action, sample.transpose(0, 1), shape, following)
        return replace(outcome, uncertainty=self._uncertainty(obs, action, *known).reshape(shape))

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
        mean, std = self.all_members(obs, action)
        centre = mean_of_elites(mean, self.elite_members).expand(candidates, -1, -1, -1)
        following = None if kept is None else kept.expand(candidates, -1, -1, -1)
        outcome = self._outcome(obs, action, centre, shape, following)
        return replace(
            outcome, uncertainty=self._uncertainty(obs, action, mean, std).reshape(shape)
        )

    def _outcome(
        self,
        obs: Float[Tensor, "L B D"],
        action: Float[Tensor, "L B A"],
        change: Float[Tensor, "K L B Y"],
        shape: torch.Size,
        following: Float[Tensor, "K L B W"] | None,
    ) -> Step:
        """What changes of observation with their rewards lead to, for rows of `shape`."""
        candidates = len(change)
        next_obs = self.copies(obs, action, obs + change[..., :-1])
        ended = self.termination(
            obs.expand_as(next_obs), action.expand(candidates, -1, -1, -1), next_obs
        )
        reward = change[..., -1]
        if self.reward_rule is not None:
            reward = rewarded(self.reward_rule, obs, action, next_obs)
        return Step(
            next_obs=next_obs.reshape(candidates, *shape, -1),
            reward=reward.reshape(candidates, *shape),
            terminated=ended.reshape(candidates, *shape),
            uncertainty=change.new_zeros(shape),
            state=None if following is None else following.reshape(candidates, *shape, -1),
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
        seeds, rows = obs.shape[:-1]
        mean, std = self.all_members(self._by_replica(obs), self._by_replica(action))
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

    def _kept(self, state: Tensor | None) -> Float[Tensor, "L rows W"] | None:
        """A state, grouped as `_by_replica` does."""
        if state is None:
            return None
        if self.rollout_state.is_empty:
            raise ValueError("this ensemble carries no state between steps; pass state=None")
        return self._by_replica(state)

    def _by_replica(self, values: Float[Tensor, "S B W"]) -> Float[Tensor, "L rows W"]:
        """Rows grouped by the ensemble that serves them."""
        if not self.ready:
            raise RuntimeError("the world model is not fitted; call fit or load a fitted one first")
        return grouped_by_replica(
            values, seeds=self.seeds, replicas=self.replicas, per_seed=self.per_seed
        )


# What two models must agree on, besides spaces and termination, to be exchangeable.
_SIGNED = (
    "replicas",
    "seed",
    "members",
    "elites",
    "hidden",
    "activation",
    "learning_rate",
    "batch",
    "weight_decay",
    "log_variance_bounds",
    "bound_coefficient",
    "holdout_fraction",
    "holdout_limit",
    "improvement",
    "patience",
    "max_epochs",
    "heldout_episodes",
)


def _require(holds: bool, what: str, found: object) -> None:
    if not holds:
        raise Mistake(f"world_model needs {what}, got {found}")


def _read_flag(model: ProbabilisticEnsemble, _: object) -> None:
    model.ready = bool(model.fitted)


def _as_it_is(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return function
