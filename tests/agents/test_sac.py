import copy
import math

import pytest
import torch

from reverie.datasets.transition import Transition
from reverie.world_models.networks import BatchedLinear, BatchedMLP
from reverie.world_models.optimiser import Adam


def test_a_batched_layer_equals_separate_linear_layers():
    layer = BatchedLinear((2, 3), 4, 5)
    x = torch.randn(2, 3, 7, 4)
    out = layer(x)
    for i in range(2):
        for j in range(3):
            single = torch.nn.functional.linear(x[i, j], layer.weight[i, j].T, layer.bias[i, j, 0])
            assert torch.allclose(out[i, j], single, atol=1e-6)


def test_adam_follows_torch_optim_for_every_seed():
    net = BatchedMLP((3,), 2, [8], 1, "tanh")
    twin = copy.deepcopy(net)
    ours = Adam(net.parameters(), 1e-2)
    theirs = torch.optim.Adam(twin.parameters(), 1e-2)
    for _ in range(20):
        x = torch.randn(3, 16, 2)
        ours.step(net(x).square().mean((1, 2)))
        theirs.zero_grad()
        twin(x).square().mean((1, 2)).sum().backward()
        theirs.step()
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_adam_reads_gradients_of_any_memory_layout():
    start, gradient = torch.randn(1, 3, 5), torch.randn(1, 5, 3).transpose(1, 2)
    moved = []
    for layout in (gradient, gradient.contiguous()):
        parameter = torch.nn.Parameter(start.clone())
        optimiser = Adam([parameter], 0.1)
        for factor in (1.0, -0.5):
            optimiser.apply_gradients([factor * layout])
        moved.append(parameter.detach())
    assert torch.equal(*moved)


def test_adam_refuses_losses_that_are_not_one_per_seed():
    net = BatchedMLP((3,), 2, [4], 1, "relu")
    optimiser = Adam(net.parameters(), 1e-3)
    with pytest.raises(ValueError, match="one loss per seed"):
        optimiser.step(net(torch.randn(3, 5, 2)).mean((0, 2)))


def test_the_cosine_schedule_steps_down_to_zero():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = Adam([parameter], 0.1, cosine_steps=100, cosine_every=10)
    rates = []
    for _ in range(101):
        rates.append(float(optimiser.current_learning_rate()))
        optimiser.apply_gradients([torch.ones(1)])
    assert rates[0] == rates[9] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.05)
    assert rates[15] == pytest.approx(0.05 * (1 + math.cos(math.pi * 0.1)))
    assert rates[100] == pytest.approx(0.0, abs=1e-9)


def test_a_zero_learning_rate_keeps_the_temperature(spec, make_sac, make_batch):
    agent = make_sac(spec, initial_temperature=0.2, temperature_learning_rate=0.0)
    for _ in range(3):
        measured = agent.update(make_batch(1, 8))
    assert measured["temperature"].item() == pytest.approx(0.2)


def test_the_temperature_moves_towards_its_target_entropy(spec, make_sac, make_batch):
    calm = make_sac(spec, target_entropy=-50.0, temperature_learning_rate=0.05)
    for _ in range(10):
        calm.update(make_batch(1, 32))
    assert calm.log_temperature.item() < -0.1  # too much entropy: its weight falls
    wild = make_sac(spec, target_entropy=50.0, temperature_learning_rate=0.05)
    for _ in range(10):
        wild.update(make_batch(1, 32))
    assert wild.log_temperature.item() > 0.1
    assert wild.temperature.item() == 1.0  # clipped where the losses use it


def test_the_target_is_the_minimum_over_all_critics_minus_entropy(spec, make_sac, make_batch):
    agent = make_sac(spec, critics=5, seeds=2)
    batch = make_batch(2, 6)
    torch.manual_seed(3)
    target = agent.target(batch)
    torch.manual_seed(3)
    with torch.no_grad():
        action, log_prob = agent.actor.sample(batch.next_obs)
        values = agent.target_critics(batch.next_obs, action)  # [S, N, B]
    assert values.shape == (2, 5, 6)
    for s in range(2):
        for b in range(6):
            soft = min(float(values[s, n, b]) for n in range(5)) - float(log_prob[s, b])
            expected = float(batch.reward[s, b]) + 0.9 * (0 if batch.terminated[s, b] else soft)
            assert float(target[s, b]) == pytest.approx(expected, abs=1e-5)


def test_a_deterministic_backup_leaves_the_entropy_out(spec, make_sac, make_batch):
    agent = make_sac(spec, entropy_in_target=False)
    batch = make_batch(1, 6)
    torch.manual_seed(3)
    target = agent.target(batch)
    torch.manual_seed(3)
    action, _ = agent.actor.sample(batch.next_obs)
    value = agent.target_critics(batch.next_obs, action).amin(1)
    expected = batch.reward + 0.9 * torch.where(batch.terminated, 0.0, value)
    assert torch.allclose(target, expected)


@pytest.mark.slow
def test_critics_converge_to_the_value_of_a_one_state_problem(spec, make_sac):
    # Reward 1 for ever, no entropy: Q = 1 / (1 - 0.9) = 10. Terminal rows: Q = 1.
    lead = (1, 64)
    batch = Transition(
        obs=torch.zeros(*lead, 3),
        action=torch.zeros(*lead, 2),
        reward=torch.ones(lead),
        next_obs=torch.zeros(*lead, 3),
        terminated=torch.zeros(lead, dtype=torch.bool),
        is_real=torch.ones(lead, dtype=torch.bool),
    )
    options = {
        "entropy_in_target": False,
        "actor_learning_rate": 0.0,
        "tau": 0.2,
        "critic_learning_rate": 1e-2,
    }
    agent = make_sac(spec, **options)
    with torch.no_grad():  # the actor stays at action zero, where the critics are trained
        head = agent.actor.body.layers[-1]
        head.weight.zero_()
        head.bias.copy_(torch.tensor([[0.0, -20.0]]).repeat_interleave(spec.action_dim, 1))
    for _ in range(400):
        measured = agent.update(batch)
    assert measured["value"].item() == pytest.approx(10.0, rel=0.05)
    ended = Transition(**{**vars(batch), "terminated": torch.ones(lead, dtype=torch.bool)})
    for _ in range(400):
        measured = agent.update(ended)
    assert measured["value"].item() == pytest.approx(1.0, rel=0.05)


def test_the_policy_finds_the_action_its_critics_like(spec, make_sac, make_batch):
    agent = make_sac(spec, temperature_learning_rate=0.0, initial_temperature=1e-3)
    goal = torch.tensor([0.5, -0.3])
    agent.critics = _Bowl(goal)
    for _ in range(500):
        agent._update_policy(make_batch(1, 64))
    action = agent.act(torch.randn(1, 200, 3), deterministic=True)
    assert (action - goal).abs().mean() < 0.1


class _Bowl(torch.nn.Module):
    def __init__(self, goal):
        super().__init__()
        self.goal = goal

    def forward(self, obs, action):
        return -(action - self.goal).square().sum(-1).unsqueeze(1)


def test_the_critic_step_leaves_the_actor_alone_and_the_reverse(spec, make_sac, make_batch):
    agent = make_sac(spec)
    before = copy.deepcopy(agent.state_dict())
    agent._update_critic(make_batch(1, 8))
    for name, value in agent.actor.state_dict().items():
        assert torch.equal(value, before[f"actor.{name}"])
    critics = copy.deepcopy(agent.critics.state_dict())
    agent._update_policy(make_batch(1, 8))
    for name, value in agent.critics.state_dict().items():
        assert torch.equal(value, critics[name])


def test_the_order_of_an_update_is_a_setting(spec, make_sac, make_batch):
    results = []
    for order in (["critic", "policy"], ["policy", "critic"]):
        torch.manual_seed(0)
        agent = make_sac(spec, order=order)
        agent.update(make_batch(1, 16))
        results.append(agent.critics.body.layers[0].weight.clone())
    assert not torch.equal(*results)
    with pytest.raises(ValueError, match="must name critic and policy once each"):
        make_sac(spec, order=["critic"])


def test_the_anchor_weighs_values_by_their_spread_and_pulls_to_recorded_actions(
    spec, make_sac, make_batch
):
    agent, batch = make_sac(spec, seeds=2, imitation=[0.0, 3.0]), make_batch(2, 6)
    torch.manual_seed(3)
    with torch.no_grad():
        action, log_prob = agent.actor.sample(batch.obs)
        loss = agent.actor_loss(batch, action, log_prob)
        value = agent.critics(batch.obs, action).amin(1)
    for seed, weight in enumerate((0.0, 3.0)):
        plain = (agent.temperature[seed] * log_prob[seed] - value[seed]).mean()
        distance = (action - batch.action)[seed].square().mean(-1)
        real = batch.is_real[seed]
        expected = plain / value[seed].std(correction=0) + weight * distance[real].mean()
        assert torch.allclose(loss[seed], expected, rtol=1e-5)


def test_a_constant_in_every_value_moves_no_anchored_actor(spec, make_sac, make_batch):
    batch, steps = make_batch(1, 16), []
    for offset in (0.0, 512.0):
        torch.manual_seed(0)
        agent = make_sac(spec, imitation=1.0, temperature_learning_rate=0.0)
        plain = agent.critics.forward
        agent.critics.forward = lambda *a, plain=plain, offset=offset: plain(*a) + offset
        torch.manual_seed(1)
        agent._update_policy(batch)
        steps.append(torch.cat([each.detach().flatten() for each in agent.actor.parameters()]))
    assert torch.allclose(*steps, atol=1e-5)


def test_imitation_is_no_option_of_awac_and_never_negative(spec, make_sac, make_agent):
    with pytest.raises(ValueError, match="must not be negative"):
        make_sac(spec, imitation=-1.0)
    with pytest.raises(ValueError, match=r"agent\.imitation=0"):
        make_agent("awac", imitation=1.0)
