"""RvS-R, arXiv:2112.10751: behaviour cloning conditioned on the reward of the remaining episode."""

from dataclasses import replace
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.agents.bc import BC
from reverie.agents.layers import Layer, Linear, folded
from reverie.agents.losses import masked_mean
from reverie.datasets.columns import WithOutcome, taken_actions
from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.ranges import Range
from reverie.world_models.per_seed import PerSeed, set_per_seed


class RvS(BC):
    """BC of a Gaussian policy pi(a | s, outcome), which then acts for a target outcome.

    The outcome of a transition is the reward from there to the end of its episode, divided by the
    steps that the longest recorded episode would have left, so that ending early has no advantage.
    It is constant in an episode of constant rewards, so the target is held fixed.

    Args:
        spec: see `Agent`.
        target: target return, scaled from 0 (worst recorded episode) to 1 (best); a list gives each
            seed its own.
        standardise_outcome: condition on (outcome - mean) / std of the dataset, not the raw one.
        bc: see `BC`.
    """

    target: float | Tensor
    outcome_range: Tensor
    outcome_moments: Tensor

    def __init__(
        self,
        *,
        spec: Spec,
        target: Annotated[PerSeed, Range()],
        standardise_outcome: bool,
        **bc: Any,
    ) -> None:
        plain = replace(  # nothing that is said of the columns holds with one more
            spec,
            obs_dim=spec.obs_dim + 1,
            obs_names=(),
            stacked_obs=1,
            stacked_actions=0,
            copies=(),
        )
        super().__init__(spec=plain, **bc)
        self.spec = spec
        self.standardise_outcome = standardise_outcome
        set_per_seed(self, "target", target, trailing=2)
        # Outcomes of the worst and the best episode, and mean and std over rows.
        self.register_buffer("outcome_range", torch.tensor([0.0, 1.0]))
        self.register_buffer("outcome_moments", torch.tensor([0.0, 1.0]))

    def recorded(self, data: Dataset) -> Transition:
        rows = WithOutcome(
            **vars(data.transitions),
            outcome=outcomes(data).float(),
            has_outcome=torch.ones(len(data), dtype=torch.bool),
        )
        return self.tell_taken(rows, data.taken)

    def complete(self, rows: Transition) -> Transition:
        """Rows of a source, of which nothing is learnt: nobody knows their episode's end."""
        nothing = torch.zeros_like(rows.reward)
        rows = WithOutcome(**vars(rows), outcome=nothing, has_outcome=nothing.bool())
        return self.tell_taken(rows, None)

    def prepare(self, data: Dataset) -> None:
        """Take the outcomes of the worst and the best episode, and their spread over rows."""
        whole = data.returns / data.episode_lengths.max()
        self.outcome_range.copy_(torch.stack([whole.min(), whole.max()]))
        if self.standardise_outcome:
            std, mean = torch.std_mean(outcomes(data), correction=0)
            self.outcome_moments.copy_(torch.stack([mean, std.clamp(min=1e-6)]))

    def given(
        self, obs: Float[Tensor, "S B D"], outcome: Float[Tensor, "S B"] | None = None
    ) -> Float[Tensor, "S B D+1"]:
        """What the policy sees: the observation and an outcome, the wanted one by default."""
        if outcome is None:
            worst, best = self.outcome_range
            wanted = worst + self.target * (best - worst)  # [] or [S, 1, 1]
            column = wanted.expand(*obs.shape[:-1], 1)
        else:
            column = outcome.unsqueeze(-1)
        mean, std = self.outcome_moments
        return torch.cat([obs, (column - mean) / std], -1)

    def act(
        self, obs: Float[Tensor, "S B D"], deterministic: bool = False
    ) -> Float[Tensor, "S B A"]:
        return super().act(self.given(obs), deterministic)

    def policy_layers(self, seed: int) -> list[Layer]:
        """Without the outcome, which is held fixed and so becomes part of the first bias."""
        first, *others = super().policy_layers(seed)
        assert isinstance(first, Linear)
        obs = self.outcome_range.new_zeros(self.seeds, 1, self.spec.obs_dim)
        return [folded(first, self.given(obs)[seed, 0, -1:]), *others]

    def moments(
        self, obs: Float[Tensor, "S B D"]
    ) -> tuple[Float[Tensor, "S B A"], Float[Tensor, "S B A"]]:
        return super().moments(self.given(obs))

    def update(self, batch: Transition) -> dict[str, Float[Tensor, " S"]]:
        if not isinstance(batch, WithOutcome):
            raise RuntimeError("RvS needs rows with `outcome`, as `mix(..., agent=agent)` gives")
        given = self.given(batch.obs, batch.outcome)
        likelihood = self.actor.log_prob(given, batch.action, taken_actions(batch))
        loss = -masked_mean(likelihood, batch.has_outcome)
        self.actor_optimiser.step(loss)
        return {"actor_loss": loss.detach()}


def outcomes(data: Dataset) -> Tensor:
    """Reward to go of every row per step left to the longest episode, `[N]` float64."""
    elapsed = torch.arange(len(data)) - data.episode_starts.repeat_interleave(data.episode_lengths)
    return data.returns_to_go / (data.episode_lengths.max() - elapsed)
