"""Chunks in an environment: played as far as the episode lasts, scored by their control steps."""

from contextlib import closing
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from reverie.envs.chunks import TAKEN
from reverie.envs.evaluation import Evaluator
from reverie.envs.make import make_env, spec_of
from reverie.envs.true_dynamics import simulator_for
from reverie.envs.video import record_beside
from reverie.mistake import Mistake
from reverie.world_models.simulator import PerturbedSimulator


class Counted(gymnasium.Env):
    """Pays its action; terminates after as many steps as it or the seed says, 9 never. Sees its
    time."""

    def __init__(self, length=None):
        self.given = length

    observation_space = spaces.Box(-100, 100, (1,), np.float32)
    action_space = spaces.Box(-2, 2, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length, self.time = seed % 10 if self.given is None else self.given, 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        ended = self.length != 9 and self.time == self.length
        return np.full(1, self.time, np.float32), float(action[0]), ended, False, {}


@pytest.fixture(autouse=True)
def registered():
    gymnasium.register("ReverieCounted-v0", entry_point=Counted, max_episode_steps=8)
    yield
    del gymnasium.registry["ReverieCounted-v0"]


def chunked(steps=3, discount=0.5, **options):
    spec = spec_of("ReverieCounted-v0", env_kwargs=options, physics="as-is")
    return replace(
        spec,
        action_dim=steps,
        action_low=steps * spec.action_low,
        action_high=steps * spec.action_high,
        chunk=steps,
        chunk_discount=discount,
    )


def test_a_step_plays_a_chunk_and_discounts_within_it():
    with closing(make_env(chunked())) as env:
        env.reset(seed=9)
        obs, reward, terminated, truncated, info = env.step(np.array([1, 0.5, -1], np.float32))
        assert env.action_space.shape == (3,) and obs.tolist() == [3]
        assert reward == 2 + 0.5 * 1 - 0.25 * 2 and info[TAKEN] == 3
        assert not terminated and not truncated


def test_a_chunk_ends_with_its_episode():
    with closing(make_env(chunked())) as env:
        for seed, terminates in ((5, True), (9, False)):
            env.reset(seed=seed)
            steps = [env.step(np.ones(3, np.float32)) for _ in range(2 if terminates else 3)]
            obs, reward, terminated, truncated, info = steps[-1]
            assert obs.tolist() == [5 if terminates else 8] and info[TAKEN] == 2
            assert (terminated, truncated) == (terminates, not terminates) and reward == 3


def test_scores_are_those_of_the_single_steps_undiscounted():
    spec, asked = chunked(), []

    def policy(obs):  # the time of its chunk's start: pays 0.1, 0.2, 0.4, 0.4, ...
        asked.append(obs[0, :, 0].tolist())
        first = 0.05 * (1 + obs)
        return torch.cat([first, 2 * first, 4 * first], -1)

    with closing(Evaluator(spec=spec, seeds=2, episodes=3)) as evaluator:
        found = evaluator.run(policy, seed=4, discount=0.5**3)  # ends after 4, 5 and 6 steps
    pays = [0.1, 0.2, 0.4, 0.4, 0.8, 1.6]
    assert torch.allclose(found.returns, torch.tensor([1.1, 1.9, 3.5]).double().expand(2, -1))
    assert found.lengths.tolist() == [[4, 5, 6]] * 2
    discounted = [sum(0.5**i * pays[i] for i in range(length)) for length in (4, 5, 6)]
    assert torch.allclose(found.discounted_returns[0], torch.tensor(discounted).double())
    assert asked == [[0.0] * 3, [3.0] * 3]


def test_a_chunk_that_a_time_limit_cuts_is_no_row():
    # Eight steps are 3, 3 and 2; what terminates after five of them is whole.
    for length, kept in ((9, [True, True, False, True]), (5, [True] * 4)):
        simulator = PerturbedSimulator(spec=chunked(length=length), seeds=1, environments=1)
        moves = [
            simulator.move(lambda obs: torch.full((1, 1, 3), 0.5), torch.zeros(1, 0, 1))
            for _ in range(4)
        ]
        assert [bool(each.keep) for each in moves] == kept
        last = 2 if length == 9 else 1
        assert [bool(each.ended) for each in moves[: last + 1]] == [False] * last + [True]
        assert moves[0].rows.reward.item() == 1.75 and moves[0].rows.next_obs.item() == 3
        assert bool(moves[last].rows.terminated) == (length == 5)
        assert moves[last].rows.reward.item() == 1.5


def test_what_steps_true_physics_is_refused(tmp_path):
    pendulum = replace(chunked(), env_id="Pendulum-v1", obs_dim=3)
    with pytest.raises(Mistake, match=r"dataset\.chunks=3; use a learned world_model"):
        simulator_for(pendulum, 1)
    with pytest.raises(Mistake, match="skips the control steps"):
        record_beside(pendulum, lambda obs: obs, lambda obs: obs, tmp_path / "x.mp4", 0, 1)
