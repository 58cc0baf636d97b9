"""How true segments of transitions are: to the dynamics, to a policy, to the share of terminations.

Measures of policy-guided diffusion, arXiv:2404.06356, whose exact formulas are not known: errors
are those of the simulator set to each state of a segment, in standard deviations of the dataset.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.envs.true_dynamics import Simulator
from reverie.world_models.base import Moments
from reverie.world_models.diffusion.generator import DiffusionGenerator

DETERMINISTIC_STD = 1.0
"""What guidance takes a policy without noise to have, in units of the action."""


@dataclass(frozen=True)
class Scale:
    """Standard deviations over the dataset, `obs [D]` and `reward []`."""

    obs: Tensor
    reward: Tensor

    @classmethod
    def of(cls, data: Dataset) -> "Scale":
        rows = data.transitions
        return cls(rows.obs.std(0), rows.reward.std())


@dataclass(frozen=True)
class Segments:
    """W segments a seed of T transitions in a row.

    Attributes:
        rows: `[S, W, T]`.
        keep: `[S, W, T]`, which of them exist.
    """

    rows: Transition
    keep: Bool[Tensor, "S W T"]


def draw_recorded(
    generator: DiffusionGenerator, data: Dataset, seeds: int, segments: int
) -> Segments:
    """Segments of the dataset, drawn for each seed, as the generator holds them."""
    records = generator.records
    index = records.index(data, torch.ones(len(data), dtype=torch.bool))
    table = records.encode(records.table(data))
    drawn = torch.randint(len(index), (seeds, segments))
    return Segments(*records.decode(table[index[drawn]]))


def measure(
    segments: Segments, simulator: Simulator, moments: Moments, scale: Scale
) -> dict[str, Any]:
    """Everything that is known of segments, a number or a list over positions for each seed.

    Rows whose observation hides a part of the state (clipped velocities) have no error, for the
    simulator cannot be set to them; neither have rows that are not finite.
    """
    rows, keep = segments.rows, segments.keep
    outcome = simulator.step(rows.obs, rows.action)
    known = keep & ~simulator.clipped(rows.obs) & outcome.next_obs.isfinite().all(-1)
    error = distance(rows.next_obs, outcome.next_obs, scale.obs)
    reward_error = (rows.reward - outcome.reward).abs() / scale.reward
    drift, drift_known = open_loop(segments, simulator, scale)
    density, off = likelihood(rows, moments)
    return {
        "error": root_mean_square(error, known),
        "error_by_position": by_position(error, known),
        "median_by_position": medians(error, known),
        "reward_error": root_mean_square(reward_error, known),
        "drift_by_position": medians(drift, drift_known),
        "log_likelihood": mean_where(density, keep),
        "policy_distance": mean_where(off.square(), keep).sqrt(),
        "terminations": mean_where(rows.terminated.float(), keep),
        "transitions": keep.sum((1, 2)),
    }


def distance(
    one: Float[Tensor, "*lead D"], other: Float[Tensor, "*lead D"], scale: Float[Tensor, " D"]
) -> Float[Tensor, "*lead"]:
    """Root mean square difference over channels, in units of `scale`."""
    return ((one - other) / scale).square().mean(-1).sqrt()


def open_loop(
    segments: Segments, simulator: Simulator, scale: Scale
) -> tuple[Float[Tensor, "S W T"], Bool[Tensor, "S W T"]]:
    """Distance of each next observation from the simulator's, which replays the segment's actions.

    Only the first state is the segment's: these are the errors that add up.
    """
    rows = segments.rows
    obs = rows.obs[:, :, 0]
    begins = segments.keep[:, :, 0] & ~simulator.clipped(obs)
    state = simulator.initial_state(obs)
    found = []
    for position in range(rows.reward.shape[-1]):
        outcome = simulator.step(obs, rows.action[:, :, position], state)
        obs, state = outcome.next_obs, outcome.state
        found.append(distance(rows.next_obs[:, :, position], obs, scale.obs))
    drift = torch.stack(found, -1)
    return drift, segments.keep & begins.unsqueeze(-1) & drift.isfinite()


def likelihood(
    rows: Transition, moments: Moments
) -> tuple[Float[Tensor, "S W T"], Float[Tensor, "S W T"]]:
    """Mean over action dimensions of log N(a; m, s^2), and root mean square distance from m."""
    lead = rows.reward.shape
    mean, std = moments(rows.obs.flatten(1, 2))
    std = torch.full_like(mean, DETERMINISTIC_STD) if std is None else std.expand_as(mean)
    off = (rows.action.flatten(1, 2) - mean).square()
    density = -off / (2 * std.square()) - std.log() - math.log(2 * math.pi) / 2
    return density.mean(-1).view(lead), off.mean(-1).sqrt().view(lead)


def mean_where(values: Tensor, keep: Bool[Tensor, "S W T"]) -> Float[Tensor, " S"]:
    """Mean of each seed over the rows that count."""
    return torch.where(keep, values, 0.0).sum((1, 2)) / keep.sum((1, 2))


def root_mean_square(values: Tensor, keep: Bool[Tensor, "S W T"]) -> Float[Tensor, " S"]:
    """Of each seed, over the rows that count."""
    return mean_where(values.square(), keep).sqrt()


def by_position(values: Tensor, keep: Bool[Tensor, "S W T"]) -> Float[Tensor, "S T"]:
    """Root mean square over the segments that reach a position."""
    return (torch.where(keep, values.square(), 0.0).sum(1) / keep.sum(1)).sqrt()


def medians(values: Tensor, keep: Bool[Tensor, "S W T"]) -> Float[Tensor, "S T"]:
    """Median over the segments that reach a position."""
    return torch.where(keep, values, math.nan).nanmedian(1).values
