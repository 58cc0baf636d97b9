"""The cart-pole: laws of mechanics, the environment against the formula, its controller."""

import math
import warnings

import pytest
import torch
from gymnasium.utils.env_checker import check_env

from reverie.envs import cartpole_swingup as cartpole
from reverie.envs.make import make_raw_env, spec_of
from reverie.envs.reference import reference_for
from reverie.envs.termination import rule_for_spec


@pytest.fixture
def spec():
    return spec_of(cartpole.ENV_ID, env_kwargs={}, physics="as-is")


def observed(state):
    """Observations of `[*, (x, angle, v, w)]`."""
    x, angle, speed, turn = state.unbind(-1)
    return torch.stack([x, angle.cos(), angle.sin(), speed, turn], -1)


def hanging(count, spread=0.1):
    state = (torch.rand(count, 4, dtype=torch.float64) * 2 - 1) * spread
    return observed(state + torch.tensor([0.0, math.pi, 0.0, 0.0]))


def played(obs, policy):
    """Returns and the share still on the rail, over one episode."""
    total, alive = torch.zeros(len(obs)), torch.ones(len(obs), dtype=torch.bool)
    for _ in range(cartpole.EPISODE_STEPS):
        obs, reward, ended = cartpole.dynamics(obs, policy(obs))
        total, alive = total + reward * alive, alive & ~ended
    return total, alive


def test_gymnasiums_checker_is_content(spec):
    with warnings.catch_warnings():
        # Unbounded observations and the lack of a render mode are meant.
        warnings.simplefilter("ignore")
        check_env(make_raw_env(spec).unwrapped)
    assert (spec.obs_dim, spec.action_dim, spec.max_episode_steps) == (5, 1, 250)


def test_upright_and_hanging_are_fixed_points_and_pay_all_and_nothing():
    states = [[0.5, 0.0, 0.0, 0.0], [0.5, math.pi, 0.0, 0.0]]
    obs = observed(torch.tensor(states, dtype=torch.float64))
    next_obs, reward, ended = cartpole.dynamics(obs, torch.zeros(2, 1))
    torch.testing.assert_close(next_obs, obs, atol=1e-12, rtol=0)
    assert reward.tolist() == pytest.approx([1 - 0.25 / 9, 0.0]) and not ended.any()


def test_momentum_is_the_impulse_and_energy_the_work_of_the_force(monkeypatch):
    """In the limit of small steps; friction or a wrong sign of any coupling would break either."""
    monkeypatch.setattr(cartpole, "STEP", 1e-4)
    obs = observed(torch.randn(64, 4, dtype=torch.float64))
    action = torch.rand(64, 1, dtype=torch.float64) * 2 - 1
    force = 10 * action[:, 0]

    def momentum(obs):
        return 1.1 * obs[:, 3] + 0.05 * obs[:, 4] * obs[:, 1]

    def energy(obs):
        _, cosine, _, speed, turn = obs.unbind(-1)
        moving = 0.55 * speed**2 + 0.05 * speed * turn * cosine
        return moving + 0.1 * (turn**2 / 6 + 9.8 * 0.5 * cosine)

    next_obs, _, _ = cartpole.dynamics(obs, action)
    push = (momentum(next_obs) - momentum(obs)) / 1e-4
    torch.testing.assert_close(push, force, atol=2e-2, rtol=0)
    power = (energy(next_obs) - energy(obs)) / 1e-4
    torch.testing.assert_close(power, force * obs[:, 3], atol=5e-2, rtol=0)


def test_the_task_looks_the_same_in_a_mirror():
    obs, action = observed(torch.randn(64, 4, dtype=torch.float64)), torch.randn(64, 1)
    mirror = torch.tensor([-1.0, 1.0, -1.0, -1.0, -1.0], dtype=torch.float64)
    one, reward, ended = cartpole.dynamics(obs, action)
    other, reward_, ended_ = cartpole.dynamics(obs * mirror, -action)
    torch.testing.assert_close(one * mirror, other)
    assert torch.equal(reward, reward_) and torch.equal(ended, ended_)


def test_leaving_the_rail_ends_it_and_nothing_else(spec):
    obs = observed(torch.tensor([[2.99, 0.1, 1.0, 0.0], [2.9, 3.0, 1.0, 5.0], [-3.0, 0, -1, 0]]))
    next_obs, _, ended = cartpole.dynamics(obs, torch.zeros(3, 1))
    assert ended.tolist() == [True, False, True]
    rule = rule_for_spec(spec)
    assert torch.equal(rule(obs, torch.zeros(3, 1), next_obs), ended)
    assert rule(obs, torch.zeros(3, 1), next_obs * torch.nan).all()


def test_the_references_are_the_returns_of_chance_and_of_the_controller():
    reference = reference_for("builtin/cartpole-swingup")
    total, alive = played(hanging(500), cartpole.controller)
    assert total.mean().item() == pytest.approx(reference.high, abs=0.3) and alive.all()
    total, _ = played(hanging(4000), lambda obs: torch.rand(len(obs), 1) * 2 - 1)
    # Three standard errors of the 1000 recorded episodes (0.12) and of these (0.06).
    assert total.mean().item() == pytest.approx(reference.low, abs=0.55)
