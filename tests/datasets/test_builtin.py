"""Builtin datasets: what they hold, and that they are recorded once and always alike."""

import inspect
import itertools
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from reverie.datasets import recording
from reverie.datasets.cache import cache_root
from reverie.datasets.readers import builtin
from reverie.envs import (
    cartpole_swingup,
    duffing,
    edge_of_reach,
    lorenz,
    predator_prey,
    refrigerator,
)
from reverie.envs.make import make_env
from reverie.envs.termination import rule_for_spec
from reverie.envs.true_dynamics import simulator_for

FOLDER = Path(__file__).parents[2] / "conf" / "dataset" / "builtin"
PENDULUM = {
    "name": "small",
    "task": "pendulum-mixed",
    "episodes": 4,
    "seed": 0,
    "mixture": [{"strength": 1.0, "random": 0.2}, {"strength": 0.5, "random": 1.0}],
}
HOPPER = {"name": "small", "task": "hopper-random", "steps": 300, "seed": 0}
WALKS = {
    "name": "small",
    "task": "edge-of-reach",
    "episodes": 6,
    "episode_steps": 30,
    "seed": 0,
    "random": [1.0, 0.0],
}

THERMOSTATS = {
    "name": "small",
    "task": "refrigerator",
    "episodes": 4,
    "seed": 0,
    "set_point": 5.0,
    "gain": 0.05,
    "noise": 0.05,
}


SWINGUPS = {
    "name": "small",
    "task": "cartpole-swingup",
    "steps": 600,
    "seed": 0,
    "random": [0.0, 1.0],
}
CULLS = {
    "name": "small",
    "task": "predator-prey",
    "steps": 600,
    "seed": 0,
    "random": [0.0, 1.0],
}
FORCES = {task: {**CULLS, "task": task} for task in ("duffing", "lorenz")}
RECORDINGS = [PENDULUM, HOPPER, WALKS, THERMOSTATS, SWINGUPS, CULLS, *FORCES.values()]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path))


@pytest.fixture
def recordings(monkeypatch):
    """How often each task was recorded."""
    counts = []
    plain = builtin.record_episodes

    def counting(task, *rest):
        counts.append(task)
        return plain(task, *rest)

    monkeypatch.setattr(builtin, "record_episodes", counting)
    return counts


def test_a_long_recording_says_how_far_it_is(monkeypatch, caplog):
    """By the clock, for steps of some tasks take a hundred times those of others."""
    caplog.set_level(logging.INFO)
    seconds = itertools.count(step=0.5)
    monkeypatch.setattr(recording, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    builtin.load(**FORCES["duffing"] | {"steps": 20})
    told = [text for text in caplog.messages if "duffing: " in text]
    assert told[0].endswith("duffing: recording in ReverieDuffing-v0")
    assert len(told) == 3 and all(text.endswith(" of 20 steps recorded") for text in told[1:])


def written(name):
    keys = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    assert keys.pop("_target_") == "reverie.datasets.readers.builtin.load"
    for transform in ("hide", "history", "chunks", "copies"):
        assert keys.pop(transform, 0) is None
    assert keys.pop("storage") == "memory"  # of its rows, once it is read
    return keys


def same(first, second):
    return first.fingerprint == second.fingerprint


@pytest.mark.parametrize("task", builtin.TASKS)
def test_every_task_has_a_file_with_exactly_its_keys(task):
    keys = written(task)
    expected = list(inspect.signature(builtin.TASKS[task].record).parameters)[1:]
    assert keys.keys() == {"name", "task", "subset", *expected}
    assert keys["task"] == task
    logged = {"two-tanks"}  # as a table, see datasets.readers.two_tanks
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(builtin.TASKS) | logged


@pytest.mark.parametrize("keys", RECORDINGS, ids=lambda keys: keys["task"])
def test_a_recording_is_the_same_bit_for_bit_wherever_it_is_made(
    keys, tmp_path, monkeypatch, recordings
):
    first = builtin.load(**keys)
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "elsewhere"))
    second = builtin.load(**keys)
    assert recordings == [keys["task"]] * 2
    assert same(first, second)
    assert not same(first, builtin.load(**{**keys, "seed": 1}))


def test_the_second_time_it_comes_from_the_cache(recordings):
    first = builtin.load(**PENDULUM)
    assert same(first, builtin.load(**{**PENDULUM, "name": "other"}))  # a label, no content
    assert recordings == ["pendulum-mixed"]


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"episodes": 2}, {"mixture": [{"strength": 1.0, "random": 0.2}]}]
)
def test_other_parameters_are_other_recordings(change, recordings):
    builtin.load(**PENDULUM)
    builtin.load(**{**PENDULUM, **change})
    assert len(recordings) == 2


def test_another_generator_or_simulator_records_anew(monkeypatch, recordings):
    builtin.load(**HOPPER)
    monkeypatch.setattr(builtin, "GENERATOR_VERSION", 10**6)
    builtin.load(**HOPPER)
    monkeypatch.setattr(builtin, "version", lambda library: "0.0")
    builtin.load(**HOPPER)
    assert len(recordings) == 3


def test_a_recording_that_was_interrupted_is_never_seen(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(builtin, "record_episodes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            builtin.load(**PENDULUM)
    assert list((cache_root() / "builtin").glob("*.npz")) == []
    assert len(builtin.load(**PENDULUM)) == 800
    assert len(list((cache_root() / "builtin").glob("*.npz"))) == 1


def test_a_longer_recording_begins_like_a_shorter_one():
    short, long = builtin.load(**HOPPER), builtin.load(**{**HOPPER, "steps": 400})
    assert torch.equal(short.transitions.obs, long.transitions.obs[:300])
    assert torch.equal(short.transitions.action, long.transitions.action[:300])


def test_the_pendulum_only_meets_its_time_limit():
    data = builtin.load(**PENDULUM)
    assert data.episode_lengths.tolist() == [200] * 4
    assert not data.transitions.terminated.any()
    assert data.truncated.nonzero().flatten().tolist() == [199, 399, 599, 799]
    assert data.valid_next.all()
    assert (data.spec.env_id, data.spec.max_episode_steps) == ("Pendulum-v1", 200)


def test_the_hopper_falls_and_the_last_episode_is_cut():
    data = builtin.load(**HOPPER)
    assert len(data) == 300
    ends = data.episode_starts + data.episode_lengths - 1
    assert data.transitions.terminated[ends[:-1]].all()
    assert data.truncated.nonzero().flatten().tolist() == [299]
    rule = rule_for_spec(data.spec)
    rows = data.transitions
    assert torch.equal(rule(rows.obs, rows.action, rows.next_obs), rows.terminated)
    assert data.reference.source.startswith("measured in Hopper-v5")


@pytest.mark.parametrize("keys", RECORDINGS, ids=lambda keys: keys["task"])
def test_rows_follow_each_other_and_the_environment(keys):
    data = builtin.load(**keys)
    rows, start, length = data.transitions, data.episode_starts[1], data.episode_lengths[1]
    inside = torch.ones(len(data), dtype=torch.bool)
    inside[data.episode_starts + data.episode_lengths - 1] = False
    assert torch.equal(rows.next_obs[inside], rows.obs[1:][inside[:-1]])
    # Replay the second episode in the environment that agents are scored in. Mapping actions to
    # [-1, 1] and back costs the last bit, which a swinging pendulum amplifies slowly.
    env = make_env(data.spec)
    start_seed = np.random.default_rng([keys["seed"], 1]).integers(2**31)
    obs, _ = env.reset(seed=int(start_seed))
    for row in range(start, start + min(length, 50)):
        obs, reward, *_ = env.step(rows.action[row].numpy())
        np.testing.assert_allclose(reward, rows.reward[row].item(), atol=1e-4)
        np.testing.assert_allclose(obs, rows.next_obs[row].numpy(), atol=1e-4)


@pytest.mark.parametrize("steps", [1, 30])
def test_walks_have_the_length_asked_for_and_never_terminate(steps):
    data = builtin.load(**{**WALKS, "episode_steps": steps})
    assert data.episode_lengths.tolist() == [steps] * 6
    assert not data.transitions.terminated.any() and data.valid_next.all()
    starts = data.transitions.obs[data.episode_starts]
    assert starts.abs().max() <= 2.0 and starts.std() > 0.5
    # Scores are those of whole episodes, however short the recorded ones are.
    assert (data.spec.env_id, data.spec.max_episode_steps) == ("ReverieEdgeOfReach-v0", 30)


def test_walks_are_the_environments_own_and_the_kinds_take_turns():
    data = builtin.load(**WALKS)
    rows = data.transitions
    next_obs, reward, _ = edge_of_reach.dynamics(rows.obs, rows.action)
    torch.testing.assert_close(next_obs, rows.next_obs)
    torch.testing.assert_close(reward, rows.reward)
    straight = (rows.action - edge_of_reach.controller(rows.obs)).abs().amax(1) < 1e-6
    assert straight.reshape(6, 30).all(1).tolist() == [False, True] * 3
    assert data.reference.normalise(data.returns[1::2]).mean() == pytest.approx(100, abs=10)


def test_thermostats_are_the_environments_own_and_keep_to_their_band():
    data = builtin.load(**written("refrigerator"))
    rows = data.transitions
    assert len(data) == 2_000 and not rows.terminated.any() and data.valid_next.all()
    # The true dynamics replay it, but for the noise that the environment adds.
    step = simulator_for(data.spec, threads=1).step(rows.obs, rows.action)
    noise = rows.next_obs - step.next_obs
    assert noise.std() == pytest.approx(refrigerator.NOISE, rel=0.1) and noise.mean().abs() < 2e-3
    torch.testing.assert_close(rows.reward, refrigerator.reward_of(rows.next_obs))
    asked = refrigerator.thermostat(rows.obs, 5.0, 0.05)
    assert ((rows.action - asked) / 2).std() == pytest.approx(0.05, rel=0.1)
    assert rows.obs.min() > 2.0 and rows.obs.max() < 8.0
    with pytest.raises(ValueError, match=r"noise=-1\.0"):
        builtin.load(**{**THERMOSTATS, "noise": -1.0})


def test_swingups_terminate_off_the_rail_only_and_the_kinds_take_turns():
    data = builtin.load(**{**SWINGUPS, "steps": 1500})
    rows = data.transitions
    next_obs, reward, ended = cartpole_swingup.dynamics(rows.obs, rows.action)
    torch.testing.assert_close(next_obs, rows.next_obs)
    torch.testing.assert_close(reward, rows.reward)
    assert torch.equal(ended, rows.terminated) and ended.any()
    scores = data.reference.normalise(data.returns[:-1])  # the last is cut
    assert scores[0::2].min() > 95 and scores[1::2].max() < 20


def test_the_mixture_takes_turns_and_is_graded():
    data = builtin.load(**{**PENDULUM, "episodes": 20})
    returns = data.reference.normalise(data.returns)
    assert returns[0::2].mean() > returns[1::2].mean() + 30.0


def test_the_default_pendulum_leaves_room_to_improve():
    data = builtin.load(**written("pendulum-mixed"))
    scores = data.reference.normalise(data.returns)
    assert len(data) == 24_000
    assert 20.0 < scores.mean() < 45.0
    rows = data.transitions
    assert rows.obs.amin(0).tolist() == pytest.approx([-1.0, -1.0, -8.0], abs=1e-3)
    assert rows.obs.amax(0).tolist() == pytest.approx([1.0, 1.0, 8.0], abs=1e-3)
    assert rows.action.abs().max() <= 1.0
    assert 0.5 < rows.action.std() < 0.8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "pendulum"}, "task='pendulum' is not a builtin dataset; .* pendulum-mixed"),
        (
            {"episode": 3},
            "the keys of this dataset are name, task, subset, episodes, seed, mixture",
        ),
        ({"episodes": 0}, "episodes=0 must be at least 1"),
        ({"mixture": []}, "mixture is empty"),
        ({"mixture": [{"strength": 0.0, "random": 0.1}]}, "`strength` in"),
        ({"mixture": [{"strength": 1.0, "random": 1.1}]}, "`random` in"),
        ({"mixture": [{"strength": 1.0}]}, "`random` in"),
    ],
)
def test_wrong_keys_are_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        builtin.load(**{**PENDULUM, **changes})
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_refused():
    with pytest.raises(ValueError, match="'seed'"):
        builtin.load(**{key: value for key, value in PENDULUM.items() if key != "seed"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episode_steps": 0}, "episode_steps=0 must be at least 1"),
        ({"random": []}, r"random=\[\] must list probabilities"),
        ({"random": [0.5, 1.5]}, "must list probabilities"),
    ],
)
def test_wrong_walks_are_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        builtin.load(**{**WALKS, **changes})
    assert "\n" not in str(caught.value)


def test_random_actions_are_recorded_in_any_task_and_named_after_it():
    options = {"env_kwargs": {}, "max_episode_steps": 9, "steps": 200, "reference": None}
    data = builtin.load_random(name=None, env_id="MountainCarContinuous-v0", seed=0, **options)
    assert data.name == "MountainCarContinuous-v0" == data.spec.env_id and len(data) == 200
    assert (data.episode_lengths[:-1] == 9).all() and data.truncated.sum() == 23
    action = data.transitions.action[:, 0]
    assert abs(action.mean()) < 0.17 and abs(action.var() - 1 / 3) < 0.09  # four standard errors
    other = builtin.load_random(name="a", env_id="MountainCarContinuous-v0", seed=1, **options)
    assert other.name == "a" and other.fingerprint != data.fingerprint
    with pytest.raises(ValueError, match=r"dataset\.steps=0 must be"):
        builtin.load_random(name=None, env_id="Pendulum-v1", seed=0, **(options | {"steps": 0}))


def test_culls_are_whole_numbers_and_the_kinds_take_turns():
    data = builtin.load(**CULLS)
    rows = data.transitions
    culled = 2.5 + 2.5 * rows.action
    torch.testing.assert_close(culled, culled.round(), atol=1e-5, rtol=0)
    assert set(culled.round().flatten().tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}
    torch.testing.assert_close(rows.reward, predator_prey.reward_of(rows.obs, culled))
    assert torch.equal(rows.obs, rows.obs.round()) and not rows.terminated.any()
    own = (culled - predator_prey.controller(rows.obs)).abs().amax(1) < 1e-5
    assert own.reshape(6, 100).all(1).tolist() == [True, False] * 3
    scores = data.reference.normalise(data.returns)
    assert scores[0::2].mean() == pytest.approx(100, abs=15) and scores[1::2].max() < 90


@pytest.mark.parametrize("task", [duffing, lorenz], ids=lambda task: task.__name__[-7:])
def test_forces_are_the_environments_own_and_the_kinds_take_turns(task):
    name = task.__name__.rpartition(".")[-1]
    data = builtin.load(**{**FORCES[name], "steps": 1200})
    rows, limit = data.transitions, task.LIMIT
    next_obs, reward, ended = task.dynamics(rows.obs, limit * rows.action)
    torch.testing.assert_close(next_obs, rows.next_obs, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(reward, rows.reward, rtol=1e-5, atol=1e-4)
    assert not ended.any() and not rows.terminated.any() and data.episode_lengths[0] == 200
    own = (limit * rows.action - task.controller(rows.obs)).abs().amax(1) < 1e-4 * limit
    assert own.reshape(6, 200).all(1).tolist() == [True, False] * 3
    scores = data.reference.normalise(data.returns)
    assert scores[0::2].mean() == pytest.approx(100, abs=25) and scores[1::2].max() < 60
