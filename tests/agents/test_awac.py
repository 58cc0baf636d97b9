"""AWAC's weights, with numbers worked out by hand, and what it becomes at their limits."""

import math
from dataclasses import replace

import pytest
import torch

from reverie.agents.networks import GaussianActor, TanhGaussianActor


def slope_(critics, weights):
    """Q_i(s, a) = weights[i] relu(a_0)."""
    first, last = critics.body.layers
    with torch.no_grad():
        for layer in (first, last):
            layer.weight.zero_()
            layer.bias.zero_()
        first.weight[..., 3, 0] = 1.0
        last.weight[..., 0, 0] = torch.tensor(weights)


def test_the_weight_compares_the_recorded_action_with_the_policys(make_agent, make_batch):
    agent = make_agent("awac", hidden=[4], inverse_temperature=2.0, max_weight=5.0)
    slope_(agent.critics, [3.0, 1.0])
    batch = make_batch(1, 3)
    batch.action[0, :, 0] = torch.tensor([0.75, 0.25, 1.0])
    action = torch.zeros(1, 3, 2)
    action[0, :, 0] = torch.tensor([0.25, 0.75, 0.0])
    expected = [math.exp(2 * 0.5), math.exp(-2 * 0.5), 5.0]  # exp(2) is clipped
    assert agent.imitation_weight(batch, action)[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("squashed", [False, True])
def test_without_advantages_it_is_cloning_of_the_real_rows(make_agent, make_batch, squashed):
    agent = make_agent("awac", hidden=[4], squashed=squashed)
    slope_(agent.critics, [0.0, 0.0])
    batch = make_batch(1, 9)
    action, log_prob = agent.actor.sample(batch.obs)
    loss = agent.actor_loss(batch, action, log_prob)
    likelihood = agent.actor.log_prob(batch.obs, batch.action)[batch.is_real]
    assert 0 < len(likelihood) < 9
    assert float(loss) == pytest.approx(-float(likelihood.mean()), abs=1e-5)
    # Dreamed rows do not matter.
    dreamed = ~batch.is_real.unsqueeze(-1)
    other = replace(batch, action=torch.where(dreamed, -batch.action, batch.action))
    assert torch.equal(agent.actor_loss(other, action, log_prob), loss)


def test_a_sharp_policy_keeps_the_better_of_two_actions(make_agent, make_batch):
    agent = make_agent(
        "awac",
        hidden=[8],
        inverse_temperature=50.0,
        actor_learning_rate=0.01,
        critic_learning_rate=0.0,
    )
    slope_(agent.critics, [1.0, 1.0])
    for _ in range(400):
        batch = make_batch(1, 64)
        batch.action[..., 0] = torch.where(torch.rand(1, 64) < 0.5, 0.1, 0.8)
        agent.update(replace(batch, is_real=torch.ones(1, 64, dtype=torch.bool)))
    action = agent.act(torch.zeros(1, 1, 3), deterministic=True)
    assert float(action[0, 0, 0]) == pytest.approx(0.8, abs=0.1)


def test_targets_leave_the_entropy_out_and_take_the_policys_own_action(make_agent, make_batch):
    agent, batch = make_agent("awac", discount=0.9), make_batch(1, 5)
    torch.manual_seed(3)
    target = agent.target(batch)
    torch.manual_seed(3)
    action = agent.actor.act(batch.next_obs, deterministic=False)
    value = agent.target_critics(batch.next_obs, action).amin(1)
    expected = batch.reward + 0.9 * torch.where(batch.terminated, 0.0, value)
    assert torch.allclose(target, expected, atol=1e-6)


@pytest.mark.parametrize(("squashed", "kind"), [(False, GaussianActor), (True, TanhGaussianActor)])
def test_the_policy_is_a_switch_and_learns(make_agent, make_batch, squashed, kind):
    agent = make_agent("awac", squashed=squashed)
    assert type(agent.actor) is kind
    before = [parameter.clone() for parameter in agent.actor.parameters()]
    agent.update(make_batch(1, 16))
    moved = zip(before, agent.actor.parameters(), strict=True)
    assert all(not torch.equal(a, b) for a, b in moved)
