"""A reward that separates true transitions from a model's, learned from a dataset.

MOREC, arXiv:2310.05422. The world model is an agent whose state is (s, a) and whose action is s';
the dataset is its expert. Adversarial inverse reinforcement learning gives a discriminator, and the
mean over its snapshots along the training is the dynamics reward r(s, a, s').
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.ranges import Count, Decay, Finite, Whole, Widths
from reverie.world_models.base import FitProgress, Fitted
from reverie.world_models.fitting import held_out_episodes, rows_of
from reverie.world_models.morec.game import DynamicsGame, Wrapper
from reverie.world_models.networks import ActivationName, BatchedMLP

# Activations of the widest layer that one pass of scoring may take, whatever the number of rows.
_ACTIVATIONS = 2**26
# A range below this is that of a constant column, whose unit stays raw.
_CONSTANT = 1e-6
_OBS_BOUND, _ACTION_BOUND = 0.8, 1.0


def reward_of_logits(
    logit: Float[Tensor, "S J N"],
    learner: Float[Tensor, "S J"],
    expert: Float[Tensor, "S J"],
    minimal_gap: float,
) -> Float[Tensor, "S N"]:
    """r = -log(1 - mean_k sigmoid(t_k) + 1e-9), in [0.3133, 1.3133].

    t_k in [-1, 1] is the logit of snapshot k, clipped to [L_k, E_k] and stretched. Snapshots with
    E_k - L_k below `minimal_gap` are left out; a seed without any other has r = nan.

    Args:
        logit: of J snapshots on N rows.
        learner, expert: L and E, mean logits on the learner's and on recorded transitions.

    Source: public code of MOREC, strategy "prob_mean_clip" with d_clip = 1, which never binds.
    Differs: snapshots without a gap are left out, for their interval is empty.
    """
    low, high = learner.unsqueeze(-1), expert.unsqueeze(-1)
    stretched = 2 * (logit.clamp(low, high) - low) / (high - low + 1e-7) - 1
    valid = (expert - learner >= minimal_gap).to(logit.dtype).unsqueeze(-1)
    probability = torch.where(valid > 0, stretched.sigmoid(), 0.0).sum(1) / valid.sum(1)
    return -torch.log(1 - probability + 1e-9)


class DynamicsReward(Fitted):
    """J snapshots of one discriminator for each of S seeds, scored as one batched network.

    Args:
        spec: spaces of the task.
        seeds: S, each with a reward of its own.
        seed: of all random numbers of the fit, which depends on nothing else but data and settings.
        hidden, activation: of the discriminator.
        delta_input: the input is s' - s instead of s'.
        game: builds the adversarial training, given `spec`, `seeds`, `hidden`, `activation` and
            `delta_input`, see `DynamicsGame`.
        iterations: T, of the game.
        restart_every: iterations between restarts with a new generator, None for never.
        snapshot_every: iterations between snapshots.
        keep, thin: of all snapshots the last `keep`, and of these every `thin`-th, are the J.
        level_decay: of the moving averages E and L of logits on recorded and generated rows.
        minimal_gap: snapshots with E - L below it are not used; a negative one uses all.
        heldout_episodes: whole episodes held out of the fit, at most a tenth of all.

    Source: MOREC; the scoring is that of its public code. The learning code was never published:
    the game is a reconstruction, see docs/methods/morec.md.
    """

    fit_unit = "iteration"
    fit_measure = "discriminator loss"
    obs_low: Tensor
    obs_scale: Tensor
    action_low: Tensor
    action_scale: Tensor
    learner: Tensor
    expert: Tensor
    fitted: Tensor

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        seed: int,
        hidden: Widths,
        activation: ActivationName,
        delta_input: bool,
        game: Callable[..., DynamicsGame],
        iterations: Count,
        restart_every: Count | None,
        snapshot_every: Count,
        keep: Count,
        thin: Count,
        level_decay: Decay,
        minimal_gap: Finite,
        heldout_episodes: Whole,
    ) -> None:
        super().__init__()
        if min(iterations, snapshot_every, keep, thin) < 1 or iterations < snapshot_every:
            raise Mistake(
                "dynamics_reward needs iterations >= snapshot_every >= 1, keep >= 1 and thin >= 1, "
                f"got {[iterations, snapshot_every, keep, thin]}"
            )
        if not 0 <= level_decay < 1:
            raise Mistake(f"dynamics_reward.level_decay={level_decay} must lie in [0, 1)")
        if restart_every is not None and restart_every < 1:
            raise Mistake(
                f"dynamics_reward.restart_every={restart_every} must be at least 1, or null"
            )
        if heldout_episodes < 0:
            raise Mistake(
                f"dynamics_reward.heldout_episodes={heldout_episodes} must not be negative"
            )
        self.spec, self.seeds, self.seed = spec, seeds, seed
        self.hidden, self.activation, self.delta_input = list(hidden), activation, delta_input
        self.iterations = self.fit_total = iterations
        self.restart_every = restart_every
        self.snapshot_every, self.keep, self.thin = snapshot_every, keep, thin
        self.level_decay, self.minimal_gap = level_decay, minimal_gap
        self.heldout_episodes = heldout_episodes
        # No module: its networks are of no use after the fit and stay out of the file.
        self.game = game(
            spec=spec, seeds=seeds, hidden=hidden, activation=activation, delta_input=delta_input
        )
        inputs = 2 * spec.obs_dim + spec.action_dim
        count = len(self.recorded_at())
        self.snapshots = BatchedMLP((seeds, count), inputs, hidden, 1, activation)
        self.snapshots.requires_grad_(False)
        self.register_buffer("obs_low", torch.zeros(spec.obs_dim))
        self.register_buffer("obs_scale", torch.ones(spec.obs_dim))
        self.register_buffer("action_low", torch.zeros(spec.action_dim))
        self.register_buffer("action_scale", torch.ones(spec.action_dim))
        self.register_buffer("learner", torch.zeros(seeds, count))
        self.register_buffer("expert", torch.zeros(seeds, count))
        self.register_buffer("fitted", torch.tensor(False))
        # The flag as a Python value: reading a tensor in `score` would make a GPU wait.
        self.ready = False
        self.register_load_state_dict_post_hook(_read_flag)
        self._wrap: Wrapper = _as_it_is

    def signature(self) -> dict[str, Any]:
        return {
            "reward": type(self).__name__,
            "obs_dim": self.spec.obs_dim,
            "action_dim": self.spec.action_dim,
            "game": self.game.hyperparameters,
            **{name: getattr(self, name) for name in _SIGNED},
        }

    def recorded_at(self) -> list[int]:
        """Iterations after which a snapshot is taken that scoring will use."""
        every = self.snapshot_every
        taken = list(range(every, self.iterations + 1, every))
        return taken[-self.keep :][:: self.thin]

    def compile_update(self, wrapper: Wrapper) -> None:
        self._wrap = wrapper

    def fit(self, data: Dataset, progress: FitProgress | None = None) -> dict[str, Any]:
        """Play the game from scratch on a random stream of its own, seeded by `seed`.

        Returns:
            Counts of rows and snapshots; per seed how many of these are not used, the mean E - L
            of those that are, and the mean reward of the rows that were held out (of all rows
            where none were) as recorded, and with one std of the change of noise.

        Raises:
            Mistake: other spaces than the reward's, or no usable row; a seed diverged, or no
                snapshot of it can be used.
        """
        self.spec.require_same_spaces(data.spec, "the dynamics reward", f"dataset {data.name}")
        device = self.learner.device
        unseen = rows_of(data, self.held_out(data)) & data.valid_next
        rows = data.transitions[~unseen & data.valid_next].to(device)
        if not len(rows.reward):
            raise Mistake(f"dataset {data.name} has no row with a known next observation")
        self._normalise_by(rows)
        table = self.normalise_rows(rows.obs, rows.action, rows.next_obs)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            with torch.enable_grad():
                self._play(table, progress)
            self._require_usable()
            self.ready = True
            self.fitted.fill_(True)
            judged = data.transitions[unseen].to(device) if unseen.any() else rows
            spread = (rows.next_obs - rows.obs).std(0, correction=0)
            noise = spread * torch.randn_like(judged.next_obs)
            scores = self._scores_of(judged, [judged.next_obs, judged.next_obs + noise])
        valid = self.valid()
        gap = torch.where(valid, self.expert - self.learner, 0.0).sum(1) / valid.sum(1)
        return {
            "rows": len(table),
            "heldout_rows": int(unseen.sum()),
            "snapshots": valid.shape[1],
            "unused_snapshots": (~valid).sum(1).tolist(),
            "mean_gap": gap.tolist(),
            "reward_recorded": scores[0].mean(1).tolist(),
            "reward_perturbed": scores[1].mean(1).tolist(),
        }

    def _play(self, table: Float[Tensor, "N X"], progress: FitProgress | None) -> None:
        """Play T iterations and keep the snapshots with the levels that they had."""
        self.game.begin(table, self._wrap)
        slots = {iteration: slot for slot, iteration in enumerate(self.recorded_at())}
        levels = torch.zeros(2, self.seeds, device=table.device)
        for iteration in range(1, self.iterations + 1):
            if self.restart_every and iteration > 1 and (iteration - 1) % self.restart_every == 0:
                self.game.restart_generator()
            loss, expert, learner = self.game.update()
            levels.lerp_(torch.stack([expert, learner]), 1 - self.level_decay)
            if iteration in slots:
                slot = slots[iteration]
                # Averages started at zero; this is what they would be without that start.
                known = levels / (1 - self.level_decay**iteration)
                self.expert[:, slot], self.learner[:, slot] = known
                trained = self.game.discriminator.parameters()
                for kept, now in zip(self.snapshots.parameters(), trained, strict=True):
                    kept[:, slot] = now.detach()
            if progress is not None and iteration % self.snapshot_every == 0:
                progress(iteration, loss.mean().item())

    def _normalise_by(self, rows: Transition) -> None:
        for values, low, scale in (
            (rows.obs, self.obs_low, self.obs_scale),
            (rows.action, self.action_low, self.action_scale),
        ):
            least, most = values.amin(0), values.amax(0)
            width = most - least
            low.copy_(least)
            scale.copy_(torch.where(width < _CONSTANT, torch.ones_like(width), width))

    def _require_usable(self) -> None:
        finite = self.expert.isfinite() & self.learner.isfinite()
        broken = (~finite.all(1)).nonzero().flatten().tolist()
        if broken:
            raise Mistake(
                f"the dynamics reward of seeds {broken} diverged; check the data (python -m "
                "reverie.datasets.check) or lower dynamics_reward.game.learning_rate"
            )
        useless = (~self.valid().any(1)).nonzero().flatten().tolist()
        if useless:
            raise Mistake(
                f"no snapshot of the dynamics reward of seeds {useless} tells recorded from "
                f"generated rows by dynamics_reward.minimal_gap={self.minimal_gap}; set "
                "dynamics_reward.game.noise_share or .restart_every, or more iterations"
            )

    def _scores_of(
        self, rows: Transition, outcomes: Sequence[Float[Tensor, "N D"]]
    ) -> Float[Tensor, "K S N"]:
        """Every seed's reward of the same rows with several outcomes."""
        obs, action = (x.expand(self.seeds, *x.shape) for x in (rows.obs, rows.action))
        after = torch.stack(list(outcomes)).unsqueeze(1)
        return self.score(obs, action, after.expand(-1, self.seeds, -1, -1))

    def held_out(self, data: Dataset) -> Int[Tensor, " P"]:
        """Episodes of this dataset that the fit does not see."""
        return held_out_episodes(data, self.heldout_episodes, self.seed)

    def valid(self) -> Bool[Tensor, "S J"]:
        """Which snapshots the score uses."""
        return self.expert - self.learner >= self.minimal_gap

    @torch.no_grad()
    def score(
        self,
        obs: Float[Tensor, "S B D"],
        action: Float[Tensor, "S B A"],
        next_obs: Float[Tensor, "K S B D"],
    ) -> Float[Tensor, "K S B"]:
        """r(s, a, s') of K next observations for every state and action, raw units in.

        nan where a next observation is not finite.

        Raises:
            RuntimeError: nothing has been fitted.
        """
        if not self.ready:
            raise RuntimeError("the dynamics reward is not fitted; call fit or load a fitted one")
        candidates, seeds, rows = next_obs.shape[:3]
        inputs = self.normalise_rows(obs.expand_as(next_obs), action, next_obs)
        inputs = inputs.transpose(0, 1).flatten(1, 2)  # [S, K * B, X]
        snapshots = self.learner.shape[1]
        block = max(1, _ACTIVATIONS // (seeds * snapshots * max(self.hidden)))
        reward = torch.cat([self._score_rows(part) for part in inputs.split(block, 1)], 1)
        reward = reward.view(seeds, candidates, rows).transpose(0, 1)
        # A rectifier maps minus infinity to zero, and what is infinite must not be plausible.
        return torch.where(next_obs.isfinite().all(-1), reward, torch.nan)

    def _score_rows(self, inputs: Float[Tensor, "S N X"]) -> Float[Tensor, "S N"]:
        everywhere = inputs.unsqueeze(1).expand(-1, self.learner.shape[1], -1, -1)
        logit = self.snapshots(self.game.discriminator_input(everywhere)).squeeze(-1)
        return reward_of_logits(logit, self.learner, self.expert, self.minimal_gap)

    def normalise_rows(
        self,
        obs: Float[Tensor, "*lead D"],
        action: Float[Tensor, "*tail A"],
        next_obs: Float[Tensor, "*lead D"],
    ) -> Float[Tensor, "*lead X"]:
        """(s, a, change of s) in the units of the game: s spans +-0.8 and a +-1 in the data."""
        action = 2 * (action - self.action_low) / self.action_scale - 1
        width = 2 * _OBS_BOUND
        state = width * (obs - self.obs_low) / self.obs_scale - _OBS_BOUND
        after = width * (next_obs - self.obs_low) / self.obs_scale - _OBS_BOUND
        return torch.cat([state, action.expand(*obs.shape[:-1], -1), after - state], -1)


# What two rewards must agree on, besides spaces and game, to be exchangeable.
_SIGNED = (
    "seeds",
    "seed",
    "hidden",
    "activation",
    "delta_input",
    "iterations",
    "restart_every",
    "snapshot_every",
    "keep",
    "thin",
    "level_decay",
    "minimal_gap",
    "heldout_episodes",
)


def _read_flag(reward: DynamicsReward, _: object) -> None:
    reward.ready = bool(reward.fitted)


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function
