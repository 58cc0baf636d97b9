"""A generator as a source: when it is guided, towards whom, and which rows exist."""

import sys

import pytest
import torch
from torch import nn

from reverie.envs.specs import Spec
from reverie.world_models.diffusion.dpm_v3 import DPMSolverV3
from reverie.world_models.diffusion.generator import DiffusionGenerator
from reverie.world_models.diffusion.guidance import PaperGuidance, PolicyGuidance
from reverie.world_models.diffusion.noise_distributions import LogNormal, PFGMpp
from reverie.world_models.diffusion.parts import require_parts_suit
from reverie.world_models.diffusion.returns import ReturnGuidance
from reverie.world_models.diffusion.samplers import DPMSolver2M
from reverie.world_models.diffusion.segments import Segments
from reverie.world_models.diffusion.soft_value import SoftValueGuidance, SoftValueSampler
from reverie.world_models.diffusion.source import GeneratedTransitions
from reverie.world_models.diffusion.transitions import SingleTransitions
from reverie.world_models.diffusion.warm_start import WarmStart

S, L = 2, 4
SPEC = Spec(env_id=None, obs_dim=1, action_dim=1, action_low=(-1.0,), action_high=(1.0,))
STARTS = torch.zeros(S, 0, 1)


class Prior(DiffusionGenerator):
    """A generator that needs no fit: every channel is standard normal."""

    def __init__(self, records):
        nn.Module.__init__(self)
        self.records, self.seed = records, 0
        self.noise_distribution = LogNormal(mean=-1.2, std=1.2)
        self.condition = None
        self.examples = torch.randn(3, *records.event)

    def denoise(self, x, sigma, plain=False):
        return x / (1 + sigma.square())


def guidance(**changes):
    hyperparameters = dict(strength=1.0, behaviour_ratio=0.0, deterministic_std=0.1, sigma_data=1.0)
    return PolicyGuidance(**(hyperparameters | changes))


def source(records=None, guided=True, sampler=None, **changes):
    records = records or Segments(spec=SPEC, length=L, stride=1, absorbing=True)
    hyperparameters = dict(
        records=50, chunk=20, every=10, retain=2, behaviour=None, warm_start=None
    )
    made = GeneratedTransitions(
        generator=Prior(records),
        seeds=S,
        sampler=sampler
        or DPMSolver2M(steps=12, sigma_min=0.01, sigma_max=20.0, rho=None, noisy=False),
        guidance=guidance() if guided is True else guided or None,
        **(hyperparameters | changes),
    )
    made.attach(policies, None)
    return made


def policies(obs):
    """One seed always acts 0.5, the other -0.5."""
    return torch.full_like(obs, 0.5) * torch.tensor([1.0, -1.0]).view(S, 1, 1), None


def rollout_round(made, seed=0):
    torch.manual_seed(seed)
    return made.generate(lambda obs: obs, STARTS)


def test_rows_of_a_segment_follow_each_other_and_stop_at_their_end():
    made = source(guided=False)
    rows, keep = rollout_round(made)
    assert rows.shape == keep.shape == (S, 50 * (L - 1)) and made.capacity == 2 * 150
    segments, kept = (rows.map(lambda x: x.unflatten(1, (50, -1))), keep.unflatten(1, (50, -1)))
    assert torch.equal(segments.obs[:, :, 1:], segments.next_obs[:, :, :-1])
    assert torch.equal(kept[..., 1:], kept[..., :-1] & ~segments.terminated[..., :-1])
    assert rows.terminated.any() and not keep.all() and kept[..., 0].all()
    assert not torch.equal(rows.obs[0], rows.obs[1]) and made.metrics() == {}


def test_the_first_rollout_round_is_the_datas_own_and_later_ones_are_guided_by_each_seeds_policy():
    guided, free = source(), source(guided=False)
    first, plain = rollout_round(guided)[0], rollout_round(free)[0]
    assert torch.equal(first.action, plain.action)
    far = guided.metrics()["policy_distance"]
    rows, _ = rollout_round(guided)
    means = rows.action.mean((1, 2))
    # The prior's arctanh is N(0, 1), the policy's N(0.55, 0.13^2): their product has mean 0.54.
    torch.testing.assert_close(means, torch.tensor([0.48, -0.48]), atol=0.03, rtol=0.0)
    assert (guided.metrics()["policy_distance"] < far / 3).all()
    # Nothing but actions moves here, for this denoiser has no channel depend on another.
    torch.testing.assert_close(rows.obs, plain.obs)
    assert torch.equal(rollout_round(free)[0].action, plain.action)


def test_a_poisoned_policy_leaves_the_other_seeds_rows_bitwise_unchanged():
    def poisoned(obs):
        mean, std = policies(obs)
        return mean * torch.tensor([1.0, float("nan")]).view(S, 1, 1), std

    clean, dirty = source(), source()
    dirty.attach(poisoned, None)
    rollout_round(clean), rollout_round(dirty)
    (a, keep), (b, dropped) = rollout_round(clean), rollout_round(dirty)
    assert torch.equal(a.action[0], b.action[0]) and torch.equal(keep[0], dropped[0])
    assert keep[1].any() and not dropped[1].any()  # rows that are not finite do not exist


def test_a_restored_source_knows_that_its_next_rollout_round_is_guided():
    made, again = source(), source()
    rollout_round(made)
    again.restore(made.contents())
    assert torch.equal(rollout_round(made, 1)[0].action, rollout_round(again, 1)[0].action)


def test_a_sampler_measures_the_denoiser_once_on_a_stream_of_its_own():
    class Curious(DPMSolver2M):
        calls = 0

        def prepare(self, denoiser, clean, event_dims):
            assert clean.shape == (3, L, 4) and event_dims == 2
            self.calls, self.saw = self.calls + 1, torch.randn(())

    sampler = Curious(steps=12, sigma_min=0.01, sigma_max=20.0, rho=None, noisy=False)
    made, plain = source(sampler=sampler), source()
    assert torch.equal(rollout_round(made)[0].obs, rollout_round(plain)[0].obs)
    rollout_round(made)
    assert sampler.calls == 1


def test_single_transitions_are_rows_by_themselves_drawn_once():
    made = source(SingleTransitions(spec=SPEC), guided=False, every=None)
    rows, keep = rollout_round(made)
    assert rows.shape == (S, 50) and keep.all() and made.every == sys.maxsize


def test_a_warm_start_begins_with_the_records_before_and_resumes_with_them():
    warm = WarmStart(sigma=0.02, steps=2, noisy=True)
    made, again = source(guided=False, warm_start=warm), source(guided=False, warm_start=warm)
    first, second = rollout_round(made, 0)[0], rollout_round(made, 1)[0]
    assert 0 < (second.obs - first.obs).abs().max() < 0.2
    assert not torch.equal(second.obs, rollout_round(source(guided=False), 1)[0].obs)
    again.restore(made.contents())
    assert torch.equal(rollout_round(made, 2)[0].obs, rollout_round(again, 2)[0].obs)
    assert source(guided=False).contents()["latest"] is None


def test_a_value_chooses_from_the_first_rollout_round_on_unless_it_is_the_agents():
    levels = dict(steps=12, sigma_min=0.01, sigma_max=20.0, rho=None)
    choosing = SoftValueSampler(candidates=8, temperature=0.2, **levels)
    rewards = {}
    for value in ("reward", "critic"):
        made = source(guided=SoftValueGuidance(value=value, discount=1.0), sampler=choosing)
        made.attach(policies, lambda obs, action: action.mT)
        rounds = [rollout_round(made, seed)[0] for seed in range(2)]
        assert made.metrics() == {}
        rewards[value] = [rows.reward.mean() for rows in rounds]
        actions = [rows.action.mean() for rows in rounds]
    assert min(rewards["reward"]) > 0.4 and abs(rewards["critic"][0]) < 0.2
    assert abs(actions[0]) < 0.15 and actions[1] > 0.3


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="guidance works on segments"):
        source(SingleTransitions(spec=SPEC))
    with pytest.raises(ValueError, match="behaviour_ratio needs a clone"):
        source(guided=guidance(behaviour_ratio=0.5))
    for name in ("chunk", "every", "retain"):
        with pytest.raises(ValueError, match=rf"source\.{name} must be at least 1, got 0"):
            source(**{name: 0})
    made = source()
    made.moments = None
    rollout_round(made)
    with pytest.raises(RuntimeError, match="attach its moments"):
        rollout_round(made)


def test_parts_that_do_not_suit_each_other_are_refused():
    levels = dict(steps=4, sigma_min=0.01, sigma_max=20.0, rho=None)
    statistics = dict(order=2, table=30, smoothing=1, **levels)
    heavy = PFGMpp(dimensions=8.0, mean=-1.2, std=1.2)
    with pytest.raises(ValueError, match=r"adds Gaussian noise on its way.*PFGMpp"):
        require_parts_suit(Segments, heavy, DPMSolver2M(noisy=True, **levels), None)
    measured = DPMSolverV3(corrector=True, measured=True, **statistics)
    with pytest.raises(ValueError, match=r"set sampler\.measured=false"):
        require_parts_suit(Segments, heavy, measured, None)
    nudge = PaperGuidance(
        coefficient=0.3, cosine=0.3, delay=0, denoised=True, normalise=True, deterministic_std=1.0
    )
    with pytest.raises(ValueError, match=r"sampler\.corrector would take back"):
        require_parts_suit(Segments, LogNormal(mean=-1.2, std=1.2), measured, nudge)
    plain = DPMSolverV3(corrector=False, measured=False, **statistics)
    require_parts_suit(Segments, heavy, plain, nudge)
    choosing = SoftValueSampler(candidates=2, temperature=None, **levels)
    by_value, distribution = (
        SoftValueGuidance(value="reward", discount=1.0),
        LogNormal(mean=-1.2, std=1.2),
    )
    with pytest.raises(ValueError, match="set guidance=soft_value"):
        require_parts_suit(Segments, distribution, choosing, None)
    with pytest.raises(ValueError, match="set sampler=soft_value"):
        require_parts_suit(Segments, distribution, plain, by_value)
    require_parts_suit(SingleTransitions, distribution, choosing, by_value)
    returns = ReturnGuidance(target=1.0, strength=1.0, levels=[0.0, 80.0])
    with pytest.raises(ValueError, match="set condition=returns"):
        require_parts_suit(SingleTransitions, distribution, plain, returns)
    require_parts_suit(SingleTransitions, distribution, plain, returns, conditioned=True)
    with pytest.raises(ValueError, match="does not ask for one"):
        require_parts_suit(Segments, distribution, plain, guidance(), cloned=True)
    require_parts_suit(Segments, distribution, plain, guidance(behaviour_ratio=0.5), cloned=True)
    warm = WarmStart(sigma=1.0, steps=2, noisy=True)
    with pytest.raises(ValueError, match="set warm_start=none"):
        require_parts_suit(Segments, heavy, plain, None, warm_start=warm)
    with pytest.raises(ValueError, match="lose their spread"):
        require_parts_suit(
            Segments,
            distribution,
            plain,
            None,
            warm_start=WarmStart(sigma=1.0, steps=2, noisy=False),
        )


def test_samples_start_from_noise_of_the_generators_distribution():
    class Kept(DPMSolver2M):
        def sample(self, denoiser, noise, nudge=None):
            self.noise = noise
            return super().sample(denoiser, noise, nudge)

    sampler = Kept(steps=2, sigma_min=0.01, sigma_max=20.0, rho=None, noisy=False)
    made = source(guided=False, sampler=sampler, chunk=500)
    made.records = 500
    made.generator.noise_distribution = PFGMpp(dimensions=3.0, mean=-1.2, std=1.2)
    rollout_round(made)
    # One radius a segment: |n|^2 / (|n|^2 + D) ~ Beta(N / 2, D / 2), here with N = 4 L.
    square = sampler.noise.square().sum((-2, -1))
    share = (square / (square + 3)).mean().item()
    assert share == pytest.approx(16 / (16 + 3), abs=0.02)
