"""What other libraries hold, as stand-ins with their attributes; nothing of them is imported."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reverie.datasets import (
    from_cleanrl,
    from_d3rlpy,
    from_imitation,
    from_padded,
    from_sb3,
)
from tests.datasets.libraries import (
    BOX,
    HIGH,
    LOW,
    Episode,
    RingBuffer,
    d3rlpy_episodes,
    padded,
    recorded,
    trajectories,
)


@pytest.fixture
def episodes():
    return recorded()


def require(data, episodes, *, without_next=()):
    """The dataset holds these episodes, in this order and to the last step."""
    rows = data.transitions
    assert data.episode_lengths.tolist() == [len(each.acts) for each in episodes]
    stacked = {
        "obs": np.concatenate([each.obs[:-1] for each in episodes]),
        "reward": np.concatenate([each.rews for each in episodes]),
        "action": 2 * (np.concatenate([each.acts for each in episodes]) - LOW) / (HIGH - LOW) - 1,
    }
    for name, expected in stacked.items():
        np.testing.assert_allclose(getattr(rows, name), expected, atol=1e-5, err_msg=name)
    ends = data.episode_starts + data.episode_lengths - 1
    assert rows.terminated[ends].tolist() == [each.terminated for each in episodes]
    assert data.truncated[ends].tolist() == [not each.terminated for each in episodes]
    assert int(rows.terminated.sum() + data.truncated.sum()) == len(episodes)
    after = np.concatenate([each.obs[1:] for each in episodes])
    known = data.valid_next.numpy()
    np.testing.assert_allclose(rows.next_obs[known], after[known])
    unknown = [int(ends[index]) for index in without_next]
    assert np.flatnonzero(~known).tolist() == unknown
    assert torch.equal(rows.next_obs[unknown], rows.obs[unknown])
    assert data.spec.action_low == tuple(LOW) and data.spec.action_high == tuple(HIGH)


def test_padded_arrays_are_cut_to_their_lengths(episodes):
    lengths = [len(each.acts) for each in episodes]
    require(from_padded(padded(episodes), lengths, **BOX), episodes)
    # Without the observation after the last step, ends at time limits lose that step.
    short = from_padded(padded(episodes, extra=False), lengths, **BOX)
    assert short.episode_lengths.tolist() == [2, 3, 3, 3]
    assert short.valid_next.sum() == len(short) - 2  # two terminal rows
    by_step = padded(episodes)
    by_step["terminals"] = np.array([[False, True] + [False] * 2, *[[False] * 4] * 3])
    assert from_padded(by_step, lengths, **BOX).transitions.terminated.sum() == 1


@pytest.mark.parametrize(
    ("changes", "lengths", "message"),
    [
        ({"terminals": None}, None, "lack terminals"),
        ({"actions": np.zeros((4, 4))}, None, r"expected \[E, T, D\] and \[E, T, A\]"),
        ({"rewards": np.zeros((4, 3))}, None, r"rewards \[4, 3\], expected 4 episodes of 4 steps"),
        ({}, [2, 4, 3], "lengths must be 4 whole numbers from 1 to 4"),
        ({}, [2, 5, 3, 4], "lengths must be 4 whole numbers from 1 to 4"),
        ({"terminals": np.eye(4)}, None, "episode 0 has terminals in step 0 of 4"),
    ],
)
def test_padded_arrays_that_do_not_fit_are_refused(episodes, changes, lengths, message):
    arrays = {key: x for key, x in (padded(episodes) | changes).items() if x is not None}
    with pytest.raises(ValueError, match=message) as caught:
        from_padded(arrays, lengths, **BOX)
    assert "\n" not in str(caught.value)


def test_sb3_tells_time_limits_and_scales_actions_back(episodes):
    buffer = RingBuffer(40, 1, actions="scaled", dones="timeouts").record(episodes)
    require(from_sb3(buffer), episodes)
    assert from_sb3(buffer, env_id=None, name="mine").name == "mine"


def test_sb3_environments_side_by_side_are_taken_apart(episodes):
    left, right = [episodes[0], episodes[1]], [episodes[2], episodes[2]]
    buffer = RingBuffer(40, 2, actions="scaled", dones="timeouts").record(left, right)
    require(from_sb3(buffer), left + right)


def test_a_ring_that_went_round_begins_with_its_oldest_row(episodes):
    buffer = RingBuffer(9, 1, actions="scaled", dones="timeouts").record(episodes)
    data = from_sb3(buffer)  # 9 of 13 rows, from the middle of the second episode
    assert data.episode_lengths.tolist() == [2, 3, 4]
    np.testing.assert_array_equal(data.transitions.obs[0], [1.0, 2.0])


def test_ends_that_look_alike_need_a_word(episodes):
    buffer = RingBuffer(40, 1, actions="scaled", dones="every").record(episodes)
    with pytest.raises(ValueError, match=r"handle_timeout_termination=False.*max_episode_steps="):
        from_sb3(buffer)
    require(from_sb3(buffer, max_episode_steps=4), episodes)
    assert from_sb3(buffer, dones_terminate=True).transitions.terminated.sum() == 4
    ring = RingBuffer(10, 1, actions="scaled", dones="every").record(episodes)
    # The oldest episode, of which only the end is left, could have been of any length.
    require(from_sb3(ring, max_episode_steps=4), episodes[2:])


def test_a_buffer_of_one_array_has_no_true_successors_at_ends(episodes):
    buffer = RingBuffer(40, 1, actions="scaled", dones="every", shared=True).record(episodes)
    data = from_sb3(buffer, max_episode_steps=4)
    assert data.episode_lengths.tolist() == [2, 3, 3, 3]
    assert np.flatnonzero(~data.valid_next.numpy()).tolist() == [1, 7]
    ring = RingBuffer(9, 1, actions="scaled", dones="every", shared=True).record(episodes)
    assert from_sb3(ring, dones_terminate=True).episode_lengths.tolist() == [1, 3, 4]


def test_cleanrl_stores_terminations_and_resets_behind_them(episodes):
    settings = {"actions": "raw", "dones": "terminations", "reset_after": ("terminal",)}
    buffer = RingBuffer(40, 1, **settings).record(episodes)
    require(from_cleanrl(buffer), episodes, without_next=(0, 2))
    old = RingBuffer(40, 1, actions="raw", dones="timeouts").record(episodes)
    require(from_cleanrl(old), episodes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos": 0}, "is empty"),
        ({"action_space": SimpleNamespace(n=3)}, "discrete actions"),
        ({"observations": {"a": np.zeros((40, 1, 2))}}, "dict observations"),
    ],
)
@pytest.mark.parametrize("read", [from_sb3, from_cleanrl])
def test_buffers_that_do_not_serve_are_refused(episodes, change, message, read):
    buffer = RingBuffer(40, 1, actions="raw", dones="timeouts").record(episodes)
    vars(buffer).update(change)
    with pytest.raises(ValueError, match=message):
        read(buffer)
    with pytest.raises(ValueError, match="has no attribute 'observations'"):
        read(SimpleNamespace())


def test_d3rlpy_episodes_lack_what_follows_their_last_action(episodes):
    held = d3rlpy_episodes(episodes)
    cut = [
        each if each.terminated else Episode(number, len(each.acts) - 1, False)
        for number, each in enumerate(episodes)
    ]
    for each, whole in zip(cut, episodes, strict=True):
        each.acts = whole.acts[: len(each.acts)]
    for given in (held, SimpleNamespace(episodes=held)):
        require(from_d3rlpy(given, **BOX), cut, without_next=(0, 2))
    held[0].observations = (held[0].observations, held[0].observations)
    with pytest.raises(ValueError, match="observations of several parts"):
        from_d3rlpy(held)
    with pytest.raises(ValueError, match="holds no episodes"):
        from_d3rlpy([])


def test_imitation_tells_time_limits_by_infos_or_lengths(episodes):
    require(from_imitation(trajectories(episodes), **BOX), episodes)
    bare = trajectories(episodes, infos=False)
    require(from_imitation(bare, max_episode_steps=4, **BOX), episodes)
    with pytest.raises(ValueError, match=r"kept without infos.*dones_terminate=True"):
        from_imitation(bare, **BOX)
    assert from_imitation(bare, dones_terminate=True, **BOX).transitions.terminated.sum() == 4
    bare[1].terminal = False  # a fragment
    assert from_imitation(bare, dones_terminate=True, **BOX).truncated.sum() == 1
    del bare[2].rews
    with pytest.raises(ValueError, match="episode 2 has no attribute 'rews'"):
        from_imitation(bare, dones_terminate=True, **BOX)
