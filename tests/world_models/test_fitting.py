"""Rows, bootstrap, input statistics and early stopping."""

import math

import pytest
import torch

from reverie.world_models.fitting import (
    EarlyStopping,
    bootstrap,
    held_out_episodes,
    moments,
    rows_of,
    shuffle,
    split,
)


def test_bootstrap_rows_hold_about_63_percent_of_the_data():
    torch.manual_seed(0)
    drawn = bootstrap(torch.arange(5000).expand(2, -1), members=7)
    assert drawn.shape == (2, 7, 5000)
    for row in drawn.flatten(0, 1):
        # 1 - 1/e, with a standard deviation below 0.005 at this size.
        assert abs(row.unique().numel() / 5000 - (1 - math.exp(-1))) < 0.02


def test_bootstrap_draws_only_from_a_seeds_own_rows():
    torch.manual_seed(0)
    rows = torch.stack([torch.arange(0, 40, 2), torch.arange(1, 41, 2)])
    drawn = bootstrap(rows, members=3)
    assert (drawn[0] % 2 == 0).all() and (drawn[1] % 2 == 1).all()


def test_shuffling_keeps_the_multiset_of_each_row_and_orders_rows_apart():
    torch.manual_seed(0)
    drawn = bootstrap(torch.arange(200, dtype=torch.int32).expand(1, -1), members=3)
    again = shuffle(shuffle(drawn))
    assert again.dtype == torch.int32
    assert torch.equal(again.sort(-1).values, drawn.sort(-1).values)
    assert not torch.equal(again, drawn)
    counting = torch.arange(200).expand(1, 2, -1)
    mixed = shuffle(counting)
    assert not torch.equal(mixed[0, 0], mixed[0, 1])


def test_split_is_a_partition_and_differs_between_seeds():
    torch.manual_seed(0)
    train, held = split(torch.arange(100).expand(2, -1), holdout=20)
    assert train.shape == (2, 80) and held.shape == (2, 20)
    for seed in range(2):
        together = torch.cat([train[seed], held[seed]]).sort().values
        assert torch.equal(together, torch.arange(100))
    assert not torch.equal(held[0].sort().values, held[1].sort().values)


def test_moments_are_those_of_each_seeds_rows():
    torch.manual_seed(0)
    values = torch.randn(50_000, 3) * torch.tensor([1.0, 100.0, 1e-3]) + 7
    rows = torch.stack([torch.arange(40_000), torch.arange(10_000, 50_000)])
    mean, std = moments(values, rows)
    for seed in range(2):
        own = values[rows[seed]].double()
        torch.testing.assert_close(mean[seed].double(), own.mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            std[seed].double(), own.std(0, correction=0), rtol=1e-5, atol=0.0
        )


def test_constant_columns_get_unit_std_however_large_they_are():
    columns = torch.logspace(0, 7, 50).expand(5000, -1)
    _, std = moments(columns, torch.arange(5000).expand(1, -1))
    assert torch.equal(std, torch.ones(1, 50))


def stopping(seeds=1, members=2, patience=2, improvement=0.01):
    return EarlyStopping.start(seeds, members, improvement=improvement, patience=patience)


def test_a_scripted_sequence_of_losses_stops_when_patience_is_spent():
    state = stopping()
    script = [
        # losses, who improves, counter afterwards, still active
        ([10.0, 10.0], [True, True], 0, True),
        ([9.95, 9.0], [False, True], 0, True),  # 0.5 % is not enough, 10 % is
        ([9.91, 8.95], [False, False], 1, True),  # always measured from the last accepted loss
        ([9.89, 9.0], [True, False], 0, True),  # 1.1 % below 10
        ([20.0, 9.0], [False, False], 1, True),
        ([9.85, 9.0], [False, False], 2, False),
        ([0.1, 0.1], [False, False], 2, False),  # too late
    ]
    for losses, improved, stale, active in script:
        assert state.observe(torch.tensor([losses])).tolist() == [improved]
        assert state.stale.tolist() == [stale] and state.active.tolist() == [active]
    torch.testing.assert_close(state.best, torch.tensor([[9.89, 9.0]]))
    assert state.epochs.tolist() == [6]


def test_a_loss_that_falls_by_exactly_the_required_share_does_not_count():
    state = stopping(members=1, improvement=0.25)
    state.observe(torch.tensor([[4.0]]))
    assert not state.observe(torch.tensor([[3.0]])).item()
    assert state.observe(torch.tensor([[2.99]])).item()


def test_seeds_stop_on_their_own():
    state = stopping(seeds=2, members=1)
    for step in range(4):
        state.observe(torch.tensor([[5.0], [5.0 * 0.5**step]]))
    assert state.active.tolist() == [False, True]
    assert state.epochs.tolist() == [3, 4]


def test_losses_that_are_not_finite_never_improve_and_are_dated():
    state = stopping(seeds=2, members=2, patience=3)
    state.observe(torch.tensor([[1.0, 1.0], [1.0, 1.0]]))
    improved = state.observe(torch.tensor([[0.5, 0.5], [0.5, math.nan]]))
    assert improved.tolist() == [[True, True], [True, False]]
    state.observe(torch.tensor([[0.2, 0.2], [math.inf, 0.2]]))
    assert state.failed.tolist() == [0, 2]


def test_held_out_episodes_are_a_tenth_at_most_and_a_function_of_the_seed(make_dataset):
    data = make_dataset(episodes=40, length=5)
    before = torch.get_rng_state()
    four = held_out_episodes(data, 100, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(four) == 4 and torch.equal(four, four.unique())
    assert torch.equal(held_out_episodes(data, 100, seed=3), four)
    assert not torch.equal(held_out_episodes(data, 100, seed=4), four)
    assert len(held_out_episodes(data, 2, seed=3)) == 2
    assert len(held_out_episodes(data, 0, seed=3)) == 0
    assert len(held_out_episodes(make_dataset(episodes=9, length=5), 5, seed=0)) == 0


@pytest.mark.parametrize("episode", [0, 1, 3])
def test_rows_of_an_episode_are_its_own(make_dataset, episode):
    mask = rows_of(make_dataset(episodes=4, length=5), torch.tensor([episode]))
    expected = torch.arange(20) // 5 == episode
    assert torch.equal(mask, expected)
