from collections import deque
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from reverie.datasets.replay import Layout, Mixture, Replay, ResampledReplay
from reverie.datasets.transition import Transition, column_names, register


@register
@dataclass(frozen=True)
class Penalised(Transition):
    penalty: Tensor


def numbered(start: int, seeds: int, rows: int) -> Transition:
    """Rows whose every column tells the seed and the running number."""
    number = torch.arange(start, start + rows).float().repeat(seeds, 1)
    number = number + 1000 * torch.arange(seeds).unsqueeze(1)
    return Transition(
        obs=number.unsqueeze(-1).expand(-1, -1, 3),
        action=torch.zeros(seeds, rows, 2),
        reward=number,
        next_obs=number.unsqueeze(-1).expand(-1, -1, 3) + 0.5,
        terminated=number % 2 == 1,
        is_real=torch.zeros(seeds, rows, dtype=torch.bool),
    )


def test_packing_and_unpacking_is_the_identity(make_batch):
    batch = make_batch(4, 7)
    layout = Layout(batch)
    back = layout.unpack(layout.pack(batch))
    assert layout.width == 3 + 2 + 1 + 3 + 1 + 1
    for name in column_names(batch):
        assert torch.equal(getattr(back, name), getattr(batch, name)), name
        assert getattr(back, name).dtype == getattr(batch, name).dtype


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    capacity=st.integers(1, 12),
    seeds=st.integers(1, 3),
    adds=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2**32 - 1)), max_size=8),
)
def test_a_seed_holds_what_a_ring_of_python_objects_holds(capacity, seeds, adds):
    replay = Replay(numbered(0, 1, 1)[0], seeds=seeds, capacity=capacity)
    rings = [deque(maxlen=capacity) for _ in range(seeds)]
    start = 0
    for rows, seed in adds:
        rows = min(rows, capacity)
        keep = torch.rand(seeds, rows, generator=torch.Generator().manual_seed(seed)) < 0.6
        batch = numbered(start, seeds, rows)
        replay.add(batch, keep)
        for replica in range(seeds):
            rings[replica].extend(batch.reward[replica][keep[replica]].tolist())
        start += rows
    for replica in range(seeds):
        size = int(replay.size[replica])
        assert size == len(rings[replica])
        stored = replay.layout.unpack(replay.rows[replica, :capacity])
        assert sorted(stored.reward[:size].tolist()) == sorted(rings[replica])
        if size:
            assert torch.equal(stored.next_obs[:size, 0], stored.reward[:size] + 0.5)
            # The next write replaces the oldest row.
            oldest = stored.reward[int(replay.head[replica]) % size] if size == capacity else None
            assert oldest is None or float(oldest) == rings[replica][0]


def test_rejected_rows_never_come_back_even_if_they_are_not_finite():
    replay = Replay(numbered(0, 1, 1)[0], seeds=2, capacity=8)
    batch = numbered(0, 2, 8)
    keep = batch.reward % 2 == 0
    poisoned = Transition(
        **{**vars(batch), "reward": torch.where(keep, batch.reward, float("nan"))}
    )
    replay.add(poisoned, keep)
    drawn = replay.sample(2, 500)
    assert drawn.reward.isfinite().all()
    assert replay.rows.isfinite().all()
    assert replay.size.tolist() == [4, 4]


def test_sampling_is_uniform_over_the_filled_part_and_keeps_to_its_seed():
    replay = Replay(numbered(0, 1, 1)[0], seeds=2, capacity=10)
    replay.add(numbered(0, 2, 5), torch.ones(2, 5, dtype=torch.bool))
    drawn = replay.sample(2, 20000).reward
    assert drawn[0].max() == 4 and drawn[1].min() == 1000 and drawn[1].max() == 1004
    counts = torch.bincount(drawn[0].long(), minlength=5).float() / 20000
    # Five standard deviations of a binomial share.
    assert (counts - 0.2).abs().max() < 5 * (0.2 * 0.8 / 20000) ** 0.5


def test_indices_stay_uniform_at_sizes_beyond_float32():
    replay = Replay(numbered(0, 1, 1)[0], seeds=1, capacity=1)
    replay.size.fill_(2**26)
    torch.manual_seed(0)
    number = torch.randint(2**62, (1, 100000)) % replay.size.unsqueeze(1)
    # A float32 `rand * size` could only give multiples of 4 here.
    assert {int(r) for r in (number % 4).unique()} == {0, 1, 2, 3}


def test_a_shared_store_serves_every_seed_with_its_own_rows(make_batch):
    data = make_batch(50)
    drawn = Replay.of(data).sample(3, 400)
    assert drawn.shape == (3, 400)
    assert not torch.equal(drawn.reward[0], drawn.reward[1])
    assert set(drawn.reward.unique().tolist()) == set(data.reward.unique().tolist())


def test_more_rows_than_the_capacity_are_refused():
    replay = Replay(numbered(0, 1, 1)[0], seeds=1, capacity=3)
    with pytest.raises(ValueError, match="4 rows do not fit a replay of capacity 3"):
        replay.add(numbered(0, 1, 4), torch.zeros(1, 4, dtype=torch.bool))


def test_contents_restore_a_replay_bit_for_bit():
    replay = Replay(numbered(0, 1, 1)[0], seeds=2, capacity=7)
    for start in (0, 5):
        replay.add(numbered(start, 2, 5), torch.rand(2, 5) < 0.8)
    copy = Replay(numbered(0, 1, 1)[0], seeds=2, capacity=7)
    copy.restore(replay.contents())
    assert torch.equal(copy.rows, replay.rows)
    torch.manual_seed(1)
    first = replay.sample(2, 20).reward
    torch.manual_seed(1)
    assert torch.equal(first, copy.sample(2, 20).reward)
    other = Replay(numbered(0, 1, 1)[0], seeds=1, capacity=7)
    with pytest.raises(ValueError, match="belongs to other settings"):
        other.restore(replay.contents())


def test_a_mixture_draws_fixed_numbers_real_first(make_batch):
    real = make_batch(30)
    real = Transition(**{**vars(real), "is_real": torch.ones(30, dtype=torch.bool)})
    synthetic = Replay(real[0], seeds=4, capacity=20)
    generated = make_batch(4, 20)
    generated = Transition(**{**vars(generated), "is_real": torch.zeros(4, 20, dtype=torch.bool)})
    synthetic.add(generated, torch.ones(4, 20, dtype=torch.bool))
    mixture = Mixture(
        {"real": Replay.of(real), "synthetic": synthetic}, {"real": 12, "synthetic": 244}, seeds=4
    )
    batch = mixture.sample()
    assert batch.shape == (4, 256)
    assert batch.is_real[:, :12].all() and not batch.is_real[:, 12:].any()
    for seed in range(4):
        assert set(batch.reward[seed, 12:].tolist()) <= set(generated.reward[seed].tolist())


def test_a_mixture_cuts_streams_to_their_common_columns(make_batch):
    base = make_batch(10)
    extra = Penalised(**vars(base), penalty=torch.full((10,), 7.0))
    streams = {"real": Replay.of(base), "synthetic": Replay.of(extra)}
    batch = Mixture(streams, {"real": 5, "synthetic": 5}, seeds=2).sample()
    assert type(batch) is Transition
    assert torch.equal(streams["synthetic"].sample(1, 3).penalty, torch.full((1, 3), 7.0))
    assert set(batch.reward.flatten().tolist()) <= set(base.reward.tolist())


def test_a_mixture_keeps_columns_that_all_streams_have(make_batch):
    base = make_batch(10)
    extra = Penalised(**vars(base), penalty=torch.arange(10.0))
    streams = {"real": Replay.of(extra), "synthetic": Replay.of(extra)}
    batch = Mixture(streams, {"real": 3, "synthetic": 5}, seeds=2).sample()
    assert isinstance(batch, Penalised) and batch.penalty.shape == (2, 8)
    row = (batch.reward[0, 4] == base.reward).nonzero().item()
    assert batch.penalty[0, 4] == row


def test_a_mixture_of_other_spaces_or_unknown_streams_is_refused(make_batch):
    streams = {
        "real": Replay.of(make_batch(5)),
        "synthetic": Replay.of(make_batch(5, obs_dim=4)),
    }
    with pytest.raises(ValueError, match="'synthetic' has other spaces than 'real'"):
        Mixture(streams, {"real": 1, "synthetic": 1}, seeds=1)
    with pytest.raises(ValueError, match="every stream must exist"):
        Mixture({"real": streams["real"]}, {"simulator": 1}, seeds=1)


def test_every_seed_of_a_resampled_replay_has_its_own_episodes(make_batch):
    starts, lengths = torch.tensor([0, 2, 5, 9]), torch.tensor([2, 3, 4, 1])
    rows = replace(make_batch(10), reward=torch.arange(10.0))
    torch.manual_seed(3)
    drawn = torch.randint(4, (3, 4))  # what the replay draws first
    torch.manual_seed(3)
    replay = ResampledReplay(rows, episode_starts=starts, episode_lengths=lengths, seeds=3)
    sample = replay.sample(3, 20_000).reward
    assert len({tuple(each) for each in drawn.sort(1).values.tolist()}) == 3
    for each, episodes in zip(sample, drawn, strict=True):
        expected = torch.zeros(10)
        for episode in episodes:
            begin, length = starts[episode], lengths[episode]
            expected[begin : begin + length] += 1
        seen = each.long().bincount(minlength=10) / len(each)
        torch.testing.assert_close(seen, expected / expected.sum(), atol=0.02, rtol=0)
