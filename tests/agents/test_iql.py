import math

import pytest
import torch
from torch.distributions import Normal

from reverie.agents.losses import advantage_weight, expectile_loss, normal_log_prob


@pytest.mark.parametrize("expectile", [0.1, 0.5, 0.7, 0.99])
def test_the_expectile_of_a_uniform_variable_is_the_stationary_point(expectile):
    targets = (torch.arange(4000, dtype=torch.float64) + 0.5).unsqueeze(0) / 4000
    # tau (1 - m)^2 / 2 = (1 - tau) m^2 / 2
    exact = 1 / (1 + math.sqrt((1 - expectile) / expectile))

    def slope(prediction):
        point = torch.tensor([[prediction]], dtype=torch.float64, requires_grad=True)
        loss = expectile_loss((targets - point).float(), expectile)
        return float(torch.autograd.grad(loss.sum(), point)[0])

    assert slope(exact) == pytest.approx(0.0, abs=1e-4)
    assert slope(exact - 0.05) < -1e-3 and slope(exact + 0.05) > 1e-3


def test_half_an_expectile_is_half_the_squared_error_by_seed():
    difference = torch.tensor([[1.0, -2.0], [3.0, 0.0]])
    assert expectile_loss(difference, 0.5).tolist() == [1.25, 2.25]


def test_weights_are_exponentials_clipped_above():
    advantage = torch.tensor([[0.0, 0.5, -1.0, 2.0, math.inf, -math.inf]])
    weight = advantage_weight(advantage, inverse_temperature=3.0, max_weight=100.0)
    expected = [1.0, math.exp(1.5), math.exp(-3.0), 100.0, 100.0, 0.0]
    assert weight[0].tolist() == pytest.approx(expected)


def test_the_gaussian_density_is_torchs():
    mean, log_std, action = torch.randn(3, 5, 2), torch.randn(3, 1, 2), torch.randn(3, 5, 2)
    expected = Normal(mean, log_std.exp()).log_prob(action).sum(-1)
    assert torch.allclose(normal_log_prob(action, mean, log_std), expected, atol=1e-4)


def test_the_policy_loss_equals_a_naive_sum(make_agent, make_batch):
    agent = make_agent(
        "iql",
        seeds=2,
        order=["policy", "value", "critic"],
        inverse_temperature=4.0,
        max_weight=1.5,
    )
    batch = make_batch(2, 6)
    with torch.no_grad():
        agent.actor.free_log_std.copy_(torch.randn(2, 1, 2))
        values = agent.target_critics(batch.obs, batch.action)
        state_value = agent.value(batch.obs)
        mean = agent.actor.act(batch.obs, deterministic=True)
        std = agent.actor.free_log_std.exp()
    measured = agent.update(batch)
    clipped = 0
    for s in range(2):
        total = 0.0
        for b in range(6):
            advantage = min(float(values[s, i, b]) for i in (0, 1)) - float(state_value[s, b])
            clipped += math.exp(4.0 * advantage) > 1.5
            log_prob = sum(
                float(Normal(mean[s, b, j], std[s, 0, j]).log_prob(batch.action[s, b, j]))
                for j in (0, 1)
            )
            total -= min(math.exp(4.0 * advantage), 1.5) * log_prob / 6
        assert float(measured["actor_loss"][s]) == pytest.approx(total, rel=1e-4)
    assert clipped  # the clip was at work in some row


def test_targets_bootstrap_from_the_state_value_of_scaled_rewards(make_agent, make_batch):
    agent, batch = make_agent("iql", discount=0.9, reward_offset=-1.0), make_batch(1, 6)
    agent.reward_scale.fill_(5.0)
    target = agent.target(batch)
    for b in range(6):
        value = 0.0 if batch.terminated[0, b] else float(agent.value(batch.next_obs)[0, b].detach())
        expected = 5 * float(batch.reward[0, b]) - 1 + 0.9 * value
        assert float(target[0, b]) == pytest.approx(expected, abs=1e-5)


def test_no_action_outside_the_data_is_ever_evaluated(make_agent, make_batch):
    """Another policy altogether gives the same critics and values to the bit."""
    batches, results = [make_batch(1, 8) for _ in range(3)], []
    for shift in (0.0, 3.0):
        torch.manual_seed(0)
        agent = make_agent("iql")
        with torch.no_grad():
            for parameter in agent.actor.parameters():
                parameter.add_(shift)
        for batch in batches:
            agent.update(batch)
        learnt = [*agent.critics.parameters(), *agent.value.parameters()]
        results.append(torch.cat([parameter.flatten() for parameter in learnt]))
    assert torch.equal(*results)


def test_the_order_says_whose_value_the_others_see(make_agent, make_batch):
    batch = make_batch(1, 8)
    last = make_agent("iql", order=["critic", "policy", "value"])
    expected = last.target(batch).mean(1)
    assert torch.equal(last.update(batch)["target"], expected)
    first = make_agent("iql", order=["value", "policy", "critic"])
    expected = first.target(batch).mean(1)
    assert not torch.equal(first.update(batch)["target"], expected)


def test_normalised_rewards_make_the_returns_span_a_thousand(make_agent, make_data):
    data = make_data(-3.0, 5.0, 1.0)
    agent = make_agent("iql", normalise_rewards=True)
    agent.prepare(data)
    assert float(agent.reward_scale) == pytest.approx(1000 / 8)
    restored = make_agent("iql", normalise_rewards=True)
    restored.load_state_dict(agent.state_dict())
    assert torch.equal(restored.reward_scale, agent.reward_scale)
    obs, action = torch.randn(1, 4, 3), torch.zeros(1, 4, 2)
    assert torch.allclose(agent.values(obs, action) * 125, agent.critics(obs, action))
    raw = make_agent("iql", normalise_rewards=False)
    raw.prepare(data)
    assert float(raw.reward_scale) == 1.0


def test_returns_without_a_range_cannot_be_normalised(make_agent, make_data):
    with pytest.raises(ValueError, match="all 2 in toy have the same; set"):
        make_agent("iql", normalise_rewards=True).prepare(make_data(2.0, 2.0))


def test_the_value_converges_to_the_expectile_of_a_one_state_problem(make_agent, make_batch):
    """Half of the actions are worth 0, half 1; V is the 0.9-expectile 0.9, far above the mean."""
    agent = make_agent("iql", expectile=0.9, value_learning_rate=0.01)
    batch = make_batch(1, 64)
    batch.obs[:] = 1.0
    recorded = (torch.arange(64) % 2).float().unsqueeze(0)
    for _ in range(300):
        measured = agent._update_value(batch, recorded)
    assert float(measured["state_value"]) == pytest.approx(0.9, abs=0.01)


def test_the_actors_rate_falls_along_a_cosine_only_if_asked(make_agent):
    assert make_agent("iql", actor_cosine=True, updates=70).actor_optimiser.cosine_steps == 70
    assert make_agent("iql", actor_cosine=False).actor_optimiser.cosine_steps is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": ["value", "critic"]}, "must name value, policy and critic once each"),
        ({"expectile": 1.0}, "agent.expectile=1.0 must lie between 0 and 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(make_agent, change, message):
    with pytest.raises(ValueError, match=message):
        make_agent("iql", **change)
