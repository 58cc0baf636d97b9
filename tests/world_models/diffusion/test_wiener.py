"""The Wiener filter of the records, and denoising that begins with it at high noise."""

from functools import partial

import pytest
import torch

from reverie.world_models.diffusion.edm import EDM
from reverie.world_models.diffusion.noise_distributions import LogNormal
from reverie.world_models.diffusion.temporal_residual import TemporalResidual
from reverie.world_models.diffusion.unet import ResidualMLP, TemporalUNet
from reverie.world_models.diffusion.wiener import WienerEDM
from tests.world_models.diffusion.test_generator import SAMPLER, SEGMENTS, data, generator

__all__ = ["data"]
EVENT = (3, 2)
DISTRIBUTION = LogNormal(mean=-1.2, std=1.2)


@pytest.fixture(scope="module")
def records():
    """5000 correlated Gaussian segments whose mean differs from row to row."""
    own = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=own) / 6**0.5
    flat = torch.randn(5000, 6, generator=own) @ mixing + torch.arange(6.0) / 5
    return flat.unflatten(1, EVENT)


@pytest.fixture(scope="module")
def objective(records):
    """Fitted to the rows of the records, laid one after another in a table."""
    made = WienerEDM(noise_distribution=DISTRIBUTION, sigma_data=1.0, crossover=3.0)
    made.make_room(EVENT)
    made.measure(records.flatten(0, 1), torch.arange(15_000).view(5000, 3))
    return made


def nothing(shown, label):
    return torch.zeros(len(shown), *EVENT)


def test_the_filter_is_the_posterior_mean_of_gaussian_records(records, objective):
    flat = records.flatten(1)
    mean, covariance = flat.mean(0), flat.T.cov(correction=0)
    x = 2 * torch.randn(4, *EVENT)
    for sigma in (0.05, 1.0, 20.0):
        gain = covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(6))
        expected = mean + (x.flatten(1) - mean) @ gain.T
        found = objective.wiener(x, torch.full((4,), sigma)).flatten(1)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_without_a_network_it_is_the_filter_at_high_noise_and_edm_at_low_noise(objective):
    x = torch.randn(4, *EVENT)
    high, low, none = torch.full((4,), 300.0), torch.full((4,), 0.003), torch.zeros(4)
    filtered = objective.wiener(x, high)
    torch.testing.assert_close(objective.denoise(nothing, x, high), filtered, atol=1e-3, rtol=1e-3)
    plain = EDM(noise_distribution=DISTRIBUTION, sigma_data=1.0).denoise(nothing, x, low)
    torch.testing.assert_close(objective.denoise(nothing, x, low), plain, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(objective.denoise(nothing, x, none), x)


def test_at_high_noise_no_network_is_needed_where_edm_knows_nothing(records, objective):
    """Squared errors of D without a network at sigma = 6, against that of the posterior."""
    sigma = torch.full((len(records),), 6.0)
    x = records + 6 * torch.randn(records.shape, generator=torch.Generator().manual_seed(1))
    error = (objective.denoise(nothing, x, sigma) - records).square().mean()
    plain = EDM(noise_distribution=DISTRIBUTION, sigma_data=1.0).denoise(nothing, x, sigma)
    variance = records.flatten(1).T.cov().diagonal().mean()
    best = (objective.wiener(x, sigma) - records).square().mean()
    assert best < 1.02 * variance and error < 1.05 * best
    assert (plain - records).square().mean() > 1.3 * error


def test_its_loss_is_the_weighted_error_of_its_denoiser(objective):
    clean, normal, noise = torch.randn(6, *EVENT), torch.randn(6), torch.randn(6, *EVENT)

    def network(shown, label):
        assert shown.shape == (6, 3, 4)
        return torch.tanh(shown[..., :2] - shown[..., 2:]) + label.view(-1, 1, 1)

    sigma = DISTRIBUTION.sigma(normal)
    denoised = objective.denoise(network, clean + sigma.view(-1, 1, 1) * noise, sigma)
    expected = DISTRIBUTION.weight(sigma, 1.0) * (denoised - clean).square().mean((1, 2))
    torch.testing.assert_close(objective.loss(network, clean, normal, noise), expected)


NETWORKS = [
    partial(TemporalUNet, width=16, blocks=2, groups=4, norm_over_time=False),
    partial(TemporalResidual, width=16, blocks=2, octaves=2, frequencies=4, step=0.2),
    partial(ResidualMLP, width=16, blocks=2, embedding=8, frequencies=4),
]


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_looks_at_all_views_and_answers_with_one(network):
    made = network(event=(4, 3), views=2)
    shown, label = torch.randn(5, 4, 6), torch.randn(5)
    answer = made(shown, label)
    assert answer.shape == (5, 4, 3)
    other = shown.clone()
    other[..., 3:] += 1
    assert not torch.allclose(made(other, label), answer)


@pytest.mark.parametrize("network", NETWORKS[:2])
def test_a_fit_keeps_what_it_measured_with_the_weights(data, network):
    build = partial(
        generator,
        records=SEGMENTS["records"],
        network=network,
        objective=partial(WienerEDM, sigma_data=1.0, crossover=3.0),
    )
    model = build(steps=20)
    model.fit(data)
    assert model.objective.variance.max() > 1 and model.objective.mean.abs().max() > 0
    again = build(steps=20)
    again.load_state_dict(model.state_dict())
    x = 5 * torch.randn(6, *model.records.event)
    # The channel `done` never varies here, which must not divide zero by zero.
    torch.testing.assert_close(model.denoise(x, torch.tensor(0.0)), x)
    assert torch.equal(model.denoise(x, torch.tensor(4.0)), again.denoise(x, torch.tensor(4.0)))
    assert SAMPLER.sample(again.denoise, torch.randn(2, *model.records.event)).isfinite().all()
    with pytest.raises(ValueError, match="20 numbers, but the generator was fitted to 16"):
        model.denoise(torch.randn(2, 5, 4), torch.tensor(1.0))


def test_a_crossover_that_is_not_positive_and_records_too_large_are_refused(objective):
    with pytest.raises(
        ValueError, match=r"12640 numbers are too large .* generator\.records\.length"
    ):
        objective.make_room((32, 395))
    with pytest.raises(ValueError, match="crossover must be positive"):
        WienerEDM(noise_distribution=DISTRIBUTION, sigma_data=1.0, crossover=0.0)
