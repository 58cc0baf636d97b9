"""A saved environment goes on to the same bits, through resets, time limits and noise."""

import numpy as np
import pytest
import torch

from reverie.envs import (
    cartpole_swingup,
    duffing,
    edge_of_reach,
    lorenz,
    predator_prey,
    refrigerator,
    snapshot,
)
from reverie.envs.make import make_env, spec_of
from reverie.envs.perturbed import Perturbation, make_perturbed


def go_on(env, steps, seed):
    rng = np.random.default_rng(seed)
    seen = []
    for _ in range(steps):
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        obs, reward, terminated, truncated, _ = env.step(action)
        seen.append(np.append(obs.astype(np.float64), [reward, terminated, truncated]))
        if terminated or truncated:
            seen.append(np.append(env.reset()[0].astype(np.float64), [0, 0, 0]))
    return np.array(seen)


# Tasks of our own; what they have in common is actions that noise can join.
OURS = (
    edge_of_reach.ENV_ID,
    refrigerator.ENV_ID,
    cartpole_swingup.ENV_ID,
    predator_prey.ENV_ID,
    duffing.ENV_ID,
    lorenz.ENV_ID,
)


# Ant's reward reads positions that a step leaves one substep behind its state.
@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Hopper-v5", "Ant-v5", "Reacher-v5", *OURS])
@pytest.mark.parametrize("steps", [0, 37])
def test_a_copy_put_into_a_saved_state_goes_on_bitwise(tmp_path, env_id, steps):
    spec = spec_of(env_id, env_kwargs={}, physics="as-is", max_episode_steps=50)
    changes = Perturbation(joint_noise=0.2, gravity=1.0 if env_id in OURS else 1.5)
    first, second = make_perturbed(spec, changes), make_perturbed(spec, changes)
    first.reset(seed=1)
    go_on(first, steps, seed=0)
    # As in a checkpoint: only tensors and plain values may be in it.
    torch.save(snapshot.take(first), tmp_path / "state.pt")
    second.reset(seed=2)
    go_on(second, 11, seed=9)
    snapshot.put_back(second, torch.load(tmp_path / "state.pt", weights_only=True))
    after, copied = go_on(first, 120, seed=1), go_on(second, 120, seed=1)
    assert np.array_equal(after, copied)
    # It went through terminations (Hopper falls early) or time limits.
    assert after[:, -2 if env_id == "Hopper-v5" else -1].any()


def test_a_saved_state_does_not_follow_the_environment():
    spec = spec_of("Hopper-v5", env_kwargs={}, physics="as-is")
    env = make_perturbed(spec, Perturbation())
    env.reset(seed=1)
    held = snapshot.take(env)
    first = go_on(env, 15, seed=1)
    snapshot.put_back(env, held)
    assert np.array_equal(first, go_on(env, 15, seed=1))


def test_frames_that_a_wrapper_holds_belong_to_the_state():
    wrappers = (
        {"name": "FrameStackObservation", "kwargs": {"stack_size": 3}},
        {"name": "DelayObservation", "kwargs": {"delay": 2}},
        {"name": "StickyAction", "kwargs": {"repeat_action_probability": 0.5}},
    )
    spec = spec_of("Pendulum-v1", env_kwargs={}, physics="as-is", wrappers=wrappers)
    first, second = make_env(spec), make_env(spec)
    first.reset(seed=1)
    go_on(first, 7, seed=0)
    held = snapshot.take(first)
    second.reset(seed=2)
    go_on(second, 11, seed=9)
    snapshot.put_back(second, held)
    assert np.array_equal(go_on(first, 250, seed=1), go_on(second, 250, seed=1))
