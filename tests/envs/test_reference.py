"""Reference returns by exact name."""

import importlib.util
from pathlib import Path

import pytest
import torch

from reverie.envs.controllers import swing_up_pendulum
from reverie.envs.evaluation import episode_returns
from reverie.envs.make import spec_of
from reverie.envs.reference import reference_for


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("hopper-medium-v2", -20.272305, 3234.3),
        ("halfcheetah-medium-expert-v2", -280.178953, 12135.0),
        ("walker2d-full-replay-v2", 1.629008, 4592.3),
        ("ant-random-v0", -325.6, 3879.7),
        ("maze2d-umaze-v1", 23.85, 161.86),
        ("maze2d-large-dense-v1", 30.569041, 303.4857382709002),
        ("antmaze-large-diverse-v2", 0.0, 1.0),
        ("kitchen-mixed-v0", 0.0, 4.0),
        ("pen-human-v1", 96.262799, 3076.8331017826877),
        ("relocate-expert-v1", -6.425911, 4233.877797728884),
        ("door-cloned-v1", -56.512833, 2880.5693087298737),
        ("hammer-cloned-v1", -274.856578, 12794.134825156867),
    ],
)
def test_d4rl_names_have_their_scores(name, low, high):
    reference = reference_for(name)
    assert (reference.low, reference.high) == (low, high)
    assert reference.normalise(low) == 0.0
    assert reference.normalise(high) == pytest.approx(100.0)


@pytest.mark.parametrize(
    "name",
    [
        "hopper",
        "hopper-medium",
        "hopper-medium-v3",
        "my-hopper-medium-v2",
        "ant-maze",
        "",
        "kitchen",
    ],
)
def test_other_names_have_none(name):
    assert reference_for(name) is None


def test_builtin_references_say_how_they_came_about():
    assert "Pendulum-v1" in reference_for("builtin/pendulum-mixed").source
    assert "D4RL" in reference_for("builtin/hopper-random").source


@pytest.mark.skipif(importlib.util.find_spec("d4rl") is None, reason="extra d4rl not installed")
def test_the_table_is_that_of_the_d4rl_package():
    # Read by path: the package itself cannot be imported without mujoco-py.
    folder = Path(importlib.util.find_spec("d4rl").submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location("d4rl_infos", folder / "infos.py")
    infos = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(infos)
    left_out = ("bullet-", "flow-", "carla-")
    checked = 0
    for name, low in infos.REF_MIN_SCORE.items():
        if not name.startswith(left_out):
            reference = reference_for(name)
            assert reference is not None, name
            assert (reference.low, reference.high) == (low, infos.REF_MAX_SCORE[name]), name
            checked += 1
    assert checked == 117


def random_policy(action_dim):
    generator = torch.Generator().manual_seed(0)
    return lambda obs: torch.rand(*obs.shape[:-1], action_dim, generator=generator) * 2 - 1


def swing_up(obs):
    torques = [[[swing_up_pendulum(one, 1.0)] for one in each] for each in obs.tolist()]
    return torch.tensor(torques) / 2.0


def mean_return(env_id, policy, episodes):
    spec = spec_of(env_id, env_kwargs={}, physics="as-is")
    returns, _ = episode_returns(spec, policy, 1, episodes, seed=0)
    return returns.mean().item()


def test_the_expert_of_the_pendulum_scores_100_and_a_weak_one_less():
    reference = reference_for("builtin/pendulum-mixed")
    # 40 starts instead of 1000: the standard error of the mean is about 1.3 points.
    score = reference.normalise(mean_return("Pendulum-v1", swing_up, 40))
    assert score == pytest.approx(100.0, abs=4.0)
    assert reference.normalise(mean_return("Pendulum-v1", random_policy(1), 10)) < 30.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env_id", "policy", "expected"),
    [
        ("Pendulum-v1", swing_up, reference_for("builtin/pendulum-mixed").high),
        ("Pendulum-v1", random_policy(1), reference_for("builtin/pendulum-mixed").low),
        ("Hopper-v5", random_policy(3), reference_for("builtin/hopper-random").low),
    ],
)
def test_builtin_references_are_what_is_measured(env_id, policy, expected):
    # The same starts and actions as when they were written down, so only versions can differ.
    assert mean_return(env_id, policy, 1000) == pytest.approx(expected, abs=0.5)
