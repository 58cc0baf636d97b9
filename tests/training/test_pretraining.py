"""Behaviour cloning before the first update: what it moves, and whom it refuses."""

from dataclasses import replace

import pytest
import torch
from rich.console import Console

from reverie.agents.base import Agent
from reverie.datasets.columns import with_taken
from reverie.datasets.replay import Replay
from reverie.mistake import Mistake
from reverie.training.pretraining import Cloning


@pytest.fixture
def recorded(make_batch):
    """Actions that follow the first observation, and as many on the edge of the box."""
    rows = make_batch(400)
    rows.action[:] = 0.5 * torch.tanh(rows.obs[:, :1]).expand(-1, 2)
    rows.action[200:] = 1.0
    return rows


def cloned(rows, agent):
    torch.manual_seed(1)
    cloning = Cloning(epochs=40, batch=64, learning_rate=1e-2)
    cloning.require(agent)
    cloning.carry_out(agent, Replay.of(rows), lambda function: function, Console(quiet=True))
    return {name: value.clone() for name, value in agent.state_dict().items()}


def test_the_actor_takes_over_recorded_actions_within_the_box_and_nothing_else_moves(
    spec, make_sac, recorded
):
    agent = make_sac(spec, seeds=2)
    begun = {name: value.clone() for name, value in agent.state_dict().items()}
    learnt = cloned(recorded, agent)
    found = agent.act(recorded.obs[:200].expand(2, -1, -1), deterministic=True)
    assert (found - recorded.action[:200]).abs().mean() < 0.1
    moved = {name for name in begun if not torch.equal(begun[name], learnt[name])}
    assert moved and all(name.startswith("actor.") for name in moved)


def test_rows_on_the_edge_of_the_box_alone_teach_nothing(spec, make_sac, recorded):
    agent = make_sac(spec, seeds=2)
    begun = {name: value.clone() for name, value in agent.state_dict().items()}
    learnt = cloned(recorded[200:], agent)
    assert all(torch.equal(begun[name], learnt[name]) for name in begun)


def test_repeated_actions_of_chunks_teach_nothing_and_keep_no_row_out(spec, make_sac, recorded):
    """Two control steps of one action each; the second was never taken, and lies on the edge."""
    rows = recorded[:200]
    rows.action[:, 1] = 1.0
    taken = torch.tensor([True, False]).expand(200, 2)

    def learnt(taken, second):
        action = torch.stack([rows.action[:, 0], torch.full((200,), second)], 1)
        told = with_taken(replace(rows, action=action), taken, 2)
        torch.manual_seed(0)
        return cloned(told, make_sac(spec, seeds=2))

    def same(one, other):
        return all(torch.equal(one[name], other[name]) for name in one)

    torch.manual_seed(0)
    begun = make_sac(spec, seeds=2).state_dict()
    found = learnt(taken, 1.0)
    assert not same(found, begun) and same(found, learnt(taken, 0.5))
    every = torch.ones_like(taken)
    assert same(learnt(every, 1.0), begun) and not same(learnt(every, 0.5), found)


def test_an_agent_without_a_stochastic_actor_is_refused(spec):
    class Idle(Agent):
        def act(self, obs, deterministic=False):
            return obs

        def update(self, batch):
            return {}

    with pytest.raises(Mistake, match=r"which Idle has not; set pretraining=none"):
        cloned(None, Idle(spec=spec, seeds=1))
