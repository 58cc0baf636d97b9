"""Guidance against products of Gaussians and conditional laws in closed form."""

import pytest
import torch

from tests.world_models.diffusion.test_samplers import CHURN, NO_CHURN, RANGE, built, noise, options
from world_models.diffusion.guidance import (
    Channels,
    ClassifierFree,
    NoGuidance,
    PaperGuidance,
    PolicyGuidance,
    in_model_units,
)
from world_models.diffusion.samplers import DDIM, DPMSolver2M, Heun

S, B, L, O, A = 2, 3, 4, 2, 1
F = O + A + 2
NUMBERS = dict(strength=1.0, behaviour_ratio=0.0, deterministic_std=1.0, sigma_data=1.0)
PAPER = dict(
    coefficient=0.3, cosine=0.3, delay=0, denoised=True, normalise=True, deterministic_std=1.0
)
SOLVER = DPMSolver2M(noisy=False, steps=32, **RANGE)


def channels(std=1.0, mean=0.0):
    full = torch.ones(F, dtype=torch.float64)
    return Channels(slice(0, O), slice(O, O + A), mean * full, std * full)


def pre_tanh(mean, std):
    """The policy that is N(mean, std^2) before tanh, whatever it sees."""

    def policy(obs):
        action = torch.tanh(torch.full((*obs.shape[:-1], A), mean, dtype=obs.dtype))
        return action, std * (1 - action.square())

    return policy


def linear(obs):
    """A policy without noise that looks at what it sees."""
    return 0.3 * torch.tanh(obs[..., :A] - obs[..., 1:]), None


@pytest.mark.parametrize("option", options("guidance"))
def test_every_option_builds_and_guides_windows(gaussian, option):
    guided = built("guidance", option)[1]().guide(gaussian(0.0, 1.0), linear, channels())
    x = SOLVER.sample(guided.denoiser, noise(S, B, L, F), guided.nudge)
    assert x.shape == (S, B, L, F) and x.isfinite().all()


@pytest.mark.parametrize(
    ("mean", "std", "strength"),
    [(2.0, 1.0, 1.0), (2.0, 0.3, 1.0), (1.0, 0.1, 1.0), (2.0, 1.0, 4.0)],
)
@pytest.mark.parametrize("steps", [32, 200])
def test_prior_times_policy_is_their_product_whatever_the_steps(
    gaussian, mean, std, strength, steps
):
    guidance = PolicyGuidance(**(NUMBERS | {"strength": strength}))
    guided = guidance.guide(gaussian(0.0, 1.0), pre_tanh(mean, std), channels())
    sampler = DPMSolver2M(noisy=False, steps=steps, **RANGE)
    # One start at zero and one at unit distance: the map is linear, so they give mean and std.
    start = torch.zeros(1, 2, 1, F, dtype=torch.float64)
    start[0, 1] = 1.0
    at_zero, at_one = sampler.sample(guided.denoiser, start)[0, :, 0, O]
    precision = 1 + strength / std**2
    assert at_zero.item() == pytest.approx(mean * strength / std**2 / precision, rel=0.02)
    spread = (at_one - at_zero).item()
    assert spread == pytest.approx(precision**-0.5, rel=0.03 if steps == 32 else 0.01)


def test_nothing_but_actions_moves_and_no_strength_moves_nothing(gaussian):
    target, start = gaussian(0.2, 1.0), noise(S, B, L, F)
    plain = SOLVER.sample(target, start)
    for strength in (0.0, 3.0):
        guidance = PolicyGuidance(**(NUMBERS | {"strength": strength}))
        guided = guidance.guide(target, linear, channels())
        x = SOLVER.sample(guided.denoiser, start)
        rest = torch.ones(F, dtype=torch.bool)
        rest[O : O + A] = False
        assert torch.equal(x[..., rest], plain[..., rest])
        assert torch.equal(x, plain) == (strength == 0)
    assert torch.equal(
        SOLVER.sample(NoGuidance().guide(target, linear, channels()).denoiser, start), plain
    )


def test_a_policy_sees_raw_observations_of_its_own_seed(gaussian):
    seen = []

    def policy(obs):
        seen.append(obs)
        return torch.zeros(*obs.shape[:-1], A, dtype=obs.dtype), None

    x = noise(S, B, L, F)
    guidance = PolicyGuidance(**NUMBERS)
    guided = guidance.guide(lambda x, sigma: x, policy, channels(std=2.0, mean=5.0))
    guided.denoiser(x, torch.tensor(1.0))
    assert torch.equal(seen[0], (2 * x[..., :O] + 5).reshape(S, B * L, O))


def test_units_of_a_policy():
    action_mean, action_std = torch.tensor([[0.5]]), torch.tensor([[0.1]])
    mean, std = in_model_units(action_mean, action_std, channels(std=2.0, mean=0.3))
    action = torch.tanh(2 * mean + 0.3)
    torch.testing.assert_close(action, action_mean.double())
    nearby = torch.tanh(2 * (mean + 1e-5 * std) + 0.3)
    torch.testing.assert_close((nearby - action) / 1e-5, action_std.double(), rtol=1e-4, atol=0)
    for extreme in (torch.ones(1, 1), -torch.ones(1, 1)):
        mean, std = in_model_units(extreme, torch.zeros(1, 1), channels())
        assert mean.isfinite().all() and (std > 0).all()


def test_the_behaviour_term_takes_back_its_share(gaussian):
    target, x, sigma = gaussian(0.0, 1.0), noise(S, B, L, F), torch.tensor(0.7)
    moves = {}
    for ratio in (0.0, 0.5, 1.0):
        guidance = PolicyGuidance(**(NUMBERS | {"behaviour_ratio": ratio}))
        guided = guidance.guide(target, pre_tanh(1.0, 0.5), channels(), pre_tanh(-0.2, 0.4))
        moves[ratio] = guided.denoiser(x, sigma) - target(x, sigma)
    torch.testing.assert_close(moves[0.5], (moves[0.0] + moves[1.0]) / 2)
    assert (moves[1.0][..., O] > moves[0.0][..., O]).all()
    same = PolicyGuidance(**(NUMBERS | {"behaviour_ratio": 1.0})).guide(
        target, pre_tanh(1.0, 0.5), channels(), pre_tanh(1.0, 0.5)
    )
    assert torch.equal(same.denoiser(x, sigma), target(x, sigma))


def test_a_behaviour_term_without_a_clone_is_refused(gaussian):
    guidance = PolicyGuidance(**(NUMBERS | {"behaviour_ratio": 0.5}))
    with pytest.raises(ValueError, match="behaviour_ratio"):
        guidance.guide(gaussian(0.0, 1.0), linear, channels())


def test_the_published_slope_is_the_gradient_of_the_log_density():
    layout, x = channels(std=0.7, mean=0.2), noise(S, B, L, F)
    guidance = PaperGuidance(**(PAPER | {"normalise": False, "denoised": False}))
    guided = guidance.guide(lambda x, sigma: x, linear, layout)
    moved = guided.nudge(x, torch.tensor(1.0), 2, 10)
    leaf = x.clone().requires_grad_()
    action = torch.tanh(leaf[..., O : O + A] * 0.7 + 0.2)
    mean = linear(x[..., :O] * 0.7 + 0.2)[0]
    torch.distributions.Normal(mean, 1.0).log_prob(action).sum().backward()
    weight = 0.3 * (1 - 2 / 10 + 0.3 * torch.sin(torch.tensor(torch.pi * 3 / 10)).item())
    torch.testing.assert_close((moved - x)[..., O : O + A], weight * leaf.grad[..., O : O + A])
    rest = [*range(O), *range(O + A, F)]
    assert torch.equal(moved[..., rest], x[..., rest])


def test_the_published_rule_pushes_by_its_weights(gaussian):
    """With a unit gradient the shift is a number of the sampler alone."""
    guidance = PaperGuidance(**PAPER)
    far = Channels(slice(0, O), slice(O, O + A), torch.zeros(F), torch.full((F,), 1e-3))
    for steps, churn, cosine, shift in [
        (256, CHURN, 0.3, 25.3),
        (128, CHURN, 0.3, 14.8),
        (256, CHURN, 0.0, 13.5),
        (256, NO_CHURN, 0.3, 56.6),
    ]:
        guidance = PaperGuidance(**(PAPER | {"cosine": cosine, "coefficient": 0.01}))
        # Actions near zero and one of each window, so the normalised gradient is one.
        guided = guidance.guide(
            gaussian(0.0, 1.0), lambda obs: (torch.full((*obs.shape[:-1], A), 0.9), None), far
        )
        sampler = Heun(steps=steps, **churn, **RANGE)
        start = noise(1, 1, 1, F).float()
        torch.manual_seed(1)
        moved = sampler.sample(guided.denoiser, start, guided.nudge)
        torch.manual_seed(1)
        plain = sampler.sample(guided.denoiser, start)
        assert (moved - plain)[..., O].item() == pytest.approx(0.01 * shift, rel=0.03)


def test_the_last_step_goes_unguided_and_a_zero_gradient_stays_zero():
    guidance = PaperGuidance(**(PAPER | {"delay": 1}))
    assert guidance.weight(9, 10) == 0 and guidance.weight(0, 10) == 0
    assert guidance.weight(1, 10) > 0
    at_mode = lambda obs: (torch.zeros(*obs.shape[:-1], A), None)  # noqa: E731
    x = torch.zeros(S, B, L, F)
    guided = guidance.guide(lambda x, sigma: x, at_mode, channels())
    assert torch.equal(guided.nudge(x, torch.tensor(1.0), 2, 10), x)


def test_classifier_free_guidance_of_gaussians(gaussian):
    """p(x | c) = N(c, 1) within p(x) = N(0, 2): at every level the denoised means extrapolate."""
    free = gaussian(0.0, 2**0.5)

    def conditional(x, sigma, condition):
        return free(x, sigma) if condition is None else gaussian(condition, 1.0)(x, sigma)

    condition, x, sigma = noise(S, B, 1), noise(S, B, 5), torch.tensor(0.8)
    given = conditional(x, sigma, condition)
    wide = [0.0, 100.0]
    for weight, expected in [
        (0.0, free(x, sigma)),
        (1.0, given),
        (3.0, 3 * given - 2 * free(x, sigma)),
    ]:
        guided = ClassifierFree(weight=weight, levels=wide).guide(conditional, condition)
        torch.testing.assert_close(guided(x, sigma), expected)
    outside = ClassifierFree(weight=3.0, levels=[1.0, 2.0]).guide(conditional, condition)
    torch.testing.assert_close(outside(x, sigma), given)
    each = torch.full((S, B), 0.8)
    each[0, 0] = 1.5
    assert not torch.allclose(
        outside(x, each)[0, 0], conditional(x, each.unsqueeze(-1), condition)[0, 0]
    )


def test_more_weight_gives_purer_and_narrower_classes(mixture):
    def conditional(x, sigma, condition):
        if condition is None:
            return mixture(x, sigma)
        total = mixture.std**2 + sigma**2
        return condition + mixture.std**2 / total * (x - condition)

    start, purity, spread = noise(400, 2), [], []
    towards = mixture.centres[1]
    for weight in (0.0, 1.0, 2.0, 4.0):
        guided = ClassifierFree(weight=weight, levels=[0.0, 100.0]).guide(conditional, towards)
        x = SOLVER.sample(guided, start)
        distance = (x.unsqueeze(-2) - mixture.centres).norm(dim=-1)
        purity.append((distance[:, 1] < distance[:, 0]).double().mean().item())
        spread.append(x.std(0).mean().item())
    assert purity[0] == pytest.approx(0.5, abs=0.06) and purity == sorted(purity)
    assert purity[-1] == 1 and spread == sorted(spread, reverse=True)


def test_guidance_works_in_stochastic_samplers(gaussian):
    guided = PolicyGuidance(**NUMBERS).guide(gaussian(0.0, 1.0), pre_tanh(2.0, 1.0), channels())
    sampler = DDIM(eta=1.0, steps=100, **RANGE)
    x = sampler.sample(guided.denoiser, noise(1, 4000, 1, F))
    assert x[..., O].mean().item() == pytest.approx(1.0, abs=0.06)
