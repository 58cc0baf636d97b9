"""A trained policy in the units of its plant, as layers, with inputs it was asked about."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from timeit import repeat
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from reverie.agents.layers import Activation, Layer, LayerNorm, Linear, Standardise
from reverie.envs.specs import Spec
from reverie.mistake import Mistake

TOLERANCE = 1e-5
"""Largest difference between an exported file and what it was made of, as a share of the range."""
_BEYOND = 0.5
"""How far out of the recorded range a self-test goes, in widths of the range."""
_FRAMES = 12
"""Steps of an episode by which a history is tested, at most."""
Arrays = dict[str, np.ndarray]
Act = Callable[[Tensor], Tensor]
"""Actions `[N, A]` in [-1, 1] for observations `[N, D]`."""


@dataclass(frozen=True)
class Box:
    """Conversion of actions in [-1, 1] to the plant's units, clipped to the plant's own box.

    Attributes:
        middle, half: `[A]` float32 centre and half width.
        low, high: `[A]` float32 bounds, rounded to the inside.
    """

    middle: np.ndarray
    half: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def __call__(self, action: Float[np.ndarray, "N A"]) -> Float[np.ndarray, "N A"]:
        """In float64, for what is compared with."""
        inside = np.clip(self.middle + self.half * action.astype(float), self.low, self.high)
        return inside.astype(np.float32)


def box_of(spec: Spec) -> Box:
    """The box of a task's actions."""
    low, high = np.array(spec.action_low, float), np.array(spec.action_high, float)
    bounds = []
    for exact, inwards in ((low, np.inf), (high, -np.inf)):
        near = exact.astype(np.float32)
        outside = (near < exact) if inwards > 0 else (near > exact)
        bounds.append(np.where(outside, np.nextafter(near, np.float32(inwards)), near))
    middle, half = (high + low) / 2, (high - low) / 2
    return Box(middle.astype(np.float32), half.astype(np.float32), *bounds)


@dataclass(frozen=True)
class Step:
    """One layer as a word and its float32 arrays.

    Attributes:
        kind: `standardise`, `linear`, an activation, `layer_norm` or `box`.
        arrays: by name; `epsilon` is a number.
    """

    kind: str
    arrays: Arrays


def steps_of(layers: Sequence[Layer | Box]) -> list[Step]:
    """Layers as every format writes them.

    Raises:
        Mistake: a weight or statistic is not finite.
    """
    found = []
    for layer in layers:
        arrays: Mapping[str, Any] = vars(layer)
        match layer:
            case Activation():
                kind, arrays = layer.name, {}
            case Standardise():
                kind = "standardise"
            case Linear():
                kind = "linear"
            case LayerNorm():
                kind = "layer_norm"
            case Box():
                kind = "box"
        plain = {name: np.asarray(value, np.float32) for name, value in arrays.items()}
        for name, value in plain.items():
            if not np.isfinite(value).all():
                raise Mistake(
                    f"the {name} of a {kind} of this policy is not finite, so no file of it would "
                    "work; check the data (python -m reverie.datasets.check) and train again"
                )
        found.append(Step(kind, plain))
    return found


@dataclass(frozen=True)
class Controller:
    """The contents of an exported file, and its expected outputs.

    Attributes:
        spec: of the task.
        steps: from a raw observation to an action in the plant's box; none of a policy that is
            made of something else.
        observations: `[N, D]` float32, raw, past actions in the plant's units.
        actions: `[N, A]` float32, what the policy does there, in the plant's box.
        followed: `[T, A]` what it does when it is shown what is seen in the first T of these, one
            after the other, as one episode; none where an observation is no history.
    """

    spec: Spec
    steps: Sequence[Step]
    observations: Float[np.ndarray, "N D"]
    actions: Float[np.ndarray, "N A"]
    followed: Float[np.ndarray, "T A"]

    @property
    def frames(self) -> Float[np.ndarray, "T D1"]:
        """What is seen in the episode of `followed`."""
        return self.observations[: len(self.followed), : self.spec.newest_dim]

    @property
    def widths(self) -> Float[np.ndarray, " A"]:
        """Of the action box."""
        return np.array(self.spec.action_high) - np.array(self.spec.action_low)

    def difference(
        self,
        actions: Float[np.ndarray, "N A"],
        followed: Float[np.ndarray, "T A"] | None = None,
    ) -> float:
        """Largest difference from the policy, as a share of the width of the action box."""
        pairs = [(actions, self.actions)]
        pairs += [] if followed is None else [(followed, self.followed)]
        found = (np.abs(each.astype(float) - wanted) / self.widths for each, wanted in pairs)
        return max(float(each.max(initial=0.0)) for each in found)


@dataclass(frozen=True)
class Measured:
    """Measurements of an exported file.

    Attributes:
        difference: see `Controller.difference`; None where nothing here can run the file.
        microseconds: per decision for one observation, None likewise.
    """

    difference: float | None
    microseconds: float | None


def self_test_observations(
    spec: Spec, count: int, recorded: Tensor | None, layers: Sequence[Layer]
) -> Float[Tensor, "N D"]:
    """Observations to compare at: recorded ones, and some beyond the recorded range.

    Without records they spread around what the policy standardises with, if it does.

    Args:
        recorded: `[M, D]` raw.
    """
    random = torch.Generator().manual_seed(0)
    if recorded is None:
        first = layers[0] if layers else None
        noise = torch.randn(count, spec.obs_dim, generator=random)
        noise *= torch.linspace(0, 4, count).unsqueeze(1)
        return first.mean + first.scale * noise if isinstance(first, Standardise) else noise
    rows = torch.linspace(0, len(recorded) - 1, count // 2).long()
    low, high = recorded.amin(0), recorded.amax(0)
    width = torch.where(high > low, high - low, torch.ones_like(low))
    corners = torch.stack([low - _BEYOND * width, high + _BEYOND * width])
    shares = torch.rand(count - len(rows) - 2, spec.obs_dim, generator=random)
    around = corners[0] + shares * (corners[1] - corners[0])
    return torch.cat([recorded[rows], corners, around])


def controller_of(
    spec: Spec, layers: Sequence[Layer], obs: Float[Tensor, "N D"], act: Act
) -> Controller:
    """A policy in plant units, with what it does at some observations.

    Args:
        layers: of the policy in [-1, 1]; none where it is made of something else.
    """
    box = box_of(spec)
    with torch.no_grad():
        actions = box(act(obs).cpu().numpy())
        followed = _follow(spec, obs[:_FRAMES, : spec.newest_dim], act)
    steps = steps_of([*_to_unit(spec, box), *layers, box]) if layers else []
    return Controller(spec, steps, in_plant_units(spec, obs.numpy()), actions, box(followed))


def in_plant_units(spec: Spec, obs: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Observations whose past actions, if they hold any, are as the plant knows them."""
    if not spec.stacked_actions:
        return obs
    box, past, shown = box_of(spec), spec.past_actions, obs.copy()
    unit = obs[:, past].reshape(len(obs), spec.stacked_actions, -1).astype(float)
    shown[:, past] = (box.middle + box.half * unit).reshape(len(obs), -1)
    return shown


def _to_unit(spec: Spec, box: Box) -> list[Layer]:
    """What brings past actions of the plant to [-1, 1]; nothing where they are there."""
    if not spec.actions_are_scaled:
        return []
    mean, scale = torch.zeros(spec.obs_dim), torch.ones(spec.obs_dim)
    mean[spec.past_actions] = torch.from_numpy(box.middle).repeat(spec.stacked_actions)
    scale[spec.past_actions] = torch.from_numpy(box.half).repeat(spec.stacked_actions)
    return [Standardise(mean, scale)]


def _follow(spec: Spec, frames: Float[Tensor, "T D1"], act: Act) -> Float[np.ndarray, "T A"]:
    """A policy's actions in [-1, 1] where it is shown some frames one after the other."""
    if not spec.has_history:
        return np.empty((0, spec.action_dim))
    seen = frames[:1].expand(spec.stacked_obs, -1)
    done = torch.zeros(spec.stacked_actions, spec.action_dim)
    found: list[Tensor] = []
    for frame in frames:
        if found:
            seen = torch.cat([frame.unsqueeze(0), seen])[: spec.stacked_obs]
            done = torch.cat([found[-1], done])[: spec.stacked_actions]
        found.append(act(torch.cat([seen.flatten(), done.flatten()]).unsqueeze(0)).cpu().float())
    return torch.cat(found).numpy()


def microseconds(decide: Callable[[], object], decisions: int) -> float:
    """Shortest mean time of a call, of three runs after a warm-up."""
    repeat(decide, number=min(decisions, 50), repeat=1)
    return min(repeat(decide, number=decisions, repeat=3)) / decisions * 1e6


def measured(
    act: Callable[[np.ndarray], np.ndarray],
    controller: Controller,
    decisions: int,
    follow: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Measured:
    """Ask something that takes and gives float32 rows.

    Args:
        follow: likewise, for the frames of an episode, of what keeps the history itself.
    """
    one = controller.observations[:1]
    followed = None if follow is None else np.asarray(follow(controller.frames))
    return Measured(
        controller.difference(np.asarray(act(controller.observations)), followed),
        microseconds(lambda: act(one), decisions),
    )
