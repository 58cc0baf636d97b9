"""An inverse model: the action between two states, for logs with missing actions.

SS-ORL, arXiv:2210.06518: fit it to the transitions whose action is known, predict the other
actions, and train any offline method on all of them.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.ranges import Bounds, Count, Positive, Share, Whole, Widths
from reverie.world_models.action_gaussian import ActionGaussian
from reverie.world_models.base import FitProgress
from reverie.world_models.networks import ActivationName

FEWEST = 50
"""Rows with an action, below which nothing is inferred from them."""
_BLOCK = 16_384
"""Rows whose actions are proposed at a time."""


class InverseDynamics(ActionGaussian):
    """p(a_t | s_{t-k..t}, s_{t+1} - s_t): E squashed Gaussians by maximum likelihood.

    Args:
        spec, seeds, seed, members, hidden, activation, log_std_bounds, learning_rate, steps, batch,
            heldout_episodes, measure_every: see `ActionGaussian`.
        past: k, previous states in the input; the mean state before an episode begins.
        unsure: standard deviation of a prediction, in half widths of the action box, above which it
            is marked unsure: that of the members' mixture, so it is large where they disagree and
            where many actions have the same outcome.

    States and differences are standardised over all transitions, since those without an action may
    have another distribution. Transitions without a true next observation are not fitted, and
    predictions for them are marked unsure.

    Source: arXiv:2210.06518, sections 3 and 4. Differs: its input is the difference to the next
    state instead of that state, because differences are small (`docs/methods/ss_orl.md`); one
    network gives mean and std, without dropout; the best weights are kept, where the authors'
    code keeps the last.
    """

    group = "inverse_model"

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        seed: int,
        members: Count,
        past: Whole,
        unsure: Share,
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
            inputs=(past + 2) * spec.obs_dim,
            members=members,
            hidden=hidden,
            activation=activation,
            log_std_bounds=log_std_bounds,
            learning_rate=learning_rate,
            steps=steps,
            batch=batch,
            heldout_episodes=heldout_episodes,
            measure_every=measure_every,
        )
        self.past, self.unsure = past, unsure

    def signature(self) -> dict[str, Any]:
        # `unsure` judges proposals and changes no fit.
        return {**super().signature(), "members": self.members, "past": self.past}

    def fit(self, data: Dataset, progress: FitProgress | None = None) -> dict[str, Any]:
        """Learn from the rows with an action.

        Returns:
            What describes the fit, and `r2`, of proposals for recorded actions of rows that it did
            not learn from, by action; None where these do not vary.

        Raises:
            Mistake: hardly a row has an action.
        """
        self.spec.require_same_spaces(data.spec, "the inverse model", f"dataset {data.name}")
        known, held = self._known(data), self._held_out(data)
        self._standardise(data)
        learned, measured = known & ~held, known & held
        action = data.transitions.action
        described = self._learn(
            (self._inputs(data, learned.nonzero().flatten()), action[learned]),
            (self._inputs(data, measured.nonzero().flatten()), action[measured]),
            progress,
        )
        proposed, _ = self.propose(data, measured.nonzero().flatten())
        return {**described, "known_rows": int(known.sum()), "r2": r2(proposed, action[measured])}

    @torch.no_grad()
    def propose(
        self, data: Dataset, rows: Int[Tensor, " M"]
    ) -> tuple[Float[Tensor, "M A"], Bool[Tensor, " M"]]:
        """Actions in [-1, 1] of some rows, the mean of the members' tanh m, and which are unsure.

        Args:
            data: what it was fitted to.
        """
        actions, spreads = [], []
        for block in rows.split(_BLOCK):
            inputs = self._inputs(data, block).to(self.obs_mean.device)
            mean, log_std = self._gaussian(inputs.expand(self.members, -1, -1))
            action = torch.tanh(mean)
            std = log_std.exp() * (1 - action.square())  # behind the tanh, to first order
            actions.append(action.mean(0).cpu())
            mixture = std.square().mean(0) + action.var(0, correction=0)
            spreads.append(mixture.sqrt().amax(-1).cpu())
        if not actions:
            return data.transitions.action[rows], torch.zeros(0, dtype=torch.bool)
        return torch.cat(actions), (torch.cat(spreads) > self.unsure) | ~data.valid_next[rows]

    def _known(self, data: Dataset) -> Bool[Tensor, " N"]:
        """Rows to learn from and to measure by."""
        known = data.valid_next.clone()
        if data.action_missing is not None:
            known &= ~data.action_missing
        if (count := int(known.sum())) < FEWEST:
            raise Mistake(
                f"{data.name}: {count:,} of {len(data):,} rows have an action and a next "
                f"observation, at least {FEWEST} are needed to infer the others; record more, or "
                "leave out the rows without one (inverse_model=none)"
            )
        return known

    def _held_out(self, data: Dataset) -> Bool[Tensor, " N"]:
        """A tenth of the episodes with known rows; of fewer than ten the last tenth of those."""
        known = self._known(data)
        index = torch.arange(len(data.episode_starts)).repeat_interleave(data.episode_lengths)
        episodes = index[known].unique()
        generator = torch.Generator().manual_seed(self.seed)
        count = min(self.heldout_episodes, len(episodes) // 10)
        if count:
            drawn = episodes[torch.randperm(len(episodes), generator=generator)[:count]]
            return torch.isin(index, drawn)
        first = known.nonzero().flatten()[-(int(known.sum()) // 10)]
        return torch.arange(len(data)) >= first

    def _standardise(self, data: Dataset) -> None:
        """Take statistics of states and differences, of all rows."""
        rows = data.transitions
        change = (rows.next_obs - rows.obs)[data.valid_next]
        means, stds = [rows.obs.mean(0)] * (self.past + 1), [rows.obs.std(0)] * (self.past + 1)
        self.obs_mean.copy_(torch.cat([*means, change.mean(0)]))
        self.obs_std.copy_(torch.cat([*stds, change.std(0)]).clamp_min(1e-6))

    def _inputs(self, data: Dataset, rows: Int[Tensor, " M"]) -> Float[Tensor, "M F"]:
        """s_t, s_{t-1}, ..., s_{t-k}, s_{t+1} - s_t of some rows."""
        obs, next_obs = data.transitions.obs, data.transitions.next_obs
        episode = torch.searchsorted(data.episode_starts, rows, right=True) - 1
        begun = data.episode_starts[episode]
        mean = self.obs_mean[: obs.shape[1]].cpu()
        states = [obs[rows]]
        for back in range(1, self.past + 1):
            inside = (rows - back >= begun).unsqueeze(1)
            states.append(torch.where(inside, obs[(rows - back).clamp(min=0)], mean))
        return torch.cat([*states, next_obs[rows] - obs[rows]], 1)


def r2(proposed: Float[Tensor, "M A"], recorded: Float[Tensor, "M A"]) -> list[float | None]:
    """Share of the variance of recorded actions that is explained, None where there is none."""
    error = (proposed - recorded).double().square().mean(0)
    spread = recorded.double().var(0, correction=0)
    explained = 1 - error / spread
    return [
        value if varies else None
        for value, varies in zip(explained.tolist(), (spread > 1e-12).tolist(), strict=True)
    ]
