import copy

import pytest
import torch

from reverie.agents.losses import inverse_value_scale, smooth_action
from reverie.datasets.transition import Transition


def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_smoothing_noise_is_clipped_before_and_the_action_after_it():
    action = torch.tensor([[[0.9], [-0.2], [0.0], [-0.8]]])
    noise = torch.tensor([[[5.0], [-10.0], [1.0], [-1.5]]])
    expected = torch.tensor([[[1.0], [-0.7], [0.2], [-1.0]]])
    assert torch.allclose(smooth_action(action, noise, std=0.2, limit=0.5), expected)


def test_lambda_divides_by_the_mean_size_of_q_of_each_seed():
    value = torch.tensor([[1.0, -3.0], [10.0, 30.0]], requires_grad=True)
    scale = inverse_value_scale(value, 2.5)
    assert torch.allclose(scale, torch.tensor([2.5 / 2, 2.5 / 20]))
    assert not scale.requires_grad
    assert inverse_value_scale(torch.zeros(1, 4), 2.5).isfinite().all()


def test_the_actor_loss_equals_a_naive_sum(make_agent, make_batch):
    agent, batch = make_agent("td3_bc", seeds=2, alpha=1.7), make_batch(2, 5)
    with torch.no_grad():
        action = agent.actor(batch.obs)
        loss = agent.actor_loss(batch, action)
        for s in range(2):
            first = [float(agent.critics(batch.obs, action)[s, 0, b]) for b in range(5)]
            weight = 1.7 / (sum(abs(q) for q in first) / 5)
            distance = [
                float(action[s, b, j] - batch.action[s, b, j]) ** 2
                for b in range(5)
                for j in (0, 1)
            ]
            expected = -weight * sum(first) / 5 + sum(distance) / 10
            assert float(loss[s]) == pytest.approx(expected, abs=1e-5)


def test_the_unit_of_the_reward_does_not_change_the_trade_off(make_agent, make_batch):
    agent, batch = make_agent("td3_bc"), make_batch(1, 8)
    action = agent.actor(batch.obs).detach().requires_grad_()

    def gradient():
        return torch.autograd.grad(agent.actor_loss(batch, action).sum(), action)[0]

    before = gradient()
    last = agent.critics.body.layers[-1]
    with torch.no_grad():  # Q becomes 100 Q
        last.weight.mul_(100)
        last.bias.mul_(100)
    assert torch.allclose(gradient(), before, rtol=1e-4, atol=1e-7)


def test_the_target_is_the_lower_critic_at_the_smoothed_target_action(make_agent, make_batch):
    agent, batch = make_agent("td3_bc", discount=0.9, policy_noise=0.7), make_batch(1, 6)
    with torch.no_grad():  # the online networks must not matter
        for parameter in [*agent.actor.parameters(), *agent.critics.parameters()]:
            parameter.add_(1.0)
    torch.manual_seed(3)
    target = agent.target(batch)
    torch.manual_seed(3)
    noise = (0.7 * torch.randn(1, 6, 2)).clamp(-0.5, 0.5)
    action = (agent.target_actor(batch.next_obs) + noise).clamp(-1, 1)
    values = agent.target_critics(batch.next_obs, action)
    for b in range(6):
        value = 0.0 if batch.terminated[0, b] else min(float(values[0, i, b]) for i in (0, 1))
        expected = float(batch.reward[0, b]) + 0.9 * value
        assert float(target[0, b]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("delay", [1, 3])
def test_policy_and_targets_move_on_every_nth_update_only(make_agent, make_batch, delay):
    agent = make_agent("td3_bc", policy_delay=delay)
    slow = [agent.actor, agent.target_actor, agent.target_critics]
    for update in range(1, 7):
        before = [weights(module) for module in slow]
        critics = weights(agent.critics)
        measured = agent.update(make_batch(1, 8))
        due = update % delay == 0
        moved = [not torch.equal(a, weights(b)) for a, b in zip(before, slow, strict=True)]
        assert moved == [due] * 3, update
        assert ("actor_loss" in measured) == due
        assert not torch.equal(critics, weights(agent.critics))


def test_the_delay_goes_on_where_a_checkpoint_left_it(make_agent, make_batch):
    agent = make_agent("td3_bc", policy_delay=3)
    agent.update(make_batch(1, 8))
    agent.update(make_batch(1, 8))
    resumed = make_agent("td3_bc", policy_delay=3)
    resumed.load_state_dict(copy.deepcopy(agent.state_dict()))
    assert "actor_loss" in resumed.update(make_batch(1, 8))


def test_several_critic_steps_draw_fresh_noise_for_the_same_rows(make_agent, make_batch):
    agent = make_agent("td3_bc", critic_steps=3, critic_learning_rate=0.0)
    targets, target = [], agent.target

    def spy(batch):
        targets.append(target(batch))
        return targets[-1]

    agent.target = spy
    agent.update(make_batch(1, 8))
    assert len(targets) == 3 and agent.critic_optimiser.steps.unique().tolist() == [3.0]
    assert not torch.equal(targets[0], targets[1]) and not torch.equal(targets[1], targets[2])


def test_a_policy_that_goes_first_sees_the_critics_as_they_were(make_agent, make_batch):
    batch = make_batch(1, 8)
    agent = make_agent("td3_bc", order=["policy", "critic"], policy_delay=1)
    with torch.no_grad():
        before = agent.actor_loss(batch, agent.actor(batch.obs))
    assert torch.equal(agent.update(batch)["actor_loss"], before)
    agent = make_agent("td3_bc", order=["critic", "policy"], policy_delay=1)
    with torch.no_grad():
        before = agent.actor_loss(batch, agent.actor(batch.obs))
    assert not torch.equal(agent.update(batch)["actor_loss"], before)


def test_observations_are_standardised_with_the_datasets_statistics(make_agent, make_data):
    data = make_data(1.0, 2.0, 3.0, 4.0)
    data.transitions.obs[:] = data.transitions.obs * 7 - 50
    data.transitions.obs[:, 2] = 4.0  # a constant must not divide by zero
    agent = make_agent("td3_bc")
    agent.prepare(data)
    obs = data.transitions.obs.unsqueeze(0)
    seen = agent.standardise(obs)
    assert torch.allclose(seen[..., :2].mean(1), torch.zeros(1, 2), atol=1e-4)
    assert torch.allclose(seen[..., :2].std(1, correction=0), torch.ones(1, 2), atol=1e-3)
    assert torch.equal(seen[..., 2], torch.zeros(1, 8))
    with torch.no_grad():  # as `act` runs it, by the same products
        assert torch.equal(agent.act(obs), agent.actor(seen))
    action = torch.zeros(1, 8, 2)
    assert torch.equal(agent.values(obs, action), agent.critics(seen, action))
    restored = make_agent("td3_bc")
    restored.load_state_dict(agent.state_dict())
    assert torch.equal(restored.act(obs), agent.act(obs))
    raw = make_agent("td3_bc", normalise_obs=False)
    raw.prepare(data)
    with torch.no_grad():
        assert torch.equal(raw.act(obs), raw.actor(obs))


def test_an_update_sees_standardised_rows_too(make_agent, make_data):
    """Shifting and stretching the observations, statistics included, changes nothing."""
    data = make_data(*range(20))
    results = []
    for shift, factor in ((0.0, 1.0), (3.0, 8.0)):
        rows = data.transitions
        moved = Transition(
            obs=factor * rows.obs + shift,
            action=rows.action,
            reward=rows.reward,
            next_obs=factor * rows.next_obs + shift,
            terminated=rows.terminated,
            is_real=rows.is_real,
        )
        torch.manual_seed(0)
        agent = make_agent("td3_bc", policy_delay=1)
        agent.standardise.fit(moved.obs)
        agent.standardise.scale.sub_(agent.standardise.OFFSET)  # the offset has a unit
        agent.update(moved[None])
        results.append(weights(agent))
    assert torch.allclose(*results, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": ["critic"]}, "agent.order=.'critic'. must name critic and policy once each"),
        ({"policy_delay": 0}, "agent.policy_delay=0 must lie between 1 and 8"),
        ({"critic_steps": 0}, "agent.critic_steps=0 must be at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(make_agent, change, message):
    with pytest.raises(ValueError, match=message):
        make_agent("td3_bc", **change)
