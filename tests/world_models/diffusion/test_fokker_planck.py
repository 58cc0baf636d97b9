"""The Fokker-Planck equation of denoisers that are known, and as a part of the loss."""

import itertools
from functools import partial

import pytest
import torch

from reverie.mistake import Mistake
from reverie.world_models.diffusion.edm import EDM
from reverie.world_models.diffusion.fokker_planck import FokkerPlanckEDM, residual
from reverie.world_models.diffusion.noise_distributions import LogNormal, PFGMpp

NOISE = LogNormal(mean=-1.2, std=1.2)
SIGNS = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=2)), dtype=torch.float64)


def by_row(denoiser):
    return lambda x, sigma: denoiser(x, sigma.view(-1, 1))


def exact(denoiser, x, sigma):
    """The mean over all signs of two dimensions, which is the residual with the true divergence."""
    found = [residual(denoiser, x, sigma, signs.expand_as(x)) for signs in SIGNS]
    return torch.stack(found).mean(0)


@pytest.fixture
def rows():
    sigma = torch.tensor([0.05, 0.3, 1.0, 5.0], dtype=torch.float64)
    return torch.randn(4, 2, dtype=torch.float64) * (1 + sigma.view(-1, 1)), sigma


def test_gaussians_obey_the_equation_whatever_the_probe(gaussian, rows):
    x, sigma = rows
    target = gaussian(torch.tensor([0.5, -1.0]), torch.tensor([2.0, 0.3]))
    for signs in SIGNS:
        found = residual(by_row(target), x, sigma, signs.expand_as(x))
        torch.testing.assert_close(found, torch.zeros_like(x), atol=1e-12, rtol=0)


def test_mixtures_obey_it_on_average_over_probes(mixture, rows):
    found = exact(by_row(mixture), *rows)
    torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-10, rtol=0)


def test_the_residual_is_that_of_the_score(mixture, rows):
    """Against ds/dsigma - sigma grad(div s + |s|^2) by differences, of a denoiser that is wrong."""
    x, sigma = rows

    def wrong(x, level):
        return 1.1 * mixture(x, level.view(-1, 1)) + 0.1 * level.view(-1, 1)

    def score(x, level):
        return (wrong(x, level) - x) / level.square().view(-1, 1)

    def potential(x):
        sides = torch.eye(2, dtype=x.dtype) * 1e-4
        slopes = [
            ((score(x + side, sigma) - score(x - side, sigma)) / 2e-4)[:, dim]
            for dim, side in enumerate(sides)
        ]
        return sum(slopes) + score(x, sigma).square().sum(-1)

    small = 1e-4 * sigma
    in_sigma = (score(x, sigma + small) - score(x, sigma - small)) / (2 * small).view(-1, 1)
    in_x = torch.stack(
        [
            (potential(x + side) - potential(x - side)) / 2e-3
            for side in torch.eye(2, dtype=x.dtype) * 1e-3
        ],
        -1,
    )
    expected = sigma.pow(3).view(-1, 1) * (in_sigma - sigma.view(-1, 1) * in_x)
    torch.testing.assert_close(exact(wrong, x, sigma), expected, rtol=1e-3, atol=1e-4)


def network(x, label):
    return torch.tanh(x * SCALE + label.view(-1, 1))


SCALE = torch.tensor([0.7, 1.3], requires_grad=True)


def loss(objective, rows=8):
    torch.manual_seed(0)
    clean, noise, normal = torch.randn(rows, 2), torch.randn(rows, 2), torch.randn(rows)
    return objective(noise_distribution=NOISE).loss(network, clean, normal, noise)


def test_weight_zero_and_measurements_are_those_of_edm():
    plain = loss(partial(EDM, sigma_data=1.0))
    regularised = partial(FokkerPlanckEDM, sigma_data=1.0, share=0.25)
    assert torch.equal(loss(partial(regularised, weight=0.0)), plain)
    with torch.no_grad():
        assert torch.equal(loss(partial(regularised, weight=1.0)), plain)


def test_a_share_of_the_batch_bears_the_residual_of_all():
    plain = loss(partial(EDM, sigma_data=1.0))
    some = loss(partial(FokkerPlanckEDM, sigma_data=1.0, weight=0.5, share=0.25)) - plain
    every = loss(partial(FokkerPlanckEDM, sigma_data=1.0, weight=0.5, share=1.0)) - plain
    assert (some[2:] == 0).all() and (some[:2] > 0).all()
    assert (every > 0).all()


def test_descending_the_residual_makes_it_smaller():
    objective = FokkerPlanckEDM(noise_distribution=NOISE, sigma_data=1.0, weight=1.0, share=1.0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.SiLU(), torch.nn.Linear(16, 2))

    def call(x, label):
        return model(torch.cat([x, label.unsqueeze(-1)], -1))

    clean, noise, normal = torch.randn(64, 2), torch.randn(64, 2), torch.randn(64)

    def missing():
        torch.manual_seed(1)
        without = EDM.loss(objective, call, clean, normal, noise)
        return (objective.loss(call, clean, normal, noise) - without).mean()

    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    before = missing()
    for _ in range(20):
        optimiser.zero_grad()
        missing().backward()
        optimiser.step()
    assert missing() < 0.5 * before


def test_noise_that_is_not_gaussian_obeys_another_equation():
    noise = PFGMpp(dimensions=64.0, mean=-1.2, std=1.2)
    with pytest.raises(Mistake, match="noise_distribution=log_normal"):
        FokkerPlanckEDM(noise_distribution=noise, sigma_data=1.0, weight=0.1, share=1.0)
