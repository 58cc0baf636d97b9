"""Action chunks: rows, sums and ends by hand, and what the rest of the platform makes of them."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import reverie
from reverie.datasets import chunk, load
from reverie.datasets.columns import taken_actions, where_taken, with_taken
from reverie.datasets.subset import choose_episodes
from reverie.datasets.transition import column_names
from reverie.mistake import Mistake
from reverie.training.ope.recorded import start_rows
from reverie.world_models.fitting import held_out_episodes


def three_episodes(**changes):
    """Five rows that a limit cuts, four that terminate, two that terminate; rewards 1, 2, 4, ..."""
    obs = np.array([0, 1, 2, 3, 4, 10, 11, 12, 13, 20, 21], np.float32)
    columns = {
        "observations": obs[:, None],
        "next_observations": obs[:, None] + 1,
        "actions": obs[:, None] / 100,
        "rewards": 2.0 ** np.arange(11),
        "terminals": np.isin(obs, [13, 21]),
        "timeouts": obs == 4,
    }
    return load(columns, **changes)


def listed(data):
    """The rows as plain values: obs, actions in hundredths, reward, next obs, terminated."""
    rows = data.transitions
    actions = (100 * rows.action).round().int().tolist()
    return [
        (int(obs), action, reward, int(after), bool(terminated))
        for obs, action, reward, after, terminated in zip(
            rows.obs, actions, rows.reward.tolist(), rows.next_obs, rows.terminated, strict=True
        )
    ]


def test_rows_sums_and_ends_of_three_episodes():
    data = chunk(three_episodes(), 3, discount=0.5)
    assert listed(data) == [
        # Of the episode that was cut: windows that fit, each phase an episode of its own.
        (0, [0, 1, 2], 1 + 1 + 1, 3, False),
        (1, [1, 2, 3], 2 + 2 + 2, 4, False),
        (2, [2, 3, 4], 4 + 4 + 4, 5, False),
        # Of those that terminate: every row, the last action repeated, which pays nothing.
        (10, [10, 11, 12], 32 * 3, 13, False),
        (13, [13, 13, 13], 256, 14, True),
        (11, [11, 12, 13], 64 * 3, 14, True),
        (12, [12, 13, 13], 128 * 2, 14, True),
        (20, [20, 21, 21], 512 * 2, 22, True),
        (21, [21, 21, 21], 1024, 22, True),
    ]
    assert data.episode_starts.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert data.truncated.nonzero().flatten().tolist() == [0, 1, 2]
    assert data.recorded_episodes.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert data.first_rows.tolist() == [0, 3, 7]
    assert data.recorded.returns.tolist() == [31, 480, 1536] and data.valid_next.all()


def test_rows_follow_each_other_within_an_episode():
    data = chunk(load("builtin/cartpole-swingup", steps=2000), 4, discount=0.9)
    rows = data.transitions
    inside = torch.ones(len(data), dtype=torch.bool)
    inside[data.episode_starts + data.episode_lengths - 1] = False
    following = inside.nonzero()[:, 0]
    assert torch.equal(rows.next_obs[following], rows.obs[following + 1]) and len(following) > 1000
    assert not rows.terminated[following].any() and rows.terminated.any()
    # Undiscounted, nothing is lost of an episode that terminates, whichever its first step is.
    whole = chunk(data.recorded, 4, discount=1.0)
    ended = whole.transitions.terminated[
        whole.first_rows
        + whole.episode_lengths[torch.isin(whole.episode_starts, whole.first_rows)]
        - 1
    ]
    first = whole.returns[torch.isin(whole.episode_starts, whole.first_rows)]
    assert ended.any()
    assert torch.allclose(first[ended], data.recorded.returns[ended], rtol=1e-5)


def test_one_step_is_the_recorded_dataset_bit_for_bit():
    data = three_episodes()
    same = chunk(data, 1, discount=0.9)
    for name in column_names(data.transitions):
        assert torch.equal(getattr(same.transitions, name), getattr(data.transitions, name))
    assert same.spec == data.spec and same.fingerprint == data.fingerprint
    typed = ["dataset=builtin/refrigerator", "algorithm=td3_bc", "updates=1"]
    plain, one = (reverie.make(*typed, *more).data for more in ([], ["dataset.chunks=1"]))
    assert plain.fingerprint == one.fingerprint and plain.spec == one.spec


def test_the_fingerprint_tells_chunks_apart():
    data = three_episodes()
    kinds = [data, *(chunk(data, n, discount=d) for n, d in ((2, 0.5), (3, 0.5), (2, 0.9)))]
    silent = replace(
        data, transitions=replace(data.transitions, reward=torch.zeros(len(data)))
    )  # no reward tells one discount from another
    kinds += [chunk(silent, 2, discount=discount) for discount in (0.5, 0.9)]
    assert len({each.fingerprint for each in kinds}) == len(kinds)


def test_the_spec_has_the_actions_of_all_steps():
    rows = np.random.default_rng(0).uniform(size=(200, 4))
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(rows, columns=["h", "valve [%]", "pump", "reward"])
    data = load(
        table, columns={"actions": ["valve [%]", "pump"]}, action_low=[0, -1], action_high=[1, 2]
    )
    spec = chunk(replace(data, spec=replace(data.spec, max_episode_steps=7)), 2, discount=0.9).spec
    assert spec.action_names == ("valve [%]", "pump", "valve +1 [%]", "pump +1")
    assert (spec.action_low, spec.action_high) == ((0, -1, 0, -1), (1, 2, 1, 2))
    assert (spec.action_dim, spec.chunk, spec.max_episode_actions) == (4, 2, 4)
    assert spec.single == replace(data.spec, max_episode_steps=7)
    unnamed = chunk(three_episodes(), 3, discount=0.9).spec
    assert unnamed.action_labels == ("action 0", "action 0 +1", "action 0 +2")


def test_a_row_without_its_successor_cuts_windows():
    data = three_episodes()
    valid = torch.ones(len(data), dtype=torch.bool)
    valid[6] = False  # nobody knows what followed obs 11
    pieces = chunk(replace(data, valid_next=valid), 2, discount=1.0)
    starts = [obs for obs, *_ in listed(pieces)]
    assert 11 not in starts and 10 in starts and 12 in starts
    assert pieces.valid_next.tolist() == [obs != 10 for obs in starts]


def test_steps_of_one_recorded_episode_are_held_out_together():
    data = chunk(load("builtin/refrigerator"), 4, discount=0.9)
    held = held_out_episodes(data, 2, seed=0)
    assert len(held) == 8 and len(data.recorded_episodes[held].unique()) == 2
    recorded = held_out_episodes(data.recorded, 2, seed=0)
    assert torch.equal(data.recorded_episodes[held].unique(), recorded)
    assert set(start_rows(data, 15, seed=0).tolist()) <= set(data.first_rows.tolist())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0.9), "chunks=0 must be a whole number, at least 1"),
        ((2, 1.5), "discount=1.5 must lie in [0, 1]"),
        ((6, 0.9), "dataset.chunks=6 is longer than any episode of arrays, the longest of which"),
    ],
)
def test_chunks_that_make_no_sense_are_refused(arguments, message):
    steps, discount = arguments
    with pytest.raises(Mistake, match=re.escape(message)):
        chunk(three_episodes(), steps, discount=discount)


def test_what_is_chunked_is_not_chunked_or_chosen_from_again():
    data = chunk(three_episodes(), 2, discount=0.9)
    with pytest.raises(Mistake, match="chunks already"):
        chunk(data, 2, discount=0.9)
    with pytest.raises(Mistake, match=r"dataset\.subset chooses recorded episodes"):
        choose_episodes(data, {"episodes": 1, "fraction": None, "seed": 0})
    with pytest.raises(Mistake, match=r"reverie\.datasets\.chunk\(data, steps"):
        three_episodes(chunks=2)


def test_rows_tell_which_of_their_steps_were_taken():
    data = chunk(three_episodes(), 3, discount=0.5)
    counts = [3, 3, 3, 3, 1, 3, 2, 2, 1]
    assert data.taken.tolist() == [[step < taken for step in range(3)] for taken in counts]
    rows = with_taken(data.transitions, data.taken, 3)
    assert torch.equal(taken_actions(rows), data.taken)  # one action a step
    assert taken_actions(data.transitions) is None
    wide = replace(rows, action=rows.action.repeat(1, 2))
    assert taken_actions(wide)[4].tolist() == [True, True, False, False, False, False]
    assert torch.equal(where_taken(wide.action, wide)[4, :3].sign(), torch.tensor([1.0, 1.0, 0.0]))


def test_ten_chunks_are_worth_what_their_control_steps_are():
    """MAC's value expansion, against a double loop over control steps, with a made-up V."""
    recording, discount, steps = load("builtin/cartpole-swingup", steps=3000), 0.95, 4
    data = chunk(recording, steps, discount=discount)
    rows, per_step = data.transitions, recording.transitions
    ended = 0
    for start, length in zip(data.episode_starts, data.episode_lengths, strict=True):
        count = min(10, int(length))
        start = start + length - count  # the last ten, of which some terminate
        expanded = rows.next_obs[start + count - 1].double().sum()
        expanded = torch.where(rows.terminated[start + count - 1], 0.0, expanded)
        for row in reversed(range(start, start + count)):
            expanded = rows.reward[row].double() + discount**steps * expanded
        (first,) = (per_step.obs == rows.obs[start]).all(-1).nonzero()
        total, weight, over = 0.0, 1.0, False
        for each in range(count):
            for step in range(steps):
                row = int(first) + each * steps + step
                if not over:
                    total, weight = total + weight * float(per_step.reward[row]), weight * discount
                    over = bool(per_step.terminated[row])
                    last = row
        total += 0.0 if over else weight * float(per_step.next_obs[last].double().sum())
        ended += over
        assert float(expanded) == pytest.approx(total, rel=1e-4, abs=1e-4)
    assert ended
