"""Histories: observations stacked with earlier ones and past actions, if one is not the state."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import torch
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.datasets.names import bare
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec, later
from reverie.mistake import Mistake
from reverie.ranges import ArgumentsOf, Count, Whole
from reverie.settings import misfit
from reverie.text import counted

LENGTHS: dict[str, Any] = {"obs": Count, "actions": Whole}
"""How many observations, the one of now included, and how many past actions."""
_Both = Annotated[Mapping[str, Any], ArgumentsOf(lambda _: LENGTHS), "{obs: 3, actions: 2}"]
Lengths = Count | _Both | None
"""The setting: `3` stands for `{obs: 3, actions: 2}`."""


def lengths_of(said: int | Mapping[str, Any]) -> tuple[int, int]:
    """How many observations and past actions a setting asks for; actions by default one fewer.

    Raises:
        Mistake: another key, or no such number.
    """
    if not isinstance(said, Mapping):
        said = {"obs": said}
    unknown = [key for key in said if key not in LENGTHS]
    if unknown or "obs" not in said:
        raise Mistake(
            f"dataset.history={dict(said)} must be a number of observations, or have the keys obs "
            "and, for other than one action fewer, actions: dataset.history='{obs: 3, actions: 2}'"
        )
    for key, value in said.items():
        why = misfit(f"dataset.history.{key}", value, LENGTHS[key])
        if why is not None:
            raise Mistake(why)
    return said["obs"], said.get("actions", said["obs"] - 1)


def stack(data: Dataset, obs: int, actions: int | None = None) -> Dataset:
    """Histories: every observation with those before it and the actions that led here.

    A row's observation is [o_t, o_{t-1}, .., a_{t-1}, a_{t-2}, ..], newest first, actions in
    [-1, 1]. Before an episode's first row stand its first observation, again and again, and actions
    of zero; nothing is taken from another episode, nor from the future. Rows, rewards, ends and
    episodes stay as they are. All columns of the next observation but those of what is seen then
    are copies of this row's, which the spec tells.

    Args:
        data: recorded rows.
        obs: observations in one, k, that of now included.
        actions: past actions, j; None for k - 1. With k = 1 and j = 0 it is the very dataset.

    Raises:
        Mistake: no such numbers, longer than any episode, or of histories, chunks or rows on disk.

    Source: frame stacking (arXiv:1312.5602) with actions, the delay coordinates of a system with
    inputs.
    """
    said = {"obs": obs} if actions is None else {"obs": obs, "actions": actions}
    obs, actions = lengths_of(said)
    if (obs, actions) == (1, 0):
        return data
    spec, key = data.spec, f"dataset.history={{obs: {obs}, actions: {actions}}}"
    if spec.has_history:
        raise Mistake(f"the rows of {data.name} are histories already; give the recorded dataset")
    if spec.chunk > 1:
        raise Mistake(
            f"{key} and chunks do not go together: what is seen within a chunk is not in its row; "
            "set one of dataset.history and dataset.chunks to null"
        )
    if data.mapped:
        raise Mistake(
            f"{key} makes new rows of all of {data.name}, in memory; set dataset.storage=memory, "
            "or dataset.history=null"
        )
    longest = int(data.episode_lengths.max())
    if max(obs - 1, actions) > longest:
        raise Mistake(
            f"{key} reaches further back than any episode of {data.name}, the longest of which has "
            f"{counted(longest, 'step')}; lower it"
        )
    rows = data.transitions
    row = torch.arange(len(data))
    first = data.episode_starts.repeat_interleave(data.episode_lengths)
    seen = [rows.obs[torch.maximum(row - age, first)] for age in range(obs)]
    done = [_before(rows.action, row - age, first) for age in range(1, actions + 1)]
    made = _spec(spec, obs, actions)
    history = torch.cat([*seen, *done], 1)
    following = torch.cat([rows.next_obs, *seen[:-1], *[rows.action, *done][:actions]], 1)
    return replace(
        data,
        spec=made,
        transitions=Transition(
            obs=history,
            action=rows.action,
            reward=rows.reward,
            next_obs=torch.where(data.valid_next.unsqueeze(1), following, history),
            terminated=rows.terminated,
            is_real=rows.is_real,
        ),
        origin={
            **data.origin,
            "history": f"{counted(obs, 'observation')}, {counted(actions, 'action')}",
        },
        untransformed=data.recorded,
    )


def _before(action: Tensor, row: Tensor, first: Tensor) -> Tensor:
    """The actions of some rows, zero where these lie before the episode."""
    return torch.where((row >= first).unsqueeze(1), action[row.clamp(min=0)], 0.0)


def _spec(spec: Spec, obs: int, actions: int) -> Spec:
    seen, width = spec.obs_dim, spec.action_dim
    past = obs * seen  # where past actions begin
    total = past + actions * width
    names: tuple[str, ...] = ()
    if spec.obs_names or spec.action_names:
        names = (
            *(_aged(name, age) for age in range(obs) for name in spec.obs_labels),
            *(_aged(name, age) for age in range(1, actions + 1) for name in spec.action_labels),
        )
    # What is exogenous is so now; what it was before is known.
    return replace(
        spec,
        obs_dim=total,
        obs_names=names,
        stacked_obs=obs,
        stacked_actions=actions,
        copies=(
            *((column, column - seen) for column in range(seen, past)),
            *((past + dim, total + dim) for dim in range(min(actions, 1) * width)),
            *((column, column - width) for column in range(past + width, total)),
        ),
    )


def _aged(name: str, age: int) -> str:
    return later(bare(name), -age) + name[len(bare(name)) :]  # the unit stays behind
