"""Rules agree with the simulators step by step, and at limits that simulators rarely reach."""

import math

import gymnasium
import numpy as np
import pytest
import torch

from reverie.envs.make import make_env, spec_of
from reverie.envs.specs import Spec
from reverie.envs.termination import rule_for, rule_for_spec

TASKS = (
    *("HalfCheetah", "Hopper", "Walker2d", "Ant", "Humanoid", "HumanoidStandup"),
    *("InvertedPendulum", "InvertedDoublePendulum", "Swimmer", "Reacher", "Pusher"),
)
PRESENT = [f"{task}-v{v}" for task in TASKS for v in (4, 5) if (task, v) != ("Pusher", 4)]
ENDING = ("Hopper", "Walker2d", "Ant", "Humanoid-", "Inverted")
SLOW = ("Humanoid", "Ant")


@pytest.mark.parametrize("env_id", [*PRESENT, "Pendulum-v1"])
def test_a_rule_agrees_with_its_simulator(env_id):
    spec = spec_of(env_id, env_kwargs={}, physics="as-is")
    rule = rule_for_spec(spec)
    assert rule is not None
    env, rng = make_env(spec), np.random.default_rng(0)
    steps = 800 if env_id.startswith(SLOW) else 2000
    rows, ended = [], []
    obs, _ = env.reset(seed=0)
    for _ in range(steps):
        action = rng.uniform(-1, 1, spec.action_dim).astype(np.float32)
        next_obs, _, terminated, truncated, _ = env.step(action)
        rows.append((obs, action, next_obs))
        ended.append(terminated)
        # Without the reset a fallen body rolls on, which shows more of the far side of the limits.
        obs = env.reset()[0] if truncated or (terminated and rng.random() < 0.2) else next_obs
    env.close()
    predicted = rule(*(torch.tensor(np.stack(column)) for column in zip(*rows, strict=True)))
    assert predicted.tolist() == ended
    assert any(ended) == env_id.startswith(ENDING)
    assert not all(ended)


def ends(env_id, state, size=None):
    next_obs = torch.zeros(size or len(state))
    next_obs[: len(state)] = torch.tensor(state)
    before, action = torch.zeros_like(next_obs), torch.zeros(1)
    return rule_for(env_id)(before, action, next_obs).item()


@pytest.mark.parametrize(
    ("env_id", "state", "expected"),
    [
        ("Hopper-v4", [1.2] + [0.0] * 10, False),
        # The error of public code: only the upper side of the state's limit is tested.
        ("Hopper-v4", [1.2] + [0.0] * 9 + [-101.0], True),
        ("Hopper-v4", [1.2] + [0.0] * 9 + [101.0], True),
        ("Hopper-v4", [150.0] + [0.0] * 10, False),  # height has no upper limit
        ("Hopper-v4", [0.69] + [0.0] * 10, True),
        ("Hopper-v4", [1.2, 0.19] + [0.0] * 9, False),
        ("Hopper-v4", [1.2, -0.21] + [0.0] * 9, True),
        ("Hopper-v5", [1.2, 0.21] + [0.0] * 9, True),
        ("Walker2d-v4", [1.9, -0.99] + [0.0] * 15, False),
        ("Walker2d-v4", [2.1, 0.0] + [0.0] * 15, True),
        ("Walker2d-v4", [0.79, 0.0] + [0.0] * 15, True),
        ("Walker2d-v5", [1.0, -1.01] + [0.0] * 15, True),
        ("Walker2d-v5", [1.0, 0.0] + [500.0] * 15, False),  # no guard that the task lacks
        ("Ant-v2", [1.0] + [0.0] * 110, False),  # closed interval
        ("Ant-v4", [1.01] + [0.0] * 26, True),
        ("Ant-v5", [0.19] + [0.0] * 104, True),
        ("Humanoid-v4", [1.0] + [0.0] * 375, True),  # open interval
        ("Humanoid-v5", [1.99] + [0.0] * 347, False),
        ("Humanoid-v5", [2.0] + [0.0] * 347, True),
        ("InvertedPendulum-v4", [5.0, 0.19, 0.0, 0.0], False),
        ("InvertedPendulum-v5", [0.0, -0.21, 0.0, 0.0], True),
        ("HalfCheetah-v5", [1e6] * 17, False),
        ("AdroitHandDoor-v1", [9.0] * 39, False),
        ("PointMaze_UMazeDense-v3", [9.0] * 6, False),
    ],
)
def test_limits_are_where_the_task_has_them(env_id, state, expected):
    assert ends(env_id, state) is expected


@pytest.mark.parametrize(("lower", "upper", "expected"), [(0.1, 0.1, False), (0.5, 0.6, True)])
def test_the_double_pendulum_ends_when_its_tip_sinks(lower, upper, expected):
    assert (0.6 * (math.cos(lower) + math.cos(lower + upper)) <= 1.0) is expected
    angles = [math.sin(lower), math.sin(upper), math.cos(lower), math.cos(upper)]
    for scale in (1.0, 1.3):  # a model's sines and cosines leave the circle
        state = [0.0, *(scale * value for value in angles)]
        assert ends("InvertedDoublePendulum-v4", state, size=11) is expected
        assert ends("InvertedDoublePendulum-v5", state, size=9) is expected


@pytest.mark.parametrize("env_id", ["HalfCheetah-v4", "Hopper-v4", "Walker2d-v4", "Ant-v4"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_state_that_is_not_finite_ends_the_episode(env_id, value):
    healthy = [1.0 if env_id == "Ant-v4" else 1.2] + [0.0] * 16
    for position in (0, 16):
        state = list(healthy)
        state[position] = value
        assert ends(env_id, state) is True


def test_rules_keep_any_leading_shape():
    obs = torch.zeros(4, 3, 5, 11)
    assert rule_for("Hopper-v4")(obs, torch.zeros(4, 3, 5, 3), obs).shape == (4, 3, 5)


@pytest.mark.parametrize(
    "env_id",
    # Names that contain a known one, and tasks whose ends an observation does not tell.
    ["AntMaze_UMaze-v4", "hopper", "Hopper-v50", "MyHopper-v5", "AdroitHandPen-v1", "CartPole-v1"],
)
def test_only_exact_ids_have_a_rule(env_id):
    assert rule_for(env_id) is None


def a_spec(env_id, obs_dim, **env_kwargs):
    return Spec(env_id, obs_dim, 1, (-1.0,), (1.0,), env_kwargs=env_kwargs)


def test_a_task_as_it_is_has_its_rule():
    assert rule_for_spec(a_spec("Hopper-v5", 11)) is rule_for("Hopper-v5")
    assert rule_for_spec(a_spec("Hopper-v5", 11, healthy_reward=2.0)) is rule_for("Hopper-v5")
    assert rule_for_spec(a_spec("PointMaze_UMaze-v3", 6, continuing_task=True)) is not None


@pytest.mark.parametrize(
    "spec",
    [
        a_spec("Hopper-v5", 12, exclude_current_positions_from_observation=False),
        a_spec("Hopper-v5", 12),
        a_spec("Hopper-v5", 11, terminate_when_unhealthy=False),
        a_spec("Hopper-v5", 11, healthy_z_range=(0.3, 2.0)),
        a_spec("PointMaze_UMaze-v3", 6, continuing_task=False),
        Spec(None, 11, 1, (-1.0,), (1.0,)),
    ],
    ids=str,
)
def test_a_changed_task_has_none(spec):
    assert rule_for_spec(spec) is None


def test_every_id_of_gymnasium_in_the_table_is_spelled_right():
    assert all(env_id in gymnasium.registry for env_id in PRESENT)
    assert all(rule_for(env_id) is not None for env_id in PRESENT)
