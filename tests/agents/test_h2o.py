import math

import pytest
import torch

from reverie.agents.h2o import Weighed
from reverie.agents.losses import (
    per_stream,
    simulated_excess,
    squared_error,
    weighted_squared_error,
)

OFF = {"td_ratio": False, "excess_weight": 0.0, "per_stream_mean": False}


@pytest.fixture
def make_h2o(make_agent):
    return lambda **changes: make_agent("h2o", seeds=2, **changes)


def weighed(batch, log_ratio, td_weight, gap):
    return Weighed(**vars(batch), log_ratio=log_ratio, td_weight=td_weight, dynamics_gap=gap)


def test_the_excess_equals_a_naive_sum():
    values, gap = torch.randn(2, 3, 5), torch.rand(2, 5) + 0.1
    is_real = torch.tensor([[True, False, True, False, False], [False, True, True, True, False]])
    for soft in (True, False):
        excess = simulated_excess(values, gap, is_real, soft)
        for s in range(2):
            simulated = [b for b in range(5) if not is_real[s, b]]
            real = [b for b in range(5) if is_real[s, b]]
            total = sum(float(gap[s, b]) for b in simulated)
            for n in range(3):
                terms = [
                    float(gap[s, b])
                    / total
                    * (math.exp(float(values[s, n, b])) if soft else float(values[s, n, b]))
                    for b in simulated
                ]
                up = math.log(sum(terms)) if soft else sum(terms)
                up -= sum(float(values[s, n, b]) for b in real) / len(real)
                assert float(excess[s, n]) == pytest.approx(up, abs=1e-5), soft


def test_equal_gaps_give_the_log_mean_exp_over_simulated_rows():
    values = torch.randn(1, 2, 6)
    is_real = torch.tensor([[True, True, False, False, False, False]])
    excess = simulated_excess(values, torch.full((1, 6), 1e-8), is_real, True)
    wanted = values[..., 2:].logsumexp(2) - math.log(4) - values[..., :2].mean(2)
    assert torch.allclose(excess, wanted, atol=1e-6)


def test_the_excess_is_tilted_towards_gap_and_value_and_its_slope_is_their_distribution():
    """d/dQ = d_phi at simulated rows, d_phi ~ u exp(Q), and -1/n at the n real ones."""
    values = torch.randn(1, 1, 5, requires_grad=True)
    gap = torch.rand(1, 5) + 0.1
    is_real = torch.tensor([[True, True, False, False, False]])
    (slope,) = torch.autograd.grad(simulated_excess(values, gap, is_real, True).sum(), values)
    density = (gap * values.detach()[:, 0].exp())[:, 2:]
    assert torch.allclose(slope[0, 0, 2:], density[0] / density.sum(), atol=1e-6)
    assert torch.allclose(slope[0, 0, :2], torch.full((2,), -0.5))


@pytest.mark.parametrize("origin", [True, False])
@pytest.mark.parametrize("soft", [True, False])
def test_a_batch_of_one_origin_stays_finite(origin, soft):
    values = torch.randn(1, 2, 3, requires_grad=True)
    excess = simulated_excess(values, torch.ones(1, 3), torch.full((1, 3), origin), soft)
    (slope,) = torch.autograd.grad(excess.sum(), values)
    assert excess.isfinite().all() and slope.isfinite().all()
    assert slope.any() == (not origin)


def test_weighted_errors_of_both_streams_are_averaged_apart():
    prediction, target = torch.randn(1, 2, 5), torch.randn(1, 5)
    is_real = torch.tensor([[True, False, False, False, True]])
    weight = torch.rand(1, 5)
    loss = weighted_squared_error(prediction, target, per_stream(weight, is_real))
    error = (prediction - target.unsqueeze(1)).square() * weight
    wanted = error[..., [0, 4]].mean(2) + error[..., [1, 2, 3]].mean(2)
    assert torch.allclose(loss, wanted.sum(1), atol=1e-6)
    ones = torch.ones(1, 5)
    assert torch.equal(
        weighted_squared_error(prediction, target, ones), squared_error(prediction, target)
    )


def test_with_every_part_off_it_is_sac_on_the_mixture_to_the_last_bit(
    make_h2o, make_agent, make_batch
):
    h2o = make_h2o(discriminators={"noise": 0.0}, **OFF)
    settings = {"order": ["policy", "critic"], "entropy_in_target": False, "actor_cosine": False}
    rates = {"actor_learning_rate": 3e-4, "temperature_learning_rate": 3e-4}
    bounds = {"log_std_bounds": [-20.0, 2.0], "max_temperature": None}
    sac = make_agent("sac", seeds=2, **settings, **rates, **bounds)
    shared = {k: v for k, v in h2o.state_dict().items() if k in sac.state_dict()}
    sac.load_state_dict(shared)
    batches = [make_batch(2, 16) for _ in range(4)]
    for agent in (h2o, sac):
        torch.manual_seed(3)
        for batch in batches:
            agent.update(batch)
    for name, value in sac.state_dict().items():
        assert torch.equal(value, h2o.state_dict()[name]), name


@pytest.mark.parametrize("part", sorted(OFF))
def test_each_part_alone_changes_what_is_learnt(make_h2o, make_batch, part):
    batch = make_batch(2, 16)

    def train(**changes):
        torch.manual_seed(1)
        agent = make_h2o(**changes)
        torch.manual_seed(2)
        agent._update_critic(agent.weigh(batch))
        return torch.cat([p.detach().flatten() for p in agent.critics.parameters()])

    on = {"td_ratio": True, "excess_weight": 0.5, "per_stream_mean": True}
    assert not torch.equal(train(**OFF), train(**{**OFF, part: on[part]}))


def test_the_critic_loss_and_its_gradient_equal_a_naive_loop(make_h2o, make_batch):
    agent, batch = make_h2o(excess_weight=0.3), make_batch(2, 6)
    batch.is_real[:] = torch.tensor([True, False, True, False, False, True])
    weight = torch.where(batch.is_real, 1.0, torch.rand(2, 6))
    rows = weighed(batch, torch.zeros(2, 6), weight, torch.rand(2, 6) + 0.1)
    target = torch.randn(2, 6)
    parameters = list(agent.critics.parameters())
    prediction = agent.critics(batch.obs, batch.action)
    loss = agent.critic_loss(rows, prediction, target)
    found = torch.autograd.grad(loss.sum(), parameters, retain_graph=True)
    total = torch.zeros(())
    for s in range(2):
        real, simulated = ([0, 2, 5], [1, 3, 4])
        omega = rows.dynamics_gap[s, simulated] / rows.dynamics_gap[s, simulated].sum()
        for n in range(2):
            q = prediction[s, n]
            total = total + sum((q[b] - target[s, b]) ** 2 for b in real) / 3
            for b in simulated:
                total = total + weight[s, b] * (q[b] - target[s, b]) ** 2 / 3
            excess = (omega * q[simulated].exp()).sum().log() - q[real].mean()
            total = total + 0.3 * excess
    for gradient, wanted in zip(found, torch.autograd.grad(total, parameters), strict=True):
        assert torch.allclose(gradient, wanted, atol=1e-5)


def test_the_excess_is_clipped_at_its_limit(make_h2o, make_batch):
    agent, batch = make_h2o(**{**OFF, "excess_weight": 2.0}, excess_limit=0.5), make_batch(2, 6)
    batch.is_real[:] = torch.arange(6) < 3
    values = torch.where(batch.is_real, -5.0, 5.0).unsqueeze(1).expand(-1, 2, -1)
    rows = weighed(batch, *(torch.ones(2, 6) for _ in range(3)))
    loss = agent.critic_loss(rows, values, values[:, 0])
    assert torch.allclose(loss, torch.full((2,), 2.0 * 0.5 * 2))


def test_weights_follow_the_ratio_within_their_bounds(make_h2o, make_batch):
    batch = make_batch(2, 6)
    ratio = torch.tensor([-4.0, -1.0, 0.0, 0.5, 4.0, -30.0]).expand(2, 6)
    for bounds in ([1e-5, 1.0], [0.1, 20.0]):
        agent = make_h2o(weight_bounds=bounds)
        agent.discriminators.log_ratio = lambda obs, action, next_obs: ratio
        agent.dynamics_gap = lambda batch: torch.zeros(2, 6)
        weight = agent.weigh(batch).td_weight
        for s in range(2):
            for b in range(6):
                wanted = min(max(math.exp(float(ratio[s, b])), bounds[0]), bounds[1])
                wanted = 1.0 if batch.is_real[s, b] else wanted
                assert float(weight[s, b]) == pytest.approx(wanted, rel=1e-5)
    off = make_h2o(td_ratio=False)
    assert torch.equal(off.weigh(batch).td_weight, torch.ones(2, 6))


def test_the_gap_of_a_quadratic_ratio_is_known_in_closed_form(make_h2o, make_batch, make_data):
    """log Mhat/M = c |s'|^2 + k has the mean c (|s'|^2 + sum std^2) + k around s'."""
    agent = make_h2o(gap_samples=4000, gap_std=0.5, gap_bounds=[1e-8, 100.0])
    agent.successor_std.copy_(torch.tensor([1.0, 2.0, 0.0]))
    agent.discriminators.log_ratio = lambda obs, action, next_obs: (
        -0.3 * next_obs.square().sum(-1) - action[..., 0]
    )
    batch = make_batch(2, 5)
    batch.terminated[:] = torch.tensor([False, False, False, False, True])
    end = torch.where(batch.terminated.unsqueeze(-1), batch.obs, batch.next_obs)
    wanted = 0.3 * (end.square().sum(-1) + 0.25 + 1.0) + batch.action[..., 0]
    # Standard error of the mean of 4000 draws, about 0.3 * 4 / 63 where |s'| is largest.
    assert torch.allclose(agent.dynamics_gap(batch), wanted.clamp(min=1e-8), atol=0.1)


def test_the_gap_stays_within_its_bounds_and_an_all_clipped_batch_trains(make_h2o, make_batch):
    agent, batch = make_h2o(), make_batch(2, 8)
    for level, wanted in ((50.0, 1e-8), (-50.0, 10.0)):
        agent.discriminators.log_ratio = lambda obs, action, next_obs, level=level: torch.full(
            obs.shape[:2], level
        )
        assert torch.allclose(agent.dynamics_gap(batch), torch.tensor(wanted))
        assert all(value.isfinite().all() for value in agent.update(batch).values())


def test_a_uniform_omega_needs_no_gap(make_h2o, make_batch):
    batch = make_batch(2, 8)
    for changes in ({"adaptive": False}, {"excess_weight": 0.0}):
        assert torch.equal(make_h2o(**changes).weigh(batch).dynamics_gap, torch.ones(2, 8))
    assert not torch.equal(make_h2o().weigh(batch).dynamics_gap, torch.ones(2, 8))


def test_padded_std_is_that_of_the_data_followed_by_zeros(make_h2o, make_data):
    data = make_data(*range(20))
    data.transitions.obs[:] += 3
    obs = data.transitions.obs
    for padding in (0.0, 10.0):
        agent = make_h2o(std_padding=padding)
        agent.prepare(data)
        padded = torch.cat([obs, torch.zeros(int(padding) * len(obs), 3)])
        assert torch.allclose(agent.successor_std, padded.std(0, correction=0), atol=1e-5)


def test_measurements_are_means_over_simulated_rows(make_h2o, make_batch):
    agent, batch = make_h2o(**{"excess_weight": 0.0}), make_batch(2, 12)
    batch.is_real[:] = torch.arange(12) < 6
    agent.discriminators.log_ratio = lambda obs, action, next_obs: torch.where(
        batch.is_real, 5.0, -math.log(2)
    )
    measured = agent.update(batch)
    assert torch.allclose(measured["td_weight"], torch.full((2,), 0.5))
    assert torch.allclose(measured["log_ratio"], torch.full((2,), -math.log(2)))


def test_simulated_values_fall_where_the_dynamics_are_wrong(make_h2o, make_batch):
    """Equal rewards and no future: only the gap tells trusted from mistrusted actions."""
    agent = make_h2o(excess_weight=1.0, critic_learning_rate=3e-3, discount=0.0, td_ratio=False)
    batch = make_batch(2, 64)
    batch.reward[:] = 0.0
    wrong = batch.action[..., 0] > 0
    gap = torch.where(wrong, 3.0, 1e-3)
    rows = weighed(batch, torch.zeros(2, 64), torch.ones(2, 64), gap)
    for _ in range(200):
        agent._update_critic(rows)
    with torch.no_grad():
        values = agent.critics(batch.obs, batch.action).mean(1)
    simulated = ~batch.is_real
    assert values[simulated & wrong].mean() < values[simulated & ~wrong].mean() - 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"excess_weight": -1.0}, "excess_weight=-1.0 must not be negative"),
        ({"gap_samples": 0}, "gap_samples=0 must be at least 1"),
        ({"gap_bounds": [0.0, 1.0]}, "gap_bounds=.* must be positive and ascending"),
        ({"weight_bounds": [1.0, 0.5]}, "weight_bounds=.* must be positive and ascending"),
    ],
)
def test_impossible_numbers_are_refused(make_h2o, change, message):
    with pytest.raises(ValueError, match=message):
        make_h2o(**change)
