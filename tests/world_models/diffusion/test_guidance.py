"""Guidance against products of Gaussians and conditional distributions in closed form."""

import pytest
import torch

from reverie.world_models.diffusion.conditioning import ClassifierFree, holding
from reverie.world_models.diffusion.guidance import (
    Channels,
    PaperGuidance,
    PolicyGuidance,
    in_model_units,
)
from reverie.world_models.diffusion.samplers import DDIM, DPMSolver2M, Heun, noise_levels

S, B, L, D, A = 2, 3, 4, 2, 1
F = D + A + 2
RANGE = dict(sigma_min=0.002, sigma_max=80.0, rho=7.0)
NO_CHURN = dict(churn=0.0, churn_levels=[0.05, 50.0], churn_scale=1.003, step_from_churned=True)
HYPERPARAMETERS = dict(strength=1.0, behaviour_ratio=0.0, deterministic_std=1.0, sigma_data=1.0)
PAPER = dict(
    coefficient=0.3, cosine=0.3, delay=0, denoised=True, normalise=True, deterministic_std=1.0
)
SOLVER = DPMSolver2M(noisy=False, steps=32, **RANGE)


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def channels(std=1.0, mean=0.0):
    full = torch.ones(F, dtype=torch.float64)
    return Channels(slice(0, D), slice(D, D + A), mean * full, std * full)


def pre_tanh(mean, std):
    """The policy that is N(mean, std^2) before tanh, whatever it sees."""

    def policy(obs):
        action = torch.tanh(torch.full((*obs.shape[:-1], A), mean, dtype=obs.dtype))
        return action, std * (1 - action.square())

    return policy


def linear(obs):
    """A policy without noise that looks at what it sees."""
    return 0.3 * torch.tanh(obs[..., :A] - obs[..., 1:]), None


@pytest.mark.parametrize(
    ("mean", "std", "strength"),
    [(2.0, 1.0, 1.0), (2.0, 0.3, 1.0), (1.0, 0.1, 1.0), (2.0, 1.0, 4.0)],
)
@pytest.mark.parametrize("steps", [32, 200])
def test_prior_times_policy_is_their_product_whatever_the_steps(
    gaussian, mean, std, strength, steps
):
    guidance = PolicyGuidance(**(HYPERPARAMETERS | {"strength": strength}))
    guided = guidance.guide(gaussian(0.0, 1.0), pre_tanh(mean, std), channels())
    sampler = DPMSolver2M(noisy=False, steps=steps, **RANGE)
    # One start at zero and one at unit distance: the map is linear, so they give mean and std.
    start = torch.zeros(1, 2, 1, F, dtype=torch.float64)
    start[0, 1] = 1.0
    at_zero, at_one = sampler.sample(guided.denoiser, start)[0, :, 0, D]
    precision = 1 + strength / std**2
    assert at_zero.item() == pytest.approx(mean * strength / std**2 / precision, rel=0.02)
    spread = (at_one - at_zero).item()
    assert spread == pytest.approx(precision**-0.5, rel=0.03 if steps == 32 else 0.01)


def test_nothing_but_actions_moves_and_no_strength_moves_nothing(gaussian):
    target, start = gaussian(0.2, 1.0), noise(S, B, L, F)
    plain = SOLVER.sample(target, start)
    for strength in (0.0, 3.0):
        guidance = PolicyGuidance(**(HYPERPARAMETERS | {"strength": strength}))
        guided = guidance.guide(target, linear, channels())
        x = SOLVER.sample(guided.denoiser, start)
        rest = torch.ones(F, dtype=torch.bool)
        rest[D : D + A] = False
        assert torch.equal(x[..., rest], plain[..., rest])
        assert torch.equal(x, plain) == (strength == 0)


def test_a_policy_sees_raw_observations_of_its_own_seed(gaussian):
    seen = []

    def policy(obs):
        seen.append(obs)
        return torch.zeros(*obs.shape[:-1], A, dtype=obs.dtype), None

    x = noise(S, B, L, F)
    guidance = PolicyGuidance(**HYPERPARAMETERS)
    guided = guidance.guide(lambda x, sigma: x, policy, channels(std=2.0, mean=5.0))
    guided.denoiser(x, torch.tensor(1.0))
    assert torch.equal(seen[0], (2 * x[..., :D] + 5).reshape(S, B * L, D))


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
        guidance = PolicyGuidance(**(HYPERPARAMETERS | {"behaviour_ratio": ratio}))
        guided = guidance.guide(target, pre_tanh(1.0, 0.5), channels(), pre_tanh(-0.2, 0.4))
        moves[ratio] = guided.denoiser(x, sigma) - target(x, sigma)
    torch.testing.assert_close(moves[0.5], (moves[0.0] + moves[1.0]) / 2)
    assert not torch.allclose(moves[0.0], moves[1.0])
    same = PolicyGuidance(**(HYPERPARAMETERS | {"behaviour_ratio": 1.0})).guide(
        target, pre_tanh(1.0, 0.5), channels(), pre_tanh(1.0, 0.5)
    )
    assert torch.equal(same.denoiser(x, sigma), target(x, sigma))


def test_hyperparameters_of_guidance_that_make_no_sense_are_refused():
    for cls, hyperparameters, changes in (
        (PolicyGuidance, HYPERPARAMETERS, {"strength": -1.0}),
        (PolicyGuidance, HYPERPARAMETERS, {"behaviour_ratio": 1.5}),
        (PolicyGuidance, HYPERPARAMETERS, {"deterministic_std": 0.0}),
        (PaperGuidance, PAPER, {"coefficient": -1.0}),
        (PaperGuidance, PAPER, {"deterministic_std": 0.0}),
    ):
        with pytest.raises(ValueError, match=next(iter(changes))):
            cls(**(hyperparameters | changes))


def test_a_behaviour_term_without_a_clone_is_refused(gaussian):
    guidance = PolicyGuidance(**(HYPERPARAMETERS | {"behaviour_ratio": 0.5}))
    with pytest.raises(ValueError, match="behaviour_ratio"):
        guidance.guide(gaussian(0.0, 1.0), linear, channels())


def test_the_published_slope_is_the_gradient_of_the_log_density():
    layout, x = channels(std=0.7, mean=0.2), noise(S, B, L, F)
    guidance = PaperGuidance(**(PAPER | {"normalise": False, "denoised": False}))
    guided = guidance.guide(lambda x, sigma: x, linear, layout)
    moved = guided.nudge(x, torch.tensor(1.0), 2, 10)
    leaf = x.clone().requires_grad_()
    action = torch.tanh(leaf[..., D : D + A] * 0.7 + 0.2)
    mean = linear(x[..., :D] * 0.7 + 0.2)[0]
    torch.distributions.Normal(mean, 1.0).log_prob(action).sum().backward()
    weight = 0.3 * (1 - 2 / 10 + 0.3 * torch.sin(torch.tensor(torch.pi * 3 / 10)).item())
    torch.testing.assert_close((moved - x)[..., D : D + A], weight * leaf.grad[..., D : D + A])
    rest = [*range(D), *range(D + A, F)]
    assert torch.equal(moved[..., rest], x[..., rest])


@pytest.mark.parametrize(("steps", "cosine"), [(64, 0.3), (128, 0.3), (128, 0.0)])
def test_the_published_rule_pushes_by_its_weights(gaussian, steps, cosine):
    """A unit gradient before step i ends as lambda_i shrunk along the flow from sigma_i."""
    guidance = PaperGuidance(**(PAPER | {"cosine": cosine}))
    # Tiny units keep actions near zero; one action a segment has a normalised gradient of one.
    guided = guidance.guide(
        gaussian(0.0, 1.0),
        lambda obs: (torch.full((*obs.shape[:-1], A), 0.9, dtype=obs.dtype), None),
        channels(std=1e-4),
    )
    sampler, start = Heun(steps=steps, **NO_CHURN, **RANGE), noise(1, 1, 1, F)
    moved = sampler.sample(guided.denoiser, start, guided.nudge)
    plain = sampler.sample(guided.denoiser, start)
    levels = noise_levels(steps, 0.002, 80.0, 7.0)[:-1]
    expected = sum(
        guidance.weight(i, steps) / (1 + sigma**2) ** 0.5 for i, sigma in enumerate(levels)
    )
    assert (moved - plain)[..., D].item() == pytest.approx(expected, rel=0.01)


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
    each = torch.full((S, B, 1), 0.8)
    each[0, 0] = 1.5
    inside = (outside(x, each) - conditional(x, each, condition)).abs().sum(-1) > 0
    assert inside[0, 0] and inside.sum() == 1


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
    guided = PolicyGuidance(**HYPERPARAMETERS).guide(
        gaussian(0.0, 1.0), pre_tanh(2.0, 1.0), channels()
    )
    sampler = DDIM(eta=1.0, steps=100, **RANGE)
    x = sampler.sample(guided.denoiser, noise(1, 4000, 1, F))
    assert x[..., D].mean().item() == pytest.approx(1.0, abs=0.06)


def test_known_entries_are_exact_at_the_end(mixture):
    known, mask = torch.tensor([0.4, 0.0], dtype=torch.float64), torch.tensor([True, False])
    x = SOLVER.sample(holding(mixture, known, mask), noise(50, 2))
    assert (x[:, 0] == 0.4).all() and x[:, 1].std() > 0.1
