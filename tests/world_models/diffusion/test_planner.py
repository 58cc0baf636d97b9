"""Plans: they begin where the agent is, are played in order, and the next begins with the last."""

import pytest
import torch
from torch import nn

from reverie.envs.specs import Spec
from reverie.world_models.diffusion.generator import DiffusionGenerator
from reverie.world_models.diffusion.guidance import PolicyGuidance
from reverie.world_models.diffusion.noise_distributions import LogNormal
from reverie.world_models.diffusion.planner import Planner
from reverie.world_models.diffusion.returns import ReturnGuidance
from reverie.world_models.diffusion.samplers import DPMSolver2M
from reverie.world_models.diffusion.segments import Segments
from reverie.world_models.diffusion.transitions import SingleTransitions
from reverie.world_models.diffusion.warm_start import WarmStart

S, P, L = 2, 3, 4
SPEC = Spec(env_id=None, obs_dim=1, action_dim=1, action_low=(-1.0,), action_high=(1.0,))
OBS = torch.linspace(-1.0, 1.0, S * P).view(S, P, 1)


class Mirrored(DiffusionGenerator):
    """Needs no fit: the action of a row, before tanh, is its observation, both N(0, 1)."""

    def __init__(self, records=None):
        nn.Module.__init__(self)
        self.condition = None
        self.records = records or Segments(spec=SPEC, length=L, stride=1, absorbing=True)
        self.noise_distribution = LogNormal(mean=-1.2, std=1.2)
        self.examples = torch.randn(3, *self.records.event)
        self.calls = 0

    def noise(self, *lead):
        return torch.randn(*lead, *self.records.event)

    def denoise(self, x, sigma, plain=False):
        self.calls += 1
        both = x[..., :2].sum(-1, keepdim=True) / (2 + sigma**2)
        return torch.cat([both, both, x[..., 2:] / (1 + sigma**2)], -1)


def planner(generator=None, **changes):
    parts = dict(
        sampler=DPMSolver2M(steps=24, sigma_min=0.002, sigma_max=20.0, rho=None, noisy=False),
        guidance=None,
        moments=nn.Identity(),
        critics=None,
        warm_start=WarmStart(sigma=0.5, steps=5, noisy=False),
        execute=1,
    )
    return Planner(generator=generator or Mirrored(), **(parts | changes))


def test_a_plan_begins_at_the_observation_in_raw_units():
    generator = Mirrored()
    generator.records.mean[0], generator.records.std[0] = 3.0, 2.0
    made = planner(generator)
    action = made(OBS)
    assert action.shape == (S, P, 1)
    torch.testing.assert_close(action, torch.tanh((OBS - 3) / 2), atol=0.03, rtol=0.0)
    rows, _ = generator.records.decode(made.plan)
    torch.testing.assert_close(rows.obs[:, :, 0], OBS)


def test_later_plans_begin_with_the_last_one_and_take_fewer_calls():
    warm, cold = Mirrored(), Mirrored()
    made, anew = planner(warm), planner(cold, warm_start=None)
    for step in range(3):
        obs = OBS + 0.1 * step
        torch.testing.assert_close(made(obs), torch.tanh(obs), atol=0.08, rtol=0.0)
        anew(obs)
    assert (warm.calls, cold.calls) == (24 + 2 * 5, 3 * 24)
    # What lies ahead is what was planned, up to what the level of noise makes of it.
    before = made.plan
    made(OBS)
    ahead = torch.corrcoef(torch.stack([made.plan[..., 1, 1], before[..., 2, 1]]).flatten(1))
    assert ahead[0, 1] > 0.99
    made.restart()(OBS)
    assert warm.calls == 24 + 3 * 5 + 24


def test_several_actions_of_a_plan_are_played_in_order():
    generator = Mirrored()
    made = planner(generator, execute=2)
    first, second = made(OBS), made(-OBS)
    rows, _ = generator.records.decode(made.plan)
    assert torch.equal(first, rows.action[:, :, 0]) and torch.equal(second, rows.action[:, :, 1])
    assert generator.calls == 24
    before = made.plan
    made(OBS)
    assert generator.calls == 24 + 5
    torch.testing.assert_close(made.plan[..., 1, 2], before[..., 3, 2], atol=0.5, rtol=0.5)


def test_the_seed_decides_plans():
    def played(seed):
        torch.manual_seed(seed)
        made = planner(execute=2)
        return torch.stack([made(OBS), made(OBS)])

    assert torch.equal(played(1), played(1)) and not torch.equal(played(1), played(2))


def test_guidance_draws_plans_towards_each_seeds_policy():
    def policies(obs):
        return torch.full_like(obs, 0.9) * torch.tensor([1.0, -1.0]).view(S, 1, 1), None

    guidance = PolicyGuidance(
        strength=100.0, behaviour_ratio=0.0, deterministic_std=0.1, sigma_data=1.0
    )
    action = planner(guidance=guidance, moments=policies)(0 * OBS)
    assert (action[0] > 0.1).all() and (action[1] < -0.1).all()


def test_what_cannot_plan_is_refused():
    for execute in (0, L):
        with pytest.raises(ValueError, match=f"execute={execute} must lie between 1 and the 3"):
            planner(execute=execute)
    with pytest.raises(ValueError, match="train with generator=trajectory"):
        planner(Mirrored(SingleTransitions(spec=SPEC)))
    with pytest.raises(ValueError, match="set condition=returns"):
        planner(guidance=ReturnGuidance(target=0.9, strength=1.2, levels=[0.0, 80.0]))
