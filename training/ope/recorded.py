"""The value of the recorded behaviour, computed as the estimates of a policy are, for comparison.

A log ends where its recording does, while a value has no time limit. An episode that was cut is
therefore extrapolated: each missing step gets the mean reward of its later half, for as long as the
data say that nothing terminates.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reverie.datasets.dataset import Dataset

TAIL = 1e-3
"""Share of a value that may lie beyond the steps which are taken for it."""
FEWEST = 10
"""Start states below which an interval over them says nothing: rows then start everywhere."""
LONGEST = 1_000
"""Control steps of a return where only the recording says how long it is: a log of one piece is no
episode."""


@dataclass(frozen=True)
class Recorded:
    """Recorded values from each of P rows.

    Attributes:
        values: `[P]` float64, discounted, as if there were no time limit.
        returns: `[P]` float64, undiscounted, up to the horizon.
        continued: share of a value's weight that lies beyond the ends of the recording.
        present: `[P]` int64, steps of a value that the recording holds.
        earned: `[P]` float64, what they come to, discounted.
    """

    values: Float[Tensor, " P"]
    returns: Float[Tensor, " P"]
    continued: float
    present: Int[Tensor, " P"]
    earned: Float[Tensor, " P"]


def value_steps(discount: float) -> int:
    """Steps after which all but `TAIL` of a discounted value has been earned."""
    return math.ceil(math.log(TAIL) / math.log(discount)) if discount > 0 else 1


def horizon_of(data: Dataset) -> int:
    """Actions of a return: control steps, or chunks.

    The task's time limit; else the longest recorded episode that a limit cut; else the longest of
    all. The latter two count `LONGEST` at most.
    """
    if data.spec.max_episode_actions is not None:
        return data.spec.max_episode_actions
    lengths = data.episode_lengths
    cut = data.truncated[data.episode_starts + lengths - 1]
    return min(int((lengths[cut] if cut.any() else lengths).max()), LONGEST)


def start_rows(data: Dataset, count: int, seed: int) -> Int[Tensor, " P"]:
    """First rows of `count` recorded episodes, drawn without replacement, or of all.

    Of fewer than `FEWEST` episodes, as many rows as are asked for, spread evenly over the data.
    """
    starts = data.first_rows
    if len(starts) < min(count, FEWEST):
        return torch.linspace(0, len(data) - 1, count).round().long().unique()
    order = np.random.default_rng(seed).permutation(len(starts))[:count]
    return starts[np.sort(order)]


def start_states(data: Dataset, count: int, seed: int) -> Float[Tensor, "P D"]:
    """Observations of `start_rows`."""
    return data.transitions.obs[start_rows(data, count, seed)]


def recorded_values(
    data: Dataset, rows: Int[Tensor, " P"], *, horizon: int, discount: float
) -> Recorded:
    """What the behaviour earned from given rows on.

    Args:
        horizon: control steps of a return.
        discount: per control step, below 1.
    """
    steps = value_steps(discount)
    present = recorded_steps(data, rows, steps)
    earned = _earned(data, rows, present, discount)
    beyond, missing = _continued(data, rows, present, steps, discount)
    counted = recorded_steps(data, rows, horizon)
    later, _ = _continued(data, rows, counted, horizon, 1.0)
    whole = float(_geometric(discount, torch.tensor(steps)))
    return Recorded(
        values=earned + beyond,
        returns=_earned(data, rows, counted, 1.0) + later,
        continued=float(missing.mean() / whole),
        present=present,
        earned=earned,
    )


def recorded_steps(data: Dataset, rows: Int[Tensor, " P"], steps: int) -> Int[Tensor, " P"]:
    """How many of `steps` steps from given rows on were recorded, one at least."""
    return (_ends(data)[_episodes(data, rows)] - rows).clamp(max=steps)


def recorded_window(rows: Int[Tensor, " P"], present: Int[Tensor, " P"]) -> Int[Tensor, "P T"]:
    """Row numbers of the steps from given rows on; the last recorded one stands for later ones."""
    ages = torch.arange(int(present.max()))
    return rows.unsqueeze(1) + torch.minimum(ages, present.unsqueeze(1) - 1)


def _ends(data: Dataset) -> Int[Tensor, " E"]:
    return data.episode_starts + data.episode_lengths


def _episodes(data: Dataset, rows: Int[Tensor, " P"]) -> Int[Tensor, " P"]:
    return torch.searchsorted(data.episode_starts, rows, right=True) - 1


def _earned(
    data: Dataset, rows: Int[Tensor, " P"], present: Int[Tensor, " P"], discount: float
) -> Float[Tensor, " P"]:
    """Rewards of the steps that are present."""
    reward = data.transitions.reward.double()[recorded_window(rows, present)]
    ages = torch.arange(reward.shape[1])
    return (torch.where(ages < present.unsqueeze(1), reward, 0.0) * discount ** ages.double()).sum(
        1
    )


def _continued(
    data: Dataset, rows: Int[Tensor, " P"], present: Int[Tensor, " P"], steps: int, discount: float
) -> tuple[Float[Tensor, " P"], Float[Tensor, " P"]]:
    """Rewards of those of `steps` steps that no row holds, and their weight."""
    reward, ended = data.transitions.reward.double(), data.transitions.terminated
    ends, episode = _ends(data), _episodes(data, rows)
    going_on = 1 - float(ended.double().mean())
    missing = discount ** present.double() * _geometric(discount * going_on, steps - present)
    missing = torch.where(ended[ends[episode] - 1], 0.0, missing)
    late = ends - (data.episode_lengths + 1) // 2  # the later half of every episode
    total = torch.cat([torch.zeros(1, dtype=torch.float64), reward.cumsum(0)])
    mean = (total[ends] - total[late]) / (ends - late)
    return missing * mean[episode], missing


def _geometric(ratio: float, count: Tensor) -> Float[Tensor, "*lead"]:
    """1 + ratio + ... of `count` terms."""
    if ratio == 1:
        return count.double()
    return (1 - ratio ** count.double()) / (1 - ratio)
