"""The two tanks: water by closed forms, what sensors show of it, graded controllers."""

import warnings

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from reverie.envs import snapshot, two_tanks
from reverie.envs.make import make_env, make_raw_env, spec_of
from reverie.envs.termination import rule_for_spec
from reverie.mistake import Mistake

SPEC = spec_of(two_tanks.ENV_ID, env_kwargs={}, physics="as-is")


def mean_return(policy_of, episodes=6):
    """Mean return and the deviation of h2 from its set-point; `policy_of()` acts on one `[4]`."""
    returns, errors = [], []
    for seed in range(episodes):
        env, act, total = two_tanks.TwoTanks(), policy_of(), 0.0
        obs, _ = env.reset(seed=seed)
        for _ in range(two_tanks.EPISODE_STEPS):
            errors.append(abs(obs[1] - obs[2]))
            obs, reward, *_ = env.step(np.array([act(obs)], np.float32))
            total += reward
        returns.append(total)
    return np.mean(returns), np.mean(errors)


def without_memory(gain, trim=0.0):
    return lambda obs: float(two_tanks.feedback(torch.from_numpy(obs), gain, trim=trim))


def test_gymnasiums_checker_is_content():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the lack of a render mode is meant
        check_env(make_raw_env(SPEC).unwrapped)
    assert (SPEC.obs_dim, SPEC.action_dim, SPEC.max_episode_steps) == (4, 1, 200)
    assert (SPEC.action_low, SPEC.action_high) == ((0.0,), (1.0,))
    rows = torch.zeros(3, 4)
    assert not rule_for_spec(SPEC)(rows, rows[:, :1], rows).any()


@pytest.mark.parametrize("level", [5.0, 12.0, 20.0])
def test_the_steady_valve_holds_its_level_and_is_found_from_elsewhere(level):
    valve, upper = two_tanks.steady(level)
    flow, levels = two_tanks.flow_on(valve, np.array([upper, level]), valve)
    assert flow == pytest.approx(valve) and levels == pytest.approx([upper, level])
    flow, levels = 0.0, np.array([1.0, 25.0])
    for _ in range(200):
        flow, levels = two_tanks.flow_on(flow, levels, valve)
    assert levels == pytest.approx([upper, level], rel=1e-3)


def test_an_emptying_tank_follows_torricellis_law():
    """sqrt(h) falls by a/A sqrt(g/2) a second while nothing flows in; Euler is right to 2 %."""
    start = 20.0
    _, levels = two_tanks.flow_on(0.0, np.array([start, 0.0]), 0.0)
    fall = 0.45 / 20.0 * np.sqrt(981.0 / 2.0) * two_tanks.STEP
    assert levels[0] == pytest.approx((np.sqrt(start) - fall) ** 2, rel=0.02)
    for _ in range(50):
        _, levels = two_tanks.flow_on(0.0, levels, 0.0)
    assert levels == pytest.approx([0.0, 0.0], abs=0.01) and (levels >= 0.0).all()


def test_the_open_valve_fills_to_the_brim_and_no_further():
    flow, levels = 1.0, np.array([1.0, 1.0])
    for _ in range(100):
        flow, levels = two_tanks.flow_on(flow, levels, 1.0)
    assert levels.max() == two_tanks.HEIGHT


def test_a_command_is_carried_out_one_step_later():
    levels = []
    for valve in (0.0, 1.0):
        env = two_tanks.TwoTanks()
        env.reset(seed=0)
        seen = [env.step(np.array([valve], np.float32))[0] for _ in range(3)]
        levels.append([obs[0] for obs in seen])
        assert [obs[3] for obs in seen] == [valve] * 3
    # The noise is the same, so that the first levels are.
    assert levels[0][0] == levels[1][0] and levels[1][1] - levels[0][1] > 1.0


def test_the_reward_is_of_the_row_and_never_positive():
    env = make_raw_env(SPEC)
    obs, _ = env.reset(seed=1)
    for valve in (0.2, 0.9, 0.9):
        after, reward, terminated, truncated, _ = env.step(np.array([valve], np.float32))
        wanted = -(((obs[1] - obs[2]) / 5.0) ** 2) - 2.0 * (valve - obs[3]) ** 2
        assert reward == pytest.approx(wanted, rel=1e-5) and reward <= 0.0
        assert not terminated and not truncated
        obs = after


def test_set_points_ramp_and_sensors_are_noisy():
    env = two_tanks.TwoTanks()
    env.reset(seed=2)
    seen = np.array([env.step(np.array([0.5], np.float32))[0] for _ in range(2000)])
    moves = np.abs(np.diff(seen[:, 2]))
    assert moves.max() <= 0.5 + 1e-5 and 0.05 < (moves > 0).mean() < 0.4
    low, high = two_tanks.SET_POINTS
    assert low <= seen[:, 2].min() < 8.0 and 17.0 < seen[:, 2].max() <= high
    rest = seen[200:, 0] - seen[200:, 0].mean()  # the valve stands still, so all that is left
    assert rest.std() == pytest.approx(two_tanks.NOISE, rel=0.1)


def test_controllers_are_graded_and_much_better_ones_exist_than_the_one_that_records():
    clumsy, error = mean_return(lambda: two_tanks.PI(gain=0.05, reset=12.0).act)
    wild, _ = mean_return(lambda: two_tanks.PI(gain=0.1, reset=20.0).act)
    tuned, _ = mean_return(lambda: two_tanks.PI(gain=0.05, reset=40.0).act)
    best, best_error = mean_return(lambda: without_memory(0.05))
    slow, _ = mean_return(lambda: without_memory(0.0))
    biased, _ = mean_return(lambda: without_memory(0.02, trim=0.15))
    assert wild < 3 * clumsy < 2 * tuned < 0 and tuned < best and slow < 1.5 * best
    assert biased < 2 * slow and best_error < 0.6 * error


def test_a_controller_stands_at_its_limits_without_winding_up():
    controller = two_tanks.PI(gain=0.1, reset=10.0)
    empty = np.array([0.0, 0.0, 20.0, 0.0], np.float32)
    assert [controller.act(empty) for _ in range(50)] == [1.0] * 50
    assert controller.integral == 0.0
    with pytest.raises(Mistake, match="reset=0 must be positive"):
        two_tanks.PI(gain=0.1, reset=0)


def test_the_same_seed_gives_the_same_plant_and_a_snapshot_brings_it_back():
    env, twin = make_env(SPEC), make_env(SPEC)
    act = np.array([0.3], np.float32)
    assert (env.reset(seed=5)[0] == twin.reset(seed=5)[0]).all()
    held = None
    for step in range(20):
        if step == 10:
            held = snapshot.take(env)
        ours = env.step(act)
        assert (ours[0] == twin.step(act)[0]).all()
    snapshot.put_back(twin, held)
    for _ in range(10):
        again = twin.step(act)
    assert (again[0] == ours[0]).all() and again[1] == ours[1]
