"""The two chaotic tasks with a control: their equations, their chaos, and what holds them."""

import warnings

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from reverie.envs import duffing, lorenz
from reverie.envs.flows import runge_kutta
from reverie.envs.make import make_env, make_raw_env, spec_of
from reverie.envs.reference import reference_for
from reverie.envs.termination import rule_for_spec

TASKS = pytest.mark.parametrize("task", [duffing, lorenz], ids=["duffing", "lorenz"])


def spec_for(task):
    return spec_of(task.ENV_ID, env_kwargs={}, physics="as-is")


def rollout(task, obs, steps, policy):
    """Observations `[T + 1, N, D]` and rewards `[T, N]` of many copies."""
    path, rewards = [obs], []
    for _ in range(steps):
        obs, reward, ended = task.dynamics(obs, policy(obs))
        assert not ended.any()
        path.append(obs)
        rewards.append(reward)
    return torch.stack(path), torch.stack(rewards)


def idle(obs):
    return torch.zeros_like(obs[..., :1])


def starts(task, count):
    env = make_raw_env(spec_for(task)).unwrapped
    found = [env.reset(seed=seed)[0] for seed in range(count)]
    return torch.from_numpy(np.stack(found)).double()


@TASKS
def test_gymnasiums_checker_is_content_and_nothing_terminates(task):
    spec = spec_for(task)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the lack of a render mode is meant
        check_env(make_raw_env(spec).unwrapped)
    assert (spec.action_low, spec.action_high) == ((-task.LIMIT,), (task.LIMIT,))
    assert (spec.action_dim, spec.max_episode_steps) == (1, task.EPISODE_STEPS)
    rows = torch.zeros(4, spec.obs_dim)
    assert not rule_for_spec(spec)(rows, rows[:, :1], rows).any()


def test_runge_kuttas_rule_is_of_order_four():
    def error(h):
        x = 1.0
        for _ in range(round(1 / h)):
            (x,) = runge_kutta(lambda x: (x,), (x,), h)
        return abs(x - np.e)

    assert error(0.1) / error(0.05) == pytest.approx(16, rel=0.1)


def test_the_drive_of_duffing_follows_its_phase_within_a_step():
    """Against Euler's rule in tiny steps of x'' = x - x^3 - 0.3 x' + 0.5 cos(1.2 t) + u."""
    x, v, t, u = 0.3, -0.2, 0.9, 0.4
    obs = torch.tensor([x, v, np.cos(1.2 * t), np.sin(1.2 * t)], dtype=torch.float64)
    after, reward, _ = duffing.dynamics(obs, torch.tensor([u], dtype=torch.float64))
    count = 20_000
    for _ in range(count):
        force = 0.5 * np.cos(1.2 * t) + u
        x, v = x + 0.2 / count * v, v + 0.2 / count * (x - x**3 - 0.3 * v + force)
        t += 0.2 / count
    assert after.tolist() == pytest.approx([x, v, np.cos(1.2 * t), np.sin(1.2 * t)], abs=2e-5)
    assert reward.item() == pytest.approx(-(0.7**2) - 0.2**2 - 0.1 * 0.4**2)


def test_the_lorenz_step_and_its_reward_worked_out_by_hand():
    assert lorenz.slopes(1.0, 2.0, 3.0, 4.0) == pytest.approx((10.0, 25.0 - 2.0 + 4.0, 2.0 - 8.0))
    at = torch.tensor(lorenz.CENTRE, dtype=torch.float64)
    after, reward, _ = lorenz.dynamics(at, torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(after, at)  # a fixed point
    assert reward.item() == 0.0
    off = at + torch.tensor([10.0, 0.0, -5.0], dtype=torch.float64)
    reward = lorenz.dynamics(off, torch.full((1,), 30.0, dtype=torch.float64))[1]
    assert reward.item() == pytest.approx(-1.25 - 1e-3 * 20**2)  # clipped to 20


@TASKS
def test_without_control_neighbours_part_and_both_sides_are_visited(task):
    obs = starts(task, 20)
    path, _ = rollout(task, obs, 900, idle)
    assert (path[..., 0].amax(0) > 0.5).all() and (path[..., 0].amin(0) < -0.5).all()
    aside = obs.clone()
    aside[:, 0] += 1e-6
    other, _ = rollout(task, aside, 900, idle)
    parted = (path[-100:] - other[-100:]).norm(dim=-1).amax(0)
    assert (parted > 0.1).double().mean() > 0.8


@TASKS
def test_the_expert_holds_what_the_reward_asks_for(task):
    path, rewards = rollout(task, starts(task, 50), 400, task.controller)
    target = 1.0 if task is duffing else lorenz.CENTRE[0]
    assert (path[-50:, :, 0] - target).abs().max() < 0.25 * target
    assert rewards[-50:].mean() > -0.1


@TASKS
def test_the_references_are_the_returns_of_chance_and_of_the_expert(task):
    reference = reference_for(f"builtin/{task.__name__.rpartition('.')[-1]}")
    generator = torch.Generator().manual_seed(0)
    obs = starts(task, 200)

    def at_random(obs):
        return task.LIMIT * (2 * torch.rand(len(obs), 1, generator=generator) - 1)

    for policy, wanted in ((task.controller, reference.high), (at_random, reference.low)):
        returns = rollout(task, obs, task.EPISODE_STEPS, policy)[1].sum(0)
        error = returns.std().item() / len(obs) ** 0.5
        assert returns.mean().item() == pytest.approx(wanted, abs=4 * error)


@TASKS
def test_the_environment_plays_its_function_of_tensors(task):
    spec = spec_for(task)
    env = make_env(spec)
    obs, _ = env.reset(seed=3)
    for action in (-1.0, 0.3, 1.0):
        after, reward, *_ = env.step(np.array([action], np.float32))
        wanted, paid, _ = task.dynamics(torch.from_numpy(obs), torch.tensor([action * task.LIMIT]))
        np.testing.assert_allclose(after, wanted.numpy(), rtol=1e-6)
        assert reward == pytest.approx(paid.item())
        obs = after
