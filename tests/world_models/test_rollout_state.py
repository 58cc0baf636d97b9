"""What a rollout keeps: its member and the units it lacks; layer normalisation that bounds it."""

import math

import pytest
import torch

from reverie.training.launch.options import build_option
from reverie.world_models.networks import BatchedMLP


def fitted(make_ensemble, make_dataset, **changes):
    model = make_ensemble(**({"seeds": 2, "members": 8, "elites": 5} | changes))
    model.fit(make_dataset(noise=0.05))
    return model


def silence(model):
    """Outcomes without noise."""
    with torch.no_grad():
        model.gaussians.low.fill_(-80.0)
        model.gaussians.high.fill_(-70.0)


def followed(model, obs, state, steps=20):
    seen, states = [obs], []
    for t in range(steps):
        action = torch.full((*obs.shape[:-1], 1), 0.5 * (-1) ** t)
        step = model.advance(seen[-1], action, 1, state)
        seen.append(step.next_obs[0])
        state = step.state[0]
        states.append(state)
    return torch.stack(seen), torch.stack(states)


@pytest.mark.parametrize("per_seed", [True, False])
def test_a_rollout_lives_in_one_member_from_its_first_step_to_its_last(
    make_ensemble, make_dataset, per_seed
):
    model = fitted(make_ensemble, make_dataset, rollout_member="rollout", per_seed=per_seed)
    silence(model)
    obs = torch.randn(2, 1, 2).expand(2, 10, 2)
    turns = torch.arange(10).remainder(5)  # each elite twice
    state = turns.float().view(1, 10, 1).expand(2, -1, -1)
    seen, states = followed(model, obs, state)
    assert torch.equal(states, state.expand_as(states))
    # Those of the same member agree, those of different ones do not.
    torch.testing.assert_close(seen[:, :, :5], seen[:, :, 5:], atol=1e-6, rtol=0)
    last = seen[-1, :, :5]
    apart = torch.cdist(last, last) + torch.eye(5)
    assert apart.min() > 1e-4
    # And they are where the member's own means lead.
    own = obs[:, :1]
    for t in range(20):
        action = torch.full((2, 1, 1), 0.5 * (-1) ** t)
        own = model.predict(own, action)[0][:, 3, :, :-1]  # the fourth elite
    torch.testing.assert_close(seen[-1, :, 3:4], own, atol=1e-5, rtol=0)


def test_members_are_drawn_alike_and_all_candidates_of_a_rollout_share_theirs(
    make_ensemble, make_dataset
):
    model = fitted(make_ensemble, make_dataset, rollout_member="rollout")
    obs, action = torch.randn(2, 4000, 2), torch.rand(2, 4000, 1)
    state = model.begin(obs)
    share = torch.bincount(state.long().flatten(), minlength=5) / state.numel()
    torch.testing.assert_close(share, torch.full((5,), 0.2), atol=0.03, rtol=0)
    step = model.step(obs, action, 3, state)
    assert torch.equal(step.state, state.expand(3, -1, -1, -1))
    # Without a rollout candidates take turns, and each goes on in the member that it came from.
    outside = model.step(obs, action, 5).state
    assert torch.equal(outside.sort(0).values[:, 0, 0, 0], torch.arange(5.0))


def test_what_keeps_nothing_draws_the_same_bits_as_ever(make_ensemble, make_dataset):
    plain = fitted(make_ensemble, make_dataset)
    keeps = fitted(make_ensemble, make_dataset, rollout_member="rollout")
    assert keeps.signature() == plain.signature()  # the fit is the same, so its copies are shared
    for name, value in plain.state_dict().items():
        assert torch.equal(value, keeps.state_dict()[name])
    obs, action = torch.randn(2, 6, 2), torch.rand(2, 6, 1)
    torch.manual_seed(1)
    first = plain.step(obs, action, 3)
    torch.manual_seed(1)
    second = keeps.step(obs, action, 3)
    assert torch.equal(first.next_obs, second.next_obs) and first.state is None
    with pytest.raises(ValueError, match="carries no state"):
        plain.step(obs, action, 1, second.state[0])


def masked(make_ensemble, make_dataset, **changes):
    changes = {"dropout": 0.2, "rollout_dropout": 0.4, **changes}
    return fitted(make_ensemble, make_dataset, **changes)


def test_one_mask_is_one_network_for_a_whole_rollout(make_ensemble, make_dataset):
    model = masked(make_ensemble, make_dataset, rollout_member="rollout")
    silence(model)
    state = model.begin(torch.zeros(2, 500, 2))
    assert state.shape == (2, 500, 1 + 16)
    units = state[..., 1:]
    assert units.unique().tolist() == [0.0, pytest.approx(1 / 0.6)]
    assert (units == 0).float().mean().item() == pytest.approx(0.4, abs=0.03)
    twice = state[:, :1].expand(2, 3, -1)
    seen, states = followed(model, torch.ones(2, 3, 2), twice)
    assert torch.equal(states, twice.expand_as(states))
    torch.testing.assert_close(seen[:, :, 0], seen[:, :, 2], atol=1e-6, rtol=0)
    # It is that network without those units, computed here without ours.
    member = int(state[0, 0, 0])
    body = model.gaussians.network
    inputs = torch.tensor([1.0, 1.0, 0.5]) - model.gaussians.input_mean[0, 0, 0]
    x = inputs / model.gaussians.input_std[0, 0, 0]
    place = (0, model.elite_members[0, member])
    for number, layer in enumerate(body.layers):
        x = x @ layer.weight[place] + layer.bias[(*place, 0)]
        if number < 2:
            x = torch.nn.functional.silu(x) * units[0, 0, 8 * number : 8 * number + 8]
    torch.testing.assert_close(seen[1, 0, 0], 1.0 + x[:2], atol=1e-5, rtol=0)


def test_a_mask_of_each_step_is_drawn_anew_and_carried_by_nobody(make_ensemble, make_dataset):
    model = masked(make_ensemble, make_dataset, members=1, elites=1, rollout_mask="step")
    silence(model)
    obs, action = torch.ones(2, 8, 2), torch.zeros(2, 8, 1)
    assert model.begin(obs) is None
    first, second = model.step(obs, action), model.step(obs, action)
    assert first.state is None and not torch.equal(first.next_obs, second.next_obs)
    assert (first.next_obs[0, 0, 0] != first.next_obs[0, 0, 1]).any()


def test_neither_uncertainty_nor_plans_depend_on_what_a_rollout_keeps(make_ensemble, make_dataset):
    changes = {"uncertainty": "ensemble_std", "dropout": 0.2}
    plain = fitted(make_ensemble, make_dataset, **changes)
    keeps = masked(make_ensemble, make_dataset, rollout_member="rollout", **changes)
    obs, action = torch.randn(2, 6, 2), torch.rand(2, 6, 1)
    wanted = plain.step(obs, action).uncertainty
    assert torch.equal(keeps.step(obs, action, 1, keeps.begin(obs)).uncertainty, wanted)
    state = keeps.begin(obs)
    told, expected = keeps.expect(obs, action, 2, state), plain.expect(obs, action, 2)
    assert torch.equal(told.next_obs, expected.next_obs)
    assert torch.equal(told.state, state.expand(2, -1, -1, -1))
    plans = []
    small = {"horizon": 4, "samples": 16, "elites": 4, "policy_samples": 0, "terminal": "none"}
    for model in (plain, keeps):
        asked = {"moments": None, "critics": None, "value_discount": 0.99, "behaviour": None}
        planner = build_option(
            *("planner", "mppi"), changes=small, spec=model.spec, model=model, **asked
        )
        torch.manual_seed(0)
        plans.append(planner.plan(obs))
    assert torch.equal(*plans)


def test_dropout_in_rollouts_needs_a_network_fitted_with_it(make_ensemble):
    with pytest.raises(ValueError, match=r"rollout_dropout=0\.1 needs a network fitted"):
        make_ensemble(rollout_dropout=0.1)


def bounded(model):
    """sqrt(width) times the largest column norm of the last layer's means, and the biases'."""
    last = model.gaussians.network.layers[-1]
    outputs = model.spec.obs_dim
    weight, bias = last.weight[..., :outputs], last.bias[..., :outputs]
    norms = model.gaussians.network.norms[-1]
    # |scale h + shift| <= |scale|_max sqrt(width) + |shift|, and no activation makes it larger.
    size = norms.scale.abs().amax(-1, keepdim=True) * math.sqrt(last.weight.shape[-2])
    size = size + norms.shift.norm(dim=-1, keepdim=True)
    return (size * weight.norm(dim=-2, keepdim=True) + bias.abs()).norm(dim=-1).max().item()


def test_normalised_layers_bound_each_step_whatever_their_weights(make_ensemble):
    """NEUBAY's lemma: 500 steps lead no farther than 500 times the bound; else they explode."""
    distances = {}
    for layer_norm, steps in ((True, 500), (False, 100)):
        model = make_ensemble(seeds=2, layer_norm=layer_norm, activation="leaky_relu")
        model.ready = True
        silence(model)
        with torch.no_grad():
            for layer in model.gaussians.network.layers[:-1]:
                layer.weight.mul_(1e3)
            model.gaussians.network.layers[-1].weight.mul_(10.0)
        obs = start = torch.randn(2, 20, 2)
        moved = []
        for _ in range(steps):
            obs = model.step(obs, torch.zeros(2, 20, 1)).next_obs[0]
            moved.append((obs - start).norm(dim=-1).amax())
        distances[layer_norm] = torch.stack(moved)
        if layer_norm:
            limit = bounded(model) * torch.arange(1, 501)
            assert (distances[True] <= limit).all()
            assert distances[True][-1] > 1.0  # and they did move
    assert not distances[False][-1].isfinite()


def test_layer_norm_is_fitted_reset_and_part_of_the_signature(make_ensemble, make_dataset):
    plain = fitted(make_ensemble, make_dataset)
    model = fitted(make_ensemble, make_dataset, layer_norm=True)
    assert "layer_norm" not in plain.signature() and model.signature()["layer_norm"] is True
    norm = model.gaussians.network.norms[0]
    assert not torch.equal(norm.scale, torch.ones_like(norm.scale))
    model.gaussians.reset()
    assert torch.equal(norm.scale, torch.ones_like(norm.scale)) and not norm.shift.any()
    # Against torch's own, member by member.
    body = BatchedMLP((2, 3), 4, [6], 5, "leaky_relu", layer_norm=True, norm_first=True)
    x = torch.randn(2, 3, 7, 4)
    with torch.no_grad():
        for each in body.norms.parameters():
            each.copy_(torch.randn_like(each))
    for s in range(2):
        for e in range(3):
            first, last = body.layers
            h = x[s, e] @ first.weight[s, e] + first.bias[s, e]
            weight, bias = (v[s, e, 0] for v in (body.norms[0].scale, body.norms[0].shift))
            h = torch.nn.functional.layer_norm(h, (6,), weight, bias, eps=1e-6)
            wanted = torch.nn.functional.leaky_relu(h) @ last.weight[s, e] + last.bias[s, e]
            torch.testing.assert_close(body(x)[s, e], wanted)


def test_a_mask_is_what_units_are_multiplied_by():
    body, x = BatchedMLP((2, 3), 4, [6, 6], 5, "silu"), torch.randn(2, 3, 7, 4)
    ones, none = torch.ones(2, 1, 7, 6), torch.zeros(2, 1, 7, 6)
    torch.testing.assert_close(body(x, masks=[ones, ones]), body(x))
    last = body.layers[-1].bias.expand(2, 3, 7, 5)
    torch.testing.assert_close(body(x, masks=[ones, none]), last)
