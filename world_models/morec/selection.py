"""Chooses among a world model's candidate outcomes by a dynamics reward, and cuts rollouts.

MOREC, arXiv:2310.05422: rollouts continue from the candidate of the highest reward, and end if even
that one is implausible. Works with any model that proposes several outcomes.
"""

from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reverie.mistake import Mistake
from reverie.ranges import Count, Finite, Positive, Range, Whole
from reverie.world_models.base import Step
from reverie.world_models.filters import (
    Chain,
    ElapsedSteps,
    FilterResult,
    TransitionFilter,
    UncertaintyPenalty,
)
from reverie.world_models.morec.dynamics_reward import DynamicsReward
from reverie.world_models.per_seed import PerSeed

SELECTIONS = ("argmax", "softmax", "random")
CUTS = ("terminal", "drop", "timeout")


class RewardSelection(TransitionFilter):
    """Keeps one of K candidates by its dynamics reward r, and ends the rollout below a minimum r.

    Args:
        dynamics_reward: scores the candidates.
        candidates: K. An ensemble takes its elites in turn, so elites x n gives n of each.
        select: `argmax` takes the candidate of highest r, the first of equals; `softmax` samples it
            with probability ~ exp(r / temperature); `random` samples it uniformly from all that are
            finite.
        temperature: kappa of the softmax, in units of r.
        min_reward: a chosen candidate with r below it is cut; 0 cuts none that is finite.
        min_length: initial steps of a rollout that are never cut.
        on_cut: a cut transition is stored as an end of the episode (`terminal`), is not stored
            (`drop`), or is stored and bootstraps as at a time limit (`timeout`). The rollout ends.
        bound: candidates are scored and stored with observations clipped to +-bound, raw units;
            None for no clip.

    Source: public code of MOREC, "softmax_elite" and "select_elite", whose dead branch for `drop`
    marks cut transitions as terminal in effect. Differs: candidates whose observation (before the
    clip) or reward is not finite are never chosen while there is another; the model judges
    terminations before the clip.
    """

    # A rollout round is one graph of all its steps. With the scoring of each of a hundred steps in
    # it, to compile it takes far longer than a run's rollout rounds do.
    compiles = False

    def __init__(
        self,
        *,
        dynamics_reward: DynamicsReward,
        candidates: Count,
        select: str,
        temperature: Positive,
        min_reward: Finite,
        min_length: Whole,
        on_cut: str,
        bound: Positive | None,
    ) -> None:
        super().__init__()
        for name, value, known in (("select", select, SELECTIONS), ("on_cut", on_cut, CUTS)):
            if value not in known:
                raise Mistake(f"filter.{name}={value!r} is unknown; use one of {list(known)}")
        if candidates < 1 or min_length < 0:
            raise Mistake(
                f"filter.candidates={candidates} must be at least 1 and filter.min_length="
                f"{min_length} not negative"
            )
        if temperature <= 0:
            raise Mistake(
                f"filter.temperature={temperature} must be positive; select=argmax is its limit 0"
            )
        if bound is not None and bound <= 0:
            raise Mistake(f"filter.bound={bound} must be positive, or null for no clip")
        self.dynamics_reward, self.candidates = dynamics_reward, candidates
        self.select, self.temperature = select, temperature
        self.min_reward, self.min_length, self.on_cut = min_reward, min_length, on_cut
        self.bound = bound

    def forward(
        self, obs: Tensor, action: Tensor, step: Step, elapsed_steps: ElapsedSteps = 0
    ) -> FilterResult:
        # Before the clip, which would make an infinite observation a plausible one.
        finite = step.next_obs.isfinite().all(-1) & step.reward.isfinite()
        if self.bound is not None:
            clipped = step.next_obs.clamp(-self.bound, self.bound)
            step = Step(clipped, step.reward, step.terminated, step.uncertainty, step.state)
        # What is not finite has no score: it loses every choice and is cut.
        score = self.dynamics_reward.score(obs, action, step.next_obs)
        score = torch.where(finite & ~score.isnan(), score, -torch.inf)
        index = self.choose(score)
        step = take_candidate(step, index)
        best = score.gather(0, index.unsqueeze(0))[0]
        cut = (best < self.min_reward) & (elapsed_steps >= self.min_length)
        everything = torch.ones_like(cut)
        if self.on_cut == "terminal":
            ended = step.terminated | cut
            step = Step(step.next_obs, step.reward, ended, step.uncertainty, step.state)
        keep = ~cut if self.on_cut == "drop" else everything
        return FilterResult(step, keep=keep, goes_on=~cut)

    def choose(self, score: Float[Tensor, " K *lead"]) -> Int[Tensor, "*lead"]:
        """Which candidate stays, by `select`; each row draws on its own."""
        if self.select == "argmax":
            return score.argmax(0)
        if self.select == "random":
            score = torch.where(score.isfinite(), 0.0, score)
        # The largest of score / temperature plus Gumbel noise is a draw from the softmax.
        exponential = torch.empty_like(score).exponential_()
        return (score / self.temperature - exponential.log()).argmax(0)


class PenalisedSelection(Chain):
    """Selection by the dynamics reward, then MOPO's penalty on the chosen candidate's reward.

    Args:
        penalty: lambda of `UncertaintyPenalty`; 0 for none, a list for one a seed.
        dynamics_reward, candidates, select, temperature, min_reward, min_length, on_cut, bound:
            see `RewardSelection`.

    Source: MOREC-MOPO. The model's uncertainty is of (s, a), over all members, so it is the same
    whichever candidate was chosen.
    """

    def __init__(
        self,
        *,
        dynamics_reward: DynamicsReward,
        candidates: Count,
        select: str,
        temperature: Positive,
        min_reward: Finite,
        min_length: Whole,
        on_cut: str,
        bound: Positive | None,
        penalty: Annotated[PerSeed, Range(0)],
    ) -> None:
        selection = RewardSelection(
            dynamics_reward=dynamics_reward,
            candidates=candidates,
            select=select,
            temperature=temperature,
            min_reward=min_reward,
            min_length=min_length,
            on_cut=on_cut,
            bound=bound,
        )
        super().__init__(filters=[selection, UncertaintyPenalty(penalty=penalty, unit="raw")])


def take_candidate(step: Step, index: Int[Tensor, "*lead"]) -> Step:
    """The step with the candidate `index` of every row, K = 1."""
    index = index.unsqueeze(0)

    def take(values: Tensor) -> Tensor:
        return values.gather(0, index.unsqueeze(-1).expand(1, *values.shape[1:]))

    return Step(
        next_obs=take(step.next_obs),
        reward=step.reward.gather(0, index),
        terminated=step.terminated.gather(0, index),
        uncertainty=step.uncertainty,
        state=None if step.state is None else take(step.state),
    )
