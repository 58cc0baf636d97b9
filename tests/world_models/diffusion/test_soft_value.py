"""Soft-value guidance against tilted Gaussians, and warm starts of receding-horizon use."""

import pytest
import torch

from reverie.envs.specs import Spec
from reverie.world_models.diffusion.conditioning import holding
from reverie.world_models.diffusion.guidance import Channels
from reverie.world_models.diffusion.samplers import DDIM, DPMSolver2M
from reverie.world_models.diffusion.segments import Segments
from reverie.world_models.diffusion.soft_value import SoftValueGuidance, SoftValueSampler, choose
from reverie.world_models.diffusion.warm_start import WarmStart, moved_on

RANGE = dict(sigma_min=0.002, sigma_max=80.0, rho=7.0)


def sampler(**changes):
    hyperparameters = dict(steps=50, candidates=5, temperature=1.0, **RANGE)
    made = SoftValueSampler(**(hyperparameters | changes))
    made.prepare(lambda x, sigma: x, noise(2, 2), event_dims=1)
    return made


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def first(clean):
    return clean[..., 0]


def test_candidates_stay_in_proportion_to_their_weights():
    value = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64).expand(2, 20_000, 3)
    for temperature in (1.0, 0.5):
        chosen = choose(value, temperature)
        found = torch.stack([(chosen == m).double().mean() for m in range(3)])
        expected = torch.softmax(value[0, 0] / temperature, -1)
        torch.testing.assert_close(found, expected, rtol=0, atol=0.012)
    assert (choose(value, None) == 2).all()


def test_more_candidates_come_nearer_to_the_tilted_gaussian(gaussian):
    """N(0, 1) tilted by exp(x) is N(1, 1); the choice among few is biased towards N(0, 1)."""
    means = []
    for candidates in (1, 5, 40):
        guided = sampler(candidates=candidates)
        guided.attach(first)
        target = gaussian(0.0, 1.0)
        x = guided.sample(target, noise(2, 1000, 2))
        assert target.calls == 1 + 49  # each of 49 calls holds all candidates
        assert x.shape == (2, 1000, 2) and abs(x[..., 1].mean().item()) < 0.1
        means.append(x[..., 0].mean().item())
    assert abs(means[0]) < 0.1 and 0.5 < means[1] < 0.8 and means[1] < means[2] < 1.02


def test_one_candidate_is_ancestral_sampling(gaussian):
    target, start = gaussian(0.3, 1.0), noise(3, 4, 2)
    ancestral = DDIM(eta=1.0, steps=50, **RANGE)
    alone = sampler(candidates=1, temperature=None)
    alone.attach(first)
    torch.manual_seed(5)
    expected = ancestral.sample(target, start)
    torch.manual_seed(5)
    torch.testing.assert_close(alone.sample(target, start), expected)


def test_each_sample_keeps_candidates_of_its_own(mixture):
    """A value that prefers one mode for even rows alone leaves the odd rows where they were."""
    guided = sampler(candidates=8, temperature=0.05)
    sign = torch.tensor([5.0, 0.0]).double().repeat(100).repeat_interleave(8)
    guided.attach(lambda clean: sign * clean[..., 0])
    x = guided.sample(mixture, noise(1, 200, 2))
    right = (x[0, :, 0] > 0).double()
    assert right[::2].mean() > 0.95 and 0.3 < right[1::2].mean() < 0.7


def test_known_entries_stay_so_in_every_candidate(mixture):
    guided = sampler(candidates=4)
    guided.attach(first)
    known = noise(2, 3, 2)
    mask = torch.tensor([False, True])
    x = guided.sample(holding(mixture, known, mask), noise(2, 3, 2))
    torch.testing.assert_close(x[..., 1], known[..., 1])


def test_senseless_numbers_are_refused_and_a_shape_is_asked_for(gaussian):
    unprepared = SoftValueSampler(steps=5, candidates=5, temperature=1.0, **RANGE)
    unprepared.attach(first)
    with pytest.raises(RuntimeError, match="prepare it first"):
        unprepared.sample(gaussian(0.0, 1.0), noise(2, 2))
    with pytest.raises(ValueError, match="candidates"):
        sampler(candidates=0)
    with pytest.raises(ValueError, match="temperature"):
        sampler(temperature=0.0)
    with pytest.raises(ValueError, match=r"guidance\.value='guess' is unknown"):
        SoftValueGuidance(value="guess", discount=1.0)
    with pytest.raises(RuntimeError, match="attach it first"):
        SoftValueGuidance(value="reward", discount=1.0).guide(first, nobody, LAYOUT)


SPEC = Spec(env_id=None, obs_dim=1, action_dim=1, action_low=(-1.0,), action_high=(1.0,))


LAYOUT = Channels(slice(0, 1), slice(1, 2), torch.zeros(4), torch.ones(4))


def nobody(obs):
    raise AssertionError("a value asks no policy")


def judged(value, critics=None, discount=0.5):
    """The value of four segments of one seed, (obs, action, reward, done), in recorded spreads."""
    records = Segments(spec=SPEC, length=4, stride=1, absorbing=True)
    segments = torch.zeros(1, 4, 4, 4)
    segments[..., 2] = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1)  # rewards of each segment
    segments[0, 3, 1:, 3] = 1.0  # the last one ends with its second row
    segments[0, :, :, 0] = torch.tensor([0.0, 1.0, 2.0, 3.0])  # obs by row
    examples = torch.zeros(2, 4, 4)
    examples[0, :, 2], examples[0, :, 0] = 1.0, 1.0
    guidance = SoftValueGuidance(value=value, discount=discount)
    guidance.attach(records, examples, critics)
    guided = guidance.guide(lambda x, sigma: x, nobody, LAYOUT)
    return guidance, guided.value(segments)[0]


def test_the_value_of_a_segment_is_its_discounted_reward_up_to_its_end():
    guidance, value = judged("reward")
    whole = 1 + 0.5 + 0.25
    spread = whole / 2**0.5  # of the recorded, whole and 0
    expected = [whole, 2 * whole, 3 * whole, 4 * 1.5]
    torch.testing.assert_close(value, torch.tensor(expected) / spread)
    assert not guidance.needs_agent and not guidance.needs_critics and guidance.chooses


def test_or_the_mean_of_the_smallest_critic_over_its_transitions():
    def critics(obs, action):
        return torch.stack([obs[..., 0], 3 - obs[..., 0]], 1)  # [S, N, B]

    guidance, value = judged("critic", critics)
    # Rows 0, 1, 2 give min 0, 1, 1; of the ended segment rows 0, 1 exist. Recorded: 1 and 0.
    expected = torch.tensor([2 / 3, 2 / 3, 2 / 3, 1 / 2]) * 2**0.5
    torch.testing.assert_close(value, expected)
    assert guidance.needs_agent and guidance.needs_critics


def test_without_a_value_it_is_ancestral_sampling(gaussian):
    target, start = gaussian(0.3, 1.0), noise(3, 4, 2)
    ancestral, plain = DDIM(eta=1.0, steps=50, **RANGE), sampler(candidates=7)
    results = []
    for each in (ancestral, plain):
        torch.manual_seed(5)
        results.append(each.sample(target, start))
    assert torch.equal(*results)


def test_a_plan_moves_on():
    plan = torch.arange(8.0).reshape(1, 4, 2)
    assert moved_on(plan, 1)[0, :, 0].tolist() == [2, 4, 6, 6]
    assert moved_on(plan, 2)[0, :, 0].tolist() == [4, 6, 6, 6]


SOLVER = DPMSolver2M(noisy=False, steps=40, **RANGE)


@pytest.mark.parametrize(("sigma", "std"), [(0.05, 0.2), (0.3, 0.05), (1.0, 0.05)])
def test_a_warm_start_forgets_its_guess_with_the_level(gaussian, sigma, std):
    """From x at level sigma the flow keeps the share std / sqrt(std^2 + sigma^2) of an error."""
    guess = torch.tensor([[0.1]], dtype=torch.float64)
    warm = WarmStart(sigma=sigma, steps=40, noisy=False)
    x = warm.sample(SOLVER, gaussian(0.0, std), guess)
    expected = 0.1 * std / (std**2 + sigma**2) ** 0.5
    assert x.item() == pytest.approx(expected, rel=0.02)


def test_noise_keeps_the_distribution_and_the_top_level_is_sampling_anew(gaussian):
    target, stale = gaussian(0.0, 1.0), 0.2 + noise(20_000)
    for sigma, mean in [(1.0, 0.2 / 2**0.5), (80.0, 0.2 / 80)]:
        x = WarmStart(sigma=sigma, steps=40, noisy=True).sample(SOLVER, target, stale)
        assert x.mean().item() == pytest.approx(mean, abs=0.03)
        assert x.std().item() == pytest.approx(1.0, abs=0.03)
    narrow = WarmStart(sigma=1.0, steps=40, noisy=False).sample(SOLVER, target, stale)
    assert narrow.std().item() == pytest.approx(0.5**0.5, abs=0.03)


def test_a_warm_start_without_steps_is_refused():
    with pytest.raises(ValueError, match="warm_start"):
        WarmStart(sigma=1.0, steps=0, noisy=False)
