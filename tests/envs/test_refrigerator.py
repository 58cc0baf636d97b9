"""The refrigerator: its steps in closed form, the environment against them, its controllers."""

import warnings

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from reverie.envs import refrigerator as fridge
from reverie.envs.make import make_env, make_raw_env, spec_of
from reverie.envs.reference import reference_for
from reverie.envs.termination import rule_for_spec
from reverie.envs.true_dynamics import simulator_for
from reverie.mistake import Mistake


def task(**env_kwargs):
    return spec_of(fridge.ENV_ID, env_kwargs=env_kwargs, physics="as-is")


def after(start, action, steps, door=0.0):
    obs = torch.tensor([start])
    for _ in range(steps):
        obs, reward, _ = fridge.dynamics(obs, torch.tensor([action]), door)
    return obs.item(), reward.item()


def test_gymnasiums_checker_is_content():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the lack of a render mode is meant
        check_env(make_raw_env(task()).unwrapped)
    spec = task()
    assert (spec.obs_dim, spec.action_dim, spec.max_episode_steps) == (1, 1, 100)


@pytest.mark.parametrize(
    ("start", "action", "door", "wanted"),
    [
        (5.0, -1.0, 0.0, 6.0),
        (5.0, 1.0, 0.0, 3.0),
        (25.0, -1.0, 0.0, 25.0),
        (5.0, 0.0, 1.0, 7.5),
        (5.0, -9.0, 0.0, 6.0),  # clipped
    ],
)
def test_a_step_worked_out_by_hand(start, action, door, wanted):
    found, reward = after(start, action, 1, door)
    assert found == pytest.approx(wanted)
    assert reward == pytest.approx(-abs(wanted - 5.0) / 10.0)


@pytest.mark.parametrize("action", [-1.0, -0.3, 1.0])
def test_many_steps_follow_the_closed_form_to_the_steady_state(action):
    """s_k = s* + 0.95^k (s_0 - s*), with s* = 25 - 60 u."""
    steady = 25.0 - 60.0 * (action + 1) / 2
    for steps in (1, 7, 200):
        wanted = steady + 0.95**steps * (8.0 - steady)
        assert after(8.0, action, steps)[0] == pytest.approx(wanted, abs=1e-3)


def test_thermostats_hold_their_set_point_and_the_expert_returns_in_one_step():
    for point in (-3.0, 5.0, 12.0):
        obs = torch.tensor([point])
        held, _, _ = fridge.dynamics(obs, fridge.thermostat(obs, point, 0.1))
        assert held.item() == pytest.approx(point, abs=1e-5)
    obs = torch.linspace(4.1, 6.9, 9).unsqueeze(-1)
    back, reward, _ = fridge.dynamics(obs, fridge.expert(obs))
    torch.testing.assert_close(back, torch.full_like(back, 5.0))
    assert reward.abs().max() < 1e-6
    assert fridge.expert(torch.tensor([[-40.0], [60.0]])).flatten().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("door", [0.0, 1.0])
def test_the_environment_is_the_expected_step_with_noise_and_so_is_the_simulator(door):
    spec, rng = task(door=door), np.random.default_rng(0)
    env, simulator = make_env(spec), simulator_for(spec, threads=1)
    obs, _ = env.reset(seed=3)
    assert 2.0 <= obs[0] <= 8.0
    noise = []
    for step in range(100):
        action = rng.uniform(-1.5, 1.5, 1).astype(np.float32)
        next_obs, reward, terminated, truncated, _ = env.step(action)
        before, chosen = torch.from_numpy(obs), torch.from_numpy(action)
        expected = simulator.step(before, chosen)
        torch.testing.assert_close(
            expected.next_obs, fridge.dynamics(before, chosen, door)[0], rtol=0, atol=1e-6
        )
        noise.append(next_obs[0] - expected.next_obs.item())
        assert reward == pytest.approx(-abs(float(next_obs[0]) - 5.0) / 10.0, abs=1e-6)
        assert (terminated, truncated) == (False, step == 99)
        obs = next_obs
    # A standard deviation from 100 draws is right within 7 %.
    assert np.std(noise) == pytest.approx(fridge.NOISE, rel=0.25)
    rows = torch.zeros(4, 1)
    assert not rule_for_spec(spec)(rows, rows, rows).any()
    with pytest.raises(Mistake, match="door=2 must lie between 0, shut, and 1, open"):
        make_env(task(door=2))


def test_the_door_opens_by_its_schedule_in_every_episode_and_no_simulator_pretends_to_know():
    spec = task(openings=[[3, 5], [8, 200]])
    env, off = make_env(spec), np.array([-1.0], np.float32)
    for seed in (0, 1):
        obs, _ = env.reset(seed=seed)
        leaks = []
        for _ in range(10):
            next_obs, *_ = env.step(off)
            leaks.append(float((next_obs[0] - obs[0]) / (25.0 - obs[0])))
            obs = next_obs
        # The noise of 0.02 degrees is a share of 0.005 at most.
        opened = [False, False, False, True, True, False, False, False, True, True]
        assert leaks == pytest.approx([0.2 if each else 0.05 for each in opened], abs=0.02)
    with pytest.raises(ValueError, match="openings"):
        simulator_for(spec, threads=1)
    with pytest.raises(Mistake, match=r"openings=\[\[5, 3\]\] must be pairs of steps"):
        make_env(task(openings=[[5, 3]]))


def test_the_references_are_the_returns_of_chance_and_of_the_expert():
    means = []
    for policy in (lambda s: torch.rand_like(s) * 2 - 1, fridge.expert):
        obs = fridge.STARTS[0] + 6.0 * torch.rand(20_000, 1)
        total = torch.zeros(20_000)
        for _ in range(fridge.EPISODE_STEPS):
            obs, _, _ = fridge.dynamics(obs, policy(obs))
            obs = obs + fridge.NOISE * torch.randn_like(obs)
            total += fridge.reward_of(obs)
        means.append(total.mean().item())
    reference = reference_for("builtin/refrigerator")
    # Three standard errors of the 1000 recorded episodes (0.46, 0.002) and of these (0.1, 0.0005).
    assert means[0] == pytest.approx(reference.low, abs=1.5)
    assert means[1] == pytest.approx(reference.high, abs=0.01)
