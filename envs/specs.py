"""What an agent and a world model must know about a task: spaces, limits and which environment."""

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
    """What an action is called that is taken so many control steps later, `valve +1`."""
    return f"{name} +{steps}" if steps else name


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
        exogenous: observations that actions do not move, such as set-points and weather, as
            ascending indices; a world model does not predict them.
        chunk: control steps that one action spans, see `datasets.transforms.chunk`: the actions of
            so many steps lie one after the other in it. 1 where it is an action of one step.
        chunk_discount: per control step, of the rewards that one action spans.
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
        )

    @property
    def how_to_play(self) -> str:
        """What a controller must know of an answer that is a chunk, a sentence; else empty."""
        if self.chunk == 1:
            return ""
        return (
            f"Actions of {self.chunk} control steps, one after the other: play all, then ask again."
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
        return self.obs_names or tuple(f"obs {dim}" for dim in range(self.obs_dim))

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
