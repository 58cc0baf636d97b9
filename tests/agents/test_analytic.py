"""The analytic policy gradient: against Riccati, finite differences and loops; whole numbers."""

from dataclasses import replace

import pytest
import torch

from reverie.agents.imagination import imagination_of
from reverie.agents.losses import rollout_returns
from reverie.envs.make import spec_of
from reverie.mistake import Mistake
from reverie.training.launch.options import build_option
from reverie.world_models.base import Step, WorldModel
from reverie.world_models.optimiser import clip_each_seed
from tests.devices.rehearsal import pendulum


class Linear(WorldModel):
    """s' = A s + B a, r = -|s|^2 - |a|^2 / 2, u = |a|^2.

    It ends where the first coordinate falls below `over`, and knows nothing beyond `edge`.
    """

    def __init__(self, over=-torch.inf, edge=torch.inf):
        super().__init__()
        self.of_obs = torch.tensor([[0.9, 0.3, 0.0], [0.0, 0.9, 0.2], [0.1, 0.0, 0.8]]).double()
        self.of_action = torch.tensor([[0.3, 0.0, 0.1], [0.0, 0.4, 0.0]]).double()
        self.over, self.edge = over, edge

    def fit(self, data, progress=None):
        return {}

    def signature(self):
        return {}

    def step(self, obs, action, candidates=1, state=None):
        after = obs @ self.of_obs.to(obs) + action @ self.of_action.to(obs)
        reward = -obs.square().sum(-1) - action.square().sum(-1) / 2
        ended = after[..., 0] < self.over
        beyond = (after.abs() > self.edge).any(-1, keepdim=True)
        after = torch.where(beyond, torch.nan, after)
        return Step(after[None], reward[None], ended[None], action.square().sum(-1))


@pytest.fixture
def make_analytic(make_agent):
    """In double precision, with a model that is known, and without a critic."""

    def make(model=None, seeds=1, **changes):
        agent = make_agent("analytic", seeds=seeds, **{"terminal_weight": 0.0, **changes}).double()
        agent.attach(model or Linear())
        return agent

    return make


def doubles(batch):
    return batch.map(lambda column: column.double() if column.is_floating_point() else column)


def riccati(model, discount):
    """P of the optimal value -s' P s."""
    a, b = model.of_obs.T, model.of_action.T
    p = eye = torch.eye(3).double()
    for _ in range(500):
        gain = torch.linalg.solve(
            torch.eye(2).double() / 2 + discount * b.T @ p @ b, discount * b.T @ p @ a
        )
        p = eye + gain.T @ gain / 2 + discount * (a - b @ gain).T @ p @ (a - b @ gain)
    return p


def test_it_finds_the_regulator_of_a_linear_system(make_analytic, make_batch):
    """The cost is within 2 % of the optimum, of which 0.8^12 lies behind the horizon."""
    model = Linear()
    agent = make_analytic(
        model,
        **{"hidden": [], "horizon": 12, "discount": 0.8, "penalty": 0.0},
        **{"updates": 80, "learning_rate": 0.05},
    )
    batch = doubles(make_batch(1, 32))
    batch.obs.mul_(0.3)  # where tanh is nearly straight
    for _ in range(80):
        agent.update(batch)
    obs, cost = 0.3 * torch.randn(1, 500, 3).double(), 0.0
    optimum = torch.einsum("sbd,de,sbe->sb", obs, riccati(model, 0.8), obs).mean()
    for t in range(40):
        step = model.step(obs, agent.act(obs, deterministic=True))
        obs, cost = step.next_obs[0], cost - 0.8**t * step.reward.mean()
    assert 1.0 - 1e-6 < float(cost / optimum) < 1.02


@pytest.mark.parametrize("over", [-torch.inf, 0.0], ids=["endless", "ends"])
@pytest.mark.parametrize("weight", [0.0, 0.5], ids=["alone", "critic"])
def test_the_gradient_is_that_of_finite_differences(make_analytic, make_batch, over, weight):
    agent = make_analytic(
        Linear(over),
        **{"hidden": [4], "horizon": 4, "discount": 0.9, "penalty": 0.7, "terminal_weight": weight},
    )
    starts = doubles(make_batch(1, 6)).obs
    agent.reward_unit.fill_(2.0)

    def objective():
        """Of loops over rows and steps, as the page writes it."""
        total = 0.0
        for row in range(starts.shape[1]):
            obs, discount, alive = starts[:, row : row + 1], 1.0, True
            for _ in range(4):
                action = agent.policy(obs)
                step = agent_model.step(obs, action)
                total = total + discount * (step.reward[0] - 0.7 * step.uncertainty) / 2.0
                obs, discount = step.next_obs[0], 0.9 * discount
                alive = not step.terminated
                if not alive:
                    break
            if alive and weight:
                total = total + weight * discount * agent.target_critic(agent.standardise(obs)) / (
                    1 - 0.9
                )
        return float(total) / starts.shape[1]

    agent_model = Linear(over)
    dream = agent.dream(starts)
    if over > -torch.inf:
        assert 0 < dream.alive[:, 1:].float().mean() < 1
    returns = agent.returns(dream, weight)[:, 0].mean()
    with torch.no_grad():
        assert float(returns) == pytest.approx(objective(), rel=1e-9)
    parameters = list(agent.actor.parameters())
    for parameter, slope in zip(parameters, torch.autograd.grad(returns, parameters), strict=True):
        flat, small = parameter.data.view(-1), 1e-5
        for index in range(0, len(flat), 4):
            with torch.no_grad():
                flat[index] += small
                above = objective()
                flat[index] -= 2 * small
                below = objective()
                flat[index] += small
            wanted = (above - below) / (2 * small)
            assert float(slope.view(-1)[index]) == pytest.approx(wanted, rel=1e-4, abs=1e-7)


def test_returns_are_sums_until_a_termination_or_the_value_of_the_end():
    rewards = torch.tensor([[[1.0, 1.0], [2.0, torch.inf], [4.0, torch.nan]]])
    alive = torch.tensor([[[True, True], [True, False], [True, False], [True, False]]])
    last = torch.tensor([[8.0, torch.nan]])
    found = rollout_returns(rewards, last, alive, 0.5)
    assert found[0, :, 0].tolist() == [1 + 1 + 1 + 1, 2 + 2 + 2, 4 + 4, 8]
    assert found[0, :, 1].tolist() == [1, 0, 0, 0]


def test_damping_weakens_what_is_far_and_changes_no_value(make_analytic, make_batch):
    starts = doubles(make_batch(1, 5)).obs
    slopes, values = [], []
    for damping in (1.0, 0.5):
        torch.manual_seed(0)
        agent = make_analytic(horizon=3, damping=damping, discount=1.0, penalty=0.0)
        dream = agent.dream(starts)
        last = dream.reward[:, -1].sum()
        values.append(last.detach())
        slopes.append([*torch.autograd.grad(last, dream.actions[:3])])
    torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=0)
    # r_2 depends on a_1 through one state and on its own action directly.
    torch.testing.assert_close(slopes[1][2], slopes[0][2])
    torch.testing.assert_close(slopes[1][1], slopes[0][1] / 2)


def test_gradients_of_each_seed_are_clipped_by_themselves():
    gradients = [torch.tensor([[3.0], [0.3]]), torch.tensor([[[4.0]], [[0.4]]])]
    clipped, norm = clip_each_seed(gradients, 1.0)
    assert norm.tolist() == pytest.approx([5.0, 0.5])
    assert clipped[0].flatten().tolist() == pytest.approx([0.6, 0.3])
    assert clipped[1].flatten().tolist() == pytest.approx([0.8, 0.4])
    still, _ = clip_each_seed([torch.zeros(2, 3)], 1.0)
    assert torch.equal(still[0], torch.zeros(2, 3))


def test_whole_actions_are_rounded_forward_and_left_alone_backward(make_analytic, spec):
    box = replace(
        spec, action_low=(0.0, -3.0), action_high=(5.0, 1.0), action_names=("cull", "feed")
    )
    agent = make_analytic(spec=box, integer_actions=True)
    action = (2 * torch.rand(1, 200, 2).double() - 1).requires_grad_()
    rounded = agent.whole(action)
    told = box.told(rounded.detach().numpy())
    torch.testing.assert_close(torch.tensor(told), torch.tensor(told).round(), atol=1e-9, rtol=0)
    exact = torch.tensor(box.told(action.detach().numpy()))
    assert (torch.tensor(told) - exact).abs().max() <= 0.5 + 1e-9
    assert sorted({round(each) for each in told[..., 0].flatten()}) == [0, 1, 2, 3, 4, 5]
    rounded.sum().backward()
    assert torch.equal(action.grad, torch.ones_like(action))
    obs = torch.randn(1, 50, 3).double()
    for deterministic in (True, False):
        acted = box.told(agent.act(obs, deterministic).numpy())
        assert abs(acted - acted.round()).max() < 1e-9
    assert torch.equal(agent.moments(obs)[0], agent.act(obs, deterministic=True))
    torch.testing.assert_close(agent.dream(obs).actions[0], agent.act(obs, deterministic=True))
    plain = make_analytic(spec=box)
    assert plain.whole(action) is action


def test_whole_actions_need_a_box_of_whole_numbers(make_analytic, spec):
    box = replace(spec, action_low=(0.0, 0.0), action_high=(5.0, 2.5), action_names=("cull", "v"))
    with pytest.raises(Mistake, match=r"but v lies in \[0, 2\.5\]; correct dataset\.action_low"):
        make_analytic(spec=box, integer_actions=True)


def test_a_step_beyond_what_the_model_knows_leads_nowhere_and_poisons_nothing(
    make_analytic, make_batch
):
    """As equations do outside the box of their data."""
    agent = make_analytic(Linear(edge=1.0), horizon=5)
    batch = doubles(make_batch(1, 64))
    batch.obs[:, :32] *= 0.01
    batch.obs[:, 32:] = 0.95
    dream = agent.dream(batch.obs)
    assert dream.inside[:, :, :32].all() and not dream.inside[:, :, 32:].all()
    stays = ~dream.inside[:, 0]
    assert torch.equal(dream.obs[:, 1][stays], dream.obs[:, 0][stays])
    assert dream.alive.all() and dream.obs.isfinite().all()
    measured = agent.update(batch)
    assert 0 < float(measured["imagined_outside"]) < 1
    assert all(parameter.isfinite().all() for parameter in agent.parameters())


def test_the_critic_learns_the_value_of_the_policy(make_analytic, make_batch):
    """A reward of -|s|^2 - |a|^2 / 2 with actions that stay 0: a discounted sum in closed form."""
    model = Linear()
    model.of_obs = 0.5 * torch.eye(3).double()
    agent = make_analytic(
        model,
        **{"horizon": 2, "discount": 0.5, "penalty": 0.0, "terminal_weight": 1.0, "tau": 0.2},
        **{"learning_rate": 1e-12, "critic_learning_rate": 0.02},
    )
    with torch.no_grad():
        for parameter in agent.actor.parameters():
            parameter.zero_()
    for _ in range(100):
        measured = agent.update(doubles(make_batch(1, 64)))
    obs = doubles(make_batch(1, 200)).obs
    wanted = -obs.square().sum(-1) / (1 - 0.5 * 0.25)
    found = agent.value(agent.critic, obs).detach()
    assert float((found - wanted).abs().mean() / wanted.abs().mean()) < 0.15
    assert float(measured["value"]) == pytest.approx(float(measured["target"]), rel=0.2)
    assert make_analytic(terminal_weight=0.0).critic is None


def test_a_penalty_keeps_away_from_what_the_model_is_unsure_of(make_analytic, make_batch):
    large = []
    for penalty in (0.0, [0.0, 30.0]):
        torch.manual_seed(0)
        agent = make_analytic(seeds=2, penalty=penalty, horizon=3)
        batch = doubles(make_batch(2, 32))
        for _ in range(20):
            agent.update(batch)
        large.append(agent.act(batch.obs, deterministic=True).square().mean((1, 2)))
    assert torch.equal(large[0][0], large[1][0]) and large[1][1] < large[0][1] / 4


def test_it_takes_the_mean_of_the_elites_and_the_model_gets_no_gradient(
    make_agent, make_model, make_batch, spec
):
    agent, model = make_agent("analytic", seeds=2, horizon=3), make_model(spec, 2)
    agent.attach(model)
    starts = make_batch(2, 6).obs
    dream = agent.dream(starts)
    mean, _ = model.predict(starts, dream.actions[0])
    torch.testing.assert_close(dream.obs[:, 1], mean.mean(1)[..., :-1])
    torch.testing.assert_close(dream.reward[:, 0], mean.mean(1)[..., -1])
    last = dream.reward[:, -1].sum() + dream.uncertainty[:, -1].sum()
    for slope in torch.autograd.grad(last, dream.actions[:3]):
        assert slope.isfinite().all() and (slope != 0).all()
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_it_is_refused_without_a_model_that_has_gradients(make_agent, make_batch):
    agent = make_agent("analytic")
    with pytest.raises(RuntimeError, match=r"call attach\(model\) first"):
        agent.update(make_batch(1, 4))
    with pytest.raises(Mistake, match=r"agent=analytic .* there is none; choose world_model="):
        agent.attach(None)
    model = Linear()
    model.differentiable = False
    with pytest.raises(Mistake, match="Linear has none; choose world_model=ensemble"):
        agent.attach(model)
    with pytest.raises(Mistake, match=r"agent\.discount=1 .* agent\.terminal_weight=0"):
        make_agent("analytic", discount=1.0)
    with pytest.raises(Mistake, match=r"penalty=\[1\.0, -1\.0\] must not be negative"):
        make_agent("analytic", seeds=2, penalty=[1.0, -1.0])


@pytest.mark.parametrize("option", ["true_dynamics", "sindy"])
def test_gradients_through_the_task_itself_and_through_equations(option):
    """Of a return of 5 steps in each of its actions, against finite differences."""
    data = pendulum(400)
    small = {"sindy": {"members": 2, "gate_steps": 5, "fit_rows": 300}, "true_dynamics": {}}
    model = build_option(
        "world_model", option, changes=small[option], spec=data.spec, seeds=1, seed=0
    )
    model.fit(data)
    starts = data.transitions.obs[None, :40:8].double()
    model.double()

    def earned(plan):
        actions = iter(plan.unbind(0))
        dream = imagination_of(model, "analytic", expected=True)(
            lambda obs: next(actions), starts, [1.0] * 5
        )
        assert dream.inside.all()
        return dream.reward.sum()

    plan = 0.5 * torch.rand(6, 1, 5, 1).double()
    plan.requires_grad_()
    (slopes,) = torch.autograd.grad(earned(plan), plan)
    assert (slopes[:5] != 0).all() and (slopes[5] == 0).all()
    with torch.no_grad():
        for step in range(5):
            move = torch.zeros_like(plan)
            move[step, 0, 2] = 1e-2
            wanted = (earned(plan + move) - earned(plan - move)) / 2e-2
            assert float(slopes[step, 0, 2]) == pytest.approx(float(wanted), rel=0.02, abs=1e-3)


def test_physics_outside_of_torch_has_no_gradient(make_agent):
    hopper = spec_of("Hopper-v5", env_kwargs={}, physics="as-is")
    model = build_option("world_model", "true_dynamics", changes={}, spec=hopper, seeds=1, seed=0)
    with pytest.raises(Mistake, match="TrueDynamics has none; choose world_model=ensemble"):
        make_agent("analytic", spec=hopper).attach(model)
