"""Filters edit or reject the predictions of a world model, one rollout step at a time.

Filters implement penalties (MOPO), selection among candidates and truncation.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.ranges import Range
from reverie.world_models.base import Step, WorldModel
from reverie.world_models.per_seed import PerSeed, as_list, set_per_seed
from reverie.world_models.uncertainty import recorded_uncertainty

UNITS = ("raw", "data")

ElapsedSteps = int | Tensor
"""Steps made since a rollout began: one number for all rows, or `[*]`."""


@dataclass(frozen=True)
class FilterResult:
    """The result of filtering a step.

    Attributes:
        step: with one candidate left, K = 1.
        keep: `[*]` store this transition.
        goes_on: `[*]` the rollout may continue from it (a termination ends it in any case).
    """

    step: Step
    keep: Bool[Tensor, "*lead"]
    goes_on: Bool[Tensor, "*lead"]


class TransitionFilter(nn.Module, ABC):
    """Filters the steps that a model proposes.

    Attributes:
        candidates: how many outcomes it chooses from.
        compiles: whether rollouts with it may be compiled, all steps of one as one graph.
    """

    candidates: int = 1
    compiles: bool = True

    def prepare(
        self, data: Dataset, model: WorldModel, *, seeds: int, discount: float
    ) -> str | None:
        """Take from the dataset what judging needs, into buffers; most filters need nothing.

        Called once the model is fitted, before the first rollout round, again after each refit
        and when a run with refits resumes. Equal arguments and random state give equal bits.

        Args:
            model: whose steps will be judged, fitted.
            seeds: S.
            discount: of the agent, per control step.

        Returns:
            What the user should know of it, in one line.
        """
        return None

    def metrics(self) -> dict[str, Float[Tensor, " S"]]:
        """What `prepare` measured, by name."""
        return {}

    @abstractmethod
    def forward(
        self, obs: Tensor, action: Tensor, step: Step, elapsed_steps: ElapsedSteps = 0
    ) -> FilterResult:
        """Judge a step proposed for `obs [*, D]` and `action [*, A]`.

        Args:
            elapsed_steps: steps that the rollout has behind it.
        """


class KeepAll(TransitionFilter):
    """Keeps every step as predicted: the base procedure of model-based policy optimisation."""

    def forward(
        self, obs: Tensor, action: Tensor, step: Step, elapsed_steps: ElapsedSteps = 0
    ) -> FilterResult:
        everything = torch.ones_like(step.terminated[0])
        return FilterResult(step, keep=everything, goes_on=everything)


class Unending(TransitionFilter):
    """Continues past terminations, and stores transitions without them.

    For agents that use only the observations of synthetic transitions, including those after a
    termination.

    Source: LEQ, arXiv:2407.00699, rollouts of the authors' code.
    """

    def forward(
        self, obs: Tensor, action: Tensor, step: Step, elapsed_steps: ElapsedSteps = 0
    ) -> FilterResult:
        everything = torch.ones_like(step.terminated[0])
        step = replace(step, terminated=torch.zeros_like(step.terminated))
        return FilterResult(step, keep=everything, goes_on=everything)


class UncertaintyPenalty(TransitionFilter):
    """Subtracts the uncertainty from the reward: r - penalty * u(s, a), u of the model.

    Args:
        penalty: lambda; a list gives each seed its own.
        unit: of lambda: `raw`, reward units per unit of u; or `data`, standard deviations of the
            recorded rewards per mean u of the recorded transitions, which makes lambda independent
            of the units of rewards, states and u.

    Source: MOPO, arXiv:2005.13239, equation 3 and algorithm 2. Differs: `unit=data` is ours.
    """

    penalty: float | Tensor
    rate: Tensor

    def __init__(
        self, *, penalty: Annotated[PerSeed, Range(0)], unit: Literal["raw", "data"]
    ) -> None:
        super().__init__()
        if min(as_list(penalty)) < 0:
            raise Mistake(f"filter.penalty must not be negative, got {penalty}")
        if unit not in UNITS:
            raise Mistake(f"filter.unit={unit} must be one of {', '.join(UNITS)}")
        set_per_seed(self, "penalty", penalty, trailing=1)
        self.unit = unit
        # Reward units per unit of u. Measured again at each start, so no part of what is saved.
        self.register_buffer("rate", torch.empty(0, 1), persistent=False)  # [S, 1]

    @torch.no_grad()
    def prepare(
        self, data: Dataset, model: WorldModel, *, seeds: int, discount: float
    ) -> str | None:
        """Measure the rewards' standard deviation and the mean u, where lambda counts in them.

        Raises:
            Mistake: u of the recorded rows is zero or not finite.
        """
        if self.unit == "raw":
            return None
        usual = recorded_uncertainty(model, data, seeds).double().mean(1, keepdim=True)
        if not (usual.isfinite() & (usual > 0)).all():
            raise Mistake(
                f"the world model's mean uncertainty of the rows of dataset {data.name} is "
                f"{usual[0, 0]:.4g}, by which filter.unit=data cannot divide; set filter.unit=raw"
            )
        spread = data.transitions.reward.double().std(correction=0).item()
        rate = (spread / usual).to(self.rate)
        if len(self.rate):  # compiled rollouts read it where it was
            self.rate.copy_(rate)
        else:
            self.rate = rate
        each = ", ".join(f"{own:.4g}" for own in (self.penalty * self.rate).flatten().tolist())
        return f"filter: a unit of the model's uncertainty costs {each}"

    def forward(
        self, obs: Tensor, action: Tensor, step: Step, elapsed_steps: ElapsedSteps = 0
    ) -> FilterResult:
        if self.unit == "data" and not len(self.rate):
            raise RuntimeError("the unit of a penalty is not measured; call prepare first")
        penalty = self.penalty if self.unit == "raw" else self.penalty * self.rate
        reward = penalise(step.reward, step.uncertainty, penalty)
        everything = torch.ones_like(step.terminated[0])
        step = Step(step.next_obs, reward, step.terminated, step.uncertainty, step.state)
        return FilterResult(step, keep=everything, goes_on=everything)


class Chain(TransitionFilter):
    """Filters one after another; a transition is kept if all of them keep it.

    Args:
        filters: applied in order; the first may choose among several candidates, the rest get one.
    """

    def __init__(self, *, filters: Sequence[TransitionFilter]) -> None:
        super().__init__()
        if not filters or any(part.candidates != 1 for part in filters[1:]):
            raise Mistake(
                "a chain needs at least one filter, and only its first may ask for several "
                "candidates; put the selecting filter first"
            )
        self.filters = nn.ModuleList(filters)
        self.candidates = filters[0].candidates
        self.compiles = all(part.compiles for part in filters)

    def prepare(
        self, data: Dataset, model: WorldModel, *, seeds: int, discount: float
    ) -> str | None:
        parts = cast("Iterable[TransitionFilter]", self.filters)
        told = [part.prepare(data, model, seeds=seeds, discount=discount) for part in parts]
        return "; ".join(each for each in told if each is not None) or None

    def metrics(self) -> dict[str, Float[Tensor, " S"]]:
        parts = cast("Iterable[TransitionFilter]", self.filters)
        return {name: value for part in parts for name, value in part.metrics().items()}

    def forward(
        self, obs: Tensor, action: Tensor, step: Step, elapsed_steps: ElapsedSteps = 0
    ) -> FilterResult:
        keep = goes_on = torch.ones(obs.shape[:-1], dtype=torch.bool, device=obs.device)
        for part in self.filters:
            filtered: FilterResult = part(obs, action, step, elapsed_steps)
            step = filtered.step
            keep, goes_on = keep & filtered.keep, goes_on & filtered.goes_on
        return FilterResult(step, keep=keep, goes_on=goes_on)


def penalise(
    reward: Float[Tensor, " K *lead"],
    uncertainty: Float[Tensor, "*lead"],
    penalty: float | Float[Tensor, "S 1"],
) -> Float[Tensor, " K *lead"]:
    """r - penalty * u for every candidate."""
    return reward - penalty * uncertainty
