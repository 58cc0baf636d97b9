"""Noise distributions: what they draw, and that their weights are those of their losses."""

import math

import pytest
import torch

from reverie.world_models.diffusion.noise_distributions import FlowMatching, LogNormal, PFGMpp
from reverie.world_models.diffusion.samplers import Heun

EDM = dict(mean=-1.2, std=1.2)


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_the_levels_of_edm_and_their_weight():
    distribution, normal = LogNormal(**EDM), noise(1000)
    sigma = distribution.sigma(normal)
    torch.testing.assert_close(sigma.log(), -1.2 + 1.2 * normal)
    # The weight times the squared scale of the preconditioned network's output is one.
    scale = (sigma * 0.5).square() / (sigma.square() + 0.25)
    torch.testing.assert_close(distribution.weight(sigma, 0.5) * scale, torch.ones(1000).double())
    assert distribution.noise(normal, 1) is normal and distribution.gaussian


@pytest.mark.parametrize("dimensions", [8.0, 128.0])
def test_the_noise_of_pfgmpp_is_students_t_with_one_radius_a_record(dimensions):
    distribution = PFGMpp(dimensions=dimensions, **EDM)
    n = distribution.noise(noise(2, 5000, 4, 3), 2)
    assert n.shape == (2, 5000, 4, 3) and not distribution.gaussian
    assert n.var().item() == pytest.approx(dimensions / (dimensions - 2), rel=0.06)
    # |n|^2 / (|n|^2 + D) ~ Beta(N / 2, D / 2), the distribution of the radius in the paper.
    square = n.square().flatten(2).sum(-1)
    share = square / (square + dimensions)
    assert share.mean().item() == pytest.approx(12 / (12 + dimensions), rel=0.02)
    expected = 2 * 12 * dimensions / ((12 + dimensions) ** 2 * (12 + dimensions + 2))
    assert share.var().item() == pytest.approx(expected, rel=0.06)


def test_many_dimensions_are_gaussian_noise():
    normal = noise(1000, 6)
    n = PFGMpp(dimensions=1e8, **EDM).noise(normal, 1)
    torch.testing.assert_close(n, normal, rtol=1e-3, atol=0)


def test_pfgmpp_reaches_its_data_with_a_sampler_of_edm():
    """Point masses, whose posterior weights under the heavy-tailed kernel are a closed form."""
    dimensions, points = 16.0, noise(3, 8)
    masses = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    distribution = PFGMpp(dimensions=dimensions, **EDM)

    def denoise(x, sigma):
        distance = (x.unsqueeze(-2) - points).square().sum(-1)
        kernel = -(8 + dimensions) / 2 * (distance + dimensions * sigma**2).log()
        return torch.softmax(kernel + masses.log(), -1) @ points

    sampler = Heun(
        steps=40, sigma_min=0.002, sigma_max=80.0, rho=7.0, churn=0.0,
        churn_levels=[0.0, 0.0], churn_scale=1.0, step_from_churned=True,
    )  # fmt: skip
    x = sampler.sample(denoise, distribution.noise(noise(4000, 8), 1))
    distance, nearest = (x.unsqueeze(-2) - points).norm(dim=-1).min(-1)
    assert distance.max() < 1e-3
    found = torch.bincount(nearest, minlength=3) / 4000
    torch.testing.assert_close(found.double(), masses, rtol=0, atol=0.025)


def test_flow_matching_weighs_like_the_error_of_the_velocity():
    distribution, normal = FlowMatching(path="linear", logit_mean=0.3, logit_std=0.8), noise(500)
    sigma = distribution.sigma(normal)
    t = torch.sigmoid(0.3 + 0.8 * normal)
    torch.testing.assert_close(sigma, (1 - t) / t)
    clean, n, estimate = noise(500), noise(500), noise(500)
    x_t = (1 - t) * n + t * clean
    velocity = (estimate - x_t) / (1 - t)
    torch.testing.assert_close(
        (velocity - (clean - n)).square(),
        distribution.weight(sigma, 0.5) * (estimate - clean).square(),
    )


def test_even_times_of_flow_matching_and_both_tails():
    distribution = FlowMatching(path="linear", logit_mean=0.0, logit_std=None)
    normal = torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0], dtype=torch.float64)
    t = 1 / (1 + distribution.sigma(normal))
    cdf = torch.tensor([0.5 * math.erfc(-z / 2**0.5) for z in normal.tolist()]).double()
    torch.testing.assert_close(t, cdf)
    assert 0 < distribution.sigma(normal)[-1] < 1e-18


def test_distributions_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="dimensions"):
        PFGMpp(dimensions=0.0, **EDM)
    with pytest.raises(ValueError, match="logit_std"):
        FlowMatching(path="linear", logit_mean=0.5, logit_std=None)
