import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from reverie.agents import cql
from reverie.agents.cql import _values
from reverie.agents.losses import conservative_gap, squared_error
from reverie.envs.specs import Spec


def test_the_gap_equals_a_naive_sum():
    values, density = torch.randn(2, 3, 4, 5), torch.randn(2, 4, 5)
    recorded = torch.randn(2, 3, 4)
    is_real = torch.tensor([[True, False, True, False], [True, True, True, True]])
    gap = conservative_gap(values, density, recorded, is_real, softness=2.0)
    for s in range(2):
        for n in range(3):
            down = 0.0
            for b in range(4):
                terms = [
                    math.exp(float(values[s, n, b, k] - density[s, b, k]) / 2) for k in range(5)
                ]
                down += 2 * math.log(sum(terms)) / 4
            real = [float(recorded[s, n, b]) for b in range(4) if is_real[s, b]]
            assert float(gap[s, n]) == pytest.approx(down - sum(real) / len(real), abs=1e-5)


def test_only_dreamed_states_may_be_pushed_down():
    values, density = torch.randn(1, 2, 4, 5), torch.randn(1, 4, 5)
    recorded = torch.randn(1, 2, 4)
    is_real = torch.tensor([[True, False, True, False]])
    gap = conservative_gap(values, density, recorded, is_real, 1.0, at=~is_real)
    dreamed = (values - density.unsqueeze(1)).logsumexp(3)[..., [1, 3]].mean(2)
    torch.testing.assert_close(gap, dreamed - recorded[..., [0, 2]].mean(2))


def test_dreamed_states_choose_what_the_loss_pushes_down(make_agent, make_batch):
    """Only the critics' values at dreamed rows, and recorded ones, have a gradient of the gap."""
    gradients = {}
    for states in ("all", "dreamed"):
        torch.manual_seed(0)
        agent = make_agent("cql", conservative_states=states)
        batch = replace(make_batch(1, 4), is_real=torch.tensor([[True, True, False, False]]))
        batch.obs.requires_grad_()
        torch.manual_seed(1)
        prediction = agent.critics(batch.obs.detach(), batch.action)
        loss = agent.critic_loss(batch, prediction, prediction.detach().amin(1))
        (gradients[states],) = torch.autograd.grad(loss.sum(), batch.obs)
    assert gradients["all"].abs().sum(-1).gt(0).all()
    assert gradients["dreamed"].abs().sum(-1).gt(0).tolist() == [[False, False, True, True]]


def test_a_batch_without_recorded_rows_pushes_nothing_up():
    recorded = torch.randn(1, 2, 3, requires_grad=True)
    nobody = torch.zeros(1, 3, dtype=torch.bool)
    gap = conservative_gap(torch.randn(1, 2, 3, 4), torch.zeros(1, 3, 4), recorded, nobody, 1.0)
    (gradient,) = torch.autograd.grad(gap.sum(), recorded)
    assert gap.isfinite().all() and not gradient.any()


def test_the_penalty_estimates_the_integral_over_all_actions(make_agent, make_batch):
    """log sum_k exp(Q - log q) - log K against log int exp(Q(s, a)) da on a fine grid."""
    spec = Spec(env_id=None, obs_dim=3, action_dim=1, action_low=(-1.0,), action_high=(1.0,))
    agent = make_agent("cql", spec=spec, seeds=2, samples=20_000)
    with torch.no_grad():  # critics that vary much with the action
        agent.critics.body.layers[-1].weight.mul_(20)
    batch = make_batch(2, 2, action_dim=1)
    action, density = agent.proposals(batch)
    assert action.shape == (2, 2, 60_000, 1) and action.abs().max() <= 1
    grid = torch.linspace(-1, 1, 4001).view(1, 1, -1, 1).expand(2, 2, -1, -1)
    with torch.no_grad():
        exact = torch.trapezoid(_values(agent.critics, batch.obs, grid).exp(), dx=2 / 4000).log()
        values = _values(agent.critics, batch.obs, action)
    for source in range(3):  # each source alone is a valid estimator, and so are all together
        part = slice(20_000 * source, 20_000 * (source + 1))
        estimate = (values - density.unsqueeze(1))[..., part].logsumexp(3) - math.log(20_000)
        assert torch.allclose(estimate, exact, atol=0.06), source
    together = (values - density.unsqueeze(1)).logsumexp(3) - math.log(60_000)
    assert torch.allclose(together, exact, atol=0.03)


def test_several_samples_have_the_density_of_a_squashed_gaussian(make_agent):
    actor, obs = make_agent("cql", seeds=2).actor, torch.randn(2, 3, 3)
    action, log_prob = actor.sample_several(obs, 7)
    mean, log_std = (x.unsqueeze(2) for x in actor(obs))
    squashed = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform())
    assert action.shape == (2, 3, 7, 2)
    assert torch.allclose(log_prob, squashed.log_prob(action).sum(-1), atol=1e-3)


def test_the_critic_loss_adds_the_weighted_gap_of_every_critic(make_agent, make_batch):
    agent, batch = make_agent("cql", seeds=2, conservative_weight=3.0), make_batch(2, 6)
    target, prediction = torch.randn(2, 6), agent.critics(batch.obs, batch.action)
    torch.manual_seed(1)
    loss = agent.critic_loss(batch, prediction, target)
    torch.manual_seed(1)
    action, density = agent.proposals(batch)
    values = _values(agent.critics, batch.obs, action)
    gap = conservative_gap(values, density, prediction, batch.is_real, 1.0)
    assert torch.allclose(loss, squared_error(prediction, target) + 3 * gap.sum(1), atol=1e-4)
    assert torch.allclose(agent.gap, gap.mean(1), atol=1e-5)


def test_values_fall_where_there_are_no_data_and_rise_where_there_are(make_agent, make_batch):
    agent, batch = make_agent("cql", critic_learning_rate=1e-3, discount=0.0), make_batch(1, 64)
    batch.action[:] = 0.5
    batch.reward[:] = 0.0
    batch.is_real[:] = True
    for _ in range(150):
        agent._update_critic(batch)
    with torch.no_grad():
        elsewhere = agent.critics(batch.obs, torch.full_like(batch.action, -0.5)).mean()
        recorded = agent.critics(batch.obs, batch.action).mean()
    assert recorded > elsewhere + 0.5


def test_the_critic_step_leaves_the_actor_alone(make_agent, make_batch):
    agent = make_agent("cql")
    before = copy.deepcopy(agent.actor.state_dict())
    agent._update_critic(make_batch(1, 8))
    for name, value in agent.actor.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_trained_weight_rises_above_the_limit_and_falls_below_it(make_agent, make_batch):
    for limit, sign in ((-100.0, 1), (100.0, -1)):
        agent = make_agent("cql", seeds=2, gap_limit=limit, weight_learning_rate=0.01)
        for _ in range(3):
            measured = agent.update(make_batch(2, 8))
        change = agent.weight - 2.0
        assert (sign * change > 0.03).all(), limit
        assert measured["conservative_weight"].shape == (2,)
    constant = make_agent("cql", seeds=2, gap_limit=None)
    constant.update(make_batch(2, 8))
    assert torch.allclose(constant.weight, torch.full((2,), 2.0))


def test_the_max_backup_takes_the_best_action_then_the_lower_critic(make_agent, make_batch):
    agent = make_agent("cql", max_q_backup=True, samples=4, discount=0.9)
    batch = make_batch(1, 6)
    torch.manual_seed(2)
    target = agent.target(batch)
    torch.manual_seed(2)
    action, _ = agent.actor.sample_several(batch.next_obs, 4)
    with torch.no_grad():
        values = [agent.target_critics(batch.next_obs, action[:, :, k]) for k in range(4)]
    for b in range(6):
        best = [max(float(values[k][0, i, b]) for k in range(4)) for i in (0, 1)]
        value = 0.0 if batch.terminated[0, b] else min(best)
        assert float(target[0, b]) == pytest.approx(
            float(batch.reward[0, b]) + 0.9 * value, abs=1e-5
        )


def test_a_weight_of_zero_is_refused(make_agent):
    with pytest.raises(ValueError, match="must be positive; agent=sac is"):
        make_agent("cql", conservative_weight=0.0)


def test_states_valued_some_at_a_time_have_the_same_values_and_gradients(
    make_agent, make_batch, monkeypatch
):
    agent, batch = make_agent("cql", seeds=2), make_batch(2, 7)
    action, _ = agent.proposals(batch)
    weights = list(agent.critics.parameters())

    def measure():
        values = cql._values(agent.critics, batch.obs, action)
        return values, *torch.autograd.grad(values.square().sum(), weights)

    whole = measure()
    monkeypatch.setattr(cql, "_CPU_ROWS", 2 * 2 * action.shape[2])  # two states of seven
    for found, expected in zip(measure(), whole, strict=True):
        torch.testing.assert_close(found, expected)
