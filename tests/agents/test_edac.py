"""Gradient diversity against its definition, written out pair by pair; EDAC as a kind of SAC."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from reverie.agents.edac import EDAC
from reverie.agents.losses import gradient_similarity
from reverie.agents.sac import SAC
from reverie.training.launch.options import read_option

PLAIN = {
    "diversity": 0.0,
    "diversity_critics": None,
    "hidden_bias": None,
    "actor_output_bound": None,
    "critic_output_bound": None,
}


@pytest.fixture
def make_edac(spec):
    """A small EDAC; keywords replace its numbers, which are otherwise those of the YAML."""

    def make(**changes):
        settings = read_option("agent/edac")
        hyperparameters = {k: v for k, v in settings.items() if not k.startswith("_")}
        small = {"seeds": 1, "updates": 100, "hidden": [16, 16]}
        return EDAC(spec=spec, **{**hyperparameters, **small, **changes})

    return make


@pytest.mark.parametrize("critics", [2, 3, 100])
def test_identical_critics_are_as_alike_as_there_are_critics(critics):
    gradient = torch.randn(2, 1, 7, 3).expand(-1, critics, -1, -1)
    assert torch.allclose(gradient_similarity(gradient), torch.full((2,), float(critics)))


def test_two_opposite_gradients_give_minus_two():
    gradient = torch.randn(2, 1, 7, 3)
    similarity = gradient_similarity(torch.cat([gradient, -gradient], 1))
    assert torch.allclose(similarity, torch.full((2,), -2.0))


def test_only_directions_count():
    gradient, length = torch.randn(2, 5, 7, 3), torch.rand(2, 5, 7, 1) * 100 + 0.01
    assert torch.allclose(gradient_similarity(gradient), gradient_similarity(gradient * length))


def test_a_critic_without_a_gradient_adds_nothing_and_stays_finite():
    gradient = torch.tensor([[[[1.0, 0.0]], [[0.0, 0.0]], [[1.0, 0.0]]]], requires_grad=True)
    similarity = gradient_similarity(gradient)  # two alike, one silent: 2 / (3 - 1)
    assert similarity.item() == pytest.approx(1.0)
    (slope,) = torch.autograd.grad(similarity.sum(), gradient)
    assert slope.isfinite().all()


class _Shapes(TorchDispatchMode):
    """Records the shape of every result."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.seen += [tuple(x.shape) for x in [out] if isinstance(x, torch.Tensor)]
        return out


def test_a_hundred_critics_take_one_pass_and_no_table_of_pairs(make_edac, make_batch):
    batch, steps = make_batch(2, 7), {}
    for critics in (3, 100):
        agent = make_edac(seeds=2, critics=critics)
        target = agent.target(batch)
        with _Shapes() as shapes:
            loss, _ = agent.fit_critics(batch, target)
            torch.autograd.grad(loss.sum(), list(agent.critics.parameters()))
        steps[critics] = len(shapes.seen)
        assert all(shape.count(100) <= 1 for shape in shapes.seen)
    assert steps[3] == steps[100]


def naive_critic_loss(agent, batch, target, eta):
    """Sum over critics of the squared error, plus the similarity pair by pair and row by row."""
    layers = agent.critics.body.layers
    losses = []
    for s in range(agent.seeds):
        errors, directions = 0.0, []
        for n in range(agent.critics.critics):
            action = batch.action[s].clone().requires_grad_()
            x = torch.cat([batch.obs[s], action], -1)
            for layer in layers[:-1]:
                x = F.relu(x @ layer.weight[s, n] + layer.bias[s, n])
            value = (x @ layers[-1].weight[s, n] + layers[-1].bias[s, n]).squeeze(-1)
            errors = errors + (value - target[s]).square().mean()
            (g,) = torch.autograd.grad(value.sum(), action, create_graph=True)
            directions.append(g / (g.norm(dim=-1, keepdim=True) + 1e-10))
        pairs = 0.0
        for i, u in enumerate(directions):
            for j, v in enumerate(directions):
                if i != j:
                    pairs = pairs + (u * v).sum(-1).mean()
        losses.append(errors + eta * pairs / (len(directions) - 1))
    return torch.stack(losses)


def test_the_loss_and_its_slope_equal_a_double_loop_over_critics(make_edac, make_batch):
    agent = make_edac(seeds=2, critics=4, diversity=3.0, hidden=[8, 8]).double()
    batch = make_batch(2, 6).map(lambda x: x.double() if x.is_floating_point() else x)
    target = agent.target(batch)
    loss, prediction = agent.fit_critics(batch, target)
    torch.testing.assert_close(prediction, agent.critics(batch.obs, batch.action))
    expected = naive_critic_loss(agent, batch, target, eta=3.0)
    torch.testing.assert_close(loss, expected)
    weights = list(agent.critics.parameters())
    ours = torch.autograd.grad(loss.sum(), weights)
    theirs = torch.autograd.grad(expected.sum(), weights)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
        assert b.abs().max() > 0


def test_training_against_the_term_makes_critics_less_alike(make_edac, make_batch):
    batch, similarity = make_batch(1, 32), {}
    for eta in (0.0, 1.0):
        torch.manual_seed(0)
        agent = make_edac(critics=5, diversity=eta)
        for _ in range(60):
            agent.update(batch)
        _, gradient = agent.critics.with_action_gradient(batch.obs, batch.action)
        similarity[eta] = gradient_similarity(gradient).item()
    assert similarity[1.0] < similarity[0.0] - 0.5


def test_some_critics_at_a_time_are_drawn_evenly(make_edac, make_batch, monkeypatch):
    # Two of three critics agree, so a pair is alike (2) in one of three draws, else opposite (-2).
    seeds, rows = 600, 2
    agent = make_edac(seeds=seeds, critics=3, diversity=0.5, diversity_critics=2, hidden=[2])
    one = torch.tensor([1.0, 1.0, -1.0]).reshape(1, 3, 1, 1).expand(seeds, 3, rows, 2)
    nothing = torch.zeros(seeds, 3, rows)
    monkeypatch.setattr(agent.critics, "with_action_gradient", lambda *_: (nothing, one))
    term, _ = agent.fit_critics(make_batch(seeds, rows), torch.zeros(seeds, rows))
    assert set(term.mul(1e4).round().tolist()) == {10000.0, -10000.0}
    # Standard deviation of the share over 600 seeds: 0.019.
    assert (term > 0).float().mean().item() == pytest.approx(1 / 3, abs=0.08)


def test_two_critics_without_diversity_are_sac_to_the_bit(make_sac, make_batch, spec):
    hyperparameters = read_option("agent/sac")
    hyperparameters = {k: v for k, v in hyperparameters.items() if not k.startswith("_")} | {
        "hidden": [16, 16]
    }
    batches = [make_batch(2, 16) for _ in range(5)]
    states = []
    for cls, extra in ((SAC, {}), (EDAC, PLAIN)):
        torch.manual_seed(0)
        agent = cls(spec=spec, seeds=2, updates=100, **hyperparameters, **extra)
        measured = [agent.update(batch) for batch in batches]
        states.append({**agent.state_dict(), **measured[-1]})
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_each_of_many_critics_can_set_the_target_and_a_cut_rollout_bootstraps(
    make_edac, make_batch
):
    agent, batch = make_edac(seeds=2, critics=6), make_batch(2, 5)
    # No row ended the task: the last row of a rollout that was cut looks like any other.
    batch.terminated[:] = False
    torch.manual_seed(1)
    before = agent.target(batch)
    for n in range(6):
        last = agent.target_critics.body.layers[-1].bias
        with torch.no_grad():
            last[:, n] -= 100.0
        torch.manual_seed(1)
        after = agent.target(batch)
        with torch.no_grad():
            last[:, n] += 100.0
        # The others are all within 1 of each other at the start.
        assert torch.allclose(before - after, torch.full((2, 5), 99.0), atol=1.0)
    torch.manual_seed(1)
    _, log_prob = agent.actor.sample(batch.next_obs)
    torch.manual_seed(1)
    soft = agent.next_value(batch.next_obs)
    agent.entropy_in_target = False
    torch.manual_seed(1)
    torch.testing.assert_close(soft, agent.next_value(batch.next_obs) - log_prob)


def test_what_the_target_bootstraps_from_can_be_replaced(make_sac, make_batch, spec):
    class Patched(SAC):
        def next_value(self, next_obs):
            return torch.where(next_obs[..., 0] > 0, 7.0, super().next_value(next_obs))

    sac, batch = make_sac(spec), make_batch(1, 40)
    sac.__class__ = Patched
    target, patched = sac.target(batch), batch.next_obs[..., 0] > 0
    expected = batch.reward + sac.discount * 7.0 * ~batch.terminated
    torch.testing.assert_close(target[patched], expected[patched])
    bootstrapped = ~patched & ~batch.terminated
    assert not torch.isclose(target, expected)[bootstrapped].any()
    assert not target.requires_grad


def test_networks_start_as_the_configuration_says(make_edac):
    agent = make_edac(hidden=[64, 64])
    for body, bound in ((agent.actor.body, 1e-3), (agent.critics.body, 3e-3)):
        *hidden, last = body.layers
        for layer in hidden:
            assert (layer.bias == 0.1).all()
            assert layer.weight.abs().max() <= 1 / math.sqrt(layer.weight.shape[-2])
            assert layer.weight.std() > 0.05
        for parameter in last.parameters():
            assert 0.5 * bound < parameter.abs().max() <= bound
    online, targets = agent.critics.state_dict(), agent.target_critics.state_dict()
    assert all(torch.equal(value, targets[name]) for name, value in online.items())
    plain = make_edac(hidden=[64, 64], **PLAIN)
    assert plain.critics.body.layers[-1].weight.abs().max() > 0.1
    assert plain.actor.body.layers[0].bias.std() > 0


def test_the_temperature_can_move_first_and_then_only_once(make_sac, make_batch, spec):
    met = {}
    for order in (["policy", "critic"], ["temperature", "policy", "critic"]):
        agent = make_sac(spec, order=order, temperature_learning_rate=0.1, max_temperature=None)
        plain = agent.actor_loss

        def spied(*arguments, agent=agent, plain=plain, order=order):
            met[len(order)] = agent.log_temperature.item()
            return plain(*arguments)

        agent.actor_loss = spied
        measured = agent.update(make_batch(1, 16))
        # Adam's first step has the length of its rate.
        assert abs(agent.log_temperature.item()) == pytest.approx(0.1, rel=1e-4)
        assert measured["temperature"].item() == pytest.approx(agent.temperature.item())
    assert met[2] == 0.0 and abs(met[3]) == pytest.approx(0.1, rel=1e-4)


def test_without_a_clip_the_temperature_may_exceed_one(make_sac, spec):
    agent = make_sac(spec, initial_temperature=5.0, max_temperature=None)
    assert agent.temperature.item() == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"critics": 1}, r"agent\.diversity=1\.0 compares critics, but agent\.critics=1"),
        ({"diversity": -0.1}, r"agent\.diversity=-0\.1 must not be negative"),
        ({"diversity_critics": 1}, r"agent\.diversity_critics=1 must lie between 2 and"),
        ({"diversity_critics": 11}, r"agent\.diversity_critics=11 must lie between 2 and"),
        ({"order": ["temperature", "policy"]}, "temperature at most once"),
    ],
)
def test_numbers_that_cannot_work_are_refused(make_edac, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        make_edac(**changes)
    assert "\n" not in str(caught.value)
    make_edac(critics=1, diversity=0.0)
