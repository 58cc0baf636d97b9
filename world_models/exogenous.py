"""Exogenous observations in rollouts, replayed from the record, since actions do not affect them.

Examples are set-points, disturbances, weather and demand. A rollout that starts at a recorded row
receives the values recorded after that row; any other keeps its initial values.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reverie.datasets.dataset import Dataset

NOWHERE = -1
"""The row of a rollout that the record does not cover, or no longer."""

# torch.randint needs a bound that is no tensor; its modulo by a few rows is even.
_LARGE = 2**62


class ExogenousRecord(nn.Module):
    """The recorded exogenous observations of a dataset, and the position of a state among them.

    States are found by their exact bits in all columns: rollouts start from copies of recorded
    rows. The record is not part of a model's state.

    Args:
        data: with at least one exogenous observation.
    """

    columns: Tensor
    factors: Tensor
    keys: Tensor
    rows: Tensor
    values: Tensor
    following: Tensor

    def __init__(self, data: Dataset) -> None:
        super().__init__()
        obs, columns = data.transitions.obs, torch.tensor(data.spec.exogenous)
        # Odd factors tell two rows apart that differ in one column, and others but for 1 in 2^64.
        own = torch.Generator().manual_seed(0)
        factors = 2 * torch.randint(-_LARGE, _LARGE, (obs.shape[1],), generator=own) + 1
        keys, rows = _keys(obs, factors).sort(stable=True)
        following = torch.arange(1, len(data) + 1)
        following[data.episode_starts + data.episode_lengths - 1] = NOWHERE
        for name, value in (
            ("columns", columns),
            ("factors", factors),
            ("keys", keys),
            ("rows", rows),
            ("values", data.transitions.next_obs[:, columns].contiguous()),
            ("following", following),
        ):
            self.register_buffer(name, value, persistent=False)

    def find(self, obs: Float[Tensor, "*lead D"]) -> Int[Tensor, "*lead"]:
        """The recorded row of each state, one at random of several, `NOWHERE` for none."""
        key = _keys(obs, self.factors)
        first = torch.searchsorted(self.keys, key)
        count = torch.searchsorted(self.keys, key, right=True) - first
        chosen = torch.randint(_LARGE, key.shape, device=key.device) % count.clamp(min=1)
        found = self.rows[(first + chosen).clamp(max=len(self.rows) - 1)]
        return torch.where(count > 0, found, NOWHERE)

    def move_on(
        self,
        obs: Float[Tensor, "*lead D"],
        next_obs: Float[Tensor, "K *lead D"],
        row: Int[Tensor, "*lead"],
    ) -> tuple[Float[Tensor, "K *lead D"], Int[Tensor, "*lead"]]:
        """Proposed successors of `obs` with the exogenous columns of the record, and their row.

        The columns stay as they are in `obs` where the row is `NOWHERE`.
        """
        known = row.clamp(min=0)
        inside = row != NOWHERE
        held = obs.index_select(-1, self.columns)
        values = torch.where(inside.unsqueeze(-1), self.values[known].to(held.dtype), held)
        values = values.expand(*next_obs.shape[:-1], -1)
        following = torch.where(inside, self.following[known], NOWHERE)
        return next_obs.index_copy(-1, self.columns, values), following


def _keys(obs: Float[Tensor, "*lead D"], factors: Int[Tensor, " D"]) -> Int[Tensor, "*lead"]:
    """64 bits of each row; int64 arithmetic wraps around."""
    bits = (obs.float() + 0.0).contiguous().view(torch.int32)  # -0.0 becomes 0.0
    return (bits.long() * factors).sum(-1)
