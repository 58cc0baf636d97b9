"""Single transitions as records: what SynthER generates, arXiv:2303.06614."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.world_models.diffusion.records import Records


class SingleTransitions(Records):
    """Transitions (obs, action, reward, next_obs, done), standardised except for `done`.

    Actions are not squashed; generated ones are clipped to the box.

    Source: the authors' code, which adds 1e-5 to every standard deviation.
    """

    STD_OFFSET = 1e-5
    squashed = False

    def __init__(self, *, spec: Spec) -> None:
        super().__init__(spec=spec, event=(2 * spec.obs_dim + spec.action_dim + 2,), transitions=1)
        following = spec.obs_dim + spec.action_dim + 1
        self.exogenous += [following + dim for dim in spec.exogenous]

    def table(self, data: Dataset) -> Float[Tensor, "R C"]:
        rows = data.transitions
        done = rows.terminated.float()
        return torch.cat(
            [rows.obs, rows.action, rows.reward[:, None], rows.next_obs, done[:, None]], -1
        )

    def index(self, data: Dataset, rows: Bool[Tensor, " N"]) -> Int[Tensor, " W"]:
        """Rows whose successor is known; that of a termination is never looked at."""
        return (rows & (data.valid_next | data.transitions.terminated)).nonzero().flatten()

    def normalise_by(self, table: Float[Tensor, "R C"], index: Int[Tensor, " W"]) -> None:
        super().normalise_by(table, index)
        self.std.add_(self.STD_OFFSET)
        self.mean[-1], self.std[-1] = 0.0, 1.0

    def decode(
        self, records: Float[Tensor, "*lead C"]
    ) -> tuple[Transition, Bool[Tensor, "*lead 1"]]:
        raw = self.raw(records).unsqueeze(-2)
        done = raw[..., -1] > self.DONE_THRESHOLD
        reward = self.action.stop
        rows = Transition(
            obs=raw[..., self.obs],
            action=raw[..., self.action].clamp(-1, 1),
            reward=raw[..., reward],
            next_obs=raw[..., reward + 1 : -1],
            terminated=done,
            is_real=torch.zeros_like(done),
        )
        return rows, torch.ones_like(done)
