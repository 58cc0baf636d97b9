"""RvS: outcomes of episodes by hand, and that the policy does as it is asked."""

from dataclasses import replace

import pytest
import torch

from reverie.agents.rvs import outcomes
from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition


@pytest.fixture
def data(spec, make_batch):
    """Two episodes, of 4 rows and of 2, rewards 1, 2, 3, 4 and 5, 6."""
    rows = replace(make_batch(6), reward=torch.arange(1.0, 7.0))
    return Dataset(
        name="toy",
        spec=spec,
        transitions=rows,
        truncated=torch.tensor([False, False, False, True, False, False]),
        valid_next=torch.ones(6, dtype=torch.bool),
        episode_starts=torch.tensor([0, 4]),
    )


def test_an_outcome_is_the_return_to_go_by_the_steps_of_the_longest_episode(data):
    expected = [10 / 4, 9 / 3, 7 / 2, 4 / 1, 11 / 4, 6 / 3]
    assert outcomes(data).tolist() == pytest.approx(expected)
    assert float(outcomes(data)[0]) * 4 == float(data.returns[0])


def test_the_wanted_outcome_lies_between_the_worst_and_the_best_episode(make_agent, data):
    obs = torch.zeros(3, 5, 3)
    agent = make_agent("rvs", seeds=3, target=[0.0, 0.5, 2.0], standardise_outcome=False)
    agent.prepare(data)
    assert agent.given(obs)[:, 0, 3].tolist() == pytest.approx([10 / 4, 10.5 / 4, 12 / 4])
    agent = make_agent("rvs", seeds=3, target=1.0)
    agent.prepare(data)
    std, mean = torch.std_mean(outcomes(data), correction=0)
    wanted = float((11 / 4 - mean) / std)
    assert agent.given(obs)[:, 0, 3].tolist() == pytest.approx([wanted] * 3, rel=1e-5)
    restored = make_agent("rvs", seeds=3, target=1.0)
    restored.load_state_dict(agent.state_dict())
    assert torch.equal(restored.act(obs, True), agent.act(obs, True))


def test_the_loss_is_the_likelihood_given_the_outcome_of_recorded_rows(make_agent, data):
    agent = make_agent("rvs", learning_rate=0.0)
    agent.prepare(data)
    rows = agent.recorded(data)[None]
    dreamed = agent.complete(data.transitions[None])
    assert rows.has_outcome.all() and not dreamed.has_outcome.any()
    given = agent.given(rows.obs, rows.outcome)
    assert given.shape == (1, 6, 4)
    expected = -agent.actor.log_prob(given, rows.action).mean(1)
    assert torch.allclose(agent.update(rows)["actor_loss"], expected)
    half = replace(rows, has_outcome=torch.tensor([[True] * 3 + [False] * 3]))
    half.action[:, 3:] = torch.nan  # what is left out must not matter
    expected = -agent.actor.log_prob(given, half.action)[:, :3].mean(1)
    assert torch.allclose(agent.update(half)["actor_loss"], expected)
    assert not agent.update(dreamed)["actor_loss"].any()


def test_a_higher_target_gives_what_better_episodes_did(make_agent, spec):
    """Episodes of one step whose return is their first action: the policy does what is asked."""
    torch.manual_seed(0)
    action = torch.rand(400, 2) * 2 - 1
    none = torch.zeros(400, dtype=torch.bool)
    rows = Transition(torch.randn(400, 3), action, action[:, 0], torch.randn(400, 3), none, ~none)
    data = Dataset(
        name="toy",
        spec=spec,
        transitions=rows,
        truncated=~none,
        valid_next=~none,
        episode_starts=torch.arange(400),
    )
    agent = make_agent("rvs", seeds=3, target=[0.1, 0.5, 0.9], learning_rate=0.01)
    agent.prepare(data)
    recorded = agent.recorded(data)
    for _ in range(300):
        agent.update(recorded[torch.randint(400, (3, 64))])
    done = agent.act(torch.zeros(3, 1, 3), deterministic=True)[:, 0, 0]
    assert done.tolist() == pytest.approx([-0.8, 0.0, 0.8], abs=0.15)
