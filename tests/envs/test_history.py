"""Histories and hidden columns in an environment: the same bits as the transform of a record."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

from reverie.datasets import hide, load, stack
from reverie.envs import snapshot
from reverie.envs.evaluation import Evaluator
from reverie.envs.make import make_env
from reverie.envs.termination import hopper, rule_for_spec
from reverie.envs.true_dynamics import simulator_for
from reverie.mistake import Mistake
from reverie.training.launch.options import build_option
from reverie.world_models.simulator import PerturbedSimulator

PENDULUM = {"action_low": -2, "action_high": 2, "env_id": "Pendulum-v1"}


def record(env, actions, seed=0):
    """Observations, one more than actions, and rewards."""
    obs, _ = env.reset(seed=seed)
    seen, rewards = [obs], []
    for action in actions:
        obs, reward, _, _, _ = env.step(action)
        seen.append(obs)
        rewards.append(reward)
    return np.stack(seen), np.array(rewards)


@pytest.mark.parametrize(("obs", "actions"), [(3, 2), (2, 0), (1, 2), (4, 5)])
@pytest.mark.parametrize("hidden", [None, [2], [0, 1]])
def test_an_environment_gives_the_bits_of_the_transform(obs, actions, hidden):
    # Beyond the box too: what counts is what the environment took.
    commands = np.random.default_rng(0).uniform(-1.2, 1.2, (2, 30, 1)).astype(np.float32)
    plain = load("builtin/pendulum-mixed", episodes=1).spec
    columns = {"observations": [], "next_observations": [], "rewards": []}
    with closing(make_env(plain)) as env:
        for seed, episode in enumerate(commands):
            seen, rewards = record(env, episode, seed)
            columns["observations"].append(seen[:-1])
            columns["next_observations"].append(seen[1:])
            columns["rewards"].append(rewards)
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    ends = np.arange(60) % 30 == 29
    arrays |= {"actions": commands.reshape(-1, 1), "terminals": np.zeros(60), "timeouts": ends}
    data = load(arrays, action_low=-1, action_high=1, clip_actions=True)
    data = replace(data, spec=replace(plain, max_episode_steps=200))
    data = stack(data if hidden is None else hide(data, hidden), obs, actions)
    with closing(make_env(data.spec)) as env:
        assert env.observation_space.shape == (data.spec.obs_dim,)
        for seed, episode in enumerate(commands):
            seen, rewards = record(env, episode, seed)
            rows = data.transitions[30 * seed : 30 * (seed + 1)]
            assert np.array_equal(seen[:-1], rows.obs.numpy())
            assert np.array_equal(seen[1:], rows.next_obs.numpy())
            assert np.array_equal(rewards.astype(np.float32), rows.reward.numpy())


def test_each_episode_is_scored_from_an_empty_history():
    spec = load("builtin/pendulum-mixed", episodes=1, hide=[2], history=3).spec
    first = []

    def policy(obs):
        first.append(obs.clone())
        return torch.zeros(*obs.shape[:-1], 1)

    with closing(Evaluator(spec=spec, seeds=2, episodes=2)) as evaluator:
        one = evaluator.run(policy, seed=0)
        again = evaluator.run(policy, seed=0)
    assert torch.equal(one.returns, again.returns) and one.lengths.eq(200).all()
    assert torch.equal(first[0], first[200]) and (first[0][..., 6:] == 0).all()
    assert torch.equal(first[0][..., :2], first[0][..., 4:6])
    assert not torch.equal(first[5][..., :2], first[5][..., 2:4])


def test_the_state_of_a_history_is_kept_with_its_environment():
    spec = load("builtin/pendulum-mixed", episodes=1, history=3).spec
    assert snapshot.is_faithful(lambda: make_env(spec))
    simulator = PerturbedSimulator(spec=spec, seeds=1, environments=2, gravity=1.2)
    rows = simulator.move(lambda obs: torch.full((1, 2, 1), 0.5), torch.zeros(1, 1, 11)).rows
    assert (rows.next_obs[..., 9] == 0.5).all()
    assert torch.equal(rows.next_obs[..., 3:6], rows.obs[..., :3])


def test_a_rule_of_termination_sees_what_is_seen_now():
    data = load("builtin/hopper-random", steps=600)
    rows = stack(data, 3).transitions
    rule = rule_for_spec(stack(data, 3).spec)
    assert torch.equal(rule(rows.obs, rows.action, rows.next_obs), rows.terminated)
    wild = rows.next_obs.clone()
    wild[:, data.spec.obs_dim :] = 1e3  # of before
    assert torch.equal(rule(rows.obs, rows.action, wild), rows.terminated)
    assert rule_for_spec(data.spec) is hopper
    assert rule_for_spec(hide(data, [1]).spec) is None
    assert rule_for_spec(load("builtin/pendulum-mixed", episodes=1, hide=[2]).spec) is not None


def test_exact_dynamics_step_what_is_seen_now():
    data = load("builtin/pendulum-mixed", episodes=3, history=3)
    settings = {"threads": 1, "rows": 500, "tolerance": 1e-3}
    model = build_option(
        "world_model", "true_dynamics", changes=settings, spec=data.spec, seeds=1, seed=0
    )
    assert model.fit(data)["replay"]["all"]["next_obs_max"] < 1e-4
    rows = data.transitions[:200]
    found = model.step(rows.obs[None], rows.action[None], 2).next_obs
    assert found.shape == (2, 1, 200, 11)
    assert torch.equal(found[1, 0, :, 3:], rows.next_obs[:, 3:])
    with pytest.raises(Mistake, match=r"leave dataset\.history at null"):
        simulator_for(data.spec, 1)
    hidden = load("builtin/pendulum-mixed", episodes=3, hide=[2])
    with pytest.raises(Mistake, match=r"dataset\.hide=\[2\] change the observation"):
        simulator_for(hidden.spec, 1)


def test_other_spaces_are_still_refused():
    spec = load("builtin/pendulum-mixed", episodes=1, hide=[2], history=2).spec
    with pytest.raises(Mistake, match=r"size 2 and .* but Pendulum-v1 has 3 and 1"):
        make_env(replace(spec, hidden=()))
