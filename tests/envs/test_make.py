"""Environments take actions in [-1, 1], give flat float32 vectors and refuse what does not fit."""

import importlib.util
import os
import subprocess
import sys
import warnings
from dataclasses import replace

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium import spaces

from reverie.datasets.recording import record_episodes
from reverie.envs.make import make_env, make_raw_env, require_spaces_match, spec_of
from reverie.envs.observations import flatten
from reverie.mistake import Mistake


class GoalTask(gymnasium.Env):
    """A goal task whose reward shows the action that arrived."""

    observation_space = spaces.Dict(
        {
            "observation": spaces.Box(-1, 1, (2,), np.float64),
            "achieved_goal": spaces.Box(-1, 1, (1,), np.float64),
            "desired_goal": spaces.Box(-1, 1, (1,), np.float64),
        }
    )
    action_space = spaces.Box(np.array([0.0, -4.0]), np.array([10.0, 2.0]), dtype=np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return self.observation_space.sample(), float(action @ [1.0, 100.0]), False, False, {}


class Switches(GoalTask):
    """Integers, in the reward as they arrive."""

    action_space = spaces.Box(np.array([0, -1]), np.array([2, 1]), dtype=np.int64)


class Unbounded(GoalTask):
    action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)


class Largest(GoalTask):
    """The largest float32 stands for no bound in one dimension."""

    action_space = spaces.Box(np.float32([-1, -1]), np.float32([1, np.finfo(np.float32).max]))


class Largest64(GoalTask):
    largest = np.finfo(np.float64).max
    action_space = spaces.Box(-largest, largest, (2,), np.float64)


class Images(GoalTask):
    observation_space = spaces.Dict(pixels=spaces.Box(0, 255, (8, 8, 3), np.uint8))


class NoSpaces(gymnasium.Env):
    """Forgets to say what it takes."""

    observation_space = spaces.Box(-1, 1, (2,))


class Words(GoalTask):
    observation_space = spaces.Text(5)


@pytest.fixture(autouse=True, scope="module")
def registered():
    ids = {
        "ReverieGoal-v0": GoalTask,
        "ReverieUnbounded-v0": Unbounded,
        "ReverieSwitches-v0": Switches,
        "ReverieLargest-v0": Largest,
        "ReverieLargest64-v0": Largest64,
        "ReverieImages-v0": Images,
        "ReverieNoSpaces-v0": NoSpaces,
        "ReverieWords-v0": Words,
    }
    for name, task in ids.items():
        gymnasium.register(name, entry_point=task, max_episode_steps=7)
    yield
    for name in ids:
        del gymnasium.registry[name]


def of(env_id, **options):
    return spec_of(env_id, **({"env_kwargs": {}, "physics": "as-is"} | options))


def test_the_spec_comes_from_the_environment():
    spec = of("Pendulum-v1")
    assert (spec.obs_dim, spec.action_dim, spec.max_episode_steps) == (3, 1, 200)
    assert (spec.action_low, spec.action_high) == ((-2.0,), (2.0,))


def test_a_full_action_is_the_full_torque_and_more_is_clipped():
    spec = of("Pendulum-v1")
    rewards = {}
    for action in (0.5, 1.0, 3.0):
        env = make_env(spec)
        env.reset(seed=0)
        rewards[action] = env.step(np.array([action], np.float32))[1]
    raw = make_raw_env(spec)
    for action, torque in ((0.5, 1.0), (1.0, 2.0)):
        raw.reset(seed=0)
        assert rewards[action] == raw.step(np.array([torque], np.float32))[1]
    assert rewards[3.0] == rewards[1.0]


def test_actions_are_clipped_before_a_task_that_does_not_clip_itself():
    spec = of("HalfCheetah-v5")  # its control cost counts the action as given
    rewards = []
    for action in (1.0, 2.0):
        env = make_env(spec)
        env.reset(seed=0)
        rewards.append(env.step(np.full(6, action, np.float32))[1])
        env.close()
    assert rewards[0] == rewards[1]


def test_an_uneven_box_is_reached_from_corner_to_corner():
    env = make_env(of("ReverieGoal-v0"))
    env.reset(seed=0)
    for unit, expected in (([-1, -1], -400.0), ([1, 1], 210.0), ([0, 0], -95.0)):
        assert env.step(np.array(unit, np.float32))[1] == pytest.approx(expected)
    assert env.action_space == spaces.Box(-1.0, 1.0, (2,), np.float32)


def test_a_box_of_integers_gets_the_nearest_ones():
    env = make_env(of("ReverieSwitches-v0"))
    env.reset(seed=0)
    for unit, expected in (([0.9, 0.9], 102.0), ([0.4, -0.6], -99.0), ([-1, 0.4], 0.0)):
        assert env.step(np.array(unit, np.float32))[1] == expected


def test_integers_are_recorded_as_they_are_played():
    def behaviour(number, rng):
        return lambda obs: rng.uniform([0, -1], [2, 1]).astype(np.float32)

    found = record_episodes("test", of("ReverieSwitches-v0"), 20, 0, behaviour)
    assert np.array_equal(found["action"], np.rint(found["action"]))
    assert np.array_equal(found["reward"], found["action"] @ [1, 100])


def test_dict_observations_are_flattened_as_data_is():
    spec = of("ReverieGoal-v0")
    env = make_env(spec)
    obs, _ = env.reset(seed=3)
    GoalTask.observation_space.seed(3)
    recorded = flatten(GoalTask.observation_space, GoalTask.observation_space.sample())
    np.testing.assert_array_equal(obs, recorded)
    assert obs.dtype == np.float32
    assert env.observation_space.contains(obs)


def test_keys_and_slice_of_the_spec_hold():
    spec = of("ReverieGoal-v0", obs_keys=["achieved_goal", "observation"], obs_slice=2)
    assert spec.obs_dim == 2
    obs, _ = make_env(spec).reset(seed=3)
    GoalTask.observation_space.seed(3)
    value = GoalTask.observation_space.sample()
    expected = np.array([value["achieved_goal"][0], value["observation"][0]], np.float32)
    np.testing.assert_array_equal(obs, expected)


@pytest.mark.parametrize(("limit", "expected"), [(None, 7), (4, 4)])
def test_the_time_limit_of_the_task_holds_and_is_no_termination(limit, expected):
    spec = of("ReverieGoal-v0", max_episode_steps=limit)
    assert spec.max_episode_steps == expected
    env = make_env(spec)
    env.reset(seed=0)
    ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(expected)]
    assert ends == [(False, False)] * (expected - 1) + [(False, True)]


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("Hoper-v5", "did you mean Hopper-v5"),
        ("hopper-v5", "did you mean Hopper-v5"),
        ("Hopper", "did you mean Hopper"),
        ("Hopper-v99", "did you mean Hopper"),
        ("qqq", "give the exact id"),
        ("no_such_package:Task-v0", "there is no module no_such_package; run where"),
        ("highway_env:Task-v0", "install it with: pip install highway-env"),
        ("CartPole-v1", "only continuous actions"),
        ("ReverieUnbounded-v0", "unbounded action space"),
        ("ReverieLargest-v0", "unbounded action space"),
        ("ReverieLargest64-v0", "unbounded action space"),
        ("ReverieImages-v0", "is one of images, which are not supported"),
        ("ReverieNoSpaces-v0", "has no action_space; let its constructor set self.action_space"),
        ("ReverieWords-v0", "ReverieWords-v0: observation space .* cannot be flattened"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(env_id, message):
    with pytest.raises(ValueError, match=message) as caught:
        of(env_id)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(
    importlib.util.find_spec("gymnasium_robotics") is not None, reason="the package is there"
)
@pytest.mark.parametrize("env_id", ["AntMaze_UMaze-v4", "AdroitHandPen-v1", "FrankaKitchen-v1"])
def test_a_robotics_task_names_the_package_to_install(env_id):
    with pytest.raises(Mistake, match="pip install 'gymnasium-robotics"):
        of(env_id)


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("Hopper-v5", {"gravity_of_moon": 1}, "gravity_of_moon"),
        ("Hopper-v2", {}, "another version"),
    ],
)
def test_what_cannot_be_created_says_why_in_one_line(env_id, options, message):
    with pytest.raises(Mistake, match=message) as caught:
        of(env_id, env_kwargs=options)
    assert "\n" not in str(caught.value)


def test_data_without_an_environment_cannot_be_scored():
    with pytest.raises(ValueError, match=r"names no environment.*dataset\.env_id"):
        make_env(replace(of("Pendulum-v1"), env_id=None))


def test_a_slice_longer_than_the_observation_is_refused():
    with pytest.raises(ValueError, match="obs_slice=9 does not fit the 3"):
        of("Pendulum-v1", obs_slice=9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"obs_dim": 4}, "observations of size 4 .* Pendulum-v1 has 3"),
        (
            {"action_dim": 2, "action_low": (-2.0, -2.0), "action_high": (2.0, 2.0)},
            "actions of size 2, but Pendulum-v1 has 3 and 1",
        ),
        ({"action_low": (-1.0,), "action_high": (1.0,)}, "actions span .* but Pendulum-v1"),
    ],
)
def test_data_of_another_task_is_refused(changes, message):
    spec = of("Pendulum-v1")
    require_spaces_match(spec, make_raw_env(spec))
    with pytest.raises(ValueError, match=message) as caught:
        make_env(replace(spec, **changes))
    assert "\n" not in str(caught.value)


def next_state(env_id, physics):
    """Where a fixed push leads from a state with the feet on the ground."""
    env = make_raw_env(of(env_id, physics=physics))
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(30):
        obs, *_ = env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
    env.close()
    return obs


@pytest.mark.parametrize("env_id", ["Hopper-v4", "Ant-v4", "Humanoid-v5"])
@pytest.mark.skipif(
    tuple(map(int, mujoco.__version__.split(".")[:2])) < (3, 5), reason="nothing to restore"
)
def test_old_contacts_differ_where_a_task_has_a_margin(env_id):
    assert not np.allclose(next_state(env_id, "d4rl"), next_state(env_id, "as-is"))


@pytest.mark.parametrize("env_id", ["Walker2d-v4", "HalfCheetah-v4", "InvertedPendulum-v4"])
def test_old_contacts_are_todays_where_a_task_has_none(env_id):
    np.testing.assert_array_equal(next_state(env_id, "d4rl"), next_state(env_id, "as-is"))


def test_the_margin_is_halved_once_for_each_environment():
    spec = of("Hopper-v4", physics="d4rl")
    for _ in range(2):
        np.testing.assert_allclose(make_env(spec).unwrapped.model.geom_margin, 0.0005)


def test_older_simulators_are_left_as_they_are(monkeypatch):
    monkeypatch.setattr("reverie.envs.physics.mujoco.__version__", "3.4.0")
    env = make_env(of("Hopper-v4", physics="d4rl"))
    np.testing.assert_allclose(env.unwrapped.model.geom_margin, 0.001)


def test_creation_is_silent_and_leaves_no_log_file(tmp_path):
    # A process of its own, since the message comes from C.
    code = (
        "from reverie.envs.make import make_env, spec_of\n"
        "for name in ('HalfCheetah-v4', 'HalfCheetah-v5'):\n"
        "    make_env(spec_of(name, env_kwargs={}, physics='as-is')).reset(seed=0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "default::DeprecationWarning:gymnasium", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout + done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_the_age_of_v4_tasks_is_not_remarked():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        of("Hopper-v4")
