"""The plane: its formula by hand, the environment against the formula, what rollouts can show."""

import math
import warnings

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from reverie.envs import edge_of_reach as plane
from reverie.envs.make import make_env, make_raw_env, spec_of
from reverie.envs.reference import reference_for
from reverie.envs.termination import rule_for_spec


@pytest.fixture
def spec():
    return spec_of(plane.ENV_ID, env_kwargs={}, physics="as-is")


def starts(count):
    return (torch.rand(count, 2) * 2 - 1) * plane.START_HALF_WIDTH


def test_gymnasiums_checker_is_content(spec):
    with warnings.catch_warnings():
        # Unbounded observations and the lack of a render mode are meant.
        warnings.simplefilter("ignore")
        check_env(make_raw_env(spec).unwrapped)
    assert (spec.obs_dim, spec.action_dim, spec.max_episode_steps) == (2, 2, 30)


@pytest.mark.parametrize(
    ("obs", "reward"),
    [
        ((-4.2, -4.2), 1.0),  # the hill; the lure is clipped at zero there
        ((-4.2, -2.2), math.exp(-0.5)),
        ((0.0, 0.0), math.exp(-2 * 4.2**2 / 8)),
        ((5.0, 6.0), 0.5),
        ((11.0, 11.0), 1.0),  # the corner of what rollouts show
        ((12.0, 0.0), 12 / 22 - 2.0),
        ((12.0, 12.0), 1.0 - 2.0),  # the lure is clipped at one
        ((0.0, -13.0), -4.0),
    ],
)
def test_the_reward_at_points_worked_out_by_hand(obs, reward):
    _, found, ended = plane.dynamics(torch.tensor(obs), torch.zeros(2))
    assert found.item() == pytest.approx(reward, abs=1e-5)
    assert not ended


def test_a_step_adds_the_clipped_action_for_any_leading_shape():
    obs, action = torch.randn(3, 4, 5, 2), torch.randn(3, 4, 5, 2) * 2
    next_obs, reward, ended = plane.dynamics(obs, action)
    assert torch.equal(next_obs, obs + action.clamp(-1, 1))
    assert reward.shape == ended.shape == (3, 4, 5)
    assert torch.equal(
        ended,
        rule_for_spec(spec_of(plane.ENV_ID, env_kwargs={}, physics="as-is"))(obs, action, next_obs),
    )


def test_the_environment_is_the_formula_to_the_bit_and_stops_at_its_limit(spec):
    env, rng = make_env(spec), np.random.default_rng(0)
    obs, _ = env.reset(seed=0)
    assert np.abs(obs).max() <= 2
    for step in range(30):
        action = rng.uniform(-1.5, 1.5, 2).astype(np.float32)
        next_obs, reward, terminated, truncated, _ = env.step(action)
        expected, worth, _ = plane.dynamics(torch.from_numpy(obs), torch.from_numpy(action))
        assert np.array_equal(next_obs, expected.numpy()) and reward == worth.item()
        assert (terminated, truncated) == (False, step == 29)
        obs = next_obs


@pytest.mark.parametrize(
    "policy", [torch.sign, lambda s: torch.rand_like(s) * 2 - 1, torch.ones_like]
)
def test_states_of_rollouts_stay_within_reach_and_only_the_last_step_leads_to_the_edge(policy):
    obs = starts(4000)
    for step in range(1, plane.HORIZON + 1):
        assert plane.extent(obs).max() <= 11
        assert not plane.edge_of_reach(obs, plane.HORIZON).any()
        obs, _, _ = plane.dynamics(obs, policy(obs))
        assert plane.extent(obs).max() <= 12
        if step < plane.HORIZON:
            assert not plane.edge_of_reach(obs, plane.HORIZON).any()
    if policy is torch.sign:
        assert plane.edge_of_reach(obs, plane.HORIZON).any()


def test_the_edge_moves_with_the_horizon():
    obs = torch.tensor([[6.5, 0.0], [0.0, -6.5], [5.9, 5.9]])
    assert plane.edge_of_reach(obs, 5).tolist() == [True, True, False]
    assert plane.edge_of_reach(obs, 10).tolist() == [False] * 3
    assert plane.reach(plane.HORIZON) == 11


def test_no_reward_exceeds_one_and_beyond_the_edge_it_falls_steeply():
    line = torch.linspace(-15, 15, 301)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)
    _, reward, _ = plane.dynamics(grid, torch.zeros_like(grid))
    assert reward.max() <= 1.0 + 1e-6
    assert reward[plane.extent(grid) > 12.5].max() < -1.9


def test_the_controllers_value_is_its_discounted_return(spec):
    hill, discount = torch.tensor(plane.HILL), 0.99
    assert plane.controller_value(hill, discount).item() == pytest.approx(100.0, rel=1e-5)
    obs = torch.tensor([[12.0, 12.0], [-12.0, 3.0], [1.0, -1.0], [0.3, 11.5]])
    found = plane.controller_value(obs, discount)
    # Two thousand steps leave a remainder of 100 * 0.99^2000, less than 1e-6.
    expected, state = torch.zeros(4, dtype=torch.float64), obs.double()
    for step in range(2000):
        state, reward, _ = plane.dynamics(state, plane.controller(state))
        expected += discount**step * reward
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    assert (found < 100).all()
    # Bellman's equation holds one step at a time.
    next_obs, reward, _ = plane.dynamics(obs, plane.controller(obs))
    later = plane.controller_value(next_obs, discount)
    torch.testing.assert_close(found, reward + discount * later, rtol=1e-5, atol=1e-4)


def test_the_references_are_the_returns_of_chance_and_of_the_controller():
    means = []
    for policy in (lambda s: torch.rand_like(s) * 2 - 1, plane.controller):
        obs, total = starts(50_000), torch.zeros(50_000)
        for _ in range(plane.EPISODE_STEPS):
            obs, reward, _ = plane.dynamics(obs, policy(obs))
            total += reward
        means.append(total.mean().item())
    reference = reference_for("builtin/edge-of-reach")
    # Three standard errors of the 1000 recorded episodes (0.10, 0.03) and of these (0.015, 0.004).
    assert means[0] == pytest.approx(reference.low, abs=0.35)
    assert means[1] == pytest.approx(reference.high, abs=0.1)
