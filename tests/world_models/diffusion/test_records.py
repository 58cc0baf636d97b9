"""What a generator models, worked out on a few episodes by hand."""

import pytest
import torch

from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.world_models.diffusion.segments import Segments
from reverie.world_models.diffusion.transitions import SingleTransitions

SPEC = Spec(env_id=None, obs_dim=2, action_dim=1, action_low=(-1.0,), action_high=(1.0,))


def recorded(*episodes, spread=1.0):
    """Episodes of (rows, terminated); the first observation counts rows through the dataset."""
    rows = sum(count for count, _ in episodes)
    obs = torch.stack([torch.arange(rows).float(), torch.randn(rows)], -1)
    ends = torch.tensor([count for count, _ in episodes]).cumsum(0) - 1
    terminated, truncated = torch.zeros(2, rows, dtype=torch.bool)
    for end, (_, fatal) in zip(ends, episodes, strict=True):
        (terminated if fatal else truncated)[end] = True
    next_obs = torch.cat([obs[1:], obs[:1]])
    next_obs[ends] = torch.stack([-1.0 - ends, spread * torch.randn(len(ends))], -1)
    return Dataset(
        name="counted",
        spec=SPEC,
        transitions=Transition(
            obs=obs,
            action=torch.rand(rows, 1) * 1.9 - 0.95,
            reward=spread * torch.randn(rows),
            next_obs=next_obs,
            terminated=terminated,
            is_real=torch.ones(rows, dtype=torch.bool),
        ),
        truncated=truncated,
        valid_next=torch.ones(rows, dtype=torch.bool),
        episode_starts=torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1] + 1]),
    )


def everything(data):
    return torch.ones(len(data), dtype=torch.bool)


def segments(data, length=4, stride=2, absorbing=True):
    records = Segments(spec=SPEC, length=length, stride=stride, absorbing=absorbing)
    table, index = records.table(data), records.index(data, everything(data))
    records.normalise_by(table, index)
    return records, table, index


EPISODES = ((7, True), (6, False), (3, False), (2, True), (9, True))
"""Rows 0-6, 7-12, 13-15 (too short, cut by a limit), 16-17 (too short, fatal), 18-26."""


def test_segments_with_absorbing_rows_start_at_every_stride_and_go_on_behind_the_end():
    _, table, index = segments(recorded(*EPISODES))
    assert table.shape == (27 + 3, 2 + 1 + 2)
    assert index.tolist() == [
        [0, 1, 2, 3],
        [2, 3, 4, 5],
        [4, 5, 6, 27],
        [6, 27, 27, 27],
        [7, 8, 9, 10],
        [9, 10, 11, 12],  # what a limit cut has no rows behind its end
        [16, 17, 28, 28],
        [18, 19, 20, 21],
        [20, 21, 22, 23],
        [22, 23, 24, 25],
        [24, 25, 26, 29],
        [26, 29, 29, 29],
    ]


def test_published_segments_are_whole_and_meet_terminations_in_their_last_row():
    data = recorded(*EPISODES)
    _, _, index = segments(data, absorbing=False)
    # Whole segments start at 0-3, 7-9, 18-23. Every second in this list, the first of each episode
    # (18) and the last of each fatal one (3), but not the last of one that a limit cut (9).
    assert index[:, 0].tolist() == [0, 2, 3, 7, 18, 19, 21, 23]
    assert (index[:, 1:] == index[:, :-1] + 1).all()
    assert not data.transitions.terminated[index[:, :-1]].any()
    assert not data.truncated[index[:, -1]].any()


def test_only_segments_that_start_in_chosen_rows_are_taken():
    data = recorded(*EPISODES)
    records = Segments(spec=SPEC, length=4, stride=2, absorbing=True)
    rows = torch.zeros(len(data), dtype=torch.bool)
    assert not len(records.index(data, rows))
    rows[7:13] = True
    assert records.index(data, rows)[:, 0].tolist() == [7, 9]


@pytest.mark.parametrize("absorbing", [True, False])
def test_decoded_segments_are_the_recorded_transitions(absorbing):
    data = recorded(*EPISODES)
    records, table, index = segments(data, absorbing=absorbing)
    coded = records.encode(table)[index]
    flat = coded.flatten(0, 1)
    torch.testing.assert_close(flat.mean(0), torch.zeros(5), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(flat.std(0, correction=0)[:4], torch.ones(4), atol=1e-5, rtol=0.0)
    rows, keep = records.decode(coded)
    assert rows.shape == keep.shape == (len(index), 3) and not rows.is_real.any()
    # What is kept lies in the dataset, and the first channel says where.
    number = rows.obs[..., 0][keep].round().long()
    truth = data.transitions[number]
    for name in ("obs", "action", "reward", "next_obs"):
        torch.testing.assert_close(
            getattr(rows, name)[keep], getattr(truth, name), atol=1e-4, rtol=1e-4
        )
    assert torch.equal(rows.terminated[keep], truth.terminated)
    assert rows.terminated.any() == absorbing
    if absorbing:
        assert keep.sum(1).tolist() == [3, 3, 3, 1, 3, 3, 2, 3, 3, 3, 3, 1]


def test_terminations_keep_their_share_whatever_the_length_of_episodes():
    for length in (1, 5, 8, 9, 16, 17, 20, 24, 32, 33, 60, 200):
        data = recorded(*[(length, True)] * 3)
        records, table, index = segments(data, length=32, stride=8)
        rows, keep = records.decode(records.encode(table)[index])
        share = rows.terminated[keep].float().mean() * length
        assert 0.5 <= share <= 2.0, (length, share)


def test_actions_at_the_edge_are_clipped_before_they_are_unsquashed():
    data = recorded((6, False))
    data.transitions.action[:] = torch.tensor([[1.0], [-1.0]]).repeat(3, 1)
    records, table, index = segments(data)
    rows, _ = records.decode(records.encode(table)[index])
    torch.testing.assert_close(rows.action.abs(), torch.full_like(rows.action, 0.999))


def test_constant_channels_are_left_in_their_units():
    data = recorded((6, False))
    data.transitions.reward[:] = 1e6
    records, table, index = segments(data)
    assert records.std[3] == 1 and (records.encode(table)[index][..., 3] == 0).all()
    # A generator is never quite at the constant, but what it makes is; no termination comes of it.
    rows, keep = records.decode(torch.randn(50, 4, 5))
    assert (rows.reward == 1e6).all() and keep.all() and not rows.terminated.any()


def test_segments_too_small_to_hold_a_transition_are_refused():
    with pytest.raises(ValueError, match="length >= 2"):
        Segments(spec=SPEC, length=1, stride=1, absorbing=True)


def test_single_transitions_come_back_with_done_as_it_is_and_actions_in_the_box():
    data = recorded((5, True), (4, False))
    data.valid_next[[4, 8]] = False
    records = SingleTransitions(spec=SPEC)
    table, index = records.table(data), records.index(data, everything(data))
    assert index.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]  # an end without successor only if fatal
    records.normalise_by(table, index)
    coded = records.encode(table)[index]
    assert coded.shape == (8, 7)
    torch.testing.assert_close(coded[:, :-1].mean(0), torch.zeros(6), atol=1e-4, rtol=0.0)
    assert coded[:, -1].tolist() == data.transitions.terminated[index].float().tolist()
    coded[0, 2] = 50.0
    rows, keep = records.decode(coded)
    assert rows.shape == (8, 1) and keep.all() and rows.action[0, 0, 0] == 1
    for name in ("obs", "reward", "next_obs"):
        expected = getattr(data.transitions, name)[index]
        torch.testing.assert_close(getattr(rows, name)[:, 0], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(rows.terminated[:, 0], data.transitions.terminated[index])
