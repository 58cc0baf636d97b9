"""Flow matching and interpolants between Gaussians, where velocity and score are closed forms."""

import math

import pytest
import torch

from reverie.world_models.diffusion.flow import (
    INTERPOLANTS,
    FlowSampler,
    advance,
    denoiser_of,
    interpolate,
)
from reverie.world_models.diffusion.paths import PATHS
from reverie.world_models.diffusion.samplers import DPMSolver2M, noise_levels

M0, S0, M1, S1 = -0.5, 0.8, 1.5, 0.4


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def between(name):
    """Velocity and score of x_t between N(M0, S0^2) and N(M1, S1^2), drawn independently."""

    def fields(x, t):
        a, b, c, da, db, dc = INTERPOLANTS[name](torch.tensor(t, dtype=torch.float64))
        variance = (a * S0) ** 2 + (b * S1) ** 2 + c**2
        growth = a * da * S0**2 + b * db * S1**2 + c * dc
        centred = x - a * M0 - b * M1
        return da * M0 + db * M1 + growth / variance * centred, -centred / variance

    return fields


@pytest.mark.parametrize("name", INTERPOLANTS)
def test_targets_regress_to_the_velocity_and_the_latent_to_the_score(name):
    base, clean, latent = M0 + S0 * noise(40_000), M1 + S1 * noise(40_000), noise(40_000)
    t = torch.tensor(0.3, dtype=torch.float64)
    x, target = interpolate(INTERPOLANTS[name], base, clean, latent, t)
    velocity, score = between(name)(x, 0.3)
    residual = target - velocity
    for test in (torch.ones_like(x), x):
        assert abs((residual * test).mean().item()) < 4 * (residual * test).std().item() / 200
    c = INTERPOLANTS[name](t)[2]
    if c > 0:
        residual = latent + c * score
        assert abs((residual * x).mean().item()) < 4 * (residual * x).std().item() / 200


@pytest.mark.parametrize("name", INTERPOLANTS)
def test_coefficients_are_derivatives_and_join_base_and_data(name):
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64).requires_grad_()
    values = INTERPOLANTS[name](t)
    for value, slope in zip(values[:3], values[3:], strict=True):
        if value.requires_grad:
            (found,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
            torch.testing.assert_close(found, slope)
    start, end = (INTERPOLANTS[name](torch.tensor(t))[:3] for t in (0.0, 1.0))
    assert [round(v.item(), 6) for v in (*start, *end)] == [1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(("name", "diffusion"), [("linear", 0.0), ("linear", 1.0), ("bridge", 0.5)])
def test_base_flows_to_data_with_and_without_noise(name, diffusion):
    x = M0 + S0 * noise(20_000)
    first, last, steps = 1e-3, 1 - 1e-3, 60
    for step in range(steps):
        t = first + (last - first) * step / steps
        x = advance(between(name), x, t, t + (last - first) / steps, diffusion)
    assert x.mean().item() == pytest.approx(M1, abs=0.015)
    assert x.std().item() == pytest.approx(S1, abs=0.015)


def test_the_order_of_the_flow(mixture):
    sampler = FlowSampler(path="linear", steps=1, sigma_max=80.0, diffusion=0.0)
    x = 80 * noise(100, 2)

    def ended(steps):
        # Even times from t = 1 / 81 to t = 0.98, below the jump to the data.
        first, last = 1 / 81, 0.98
        times = [first + (last - first) * k / steps for k in range(steps + 1)]
        return sampler.integrate(mixture, x, [(1 - t) / t for t in times])

    levels = noise_levels(800, 0.02 / 0.98, 80.0, None)[:-1]
    second = DPMSolver2M(noisy=False, steps=1, sigma_min=0.02, sigma_max=80.0, rho=None)
    exact = second.integrate(mixture, x, levels)
    coarse, fine = ((ended(n) - exact).square().mean().sqrt().item() for n in (80, 160))
    assert 1.8 < math.log2(coarse / fine) < 2.3


@pytest.mark.parametrize(
    ("path", "diffusion"),
    [("linear", 0.0), ("linear", 1.0), ("trigonometric", 0.0), ("bridge", 0.0), ("bridge", 0.5)],
)
def test_the_flow_sampler_reaches_the_distribution(gaussian, path, diffusion):
    target = gaussian(1.5, 0.4)
    sampler = FlowSampler(path=path, steps=100, sigma_max=80.0, diffusion=diffusion)
    x = sampler.sample(target, noise(20_000))
    assert target.calls == 199
    assert x.mean().item() == pytest.approx(1.5, abs=0.015)
    assert x.std().item() == pytest.approx(0.4, abs=0.015)
    assert sampler.stochastic == (diffusion > 0)


@pytest.mark.parametrize("name", PATHS)
def test_a_path_is_that_interpolant_with_its_two_noises_added_up(name):
    path = PATHS[name]
    for t in (0.1, 0.5, 0.9):
        a, b, c, da, db, dc = (v.item() for v in INTERPOLANTS[name](double(t)))
        noise_scale = math.hypot(a, c)
        expected = (noise_scale, b, (a * da + c * dc) / noise_scale, db)
        assert path.at(t) == pytest.approx(expected, rel=1e-6)
        assert path.time(path.level(t)) == pytest.approx(t, rel=1e-9)
        both = path.sigma(double(t), double(1 - t))
        assert both.item() == pytest.approx(path.level(t), rel=1e-9)


@pytest.mark.parametrize("name", PATHS)
def test_the_weight_of_a_path_is_that_of_its_velocity_or_noise(name):
    path, t = PATHS[name], 0.3
    a, b, da, db = path.at(t)
    clean, n, estimate = noise(500), noise(500), noise(500)
    predicted = (a * n + b * (clean - estimate)) / a  # the noise that the estimate stands for
    error = predicted - n
    if name != "bridge":
        error = (da * predicted + db * estimate) - (da * n + db * clean)
    weight = path.weight(double(a / b))
    torch.testing.assert_close(error.square(), weight * (estimate - clean).square())


def test_a_network_of_velocities_is_a_denoiser(gaussian):
    target, x, sigma = gaussian(1.5, 0.4), noise(10), torch.tensor(0.7, dtype=torch.float64)

    def velocity(on_line, t):
        total = (1 - t) ** 2 + t**2 * 0.4**2
        return 1.5 + (t * 0.4**2 - (1 - t)) / total * (on_line - t * 1.5)

    torch.testing.assert_close(denoiser_of(velocity)(x, sigma), target(x, sigma))


def test_a_flow_without_steps_or_with_negative_noise_is_refused():
    with pytest.raises(ValueError, match="steps"):
        FlowSampler(path="linear", steps=0, sigma_max=80.0, diffusion=0.0)
    with pytest.raises(ValueError, match=r"sampler\.path='curve' is unknown; use one of"):
        FlowSampler(path="curve", steps=3, sigma_max=80.0, diffusion=0.0)
    with pytest.raises(ValueError, match="diffusion"):
        FlowSampler(path="linear", steps=3, sigma_max=80.0, diffusion=-1.0)
