"""The delayed pipeline: exact shifts, exact delay, jumps of the target."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from reverie.envs import pipeline, snapshot
from reverie.envs.make import make_env, spec_of


@pytest.fixture
def env():
    env = gymnasium.make(pipeline.ENV_ID)
    yield env
    env.close()


def test_gymnasiums_checker_is_content():
    check_env(pipeline.Pipeline(), skip_render_check=True)


def test_what_is_let_in_arrives_twenty_steps_later(env):
    obs, _ = env.reset(seed=0)
    start = obs[0]
    flows = []
    for step in range(30):
        obs, *_ = env.step(np.float32([1.0 if step == 0 else 0.0]))
        flows.append(obs[0])
    assert flows[:19] == [start] * 19
    assert flows[19:] == pytest.approx([start + 1.0] * 11)  # the 20th step shows the first action


def test_columns_behind_flow_and_target_are_what_stood_one_place_before(env):
    rng = np.random.default_rng(1)
    obs, _ = env.reset(seed=1)
    for _ in range(60):
        action = rng.uniform(-1, 1, 1).astype(np.float32)
        following, *_ = env.step(action)
        assert following[2] == obs[0] and (following[3:27] == obs[2:26]).all()
        assert following[27] == action[0] and (following[28:] == obs[27:-1]).all()
        obs = following


def test_the_next_flow_follows_from_the_observation(env):
    rng = np.random.default_rng(2)
    obs, _ = env.reset(seed=2)
    for _ in range(100):
        following, *_ = env.step(rng.uniform(-1, 1, 1).astype(np.float32))
        assert following[0] == pytest.approx(obs[0] + obs[27 + 18], abs=1e-4)
        obs = following


def test_the_gate_stays_between_shut_and_open_and_the_action_in_its_box(env):
    obs, _ = env.reset(seed=3)
    for _ in range(250):
        obs, *_ = env.step(np.float32([-7.0]))
    assert obs[0] == 0.0 and (obs[27:] == -1.0).all()


def test_targets_jump_now_and_then_and_steps_are_paid_by_the_distance(env):
    obs, _ = env.reset(seed=4)
    targets, limit = [], False
    while not limit:
        obs, reward, terminated, limit, _ = env.step(np.float32([0.0]))
        targets.append(obs[1])
        assert reward == pytest.approx(((200 - abs(obs[0] - obs[1])) / 100) ** 2 - 3, abs=1e-5)
        assert not terminated
    assert len(targets) == 1000 and set(targets) <= set(pipeline.TARGETS)
    assert 0 < np.count_nonzero(np.diff(targets)) < 10


def test_a_snapshot_brings_it_back():
    spec = spec_of(pipeline.ENV_ID, env_kwargs={}, physics="as-is")
    first, second = make_env(spec), make_env(spec)
    first.reset(seed=5)
    second.reset(seed=6)
    for _ in range(5):
        first.step(np.float32([0.5]))
    snapshot.put_back(second, snapshot.take(first))
    for _ in range(30):
        ours, theirs = first.step(np.float32([-0.3])), second.step(np.float32([-0.3]))
        assert (ours[0] == theirs[0]).all() and ours[1] == theirs[1]
