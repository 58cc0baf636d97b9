"""Batched simulators give what `env.step` gives, from any state, for every task and version."""

from contextlib import closing
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

from reverie.envs.make import make_env, spec_of
from reverie.envs.physics import margins_add
from reverie.envs.true_dynamics import MUJOCO_TASKS, TENSOR_DYNAMICS, simulator_for

WALKERS = [f"{task}-{version}" for task in ("Hopper", "Walker2d") for version in ("v4", "v5")]
BALANCERS = ["InvertedPendulum-v4", "InvertedPendulum-v5"]


def task(env_id, physics="as-is", **env_kwargs):
    return spec_of(env_id, env_kwargs=env_kwargs, physics=physics)


def full_state(env):
    data = env.unwrapped.data
    return np.concatenate([[data.time], data.qpos, data.qvel])


def recorded(spec, rows, steps, seed=0):
    """Rows of `steps` steps of `env.step` each, on through terminations: columns [steps, rows]."""
    rng = np.random.default_rng(seed)
    columns = {}
    with closing(make_env(spec)) as env:
        for row in range(rows):
            obs, _ = env.reset(seed=seed + row)
            for t in range(steps):
                action = rng.uniform(-1, 1, spec.action_dim).astype(np.float32)
                before = full_state(env)
                next_obs, reward, terminated, _, _ = env.step(action)
                found = {
                    "obs": obs,
                    "action": action,
                    "before": before,
                    "after": full_state(env),
                    "next_obs": next_obs,
                    "reward": np.float64(reward),
                    "terminated": np.bool_(terminated),
                }
                for name, value in found.items():
                    lines = columns.setdefault(name, [[] for _ in range(steps)])
                    lines[t].append(value)
                obs = next_obs
    return {name: torch.from_numpy(np.array(lines)) for name, lines in columns.items()}


def agrees(outcome, truth):
    assert torch.allclose(outcome.state, truth["after"], rtol=1e-8, atol=1e-8)
    assert torch.allclose(outcome.next_obs, truth["next_obs"], rtol=1e-6, atol=1e-6)
    assert torch.allclose(outcome.reward.double(), truth["reward"], rtol=1e-6, atol=1e-6)
    assert torch.equal(outcome.terminated, truth["terminated"])


@pytest.mark.parametrize(
    "spec",
    [task(env_id) for env_id in MUJOCO_TASKS]
    + [
        task("Hopper-v4", "d4rl"),
        task("Walker2d-v5", healthy_z_range=(1.1, 1.3), healthy_reward=2.0),
        task("Walker2d-v4", terminate_when_unhealthy=False, healthy_angle_range=(-0.1, 0.1)),
        task("Hopper-v5", healthy_state_range=(-3.0, 3.0), ctrl_cost_weight=0.1),
        task("HalfCheetah-v5", exclude_current_positions_from_observation=False, frame_skip=2),
        task("Hopper-v5", forward_reward_weight=3.0, xml_file="hopper.xml", frame_skip=8),
    ],
    ids=lambda spec: " ".join([spec.env_id, spec.physics, *spec.env_kwargs]),
)
def test_a_batch_of_rollouts_equals_steps_of_the_environment_one_by_one(spec):
    # Until all have fallen. The solver starts from another guess, and chaos makes its error grow.
    steps = 50 if spec.env_id in WALKERS else 25
    truth = recorded(spec, rows=4, steps=steps)
    simulator = simulator_for(spec, threads=1)
    obs, state = truth["obs"][0], truth["before"][0]
    for t in range(steps):
        outcome = simulator.step(obs, truth["action"][t], state)
        agrees(outcome, {name: column[t] for name, column in truth.items()})
        obs, state = outcome.next_obs, outcome.state
    may_end = spec.env_kwargs.get("terminate_when_unhealthy", spec.env_id in WALKERS + BALANCERS)
    assert truth["terminated"].any() == may_end  # the steps on which the versions differ are there


def test_the_physics_of_older_data_is_another_one():
    if not margins_add():
        pytest.skip("this MuJoCo never added contact margins")
    truth = recorded(task("Hopper-v4", "d4rl"), rows=2, steps=20)
    args = (truth["obs"].flatten(0, 1), truth["action"].flatten(0, 1))
    before = truth["before"].flatten(0, 1)
    other = simulator_for(task("Hopper-v4"), threads=1).step(*args, before)
    assert (other.state - truth["after"].flatten(0, 1)).abs().max() > 1e-4


@pytest.mark.parametrize("env_id", list(MUJOCO_TASKS))
def test_recorded_transitions_replay_from_their_observations(env_id):
    spec = task(env_id)
    truth = {name: column.flatten(0, 1) for name, column in recorded(spec, 3, 15).items()}
    simulator = simulator_for(spec, threads=1)
    clipped = simulator.clipped(truth["obs"])
    # The unclipped velocities of the environment itself say which rows cannot be rebuilt.
    qvel = truth["before"][:, 1 + simulator.model.nq :]
    expected = (qvel.abs() >= 10).any(1) & (env_id in WALKERS)
    assert torch.equal(clipped, expected)
    rows = {name: column[~clipped] for name, column in truth.items()}
    outcome = simulator.step(rows["obs"], rows["action"])
    # Observations hold 32 bits, and contacts amplify what they round away.
    assert torch.allclose(outcome.next_obs, rows["next_obs"], rtol=1e-3, atol=1e-3)
    assert torch.allclose(outcome.reward.double(), rows["reward"], rtol=1e-3, atol=1e-3)
    assert torch.equal(outcome.terminated, rows["terminated"])


@pytest.mark.parametrize("env_id", WALKERS)
def test_version_4_pays_for_staying_alive_on_the_last_step_too(env_id):
    simulator = simulator_for(task(env_id), threads=1)
    obs = torch.zeros(2, simulator.spec.obs_dim)
    obs[:, 0] = torch.tensor([1.25, 0.5])  # standing, and lying on the ground
    outcome = simulator.step(obs, torch.zeros(2, simulator.spec.action_dim))
    assert outcome.terminated.tolist() == [False, True]
    speed = outcome.state[:, 1] / simulator.dt
    alive = torch.tensor([1.0, 1.0 if env_id.endswith("v4") else 0.0])
    assert torch.allclose(outcome.reward, speed.float() + alive, atol=1e-6)


def test_hoppers_state_range_holds_for_the_angle_but_not_for_the_height():
    simulator = simulator_for(task("Hopper-v5", healthy_state_range=(-0.15, 0.15)), threads=1)
    obs = torch.zeros(2, 11)
    obs[:, 0], obs[:, 1] = 1.3, torch.tensor([0.1, 0.18])  # in the air; 0.2 is the angle's limit
    assert simulator.step(obs, torch.zeros(2, 3)).terminated.tolist() == [False, True]


@pytest.mark.parametrize("env_id", BALANCERS)
def test_a_fallen_pendulum_ends_and_only_version_4_pays_for_it(env_id):
    simulator = simulator_for(task(env_id), threads=1)
    obs = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.3, 0.0, 0.0]])
    outcome = simulator.step(obs, torch.zeros(2, 1))
    assert outcome.terminated.tolist() == [False, True]
    assert outcome.reward.tolist() == [1.0, 1.0 if env_id.endswith("v4") else 0.0]


def test_the_horizontal_position_does_not_matter():
    simulator = simulator_for(task("HalfCheetah-v5"), threads=1)
    obs, action = 0.1 * torch.randn(5, 17), torch.rand(5, 6) * 2 - 1
    here = simulator.initial_state(obs)
    far = here.clone()
    far[:, :2] += torch.tensor([3.0, 100.0])
    first, second = simulator.step(obs, action, here), simulator.step(obs, action, far)
    assert torch.allclose(first.next_obs, second.next_obs, atol=1e-6)
    assert torch.allclose(first.reward, second.reward, atol=1e-6)


def test_threads_share_the_work_without_changing_a_bit():
    spec = task("Walker2d-v5")
    truth = {name: column.flatten(0, 1) for name, column in recorded(spec, 3, 15).items()}
    args = (truth["obs"], truth["action"], truth["before"])
    one, three = (simulator_for(spec, threads=n).step(*args) for n in (1, 3))
    assert torch.equal(one.state, three.state) and torch.equal(one.reward, three.reward)
    # Rows do not depend on their neighbours or on what a thread simulated before.
    simulator = simulator_for(spec, threads=1)
    simulator.step(*(column.flip(0) for column in args))
    alone = simulator.step(*(column[20:21] for column in args))
    assert torch.equal(alone.state, one.state[20:21])


@pytest.mark.parametrize("env_id", ["Hopper-v5", "InvertedPendulum-v4"])
def test_rows_without_a_future_are_nan_and_end_alone(env_id):
    simulator = simulator_for(task(env_id), threads=2)
    obs = torch.zeros(5, simulator.spec.obs_dim)
    obs[:, 0] = 1.25
    action = torch.zeros(5, simulator.spec.action_dim)
    clean = simulator.step(obs, action)
    assert clean.next_obs.isfinite().all()
    obs[0, 1], obs[2, 0], obs[4, -1] = float("nan"), float("inf"), 1e12  # the last one blows up
    action[1, 0] = float("nan")
    dirty = simulator.step(obs, action)
    for lost in (0, 1, 2, 4):
        assert dirty.next_obs[lost].isnan().all() and dirty.reward[lost].isnan()
        assert dirty.terminated[lost]
    assert torch.equal(dirty.next_obs[3], clean.next_obs[3])


def test_actions_beyond_the_box_are_clipped_as_the_environment_does():
    simulator = simulator_for(task("InvertedPendulum-v5"), threads=1)  # box +-3
    obs = torch.zeros(3, 4)
    outcome = simulator.step(obs, torch.tensor([[1.0], [7.0], [0.5]]))
    assert torch.equal(outcome.state[0], outcome.state[1])
    assert simulator.to_box(torch.tensor([[0.5]])).item() == 1.5


def test_pendulum_follows_its_environment_step_by_step():
    spec = task("Pendulum-v1", g=9.81)
    simulator = simulator_for(spec, threads=1)
    rng = np.random.default_rng(0)
    with closing(make_env(spec)) as env:
        for episode in range(4):
            env.reset(seed=episode)
            angle, speed = env.unwrapped.state
            obs = torch.tensor([[np.cos(angle), np.sin(angle), speed]], dtype=torch.float64)
            for _ in range(60):
                # A multiple of 1/8 survives the 32 bits in which the environment multiplies it.
                action = rng.integers(-8, 9, 1).astype(np.float32) / 8
                _, reward, terminated, _, _ = env.step(action)
                outcome = simulator.step(obs, torch.from_numpy(action)[None])
                obs = outcome.next_obs
                angle, speed = env.unwrapped.state
                expected = torch.tensor([[np.cos(angle), np.sin(angle), speed]])
                assert torch.allclose(obs, expected, atol=1e-7)
                # The environment multiplies g and the torque's cost in 32 bits.
                assert abs(outcome.reward.item() - reward) < 1e-6
                assert outcome.terminated.item() == terminated
        assert outcome.state is None and simulator.initial_state(obs) is None


def test_pendulum_replays_float32_observations_in_any_shape():
    spec = task("Pendulum-v1")
    with closing(make_env(spec)) as env:
        obs, _ = env.reset(seed=3)
        rows = []
        for _ in range(60):
            action = env.action_space.sample()
            next_obs, reward, *_ = env.step(action)
            rows.append((obs, action, next_obs, reward))
            obs = next_obs
    obs, action, next_obs, reward = (
        torch.from_numpy(np.array(column, np.float32)) for column in zip(*rows, strict=True)
    )
    outcome = simulator_for(spec, threads=1).step(obs.view(2, 30, 3), action.view(2, 30, 1))
    assert torch.allclose(outcome.next_obs.view(60, 3), next_obs, atol=1e-5)
    assert torch.allclose(outcome.reward.view(60), reward, atol=1e-4)
    assert outcome.next_obs.dtype == torch.float32


@pytest.mark.parametrize("env_id", ["ReverieEdgeOfReach-v0", "ReverieCartPoleSwingUp-v0"])
def test_a_task_of_our_own_is_its_own_simulator(env_id):
    spec = task(env_id)
    simulator = simulator_for(spec, threads=1)
    with closing(make_env(spec)) as env:
        obs, _ = env.reset(seed=0)
        for _ in range(20):
            action = env.action_space.sample()
            outcome = simulator.step(torch.from_numpy(obs)[None], torch.from_numpy(action)[None])
            obs, reward, terminated, _, _ = env.step(action)
            assert torch.equal(outcome.next_obs[0], torch.from_numpy(obs))
            assert outcome.reward.item() == pytest.approx(reward, abs=1e-6)
            assert outcome.terminated.item() == terminated


def test_a_task_of_tensors_joins_with_one_function(monkeypatch):
    def drift(obs, action, size=1.0):
        return obs + size * action, obs[..., 0], torch.zeros_like(obs[..., 0], dtype=torch.bool)

    class Drift(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        action_space = gymnasium.spaces.Box(-3.0, 1.0, (2,), np.float32)

        def __init__(self, size=1.0, colour="red"):
            pass

    monkeypatch.setitem(
        gymnasium.registry,
        "Drift-v0",
        gymnasium.envs.registration.EnvSpec("Drift-v0", entry_point=Drift),
    )
    monkeypatch.setitem(TENSOR_DYNAMICS, "Drift-v0", drift)
    simulator = simulator_for(task("Drift-v0", size=2.0), threads=1)
    outcome = simulator.step(torch.ones(1, 2), torch.tensor([[0.0, 9.0]]))
    assert outcome.next_obs.tolist() == [[-1.0, 3.0]]  # actions in the box: -1 and 1
    assert not simulator.clipped(torch.full((1, 2), 1e9)).any()
    with pytest.raises(ValueError, match=r"do not honour env_kwargs=\{'colour': 'blue'\}"):
        simulator_for(task("Drift-v0", colour="blue"), threads=1)


def test_what_cannot_be_simulated_is_refused():
    with pytest.raises(ValueError, match=r"env_id=Ant-v5 are not known.*HalfCheetah-v4.*Pendulum"):
        simulator_for(task("Ant-v5"), threads=1)
    with pytest.raises(ValueError, match=r"env_id=None are not known.*dataset\.env_id"):
        simulator_for(replace(task("Hopper-v5"), env_id=None), threads=1)
    with pytest.raises(ValueError, match="obs_slice=5"):
        simulator_for(replace(task("Hopper-v5"), obs_slice=5, obs_dim=5), threads=1)
    with pytest.raises(ValueError, match="observations of size 12"):
        simulator_for(replace(task("Hopper-v5"), obs_dim=12), threads=1)
    with pytest.raises(ValueError, match="threads=0"):
        simulator_for(task("Hopper-v5"), threads=0)
