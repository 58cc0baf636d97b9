"""The specification of a task: spaces, limits and environment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from reverie.mistake import Mistake
from reverie.text import counted

Physics = str
PHYSICS = ("as-is", "d4rl")

# No motor has such a range: a bound beyond is the largest float or integer in the place of none.
UNBOUNDED = 1e18


def is_bounded(low: Sequence[float], high: Sequence[float]) -> bool:
    """Whether a box of actions has bounds; the largest numbers of a type are none."""
    bounds = np.abs(np.array([low, high], np.float64))
    return bool((bounds < UNBOUNDED).all())  # not so for NaN and Inf


def later(name: str, steps: int) -> str:
    """What a column is called so many control steps later, `valve +1`, or earlier, `level -1`."""
    return f"{name} {steps:+d}" if steps else name


@dataclass(frozen=True)
class Spec:
    """The spaces of a task after flattening, and how to build its environment.

    Everywhere above this layer observations are flat float32 vectors in raw units and actions
    lie in [-1, 1]; `action_low` and `action_high` are the box of the environment itself.

    Attributes:
        env_id: exact Gymnasium id of the environment used for scores, None when there is none.
        obs_dim: D, length of the flattened observation.
        action_dim: A.
        action_low, action_high: bounds of the environment's own action box, length A.
        max_episode_steps: time limit in control steps, None when the task has none.
        env_kwargs: keyword arguments for `gymnasium.make`.
        physics: `as-is`, or `d4rl` to undo the contact-margin change of MuJoCo 3.5.
        obs_slice: keep only the first so many environment observations, None for all.
        obs_keys: keys of a dict observation in the order of the flat vector, None for the order
            that `envs.observations.observation_keys` gives.
        wrappers: put around the environment, see `envs.wrappers`.
        obs_names, action_names: what the columns are called where the data say so, one name each,
            with the unit behind it where there is one, `level [cm]`; empty where nobody knows.
        exogenous: observations that actions do not affect, such as set-points and weather, as
            ascending indices; a world model does not predict them.
        chunk: control steps that one action spans, see `datasets.transforms.chunk`: the actions of
            so many steps lie one after the other in it. 1 where it is an action of one step.
        chunk_discount: per control step, of the rewards that one action spans.
        hidden: columns of the environment's observation that are omitted, ascending.
        stacked_obs, stacked_actions: how many observations and past actions are stacked, newest
            first, see `datasets.transforms.history`: [o_t, o_{t-1}, .., a_{t-1}, a_{t-2}, ..],
            past actions in [-1, 1]. 1 and 0 where it is what is seen now alone.
        copies: pairs (column of `next_obs`, column of `obs` and `action` side by side) that are
            equal in every row, ascending. Not of what never moves, nor of what is exogenous.
        task: of a benchmark, `neorl2/Fusion`, whose rules of reward and termination hold wherever
            a policy is scored, see `envs.benchmarks`; None for those of `env_id`.
    """

    env_id: str | None
    obs_dim: int
    action_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    max_episode_steps: int | None = None
    env_kwargs: Mapping[str, object] = field(default_factory=dict)
    physics: Physics = "as-is"
    obs_slice: int | None = None
    obs_keys: tuple[str, ...] | None = None
    wrappers: tuple[Mapping[str, Any], ...] = ()
    obs_names: tuple[str, ...] = ()
    action_names: tuple[str, ...] = ()
    exogenous: tuple[int, ...] = ()
    chunk: int = 1
    chunk_discount: float = 1.0
    hidden: tuple[int, ...] = ()
    stacked_obs: int = 1
    stacked_actions: int = 0
    copies: tuple[tuple[int, int], ...] = ()
    task: str | None = None

    def __post_init__(self) -> None:
        if self.obs_dim < 1 or self.action_dim < 1:
            raise Mistake(
                f"obs_dim and action_dim must be positive, got {self.obs_dim} and "
                f"{self.action_dim}; check the arrays of the dataset"
            )
        for name in ("action_low", "action_high"):
            if len(getattr(self, name)) != self.action_dim:
                raise ValueError(
                    f"{name} has {counted(len(getattr(self, name)), 'entry')} for "
                    f"{counted(self.action_dim, 'action')}"
                )
        for names, width in ((self.obs_names, self.obs_dim), (self.action_names, self.action_dim)):
            if names and len(names) != width:
                raise ValueError(f"{len(names)} names, {names}, for {width} columns")
        if list(self.exogenous) != sorted({*self.exogenous} & {*range(self.obs_dim)}):
            raise ValueError(
                f"exogenous={self.exogenous} must be ascending indices of {self.obs_dim} columns"
            )
        if len(self.exogenous) == self.obs_dim:
            raise Mistake(
                "every observation is exogenous, so no action moves anything and there is nothing "
                "to learn; leave out those that the actions move"
            )
        if self.physics not in PHYSICS:
            raise Mistake(f"physics={self.physics!r} is unknown; use one of {PHYSICS}")
        if self.chunk < 1 or self.action_dim % self.chunk:
            raise ValueError(f"{self.action_dim} actions are no chunk of {self.chunk} steps")
        seen = self.obs_dim - self.stacked_actions * self.action_dim
        if self.stacked_obs < 1 or self.stacked_actions < 0 or seen < 1 or seen % self.stacked_obs:
            raise ValueError(
                f"{self.obs_dim} columns are no {self.stacked_obs} observations and "
                f"{self.stacked_actions} actions of size {self.action_dim}"
            )
        copied = [column for column, _ in self.copies]
        known = range(self.obs_dim + self.action_dim)
        if copied != sorted({*copied} & {*range(self.obs_dim)} - {*self.exogenous}) or any(
            source not in known for _, source in self.copies
        ):
            raise ValueError(f"copies={self.copies} are no pairs of ascending columns")

    @property
    def single(self) -> "Spec":
        """The task of one control step at a time, as its environment is: itself without chunks."""
        if self.chunk == 1:
            return self
        width = self.action_dim // self.chunk
        return replace(
            self,
            action_dim=width,
            action_low=self.action_low[:width],
            action_high=self.action_high[:width],
            action_names=self.action_names[:width],
            chunk=1,
            chunk_discount=1.0,
            copies=(),
        )

    @property
    def has_history(self) -> bool:
        """Whether an observation holds more than what is seen now."""
        return self.stacked_obs > 1 or self.stacked_actions > 0

    @property
    def newest_dim(self) -> int:
        """Columns of what is seen now, the first ones of an observation."""
        return (self.obs_dim - self.stacked_actions * self.action_dim) // self.stacked_obs

    @property
    def newest(self) -> "Spec":
        """The task whose observation is what is seen now alone: itself without history."""
        if not self.has_history:
            return self
        return replace(
            self,
            obs_dim=self.newest_dim,
            obs_names=self.obs_names[: self.newest_dim],
            stacked_obs=1,
            stacked_actions=0,
            copies=(),
        )

    @property
    def past_actions(self) -> slice:
        """Columns of an observation that are past actions."""
        return slice(self.stacked_obs * self.newest_dim, self.obs_dim)

    @property
    def how_to_play(self) -> str:
        """What a controller must know of an answer that is a chunk, a sentence; else empty."""
        if self.chunk == 1:
            return ""
        return (
            f"Actions of {self.chunk} control steps, one after the other: play all, then ask again."
        )

    @property
    def how_to_see(self) -> str:
        """What a controller must be given where an observation is a history; else empty."""
        if not self.has_history:
            return ""
        actions = (
            f", then the last {counted(self.stacked_actions, 'action')}"
            if self.stacked_actions
            else ""
        )
        rest = " and the middle of the action box" if self.stacked_actions else ""
        return (
            f"An observation is a history, newest first: the last "
            f"{counted(self.stacked_obs, 'observation')} of {counted(self.newest_dim, 'column')}"
            f"{actions}. "
            f"Before the first: the first observation again{rest}."
        )

    @property
    def max_episode_actions(self) -> int | None:
        """The time limit in actions; where they are chunks it may cut the last one short."""
        limit = self.max_episode_steps
        return None if limit is None else -(-limit // self.chunk)

    def per_action(self, discount: float) -> float:
        """A discount per control step as one per action."""
        return discount**self.chunk

    @property
    def obs_labels(self) -> tuple[str, ...]:
        """A name for every observation, length D: `obs 3` where the data give none."""
        if self.obs_names:
            return self.obs_names
        seen, width = self.newest_dim, self.action_dim
        return (
            *(later(f"obs {dim % seen}", -(dim // seen)) for dim in range(self.stacked_obs * seen)),
            *(
                later(f"action {dim % width}", -(1 + dim // width))
                for dim in range(self.stacked_actions * width)
            ),
        )

    @property
    def actions_are_scaled(self) -> bool:
        """Whether an observation holds past actions of a box that is not [-1, 1]."""
        box = {*self.action_low} | {*self.action_high}
        return self.stacked_actions > 0 and box != {-1.0, 1.0}

    @property
    def scaled_labels(self) -> tuple[str, ...]:
        """`obs_labels` for who computes with an observation, `(valve -1 [%] - 50) / 50`."""
        if not self.actions_are_scaled:
            return self.obs_labels
        first, labels = self.past_actions.start, self.obs_labels
        box = [*zip(self.action_low, self.action_high, strict=True)] * self.stacked_actions
        return labels[:first] + tuple(
            f"({label} - {(low + high) / 2:g}) / {(high - low) / 2:g}"
            for label, (low, high) in zip(labels[first:], box, strict=True)
        )

    @property
    def action_labels(self) -> tuple[str, ...]:
        """A name for every action, length A: `action 0` where the data give none."""
        width = self.action_dim // self.chunk
        return self.action_names or tuple(
            later(f"action {dim % width}", dim // width) for dim in range(self.action_dim)
        )

    @property
    def exogenous_labels(self) -> tuple[str, ...]:
        """A name for every exogenous observation, see `obs_labels`."""
        return tuple(self.obs_labels[dim] for dim in self.exogenous)

    def told(self, action: np.ndarray) -> np.ndarray:
        """Actions `[*, A]` in [-1, 1] as people are told them: in the units of their own names.

        Actions without names stay as they are.
        """
        if not self.action_names:
            return action
        low, high = np.array([self.action_low, self.action_high], action.dtype)
        return (low + high) / 2 + (high - low) / 2 * action

    def told_obs(self, obs: np.ndarray) -> np.ndarray:
        """Observations `[*, D]` with their past actions as people are told them, see `told`."""
        if not self.stacked_actions:
            return obs
        shown, shape = obs.copy(), (*obs.shape[:-1], self.stacked_actions, self.action_dim)
        past = self.told(shown[..., self.past_actions].reshape(shape))
        shown[..., self.past_actions] = past.reshape(*obs.shape[:-1], -1)
        return shown

    def require_same_spaces(self, other: "Spec", ours: str, theirs: str) -> None:
        """Refuse two things whose flattened spaces differ, naming both."""
        if (self.obs_dim, self.action_dim) != (other.obs_dim, other.action_dim):
            raise Mistake(
                f"{ours} has observations of size {self.obs_dim} and actions of size "
                f"{self.action_dim}, but {theirs} has {other.obs_dim} and {other.action_dim}; "
                "they describe different tasks"
            )


@dataclass(frozen=True)
class Reference:
    """Returns that define 0 and 100 of a normalised score, and where they come from.

    normalised = 100 (R - low) / (high - low), with R the undiscounted return of an episode
    (D4RL, arXiv:2004.07219, section 3).
    """

    low: float
    high: float
    source: str

    def normalise(self, returns):
        """Map returns (float, array or tensor) to percent of the reference gap."""
        return 100.0 * (returns - self.low) / (self.high - self.low)
