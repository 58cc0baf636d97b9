"""TD3-AWR's weights and value, with numbers worked out by hand."""

import math

import pytest
import torch

from reverie.datasets.transition import Transition


@pytest.fixture
def agent(make_agent):
    """Q_1 = 1, Q_2 = 0.5, V = 0.25, everywhere."""
    agent = make_agent("td3_awr", inverse_temperature=4.0, max_weight=100.0, actor_penalty=0.3)
    for network, values in ((agent.critics, [[[1.0]], [[0.5]]]), (agent.value, [[0.25]])):
        last = network.body.layers[-1]
        with torch.no_grad():
            last.weight.zero_()
            last.bias.copy_(torch.tensor(values))
    return agent


def test_the_weight_is_the_exponential_of_the_advantage_and_clipped(agent, make_batch):
    batch = make_batch(1, 5)
    expected = math.exp(4.0 * (0.5 - 0.25))
    assert agent.imitation_weight(batch)[0].tolist() == pytest.approx([expected] * 5)
    agent.max_weight = 2.0
    assert agent.imitation_weight(batch)[0].tolist() == pytest.approx([2.0] * 5)


def test_the_actor_pays_the_weighted_distance(agent, make_batch):
    batch = make_batch(1, 5)
    with torch.no_grad():
        action = agent.actor(batch.obs)
        distance = (action - batch.action).square().sum(-1).mean()
        expected = 0.3 * math.e * distance - 1.0  # min Q is 0.5 and divided by itself
        assert float(agent.actor_loss(batch, action)) == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize(("expectile", "known"), [(0.5, 0.5), (0.9, 0.9)])
@pytest.mark.slow
def test_the_value_is_an_expectile_of_the_lower_critic(make_agent, expectile, known):
    """Of a value that is 0 or 1 with equal odds the tau-expectile is tau."""
    agent = make_agent(
        "td3_awr",
        expectile=expectile,
        value_learning_rate=0.01,
        critic_learning_rate=0.0,
        critic_layer_norm=False,
        hidden=[1],
    )
    with torch.no_grad():  # Q_1 = a_0, Q_2 = a_0 + 5, from an action of 0 or 1
        first, last = agent.critics.body.layers
        first.weight.zero_()
        first.weight[..., 3, :] = 1.0
        first.bias.zero_()
        last.weight.fill_(1.0)
        last.bias.copy_(torch.tensor([0.0, 5.0]).view(1, 2, 1, 1))
    rows = 64
    action = torch.zeros(1, rows, 2)
    action[:, ::2, 0] = 1.0
    nothing = torch.zeros(1, rows)
    batch = Transition(
        torch.zeros(1, rows, 3), action, nothing, torch.zeros(1, rows, 3), nothing > 0, nothing == 0
    )
    for _ in range(1500):
        agent._update_value(batch)
    assert float(agent.value(batch.obs).detach().mean()) == pytest.approx(known, abs=0.02)


def test_an_update_moves_critics_twice_and_value_once(make_agent, make_rows):
    agent = make_agent("td3_awr")
    measured = agent.update(make_rows(agent, 1, 8))
    assert {"value_loss", "state_value", "actor_loss"} <= measured.keys()
    assert agent.critic_optimiser.steps.unique().tolist() == [2.0]
    assert agent.value_optimiser.steps.unique().tolist() == [1.0]
    assert len(agent.value.body.norms) == len(agent.actor.body.norms) == 2
