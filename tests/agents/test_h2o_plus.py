import math

import pytest
import torch

from reverie.agents.losses import sparse_error

OFF = {"td_ratio": False, "per_stream_mean": False, "value_share": 0.0}


@pytest.fixture
def make_plus(make_agent):
    return lambda **changes: make_agent("h2o_plus", seeds=2, **changes)


def test_the_target_is_a_blend_of_both_values_and_ends_at_terminals_only(make_plus, make_batch):
    agent, batch = make_plus(value_share=0.3, discount=0.9), make_batch(2, 6)
    batch.terminated[:] = torch.tensor([False, True, False, False, True, False])
    torch.manual_seed(4)
    found = agent.target(batch)
    torch.manual_seed(4)
    with torch.no_grad():
        action, log_prob = agent.actor.sample(batch.next_obs)
        critics = agent.target_critics(batch.next_obs, action)
        value = agent.value(batch.next_obs)
    alpha = agent.temperature
    for s in range(2):
        for b in range(6):
            soft = min(critics[s, :, b].tolist()) - float(alpha[s] * log_prob[s, b])
            wanted = float(batch.reward[s, b])
            if not batch.terminated[s, b]:
                wanted += 0.9 * (0.3 * float(value[s, b]) + 0.7 * soft)
            assert float(found[s, b]) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("changes", [{"expectile": 0.5}, {"sparsity": 1e3}])
def test_the_state_value_learns_the_mean_of_recorded_values_from_real_rows_alone(
    make_plus, make_batch, changes
):
    """Both losses have that limit: the expectile at one half, the sparse one for a large alpha."""
    agent, batch = make_plus(value_learning_rate=1e-2, **changes), make_batch(2, 8)
    batch.obs[:] = batch.obs[:, :1]  # one state
    batch.is_real[:] = torch.arange(8) < 5
    levels = torch.arange(8.0).square()
    agent.target_critics.forward = lambda obs, action: levels.expand(2, 2, 8)
    for _ in range(400):
        agent._update_value(batch)
    measured = agent._update_value(batch)
    assert torch.allclose(measured["state_value"], torch.full((2,), 6.0), atol=0.1)
    batch.obs[:, 5:] = float("nan")  # simulated rows do not count
    assert agent._update_value(batch)["value_loss"].isfinite().all()


@pytest.mark.parametrize("sparsity", [0.05, 0.1, 5.0])
def test_the_sparse_value_of_a_uniform_variable_is_the_stationary_point(sparsity):
    target = (torch.arange(4000, dtype=torch.float64) + 0.5).unsqueeze(0) / 4000
    # (1 - V + 2 alpha)^2 / (4 alpha) = 1 while low targets are cut off, else the mean.
    exact = 1 + 2 * sparsity - 2 * math.sqrt(sparsity) if sparsity < 0.25 else 0.5

    def slope(value):
        point = torch.tensor([[value]], dtype=torch.float64, requires_grad=True)
        loss = sparse_error(target.float(), point.expand_as(target).float(), sparsity).mean(1)
        return float(torch.autograd.grad(loss.sum(), point)[0])

    assert slope(exact) == pytest.approx(0.0, abs=1e-3)
    assert slope(exact - 0.05) < -1e-3 and slope(exact + 0.05) > 1e-3


def test_simulated_errors_count_by_the_ratio_and_real_ones_fully(make_plus, make_batch):
    agent, batch = make_plus(), make_batch(2, 6)
    batch.is_real[:] = torch.tensor([True, False, True, False, False, False])
    ratio = torch.tensor([-4.0, -1.0, 0.5, 0.0, 4.0, -math.log(2)]).expand(2, 6)
    agent.discriminators.log_ratio = lambda obs, action, next_obs: ratio
    rows = agent.weigh(batch)
    weight = [1.0, math.exp(-1), 1.0, 1.0, 1.0, 0.5]
    assert torch.allclose(rows.td_weight, torch.tensor(weight).expand(2, 6))
    prediction, target = torch.randn(2, 2, 6), torch.randn(2, 6)
    loss = agent.critic_loss(rows, prediction, target)
    for s in range(2):
        wanted = 0.0
        for b, w in enumerate(weight):
            error = float((prediction[s, :, b] - target[s, b]).square().sum())
            wanted += w * error / (2 if batch.is_real[s, b] else 4)
        assert float(loss[s]) == pytest.approx(wanted, rel=1e-5)


def test_with_every_part_off_it_learns_as_sac_on_the_mixture(make_plus, make_agent, make_batch):
    plus = make_plus(discriminators={"noise": 0.0}, **OFF)
    settings = {"order": ["policy", "critic"], "actor_cosine": False, "max_temperature": None}
    rates = {"actor_learning_rate": 3e-4, "temperature_learning_rate": 3e-4}
    sac = make_agent("sac", seeds=2, log_std_bounds=[-20.0, 2.0], **settings, **rates)
    sac.load_state_dict({k: v for k, v in plus.state_dict().items() if k in sac.state_dict()})
    batches = [make_batch(2, 16) for _ in range(4)]
    for agent in (plus, sac):
        torch.manual_seed(3)
        for batch in batches:
            agent.update(batch)
    for name, value in sac.state_dict().items():
        assert torch.equal(value, plus.state_dict()[name]), name


@pytest.mark.parametrize("part", sorted(OFF))
def test_each_part_alone_changes_what_is_learnt(make_plus, make_batch, part):
    batch = make_batch(2, 16)

    def train(**changes):
        torch.manual_seed(1)
        agent = make_plus(**changes)
        torch.manual_seed(2)
        agent._update_critic(agent.weigh(batch))
        return torch.cat([p.detach().flatten() for p in agent.critics.parameters()])

    on = {"td_ratio": True, "per_stream_mean": True, "value_share": 0.5}
    assert not torch.equal(train(**OFF), train(**{**OFF, part: on[part]}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value_share": 1.5}, "value_share=1.5 must lie between 0 and 1"),
        ({"expectile": -0.1}, "expectile=-0.1 must lie between 0 and 1"),
        ({"sparsity": 0.0}, "sparsity=0.0 must be positive"),
    ],
)
def test_impossible_numbers_are_refused(make_plus, change, message):
    with pytest.raises(ValueError, match=message):
        make_plus(**change)
