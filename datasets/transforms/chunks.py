"""Action chunks: the actions of several control steps, decided at once."""

from dataclasses import replace

import numpy as np
import torch

from reverie.datasets.dataset import Dataset
from reverie.datasets.names import bare
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec, later
from reverie.mistake import Mistake
from reverie.ranges import Count, UnitInterval
from reverie.settings import misfit
from reverie.text import counted


def chunk(data: Dataset, steps: int, *, discount: float) -> Dataset:
    """Action chunks: rows that lead N control steps on, by N actions decided at once.

    A row is (s_t, [a_t .. a_{t+N-1}], sum_i discount^i r_{t+i}, s_{t+N}), for every t of which the
    episode holds so many steps: windows slide, and none crosses an end. Where the task terminates
    within the window, the row terminates, the last action is repeated for the steps that were never
    taken, and these pay nothing. Dropping such windows would leave all but one of the last N states
    before a termination without a row that says so. Agents that clone actions leave repeated ones
    out, see `columns.WithTaken`. Windows that a time limit or the end of the log
    cuts are left out, for nobody knows where they lead.

    The rows of a recorded episode become N episodes, of which each row is followed by its own
    successor: the first begins at its first step, the second at its second one, and so on. Returns,
    sequences and recorded courses are then what they are of any other dataset, per chunk.

    Args:
        data: recorded rows.
        steps: N; 1 gives the very dataset.
        discount: per control step, within the chunk; an agent of the rows needs discount^N.

    Raises:
        Mistake: N is no count, the discount lies outside [0, 1], no episode is that long, or the
            rows are chunks already.

    Source: action chunks of MAC (ICLR 2026) and Q-chunking (arXiv:2507.07969).
    """
    for name, value, kind in (("chunks", steps, Count), ("discount", discount, UnitInterval)):
        why = misfit(name, value, kind)
        if why is not None:
            raise Mistake(why)
    if data.mapped and steps > 1:
        raise Mistake(
            f"dataset.chunks={steps} makes new rows of all of {data.name}, in memory; set "
            "dataset.storage=memory, or dataset.chunks=null"
        )
    if data.spec.chunk > 1:
        raise Mistake(f"the rows of {data.name} are chunks already; give the recorded dataset")
    if steps == 1:
        return data
    if data.spec.has_history:
        raise Mistake(
            f"dataset.chunks={steps} and histories do not go together: what is seen within a chunk "
            "is not in its row; set one of dataset.chunks and dataset.history to null"
        )
    recorded, terminated = data.transitions, data.transitions.terminated
    cut = terminated | ~data.valid_next  # beyond which no window sees
    cut[data.episode_starts[1:] - 1] = cut[-1] = True
    last = cut.nonzero()[:, 0]
    piece = cut.long().cumsum(0) - cut.long()  # [N] number of what lies between two cuts
    first = torch.cat([last.new_zeros(1), last[:-1] + 1])
    longest = int((last - first).max()) + 1
    if longest < steps:
        raise Mistake(
            f"dataset.chunks={steps} is longer than any episode of {data.name}, the longest of "
            f"which has {counted(longest, 'step')}; lower it"
        )
    row = torch.arange(len(data))
    end, phase = last[piece], (row - first[piece]) % steps
    kept = (row + steps - 1 <= end) | terminated[end]
    order = np.lexsort((row.numpy(), phase.numpy(), piece.numpy()))
    row = torch.from_numpy(order)[kept[order]]  # [M]
    end, phase, piece = end[row], phase[row], piece[row]

    reward = torch.zeros(len(row), dtype=torch.float64)
    dt = None if data.dt is None else torch.zeros(len(row))
    actions = []
    for step in range(steps):
        at = torch.minimum(row + step, end)
        actions.append(recorded.action[at])
        paid = discount**step * recorded.reward[at].double()
        reward += torch.where(row + step <= end, paid, 0.0)
        if data.dt is not None and dt is not None:
            dt += torch.where(row + step <= end, data.dt[at], 0.0)
    final = torch.minimum(row + steps - 1, end)
    begins = torch.ones(len(row), dtype=torch.bool)
    begins[1:] = (piece[1:] != piece[:-1]) | (phase[1:] != phase[:-1])
    starts = begins.nonzero()[:, 0]
    episode = torch.searchsorted(data.episode_starts, row[starts], right=True) - 1
    return replace(
        data,
        spec=_spec(data, steps, discount),
        transitions=Transition(
            obs=recorded.obs[row],
            action=torch.cat(actions, 1),
            reward=reward.float(),
            next_obs=recorded.next_obs[final],
            terminated=terminated[final],
            is_real=recorded.is_real[row],
        ),
        truncated=begins.roll(-1) & ~terminated[final],
        valid_next=data.valid_next[final],
        dt=dt,
        episode_starts=starts,
        origin={**data.origin, "chunks": f"{steps} control steps, discounted by {discount:g}"},
        places=None if data.places is None else data.places.take(row.numpy()),
        untransformed=data.recorded,
        recorded_episodes=episode.unique(return_inverse=True)[1],
        taken=row.unsqueeze(1) + torch.arange(steps) <= end.unsqueeze(1),
    )


def _spec(data: Dataset, steps: int, discount: float) -> Spec:
    spec = data.spec
    names = [
        later(bare(name), step) + name[len(bare(name)) :]  # the unit stays behind
        for step in range(steps)
        for name in spec.action_names
    ]
    return replace(
        spec,
        action_dim=steps * spec.action_dim,
        action_low=steps * spec.action_low,
        action_high=steps * spec.action_high,
        action_names=tuple(names),
        chunk=steps,
        chunk_discount=discount,
        copies=(),
    )
