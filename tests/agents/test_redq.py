"""REDQ: which critics a target takes, what the actor sees, and Huber's loss."""

import pytest
import torch
from torch.nn import functional as F

from reverie.agents.losses import huber_error, squared_error


def test_targets_take_the_minimum_over_a_random_few_of_each_seed(make_agent):
    agent = make_agent("redq", seeds=3, critics=5)
    values = torch.randn(3, 5, 7)
    pairs = torch.combinations(torch.arange(5))
    wanted = torch.stack([values[:, pair].amin(1) for pair in pairs])  # [10, S, B]
    torch.manual_seed(0)
    seen = set()
    for _ in range(200):
        found = agent.pessimistic(values)
        match = (found == wanted).all(-1)  # [10, S]
        assert match.any(0).all()
        seen |= {(int(pair), seed) for pair, seed in match.nonzero().tolist()}
    # Every pair comes up, in every seed, and not the same one for all of them.
    assert len(seen) == 30
    assert torch.equal(
        make_agent("redq", critics=5, target_subset=5).pessimistic(values[:1]), values[:1].amin(1)
    )


def test_the_target_bootstraps_from_the_drawn_minimum_and_the_entropy(make_agent, make_batch):
    agent = make_agent("redq", seeds=2)
    batch = make_batch(2, 6)
    torch.manual_seed(4)
    found = agent.target(batch)
    torch.manual_seed(4)
    action, log_prob = agent.actor.sample(batch.next_obs)
    value = agent.pessimistic(agent.target_critics(batch.next_obs, action))
    value = value - agent.temperature.unsqueeze(1) * log_prob
    wanted = batch.reward + 0.99 * (1 - batch.terminated.float()) * value
    torch.testing.assert_close(found, wanted)


def test_the_actor_climbs_the_mean_of_all_critics(make_agent, make_batch):
    agent, batch = make_agent("redq", seeds=2), make_batch(2, 6)
    action, log_prob = agent.actor.sample(batch.obs)
    wanted = agent.temperature.unsqueeze(1) * log_prob - agent.critics(batch.obs, action).mean(1)
    torch.testing.assert_close(agent.actor_loss(batch, action, log_prob), wanted.mean(1))


def test_hubers_loss_is_twice_torchs_and_squares_without_a_bound(make_agent, make_batch):
    prediction, target = 3 * torch.randn(2, 5, 7), torch.randn(2, 7)
    twice = 2 * F.huber_loss(
        prediction, target.unsqueeze(1).expand_as(prediction), reduction="none", delta=0.7
    )
    torch.testing.assert_close(huber_error(prediction, target, 0.7), twice.mean(2).sum(1))
    torch.testing.assert_close(
        huber_error(prediction, target, 1e6), squared_error(prediction, target)
    )
    batch, wanted = make_batch(2, 7), huber_error(prediction, target, 0.7)
    assert torch.equal(
        make_agent("redq", seeds=2, huber=0.7).critic_loss(batch, prediction, target), wanted
    )
    assert torch.equal(
        make_agent("redq", seeds=2).critic_loss(batch, prediction, target),
        squared_error(prediction, target),
    )


def test_more_critics_than_there_are_cannot_be_drawn(make_agent):
    with pytest.raises(ValueError, match=r"agent\.target_subset=3 of agent\.critics=2"):
        make_agent("redq", critics=2, target_subset=3)
