"""Rows in, dataset out: episode ends, successors, scaling, and refusals."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reverie.datasets.build import build, given_reference
from reverie.envs.specs import Spec


def spec_with(low=(-1.0,), high=(1.0,), obs_dim=1):
    return Spec(env_id=None, obs_dim=obs_dim, action_dim=len(low), action_low=low, action_high=high)


def make(**changes):
    """Four rows in one episode; keywords replace columns."""
    columns = {
        "name": "toy",
        "spec": spec_with(),
        "obs": np.arange(4.0)[:, None],
        "action": np.zeros((4, 1)),
        "reward": np.arange(4.0),
        "terminated": np.zeros(4, bool),
        "truncated": np.zeros(4, bool),
        "reference": None,
        "origin": {},
        "clip_actions": False,
    }
    return build(**{**columns, **changes})


flags = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(flags)
def test_without_stored_successors_a_row_by_row_model_gives_the_same_rows(rows):
    terminated = np.array([t for t, _ in rows])
    truncated = np.array([t for _, t in rows])
    obs = np.arange(len(rows), dtype=float)[:, None]

    expected, starts, fresh = [], [], True
    for i in range(len(rows)):
        last = i == len(rows) - 1
        ends = terminated[i] or truncated[i] or last
        if terminated[i]:
            kept = (i, i, True, False, False)  # obs, next_obs, terminated, valid_next, cut
        elif ends:
            kept = None
            if expected and not fresh:
                expected[-1] = (*expected[-1][:4], True)
        else:
            kept = (i, i + 1, False, True, False)
        if kept:
            if fresh:
                starts.append(len(expected))
            expected.append(kept)
            fresh = False
        if ends:
            fresh = True
    if not expected:
        with pytest.raises(ValueError, match="no row has a known successor"):
            make(obs=obs, action=obs * 0, reward=obs, terminated=terminated, truncated=truncated)
        return

    data = make(obs=obs, action=obs * 0, reward=obs, terminated=terminated, truncated=truncated)
    found = zip(
        data.transitions.obs[:, 0].long().tolist(),
        data.transitions.next_obs[:, 0].long().tolist(),
        data.transitions.terminated.tolist(),
        data.valid_next.tolist(),
        data.truncated.tolist(),
        strict=True,
    )
    assert list(found) == expected
    assert data.episode_starts.tolist() == starts
    assert torch.equal(data.transitions.reward, data.transitions.obs[:, 0])


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(flags)
def test_with_stored_successors_every_row_is_kept(rows):
    terminated = np.array([t for t, _ in rows])
    truncated = np.array([t for _, t in rows])
    obs = np.arange(len(rows), dtype=float)[:, None]
    data = make(
        obs=obs,
        action=obs * 0,
        reward=obs,
        terminated=terminated,
        truncated=truncated,
        next_obs=obs + 0.5,
    )
    ends = terminated | truncated
    ends[-1] = True
    assert len(data) == len(rows)
    assert torch.equal(data.transitions.next_obs, data.transitions.obs + 0.5)
    assert data.valid_next.all()
    assert data.transitions.terminated.tolist() == terminated.tolist()
    assert data.truncated.tolist() == (ends & ~terminated).tolist()  # termination wins
    assert data.episode_starts.tolist() == [0, *(np.flatnonzero(ends[:-1]) + 1)]
    assert int(data.episode_lengths.sum()) == len(rows)


def test_terminal_rows_inside_an_episode_keep_their_successor_when_ends_are_given():
    data = make(terminated=np.array([0, 1, 1, 0]), ends=np.array([0, 0, 1, 0]), clip_actions=False)
    assert data.transitions.obs[:, 0].tolist() == [0, 1, 2]  # the last row has no successor
    assert data.transitions.next_obs[:, 0].tolist() == [1, 2, 2]
    assert data.valid_next.tolist() == [True, True, False]
    assert data.transitions.terminated.tolist() == [False, True, True]
    assert data.episode_starts.tolist() == [0]


def test_time_limits_end_episodes_even_where_ends_are_given():
    data = make(truncated=np.array([0, 1, 0, 0]), ends=np.zeros(4, bool), next_obs=np.ones((4, 1)))
    assert data.episode_starts.tolist() == [0, 2]
    assert data.truncated.tolist() == [False, True, False, True]


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    low=st.floats(-50, 49.0),
    width=st.floats(0.1, 100.0),
    shares=st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4),
)
def test_actions_are_rescaled_and_back(low, width, shares):
    high = low + width
    action = low + width * np.array(shares)[:, None]
    data = make(spec=spec_with((low,), (high,)), action=action, next_obs=np.zeros((4, 1)))
    scaled = data.transitions.action.double()
    assert scaled.abs().max() <= 1.0
    back = low + (scaled + 1.0) / 2.0 * (high - low)
    # float32 keeps 2^-24 of the magnitude of the bounds
    assert np.allclose(back, action, rtol=0, atol=1e-6 * (abs(low) + abs(high) + width))


def test_actions_in_the_unit_box_are_untouched():
    action = np.array([[-1.0], [0.3], [1e-8], [1.0]], np.float32)
    assert torch.equal(make(action=action).transitions.action, torch.from_numpy(action[:3]))


def test_actions_just_outside_the_box_are_put_on_its_edge():
    action = np.array([[1.001], [-1.0005], [0.5], [0.0]])
    assert make(action=action).transitions.action[:2, 0].tolist() == [1.0, -1.0]


def test_actions_outside_the_box_are_refused_or_clipped():
    action = np.array([[0.0], [0.0], [2.5], [-3.0]])
    with pytest.raises(ValueError, match=r"action\[0\] = 2.5 in row 2.*2 rows.*clip_actions=true"):
        make(action=action)
    clipped = make(action=action, clip_actions=True)
    assert clipped.transitions.action[:, 0].tolist() == [0.0, 0.0, 1.0]  # row 3 has no successor


def test_an_unbounded_box_is_refused():
    with pytest.raises(ValueError, match="unbounded"):
        make(spec=spec_with((-np.inf,), (np.inf,)))


def test_data_is_float32_and_not_shared_with_the_source():
    obs = np.arange(4.0, dtype=np.float32)[:, None]
    data = make(obs=obs)
    obs[:] = 7.0
    assert data.transitions.obs[:, 0].tolist() == [0, 1, 2]
    for name in ("obs", "action", "reward", "next_obs"):
        assert getattr(data.transitions, name).dtype == torch.float32
    assert data.transitions.is_real.all()


def test_flags_of_any_number_type_and_columns_of_width_one_are_squeezed():
    data = make(
        terminated=np.array([[0.0], [1.0], [0.0], [0.0]]),
        truncated=np.zeros((4, 1), np.uint8),
        reward=np.arange(4.0)[:, None],
    )
    assert data.transitions.terminated.tolist() == [False, True, False]
    assert data.transitions.reward.shape == (3,)


def test_every_bad_column_is_named_with_counts_and_first_row():
    obs = np.arange(4.0)[:, None].copy()
    obs[2] = np.nan
    reward = np.array([0.0, np.inf, np.nan, 1.0])
    with pytest.raises(ValueError) as caught:
        make(obs=obs, reward=reward)
    message = str(caught.value)
    assert "obs 1 NaN and 0 Inf in 1 rows (first row 2)" in message
    assert "reward 1 NaN and 1 Inf in 2 rows (first row 1)" in message
    assert "action" not in message


def test_values_beyond_float32_count_as_infinite():
    with pytest.raises(ValueError, match="reward 0 NaN and 1 Inf"):
        make(reward=np.array([0.0, 1e300, 0.0, 0.0]))


def test_large_finite_values_are_not_mistaken_for_infinite():
    data = make(reward=np.full(4, 3e38))
    assert (data.transitions.reward == np.float32(3e38)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": np.zeros(3)}, "differ in length .*reward 3"),
        ({"next_obs": np.zeros((5, 1))}, "differ in length .*next_obs 5"),
        ({"obs": np.zeros((4, 2))}, r"obs has shape \[4, 2\], expected \[N, 1\]"),
        ({"next_obs": np.zeros((4, 2))}, r"next_obs has shape \[4, 2\]"),
        ({"action": np.zeros((4, 2))}, r"action has shape \[4, 2\]"),
        ({"action": np.zeros(4, np.int64)}, "discrete action space"),
        ({"reward": np.zeros((4, 2))}, r"reward has shape \[4, 2\]"),
        ({"terminated": np.array([0, 2, 0, 0])}, "terminated must hold only 0 and 1, found 2"),
        ({"truncated": np.array([0, np.nan, 0, 0])}, "truncated must hold only 0 and 1, found nan"),
    ],
)
def test_wrong_columns_are_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


def test_no_rows_are_refused():
    empty = {key: np.zeros((0, 1)) for key in ("obs", "action", "reward")}
    with pytest.raises(ValueError, match="has no rows"):
        make(**empty, terminated=np.zeros(0), truncated=np.zeros(0))


def test_a_given_reference_must_ascend():
    assert given_reference([0.0, 50.0]).normalise(25.0) == 50.0
    for wrong in ([3.0, 3.0], [1.0], [2.0, float("nan")]):
        with pytest.raises(ValueError, match="low < high"):
            given_reference(wrong)
