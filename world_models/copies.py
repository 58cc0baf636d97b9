"""Columns of the next observation that are copied from the previous step, never predicted.

A shift register is known exactly: predicting it wastes a model's capacity and lets a rollout become
inconsistent with its own past.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reverie.envs.specs import Spec


class Copies(nn.Module):
    """Writes the columns of `spec.copies`; has no state.

    Args:
        spec: of the task.
    """

    columns: Tensor
    sources: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        columns, sources = ([pair[side] for pair in spec.copies] for side in (0, 1))
        for name, value in (("columns", columns), ("sources", sources)):
            index = torch.tensor(value, dtype=torch.int64)
            self.register_buffer(name, index, persistent=False)

    def forward(
        self,
        obs: Float[Tensor, "*lead D"],
        action: Float[Tensor, "*lead A"],
        next_obs: Float[Tensor, "*more D"],
    ) -> Float[Tensor, "*more D"]:
        """Next observations whose copied columns are those of the row, to the bit.

        Args:
            next_obs: with further leading dimensions than `obs` or without, `[K, *lead, D]`.
        """
        if not len(self.columns):
            return next_obs
        copied = torch.cat([obs, action], -1).index_select(-1, self.sources)
        return next_obs.index_copy(-1, self.columns, copied.expand(*next_obs.shape[:-1], -1))
