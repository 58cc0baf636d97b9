"""Segments of consecutive steps: the records of trajectory diffusion, arXiv:2404.06356."""

from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.ranges import Count, Range
from reverie.world_models.diffusion.records import Records
from reverie.world_models.fitting import uninterrupted


class Segments(Records):
    """L consecutive steps (obs, action, reward, done); the next step holds the next observation.

    Actions are clipped to +-0.999 and unsquashed by arctanh before they are standardised, so
    generated actions stay inside the box. A segment decodes to L - 1 transitions; those after the
    first `done` are discarded.

    Args:
        spec: spaces of the task.
        length: L, steps of a segment.
        stride: steps between the starts of segments in an episode.
        absorbing: segments may continue past a termination, with steps that repeat its next
            observation with action 0, reward 0 and done 1. The terminal transition is then among
            those that a segment decodes to.

    Source: the authors' code. Differs: with `absorbing=false` segments are chosen as there, which
    puts terminations into the last step only, where decoding drops them: the generator then never
    ends an episode. With `absorbing=true` segments start every `stride` steps of each episode, up
    to its end if that is a termination, so that in long episodes terminations are as frequent as in
    the data. Episodes that end by a time limit before they are L steps long are excluded in both.
    """

    ACTION_LIMIT = 0.999
    squashed = True

    def __init__(
        self, *, spec: Spec, length: Annotated[int, Range(2)], stride: Count, absorbing: bool
    ) -> None:
        if length < 2 or stride < 1:
            raise Mistake(
                "generator.records needs length >= 2 and stride >= 1, got "
                f"length={length}, stride={stride}"
            )
        super().__init__(
            spec=spec,
            event=(length, spec.obs_dim + spec.action_dim + 2),
            transitions=length - 1,
        )
        self.length, self.stride, self.absorbing = length, stride, absorbing

    def table(self, data: Dataset) -> Float[Tensor, "R C"]:
        """The rows of the dataset, then one absorbing row for every termination."""
        rows = data.transitions
        done = rows.terminated.float()
        recorded = [rows.obs, self._unsquashed(rows.action), rows.reward[:, None], done[:, None]]
        last = rows.next_obs[rows.terminated]
        still = last.new_zeros(len(last), self.spec.action_dim + 1)
        absorbed = [last, still, torch.ones_like(last[:, :1])]
        return torch.cat([torch.cat(recorded, -1), torch.cat(absorbed, -1)])

    def index(self, data: Dataset, rows: Bool[Tensor, " N"]) -> Int[Tensor, "W L"]:
        """Rows of the table in every segment that starts at one of these rows; perhaps none."""
        terminated = data.transitions.terminated
        first, last = uninterrupted(data)
        position = torch.arange(len(last))
        choose = self._with_absorbing if self.absorbing else self._as_published
        starts = (choose(position - first, last - position + 1, terminated[last]) & rows).nonzero()
        segment = starts + torch.arange(self.length)  # [W, L]
        stop = last[starts]
        absorbing = len(last) + terminated.long().cumsum(0)[stop] - 1
        return torch.where(segment > stop, absorbing, segment)

    def _with_absorbing(self, before: Tensor, left: Tensor, terminal: Tensor) -> Tensor:
        """Starts, given rows before and left (itself included) in the piece, and how it ends."""
        return (before % self.stride == 0) & (terminal | (left >= self.length))

    def _as_published(self, before: Tensor, left: Tensor, terminal: Tensor) -> Tensor:
        """Every `stride`-th whole segment, the first and the terminal ones, none cut by a limit."""
        whole = left >= self.length
        strided = whole & ((whole.long().cumsum(0) - 1) % self.stride == 0)
        at_end = left == self.length
        return (strided | (whole & (before == 0)) | (at_end & terminal)) & ~(at_end & ~terminal)

    def decode(
        self, records: Float[Tensor, "*lead L C"]
    ) -> tuple[Transition, Bool[Tensor, "*lead M"]]:
        """Raw transitions `[*lead, L - 1]`; also of segments longer than those that were fitted."""
        raw = self.raw(records)
        done = raw[..., -1] > self.DONE_THRESHOLD
        ended = done.long().cumsum(-1) - done.long() > 0
        now = raw[..., :-1, :]
        rows = Transition(
            obs=now[..., self.obs],
            action=torch.tanh(now[..., self.action]),
            reward=now[..., -2],
            next_obs=raw[..., 1:, self.obs],
            terminated=done[..., :-1],
            is_real=torch.zeros_like(done[..., :-1]),
        )
        return rows, ~ended[..., :-1]

    def _unsquashed(self, action: Tensor) -> Tensor:
        return torch.atanh(action.clamp(-self.ACTION_LIMIT, self.ACTION_LIMIT))
