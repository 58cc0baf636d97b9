"""Dropout in the world model: off by default to the bit, known spreads, seeds that stay apart."""

import math

import pytest
import torch

from reverie.world_models.networks import BatchedMLP


def linear_unit(rate_of_hidden=40):
    """f(x) = mean over hidden units of relu(x): every unit left out takes its share away."""
    network = BatchedMLP((2, 3), 1, [rate_of_hidden], 1, "relu")
    with torch.no_grad():
        for layer, value in zip(network.layers, (1.0, 1 / rate_of_hidden), strict=True):
            layer.weight.fill_(value)
            layer.bias.zero_()
    return network


@pytest.mark.parametrize("gradients", [True, False])
def test_units_are_left_out_and_the_others_scaled_up(gradients):
    """The sum of n units at rate p has mean 1 and variance p / (n (1 - p))."""
    network, rows = linear_unit(), 20000
    with torch.set_grad_enabled(gradients):
        out = network(torch.ones(2, 3, rows, 1), 0.2).detach()
    std = math.sqrt(0.2 / (40 * 0.8))
    torch.testing.assert_close(out.mean(2), torch.ones(2, 3, 1), atol=5 * std / rows**0.5, rtol=0)
    torch.testing.assert_close(out.std(2), torch.full((2, 3, 1), std), rtol=0.03, atol=0)
    # What is left is a multiple of one unit's share over 1 - p.
    shares = out * 40 * 0.8
    torch.testing.assert_close(shares, shares.round(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("gradients", [True, False])
def test_without_dropout_nothing_is_drawn_and_nothing_changes(gradients):
    network, x = BatchedMLP((2, 3), 4, [8, 8], 5, "silu"), torch.randn(2, 3, 7, 4)
    state = torch.get_rng_state()
    with torch.set_grad_enabled(gradients):
        assert torch.equal(network(x), network(x, 0.0))
    assert torch.equal(state, torch.get_rng_state())


def fitted(make_ensemble, make_dataset, **changes):
    hyperparameters = {
        "members": 1,
        "elites": 1,
        "seeds": 2,
        "uncertainty": "dropout",
        "dropout": 0.2,
    }
    model = make_ensemble(**(hyperparameters | changes))
    model.fit(make_dataset(noise=0.05))
    return model


def test_predictions_use_all_units_and_only_the_uncertainty_draws(make_ensemble, make_dataset):
    model = fitted(make_ensemble, make_dataset)
    obs, action = torch.randn(2, 5, 2), torch.rand(2, 5, 1)
    mean, std = model.predict(obs, action)
    again, _ = model.predict(obs, action)
    assert torch.equal(mean, again)
    torch.manual_seed(3)
    with_dropout = model.step(obs, action)
    plain = fitted(make_ensemble, make_dataset, uncertainty="max_aleatoric")
    torch.manual_seed(3)
    without = plain.step(obs, action)
    # The same fit, the same sample: only u differs.
    assert torch.equal(with_dropout.next_obs, without.next_obs)
    assert not torch.equal(with_dropout.uncertainty, without.uncertainty)
    torch.testing.assert_close(without.uncertainty, std[:, 0].norm(dim=-1))


def test_the_passes_are_one_call_whose_spread_is_the_uncertainty(make_ensemble, make_dataset):
    model = fitted(make_ensemble, make_dataset, dropout_passes=4000)
    obs, action = torch.randn(2, 3, 2), torch.rand(2, 3, 1)
    found = model.step(obs, action).uncertainty
    inputs = torch.cat([obs, action], -1).unsqueeze(1)
    with torch.no_grad():
        one_by_one = torch.stack([model.gaussians(inputs, 0.2)[0] for _ in range(4000)])
    wanted = one_by_one[..., :-1].var(0, correction=0).mean(-1).sqrt()[:, 0]
    torch.testing.assert_close(found, wanted, rtol=0.1, atol=0)


def test_a_poisoned_seed_is_uncertain_alone(make_ensemble, make_dataset):
    model = fitted(make_ensemble, make_dataset)
    obs, action = torch.randn(2, 5, 2), torch.rand(2, 5, 1)
    torch.manual_seed(1)
    clean = model.step(obs, action).uncertainty
    obs[1] = float("nan")
    torch.manual_seed(1)
    dirty = model.step(obs, action).uncertainty
    assert torch.equal(clean[0], dirty[0]) and dirty[1].isnan().all()


def test_the_fit_leaves_units_out(make_ensemble, make_dataset):
    plain = fitted(make_ensemble, make_dataset, uncertainty="max_aleatoric", dropout=0.0)
    other = fitted(make_ensemble, make_dataset)
    weight = [m.gaussians.network.layers[0].weight for m in (plain, other)]
    assert not torch.equal(*weight)
    assert "dropout" not in plain.signature() and other.signature()["dropout"] == 0.2


def test_a_shared_model_answers_for_every_seed(make_ensemble, make_dataset):
    model = fitted(make_ensemble, make_dataset, per_seed=False)
    step = model.step(torch.randn(2, 5, 2), torch.rand(2, 5, 1))
    assert step.uncertainty.shape == (2, 5) and (step.uncertainty > 0).all()


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"uncertainty": "dropout", "dropout": 0.0}, "world_model.dropout"),
        ({"dropout": 1.0}, "dropout"),
        ({"start_cut": 0.0}, "start_cut"),
        ({"dropout_passes": 1}, "dropout_passes"),
        ({"uncertainty": "ensemble_std", "members": 1, "elites": 1}, "max_aleatoric, dropout"),
    ],
)
def test_what_makes_no_sense_is_refused(make_ensemble, changes, names):
    with pytest.raises(ValueError, match=names):
        make_ensemble(**changes)
