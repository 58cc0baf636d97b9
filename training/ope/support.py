"""Distance of a policy's actions from those recorded in similar states.

No estimate from recorded data knows the effect of an untried action. For each of some recorded
states the nearest other ones are found, and an action counts as beyond the data if it leaves the
range of their actions. Recorded actions sometimes do so too, which gives the baseline.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.world_models.base import Policy

STATES, POOL, NEIGHBOURS = 1_024, 8_192, 16
"""States that are looked at, rows among which neighbours are sought, and how many of them."""
_SLACK = 0.02
"""How far an action may lie beyond its neighbours', 1 % of the box [-1, 1]."""
_CONSTANT = 1e-6


@dataclass(frozen=True)
class ActionDistance:
    """Of S policies.

    Attributes:
        distance: `[S]` mean |pi(s) - a| over states and dimensions, as a share of the box's width.
        beyond: `[S]` share of states in which an action leaves the range of the recorded ones
            nearby, in any dimension.
        recorded_beyond: the same share of the recorded actions.
    """

    distance: Float[Tensor, " S"]
    beyond: Float[Tensor, " S"]
    recorded_beyond: float


@torch.no_grad()
def action_distance(
    policy: Policy, data: Dataset, *, seeds: int, seed: int, device: torch.device
) -> ActionDistance:
    """Compare policies with the data at recorded states, drawn without replacement.

    Args:
        policy: of S seeds, on `device`.
        seeds, seed: S; of the draw.
    """
    drawn = np.random.default_rng(seed).permutation(len(data))[:POOL]
    rows = data.transitions[torch.from_numpy(drawn)]
    obs, action = rows.obs[:STATES], rows.action[:STATES]
    chosen = policy(obs.to(device).expand(seeds, -1, -1)).cpu()
    nearby = rows.action[_nearest(data, rows.obs, len(obs))]  # [B, K, A]
    low, high = nearby.amin(1) - _SLACK, nearby.amax(1) + _SLACK

    def leaves(each: Float[Tensor, "*S B A"]) -> Bool[Tensor, "*S B"]:
        return ((each < low) | (each > high)).any(-1)

    return ActionDistance(
        distance=(chosen - action).abs().mean((1, 2)) / 2,
        beyond=leaves(chosen).float().mean(1),
        recorded_beyond=float(leaves(action).float().mean()),
    )


def _nearest(data: Dataset, pool: Float[Tensor, "R D"], count: int) -> Tensor:
    """Indices `[B, K]` of the rows of the pool nearest to its first B, without themselves."""
    scale = data.transitions.obs.std(0, correction=0)
    varies = scale > _CONSTANT
    scaled = pool[:, varies] / scale[varies]
    distance = torch.cdist(scaled[:count], scaled)
    distance[torch.arange(count), torch.arange(count)] = torch.inf
    return distance.topk(min(NEIGHBOURS, max(len(pool) - 1, 1)), largest=False).indices
