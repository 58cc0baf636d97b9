"""DPM-Solver-v3: statistics in closed form, exactness on Gaussians, order, gain on few steps."""

import math

import pytest
import torch

from reverie.world_models.diffusion.dpm_v3 import DPMSolverV3, measure
from reverie.world_models.diffusion.samplers import DDIM, DPMSolver2M, noise_levels

LEVELS = dict(sigma_min=0.02, sigma_max=80.0, rho=None)
HYPERPARAMETERS = dict(
    order=3, corrector=False, measured=True, table=121, smoothing=1, steps=2, **LEVELS
)


def solver(**changes):
    return DPMSolverV3(**(HYPERPARAMETERS | changes))


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def error(sampler, target, x, exact, steps):
    ended = sampler.integrate(target, x, noise_levels(steps + 1, 0.02, 80.0, None)[:-1])
    return (ended - exact).square().mean().sqrt().item()


def solved(mixture):
    """Starts, and where the flow takes them."""
    x = 80 * noise(100, 2)
    fine = DPMSolver2M(noisy=False, steps=1, **LEVELS)
    return x, fine.integrate(mixture, x, noise_levels(1000, 0.02, 80.0, None)[:-1])


def test_statistics_of_a_gaussian(gaussian):
    """eps is linear in x, so l is its slope times sigma, and f is free of x."""
    target, times = gaussian(0.7, 0.4), solver(table=61).times
    found = measure(target, 0.7 + 0.4 * noise(3, 50, 1), 1, times, 1)
    sigma = torch.tensor(times).double().neg().exp().reshape(-1, 1, 1, 1)
    share = sigma**2 / (sigma**2 + 0.4**2)
    torch.testing.assert_close(found.l, share.expand(-1, 3, 1, 1))
    assert found.s.abs().max() == 0
    # f = -0.7 l', d l / d lambda = -2 l (1 - l): f is -0.7 l, and its change 1.4 l (1 - l).
    torch.testing.assert_close(
        found.b, (1.4 * share * (1 - share)).expand_as(found.b), rtol=0, atol=2e-2
    )


@pytest.mark.parametrize("mean", [0.0, 0.7])
def test_one_step_is_exact_on_a_gaussian(gaussian, mean):
    target, x = gaussian(mean, 0.4), 80 * noise(200, 1)
    sampler = solver(order=1, table=100)
    sampler.prepare(target, mean + 0.4 * noise(64, 1), 1)
    ended = sampler.integrate(target, x, [80.0, 0.02])
    exact = target.carried(x, 80.0, 0.02)
    torch.testing.assert_close(ended, exact, rtol=0, atol=1e-3)


def test_plain_statistics_at_order_one_are_ddim(mixture):
    x, levels = noise(20, 2), noise_levels(11, 0.02, 80.0, None)[:-1]
    sampler = solver(measured=False, order=1)
    sampler.prepare(mixture, x, 1)
    ddim = DDIM(eta=0.0, steps=1, **LEVELS).integrate(mixture, x, levels)
    torch.testing.assert_close(sampler.integrate(mixture, x, levels), ddim)


def test_the_order_of_plain_statistics(mixture):
    x, exact = solved(mixture)
    for order, least, most in [(2, 1.8, 2.3), (3, 2.4, 3.6)]:
        sampler = solver(measured=False, order=order, table=961)
        sampler.prepare(mixture, x, 1)
        coarse, fine = (error(sampler, mixture, x, exact, steps) for steps in (40, 80))
        assert least < math.log2(coarse / fine) < most, order


def test_measured_statistics_and_the_corrector_gain_on_few_steps(mixture):
    mixture.std = 0.6
    x, exact = solved(mixture)
    which = torch.randint(2, (2048,))
    clean = mixture.centres[which] + mixture.std * noise(2048, 2)
    errors = {"2m": error(DPMSolver2M(noisy=False, steps=1, **LEVELS), mixture, x, exact, 10)}
    for name, changes in {
        "plain": {"measured": False},
        "measured": {"table": 61},
        "corrected": {"table": 61, "corrector": True},
    }.items():
        sampler = solver(**changes)
        sampler.prepare(mixture, clean, 1)
        errors[name] = error(sampler, mixture, x, exact, 10)
    assert errors["measured"] < errors["plain"] / 2 and errors["measured"] < errors["2m"] / 1.5
    assert errors["corrected"] < errors["measured"] / 2


def test_calls_and_refusals(mixture):
    sampler = solver(steps=9, corrector=True, table=31)
    with pytest.raises(RuntimeError, match="prepare"):
        sampler.sample(mixture, noise(5, 2))
    sampler.prepare(mixture, noise(10, 2), 1)
    before = mixture.calls
    sampler.sample(mixture, noise(5, 2))
    assert mixture.calls - before == 9
    with pytest.raises(ValueError, match="corrector"):
        sampler.sample(mixture, noise(5, 2), lambda x, *_: x)
    with pytest.raises(ValueError, match="table"):
        solver(table=20, steps=30)
    with pytest.raises(ValueError, match="smoothing"):
        solver(smoothing=2)


def test_smoothing_averages_over_levels(gaussian):
    torch.manual_seed(1)
    rough = measure(gaussian(0.0, 1.0), noise(20, 1), 1, solver(table=21).times, 1)
    torch.manual_seed(1)
    smooth = measure(gaussian(0.0, 1.0), noise(20, 1), 1, solver(table=21).times, 5)
    torch.testing.assert_close(smooth.l[10], rough.l[8:13].mean(0))
    assert smooth.l.shape == rough.l.shape


def test_a_coordinate_whose_estimate_hardly_varies_leaves_the_others_alone():
    """A network's error about a channel that is 0 in all data is small and changes fast.

    This one turns once between two levels of the table, so it looks as if it grew by e^900 in a
    unit of lambda.
    """
    times = solver().times
    turns = 2 * math.pi / (times[1] - times[0])

    def denoise(x, sigma):
        wave = torch.sin(0.1 - turns * (torch.log(sigma) + times[0]))
        wrong = 0.1 * sigma * wave * torch.tanh(x[..., 1] / sigma)
        return torch.stack([x[..., 0] / (1 + sigma**2), wrong], -1)

    sampler, x = solver(steps=10), noise(500, 2)
    clean = torch.stack([noise(1000), torch.zeros(1000, dtype=torch.float64)], -1)
    sampler.prepare(denoise, clean, 1)
    made = sampler.sample(denoise, x)
    exact = 80 * x[:, 0] / (1 + 80.0**2) ** 0.5
    torch.testing.assert_close(made[:, 0], exact, atol=0.02, rtol=0)
    assert made[:, 1].abs().max() < 0.1
