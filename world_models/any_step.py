"""One recurrent model that predicts over several numbers of steps: ADMPO's dynamics.

ADMPO, arXiv:2405.17031. The outcome of the action at time t is predicted from the state k steps
back and the actions since, for every k in 1, ..., m. Predictions from older states go through fewer
predicted ones, and the spread of the m predictions is the uncertainty.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.ranges import Bounds, Count, Decay, Inside, NonNegative, Positive, Whole
from reverie.world_models.base import FitProgress, ReadState, Step, WriteState
from reverie.world_models.copies import Copies
from reverie.world_models.fitting import Unfinished, uninterrupted
from reverie.world_models.forced_fit import ForcedFit
from reverie.world_models.forcing import Forcing
from reverie.world_models.jumps import Answers, JumpCell
from reverie.world_models.recurrent import RecurrentGaussian
from reverie.world_models.replicated import ReplicatedModel
from reverie.world_models.selection import MULTI_STEP, cut
from reverie.world_models.windows import (
    WindowFit,
    WindowTable,
    holdout_errors,
    holdout_rows,
    windows,
)

# Rows of a CPU that go through the network at a time; more would leave its caches.
_BLOCK = 2048
# torch.randint needs a bound that is no tensor; its modulo by a few steps is even.
_LARGE = 2**62


class AnyStep(ReplicatedModel):
    """A recurrent Gaussian over (s_{t+1} - s_{t-k+1}, r_t) given s_{t-k+1} and a_{t-k+1..t}.

    Args:
        backtrack: m, the largest number of steps of a prediction.
        width, layers: of the gated recurrent units.
        blocks: residual blocks after them.
        dropout: dropout probability in these blocks during the fit.
        learning_rate, batch: of Adam, windows per update.
        log_variance_bounds: initial values of the trainable lower and upper bounds.
        bound_coefficient: weight of sum(upper) - sum(lower) in the loss.
        holdout_fraction: of the episodes of the fit, kept for early stopping; of a single episode
            its end.
        holdout_limit: maximum number of held-out windows of each length; with `forcing`, of
            held-out transitions.
        improvement: smallest relative decrease of the holdout error that counts.
        patience: epochs without any improvement after which a seed stops.
        max_epochs: cap on epochs, None for none; auto: as many as take `fitting.AUTO_UPDATES`.
        checkpoint_every: epochs between checkpoints of the fit; 0 for none.
        forcing: None for a fit to windows of one length after the other, each from a recorded
            state; otherwise to rollouts of `forcing.steps`, `batch` / `forcing.steps` in an update,
            by teacher forcing, see `jumps.JumpCell`. Their error without forcing then stops the
            fit.
        uncertainty_unit: of u, the root mean square over observations of the standard deviation
            over k of the means: `std` of the targets, or `raw`. At a first step u is 0.
        others: see `ReplicatedModel`.

    Source: ADMPO and its code. Differs: targets are standardised, and u is (`raw` undoes that); k
    is sampled for every transition of a rollout, not once for all; a rollout begins with one state,
    not with its recorded past; early stopping holds out whole episodes, and windows end at their
    ends; exogenous observations are inputs at every step, like actions, and not targets; copies of
    other columns (`spec.copies`) are copied exactly, and count in the loss and in u like others.
    """

    held: Tensor
    observed: Tensor
    """Observations that are learned."""
    signed = (
        "replicas",
        "seed",
        "backtrack",
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
        "heldout_episodes",
    )

    def __init__(
        self,
        *,
        backtrack: Count,
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
        checkpoint_every: Whole,
        forcing: Forcing | None,
        uncertainty_unit: Literal["std", "raw"],
        **others: Any,
    ) -> None:
        super().__init__(**others)
        self.backtrack = backtrack
        self.width, self.layers, self.blocks, self.dropout = width, layers, blocks, dropout
        self.learning_rate, self.batch = learning_rate, batch
        self.log_variance_bounds = list(log_variance_bounds)
        self.bound_coefficient = bound_coefficient
        self.holdout_fraction, self.holdout_limit = holdout_fraction, holdout_limit
        self.improvement, self.patience, self.max_epochs = improvement, patience, max_epochs
        self.checkpoint_every, self.forcing = checkpoint_every, forcing
        self.standardised = uncertainty_unit == "std"
        self.copies = Copies(self.spec)
        self.network = self._build().requires_grad_(False)
        exogenous = torch.tensor(self.spec.exogenous, dtype=torch.int64)
        self.register_buffer("held", exogenous, False)
        observed = [each for each in range(self.spec.obs_dim) if each not in self.spec.exogenous]
        self.register_buffer("observed", torch.tensor(observed), False)
        self._begin_unfitted()
        self._read: ReadState | None = None
        self._write: WriteState | None = None

    def _build(self) -> RecurrentGaussian:
        """A network whose weights come from torch's global generator."""
        spec = self.spec
        return RecurrentGaussian(
            lead=(self.replicas,),
            inputs=spec.obs_dim + spec.action_dim + len(spec.exogenous),
            outputs=spec.obs_dim + 1,
            width=self.width,
            layers=self.layers,
            blocks=self.blocks,
            dropout=self.dropout,
            log_variance_bounds=self.log_variance_bounds,
            bound_coefficient=self.bound_coefficient,
            left_out=[*spec.exogenous, *([] if self.reward_rule is None else [spec.obs_dim])],
        )

    def signature(self) -> dict[str, Any]:
        fixed = super().signature()
        if self.forcing is not None:
            fixed["forcing"] = self.forcing.signature()
        return fixed

    def keep_partial_fits(self, read: ReadState, write: WriteState) -> None:
        self._read, self._write = read, write

    def fit(self, data: Dataset, progress: FitProgress | None = None) -> dict[str, Any]:
        """Fit from scratch, or go on with a killed fit, on a random stream seeded by `seed`.

        Returns:
            Rows and windows, by length, of the fit and of the holdout; per model: epochs, holdout
            error by epoch (mean squared error of the Gaussian's mean over outputs and k, in
            variances of the targets), the best of it, and `jump_error`, its root for each k; and
            what `describe` returns. With forcing the course of the fit is told as `ForcedFit` does.

        Raises:
            Mistake: other spaces than the model's, or too few consecutive rows; the fit diverged.
        """
        self.spec.require_same_spaces(data.spec, "the world model", f"dataset {data.name}")
        device = self.fitted.device
        seen = self._seen(data)
        holdout = holdout_rows(data, seen, self.holdout_fraction, self.seed)
        train, held = (
            windows(data, rows, self.backtrack) for rows in (seen & ~holdout, seen & holdout)
        )
        if not train.counts[-1] or not held.counts[0]:
            longest = max((k for k, count in enumerate(train.counts, 1) if count), default=0)
            raise Mistake(
                f"dataset {data.name} has no {self.backtrack} consecutive rows to fit to and one "
                f"for the holdout; the longest stretch has {longest}: lower world_model.backtrack "
                f"({self.backtrack}), or give more data"
            )
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            table = WindowTable(data, device, self.held)
            self.network.load_state_dict(self._build().state_dict())
            self.network.normalise_by(*table.statistics(train))
            tests = [
                table.batch(held.starts[:count][torch.randperm(count)[: self.holdout_limit]], k)
                for k, count in enumerate(held.counts, 1)
                if count
            ]
            unfinished = Unfinished(self.checkpoint_every, self._read, self._write)
            self.network.requires_grad_(True)
            try:
                if self.forcing is None:
                    fit = WindowFit(batch=self.batch, unfinished=unfinished, **self._settings())
                    described = fit.run(self.network, table, train, tests, progress)
                else:
                    described = self._fit_forced(data, seen, self.forcing, unfinished, progress)
            finally:
                self.network.requires_grad_(False)
            self.fit_first = unfinished.first
            self._set_fitted(True)
            described |= {
                "jump_error": holdout_errors(self.network, tests).sqrt().tolist(),
                "windows": train.counts,
                "holdout_windows": held.counts,
                **self.describe(data, seen),
            }
        return described

    def _settings(self) -> dict[str, Any]:
        """Of both kinds of fit."""
        return {
            "learning_rate": self.learning_rate,
            "improvement": self.improvement,
            "patience": self.patience,
            "max_epochs": self.max_epochs,
            "wrap": self._wrap,
        }

    def _fit_forced(
        self,
        data: Dataset,
        seen: Bool[Tensor, " N"],
        forcing: Forcing,
        unfinished: Unfinished,
        progress: FitProgress | None,
    ) -> dict[str, Any]:
        rows = cut(data, seen, self.holdout_fraction, self.seed, self.fitted.device)
        given = (rows, self.copies, self.spec.exogenous, self.backtrack - 1)
        cell, test = (
            JumpCell(self.network, partial(self.answers, dropout=rate), self._following, *given)
            for rate in (self.dropout, 0.0)
        )
        fit = ForcedFit(
            forcing=forcing,
            select_by=MULTI_STEP,
            select_steps=forcing.steps,
            batch=max(1, self.batch // forcing.steps),
            holdout_limit=self.holdout_limit,
            precision="float32",
            whole=1,
            unfinished=unfinished,
            **self._settings(),
        )
        with torch.enable_grad():
            stopping, said = fit.run(cell, test, (self.replicas, 1), rows, data, progress)
        stopping.require_finite("or lower world_model.learning_rate")
        return said

    def initial_state(self, obs: Tensor) -> Tensor:
        """An empty queue: the m - 1 pairs (s, a) before `obs`, the latest last, and its length.

        The length counts the present pair, so that it is the longest jump there is: 1.
        """
        pairs = (self.backtrack - 1) * (self.spec.obs_dim + self.spec.action_dim)
        # Beside it the record of exogenous observations has a row's number, too long for 32 bits.
        kind = torch.float64 if self.spec.exogenous else obs.dtype
        state = obs.new_zeros(*obs.shape[:-1], pairs + 1, dtype=kind)
        state[..., -1] = 1.0
        return state

    def recorded_state(self, data: Dataset, rows: Int[Tensor, " R"]) -> Float[Tensor, "R W"]:
        """The queue of the recorded pairs before each row, as many as its episode has."""
        first, _ = uninterrupted(data)
        length = (rows - first[rows] + 1).clamp(max=self.backtrack)
        back = torch.arange(self.backtrack - 1, 0, -1)
        before = data.transitions[(rows.unsqueeze(-1) - back).clamp(min=0)]
        pairs = torch.cat([before.obs, before.action], -1)
        pairs = torch.where((back < length.unsqueeze(-1)).unsqueeze(-1), pairs, 0.0).flatten(1)
        return torch.cat([pairs, length.unsqueeze(-1)], -1).to(self.fitted.device)

    def answers(
        self,
        obs: Float[Tensor, "L B D"],
        action: Float[Tensor, "L B A"],
        state: Float[Tensor, "L B W"],
        dropout: float = 0.0,
    ) -> Answers:
        """The outcome of `action` as all jumps tell it that end with it, in one pass.

        Args:
            dropout: probability that a unit of a block is left out.
        """
        state = state.to(obs.dtype)
        if obs.device.type == "cpu" and not torch.is_grad_enabled() and obs.shape[1] > _BLOCK:
            parts = zip(*(each.split(_BLOCK, 1) for each in (obs, action, state)), strict=True)
            found = [self._answers(seen, done, past, dropout) for seen, done, past in parts]
            return Answers(
                *(
                    torch.cat(columns, -2 if columns[0].ndim == 4 else -1)
                    for columns in zip(*found, strict=True)
                )
            )
        return self._answers(obs, action, state, dropout)

    def _answers(self, obs: Tensor, action: Tensor, state: Tensor, dropout: float) -> Answers:
        m, (lanes, rows, dim) = self.backtrack, obs.shape
        pairs = self._pairs(obs, action, state)  # [m, L, B, D + A], oldest first
        past, actions = pairs.split([dim, action.shape[-1]], -1)
        driving = torch.cat([actions, past.index_select(-1, self.held)], -1)
        # At the j-th time the jumps that began earlier go on, and one more begins. All of them
        # take what drove that time.
        sequence = [
            torch.cat(
                [
                    past[: j + 1].transpose(0, 1).reshape(lanes, (j + 1) * rows, dim),
                    driving[j].repeat(1, j + 1, 1),
                ],
                -1,
            )
            for j in range(m)
        ]
        mean, std = (each.view(lanes, m, rows, -1) for each in self.network(sequence, dropout))
        change, reward = mean.split([dim, 1], -1)
        next_obs = past.transpose(0, 1) + change
        if self.spec.exogenous:  # stay as they are now, not as they were
            now = obs.index_select(-1, self.held).unsqueeze(1).expand(-1, m, -1, -1)
            next_obs = next_obs.index_copy(-1, self.held, now)
        jump = torch.arange(m, 0, -1, device=obs.device).unsqueeze(-1)
        known = jump <= state[..., -1].unsqueeze(1)
        return Answers(torch.cat([next_obs, reward], -1), std, known)

    def _pairs(self, obs: Tensor, action: Tensor, state: Tensor) -> Float[Tensor, "m L B W"]:
        """The queue with the present pair (s, a) behind it."""
        now = torch.cat([obs, action], -1).unsqueeze(0)
        past = state[..., :-1].reshape(*obs.shape[:-1], self.backtrack - 1, now.shape[-1])
        return torch.cat([past.movedim(-2, 0), now])

    def _following(self, obs: Tensor, action: Tensor, state: Tensor) -> Float[Tensor, "L B W"]:
        """The queue one step later, whatever the outcome of this one."""
        pairs = self._pairs(obs, action, state)[1:].movedim(0, -2).flatten(-2)
        length = (state[..., -1:] + 1).clamp(max=self.backtrack)
        return torch.cat([pairs, length], -1)

    def step(
        self,
        obs: Float[Tensor, "S B D"],
        action: Float[Tensor, "S B A"],
        candidates: int = 1,
        state: Tensor | None = None,
    ) -> Step:
        """Sample K outcomes per row, each from one of the jumps that its rollout is old enough for.

        All of these are equally likely. Reward and next observation come from the same jump.

        Raises:
            RuntimeError: the model has not been fitted.
            ValueError: another number of seeds than the model was built for.
        """

        def choose(answers: Answers) -> Tensor:
            oldest = answers.known.sum(1)  # [L, B]
            shape = (candidates, *oldest.shape)
            back = torch.randint(_LARGE, shape, device=obs.device) % oldest
            jump = (self.backtrack - 1 - back).movedim(0, 1).unsqueeze(-1)  # [L, K, B, 1]
            mean, std = (each.take_along_dim(jump, 1) for each in (answers.mean, answers.std))
            return (mean + std * torch.randn_like(mean)).movedim(1, 0)

        return self._outcome(obs, action, candidates, state, choose)

    def expect(
        self,
        obs: Float[Tensor, "S B D"],
        action: Float[Tensor, "S B A"],
        candidates: int = 1,
        state: Tensor | None = None,
    ) -> Step:
        """The mean over k of the means, `candidates` times over; see `step`."""

        def choose(answers: Answers) -> Tensor:
            return answers.average().expand(candidates, -1, -1, -1)

        return self._outcome(obs, action, candidates, state, choose)

    def _outcome(
        self,
        obs: Tensor,
        action: Tensor,
        candidates: int,
        state: Tensor | None,
        choose: Callable[[Answers], Float[Tensor, "K L B Y"]],
    ) -> Step:
        shape = obs.shape[:-1]
        state = self.initial_state(obs) if state is None else state
        kind = state.dtype
        obs, action, state = map(self._by_replica, (obs, action, state))
        answers = self.answers(obs, action, state)
        chosen = choose(answers)
        spread = answers.spread()[..., :-1]
        if self.standardised:
            spread = spread / self.network.output_std[:-1].square()
        learned = spread.index_select(-1, self.observed)
        following = (
            self._following(obs, action, state.to(obs.dtype))
            .to(kind)
            .expand(candidates, -1, -1, -1)
        )
        return self._step_to(
            obs,
            action,
            self.copies(obs, action, chosen[..., :-1]),
            chosen[..., -1],
            uncertainty=learned.mean(-1).sqrt(),
            state=following,
            shape=shape,
        )

    def predict(
        self, obs: Float[Tensor, "S B D"], action: Float[Tensor, "S B A"]
    ) -> tuple[Float[Tensor, "S 1 B Y"], Float[Tensor, "S 1 B Y"]]:
        """Mean and standard deviation of (next_obs, reward) after a first step, raw units."""
        seeds, rows = obs.shape[:-1]
        parts = (obs, action, obs.index_select(-1, self.held))
        inputs = self._by_replica(torch.cat(parts, -1))
        mean, std = (each.reshape(seeds, 1, rows, -1) for each in self.network([inputs]))
        change, reward = mean.split([self.spec.obs_dim, 1], -1)
        obs, action = obs.unsqueeze(1), action.unsqueeze(1)
        next_obs = self.copies(obs, action, obs + change)
        if self.reward_rule is not None:
            reward = self.reward_rule(obs, action, next_obs).unsqueeze(-1)
        return torch.cat([next_obs, reward], -1), std
