"""The clone of the policy behind the data recovers it, in the units of the guidance."""

import numpy as np
import pytest
import torch

from reverie.datasets.build import build
from reverie.envs.specs import Spec
from reverie.world_models.diffusion.behaviour import BehaviourClone

SPEC = Spec(env_id=None, obs_dim=1, action_dim=1, action_low=(-1.0,), action_high=(1.0,))
HYPERPARAMETERS = dict(
    spec=SPEC, seeds=2, seed=0, hidden=[32], activation="tanh", log_std_bounds=[-5.0, 2.0],
    learning_rate=1e-2, steps=300, batch=256, heldout_episodes=4, measure_every=50,
)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    """Actions tanh(0.8 s + 0.5 n)."""
    own = torch.Generator().manual_seed(0)
    obs, noise = torch.randn(2, 4001, generator=own)
    action = torch.tanh(0.8 * obs[:-1] + 0.5 * noise[:-1])
    return build(
        name="cloned", spec=SPEC, obs=obs[:-1, None].numpy(), action=action[:, None].numpy(),
        reward=np.zeros(4000), terminated=np.zeros(4000, bool),
        truncated=np.arange(4000) % 100 == 99, next_obs=obs[1:, None].numpy(), reference=None,
        origin={}, clip_actions=False,
    )  # fmt: skip


def test_a_clone_is_the_policy_behind_the_data_and_the_same_every_time(data):
    first, again = BehaviourClone(**HYPERPARAMETERS), BehaviourClone(**HYPERPARAMETERS)
    state = torch.get_rng_state()
    described = first.fit(data)
    assert torch.equal(state, torch.get_rng_state())
    assert described["best_holdout_loss"] == min(described["holdout_loss"])
    # Of N(m, 0.5^2) the loss is (1 / 2 + ln 0.5) on average.
    assert described["best_holdout_loss"] == pytest.approx(0.5 + np.log(0.5), abs=0.1)
    obs = torch.linspace(-1.5, 1.5, 7).view(1, 7, 1).repeat(2, 1, 1)
    mean, std = first.moments(obs)
    assert mean.shape == std.shape == (2, 7, 1)
    torch.testing.assert_close(torch.atanh(mean), 0.8 * obs, atol=0.12, rtol=0)
    torch.testing.assert_close(std / (1 - mean.square()), 0.5 + 0 * obs, atol=0.06, rtol=0)
    again.fit(data)
    assert torch.equal(again.moments(obs)[0], mean)


def test_a_clone_of_another_task_or_without_a_step_is_refused(data):
    other = Spec(env_id=None, obs_dim=2, action_dim=1, action_low=(-1.0,), action_high=(1.0,))
    with pytest.raises(ValueError, match="different tasks"):
        BehaviourClone(**(HYPERPARAMETERS | {"spec": other})).fit(data)
    with pytest.raises(ValueError, match=r"behaviour\.steps must be at least 1"):
        BehaviourClone(**(HYPERPARAMETERS | {"steps": 0}))
