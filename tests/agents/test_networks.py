"""Densities and normalised layers of policies and critics."""

import pytest
import torch
from torch.nn import functional as F

from reverie.agents.layers import Activation, LayerNorm, Linear, perceptron_layers
from reverie.agents.networks import Critics, GaussianActor, StateValue, TanhGaussianActor
from reverie.world_models.networks import BatchedMLP

KINDS = [GaussianActor, TanhGaussianActor]


def make(kind, action_dim=2, log_std_bounds=(-5.0, 2.0)):
    return kind(
        seeds=2,
        obs_dim=3,
        action_dim=action_dim,
        hidden=[16],
        activation="tanh",
        log_std_bounds=list(log_std_bounds),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_of_a_sample_is_that_of_the_given_action(kind):
    actor, obs = make(kind), torch.randn(2, 50, 3)
    action, log_prob = actor.sample(obs)
    assert action.shape == (2, 50, 2) and action.requires_grad
    torch.testing.assert_close(actor.log_prob(obs, action), log_prob, atol=1e-3, rtol=1e-3)


def test_a_squashed_density_integrates_to_one():
    actor = make(TanhGaussianActor, action_dim=1, log_std_bounds=(-1.0, -1.0))
    grid = torch.linspace(-0.9999, 0.9999, 20001)
    obs = torch.randn(2, 1, 3).expand(-1, len(grid), -1)
    density = actor.log_prob(obs, grid.view(1, -1, 1).expand(2, -1, -1)).exp()
    assert torch.trapezoid(density, grid, dim=1).tolist() == pytest.approx([1.0, 1.0], abs=1e-3)


def test_an_action_on_the_edge_of_the_box_has_a_finite_density_and_gradient():
    actor, obs = make(TanhGaussianActor), torch.randn(2, 4, 3)
    edge = torch.tensor([1.0, -1.0]).expand(2, 4, 2)
    log_prob = actor.log_prob(obs, edge)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in actor.parameters())


def test_normalised_critics_are_separate_and_do_not_grow_with_their_inputs():
    critics = Critics(
        seeds=2,
        critics=3,
        obs_dim=3,
        action_dim=2,
        hidden=[32, 32],
        activation="relu",
        normalise_obs=False,
        layer_norm=True,
    )
    obs, action = torch.randn(2, 5, 3), torch.rand(2, 5, 2)
    before = critics(obs, action)
    with torch.no_grad():
        far = critics(1e6 * obs, 1e6 * action)
        critics.body.norms[0].scale[1] += 1.0
    after = critics(obs, action)
    assert far.abs().max() < 10  # |Q| <= |w| sqrt(width) + |b| whatever goes in
    assert torch.equal(after[0], before[0]) and not torch.equal(after[1], before[1])


def test_layer_norm_is_off_unless_it_is_asked_for():
    value = StateValue(seeds=2, obs_dim=3, hidden=[8], activation="relu")
    assert not any("norm" in name for name in value.state_dict())


@pytest.mark.parametrize("first", [False, True], ids=["after", "before"])
def test_plain_layers_have_their_norms_where_the_perceptron_has_them(first):
    body = BatchedMLP((2,), 3, [8, 6], 2, "tanh", layer_norm=True, norm_first=first)
    with torch.no_grad():
        for norm in body.norms:
            norm.scale.uniform_(0.5, 2.0)
            norm.shift.uniform_(-1.0, 1.0)
    x = torch.randn(5, 3)
    value = x
    for layer in perceptron_layers(body, 1, 2):
        match layer:
            case Linear():
                value = value @ layer.weight + layer.bias
            case LayerNorm():
                width = value.shape[-1:]
                value = F.layer_norm(value, width, layer.scale, layer.shift, layer.epsilon)
            case Activation():
                value = value.tanh()
    torch.testing.assert_close(value, body(x.expand(2, -1, -1))[1])
