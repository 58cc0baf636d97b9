"""Reward rules agree with what environments pay."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

from reverie.envs.make import make_env, spec_of
from reverie.envs.rewards import RULES, reward_rule_for
from reverie.envs.specs import Spec


@pytest.mark.parametrize("env_id", RULES)
def test_a_rule_pays_what_the_environment_pays(env_id):
    spec = spec_of(env_id, env_kwargs={}, physics="as-is")
    rule, rng = reward_rule_for(spec), np.random.default_rng(0)
    env = make_env(spec)
    obs, _ = env.reset(seed=0)
    for _ in range(100):
        action = rng.uniform(-1, 1, spec.action_dim).astype(np.float32)
        next_obs, reward, terminated, truncated, _ = env.step(action)
        said = rule(*(torch.from_numpy(each) for each in (obs, action, next_obs)))
        assert said.item() == pytest.approx(reward, abs=1e-5)
        obs = env.reset()[0] if terminated or truncated else next_obs
    env.close()


def test_no_rule_is_claimed_where_it_could_be_another():
    spec = spec_of("Pendulum-v1", env_kwargs={}, physics="as-is")
    assert reward_rule_for(replace(spec, env_kwargs={"g": 9.0})) is None
    assert reward_rule_for(replace(spec, obs_dim=2, hidden=(2,))) is None
    assert reward_rule_for(replace(spec, wrappers=({"name": "ClipReward", "kwargs": {}},))) is None
    assert (
        reward_rule_for(
            replace(spec, action_dim=2, action_low=(-2.0,) * 2, action_high=(2.0,) * 2, chunk=2)
        )
        is None
    )
    assert reward_rule_for(Spec(None, 3, 1, (-1.0,), (1.0,))) is None
    assert reward_rule_for(replace(spec, env_id="Hopper-v5")) is None
    assert "Hopper-v5" in gymnasium.registry
