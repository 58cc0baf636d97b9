"""Small datasets and ensembles for the tests of world models."""

from functools import partial

import pytest
import torch

from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.world_models.ensemble import ProbabilisticEnsemble
from reverie.world_models.termination import LearnedTermination

SPEC = Spec(env_id=None, obs_dim=2, action_dim=1, action_low=(-1.0,), action_high=(1.0,))


def dataset(
    *,
    episodes: int = 20,
    length: int = 50,
    noise: float = 0.0,
    terminal_above: float | None = None,
    seed: int = 0,
) -> Dataset:
    """Episodes of s' = s + (0.1 s_2, 0.2 a - 0.1 s_1) + noise, reward -|s|^2, random actions."""
    generator = torch.Generator().manual_seed(seed)
    obs = torch.randn(episodes, length + 1, 2, generator=generator)
    action = torch.rand(episodes, length, 1, generator=generator) * 2 - 1
    for t in range(length):
        drift = torch.stack([0.1 * obs[:, t, 1], 0.2 * action[:, t, 0] - 0.1 * obs[:, t, 0]], -1)
        shock = noise * torch.randn(episodes, 2, generator=generator)
        obs[:, t + 1] = obs[:, t] + drift + shock
    reward = -obs[:, :-1].square().sum(-1)
    reward = reward + noise * torch.randn(reward.shape, generator=generator)
    next_obs = obs[:, 1:].reshape(-1, 2)
    ended = torch.zeros(episodes * length, dtype=torch.bool)
    if terminal_above is not None:
        ended = next_obs[:, 0] > terminal_above
    truncated = torch.zeros(episodes, length, dtype=torch.bool)
    truncated[:, -1] = True
    return Dataset(
        name="toy",
        spec=SPEC,
        transitions=Transition(
            obs=obs[:, :-1].reshape(-1, 2),
            action=action.reshape(-1, 1),
            reward=reward.reshape(-1),
            next_obs=next_obs,
            terminated=ended,
            is_real=torch.ones(episodes * length, dtype=torch.bool),
        ),
        truncated=truncated.reshape(-1) & ~ended,
        valid_next=torch.ones(episodes * length, dtype=torch.bool),
        episode_starts=torch.arange(0, episodes * length, length),
    )


SMALL = dict(
    spec=SPEC,
    seeds=1,
    seed=0,
    members=3,
    elites=2,
    hidden=[8, 8],
    activation="silu",
    learning_rate=3e-3,
    batch=64,
    weight_decay=[1e-5, 1e-5, 1e-5],
    log_variance_bounds=[-10.0, 0.5],
    bound_coefficient=0.01,
    holdout_fraction=0.2,
    holdout_limit=1000,
    improvement=0.01,
    patience=3,
    patience_updates=0,
    max_epochs=4,
    per_seed=True,
    uncertainty="max_aleatoric",
    dropout=0.0,
    start_cut=2.0,
    precision="float32",
    dropout_passes=10,
    termination="none",
    terminal_head=partial(
        LearnedTermination,
        hidden=[16],
        activation="tanh",
        learning_rate=1e-2,
        batch=64,
        updates=300,
    ),
    heldout_episodes=0,
    layer_norm=False,
    rollout_member="step",
    rollout_dropout=0.0,
    rollout_mask="rollout",
    respect_copies=True,
    reward="learned",
    select_by="one_step",
    select_steps=16,
    forcing=None,
)


def ensemble(**changes) -> ProbabilisticEnsemble:
    """A small ensemble; keywords replace hyperparameters."""
    return ProbabilisticEnsemble(**(SMALL | changes))


@pytest.fixture
def make_dataset():
    return dataset


@pytest.fixture
def make_ensemble():
    return ensemble


@pytest.fixture
def toy_spec():
    return SPEC


@pytest.fixture(autouse=True)
def _one_thread():
    """These networks are so small that a second thread only waits, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
