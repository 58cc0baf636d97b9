"""Samplers against distributions with exact denoisers: their order, what they draw, their calls."""

import math

import pytest
import torch

from reverie.world_models.diffusion.samplers import DDIM, DPMSolver2M, Euler, Heun, noise_levels

RANGE = dict(sigma_min=0.002, sigma_max=80.0, rho=7.0)
NO_CHURN = dict(churn=0.0, churn_levels=[0.05, 50.0], churn_scale=1.003, step_from_churned=True)
CHURN = NO_CHURN | dict(churn=80.0)
RULES = {
    "euler": lambda **n: Euler(**NO_CHURN, **n),
    "heun": lambda **n: Heun(**NO_CHURN, **n),
    "ddim": lambda **n: DDIM(eta=0.0, **n),
    "2m": lambda **n: DPMSolver2M(noisy=False, **n),
}


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize(
    ("rule", "rho", "least", "most"),
    [
        ("euler", 7.0, 0.9, 1.1),
        ("ddim", 7.0, 0.9, 1.1),
        ("heun", 7.0, 1.9, 2.2),
        ("2m", 7.0, 1.9, 2.2),
        ("2m", None, 1.9, 2.2),
    ],
)
def test_the_error_falls_with_the_order_of_the_rule(mixture, rule, rho, least, most):
    sampler = RULES[rule](steps=1, **RANGE)
    x = 80 * noise(100, 2)

    def ended(steps, of=sampler):
        return of.integrate(mixture, x, noise_levels(steps + 1, 0.02, 80.0, rho)[:-1])

    exact = ended(1000, RULES["2m"](steps=1, **RANGE))
    coarse, fine = ((ended(steps) - exact).square().mean().sqrt().item() for steps in (64, 128))
    assert least < math.log2(coarse / fine) < most


@pytest.mark.parametrize(("rule", "tolerance"), [("heun", 5e-4), ("2m", 5e-4)])
def test_a_gaussian_is_carried_along_its_exact_path(gaussian, rule, tolerance):
    target = gaussian(1.5, 0.4)
    sampler = RULES[rule](steps=256, **RANGE)
    x = noise(100)
    exact = target.carried(80 * x, 80.0, 0.0)
    torch.testing.assert_close(sampler.sample(target, x), exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("rule", "calls"), [("euler", 10), ("heun", 19), ("ddim", 10), ("2m", 10)])
def test_calls_of_the_denoiser(gaussian, rule, calls):
    target = gaussian(0.0, 1.0)
    RULES[rule](steps=10, **RANGE).sample(target, noise(3))
    assert target.calls == calls


@pytest.mark.parametrize("rule", RULES)
def test_plain_rules_draw_nothing_and_one_step_is_the_estimate(mixture, rule):
    start, state = noise(5, 2), torch.get_rng_state()
    RULES[rule](steps=6, **RANGE).sample(mixture, start)
    assert torch.equal(torch.get_rng_state(), state)
    sampler = RULES[rule](steps=1, **RANGE)
    torch.testing.assert_close(
        sampler.sample(mixture, start), mixture(80 * start, torch.tensor(80.0))
    )


def test_ddim_is_eulers_rule(mixture):
    start = noise(20, 2)
    ddim, euler = (
        RULES[rule](steps=16, **RANGE).sample(mixture, start) for rule in ("ddim", "euler")
    )
    torch.testing.assert_close(ddim, euler, rtol=0, atol=1e-12)


def test_the_first_noisy_step_is_ancestral_sampling(mixture):
    x = noise(20, 2)
    moved = []
    for sampler in (DDIM(eta=1.0, steps=1, **RANGE), DPMSolver2M(noisy=True, steps=1, **RANGE)):
        torch.manual_seed(3)
        moved.append(sampler.integrate(mixture, x, [2.0, 1.0]))
    torch.testing.assert_close(*moved)


@pytest.mark.parametrize(
    ("sampler", "std"),
    [
        (Heun(steps=256, **CHURN, **RANGE), 1.007),
        (Heun(steps=256, **(CHURN | {"churn_scale": 1.0}), **RANGE), 1.004),
        (Heun(steps=256, **(CHURN | {"step_from_churned": False}), **RANGE), 1.026),
        (Heun(steps=128, **CHURN, **RANGE), 1.013),
        (Heun(steps=128, **(CHURN | {"step_from_churned": False}), **RANGE), 1.061),
        (Heun(steps=18, **NO_CHURN, **RANGE), 1.045),
        (Euler(steps=256, **(CHURN | {"step_from_churned": False}), **RANGE), 0.06),
        (DDIM(eta=1.0, steps=20, **RANGE), 0.77),
        (DDIM(eta=1.0, steps=100, **RANGE), 0.95),
        (DPMSolver2M(noisy=True, steps=20, **RANGE), 1.100),
        (DPMSolver2M(noisy=True, steps=50, **RANGE), 1.013),
    ],
)
def test_the_spread_of_stochastic_samplers(gaussian, monkeypatch, sampler, std):
    """Steps on N(0, 1) are linear: x is its weights on the start and on each noise drawn."""
    units = iter(torch.eye(300, dtype=torch.float64))
    start = next(units)
    monkeypatch.setattr(torch, "randn_like", lambda x: next(units))
    weights = sampler.sample(gaussian(0.0, 1.0), start)
    assert weights.norm().item() == pytest.approx(std, abs=6e-3)


def test_resuming_at_the_top_is_sampling(mixture):
    sampler, start = RULES["2m"](steps=12, **RANGE), noise(5, 2)
    resumed = sampler.resume(mixture, 80 * start, 80.0, 12)
    assert torch.equal(resumed, sampler.sample(mixture, start))


def test_a_nudge_sees_every_step(mixture):
    seen = []

    def nudge(x, sigma, step, steps):
        seen.append((step, steps, sigma.item()))
        return x

    sampler = RULES["heun"](steps=3, **RANGE)
    sampler.sample(mixture, noise(5, 2), nudge)
    assert [(step, steps) for step, steps, _ in seen] == [(0, 3), (1, 3), (2, 3)]
    assert [sigma for *_, sigma in seen] == pytest.approx(noise_levels(3, 0.002, 80.0, 7.0)[:-1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "sampler.steps"),
        ({"sigma_min": 90.0}, "sampler.sigma_min"),
        ({"rho": 0.0}, "sampler.rho"),
    ],
)
def test_levels_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DDIM(**({"steps": 3, "eta": 0.0} | RANGE | changes))
