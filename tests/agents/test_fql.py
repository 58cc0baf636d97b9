"""FQL's flow, its teacher, the distillation and one step, with numbers worked out by hand."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.func import functional_call

from reverie.agents.regularisers import SpectralNorm
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.training.launch.options import read_option

LINE = Spec(None, 1, 1, (-1.0,), (1.0,))


@pytest.fixture
def make_linear(make_agent):
    """Networks of one affine layer each; weights in the order of their inputs, the bias last."""

    def make(flow=(0.0, 0.0, 0.0, 0.0), policy=(0.0, 0.0, 0.0), critics=((0.0,) * 3,) * 2, **given):
        agent = make_agent("fql", spec=LINE, hidden=[], critic_layer_norm=False, **given)
        for network, numbers in (
            (agent.flow, [flow]),
            (agent.actor, [policy]),
            (agent.critics.body, [critics]),
            (agent.target_critics.body, [critics]),
        ):
            values, last = torch.tensor(numbers), network.layers[-1]
            with torch.no_grad():
                last.weight.copy_(values[..., :-1, None])
                last.bias.copy_(values[..., -1:, None])
        return agent

    return make


def rows_of(obs, action, reward, next_obs, terminated, is_real):
    """One seed's batch of a task on a line."""
    obs, action, next_obs = (torch.tensor(each)[None, :, None] for each in (obs, action, next_obs))
    reward, terminated, is_real = (
        torch.tensor(each)[None] for each in (reward, terminated, is_real)
    )
    return Transition(obs, action, reward, next_obs, terminated, is_real)


BATCH = rows_of(
    *([0.5, -1.0, 2.0], [0.2, -0.6, 0.9], [1.0, -2.0, 0.5], [1.0, 0.0, -0.5]),
    *([False, True, False], [True, False, True]),
)


def draws(batch):
    """What an update draws, in its order: z', z and t of the flow, z of the policy."""
    torch.manual_seed(3)
    action = batch.action
    found = [torch.randn_like(action), torch.randn_like(action), torch.rand_like(action[..., :1])]
    found.append(torch.randn_like(action))
    torch.manual_seed(3)
    return found


def test_the_flow_learns_the_straight_line_from_noise_to_recorded_actions(make_linear):
    agent = make_linear(flow=(0.5, 2.0, -1.0, 0.1))
    noise = torch.tensor([1.0, 5.0, -1.0])[None, :, None]
    time = torch.tensor([0.25, 0.5, 1.0])[None, :, None]
    first = 0.5 * 0.5 + 2 * (0.75 * 1 + 0.25 * 0.2) - 0.25 + 0.1 - (0.2 - 1)
    third = 0.5 * 2 + 2 * 0.9 - 1 + 0.1 - (0.9 + 1)
    expected = (first**2 + third**2) / 2  # the second row was dreamed
    assert agent.flow_loss(BATCH, noise, time).item() == pytest.approx(expected, rel=1e-5)
    nothing = replace(BATCH, is_real=torch.zeros(1, 3, dtype=torch.bool))
    assert agent.flow_loss(nothing, noise, time).item() == 0


@pytest.mark.parametrize(
    ("flow", "steps", "start", "end"),
    [
        ((0.0, -1.0, 0.0, 0.0), 10, 2.0, 2 * 0.9**10),
        ((0.0, 0.0, 1.0, 0.0), 10, 0.1, 0.1 + 0.45),  # times 0, 0.1 .. 0.9
        ((0.0, 0.0, 1.0, 0.0), 4, 0.1, 0.1 + 0.375),
        ((2.0, 0.0, 0.0, 0.5), 10, 0.5, 1.0),  # beyond the box
        ((0.0, -2.0, 0.0, 4.0), 1, -3.0, 1.0),  # clipped at the end: -3 + 6 + 4
        ((0.0, -2.0, 0.0, 4.0), 2, -3.0, 1.0),
        ((0.0, -1.0, 0.0, 0.0), 2, -3.6, -0.9),  # and not on the way, where it would be -0.5
    ],
)
def test_the_teacher_takes_euler_steps(make_linear, flow, steps, start, end):
    agent = make_linear(flow=flow, flow_steps=steps)
    found = agent.teacher(torch.full((1, 1, 1), 0.75), torch.full((1, 1, 1), start))
    assert float(found) == pytest.approx(end, rel=1e-5) and not found.requires_grad


@pytest.mark.parametrize(("steps", "between"), [(5, 0.073), (10, 0.003), (50, 0.0001)])
def test_ten_euler_steps_of_the_exact_flow_lose_nothing_between_two_ways(
    make_linear, monkeypatch, steps, between
):
    """v = E[a - z | x_t] of actions that are 0.7 or -0.7, each with a std of 0.05."""
    agent, way, std = make_linear(flow_steps=steps), torch.tensor([0.7, -0.7]), 0.05

    def exact(obs, action, time):
        variance = (1 - time) ** 2 + (time * std) ** 2
        off = action - time * way  # [S, B, 2], from where either way would have led by now
        likely = (-0.5 * off.square() / variance).softmax(-1)
        drift = way + (time * std**2 - (1 - time)) / variance * off
        return (likely * drift).sum(-1, keepdim=True)

    monkeypatch.setattr(agent, "velocity", exact)
    noise = torch.randn(1, 50_000, 1)
    found = (agent.teacher(torch.zeros_like(noise), noise).abs() - 0.7).abs() > 0.2
    assert found.float().mean().item() == pytest.approx(between, rel=0.1, abs=1e-3)


def test_the_policy_is_compared_with_the_flow_from_the_same_noise(make_linear):
    """v = -0.9 x ends at 0.1 z in one step, and mu = 0.1 z does too."""
    agent = make_linear(flow=(0.0, -0.9, 0.0, 0.0), policy=(0.0, 0.1, 0.0), flow_steps=1)
    assert float(agent.update(BATCH)["distillation_error"]) < 1e-12


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("target_value", ["mean", "min"])
def test_one_update_by_hand(make_linear, normalise, target_value):
    """Adam's first moment after one step is a tenth of the gradient."""
    flow, policy = (0.3, -0.5, 0.2, 0.1), (0.4, 0.7, -0.2)
    critics = ((0.5, 1.5, 0.2), (-0.3, 0.8, 1.0))
    agent = make_linear(
        flow,
        policy,
        critics,
        alpha=2.0,
        flow_steps=2,
        discount=0.9,
        normalise_value=normalise,
        target_value=target_value,
    )
    after, noise, time, latent = (each.flatten().tolist() for each in draws(BATCH))
    agent.update(BATCH)
    obs, action, next_obs = (
        getattr(BATCH, name).flatten().tolist() for name in ("obs", "action", "next_obs")
    )

    def v(s, x, t):
        return flow[0] * s + flow[1] * x + flow[2] * t + flow[3]

    def mu(s, z):
        return policy[0] * s + policy[1] * z + policy[2]

    def q(i, s, a):
        return critics[i][0] * s + critics[i][1] * a + critics[i][2]

    def clip(a):
        return min(max(a, -1.0), 1.0)

    of_flow, of_policy, of_critics = [0.0] * 4, [0.0] * 3, [[0.0] * 3, [0.0] * 3]
    for b in (0, 2):  # those that were recorded
        x = (1 - time[b]) * noise[b] + time[b] * action[b]
        error = v(obs[b], x, time[b]) - (action[b] - noise[b])
        for j, given in enumerate((obs[b], x, time[b], 1.0)):
            of_flow[j] += 2 * error * given / 2
    values = [
        (q(0, s, clip(mu(s, z))) + q(1, s, clip(mu(s, z)))) / 2
        for s, z in zip(obs, latent, strict=True)
    ]
    scale = 3 / sum(map(abs, values)) if normalise else 1.0
    clipped = 0
    for b in range(3):
        half = latent[b] + v(obs[b], latent[b], 0.0) / 2
        end = clip(half + v(obs[b], half, 0.5) / 2)
        a = mu(obs[b], latent[b])
        inside = abs(a) < 1
        clipped += not inside
        slope = 2 * 2.0 * (a - end) - scale * inside * (critics[0][1] + critics[1][1]) / 2
        for j, given in enumerate((obs[b], latent[b], 1.0)):
            of_policy[j] += slope * given / 3
        there = clip(mu(next_obs[b], after[b]))
        pair = [q(i, next_obs[b], there) for i in (0, 1)]
        bootstrap = min(pair) if target_value == "min" else sum(pair) / 2
        y = float(BATCH.reward[0, b]) + 0.9 * bootstrap * (b != 1)  # the second row is terminal
        for i in (0, 1):
            for j, given in enumerate((obs[b], action[b], 1.0)):
                of_critics[i][j] += 2 * (q(i, obs[b], action[b]) - y) * given / 3
    assert 0 < clipped < 3  # one action left the box, where the critics have no slope
    moments = [getattr(agent.actor_optimiser, f"mean_{i}").flatten().tolist() for i in range(4)]
    found = [10 * each for part in moments for each in part]
    assert found == pytest.approx([*of_flow, *of_policy], rel=1e-4, abs=1e-5)
    weight, bias = agent.critic_optimiser.mean_0, agent.critic_optimiser.mean_1
    for i in (0, 1):
        own = [*(10 * weight[0, i]).flatten().tolist(), float(10 * bias[0, i])]
        assert own == pytest.approx(of_critics[i], rel=1e-4, abs=1e-5)


def test_two_optimisers_step_as_one_over_everything(make_agent, make_batch):
    """The authors' single loss: the actor's part looks at the critics without moving them."""
    agent, other = (make_agent("fql", seeds=2, alpha=1.5, flow_steps=3) for _ in range(2))
    other.load_state_dict(agent.state_dict())
    networks = (other.flow, other.actor, other.critics)
    joint = torch.optim.Adam([p for each in networks for p in each.parameters()], lr=3e-4)
    for _ in range(3):
        batch = make_batch(2, 12)
        after, noise, time, latent = draws(batch)
        agent.update(batch)
        with torch.no_grad():
            there = other.policy(batch.next_obs, after).clamp(-1, 1)
            bootstrap = other.target_critics(batch.next_obs, there).mean(1)
            y = batch.reward + 0.99 * torch.where(batch.terminated, 0.0, bootstrap)
        critic = (other.critics(batch.obs, batch.action) - y[:, None]).square().mean(2).sum()
        error = (other.policy(batch.obs, latent) - other.teacher(batch.obs, latent)).square()
        frozen = {name: value.detach() for name, value in other.critics.named_parameters()}
        action = other.policy(batch.obs, latent).clamp(-1, 1)
        value = functional_call(other.critics, frozen, (batch.obs, action)).mean(1)
        scaled = (value.mean(1) / value.detach().abs().mean(1)).sum()
        flow = other.flow_loss(batch, noise, time).sum()
        joint.zero_grad()
        (critic + flow + 1.5 * error.mean((1, 2)).sum() - scaled).backward()
        joint.step()
        with torch.no_grad():
            for old, new in zip(
                other.target_critics.parameters(), other.critics.parameters(), strict=True
            ):
                old.lerp_(new, 0.005)
        for (name, own), (_, wanted) in zip(
            agent.named_parameters(), other.named_parameters(), strict=True
        ):
            torch.testing.assert_close(own, wanted, rtol=1e-4, atol=3e-6, msg=name)


def test_dreamed_actions_reach_the_critics_alone(make_agent, make_batch):
    """No flow imitates them; what is distilled and valued are the states of all rows."""
    batch = make_batch(1, 16)
    dreamed = ~batch.is_real.unsqueeze(-1)
    assert dreamed.any() and not dreamed.all()

    def train(rows):
        torch.manual_seed(0)
        agent = make_agent("fql")
        agent.update(rows)
        return [
            torch.cat([p.detach().flatten() for p in network.parameters()])
            for network in (agent.flow, agent.actor, agent.critics)
        ]

    flow, actor, critics = train(batch)
    other = train(replace(batch, action=torch.where(dreamed, -batch.action, batch.action)))
    assert torch.equal(flow, other[0]) and torch.equal(actor, other[1])
    assert not torch.equal(critics, other[2])
    other = train(replace(batch, obs=torch.where(dreamed, -batch.obs, batch.obs)))
    assert torch.equal(flow, other[0]) and not torch.equal(actor, other[1])
    other = train(replace(batch, action=torch.where(dreamed, batch.action, -batch.action)))
    assert not torch.equal(flow, other[0])


@pytest.mark.parametrize("normalise", [True, False])
def test_the_unit_of_rewards_does_not_matter_to_a_normalised_value(
    make_agent, make_batch, normalise
):
    batch = make_batch(1, 16)

    def train(unit):
        torch.manual_seed(0)
        agent = make_agent("fql", normalise_value=normalise)
        with torch.no_grad():
            for parameter in agent.critics.body.layers[-1].parameters():
                parameter *= unit
        agent._update_actor(batch)
        return 10 * agent.actor_optimiser.mean_6  # gradient of the policy's first weights

    assert torch.allclose(train(1.0), train(1024.0), rtol=1e-3, atol=1e-6) == normalise


def test_deterministic_actions_are_those_of_the_kept_latent(make_agent):
    obs = torch.randn(2, 5, 3)
    zero, drawn = (make_agent("fql", seeds=2, latent=each) for each in ("zero", "drawn"))
    assert not zero.latent.any() and not torch.equal(*drawn.latent)
    for agent in (zero, drawn):
        wanted = agent.policy(obs, agent.latent.expand(-1, 5, -1)).clamp(-1, 1)
        assert torch.equal(agent.act(obs, deterministic=True), wanted)
        assert not torch.equal(agent.act(obs), agent.act(obs))
    again = make_agent("fql", seeds=2, latent="drawn")
    assert not torch.equal(again.latent, drawn.latent)
    again.load_state_dict(drawn.state_dict())
    assert torch.equal(again.act(obs, deterministic=True), drawn.act(obs, deterministic=True))


def test_the_moments_of_a_linear_policy_are_exact(make_agent):
    agent = make_agent("fql", hidden=[])
    with torch.no_grad():
        (last,) = agent.actor.layers
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.1, -0.2]))
        last.weight[0, 3:] = torch.tensor([[0.03, 0.05], [0.04, 0.12]])  # of z
    mean, std = agent.moments(torch.randn(1, 4, 3))
    assert torch.allclose(mean, torch.tensor([0.1, -0.2])) and mean.shape == (1, 4, 2)
    assert torch.allclose(std, torch.tensor([0.05, 0.13]))


def test_a_regulariser_of_the_critics_acts(make_agent, make_data, make_batch):
    settings = read_option("regulariser/spectral")
    spectral = {key: value for key, value in settings.items() if not key.startswith("_")}
    agent = make_agent(
        "fql",
        critic_layer_norm=False,
        regulariser=partial(SpectralNorm, **{**spectral, "cap": 0.05}),
    )
    agent.prepare(make_data(1.0, 2.0))
    agent.update(make_batch(1, 16))
    for layer in agent.critics.body.layers:
        assert torch.linalg.matrix_norm(layer.weight.detach(), 2).max() < 0.06


def test_two_ways_to_act_are_both_kept(make_agent):
    """Half of the actions are 0.7 and half -0.7; their mean, which is never seen, is not taken."""
    agent = make_agent(
        "fql", spec=LINE, hidden=[64, 64], alpha=1000.0, actor_learning_rate=4e-3, flow_steps=5
    )
    nothing, real = torch.zeros(1, 64, 1), torch.ones(1, 64, dtype=torch.bool)
    for update in range(500):
        if update == 350:
            agent.actor_optimiser.learning_rate.fill_(3e-4)
        side = torch.where(torch.rand(1, 64, 1) < 0.5, 0.7, -0.7)
        action = side + 0.05 * torch.randn(1, 64, 1)
        agent._update_actor(Transition(nothing, action, nothing[..., 0], nothing, real, real))
    obs, noise = torch.zeros(1, 2000, 1), torch.randn(1, 2000, 1)
    taught, done = agent.teacher(obs, noise), agent.policy(obs, noise).detach()
    for actions in (taught, agent.act(obs)):
        for mode in (0.7, -0.7):
            assert float(((actions - mode).abs() < 0.2).float().mean()) > 0.3
    assert float((taught - done).abs().mean()) < 0.1  # both still move


@pytest.mark.slow
@pytest.mark.parametrize("lesser", [0.5, 1.0])
def test_critics_do_not_take_one_of_two_ways_from_the_policy(make_agent, lesser):
    """What lies between pays -1. Each way keeps 0.4 of the mass; one mean of equal ways pays -1."""

    def reward_of(action):
        near = ((action - way).abs() < 0.2 for way in (0.7, -0.7))
        return sum(pay * each for pay, each in zip((2.0, 1 + lesser), near, strict=True)) - 1

    def train(name, **given):
        torch.manual_seed(0)
        rates = {"actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3}
        agent = make_agent(name, spec=LINE, hidden=[64, 64], updates=3000, **rates, **given)
        nothing, real = torch.zeros(1, 256, 1), torch.ones(1, 256, dtype=torch.bool)
        for _ in range(3000):
            side = torch.where(torch.rand(1, 256, 1) < 0.5, 0.7, -0.7)
            action = side + 0.05 * torch.randn(1, 256, 1)
            reward = reward_of(action)[..., 0]
            agent.update(Transition(nothing, action, reward, nothing, real, real))
        return agent

    found = train("fql", alpha=3.0).act(torch.zeros(1, 20_000, 1))
    for way in (0.7, -0.7):
        assert float(((found - way).abs() < 0.2).float().mean()) >= 0.4
    if lesser == 1.0:
        mean = train("td3_bc").act(torch.zeros(1, 1, 1), deterministic=True)
        assert float(reward_of(mean)) == -1 and float(reward_of(found).mean()) > 0.5
