"""Side-by-side evaluation counts every episode once and equals the plain loop."""

import logging
from contextlib import closing

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from reverie.envs.evaluation import Evaluator, episode_returns
from reverie.envs.make import make_env, spec_of


class Countdown(gymnasium.Env):
    """Pays its action each step; terminates after as many steps as the seed says (seed % 10)."""

    observation_space = spaces.Box(-100, 100, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    steps_simulated = 0
    resets = 0
    actions: list = []  # noqa: RUF012, shared on purpose

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        type(self).resets += 1
        self.length, self.time = (seed or 0) % 10, 0
        return np.array([self.length, 0], np.float32), {}

    def step(self, action):
        type(self).steps_simulated += 1
        type(self).actions.append(float(action[0]))
        self.time += 1
        obs = np.array([self.length, self.time], np.float32)
        return obs, float(action[0]), self.time == self.length, False, {}


@pytest.fixture(autouse=True)
def registered():
    gymnasium.register("ReverieCountdown-v0", entry_point=Countdown, max_episode_steps=8)
    gymnasium.register("ReverieEndless-v0", entry_point=Countdown)
    Countdown.steps_simulated = Countdown.resets = 0
    Countdown.actions = []
    yield
    del gymnasium.registry["ReverieCountdown-v0"], gymnasium.registry["ReverieEndless-v0"]


def spec_for(env_id):
    return spec_of(env_id, env_kwargs={}, physics="as-is")


def ones(obs):
    return torch.ones(*obs.shape[:-1], 1)


def test_episodes_of_unequal_length_count_once_each():
    # Seeds 3, 4, 5 and so on end after as many steps, 9 is cut by the limit of 8.
    returns, lengths = episode_returns(spec_for("ReverieCountdown-v0"), ones, 2, 7, seed=3)
    expected = [3, 4, 5, 6, 7, 8, 8]
    assert lengths.tolist() == [expected, expected]
    assert returns.tolist() == [[float(n) for n in expected]] * 2
    assert (returns.dtype, lengths.dtype) == (torch.float64, torch.int64)


def test_starts_and_discounted_returns_belong_to_the_same_episodes():
    with closing(Evaluator(spec=spec_for("ReverieCountdown-v0"), seeds=2, episodes=3)) as evaluator:
        episodes = evaluator.run(ones, seed=3, discount=0.5)
    assert episodes.starts[..., 0].tolist() == [[3.0, 4.0, 5.0]] * 2
    assert (episodes.starts[..., 1] == 0).all()
    expected = [2 * (1 - 0.5**n) for n in (3, 4, 5)]
    assert episodes.discounted_returns.tolist() == [expected, expected]
    assert episodes.returns.tolist() == [[3.0, 4.0, 5.0]] * 2


def test_finished_copies_cost_no_simulation():
    spec = spec_for("ReverieCountdown-v0")
    Countdown.resets = Countdown.steps_simulated = 0
    episode_returns(spec, ones, 1, 5, seed=1)
    assert Countdown.steps_simulated == 1 + 2 + 3 + 4 + 5
    assert Countdown.resets == 5


def test_environments_serve_again_and_again():
    with closing(Evaluator(spec=spec_for("ReverieCountdown-v0"), seeds=2, episodes=3)) as evaluator:
        first = evaluator.episode_returns(ones, seed=1)
        other = evaluator.episode_returns(ones, seed=4)
        again = evaluator.episode_returns(ones, seed=1)
    assert other[1].tolist() == [[4, 5, 6]] * 2
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


def test_seeds_meet_the_same_starts_and_act_alone():
    seen = []

    def by_seed(obs):
        seen.append(obs.clone())
        seed = torch.tensor([0.25, -0.5]).reshape(2, 1, 1)
        return seed.expand(2, obs.shape[1], 1)

    returns, lengths = episode_returns(spec_for("ReverieCountdown-v0"), by_seed, 2, 3, seed=2)
    assert torch.equal(seen[0][0], seen[0][1])
    assert lengths.tolist() == [[2, 3, 4]] * 2
    assert returns.tolist() == [[0.5, 0.75, 1.0], [-1.0, -1.5, -2.0]]


@pytest.mark.parametrize("env_id", ["Hopper-v5", "Pendulum-v1"])
def test_the_result_is_that_of_a_single_environment(env_id):
    spec = spec_for(env_id)
    torch.manual_seed(0)
    weights = torch.randn(2, spec.obs_dim, spec.action_dim)  # one policy a seed

    def policy(obs):
        # Row by row, since a product's last bit may depend on the number of rows.
        return torch.stack(
            [
                torch.stack([torch.tanh(one @ w) for one in o])
                for o, w in zip(obs, weights, strict=True)
            ]
        )

    returns, lengths = episode_returns(spec, policy, 2, 3, seed=11)
    for seed in range(2):
        for episode in range(3):
            env = make_env(spec)
            obs, _ = env.reset(seed=11 + episode)
            total, steps, ended = 0.0, 0, False
            while not ended:
                action = torch.tanh(torch.tensor(obs) @ weights[seed]).numpy()
                obs, reward, terminated, truncated, _ = env.step(action)
                total, steps, ended = total + reward, steps + 1, terminated or truncated
            env.close()
            assert returns[seed, episode].item() == total
            assert lengths[seed, episode].item() == steps


def test_a_seed_that_diverged_is_nan_and_leaves_the_others_alone(caplog):
    def policy(obs):
        action = torch.ones(*obs.shape[:-1], 1)
        action[1, obs[1, :, 1] >= 2] = torch.nan  # seed 1 breaks at its third step
        return action

    with caplog.at_level(logging.WARNING, logger="reverie.envs.evaluation"):
        returns, _ = episode_returns(spec_for("ReverieCountdown-v0"), policy, 2, 3, seed=2)
    assert returns[0].tolist() == [2.0, 3.0, 4.0]
    assert returns[1, 0].item() == 2.0  # it ended before
    assert returns[1, 1:].isnan().all()
    assert np.isfinite(Countdown.actions).all()
    assert len(caplog.records) == 1
    assert "seeds [1]" in caplog.records[0].getMessage()


def test_the_policy_may_write_on_what_it_is_given():
    def greedy(obs):
        obs.zero_()
        return ones(obs)

    _, lengths = episode_returns(spec_for("ReverieCountdown-v0"), greedy, 1, 2, seed=3)
    assert lengths.tolist() == [[3, 4]]


def test_actions_of_another_task_are_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 2, 3\), expected \(1, 2, 1\)"):
        episode_returns(
            spec_for("ReverieCountdown-v0"), lambda obs: torch.zeros(1, 2, 3), 1, 2, seed=3
        )


def test_a_task_without_a_time_limit_is_refused():
    with pytest.raises(ValueError, match=r"no time limit.*dataset\.max_episode_steps"):
        Evaluator(spec=spec_for("ReverieEndless-v0"), seeds=1, episodes=1)


def test_an_evaluation_of_nothing_is_refused():
    with pytest.raises(ValueError, match="episodes=0"):
        Evaluator(spec=spec_for("ReverieCountdown-v0"), seeds=1, episodes=0)
