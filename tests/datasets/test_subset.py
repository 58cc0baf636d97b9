"""Part of a dataset: whole episodes, the same for the same seed, and a fingerprint of its own."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from reverie.datasets.build import build
from reverie.datasets.readers import builtin
from reverie.envs.specs import Spec

LENGTHS = [3, 1, 4, 1, 5, 9, 2, 6]


def make(**choice):
    """Episodes that end in turn by a limit and a terminal; obs is (episode, step)."""
    episode = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    step = np.concatenate([np.arange(length) for length in LENGTHS])
    last = np.append(episode[1:] != episode[:-1], True)
    obs = np.stack([episode, step], 1).astype(float)
    return build(
        name="toy",
        spec=Spec(env_id=None, obs_dim=2, action_dim=1, action_low=(-1.0,), action_high=(1.0,)),
        obs=obs,
        action=np.linspace(-1, 1, len(obs))[:, None],
        reward=step,
        terminated=last & (episode % 2 == 1),
        truncated=last & (episode % 2 == 0),
        next_obs=obs + np.array([0, 1]),
        reference=None,
        origin={"source": "toy"},
        clip_actions=False,
        subset={"episodes": None, "fraction": None, "seed": 0, **choice} if choice else None,
    )


def chosen(data):
    """Numbers of the episodes, one a row of `episode_starts`."""
    return data.transitions.obs[data.episode_starts, 0].int().tolist()


@pytest.mark.parametrize("count", [1, 3, 8])
def test_episodes_stay_whole_and_in_order(count):
    data, full = make(episodes=count, seed=2), make()
    numbers = chosen(data)
    assert len(numbers) == count and numbers == sorted(set(numbers))
    assert data.episode_lengths.tolist() == [LENGTHS[number] for number in numbers]
    rows = torch.isin(full.transitions.obs[:, 0], torch.tensor(numbers, dtype=torch.float))
    for name in ("obs", "action", "reward", "next_obs", "terminated"):
        assert torch.equal(getattr(data.transitions, name), getattr(full.transitions, name)[rows])
    assert torch.equal(data.truncated, full.truncated[rows])
    assert torch.equal(data.valid_next, full.valid_next[rows])
    assert data.origin == {"source": "toy", "subset": f"{count} of 8 episodes, seed 2"}


def test_a_smaller_subset_is_part_of_a_larger_one_and_the_seed_decides_which():
    nested = [set(chosen(make(episodes=count, seed=1))) for count in range(1, 9)]
    assert all(small < large for small, large in pairwise(nested))
    assert len({tuple(chosen(make(episodes=3, seed=seed))) for seed in range(20)}) > 10


def test_by_return_the_best_episodes_are_kept_whatever_the_seed():
    # Returns are 0 + 1 + ... + length - 1, so the longest episodes are the best.
    best = sorted(range(8), key=lambda number: -LENGTHS[number])
    for count in range(1, 7):
        data = make(episodes=count, order="return", seed=count)
        assert chosen(data) == sorted(best[:count])
        assert data.origin["subset"] == f"{count} of 8 episodes, those of the highest return"
    tenth = make(fraction=0.1, order="return")
    assert chosen(tenth) == [5] and float(tenth.returns[0]) == sum(range(9))


def test_of_equal_returns_the_first_recorded_is_kept():
    assert chosen(make(episodes=7, order="return")) == [0, 1, 2, 4, 5, 6, 7]


def test_a_fraction_is_the_fewest_episodes_with_that_share_of_rows():
    for fraction in (0.01, 0.2, 0.5, 0.75, 1.0):
        data = make(fraction=fraction, seed=3)
        count = len(data.episode_starts)
        assert len(data) >= fraction * sum(LENGTHS)
        assert count == 1 or len(make(episodes=count - 1, seed=3)) < fraction * sum(LENGTHS)


def test_the_fingerprint_is_that_of_the_rows():
    marks = {make(episodes=count).fingerprint for count in range(1, 9)}
    assert len(marks) == 8
    assert make().fingerprint == make(fraction=1.0).fingerprint == make(seed=5).fingerprint
    assert make().fingerprint in marks


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"episodes": 3, "fraction": 0.5}, "set one of them to null"),
        ({"episodes": 0}, "from 1 to the 8 episodes"),
        ({"episodes": 9}, "from 1 to the 8 episodes"),
        ({"episodes": 1.5}, "whole number"),
        ({"episodes": True}, "whole number"),
        ({"fraction": 0.0}, "fraction=0.0 must lie in"),
        ({"fraction": 1.1}, "fraction=1.1 must lie in"),
        ({"fraction": float("nan")}, "fraction=nan must lie in"),
        ({"fraction": "half"}, "fraction=half must lie in"),
        ({"episodes": 1, "seed": -1}, "seed=-1"),
        ({"episodes": 1, "seed": None}, "seed=None"),
        ({"episodes": 1, "order": "best"}, "order=best must be one of seed, return"),
        ({"rows": 5}, "has the keys episodes, fraction, seed"),
    ],
)
def test_what_makes_no_sense_is_refused(choice, message):
    with pytest.raises(ValueError, match=message):
        make(**choice)


def test_a_builtin_dataset_is_recorded_once_whatever_is_kept():
    mixture = [{"strength": 1.0, "random": 0.5}]
    full = {"name": "p", "task": "pendulum-mixed", "episodes": 4, "seed": 0, "mixture": mixture}
    half = builtin.load(**full, subset={"episodes": 2, "fraction": None, "seed": 0})
    assert len(half) == 400
    assert half.origin["file"] == builtin.load(**full).origin["file"]
    assert half.origin["subset"] == "2 of 4 episodes, seed 0"
