"""Soft bounds, the loss and its gradient, and what the members learn."""

import math

import pytest
import torch

from reverie.world_models.gaussian import GaussianMembers, gaussian_loss, soft_clamp
from reverie.world_models.networks import BatchedLinear, normal_start_
from reverie.world_models.optimiser import Adam

DECAY = [0.3, 0.2, 0.1]


def members(
    seeds=2,
    count=3,
    inputs=2,
    outputs=2,
    decay=DECAY,
    hidden=(4, 4),
    bounds=(-10.0, 0.5),
    dropout=0.0,
):
    torch.manual_seed(0)
    return GaussianMembers(
        seeds=seeds,
        members=count,
        inputs=inputs,
        outputs=outputs,
        hidden=list(hidden),
        activation="silu",
        log_variance_bounds=list(bounds),
        bound_coefficient=0.01,
        weight_decay=decay,
        dropout=dropout,
        start_cut=2.0,
    )


def test_soft_clamp_bends_into_the_bounds_and_leaves_the_middle_alone():
    low, high = torch.tensor([-10.0]), torch.tensor([0.5])
    far = torch.tensor([[-50.0], [50.0]])
    limits = torch.tensor([[-10.0], [0.5]])
    torch.testing.assert_close(soft_clamp(far, low, high), limits, atol=1e-4, rtol=0)
    middle = torch.tensor([-5.0])
    torch.testing.assert_close(soft_clamp(middle, low, high), middle, atol=0.02, rtol=0)
    # Upper bound first, then the lower one, worked out by hand at l = 0.5.
    upper = 0.5 - math.log(2)
    expected = -10 + math.log1p(math.exp(upper + 10))
    assert math.isclose(soft_clamp(high, low, high).item(), expected, abs_tol=2e-6)


@pytest.mark.parametrize("value", [-50.0, 50.0])
def test_soft_clamp_has_finite_gradients_far_outside(value):
    inputs = [torch.tensor([v], requires_grad=True) for v in (value, -10.0, 0.5)]
    gradients = torch.autograd.grad(soft_clamp(*inputs).sum(), inputs)
    assert all(bool(gradient.isfinite()) for gradient in gradients)
    # Far above, all of the slope belongs to the upper bound, far below to the lower one.
    assert gradients[2 if value > 0 else 1].item() == pytest.approx(1.0, abs=1e-3)


def test_loss_is_squared_error_over_variance_plus_log_variance():
    mean, target = (
        torch.tensor([[[1.0, 2.0], [0.0, 0.0]]]),
        torch.tensor([[[3.0, 2.0], [1.0, 0.0]]]),
    )
    log_variance = torch.tensor([[[math.log(2.0), 0.0], [0.0, 1.0]]])
    # Row 0: (4/2 + log 2 + 0 + 0)/2; row 1: (1 + 0 + 0 + 1)/2.
    rows = [(2 + math.log(2)) / 2, 1.0]
    full = gaussian_loss(mean, log_variance, target, torch.ones(2))
    torch.testing.assert_close(full, torch.tensor([sum(rows) / 2]))
    first_only = gaussian_loss(mean, log_variance, target, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(first_only, torch.tensor([rows[0]]))


def full_loss(model, rows):
    """The whole objective written out: likelihood, bounds and weight decay, summed over all."""
    inputs, target = rows.split(model.widths, -1)
    mean, log_variance = model(inputs)
    fit = ((mean - target) ** 2 / log_variance.exp() + log_variance).mean((-1, -2)).sum()
    bounds = 0.01 * (model.high.sum() - model.low.sum())
    weights = list(model.network.parameters())[::2]
    decay = sum(d * 0.5 * (w**2).sum() for d, w in zip(DECAY, weights, strict=True))
    return fit + bounds + decay


def test_the_gradient_of_an_update_is_that_of_the_whole_objective():
    model = members().double()
    rows = torch.randn(2, 3, 5, 4, dtype=torch.float64)

    class Recorder(Adam):
        def apply_gradients(self, gradients):
            self.gradients = gradients

    recorder = Recorder(model.trained_parameters(), 1e-3)
    model.update(recorder, rows, torch.ones(5, dtype=torch.float64))
    step = 1e-6
    for parameter, gradient in zip(model.trained_parameters(), recorder.gradients, strict=True):
        flat = parameter.data.view(-1)
        for i in range(0, flat.numel(), max(flat.numel() // 7, 1)):
            value = flat[i].item()
            flat[i] = value + step
            above = full_loss(model, rows)
            flat[i] = value - step
            below = full_loss(model, rows)
            flat[i] = value
            expected = (above - below).item() / (2 * step)
            assert gradient.reshape(-1)[i].item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_filling_up_a_batch_changes_nothing():
    rows = torch.randn(2, 3, 5, 4)
    short, filled = members(), members()
    short.update(Adam(short.trained_parameters(), 1e-2), rows, torch.ones(5))
    padded = torch.cat([rows, rows[:, :, :3]], 2)
    filled.update(
        Adam(filled.trained_parameters(), 1e-2), padded, torch.tensor([1.0] * 5 + [0.0] * 3)
    )
    for a, b in zip(short.trained_parameters(), filled.trained_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_biases_are_not_decayed_and_start_at_zero():
    model = members()
    for bias in list(model.network.parameters())[1::2]:
        assert (bias == 0).all()
    weight = next(model.network.parameters())
    assert weight.abs().max() <= 2 / (2 * math.sqrt(2)) + 1e-6  # cut at two stds


@pytest.mark.slow
def test_members_recover_the_variance_of_the_noise():
    model = members(seeds=1, count=3, inputs=1, outputs=2, decay=[0.0] * 3, hidden=(8, 8))
    true_std = torch.tensor([0.5, 0.05])
    x = torch.rand(4096, 1) * 2 - 1
    noise = torch.randn(4096, 2)
    noise = (noise - noise.mean(0)) / noise.std(0) * true_std  # exactly this variance
    rows = torch.cat([x, torch.cat([x, -0.3 * x], -1) + noise], -1)
    optimiser = Adam(model.trained_parameters(), 1e-2)
    for _ in range(1500):
        drawn = torch.randint(4096, (1, 3, 256))
        model.update(optimiser, rows[drawn], torch.ones(256))
    optimiser.learning_rate.fill_(1e-3)  # let the noise of the steps die down
    for _ in range(500):
        drawn = torch.randint(4096, (1, 3, 256))
        model.update(optimiser, rows[drawn], torch.ones(256))
    _, log_variance = model(x.expand(1, 3, -1, -1))
    found = log_variance.exp().mean(2)[0]  # [E, 2]
    assert ((found / true_std.square() - 1).abs() < 0.05).all(), found / true_std.square()


def test_inputs_are_normalised_by_each_seeds_statistics():
    model = members()
    inputs = torch.randn(2, 3, 5, 2)
    plain, _ = model(inputs)
    mean, std = torch.randn(2, 2), torch.rand(2, 2) + 0.5
    model.normalise_by(mean, std)
    moved, _ = model(inputs * std[:, None, None] + mean[:, None, None])
    torch.testing.assert_close(moved, plain, rtol=1e-4, atol=1e-5)


def test_merge_takes_improved_members_and_the_bounds_of_running_seeds():
    model = members()
    kept = model.snapshot()
    with torch.no_grad():
        for parameter in model.trained_parameters():
            parameter.add_(1.0)
    improved = torch.tensor([[True, False, False], [False, False, True]])
    merged = model.merge(kept, improved, torch.tensor([True, False]))
    for old, new in zip(kept[:-2], merged[:-2], strict=True):
        moved = (new - old).flatten(2).amax(-1).round() == 1
        assert torch.equal(moved, improved)
    for old, new in zip(kept[-2:], merged[-2:], strict=True):
        assert torch.equal((new - old).flatten(1).amax(-1) == 1, torch.tensor([True, False]))
    model.restore(merged)
    for parameter, value in zip(model.trained_parameters(), merged, strict=True):
        assert torch.equal(parameter, value)


def test_starting_weights_are_cut_where_asked_and_whole_otherwise():
    layer = BatchedLinear((8,), 100, 100)
    for cut, inside in ((2.0, 1.0), (1.0, 1.0), (None, math.erf(2**0.5))):  # P(|z| < 2) = .954
        normal_start_(layer, cut)
        scaled = layer.weight.detach() * 20  # in standard deviations
        assert scaled.abs().max() <= (10 if cut is None else cut + 1e-4)
        assert math.isclose((scaled.abs() <= 2).float().mean(), inside, abs_tol=0.005)
        assert not layer.bias.any()
