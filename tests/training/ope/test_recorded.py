"""What recorded episodes are worth, by hand: cut ones go on, ended ones do not."""

import numpy as np
import pytest
import torch

from reverie.datasets.options import load
from reverie.training.ope.recorded import (
    LONGEST,
    horizon_of,
    recorded_values,
    start_rows,
    value_steps,
)

STEPS = 6


def recording(rewards, terminated=(), steps=STEPS, **settings):
    """Episodes of `steps` rows each; those named ended by themselves."""
    rows = len(rewards)
    rng = np.random.default_rng(0)
    ends = np.arange(rows) % steps == steps - 1
    ended = ends & np.isin(np.arange(rows) // steps, terminated)
    columns = {
        "observations": rng.normal(size=(rows, 2)),
        "next_observations": rng.normal(size=(rows, 2)),
        "actions": rng.uniform(-1, 1, (rows, 1)),
        "rewards": np.asarray(rewards, float),
        "terminals": ended,
        "timeouts": ends & ~ended,
    }
    return load(columns, name="toy", **settings)


def test_a_cut_episode_goes_on_as_its_later_half_did():
    data = recording([0, 0, 0, -1, -1, -1])
    found = recorded_values(data, torch.tensor([0, 4]), horizon=10, discount=0.5)
    # From the fourth step on -1 for ever; the second start stands two rows before the end.
    tail = 2 * 0.5 ** value_steps(0.5)
    assert found.values.tolist() == pytest.approx([-(0.25 - tail), -(2 - tail)])
    assert found.returns.tolist() == pytest.approx([-7, -10])
    assert found.continued == pytest.approx((2 * 0.5**6 + 2 * 0.5**2) / 2 / 2, rel=0.01)


def test_what_terminated_earns_nothing_more():
    data = recording([-1] * 12, terminated=[1])
    found = recorded_values(data, data.episode_starts, horizon=STEPS, discount=0.9)
    within = (1 - 0.9**6) / 0.1
    going_on = 11 / 12  # rows that did not terminate: the first episode may still
    beyond = 0.9**6 / (1 - 0.9 * going_on)
    assert found.values.tolist() == pytest.approx([-within - beyond, -within], rel=1e-3)
    assert found.returns.tolist() == [-6, -6]


def test_values_are_those_of_each_episode_and_not_of_its_neighbours():
    data = recording([1.0] * 6 + [100.0] * 6, terminated=[0, 1])
    found = recorded_values(data, data.episode_starts, horizon=3, discount=0.0)
    assert found.values.tolist() == [1, 100] and found.returns.tolist() == [3, 300]


def test_the_horizon_is_the_tasks_the_cut_episodes_or_the_longest():
    assert horizon_of(recording([0.0] * 12, max_episode_steps=50)) == 50
    assert horizon_of(recording([0.0] * 12)) == STEPS
    mixed = recording([0.0] * 30, terminated=[0, 1, 3], steps=6)
    assert horizon_of(mixed) == 6
    assert horizon_of(recording([0.0] * 12, terminated=[0, 1])) == STEPS
    assert horizon_of(recording([0.0] * (2 * LONGEST), steps=2 * LONGEST)) == LONGEST


def test_starts_are_those_of_episodes_or_spread_over_few():
    many = recording([0.0] * 120)
    rows = start_rows(many, 5, seed=0)
    assert len(rows) == 5 and set(rows.tolist()) <= set(many.episode_starts.tolist())
    assert start_rows(many, 100, seed=0).tolist() == many.episode_starts.tolist()
    few = recording([0.0] * 12)
    assert start_rows(few, 4, seed=0).tolist() == [0, 4, 7, 11]
    assert len(start_rows(few, 64, seed=0)) == 12
