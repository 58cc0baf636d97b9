"""A probabilistic ensemble of one-step models, all members and all seeds as one batched network.

PETS arXiv:1805.12114, MBPO arXiv:1906.08253, MOPO arXiv:2005.13239. Each of E members predicts a
diagonal Gaussian over (next_obs - obs, reward) in raw units from normalised (obs, action). Each
fits its own bootstrap sample by maximum likelihood until its seed's holdout error stops falling,
and the members with the lowest holdout error, the elites, take turns in rollouts.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

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
    bootstrap,
    described,
    held_out_episodes,
    moments,
    most_epochs,
    rows_of,
    run_epochs,
    shuffle,
    split,
)
from reverie.world_models.forced_fit import ForcedFit, SelectBy, cut
from reverie.world_models.forcing import Forcing
from reverie.world_models.gaussian import GaussianMembers, members_of_rows
from reverie.world_models.gaussian_cell import GaussianCell
from reverie.world_models.optimiser import Adam
from reverie.world_models.per_seed import grouped_by_replica
from reverie.world_models.precision import Precision, in_precision
from reverie.world_models.rollout_state import RolloutState
from reverie.world_models.termination import LearnedTermination, resolve
from reverie.world_models.uncertainty import (
    CONSTANT,
    DROPOUT,
    STANDARDISED,
    dropout_std,
    uncertainty_named,
)


class ProbabilisticEnsemble(WorldModel):
    """E Gaussian perceptrons per seed, bootstrapped, early-stopped, elites used in rollouts.

    Args:
        spec: spaces and environment of the task.
        seeds: S, agents trained side by side.
        seed: of everything the fit draws; the fit depends on nothing else but data and settings.
        members: E.
        elites: members with the lowest holdout error that rollouts sample from.
        hidden, activation: of each perceptron.
        learning_rate, batch: of Adam, rows per member and update.
        weight_decay: per layer, L2 in the loss (not decoupled), weights only.
        log_variance_bounds: where the trainable lower and upper bounds start.
        bound_coefficient: weight of sum(upper) - sum(lower) in the loss.
        holdout_fraction, holdout_limit: transitions kept for early stopping, at most `limit`.
        improvement: share by which a member's holdout error must fall to count.
        patience: epochs without any improvement after which a seed stops.
        max_epochs: cap on epochs, None for none; auto caps the updates at `AUTO_UPDATES` instead.
        per_seed: an ensemble for every seed, or one that all seeds share.
        uncertainty: `max_aleatoric`, `pairwise_difference`, `ensemble_std`, `scaled_ensemble_std`,
            `max_pairwise` or `dropout`.
        dropout: probability that the fit leaves a hidden unit out; predictions and holdout errors
            use all units. 0 for none.
        start_cut: standard deviations at which the normal of the starting weights is cut, None for
            a whole one.
        dropout_passes: networks with units left out whose spread is `uncertainty=dropout`.
        termination: `auto`, `known`, `learned` or `none`, see `world_models.termination`.
        terminal_head: builds the classifier that `learned` needs, given `spec` and `seeds`.
        heldout_episodes: whole episodes kept out of the fit for open-loop diagnostics, at most a
            tenth of all; 0 for none.
        precision: of hidden layers in the updates of a fit, see `world_models.precision`.
        layer_norm: normalise the units of every hidden layer before their activation, so that no
            prediction moves farther than its last layer's weights allow.
        rollout_member: whether an elite is drawn at every `step` of a rollout, or one for a whole
            `rollout`.
        rollout_dropout: probability that rollouts leave a hidden unit out; 0 for none. Of networks
            that were fitted so only.
        rollout_mask: whether those units are drawn at every `step`, or once for a `rollout`.
        forcing: None for a fit to single rows; else members learn from windows of their own
            predictions, `batch` / `forcing.steps` of them in an update, `holdout_fraction` is of
            whole episodes, and the error of many steps stops the fit and chooses weights and
            elites, see `ForcedFit`.
        respect_copies: whether columns that copy others (`spec.copies`) are copied exactly, and
            count for no loss and no uncertainty; else they are predicted as all others.

    Source: MBPO and MOPO as specified above; holdout of single transitions for early stopping as
    there. Differs: time-limit rows with a true next observation are kept; `heldout_episodes`
    leave the fit, which no published variant does (0 restores it); the order of target columns is
    change of observation, then reward; exogenous observations and copies are no targets; a seed
    that has stopped waits for the others, its weights, bounds and elites as they were. `forcing`:
    arXiv:2306.04406. Differs: the state is carried by the means of Gaussians, and each step counts
    by its likelihood, so that the variances cover what carried states add; no regulariser beside
    the decay of the weights.
    """

    draws = True
    select_by: SelectBy = "multi_step"
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
        activation: str,
        learning_rate: Positive,
        batch: Count,
        weight_decay: Sequence[NonNegative],
        log_variance_bounds: Bounds,
        bound_coefficient: NonNegative,
        holdout_fraction: Inside,
        holdout_limit: Count,
        improvement: Decay,
        patience: Count,
        max_epochs: Count | Literal["auto"] | None,
        per_seed: bool,
        uncertainty: str,
        dropout: Decay,
        start_cut: Positive | None,
        dropout_passes: Annotated[int, Range(2)],
        termination: str,
        terminal_head: Callable[..., LearnedTermination],
        heldout_episodes: Whole,
        precision: Precision,
        layer_norm: bool,
        rollout_member: Literal["step", "rollout"],
        rollout_dropout: Decay,
        rollout_mask: Literal["step", "rollout"],
        forcing: Forcing | None,
        respect_copies: bool,
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
        self.per_seed, self.heldout_episodes = per_seed, heldout_episodes
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
        self.copies = Copies(spec if respect_copies else replace(spec, copies=()))
        held = sorted([*spec.exogenous, *self.copies.columns.tolist()])
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
        if self.forcing is not None:
            fixed["forcing"] = self.forcing.signature()
        if self.spec.exogenous:
            fixed["exogenous"] = list(self.spec.exogenous)
        if len(self.copies.columns):
            fixed["copies"] = [list(pair) for pair in self.spec.copies]
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
        return described

    def learn(
        self, data: Dataset, seen: Bool[Tensor, " N"], progress: FitProgress | None
    ) -> dict[str, Any]:
        """Fit new weights to the `seen` rows, as `fit` describes."""
        if self.forcing is not None:
            return self._learn_windows(data, seen, progress, self.forcing)
        device = self.elite_members.device
        inputs, targets = (x.to(device) for x in self._recorded(data, seen))
        index = torch.arange(len(inputs), device=device).expand(self.replicas, -1)
        return self.fit_rows(inputs, targets, index, progress)

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
            batch=self.windows,
            learning_rate=self.learning_rate,
            holdout_limit=self.holdout_limit,
            improvement=self.improvement,
            patience=self.patience,
            max_epochs=self.max_epochs,
            precision=self.precision,
            wrap=self._wrap,
        )
        lead = (self.replicas, self.members)
        self.gaussians.requires_grad_(True)
        try:
            with torch.enable_grad():
                stopping, said = fit.run(
                    *self.cells(rows.reward_std), lead, rows, data, progress, self.driving(data)
                )
        finally:
            self.gaussians.requires_grad_(False)
        return said | self.conclude(stopping)

    def cells(self, reward_std: Float[Tensor, ""]) -> tuple[GaussianCell, GaussianCell]:
        """A step of the members as forced training takes it, and as it is measured."""
        train, test = (
            GaussianCell(self.gaussians, self.copies, self.spec.exogenous, reward_std, dropout)
            for dropout in (self.dropout, 0.0)
        )
        return train, test

    def driving(self, data: Dataset) -> Float[Tensor, "N A"] | None:
        """What drives each recorded step, None for the actions alone."""
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

    def refit(
        self, data: Dataset, added: Transition, *, warm: bool
    ) -> dict[str, Float[Tensor, " S"]]:
        """Fit again on the dataset's rows and, for each seed, on its own `added[s]`.

        Input statistics, holdout and bootstrap samples are new. `holdout_loss` is the best of the
        fit, mean over members.
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
    ) -> dict[str, Any]:
        """Go on fitting from the present weights; ensemble l sees the table rows `rows[l]` only.

        Draws from torch's global generator. Draws have fixed shapes, so the fit of one ensemble
        does not depend on what the others see or on when they stop.

        Args:
            inputs: (obs, action), raw.
            targets: (next_obs - obs, reward), raw.
            rows: the same number of table rows for every ensemble.
            progress: told epoch and mean holdout error of those still fitting.

        Returns:
            Counts of rows, and per ensemble: epochs, holdout error by epoch (mean over members
            of the mean squared error of the Gaussian's mean), best error of each member, elites.

        Raises:
            Mistake: no row would be left for the holdout or for training; a holdout error was not
                finite; names seeds and epochs.
        """
        count = rows.shape[1]
        holdout = min(int(self.holdout_fraction * count), self.holdout_limit)
        if holdout < 1:
            raise Mistake(
                f"{count} usable transitions leave none for the holdout of "
                f"world_model.holdout_fraction={self.holdout_fraction}; the fit needs more data"
            )
        train, held = split(rows, holdout)
        self.gaussians.normalise_by(*moments(inputs, train))
        self.gaussians.requires_grad_(True)
        try:
            with torch.enable_grad():
                table = torch.cat([inputs, targets], -1)
                stopping, losses = self._fit_epochs(table, train, held, progress)
        finally:
            self.gaussians.requires_grad_(False)
        elites = self.conclude(stopping)
        return {
            "rows": count,
            "train_rows": count - holdout,
            "holdout_rows": holdout,
            **described(stopping, losses),
            **elites,
        }

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

    def _fit_epochs(
        self, table: Tensor, train: Tensor, held: Tensor, progress: FitProgress | None
    ) -> tuple[EarlyStopping, Float[Tensor, "epochs L"]]:
        """Train until every ensemble has stopped and put its best weights in place."""
        device = table.device
        replicas, rows = train.shape
        batches = -(-rows // self.batch)
        # The last batch is filled up with rows of weight zero, so that all have one shape.
        positions = torch.arange(batches * self.batch, device=device).view(batches, -1)
        weights = (positions < rows).to(table.dtype)
        positions = positions.remainder(rows)
        # 32 bits halve what 7 members times a million rows times S seeds take.
        order = bootstrap(train.to(torch.int32), self.members)
        holdout = table[held].unsqueeze(1)

        optimiser = Adam(self.gaussians.trained_parameters(), self.learning_rate).to(device)

        def step(batch: Tensor, weight: Tensor) -> Tensor:
            return self.gaussians.update(optimiser, batch, weight)

        update = in_precision(self.precision, self._wrap(step))
        stopping = EarlyStopping.start(
            replicas,
            self.members,
            improvement=self.improvement,
            patience=self.patience,
            device=device,
        )

        def epoch() -> None:
            nonlocal order
            order = shuffle(order)
            for position, weight in zip(positions, weights, strict=True):
                drawn = order.index_select(-1, position)  # [L, E, batch]
                update(table.index_select(0, drawn.flatten()).view(*drawn.shape, -1), weight)

        losses = run_epochs(
            self.gaussians,
            stopping,
            epoch,
            lambda: self.gaussians.errors(holdout),
            cap=most_epochs(self.max_epochs, batches),
            progress=progress,
        )
        return stopping, losses

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

        Both are 0 of what is exogenous or copied, which the members do not learn.

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
        return Step(
            next_obs=next_obs.reshape(candidates, *shape, -1),
            reward=change[..., -1].reshape(candidates, *shape),
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
            return self.uncertainty_of(*map(self.gaussians.of_learned, (mean, std)))
        passes = self.gaussians.stochastic_means(self.inputs(obs, action), self.dropout_passes)
        return dropout_std(self.gaussians.of_learned(passes))

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
        next_obs = self.copies(obs, action, obs + mean[..., :-1])
        return torch.cat([next_obs, mean[..., -1:]], -1), std

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
