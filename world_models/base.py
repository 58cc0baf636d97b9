"""The interface of all world models: ensembles, single models, equations and simulators."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.envs.rules import RewardRule
from reverie.mistake import Mistake
from reverie.world_models.exogenous import ExogenousRecord
from reverie.world_models.rewards import rewarded

Policy = Callable[[Float[Tensor, "S B D"]], Float[Tensor, "S B A"]]
"""What a world model sees of an agent: observations in, actions in [-1, 1] out."""

Moments = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""Mean and std `[S, B, A]` of a policy's actions at `obs [S, B, D]`; no std without noise."""

Gaussian = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Mean and ln std `[S, B, A]` of arctanh of the action at `obs [S, B, D]`."""

Critics = Callable[[Tensor, Tensor], Tensor | None]
"""Every critic's estimate `[S, N, B]` of `obs [S, B, D]` and `action [S, B, A]`; None without."""


@runtime_checkable
class Plans(Protocol):
    """The interface of planners, as an agent without parameters uses it.

    Attributes:
        discount: per action, of the returns of plans.
    """

    discount: float

    def plan(self, obs: Tensor, *, alike: bool) -> Tensor:
        """Plans `[S, P, H, A]` from `obs [S, P, D]` alone, on the device.

        Args:
            alike: whether all P states meet the same random numbers.
        """

    def restart(self) -> Policy:
        """A policy of new episodes, whose plans go on from each other."""


TerminationRule = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`(obs [*, D], action [*, A], next_obs [*, D]) -> terminated [*]`, raw units."""

FitProgress = Callable[[int, float], None]
ReadState = Callable[[], dict[str, Any] | None]
WriteState = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Step:
    """K candidate outcomes of one step from the same state and action.

    Attributes:
        next_obs: `[K, *, D]` raw units.
        reward: `[K, *]` environment units.
        terminated: `[K, *]` bool.
        uncertainty: `[*]` the model's own uncertainty about this state and action, in the units
            defined by its configuration.
        state: `[K, *, W]` what the model needs besides `next_obs` to continue from each outcome, in
            any float type; None if the observation is the whole state. A filter that chooses
            among outcomes chooses it too.
    """

    next_obs: Float[Tensor, "K *lead D"]
    reward: Float[Tensor, " K *lead"]
    terminated: Bool[Tensor, " K *lead"]
    uncertainty: Float[Tensor, "*lead"]
    state: Float[Tensor, "K *lead W"] | None = None


torch.export.register_dataclass(Step)


class Fitted(nn.Module, ABC):
    """Base of everything that is fitted to a dataset once and cached by the data's fingerprint.

    Sub-classes keep everything that fitting produced in `state_dict` (buffers included), which is
    all that is saved and cached.

    Attributes:
        fitted_on: fingerprint of the data.
        fit_unit: what `progress` counts, a word for the user.
        fit_measure: what `progress` reports, as the user reads it.
        fit_total: how many of them a fit takes, None if unknown beforehand.
        fit_first: how many an interrupted fit had done, if this one resumed it.
    """

    fitted_on: str | None = None
    fit_unit: str = "epoch"
    fit_measure: str = "holdout error"
    fit_total: int | None = None
    fit_first: int = 0

    @abstractmethod
    def fit(self, data: Dataset, progress: FitProgress | None = None) -> dict[str, Any]:
        """Learn from a dataset and return plain numbers or lists that describe the fit.

        Args:
            data: raw transitions.
            progress: called now and then with how many `fit_unit`s are done and the mean
                `fit_measure`.
        """

    def compile_update(self, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Pass the training step of later fits through `wrapper`; models without one ignore it."""

    def keep_partial_fits(self, read: ReadState, write: WriteState) -> None:
        """Let later fits `write` their state now and then, and `read` that of a killed one.

        What is read belongs to the same data and signature. Models with short fits ignore it.
        """

    @abstractmethod
    def signature(self) -> dict[str, Any]:
        """Plain values that fix the architecture and the fit; equal signatures are exchangeable."""


class WorldModel(Fitted):
    """Predicts the outcome of a state and an action, for S seeds side by side.

    A model predicts by `step`, in which exogenous observations stay constant. Rollouts use `begin`
    and `advance`, which replay exogenous observations from the record.

    Attributes:
        compiles: whether rollouts in it may be compiled: its `step` stays on the device.
        differentiable: whether gradients of `step` reach the observation and the action.
        draws: whether `step` samples random numbers, so that the model needs its own `expect`.
        expects_from_state: whether the result of `expect` depends on the `state`.
        remembers: whether predictions depend on earlier steps: `follow` passes them in, and
            `predict` takes them as `state`.
        record: of the exogenous observations, None if there are none or no record is known.
        reward_rule: of the task, None where rewards are learned.
        better_fit: what the user may do about a bad fit.
    """

    better_fit: str = "fit it for longer (world_model.max_epochs)"
    compiles: bool = True
    differentiable: bool = True
    draws: bool = False
    expects_from_state: bool = True
    remembers: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.record: ExogenousRecord | None = None
        self.reward_rule: RewardRule | None = None

    def replay_exogenous(self, data: Dataset) -> None:
        """Let later rollouts meet the exogenous observations that `data` recorded."""
        self.record = None
        if data.spec.exogenous:
            tensors = itertools.chain(self.parameters(), self.buffers())
            device = next((each.device for each in tensors), torch.device("cpu"))
            self.record = ExogenousRecord(data).to(device)

    def begin(
        self,
        obs: Tensor,
        rows: Tensor | None = None,
        past: Tensor | None = None,
        *,
        expected: bool = False,
    ) -> Tensor | None:
        """What the first `advance` from `obs [S, B, D]` takes as `state`, `[S, B, W]` or None.

        Args:
            rows: `[S, B]` which recorded rows these are; None looks for them.
            past: of `recorded_state` or `follow`, in place of `initial_state`.
            expected: whether all that follows is expected, so that nothing is drawn.
        """
        drawn = self.expects_from_state or not expected
        state = past if past is not None else self.initial_state(obs) if drawn else None
        if self.record is None:
            return state
        rows = self.record.find(obs) if rows is None else rows.to(obs.device)
        return _with_row(state, rows, obs.shape[:-1])

    def advance(
        self,
        obs: Tensor,
        action: Tensor,
        candidates: int = 1,
        state: Tensor | None = None,
        *,
        sampled: bool = False,
        expected: bool = False,
    ) -> Step:
        """`step` of a rollout, `sample` or `expect`, with the exogenous observations of the record.

        Whether the outcome terminates is the model's judgement of its own prediction.

        Args:
            state: what `begin` or the outcome before gave; None begins.
        """
        propose = self.sample if sampled else self.expect if expected else self.step
        if self.record is None:
            return propose(obs, action, candidates, state)
        state = self.begin(obs, expected=expected) if state is None else state
        assert state is not None
        step = propose(obs, action, candidates, state[..., :-1] if state.shape[-1] > 1 else None)
        next_obs, following = self.record.move_on(obs, step.next_obs, state[..., -1].long())
        lead, reward = step.reward.shape, step.reward
        if self.reward_rule is not None:  # it may see what the record has moved
            reward = rewarded(self.reward_rule, obs, action, next_obs)
        state = _with_row(step.state, following.expand(lead), lead)
        return replace(step, next_obs=next_obs, reward=reward, state=state)

    def replayed(
        self, obs: Tensor, next_obs: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """One successor `[S, B, D]` that was predicted otherwise, as `advance` gives it.

        For models without a state of their own.

        Returns:
            It and the state to go on from.
        """
        if self.record is None or state is None:
            return next_obs, None
        moved, following = self.record.move_on(obs, next_obs.unsqueeze(0), state[..., -1].long())
        return moved[0], _with_row(None, following, following.shape)

    def initial_state(self, obs: Tensor) -> Tensor | None:
        """What the first `step` from recorded `obs [S, B, D]` takes as `state`, `[S, B, W]`.

        None for models whose observation is the whole state; their `step` is given None for ever.
        """
        return None

    def recorded_state(
        self, data: Dataset, rows: Int[Tensor, " R"]
    ) -> Float[Tensor, "*seeds R W"] | None:
        """What `step` takes as `state` at these rows of a dataset, with the past that they had.

        None where that is what `initial_state` gives. Of models that differ by seed, one for each.
        """
        return None

    def follow(self, obs: Tensor, action: Tensor, state: Tensor | None) -> Tensor | None:
        """What `begin` takes as `past` once `action` was taken at `obs [S, B, D]`, not in a dream.

        None for models that remember nothing.

        Args:
            state: of the steps before; None at the first.
        """
        return None

    def lasting(self, dt: Float[Tensor, "*some B"] | None) -> AbstractContextManager[None]:
        """Within it, steps last as long as recorded ones did, for models that know of time.

        Args:
            dt: seconds of each row's step, see `Dataset.dt`; None: all are nominal.
        """
        return nullcontext()

    @abstractmethod
    def step(
        self, obs: Tensor, action: Tensor, candidates: int = 1, state: Tensor | None = None
    ) -> Step:
        """Propose `candidates` outcomes for `obs [S, B, D]` and `action [S, B, A]`.

        Args:
            state: `[S, B, W]` what `initial_state` or the step before gave for these rows; None
                starts from `obs` alone.
        """

    def sample(
        self, obs: Tensor, action: Tensor, candidates: int = 1, state: Tensor | None = None
    ) -> Step:
        """`step`, of a model that knows how unsure it is spread accordingly.

        For pictures of what the model holds possible, where rollouts want its best guess.
        """
        return self.step(obs, action, candidates, state)

    def expect(
        self, obs: Tensor, action: Tensor, candidates: int = 1, state: Tensor | None = None
    ) -> Step:
        """`step` without random numbers: equal actions have equal outcomes, so plans compare.

        By default `step` itself, of a model that draws none.
        """
        return self.step(obs, action, candidates, state)

    def require_refit(self) -> None:
        """Refuse a model that `refit` cannot serve, before anything is collected.

        Raises:
            Mistake: names the model and the remedy.
        """
        raise Mistake(
            f"the world model {type(self).__name__} is not fitted again during a run; set "
            "online.refit_every=0, or choose world_model=ensemble"
        )

    def refit(
        self, data: Dataset, added: Transition, *, warm: bool
    ) -> dict[str, Float[Tensor, " S"]]:
        """Fit again to the dataset and to rows that were collected since; online training only.

        Draws from torch's global generator. Seed s sees the dataset and `added[s]`, no other
        seed's.

        Args:
            data: what `fit` was given.
            added: `[S, M]` raw transitions.
            warm: go on from the present weights instead of new ones.

        Returns:
            What describes the fit, a number for every seed.
        """
        raise NotImplementedError


def _with_row(state: Tensor | None, row: Tensor, lead: torch.Size) -> Tensor:
    """A state `[*lead, W]` and behind it the row of the record, which float64 holds exactly."""
    own = row.expand(lead).unsqueeze(-1)
    if state is None:
        return own.double()
    return torch.cat([state, own.to(state.dtype)], -1)


def watch_indices(module: nn.Module, name: str, entries: int) -> None:
    """Refuse states in which a buffer of indices points beyond so many entries.

    No fit writes such; a GPU would end at them without a word that helps.
    """

    def check(loaded: nn.Module, _: Any) -> None:
        index = getattr(loaded, name)
        if not ((index >= 0) & (index < entries)).all():
            raise ValueError(f"{name} must lie in [0, {entries - 1}]")

    module.register_load_state_dict_post_hook(check)
