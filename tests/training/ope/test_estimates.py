"""Estimates of what policies are worth against closed forms and the true environment."""

from contextlib import closing, contextmanager

import numpy as np
import pytest
import torch

from reverie.envs.evaluation import Evaluator
from reverie.envs.make import spec_of
from reverie.training.ope.estimates import interval, model_rollouts, true_outcomes
from reverie.training.ope.recorded import value_steps
from reverie.world_models.base import Step
from reverie.world_models.true_dynamics import TrueDynamics

LIMIT = 30
DISCOUNT = 0.8


def gains(obs):
    """Two policies of the pendulum."""
    return torch.tanh(torch.tensor([1.0, -0.5]).view(2, 1, 1) * obs[..., 1:2])


@pytest.fixture
def pendulum():
    return spec_of("Pendulum-v1", env_kwargs={}, physics="as-is", max_episode_steps=LIMIT)


def test_rollouts_of_the_true_dynamics_are_monte_carlo_returns(pendulum):
    model = TrueDynamics(spec=pendulum, seeds=2, seed=0, threads=1, rows=10, tolerance=1.0)
    with closing(Evaluator(spec=pendulum, seeds=2, episodes=4)) as evaluator:
        episodes = evaluator.run(gains, 7, DISCOUNT)
    found = model_rollouts(
        model,
        gains,
        episodes.starts[0],
        seeds=2,
        rollouts=1,
        limit=LIMIT,
        discount=DISCOUNT,
        box=None,
    )
    torch.testing.assert_close(found.returns[:, 0], episodes.returns, atol=1e-3, rtol=1e-4)
    # 0.8^30 of the value lies beyond the time limit, which it does not know.
    truth = true_outcomes(pendulum, gains, seeds=2, episodes=4, seed=7, discount=DISCOUNT)
    torch.testing.assert_close(truth["returns"], episodes.returns)
    torch.testing.assert_close(found.values[:, 0], truth["values"], atol=1e-3, rtol=1e-4)
    assert found.steps.tolist() == [LIMIT, LIMIT] and not found.broken.any()


def test_values_go_on_beyond_a_time_limit_in_truth_and_in_the_model(pendulum):
    short = spec_of("Pendulum-v1", env_kwargs={}, physics="as-is", max_episode_steps=3)
    truth = true_outcomes(short, gains, seeds=2, episodes=2, seed=7, discount=DISCOUNT)
    longer = true_outcomes(pendulum, gains, seeds=2, episodes=2, seed=7, discount=DISCOUNT)
    assert (truth["returns"] > longer["returns"]).all()  # every reward is a cost
    torch.testing.assert_close(truth["values"], longer["values"], atol=0.1, rtol=5e-3)


class Counting:
    """Counts up by the action; one unit of reward a step; ends at 5, breaks down at -3."""

    def begin(self, obs):
        return None

    @contextmanager
    def lasting(self, dt):
        self.dt = 1.0 if dt is None else dt.unsqueeze(-1)
        yield

    def advance(self, obs, action, candidates, state):
        next_obs = obs + self.dt * action
        reward = torch.where(next_obs[..., 0] <= -3, torch.nan, 1.0)
        return Step(next_obs[None], reward[None], (next_obs[..., 0] >= 5)[None], reward)


def counted(starts, move, **changes):
    given = {"seeds": 1, "rollouts": 2, "limit": 10, "discount": 0.5, "box": None}
    return model_rollouts(
        Counting(),  # type: ignore[arg-type]
        lambda obs: torch.full_like(obs, move),
        torch.tensor(starts).view(-1, 1),
        **{**given, **changes},
    )


def test_terminations_end_values_and_limits_end_returns():
    found = counted([4.0, 2.0, -100.0], 1.0)
    assert found.returns[0].tolist() == [[1, 3, 0]] * 2  # the last start breaks down at once
    assert found.values[0, 0].tolist() == [1, 1.75, 0]
    assert found.broken.tolist() == [pytest.approx(1 / 3)]
    still = counted([0.0], 0.0, limit=4)
    assert still.returns.flatten().tolist() == [4, 4] and still.steps.tolist() == [4]
    horizon = value_steps(0.5)
    assert 0.5**horizon <= 1e-3 < 0.5 ** (horizon - 1)
    assert still.values[0, 0, 0] == pytest.approx(2 * (1 - 0.5**horizon))


def test_recorded_steps_last_as_long_as_they_did():
    lasted = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.5] * 4])
    found = counted([0.0, 0.0], 1.0, lengths=torch.tensor([4, 4]), lasted=lasted)
    assert found.returns[0].tolist() == [[3, 4]] * 2  # 1 + 2 + 3 is beyond the end at 5


def test_states_stay_within_the_box():
    box = torch.tensor([[-1.0], [1.0]])
    inside = counted([0.0], 1.0, box=box)
    assert inside.returns.flatten().tolist() == [10, 10]  # it never gets to 5
    assert inside.outside.tolist() == [pytest.approx(9 / 10)]


def test_intervals_cover_starts_and_do_not_shrink_with_replicas():
    rng = np.random.default_rng(0)
    starts = torch.from_numpy(rng.normal(size=(1, 400)))
    found = interval(starts)
    half = 1.96 * float(starts.std()) / 20
    assert float(found.high - found.low) == pytest.approx(2 * half, rel=0.1)
    assert float(found.estimate) == pytest.approx(float(starts.mean()))
    shifts = torch.from_numpy(rng.normal(size=(200, 1))).expand(-1, 5)
    found = interval(shifts)  # replicas that differ by as much as a fit does
    assert float(found.high - found.low) == pytest.approx(2 * 1.96, rel=0.15)
    same = interval(torch.ones(3, 4))
    assert (float(same.low), float(same.high)) == (1.0, 1.0)
