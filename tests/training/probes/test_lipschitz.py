"""Slopes and gaps where both are known in closed form."""

import pytest
import torch

from reverie.agents.base import Agent
from reverie.agents.networks import Critics
from reverie.datasets.build import build
from reverie.datasets.replay import Replay
from reverie.envs.specs import Spec
from reverie.envs.true_dynamics import Outcome, Simulator
from reverie.training.probes.lipschitz import LipschitzProbe
from reverie.world_models.base import Step, WorldModel

SEEDS, DIM, DISCOUNT = 2, 3, 0.9
SPEC = Spec(env_id=None, obs_dim=DIM, action_dim=1, action_low=(-1.0,), action_high=(1.0,))
SLOPES = torch.tensor([[1.0, -2.0, 2.0], [0.5, 0.0, 0.0]])  # w of each seed


class Believer(Agent):
    """Acts 1 everywhere; its values are any function of (obs, action), None for no critics."""

    discount = DISCOUNT

    def __init__(self, function):
        super().__init__(spec=SPEC, seeds=SEEDS)
        self.function = function

    def act(self, obs, deterministic=False):
        assert deterministic
        return torch.ones(*obs.shape[:-1], 1)

    def update(self, batch):
        raise NotImplementedError

    def values(self, obs, action):
        return None if self.function is None else self.function(obs, action)


def linear(obs, action):
    """Q_0 = w.s + 3 a, Q_1 one higher, so the first is the smallest."""
    value = (obs * SLOPES.unsqueeze(1)).sum(-1) + 3 * action.squeeze(-1)
    return torch.stack([value, value + 1], 1)


class Shift(WorldModel):
    """s' = s + shift and reward, both the same for every outcome unless `noise` tells."""

    def __init__(self, shift, reward=0.0, ends=False, noise=0.0):
        super().__init__()
        self.shift, self.reward, self.ends, self.noise = shift, reward, ends, noise

    def fit(self, data, progress=None):
        return {}

    def signature(self):
        return {}

    def step(self, obs, action, candidates=1, state=None):
        # Outcomes come in pairs around the mean.
        sign = torch.tensor([1.0, -1.0]).repeat(candidates // 2).view(-1, 1, 1, 1)
        next_obs = obs + torch.tensor(self.shift) + self.noise * sign
        reward = torch.full(next_obs.shape[:-1], self.reward)
        ended = torch.full(next_obs.shape[:-1], self.ends)
        return Step(next_obs, reward, ended, torch.zeros(obs.shape[:-1]))


class Still(Simulator):
    """s' = s for a reward of 2; cannot be restarted, and gives NaN, where s_0 is above zero."""

    def __init__(self, ends=False):
        super().__init__(SPEC)
        self.ends = ends

    def step(self, obs, action, state=None):
        lead = obs.shape[:-1]
        return Outcome(obs, torch.full(lead, 2.0), torch.full(lead, self.ends))

    def clipped(self, obs):
        return obs[..., 0] > 0


def dataset(rows=40):
    generator = torch.Generator().manual_seed(0)
    obs = torch.randn(rows, DIM, generator=generator) * torch.tensor([1.0, 5.0, 0.2])
    return build(
        name="points",
        spec=SPEC,
        obs=obs.numpy(),
        action=torch.rand(rows, 1, generator=generator).numpy(),
        reward=torch.zeros(rows).numpy(),
        next_obs=obs.numpy(),
        terminated=torch.zeros(rows, dtype=torch.bool).numpy(),
        truncated=(torch.arange(rows) == rows - 1).numpy(),
        reference=None,
        origin={},
        clip_actions=False,
    )


DATA = dataset()


def probe_for(function, model=None, truth=None, **changes):
    settings = {"states": 60, "radius": 0.1, "steps": 10, "samples": 4, **changes}
    return LipschitzProbe(
        agent=Believer(function),
        real=Replay.of(DATA.transitions),
        data=DATA,
        seeds=SEEDS,
        model=model,
        truth=truth,
        **settings,
    )


def test_the_slope_of_a_linear_critic_is_the_length_of_its_weights():
    probe = probe_for(linear)
    measured = probe.measure(None)
    expected = (SLOPES * DATA.transitions.obs.std(0)).norm(dim=-1)
    for name in ("gradient", "gradient_p95", "local", "local_p95"):
        torch.testing.assert_close(measured[f"slope/{name}"], expected, rtol=1e-4, atol=1e-4)
    assert not any(name.startswith("gap") for name in measured)
    # A critic three times as large is as smooth, relative to its own size.
    larger = probe_for(lambda obs, action: 3 * linear(obs, action)).measure(None)
    torch.testing.assert_close(
        larger["slope/relative"], measured["slope/relative"], rtol=1e-3, atol=0
    )
    torch.testing.assert_close(larger["slope/local"], 3 * expected, rtol=1e-4, atol=1e-4)


def test_the_steepest_secant_of_a_parabola_lies_at_the_far_end_of_the_ball():
    # Q = |s|^2 in units of the data: |(s + d)^2 - s^2| / |d| is 2 |s| + e at most.
    scale = DATA.transitions.obs.std(0)
    probe = probe_for(lambda obs, action: (obs / scale).square().sum(-1).unsqueeze(1), radius=0.5)
    measured = probe.measure(None)
    torch.testing.assert_close(
        measured["slope/local"], measured["slope/gradient"] + 0.5, rtol=1e-4, atol=1e-4
    )


def test_the_ascent_finds_what_the_gradient_does_not_show():
    # Flat on the inside of |s| < 1 up to a hair, steep outside.
    def function(obs, action):
        reach = (obs / DATA.transitions.obs.std(0)).norm(dim=-1)
        return (0.01 * reach + 4 * (reach - 1).clamp(min=0)).unsqueeze(1)

    measured = probe_for(function, radius=0.5).measure(None)
    assert (measured["slope/local"] > 1.05 * measured["slope/gradient"]).all()
    assert (measured["slope/local_p95"] <= 4.01 + 1e-3).all()


def test_slopes_of_networks_never_exceed_the_product_of_their_spectral_norms():
    torch.manual_seed(0)
    critics = Critics(
        seeds=SEEDS,
        critics=2,
        obs_dim=DIM,
        action_dim=1,
        hidden=[16, 16],
        activation="relu",
        normalise_obs=False,
    )
    measured = probe_for(critics).measure(None)
    norms = [torch.linalg.matrix_norm(layer.weight, 2) for layer in critics.body.layers]
    bound = torch.stack(norms).prod(0).amax(1) * DATA.transitions.obs.std(0).max()
    assert (measured["slope/local_p95"] <= bound).all() and (measured["slope/local"] > 0).all()


def test_the_gap_of_a_shifted_model_is_the_value_of_its_error():
    shift = [0.3, -0.1, 0.2]
    measured = probe_for(linear, Shift(shift, reward=1.5), Still()).measure(None)
    # 2 + discount V(s) against 1.5 + discount V(s + shift).
    value = DISCOUNT * (SLOPES * torch.tensor(shift)).sum(-1)
    for name in ("gap/bellman", "gap/bellman_p95"):
        torch.testing.assert_close(measured[name], (0.5 - value).abs(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(measured["gap/value"], value.abs(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(measured["gap/spread"], torch.zeros(SEEDS))


def test_the_learned_target_is_the_mean_of_the_outcomes_and_the_spread_theirs():
    measured = probe_for(linear, Shift([0.0] * DIM, reward=2.0, noise=0.4), Still()).measure(None)
    torch.testing.assert_close(measured["gap/bellman"], torch.zeros(SEEDS), rtol=0, atol=1e-5)
    expected = (0.4 / DATA.transitions.obs.std(0)).mean().expand(SEEDS)
    torch.testing.assert_close(measured["gap/spread"], expected)


def test_terminal_outcomes_do_not_bootstrap():
    ended = probe_for(linear, Shift([9.0] * DIM, reward=1.0, ends=True), Still(ends=True))
    torch.testing.assert_close(ended.measure(None)["gap/bellman"], torch.ones(SEEDS))


def test_states_that_cannot_be_restarted_do_not_count_for_the_gap():
    class Wrong(Still):
        def step(self, obs, action, state=None):
            outcome = super().step(obs, action)
            wrong = outcome.reward + 100 * self.clipped(obs)
            return Outcome(outcome.next_obs, wrong, outcome.terminated)

    measured = probe_for(linear, Shift([0.0] * DIM, reward=2.0), Wrong()).measure(None)
    torch.testing.assert_close(measured["gap/bellman_p95"], torch.zeros(SEEDS), rtol=0, atol=1e-5)


def test_what_is_unknown_is_left_out():
    assert probe_for(None, Shift([0.0] * DIM), Still()).measure(None) == {}
    measured = probe_for(linear, Shift([0.0] * DIM)).measure(None)
    assert {name for name in measured if name.startswith("gap")} == {"gap/spread"}


def test_the_pairs_are_the_same_whatever_the_stream_and_nothing_is_left_behind():
    probe = probe_for(linear)
    torch.manual_seed(1)
    first, after = probe.measure(None), torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    torch.manual_seed(2)
    second = probe.measure(None)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", ["states", "steps", "samples", "radius"])
def test_senseless_numbers_are_refused(name):
    with pytest.raises(ValueError, match=f"lipschitz.{name}=0 must be"):
        probe_for(linear, **{name: 0})
