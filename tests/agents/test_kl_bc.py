"""SAC near a clone: its divergence, its special cases, and its step on lambda."""

import math

import pytest
import torch
from torch.distributions import Normal

from reverie.agents.losses import gaussian_divergence
from reverie.agents.sac import SAC
from tests.agents.clones import standard_clone


def shifted(spec):
    """A clone whose mean and std depend on the state."""

    def gaussian(obs):
        mean = obs[..., : spec.action_dim] * 0.5
        return mean, -1.0 + 0.1 * mean

    return gaussian


class SACWithoutEntropy(SAC):
    @property
    def temperature(self):
        return torch.zeros(self.seeds)


def test_the_divergence_is_that_of_the_densities_behind_the_tanh():
    mean, log_std = torch.tensor([0.3, -1.0]), torch.tensor([-0.5, 0.2])
    other, other_log_std = torch.tensor([0.0, -1.5]), torch.tensor([0.1, 0.4])
    found = gaussian_divergence(mean, log_std, other, other_log_std)
    before = mean + log_std.exp() * torch.randn(200_000, 2)
    # The slope of the tanh is the same in both densities.
    sampled = Normal(mean, log_std.exp()).log_prob(before)
    sampled -= Normal(other, other_log_std.exp()).log_prob(before)
    torch.testing.assert_close(found, sampled.mean(0), rtol=0.02, atol=0.005)
    # ln 2 + (1 + 1) / (2 4) - 1/2 by hand.
    by_hand = gaussian_divergence(*torch.tensor([1.0, 0.0, 0.0, math.log(2)]))
    assert by_hand.item() == pytest.approx(math.log(2) + 0.25 - 0.5)


def test_a_weight_of_zero_is_sac_without_entropy_to_the_bit(make_agent, make_batch, spec, make_sac):
    agent = make_agent("kl_bc", seeds=2, weight=0.0)
    plain = SACWithoutEntropy.__new__(SACWithoutEntropy)
    plain.__dict__ = make_sac(
        spec,
        seeds=2,
        actor_learning_rate=3e-4,
        critic_learning_rate=3e-4,
        temperature_learning_rate=0.0,
        discount=0.99,
        critic_layer_norm=True,
    ).__dict__
    plain.load_state_dict(agent.state_dict())
    agent.follow(shifted(spec))
    batches = [make_batch(2, 16) for _ in range(5)]
    for learner in (agent, plain):
        torch.manual_seed(3)
        for batch in batches:
            learner.update(batch)
    for (name, mine), its in zip(agent.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, its), name
    assert not torch.equal(agent.actor.body(torch.ones(2, 1, 3)), torch.zeros(2, 1, 4))


def test_the_actor_pays_for_its_divergence(make_agent, make_batch, spec):
    agent, batch = make_agent("kl_bc", weight=[2.0, 0.5], seeds=2), make_batch(2, 8)
    agent.follow(shifted(spec))
    action, cost = agent.sample(batch.obs)
    loss = agent.actor_loss(batch, action, cost)
    divergence = gaussian_divergence(*agent.actor(batch.obs), *shifted(spec)(batch.obs)).sum(-1)
    value = agent.critics(batch.obs, action).amin(1)
    torch.testing.assert_close(loss, torch.tensor([2.0, 0.5]) * divergence.mean(1) - value.mean(1))


@pytest.mark.slow
def test_a_large_weight_makes_a_clone_of_the_actor(make_agent, make_batch, spec):
    agent = make_agent("kl_bc", weight=100.0, actor_learning_rate=2e-2, hidden=[32])
    agent.follow(shifted(spec))
    obs = torch.randn(1, 256, 3)
    before = agent.divergence(obs).sum(-1).mean()
    for _ in range(100):
        measured = agent.update(make_batch(1, 32))
    after = agent.divergence(obs).sum(-1).mean()
    assert after < 0.1 < 0.5 < before
    assert measured["divergence"].item() < 0.2 and measured["weight"].item() == pytest.approx(100)


@pytest.mark.parametrize(("budget", "rises"), [(1e-3, True), (50.0, False)])
def test_the_weight_is_steered_to_the_budget(make_agent, make_batch, spec, budget, rises):
    agent = make_agent("kl_bc", budget=budget, weight=[1.0, 2.0], seeds=2)
    agent.follow(shifted(spec))
    agent.update(make_batch(2, 16))
    assert ((agent.temperature > torch.tensor([1.0, 2.0])) == rises).all()


def test_the_target_counts_up_to_the_limit_and_the_actor_beyond_it(make_agent, spec):
    agent = make_agent("kl_bc", weight=2.0, divergence_limit=3.0)

    def far(obs):  # so sure of another action that KL is huge
        mean = torch.full((*obs.shape[:-1], spec.action_dim), 3.0)
        return mean, torch.full_like(mean, -5.0)

    agent.follow(far)
    obs = torch.randn(1, 4, 3)
    torch.testing.assert_close(agent.bonus(obs), torch.full((1, 4), -2.0 * 3.0 * 2))
    assert agent.reward_bounds(-1.0, 1.0) == pytest.approx((-13.0, 1.0))
    _, cost = agent.sample(obs)
    assert (cost > 1000).all() and cost.requires_grad
    torch.manual_seed(1)
    value = agent.next_value(obs)
    torch.manual_seed(1)
    plain = agent.target_critics(obs, agent.actor.sample(obs)[0]).amin(1)
    torch.testing.assert_close(value, plain - 12.0)


def test_the_clone_is_no_part_of_the_agent(make_agent, spec):
    agent = make_agent("kl_bc")
    known = set(agent.state_dict())
    assert agent.bonus(torch.zeros(1, 2, 3)) is None
    agent.follow(standard_clone(spec))
    assert set(agent.state_dict()) == known and "is_off" not in known


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": -1.0}, "agent.weight=-1.0 must not be negative"),
        ({"weight": 0.0, "budget": 1.0}, "cannot be steered to agent.budget=1.0"),
    ],
)
def test_impossible_numbers_are_refused(make_agent, changes, message):
    with pytest.raises(ValueError, match=message):
        make_agent("kl_bc", **changes)


def test_an_agent_without_a_clone_is_refused(make_agent):
    with pytest.raises(ValueError, match="set behaviour=clone"):
        make_agent("kl_bc").follow(None)
