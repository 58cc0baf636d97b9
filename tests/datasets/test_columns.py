"""Columns that agents ask for, against episodes whose answers are known."""

import numpy as np
import pytest
import torch

from reverie.datasets.build import build
from reverie.datasets.columns import with_next_action
from reverie.datasets.transition import column_names
from reverie.envs.specs import Spec

SPEC = Spec(env_id=None, obs_dim=1, action_dim=1, action_low=(-1.0,), action_high=(1.0,))


def make(obs, *, truncated=(), terminated=(), **columns):
    """Rows whose action tells their number, 0.00, 0.01, ..., and whose reward too."""
    number = np.arange(len(obs))
    return build(
        name="toy",
        spec=SPEC,
        obs=np.array(obs, dtype=float)[:, None],
        action=number[:, None] / 100,
        reward=number.astype(float),
        terminated=np.isin(number, terminated),
        truncated=np.isin(number, truncated),
        reference=None,
        origin={},
        clip_actions=False,
        **{key: np.array(value) for key, value in columns.items()},
    )


def test_the_next_action_is_that_of_the_same_episode():
    successor = np.array([1.0, 2.0, 9.0, 4.0, 5.0, 8.0])[:, None]
    data = make([0, 1, 2, 3, 4, 5], truncated=[2], terminated=[5], next_obs=successor)
    rows = with_next_action(data)
    assert rows.has_next_action.tolist() == [True, True, False, True, True, False]
    assert rows.next_action[rows.has_next_action, 0].tolist() == pytest.approx(
        [0.01, 0.02, 0.04, 0.05]
    )
    assert column_names(rows)[:6] == column_names(data.transitions)
    for name in column_names(data.transitions):
        assert torch.equal(getattr(rows, name), getattr(data.transitions, name))


def test_two_episodes_of_one_row_have_no_next_action():
    data = make([0, 0], truncated=[0, 1], next_obs=[[0.0], [0.0]])
    assert not with_next_action(data).has_next_action.any()


def test_a_row_that_ended_the_task_or_whose_successor_is_not_known_has_no_next_action():
    successor = np.array([1.0, 2.0, 3.0, 4.0])[:, None]
    data = make(
        [0, 1, 2, 3],
        terminated=[1],
        ends=[False, False, False, True],
        next_obs=successor,
        valid_next=[True, True, False, True],
    )
    assert with_next_action(data).has_next_action.tolist() == [True, False, False, False]


def test_shuffled_rows_have_no_next_action_though_nothing_ends_them():
    order = np.random.default_rng(0).permutation(50)
    obs = np.arange(50.0)[order]
    rows = with_next_action(make(obs, next_obs=obs[:, None] + 1))
    follows = np.append(obs[1:] == obs[:-1] + 1, False)
    assert rows.has_next_action.tolist() == follows.tolist() and follows.sum() < 5


def test_files_without_successors_lose_one_next_action_with_the_row_they_drop():
    rows = with_next_action(make([0, 1, 2, 3, 4, 5], truncated=[2, 5]))
    assert rows.action[:, 0].tolist() == pytest.approx([0.0, 0.01, 0.03, 0.04])
    assert rows.has_next_action.tolist() == [True, False, True, False]


def test_returns_to_go_start_at_the_return_and_end_at_the_last_reward():
    data = make([0, 1, 2, 3, 4, 5], terminated=[2, 5], next_obs=np.arange(1.0, 7.0)[:, None])
    assert data.returns_to_go.tolist() == [3, 3, 2, 12, 9, 5]
    assert data.returns_to_go.dtype == torch.float64
    assert torch.equal(data.returns_to_go[data.episode_starts], data.returns)
