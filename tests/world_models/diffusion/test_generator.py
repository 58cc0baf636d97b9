"""The fit of a generator: what it recovers, how it resumes, its schedule and its average."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from reverie.datasets.build import build
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.world_models.diffusion.dpm_v3 import DPMSolverV3
from reverie.world_models.diffusion.edm import EDM
from reverie.world_models.diffusion.generator import DiffusionGenerator
from reverie.world_models.diffusion.guidance import Channels
from reverie.world_models.diffusion.noise_distributions import FlowMatching, LogNormal, PFGMpp
from reverie.world_models.diffusion.returns import ReturnCondition, ReturnGuidance
from reverie.world_models.diffusion.samplers import DPMSolver2M
from reverie.world_models.diffusion.segments import Segments
from reverie.world_models.diffusion.transitions import SingleTransitions
from reverie.world_models.diffusion.unet import ResidualMLP, TemporalUNet
from reverie.world_models.optimiser import WarmupCosine, clip_gradients

SPEC = Spec(env_id=None, obs_dim=1, action_dim=1, action_low=(-1.0,), action_high=(1.0,))
SAMPLER = DPMSolver2M(steps=16, sigma_min=0.01, sigma_max=20.0, rho=None, noisy=False)
HYPERPARAMETERS = dict(
    spec=SPEC,
    seeds=2,
    seed=0,
    records=partial(SingleTransitions),
    network=partial(ResidualMLP, width=32, blocks=2, embedding=16, frequencies=4),
    noise_distribution=partial(LogNormal, mean=-1.2, std=1.2),
    objective=partial(EDM, sigma_data=1.0),
    condition=None,
    steps=40,
    batch=8,
    learning_rate=3e-3,
    warmup_rate=1e-3,
    warmup_fraction=0.1,
    betas=[0.9, 0.99],
    gradient_norm=1.0,
    average_rate=0.05,
    average_every=3,
    heldout_fraction=0.05,
    heldout_records=64,
    measure_every=10,
    checkpoint_every=10,
    precision="float32",
)
SEGMENTS = dict(
    records=partial(Segments, length=4, stride=3, absorbing=True),
    network=partial(TemporalUNet, width=16, blocks=2, groups=4, norm_over_time=False),
)


def generator(**changes):
    return DiffusionGenerator(**(HYPERPARAMETERS | changes))


@pytest.fixture(scope="module")
def data():
    """s' = 0.8 s + 0.5 a + 0.3 n with a = tanh(0.5 n - 0.4 s), reward s + a: nearly Gaussian."""
    own = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 4000, generator=own)
    obs, action = torch.zeros(4001), torch.zeros(4000)
    for t in range(4000):
        action[t] = torch.tanh(0.5 * noise[0, t] - 0.4 * obs[t])
        obs[t + 1] = 0.8 * obs[t] + 0.5 * action[t] + 0.3 * noise[1, t]
    return build(
        name="gaussian",
        spec=SPEC,
        obs=obs[:-1, None].numpy(),
        action=action[:, None].numpy(),
        reward=(obs[:-1] + action).numpy(),
        terminated=torch.zeros(4000, dtype=torch.bool).numpy(),
        truncated=(torch.arange(4000) % 100 == 99).numpy(),
        next_obs=obs[1:, None].numpy(),
        reference=None,
        origin={},
        clip_actions=False,
    )


def drawn(model, count=2000):
    return model.records.decode(
        SAMPLER.sample(model.denoise, torch.randn(count, *model.records.event))
    )


def columns(rows):
    return torch.stack([rows.obs[..., 0], rows.action[..., 0], rows.reward, rows.next_obs[..., 0]])


@pytest.mark.parametrize("segments", [False, True])
def test_a_fitted_generator_gives_back_mean_and_covariance(data, segments):
    wider = partial(ResidualMLP, width=96, blocks=2, embedding=48, frequencies=4)
    parts = {"records": SEGMENTS["records"], "network": wider}
    model = generator(steps=400, batch=128, learning_rate=5e-3, **(parts if segments else {}))
    described = model.fit(data)
    assert described["holdout_loss"][-1] < 0.8 * described["holdout_loss"][0]
    rows, keep = drawn(model)
    assert keep.all() and not rows.terminated.any()
    made, truth = columns(rows).flatten(1), columns(data.transitions)
    scale = truth.std(1)
    assert ((made.mean(1) - truth.mean(1)).abs() < 0.2 * scale).all()
    error = (made.cov() - truth.cov()) / torch.outer(scale, scale)
    assert error.abs().max() < 0.2, error


PFGM = dict(noise_distribution=partial(PFGMpp, dimensions=8.0, mean=-1.2, std=1.2))


@pytest.mark.parametrize("changes", [{}, SEGMENTS | PFGM], ids=["rows", "segments"])
def test_a_killed_fit_goes_on_to_the_same_bits(data, changes):
    whole = generator(**changes)
    described = whole.fit(data)
    kept = []

    def killed(done, loss):
        if done == 30:
            raise KeyboardInterrupt

    first = generator(**changes)
    first.keep_partial_fits(lambda: None, lambda state: kept.append(copy.deepcopy(state)))
    with pytest.raises(KeyboardInterrupt):
        first.fit(data, killed)
    second, seen = generator(**changes), []
    second.keep_partial_fits(lambda: kept[-1], kept.append)
    assert second.fit(data, lambda done, loss: seen.append(done)) == described
    assert second.fit_first == kept[1]["done"] == 20 and seen == [20, 30, 40]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_a_fit_is_a_function_of_its_seed_and_leaves_the_stream_alone(data):
    state = torch.get_rng_state()
    first, second, other = generator(steps=3), generator(steps=3), generator(steps=3, seed=1)
    state = torch.get_rng_state()
    for model in (first, second, other):
        model.fit(data)
    assert torch.equal(state, torch.get_rng_state())
    weights = [model.network.output.weight for model in (first, second, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    # What it keeps, and nothing else, makes the denoiser.
    other.load_state_dict(first.state_dict())
    x = torch.randn(5, *first.records.event)
    assert torch.equal(other.denoise(x, torch.tensor(1.0)), first.denoise(x, torch.tensor(1.0)))
    assert first.signature() == second.signature() != generator(steps=3, seed=1).signature()
    assert first.signature() != generator(steps=3, **SEGMENTS).signature()


def test_the_average_moves_by_its_share_towards_the_weights(data):
    start, end, between = (
        generator(steps=1, warmup_fraction=0.0, average_every=1, average_rate=rate)
        for rate in (0.0, 1.0, 0.25)
    )
    for model in (start, end, between):
        model.fit(data)
    names = dict(start.network.named_parameters())
    assert not torch.equal(start.network.input.weight, end.network.input.weight)
    for name, value in names.items():
        expected = torch.lerp(value, end.network.get_parameter(name), 0.25)
        torch.testing.assert_close(between.network.get_parameter(name), expected)


def test_a_generator_samples_what_it_is_asked_for():
    """Rewards are what tells the records apart, so a return that is asked for is a reward."""
    own = torch.Generator().manual_seed(0)
    obs = 2 * torch.rand(2001, generator=own) - 1
    data = build(
        name="rewards", spec=SPEC, obs=obs[:-1, None].numpy(), action=np.zeros((2000, 1)),
        reward=obs[:-1].numpy(), terminated=np.zeros(2000, bool),
        truncated=np.arange(2000) % 100 == 99, next_obs=obs[1:, None].numpy(), reference=None,
        origin={}, clip_actions=False,
    )  # fmt: skip
    changes = dict(discount=1e-3, dropout=0.5)
    model = generator(
        steps=400,
        batch=128,
        learning_rate=5e-3,
        network=partial(ResidualMLP, width=64, blocks=2, embedding=32, frequencies=4),
        condition=partial(ReturnCondition, at_time_limit="extrapolate", **changes),
    )
    model.fit(data)
    records = model.records
    layout = Channels(records.obs, records.action, records.mean, records.std)
    low, span = model.condition.low.item(), model.condition.span.item()
    drawn_rewards = {}
    for target in (None, 0.3, 0.7):
        denoiser = model.denoise
        if target is not None:
            guidance = ReturnGuidance(target=target, strength=1.0, levels=[0.0, 100.0])
            denoiser = guidance.guide(model.denoise, lambda obs: (obs, None), layout).denoiser
        x = SAMPLER.sample(denoiser, torch.randn(1000, *records.event))
        drawn_rewards[target] = records.decode(x)[0].reward
    for target in (0.3, 0.7):
        reward = drawn_rewards[target]
        assert reward.mean().item() == pytest.approx(low + target * span, abs=0.1)
        assert reward.std() < 0.2
    assert drawn_rewards[None].std().item() == pytest.approx(3**-0.5, abs=0.1)
    assert model.signature()["condition"]["discount"] == 1e-3
    assert "condition" not in generator().signature()
    with pytest.raises(ValueError, match="set condition=returns"):
        generator().denoise(torch.randn(2, *records.event), torch.tensor(1.0), torch.ones(1))


def test_noise_levels_of_groups_of_records_are_those_of_each(data):
    model = generator(**SEGMENTS)
    x, sigma = torch.randn(2, 3, *model.records.event), torch.tensor([0.5, 2.0])
    together = model.denoise(x, sigma)
    assert together.shape == x.shape
    for seed in range(2):
        torch.testing.assert_close(together[seed], model.denoise(x[seed], sigma[seed]))
    # Longer segments than those that were fitted, and no noise at all.
    longer = torch.randn(2, 9, x.shape[-1])
    assert model.denoise(longer, torch.tensor(1.0)).shape == longer.shape
    torch.testing.assert_close(model.denoise(x, torch.tensor(0.0)), x)


def test_a_sampler_may_differentiate_a_network_in_half_precision():
    model = generator(precision="bfloat16", **SEGMENTS)
    solver = DPMSolverV3(
        steps=4, sigma_min=0.01, sigma_max=20.0, rho=None, order=3, corrector=True, measured=True,
        table=7, smoothing=1,
    )  # fmt: skip
    solver.prepare(partial(model.denoise, plain=True), torch.randn(16, *model.records.event), 2)
    assert solver.sample(model.denoise, torch.randn(2, 3, *model.records.event)).isfinite().all()


def test_the_noise_distribution_is_that_of_the_fit(data):
    """At rate 1 the average is the fitted network, so one update shows what the noise changes."""
    distributions = [HYPERPARAMETERS["noise_distribution"], PFGM["noise_distribution"]]
    distributions.append(partial(FlowMatching, path="linear", logit_mean=0.0, logit_std=1.0))
    fitted = []
    for distribution in distributions:
        model = generator(
            steps=2, noise_distribution=distribution, average_every=1, average_rate=1.0
        )
        fitted.append((model.fit(data)["holdout_loss"][0], model.signature()))
    losses, signatures = zip(*fitted, strict=True)
    assert len(set(losses)) == 3 and all(map(math.isfinite, losses))
    assert signatures[0] != signatures[1] != signatures[2]


def test_half_precision_is_of_the_network_alone():
    single, half = generator(), generator(precision="bfloat16")
    half.load_state_dict(single.state_dict())
    x, sigma = torch.randn(50, *single.records.event), torch.tensor(0.5)
    exact, rounded = single.denoise(x, sigma), half.denoise(x, sigma)
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.05
    torch.testing.assert_close(half.denoise(x, torch.tensor(0.0)), x)


def test_the_step_size_rises_and_falls():
    weight = nn.Parameter(torch.zeros(1))
    adam = WarmupCosine([weight], 1.0, start=0.2, warmup=10, steps=110)
    rates = []
    for done in (0, 5, 10, 60, 110, 200):
        adam.steps.fill_(done)
        rates.append(adam.current_learning_rate().item())
    assert rates == pytest.approx([0.2, 0.6, 1.0, 0.5, 0.0, 0.0], abs=1e-6)
    constant = WarmupCosine([weight], 1.0, start=0.2, warmup=0, steps=100)
    assert constant.current_learning_rate() == 1.0


def test_gradients_are_clipped_by_their_common_norm():
    gradients = [torch.tensor([3.0]), torch.tensor([[4.0]])]
    short = clip_gradients(gradients, 2.5)
    assert [x.item() for x in short] == pytest.approx([1.5, 2.0])
    assert [x.item() for x in clip_gradients(gradients, 6.0)] == [3.0, 4.0]
    assert [x.item() for x in clip_gradients([torch.zeros(2)], 1.0)[0]] == [0.0, 0.0]


def test_fits_that_cannot_work_say_why(data):
    with pytest.raises(ValueError, match=r"lower generator\.records\.length"):
        generator(
            **SEGMENTS | {"records": partial(Segments, length=101, stride=1, absorbing=True)}
        ).fit(data)
    with pytest.raises(Mistake, match="not finite by update 10"):
        generator(learning_rate=float("inf")).fit(data)
    other = Spec(env_id=None, obs_dim=2, action_dim=1, action_low=(-1.0,), action_high=(1.0,))
    with pytest.raises(ValueError, match="different tasks"):
        generator(spec=other).fit(data)
    for changes, message in (
        (dict(steps=0), "generator.steps must be at least 1"),
        (dict(warmup_fraction=1.0), "warmup_fraction must lie in"),
        (dict(precision="half"), "precision='half' is unknown"),
    ):
        with pytest.raises(ValueError, match=message):
            generator(**changes)
