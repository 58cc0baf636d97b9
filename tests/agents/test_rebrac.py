"""ReBRAC's two penalties, with numbers worked out by hand."""

from dataclasses import replace

import pytest
import torch

from reverie.datasets.columns import WithNextAction
from reverie.mistake import Mistake
from reverie.training.loop import rollout_round
from reverie.training.mixing import mix
from reverie.world_models.sources import RolloutSource


def constant_(network, values):
    """Let the outputs be these numbers, whatever goes in."""
    last = network.body.layers[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor(values))


def rows_of(batch, next_action, has_next_action):
    return WithNextAction(**vars(batch), next_action=next_action, has_next_action=has_next_action)


@pytest.fixture
def agent(make_agent):
    """Both target critics say 3 and 2, the target policy acts (tanh 0.5, tanh -0.5), no noise."""
    agent = make_agent("rebrac", critic_penalty=0.5, policy_noise=0.0, discount=0.9)
    constant_(agent.target_actor, [0.5, -0.5])
    constant_(agent.target_critics, [[[3.0]], [[2.0]]])
    return agent


def test_targets_pay_for_the_squared_distance_to_the_recorded_next_action(agent, make_batch):
    batch = replace(
        make_batch(1, 3),
        reward=torch.tensor([[1.0, 2.0, 3.0]]),
        terminated=torch.tensor([[False, True, False]]),
    )
    next_action = torch.tensor([[[1.0, 1.0], [torch.nan, 0.0], [torch.nan, torch.nan]]])
    rows = rows_of(batch, next_action, torch.tensor([[True, False, False]]))
    a = float(torch.tanh(torch.tensor(0.5)))
    distance = (a - 1) ** 2 + (-a - 1) ** 2  # summed over dimensions
    expected = [1 + 0.9 * (2 - 0.5 * distance), 2.0, 3 + 0.9 * 2]
    assert agent.target(rows)[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_the_penalty_follows_the_smoothing_noise(make_agent, make_batch):
    agent, batch = make_agent("rebrac", critic_penalty=1.0), make_batch(1, 4)
    batch = replace(batch, terminated=torch.zeros(1, 4, dtype=torch.bool))
    near, far = (
        rows_of(batch, action.expand(1, 4, 2), torch.ones(1, 4, dtype=torch.bool))
        for action in (torch.zeros(2), torch.ones(2))
    )
    torch.manual_seed(1)
    low = agent.target(far)
    torch.manual_seed(1)
    high = agent.target(near)
    torch.manual_seed(1)
    noise = (0.2 * torch.randn(1, 4, 2)).clamp(-0.5, 0.5)
    action = (agent.target_actor(batch.next_obs) + noise).clamp(-1, 1)
    gap = (action - 1).square().sum(-1) - action.square().sum(-1)
    assert torch.allclose(high - low, 0.99 * gap, atol=1e-5)


def test_a_recorded_next_action_is_that_of_the_dataset(make_agent, make_rows):
    agent = make_agent("rebrac")
    rows = make_rows(agent, 1, 8, terminated=torch.zeros(1, 8, dtype=torch.bool))
    assert rows.has_next_action[0].tolist() == [True] * 7 + [False]
    assert torch.equal(rows.next_action[0, :7], rows.action[0, 1:])
    # Another order of the next actions gives other targets, and that of a masked row does not.
    torch.manual_seed(0)
    target = agent.target(rows)
    torch.manual_seed(0)
    other = agent.target(replace(rows, next_action=rows.next_action.flip(1)))
    assert (other != target)[0, :7].all() and torch.equal(other[:, 7], target[:, 7])


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("imitate", ["all", "real"])
def test_the_actor_loss_equals_a_naive_sum(make_agent, make_batch, normalise, imitate):
    agent = make_agent(
        "rebrac", seeds=2, actor_penalty=0.3, normalise_value=normalise, imitate=imitate
    )
    batch = make_batch(2, 6)
    with torch.no_grad():
        action = agent.actor(batch.obs)
        loss = agent.actor_loss(batch, action)
        values = agent.critics(batch.obs, action)
    for s in range(2):
        least = [min(float(values[s, i, b]) for i in (0, 1)) for b in range(6)]
        counted = [b for b in range(6) if imitate == "all" or batch.is_real[s, b]]
        distance = [
            sum(float(action[s, b, j] - batch.action[s, b, j]) ** 2 for j in (0, 1))
            for b in counted
        ]
        scale = 6 / sum(map(abs, least)) if normalise else 1.0
        expected = 0.3 * sum(distance) / len(counted) - scale * sum(least) / 6
        assert float(loss[s]) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_real_imitation_does_not_look_at_dreamed_actions(make_agent, make_batch):
    agent, batch = make_agent("rebrac", imitate="real"), make_batch(1, 8)
    action = agent.actor(batch.obs).detach().requires_grad_()

    def gradient(rows):
        return torch.autograd.grad(agent.actor_loss(rows, action).sum(), action)[0]

    dreamed = ~batch.is_real.unsqueeze(-1)
    other = replace(batch, action=torch.where(dreamed, -batch.action, batch.action))
    assert dreamed.any() and torch.equal(gradient(batch), gradient(other))
    real = replace(batch, action=torch.where(dreamed, batch.action, -batch.action))
    assert not torch.equal(gradient(batch), gradient(real))


def test_a_large_actor_penalty_is_behaviour_cloning(make_agent, make_rows):
    agent = make_agent("rebrac", actor_penalty=1e4, hidden=[32], policy_delay=1)
    for _ in range(600):
        rows = make_rows(agent, 1, 64)
        agent.update(replace(rows, action=0.5 * torch.tanh(rows.obs[..., :2])))
    obs = torch.randn(1, 200, 3)
    error = (agent.act(obs) - 0.5 * torch.tanh(obs[..., :2])).abs().mean()
    assert error < 0.05


def test_without_a_critic_penalty_no_next_action_is_needed(make_agent, make_batch, make_data):
    agent, batch = make_agent("rebrac", critic_penalty=0.0), make_batch(1, 8)
    agent.update(batch)
    data = make_data(1.0, 2.0)
    assert agent.recorded(data) is data.transitions and agent.complete(batch) is batch
    with pytest.raises(RuntimeError, match="next_action"):
        make_agent("rebrac").update(batch)
    with pytest.raises(Mistake, match=r"no row of toy is followed.*set agent\.critic_penalty=0"):
        make_agent("rebrac").recorded(data)  # its rows do not go on from each other


def test_a_scaled_reward_scales_values_but_not_what_is_reported(make_agent, make_rows):
    agent = make_agent("rebrac", reward_scale=100.0, critic_penalty=0.0)
    rows, seen = make_rows(agent, 1, 8), []
    agent.target = lambda batch: seen.append(batch.reward) or torch.zeros(1, 8)
    agent.update(rows)
    assert torch.equal(seen[0], 100 * rows.reward)
    with torch.no_grad():
        assert torch.allclose(
            100 * agent.values(rows.obs, rows.action), agent.critics(rows.obs, rows.action)
        )


def test_rollouts_carry_what_the_policy_does_next(make_agent, make_data, make_batch):
    """In a rollout the next action of row t is the action of row t + 1."""

    class Walk(RolloutSource):
        every, starts, capacity = 1, 5, 15

        def generate(self, policy, starts):
            rows, obs = [], starts
            for _ in range(3):
                row = make_batch(*starts.shape[:2])
                row = replace(row, obs=obs, action=policy(obs), next_obs=obs + 0.1)
                rows.append(replace(row, is_real=torch.zeros_like(row.is_real)))
                obs = obs + 0.1
            joined = {name: torch.cat([vars(row)[name] for row in rows], 1) for name in vars(row)}
            return type(row)(**joined), torch.ones(starts.shape[0], 15, dtype=torch.bool)

    data = make_data(1.0, 2.0, 3.0)
    data.transitions.next_obs[:-1] = data.transitions.obs[1:]
    agent = make_agent("rebrac", seeds=2)
    mixture, sources = mix(data, seeds=2, batch_size=6, real_rows=2, source=Walk(), agent=agent)
    rollout_round(agent, mixture, "synthetic", sources["synthetic"])()
    rows = mixture["synthetic"].layout.unpack(mixture["synthetic"].rows[:, :15])
    assert isinstance(rows, WithNextAction) and rows.has_next_action.all()
    assert torch.allclose(rows.next_action[:, :10], rows.action[:, 5:], atol=1e-6)
    batch = mixture.sample()
    assert isinstance(batch, WithNextAction) and batch.shape == (2, 6)
    assert batch.is_real[:, :2].all() or not data.transitions.is_real.all()
    agent.update(batch)


def test_the_networks_start_as_the_authors_do(make_agent):
    agent = make_agent("rebrac")
    *hidden, last = agent.critics.body.layers
    assert all((layer.bias == 0.1).all() for layer in hidden)
    assert last.weight.abs().max() <= 3e-3
    assert agent.actor.body.layers[-1].bias.abs().max() <= 1e-3
    assert len(agent.critics.body.norms) == 2 and not len(agent.actor.body.norms)
    pairs = [*zip(agent.critics.parameters(), agent.target_critics.parameters(), strict=True)]
    pairs += zip(agent.actor.parameters(), agent.target_actor.parameters(), strict=True)
    assert all(torch.equal(online, target) for online, target in pairs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"imitate": "some"}, "agent.imitate=some must be one of all, real"),
        ({"reward_scale": 0.0}, "agent.reward_scale=0.0 must be positive"),
        ({"actor_penalty": -1.0}, "agent.actor_penalty=-1.0 must not be negative"),
    ],
)
def test_settings_that_cannot_work_are_refused(make_agent, change, message):
    with pytest.raises(Mistake, match=message):
        make_agent("rebrac", **change)
