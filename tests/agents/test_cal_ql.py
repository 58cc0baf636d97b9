"""Cal-QL: returns to go by hand, and that values below them have no gradient of the gap."""

from dataclasses import replace

import pytest
import torch

from reverie.agents.cql import CQL
from reverie.datasets.dataset import Dataset
from reverie.datasets.returns import returns_to_go


@pytest.fixture
def data(spec, make_batch):
    """Two episodes: rewards 1, 2, 3, cut by a limit; rewards 4, 5, terminated."""
    rows = make_batch(5)
    rows.reward[:] = torch.arange(1.0, 6.0)
    rows.terminated[:] = torch.tensor([False, False, False, False, True])
    return Dataset(
        name="toy",
        spec=spec,
        transitions=rows,
        truncated=torch.tensor([False, False, True, False, False]),
        valid_next=torch.ones(5, dtype=torch.bool),
        episode_starts=torch.tensor([0, 3]),
    )


@pytest.mark.parametrize(("after_cut", "tail"), [("nothing", 0.0), ("mean", 20.0), ("last", 30.0)])
def test_returns_to_go_by_hand(data, after_cut, tail):
    third = 3 + 0.9 * tail
    second = 2 + 0.9 * third
    expected = [1 + 0.9 * second, second, third, 4 + 0.9 * 5, 5.0]
    assert returns_to_go(data, 0.9, after_cut).tolist() == pytest.approx(expected)


def test_a_termination_within_an_episode_cuts_too(data):
    data.transitions.terminated[1] = True
    assert returns_to_go(data, 0.9, "mean").tolist()[:2] == pytest.approx([1 + 0.9 * 2, 2.0])


def test_costs_go_on_after_a_cut(data):
    """Without that, G would exceed what any policy earns, and be no floor."""
    data.transitions.reward.neg_()
    assert (returns_to_go(data, 0.99, "mean")[:3] < -150).all()
    assert (returns_to_go(data, 0.99, "nothing")[:3] > -6.1).all()


def test_only_proposed_actions_are_calibrated(make_agent, data):
    agent = make_agent("cal_ql", samples=2)
    rows = agent.recorded(data)[None]
    values = torch.full((1, 2, 5, 6), -1e3)
    pushed = agent.pushed_down(rows, values)
    assert torch.equal(pushed[..., :2], values[..., :2])  # uniform
    floor = rows.return_to_go[:, None, :, None].expand(1, 2, 5, 4)
    assert torch.equal(pushed[..., 2:], floor)
    assert torch.equal(agent.pushed_down(rows, values + 1e6), values + 1e6)
    dreamed = agent.complete(data.transitions[None])
    assert torch.equal(agent.pushed_down(dreamed, values), values)


def test_values_below_the_return_have_no_gradient(make_agent, data):
    """With G above every Q, the policy's actions add nothing to the gradient of the gap."""
    agent = make_agent("cal_ql", samples=2)
    rows = replace(agent.recorded(data)[None], return_to_go=torch.full((1, 5), 1e3))
    values = torch.randn(1, 2, 5, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(agent.pushed_down(rows, values).logsumexp(3).sum(), values)
    assert not gradient[..., 2:].any()
    off = make_agent("cal_ql", samples=2, calibrate=False)
    assert off.pushed_down(rows, values) is values


def test_without_calibration_it_is_cql(make_agent, data):
    losses = []
    for name, own in (("cql", {}), ("cal_ql", {"calibrate": False})):
        torch.manual_seed(0)
        agent = make_agent(name, conservative_weight=5.0, actor_learning_rate=1e-4, **own)
        assert isinstance(agent, CQL)
        losses.append(agent.update(agent.recorded(data)[None])["critic_loss"])
    assert torch.equal(*losses)


def test_rows_without_returns_are_refused(make_agent, data):
    with pytest.raises(RuntimeError, match="return_to_go"):
        make_agent("cal_ql").update(data.transitions[None])
