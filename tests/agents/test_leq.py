"""LEQ's returns, losses and gradients, against loops, finite differences and known values."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from reverie.agents.imagination import Imagined
from reverie.agents.losses import lambda_returns, lambda_weights
from reverie.mistake import Mistake
from reverie.training.mixing import mix
from reverie.world_models.base import Step, WorldModel
from reverie.world_models.sources import RolloutSource


class Valley(WorldModel):
    """s' = A s + B a and r = -|s|^2 - |a|^2 / 2 + noise; over where the first coordinate is low."""

    def __init__(self, over=-torch.inf, noise=0.0, reward=None):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.of_obs = torch.eye(3).double() + 0.3 * torch.randn(3, 3, generator=generator)
        self.of_action = torch.randn(2, 3, generator=generator).double()
        self.over, self.noise, self.reward = over, noise, reward
        self.steps = 0

    def fit(self, data, progress=None):
        return {}

    def signature(self):
        return {}

    def step(self, obs, action, candidates=1, state=None):
        self.steps += 1
        after = obs @ self.of_obs.to(obs) + action @ self.of_action.to(obs)
        reward = -obs.square().sum(-1) - action.square().sum(-1) / 2
        reward = reward if self.reward is None else torch.full_like(reward, self.reward)
        reward = reward + self.noise * torch.randn_like(reward)
        ended = after[..., 0] < self.over
        return Step(after[None], reward[None], ended[None], torch.zeros_like(reward))


@pytest.fixture
def make_leq(make_agent):
    """LEQ in double precision, with a model that is known."""

    def make(model=None, seeds=1, **changes):
        agent = make_agent("leq", seeds=seeds, **changes).double()
        agent.attach(model or Valley())
        return agent

    return make


def doubles(batch):
    return batch.map(lambda column: column.double() if column.is_floating_point() else column)


def explicit_returns(values, rewards, alive, discount, decay):
    """The sum over k-step returns of one rollout, as the paper writes it."""
    horizon = len(rewards)
    found = []
    for i in range(horizon + 1):
        total, weights = 0.0, 0.0
        for k in range(horizon - i + 1):
            of_k = discount**k * values[i + k] * (alive[i + k] if k else 1)
            for j in range(k):
                of_k += discount**j * rewards[i + j] * alive[i + j]
            total += decay**k * of_k
            weights += decay**k
        found.append(total / weights)
    return found


@pytest.mark.parametrize("decay", [0.0, 0.7, 1.0])
def test_returns_are_weighted_means_of_k_step_returns(decay):
    rng = np.random.default_rng(0)
    values, rewards = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 4, 3))
    alive = np.ones((2, 5, 3), bool)
    alive[0, 3:, 1] = False  # the step at i = 2 terminates
    found = lambda_returns(*map(torch.tensor, (values, rewards, alive)), 0.9, decay)
    for s in range(2):
        for b in range(3):
            wanted = explicit_returns(values[s, :, b], rewards[s, :, b], alive[s, :, b], 0.9, decay)
            assert found[s, :, b].tolist() == pytest.approx(wanted, rel=1e-12)
    if decay == 0:
        assert found.numpy() == pytest.approx(values)


def test_the_share_of_longer_returns_grows_with_the_steps_left():
    assert lambda_weights(2, 0.5) == pytest.approx([0.75 / 1.75, 0.5 / 1.5])
    assert lambda_weights(3, 0.0) == [0, 0, 0]


def test_what_lies_behind_a_termination_may_be_anything():
    values, rewards = torch.ones(1, 4, 1), torch.ones(1, 3, 1)
    alive = torch.tensor([True, True, False, False]).view(1, 4, 1)
    plain = lambda_returns(values, rewards, alive, 0.9, 0.5)[:, :2]
    values[:, 2:], rewards[:, 2:] = torch.inf, torch.nan
    assert torch.equal(lambda_returns(values, rewards, alive, 0.9, 0.5)[:, :2], plain)


def test_long_rollouts_weigh_returns_by_a_geometric_series():
    """One reward, at step 3, is in the returns of 4 steps and more: lambda^4 of the weight."""
    rewards = torch.zeros(1, 60, 1, dtype=torch.float64)
    rewards[0, 3] = 1.0
    alive = torch.ones(1, 61, 1, dtype=torch.bool)
    found = lambda_returns(torch.zeros(1, 61, 1).double(), rewards, alive, 1.0, 0.6)
    assert float(found[0, 0, 0]) == pytest.approx(0.6**4, rel=1e-9)


def simulate(agent, model, obs, action, steps):
    """Q, r and whether each step is reached, from a given first action on."""
    visited, actions, rewards, alive = [obs], [action], [], [torch.ones(obs.shape[:-1]).bool()]
    for _ in range(steps):
        step = model.step(visited[-1], actions[-1])
        visited.append(step.next_obs[0])
        actions.append(agent.policy(visited[-1]))
        rewards.append(agent.scaled(step.reward[0]))
        alive.append(alive[-1] & ~step.terminated[0])
    pairs = zip(visited, actions, strict=True)
    values = [agent.values(*pair)[:, 0] * agent.reward_scale for pair in pairs]
    return values, rewards, alive


@pytest.mark.parametrize("over", [-torch.inf, -0.3], ids=["endless", "ends"])
def test_the_actor_climbs_each_return_by_its_own_action(make_leq, make_batch, over):
    """Against finite differences of a linear model with a quadratic reward."""
    model = Valley(over)
    agent = make_leq(
        model,
        **{"horizon": 3, "expectile": 0.2, "decay": 0.8, "discount": 0.9},
        **{"reward_scale": 0.5, "reward_offset": 2.0},
    )
    dream = agent.dream(doubles(make_batch(1, 12)))
    if over > -torch.inf:
        assert 0 < dream.alive[:, 1:].float().mean() < 1
    loss, measured = agent.actor_loss(dream)
    found = torch.autograd.grad(loss.sum(), list(agent.actor.parameters()))

    def own_return(i, action):
        """G_i of each row by loops, and Q_i. Behind an end there is nothing but Q_i in it."""
        values, rewards, alive = simulate(agent, model, dream.obs[:, i], action, 3 - i)
        parts = (values, rewards, [each & dream.alive[:, i] for each in alive])
        rows = [
            explicit_returns(*([float(each[0, b]) for each in part] for part in parts), 0.9, 0.8)[0]
            for b in range(action.shape[1])
        ]
        return torch.tensor([rows], dtype=torch.float64), values[0]

    surrogate, small = torch.zeros(1), 1e-5
    for i, action in enumerate(dream.detach().actions):
        with torch.no_grad():
            slopes = [
                (own_return(i, action + move)[0] - own_return(i, action - move)[0]) / (2 * small)
                for move in small * torch.eye(2, dtype=torch.float64)
            ]
            returned, value = own_return(i, action)
        weight = torch.where(returned > value, 0.2, 0.8) if i < 3 else torch.tensor([[0.5]])
        pull = weight.unsqueeze(-1) * torch.stack(slopes, -1)
        surrogate = surrogate - (pull * agent.policy(dream.obs[:, i].detach())).sum(-1).mean(1)
    wanted = torch.autograd.grad(surrogate.sum(), list(agent.actor.parameters()))
    for own, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-6)
    assert 0 < float(measured["above_value"]) < 1  # both weights were met


def naive_critic_loss(agent, batch, dream, tau, count):
    """Of one seed, row by row."""
    q, q_average = (
        lambda s, a, net=net: float(net(agent.standardise(s), agent.standardise_action(a)))
        for net in (agent.critics, agent.average_critics)
    )
    real, imagined, rows = 0.0, 0.0, dream.obs.shape[2]
    for b in range(batch.reward.shape[1]):
        if not batch.is_real[0, b]:
            continue
        s, a, after = (x[:, b : b + 1] for x in (batch.obs, batch.action, batch.next_obs))
        y = 2.0 * float(batch.reward[0, b]) - 1.0
        if not batch.terminated[0, b]:
            y += 0.9 * q(after, agent.policy(after))
        real += 0.5 * (q(s, a) - y) ** 2 + 3.0 * (q(s, a) - q_average(s, a)) ** 2
    for b in range(rows):
        states = [dream.obs[:, i, b : b + 1] for i in range(count + 1)]
        actions = [dream.actions[i][:, b : b + 1] for i in range(count + 1)]
        values = list(map(q, states, actions))
        rewards = [2.0 * float(dream.reward[0, i, b]) - 1.0 for i in range(count)]
        alive = dream.alive[0, :, b].tolist()
        returns = explicit_returns(values, rewards, alive, 0.9, 0.8)
        for i in range(count):
            if not alive[i]:
                continue
            weight = tau if returns[i] > values[i] else 1 - tau
            error = weight * (returns[i] - values[i]) ** 2
            error += 3.0 * (values[i] - q_average(states[i], actions[i])) ** 2
            imagined += 0.9**i * error
    return real / int(batch.is_real.sum()), imagined / (rows * count)


@pytest.mark.parametrize("tau", [0.2, 0.5])
def test_the_critic_loss_is_that_of_a_naive_loop(make_leq, make_batch, tau):
    """With tau = 1/2 the imagined part is half of the squared error."""
    agent = make_leq(
        Valley(-0.3),
        **{"horizon": 3, "expectile": tau, "decay": 0.8, "discount": 0.9, "average_weight": 3.0},
        **{"reward_scale": 2.0, "reward_offset": -1.0, "model_weight": 0.25},
    )
    with torch.no_grad():
        for parameter in agent.average_critics.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        batch = doubles(make_batch(1, 10))
        dream = agent.dream(batch).detach()
        assert 0 < dream.alive[:, 1:].float().mean() < 1
        found, penalty, measured = agent.critic_loss(batch, dream)
        real, imagined = naive_critic_loss(agent, batch, dream, tau, 3)
    assert penalty == 0.0
    assert float(found) == pytest.approx(0.75 * real + 0.25 * imagined, rel=1e-6)
    assert float(measured["imagined_critic_loss"]) == pytest.approx(imagined, rel=1e-6)


@pytest.mark.slow
def test_lower_expectiles_value_noise_lower_and_a_half_without_bias(make_leq, make_batch):
    """Rewards of 1 for ever and noise on them: Q = 1 / (1 - 0.5) = 2."""
    model = Valley(noise=1.0, reward=1.0)
    agent = make_leq(
        model,
        seeds=3,
        **{"hidden": [], "expectile": [0.1, 0.3, 0.5], "critic_layer_norm": False},
        **{"horizon": 3, "discount": 0.5, "model_weight": 1.0, "average_weight": 0.0},
        **{"critic_learning_rate": 0.03, "reward_scale": 1.0, "shared_dreams": True},
    )
    learned = []
    for step in range(300):
        batch = doubles(make_batch(3, 64))
        agent.update(batch)
        if step >= 200:
            learned.append(agent.values(batch.obs, agent.policy(batch.obs)).detach().mean((1, 2)))
    lowest, low, mean = torch.stack(learned).mean(0).tolist()
    assert mean == pytest.approx(2.0, abs=0.15)
    assert lowest + 0.3 < low < mean - 0.3


def test_a_batch_without_recorded_rows_is_refused(make_leq):
    with pytest.raises(Mistake, match=r"real_ratio=0 leaves none in a batch; raise it"):
        make_leq(Valley(noise=0.1)).expect_rows(0, 16)


def test_dreamed_rows_are_starts_and_recorded_rows_are_targets(make_leq, make_batch):
    batch = doubles(make_batch(1, 16))
    batch.is_real[:] = torch.arange(16) < 8  # as a mixture lays them
    dreamed = ~batch.is_real.unsqueeze(-1)

    def train(rows, **changes):
        torch.manual_seed(0)
        agent = make_leq(Valley(noise=0.1), **changes)
        agent.expect_rows(8, 8)
        agent.update(rows)
        return [
            torch.cat([p.detach().flatten() for p in network.parameters()])
            for network in (agent.actor, agent.critics)
        ]

    actor, critic = train(batch)
    for name in ("action", "next_obs"):
        column = getattr(batch, name)
        moved = {name: torch.where(dreamed, -column, column)}
        assert all(map(torch.equal, (actor, critic), train(replace(batch, **moved))))
        moved = {name: torch.where(dreamed, column, -column)}
        other = train(replace(batch, **moved))
        assert torch.equal(actor, other[0]) and not torch.equal(critic, other[1])
    starts = replace(batch, obs=torch.where(dreamed, -batch.obs, batch.obs))
    assert not any(map(torch.equal, (actor, critic), train(starts)))
    records = replace(batch, obs=torch.where(dreamed, batch.obs, -batch.obs))
    other = train(records)
    assert torch.equal(actor, other[0]) and not torch.equal(critic, other[1])
    other = train(records, start_share=1.0)  # from which recorded states are starts, too
    assert not torch.equal(train(batch, start_share=1.0)[0], other[0])


@pytest.mark.parametrize(
    ("real_rows", "batch_size", "starts"), [(4, 8, 4), (85, 128, 43), (1, 3, 2)]
)
def test_imagination_begins_at_the_dreamed_rows_whatever_the_real_ratio(
    make_leq, make_data, make_batch, real_rows, batch_size, starts
):
    class Nothing(RolloutSource):
        every, starts, capacity = 1, 1, 1

        def generate(self, policy, starts):
            raise NotImplementedError

    agent = make_leq(horizon=1)
    sizes = {"seeds": 1, "batch_size": batch_size, "real_rows": real_rows}
    mix(make_data(1.0), source=Nothing(), agent=agent, **sizes)
    batch = doubles(make_batch(1, batch_size))
    found = agent.dream(batch).obs[:, 0]
    assert torch.equal(found, batch.obs[:, -starts:])
    # Without a source all rows are starts, and a share that is given stays.
    mix(make_data(1.0), agent=agent, **sizes)
    assert torch.equal(agent.dream(batch).obs[:, 0], batch.obs)
    given = make_leq(horizon=1, start_share=0.5)
    mix(make_data(1.0), source=Nothing(), agent=given, **sizes)
    assert given.dream(batch).obs.shape[2] == batch_size - batch_size // 2


def test_dreams_are_shared_or_each_has_its_own(make_leq, make_batch):
    for shared, rounds in ((True, 1), (False, 2)):
        model = Valley()
        make_leq(model, shared_dreams=shared, horizon=4).update(doubles(make_batch(1, 8)))
        assert model.steps == 4 * rounds


def test_the_average_critic_follows(make_leq, make_batch):
    agent = make_leq(tau=0.25)
    before = [p.clone() for p in agent.average_critics.parameters()]
    agent.update(doubles(make_batch(1, 8)))
    pairs = zip(before, agent.average_critics.parameters(), agent.critics.parameters(), strict=True)
    for old, average, online in pairs:
        torch.testing.assert_close(average, old + 0.25 * (online - old))


def test_no_loss_moves_the_noise_of_rollouts(make_leq, make_batch):
    agent = make_leq(exploration_std=0.5)
    agent.update(doubles(make_batch(1, 8)))
    obs = torch.randn(1, 1, 3).double().expand(1, 20_000, 3)
    noise = torch.atanh(agent.act(obs)) - torch.atanh(agent.act(obs, deterministic=True))
    assert float(noise.std()) == pytest.approx(0.5, rel=0.02)
    agent.exploration_std = 0.0
    assert torch.equal(agent.act(obs), agent.act(obs, deterministic=True))
    assert agent.moments(obs)[1] is None


def test_rewards_are_scaled_by_the_range_of_returns_or_by_a_number(make_agent, make_data):
    agent = make_agent("leq", reward_offset=-1.0)
    agent.prepare(make_data(1.0, 5.0, 3.0))
    assert float(agent.reward_scale) == 250
    assert agent.scaled(torch.tensor([2.0])).tolist() == [499.0]
    assert agent.reward_bounds(-1.0, 2.0) == (-251.0, 499.0)
    given = make_agent("leq", reward_scale=4.0)
    given.prepare(make_data(2.0, 2.0))
    assert float(given.reward_scale) == 4
    obs, action = torch.randn(1, 5, 3), torch.rand(1, 5, 2)
    raw = given.critics(given.standardise(obs), given.standardise_action(action))
    assert torch.equal(given.values(obs, action), raw / 4)
    with pytest.raises(Mistake, match=r"have the same; set agent\.reward_scale=1"):
        agent.prepare(make_data(2.0, 2.0))


def test_inputs_are_standardised_with_the_data(make_agent, make_data):
    for symlog in (True, False):
        agent, data = make_agent("leq", symlog=symlog), make_data(1.0, 2.0, 4.0, 8.0)
        agent.prepare(data)
        rows = data.transitions
        for part, column in (
            (agent.standardise, rows.obs),
            (agent.standardise_action, rows.action),
        ):
            wanted = (column - column.mean(0)) / (column.std(0, correction=0) + 1e-3)
            if symlog:
                wanted = wanted.sign() * (1 + wanted.abs()).log()
            torch.testing.assert_close(part(column), wanted)
            torch.testing.assert_close(part.inverse(part(column)), column)


def test_it_is_refused_without_a_model_that_has_gradients(make_agent, make_batch):
    agent = make_agent("leq")
    with pytest.raises(RuntimeError, match=r"call attach\(model\) first"):
        agent.update(make_batch(1, 4))
    with pytest.raises(Mistake, match="there is none; choose world_model=ensemble"):
        agent.attach(None)
    model = Valley()
    model.differentiable = False
    with pytest.raises(Mistake, match="Valley has none; choose world_model=ensemble"):
        agent.attach(model)


def test_a_model_gets_no_gradient_and_every_action_does(make_agent, make_model, make_batch, spec):
    agent, model = make_agent("leq", seeds=2, horizon=3), make_model(spec, 2)
    agent.attach(model)
    dream = agent.dream(make_batch(2, 6))
    assert isinstance(dream, Imagined)
    last = dream.obs[:, -1].sum() + dream.reward.sum()
    for slope in torch.autograd.grad(last, dream.actions[:-1], retain_graph=True):
        assert slope.isfinite().all() and (slope != 0).all()
    assert not any(parameter.requires_grad for parameter in model.parameters())
