"""Preconditioning identities and the shapes, sizes and reach of the networks."""

import pytest
import torch

from reverie.world_models.diffusion.edm import EDM
from reverie.world_models.diffusion.noise_distributions import FlowMatching, LogNormal
from reverie.world_models.diffusion.temporal_residual import TemporalResidual, neighbours
from reverie.world_models.diffusion.unet import GroupNorm, ResidualMLP, TemporalUNet

SIGMAS = torch.logspace(-3, 2, 6)


def edm(sigma_data=0.7):
    return EDM(noise_distribution=LogNormal(mean=-1.2, std=1.2), sigma_data=sigma_data)


def unet(length=8, channels=5, width=16, blocks=3, over_time=False):
    return TemporalUNet(
        event=(length, channels), width=width, blocks=blocks, groups=4, norm_over_time=over_time
    )


def residual(length=8, channels=5, blocks=3, octaves=2, step=0.2, numbers=0):
    return TemporalResidual(
        event=(length, channels),
        width=16,
        blocks=blocks,
        octaves=octaves,
        frequencies=4,
        step=step,
        numbers=numbers,
    )


def nothing(x, label):
    return torch.zeros_like(x)


def test_coefficients_keep_input_and_target_of_the_network_at_unit_variance():
    c = edm().coefficients(SIGMAS)
    variance = 0.7**2 + SIGMAS.square()
    torch.testing.assert_close(c.into.square() * variance, torch.ones(6))
    # (y - skip (y + sigma n)) / out with independent y and n.
    target = ((1 - c.skip) * 0.7).square() + (c.skip * SIGMAS).square()
    torch.testing.assert_close(target / c.out.square(), torch.ones(6))
    weight = variance / (SIGMAS * 0.7).square()
    torch.testing.assert_close(weight * c.out.square(), torch.ones(6))


def test_without_noise_the_denoiser_is_the_identity_and_without_a_network_it_shrinks():
    x = torch.randn(4, 3)
    torch.testing.assert_close(edm().denoise(lambda x, _: 100 * x, x, torch.zeros(4)), x)
    sigma = torch.full((4,), 0.7)
    torch.testing.assert_close(edm().denoise(nothing, x, sigma), x / 2)


DISTRIBUTIONS = [
    LogNormal(mean=-1.2, std=1.2),
    FlowMatching(path="linear", logit_mean=0.2, logit_std=1.0),
]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_loss_is_the_weighted_error_of_the_denoiser(distribution):
    model = EDM(noise_distribution=distribution, sigma_data=0.7)
    clean, normal, noise = torch.randn(6, 4, 3), torch.randn(6), torch.randn(6, 4, 3)

    def network(x, label):
        return torch.tanh(x) + label.view(-1, 1, 1)

    sigma = distribution.sigma(normal)
    denoised = model.denoise(network, clean + sigma.view(-1, 1, 1) * noise, sigma)
    expected = distribution.weight(sigma, 0.7) * (denoised - clean).square().mean((1, 2))
    torch.testing.assert_close(model.loss(network, clean, normal, noise), expected)


@pytest.mark.parametrize("length", [4, 8, 9, 17])
@pytest.mark.parametrize("make", [unet, residual])
def test_the_temporal_networks_take_segments_of_any_length(make, length):
    x, label = torch.randn(2, length, 5), torch.randn(2)
    network = make()
    assert network(x, label).shape == x.shape
    other = network(x, label + 1)
    assert not torch.allclose(other[0], network(x, label)[0])


@pytest.mark.parametrize(
    ("width", "blocks", "millions"), [(1024, 3, 177.66), (256, 3, 11.14), (64, 5, 11.03)]
)
def test_the_temporal_network_has_the_published_size(width, blocks, millions):
    with torch.device("meta"):
        network = unet(length=32, channels=25, width=width, blocks=blocks)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=5e-3)


def test_the_residual_network_has_the_published_size():
    with torch.device("meta"):
        network = ResidualMLP(event=(42,), width=2048, blocks=6, embedding=128, frequencies=8)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(25.55, abs=5e-3)


@pytest.mark.parametrize("over_time", [False, True])
def test_normalisation_at_each_step_does_not_carry_from_one_step_to_another(over_time):
    x = torch.randn(2, 8, 6)
    y = x.clone()
    y[..., 3] *= 5
    norm = GroupNorm(2, 8, over_time=over_time)
    same = (norm(x) == norm(y)).all(1)
    assert same[:, [0, 1, 2, 4, 5]].all() == (not over_time)
    if not over_time:
        group = norm(x)[:, :4, 2]
        torch.testing.assert_close(group.mean(1), torch.zeros(2), atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("over_time", [False, True])
def test_rows_outside_the_reach_of_the_convolutions_are_seen_by_pooled_statistics_only(over_time):
    x, label = torch.randn(1, 128, 5), torch.zeros(1)
    y = x.clone()
    y[:, 100:] += 1
    network = unet(length=128, over_time=over_time)
    assert torch.equal(network(x, label)[:, :40], network(y, label)[:, :40]) != over_time


def test_residual_blocks_reach_as_far_as_their_distances_add_up_to():
    """One row for the differences and 1, 2 and 1 for the blocks: five on either side."""
    x, label = torch.randn(1, 32, 5), torch.zeros(1)
    y = x.clone()
    y[:, 16] += 1
    network = residual()
    changed = (network(x, label) != network(y, label)).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == list(range(11, 22))
    h = torch.arange(1.0, 5.0).view(1, 4, 1)
    rows = [[0, 1, 3], [0, 2, 4], [1, 3, 0], [2, 4, 0]]
    assert neighbours(h, 2)[0].tolist() == rows


@pytest.mark.parametrize("sigma", [0.002, 0.2, 5.0])
def test_differences_of_rows_have_a_variance_of_one_at_every_noise(sigma):
    steps = 0.2 * torch.randn(1, 20_000, 5)
    noisy = steps.cumsum(1) + sigma * torch.randn_like(steps)
    c = edm(sigma_data=1.0).coefficients(torch.tensor([sigma]))
    shown = residual(step=0.2).differences(c.into * noisy, c.label.view(1, 1, 1))
    torch.testing.assert_close(shown.var(1), torch.ones(1, 5), atol=0.05, rtol=0.0)


def test_the_temporal_residual_network_hears_what_it_is_asked_for():
    network, x, label = residual(numbers=1), torch.randn(2, 8, 5), torch.zeros(2)
    asked = torch.tensor([[0.3], [float("nan")]])
    answered, free = network(x, label, asked), network(x, label)
    assert not torch.allclose(answered[0], free[0]) and torch.allclose(answered[1], free[1])


def test_the_residual_network_sees_a_segment_as_one_row():
    hyperparameters = {"width": 16, "blocks": 2, "embedding": 8, "frequencies": 4}
    row, segment = (
        ResidualMLP(event=(56,), **hyperparameters),
        ResidualMLP(event=(8, 7), **hyperparameters),
    )
    segment.load_state_dict(row.state_dict())
    x, label = torch.randn(3, 8, 7), torch.randn(3)
    assert torch.equal(segment(x, label).flatten(1), row(x.flatten(1), label))


def test_networks_refuse_records_of_another_kind():
    with pytest.raises(ValueError, match="generator=transition"):
        TemporalUNet(event=(7,), width=16, blocks=2, groups=4, norm_over_time=False)
    with pytest.raises(ValueError, match="generator=transition"):
        TemporalResidual(event=(7,), width=16, blocks=1, octaves=1, frequencies=4, step=0.2)
    with pytest.raises(ValueError, match="length=2"):
        unet(length=2)
