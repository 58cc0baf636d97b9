"""What is cloned of action chunks: the actions that were taken, and no repeats behind an end."""

from dataclasses import replace

import pytest
import torch

from reverie.datasets.columns import WithOutcome, WithTaken, with_taken
from reverie.envs.specs import Spec

CHUNKS = Spec(None, 3, 4, (-1.0,) * 4, (1.0,) * 4, chunk=2, chunk_discount=1.0)
"""Two control steps of two actions each."""


@pytest.mark.parametrize("option", ["bc", "rvs", "td3_bc", "rebrac", "td3_awr", "awac", "iql"])
def test_the_policy_does_not_learn_from_repeated_actions(make_agent, make_batch, option):
    rows = make_batch(1, 16)
    rows = replace(
        rows, action=torch.cat([rows.action] * 2, -1), is_real=torch.ones_like(rows.is_real)
    )
    taken = torch.ones(1, 16, 2, dtype=torch.bool)
    taken[:, ::2, 1] = False
    alone = {"policy_delay": 1, "critic_penalty": 0.0}
    changes = {"td3_bc": {"policy_delay": 1}, "rebrac": alone, "td3_awr": alone}
    if option == "rvs":
        known = torch.ones_like(rows.is_real)
        rows = WithOutcome(**vars(rows), outcome=rows.reward, has_outcome=known)

    def train(taken, action):
        torch.manual_seed(0)
        agent = make_agent(option, spec=CHUNKS, **changes.get(option, {}))
        before = actor_of(agent)
        if hasattr(agent, "critics"):
            # Critics that look at no action and learn nothing: it is cloning alone that sees one.
            agent.critic_optimiser.learning_rate.zero_()
            for critics in (agent.critics, agent.target_critics):
                with torch.no_grad():
                    critics.body.layers[0].weight[..., 3:, :] = 0.0
        agent.update(with_taken(replace(rows, action=action), taken, 2))
        return before, actor_of(agent)

    def actor_of(agent):
        return torch.cat(
            [
                parameter.detach().flatten()
                for name, parameter in agent.named_parameters()
                if name.startswith("actor.")
            ]
        )

    repeats = ~taken.repeat_interleave(2, -1)
    other = torch.where(repeats, -rows.action, rows.action)
    before, after = train(taken, rows.action)
    assert not torch.equal(before, after)
    assert torch.equal(after, train(taken, other)[1])
    everything = torch.ones_like(taken)
    assert not torch.equal(train(everything, rows.action)[1], train(everything, other)[1])


def test_the_flow_is_not_taught_repeated_actions(make_agent, make_batch):
    """A velocity of zero is wrong by |a - z|^2, of which repeats count nothing."""
    agent = make_agent("fql", spec=CHUNKS)
    with torch.no_grad():
        for parameter in agent.flow.parameters():
            parameter.zero_()
    rows = replace(make_batch(1, 2), is_real=torch.ones(1, 2, dtype=torch.bool))
    action = torch.tensor([[[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]]])
    taken = torch.tensor([[[True, False], [True, True]]])
    rows = with_taken(replace(rows, action=action), taken, 2)
    found = agent.flow_loss(rows, torch.zeros_like(action), torch.full((1, 2, 1), 0.5))
    assert found.item() == pytest.approx((0.01 + 0.04 + 0.25 + 0.36 + 0.49 + 0.64) / 8)


def test_agents_that_imitate_are_told_and_others_are_not(make_agent, make_rows, make_batch):
    for option, told in (("td3_bc", True), ("rebrac", True), ("rvs", True), ("sac", False)):
        agent = make_agent(option, spec=CHUNKS)
        rows = agent.complete(replace(make_batch(1, 4), action=torch.zeros(1, 4, 4)))
        assert isinstance(rows, WithTaken) == told
