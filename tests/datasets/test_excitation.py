"""Logs that do not say what other actions do, and units that hide what moves."""

import numpy as np
import pytest

import reverie.datasets
from reverie.datasets.check import report

EPISODES, LENGTH = 30, 100


def plant(noise=0.01, second=0.3, unit=1.0):
    """Two coupled states under a linear controller with noise, and a second action about 0.5."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(EPISODES, 2))
    obs, actions = [], []
    for _ in range(LENGTH + 1):
        u = -(x @ [0.3, 0.2]) + noise * rng.normal(size=EPISODES)
        v = 0.5 + second * rng.uniform(-1, 1, EPISODES)
        obs.append(x)
        actions.append(np.stack([u, v], 1).clip(-1, 1))
        drift = x @ [[0.9, 0.0], [0.1, 0.8]] + 0.1 * rng.normal(size=x.shape)
        x = drift + np.stack([0.3 * u, 0.02 * u], 1)
    obs = np.stack(obs, 1) * [1.0, unit]
    timeouts = np.zeros((EPISODES, LENGTH), bool)
    timeouts[:, -1] = True
    return {
        "observations": np.float32(obs[:, :-1].reshape(-1, 2)),
        "next_observations": np.float32(obs[:, 1:].reshape(-1, 2)),
        "actions": np.float32(np.stack(actions, 1)[:, :-1].reshape(-1, 2)),
        "rewards": np.float32(-(obs[:, :-1, 0] ** 2).reshape(-1)),
        "terminals": np.zeros(EPISODES * LENGTH, bool),
        "timeouts": timeouts.reshape(-1),
    }


def told(data):
    return list(report(reverie.datasets.load(data)).warnings)


def test_actions_that_only_follow_the_observations_are_told():
    (following,) = (each for each in told(plant()) if "follow from the observations" in each)
    assert following.startswith("actions 0 follow") and "record spells" in following
    assert not any("follow" in each for each in told(plant(noise=0.2)))


def test_an_action_that_hardly_moves_is_told():
    (still,) = (each for each in told(plant(second=0.002)) if "stay within 1%" in each)
    assert still.startswith("actions 1 stay")
    assert not any("stay within" in each for each in told(plant(second=0.02)))


@pytest.mark.parametrize(("noise", "second"), [(0.01, 0.3), (0.01, 0.0005), (0.2, 0.0005)])
def test_without_excitation_no_observation_is_called_exogenous(noise, second):
    assert not any("exogenous" in each for each in told(plant(noise, second)))


def test_observations_in_a_unit_too_large_for_a_world_model_are_told():
    (small,) = (each for each in told(plant(unit=1e-4)) if "change by" in each)
    assert small.startswith("observations 1 change by 1e-05 a step") and "1,000 times" in small
    assert not any("change by" in each for each in told(plant(unit=0.1)))


def test_set_points_that_jump_inside_episodes_are_no_ends_that_were_missed():
    rng = np.random.default_rng(0)
    walk = np.cumsum(0.02 * rng.normal(size=(EPISODES, LENGTH + 1)), 1)
    held = np.repeat(np.where(np.arange(EPISODES * 4) % 2, 9.0, -9.0), LENGTH // 4)
    held = np.concatenate([held.reshape(EPISODES, -1)] * 2, 1)[:, : LENGTH + 1]
    data = plant() | {
        name: np.float32(np.stack([walk, held], -1)[:, rows].reshape(-1, 2))
        for name, rows in (
            ("observations", slice(0, LENGTH)),
            ("next_observations", slice(1, LENGTH + 1)),
        )
    }

    def ends_missed(exogenous):
        warnings = report(reverie.datasets.load(data, exogenous=exogenous)).warnings
        return [each for each in warnings if "unlike all others" in each]

    assert ends_missed([]) and not ends_missed([1])
