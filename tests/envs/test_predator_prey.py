"""The stochastic predator-prey task: its mean flow, its noise, whole numbers, controllers."""

import warnings

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from reverie.envs import predator_prey as meadow
from reverie.envs.make import make_env, make_raw_env, spec_of
from reverie.envs.reference import reference_for
from reverie.envs.termination import rule_for_spec


@pytest.fixture
def env():
    return make_raw_env(spec_of(meadow.ENV_ID, env_kwargs={}, physics="as-is")).unwrapped


def test_gymnasiums_checker_is_content(env):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the lack of a render mode is meant
        check_env(env)
    spec = spec_of(meadow.ENV_ID, env_kwargs={}, physics="as-is")
    assert (spec.obs_dim, spec.action_dim, spec.max_episode_steps) == (2, 1, 100)
    assert (spec.action_low, spec.action_high) == ((0.0,), (5.0,))
    rows = torch.zeros(4, 2)
    assert not rule_for_spec(spec)(rows, rows[:, :1], rows).any()


def step_from(env, counts, action, times=1):
    """Mean and variance of what follows, over so many steps from the same counts."""
    found = []
    for _ in range(times):
        env._counts = np.array(counts, np.int64)
        found.append(env.step(np.array([action], np.float32))[0])
    return np.mean(found, 0), np.var(found, 0)


def test_rates_worked_out_by_hand():
    assert meadow.rates(100.0, 30.0) == pytest.approx((30.0, 10.0, 18.0, 8.0, 6.0))


def test_the_target_is_a_steady_state_of_the_mean_with_the_cull_that_it_names():
    born, starved, eaten, joined, died = meadow.rates(*meadow.TARGET)
    assert born - starved - eaten == pytest.approx(0.0, abs=0.35)
    assert joined - died == pytest.approx(2.64)
    assert meadow.controller(torch.tensor([meadow.TARGET])).item() == 3.0


def test_steps_scatter_around_their_mean_as_births_and_deaths_do(env):
    """Over a step the counts hardly change the rates, so events are nearly Poisson."""
    env.reset(seed=0)
    mean, variance = step_from(env, (100, 30), 0.0, times=2000)
    assert mean[0] - 100 == pytest.approx(30 - 10 - 18, abs=1.0)
    assert mean[1] - 30 == pytest.approx(8 - 6, abs=0.5)
    assert variance[0] == pytest.approx(30 + 10 + 18, rel=0.2)
    assert variance[1] == pytest.approx(8 + 6, rel=0.2)


@pytest.mark.parametrize(
    ("action", "culled"), [(0.0, 0), (2.4, 2), (2.6, 3), (5.0, 5), (9.0, 5), (-3.0, 0)]
)
def test_whole_numbers_are_culled_and_no_more_than_five(env, action, culled):
    env.reset(seed=0)
    env._counts = np.array([0, 400], np.int64)
    reward = env.step(np.array([action], np.float32))[1]
    wanted = -((110 / 40) ** 2) - ((400 - 32) / 16) ** 2 - 0.02 * culled
    assert reward == pytest.approx(wanted)
    mean, _ = step_from(env, (0, 400), action, times=300)
    # Without prey predators only wander in and die: y' = y - 0.2 y + 2, in tenths of a step.
    share = (1 - 0.02) ** 10
    assert mean[1] == pytest.approx((400 - culled) * share + 2 * (1 - share) / 0.2, abs=2.5)


def test_nothing_falls_below_zero_and_no_more_are_culled_than_there_are(env):
    env.reset(seed=0)
    for _ in range(50):
        mean, _ = step_from(env, (3, 2), 5.0)
        assert (mean >= 0).all()


def test_the_references_are_the_returns_of_chance_and_of_the_expert():
    reference = reference_for("builtin/predator-prey")
    env = make_env(spec_of(meadow.ENV_ID, env_kwargs={}, physics="as-is"))
    rng, returns = np.random.default_rng(0), {"random": [], "expert": []}
    for name, found in returns.items():
        for seed in range(20):
            (obs, _), total, done = env.reset(seed=seed), 0.0, False
            while not done:
                action = rng.uniform(-1, 1, 1)
                if name == "expert":
                    action = meadow.controller(torch.from_numpy(obs)).numpy() / 2.5 - 1
                obs, reward, terminated, truncated, _ = env.step(action.astype(np.float32))
                total, done = total + reward, terminated or truncated
            found.append(total)
    assert np.mean(returns["expert"]) == pytest.approx(reference.high, abs=15)
    assert np.mean(returns["random"]) == pytest.approx(reference.low, abs=100)
