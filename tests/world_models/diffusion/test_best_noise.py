"""The best of several start noises, on Gaussians whose flow is known."""

import math

import pytest
import torch

from reverie.mistake import Mistake
from reverie.world_models.diffusion.best_noise import BestNoiseSampler
from reverie.world_models.diffusion.samplers import DPMSolver2M

RANGE = dict(sigma_min=0.002, sigma_max=80.0, rho=7.0)
MEAN_OF_BEST = {2: 1 / math.sqrt(math.pi), 8: 1.42360}
"""Of the largest of n standard normals (Harter, 1961)."""


def sampler(**changes):
    settings = dict(steps=40, candidates=8, look_ahead=4, temperature=None, **RANGE)
    made = BestNoiseSampler(**(settings | changes))
    made.prepare(lambda x, sigma: x, noise(2, 2), event_dims=1)
    made.attach(lambda clean: clean[..., 0])
    return made


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("candidates", [2, 8])
@pytest.mark.parametrize("look_ahead", [1, 4, 40])
def test_the_best_of_gaussian_samples_has_the_mean_of_an_extreme(gaussian, candidates, look_ahead):
    """The flow of a Gaussian is a line, so any look ahead finds which noise ends highest."""
    target = gaussian(0.5, 2.0)
    x = sampler(candidates=candidates, look_ahead=look_ahead).sample(target, noise(2, 4000, 2))
    assert x.shape == (2, 4000, 2)
    assert x[..., 0].mean().item() == pytest.approx(0.5 + 2.0 * MEAN_OF_BEST[candidates], abs=0.1)
    assert x[..., 1].mean().item() == pytest.approx(0.5, abs=0.1)
    assert target.calls == look_ahead + (40 if look_ahead < 40 else 0)


def test_many_candidates_come_to_the_tilted_gaussian(gaussian):
    """N(0, 1) tilted by exp(x / 2) is N(1/2, 1)."""
    x = sampler(candidates=64, temperature=2.0).sample(gaussian(0.0, 1.0), noise(1, 4000, 2))
    assert x[..., 0].mean().item() == pytest.approx(0.5, abs=0.06)
    assert x[..., 0].std().item() == pytest.approx(1.0, abs=0.06)


def test_one_candidate_or_no_value_is_the_plain_sampler(mixture):
    start = noise(2, 5, 2)
    plain = DPMSolver2M(noisy=False, steps=40, **RANGE).sample(mixture, start)
    assert torch.equal(sampler(candidates=1).sample(mixture, start), plain)
    without = sampler()
    without.attach(None)
    assert torch.equal(without.sample(mixture, start), plain)


def test_each_row_keeps_a_candidate_of_its_own(mixture):
    """The sample is one of those that the candidates of its row lead to, and the best of them."""
    start, chooser = noise(2, 3, 2), sampler(look_ahead=40, candidates=3)
    torch.manual_seed(0)
    found = chooser.sample(mixture, start)
    torch.manual_seed(0)
    fresh = [torch.randn_like(start.unsqueeze(2)) for _ in range(2)]
    plain = DPMSolver2M(noisy=False, steps=40, **RANGE)
    each = torch.stack(
        [plain.sample(mixture, part.squeeze(2)) for part in (start.unsqueeze(2), *fresh)], 2
    )
    best = each[..., 0].argmax(-1, keepdim=True).unsqueeze(-1).expand(-1, -1, 1, 2)
    torch.testing.assert_close(found, each.gather(2, best).squeeze(2))


@pytest.mark.parametrize("name", ["candidates", "look_ahead"])
def test_counts_are_at_least_one(name):
    with pytest.raises(Mistake, match=f"sampler.{name}"):
        sampler(**{name: 0})
