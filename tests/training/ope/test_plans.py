"""What is said before a policy that plans is asked about many single states."""

import io

import pytest
import torch
from rich.console import Console

from reverie.agents.planning import AT_ONCE, Planning
from reverie.envs.specs import Spec
from reverie.training.ope.plans import refuse_fitted_q, tell_duration

SPEC = Spec(env_id=None, obs_dim=1, action_dim=1, action_low=(-1.0,), action_high=(1.0,))


class Halving:
    """Plans to halve the state, with noise that all states of one call share."""

    discount = 0.9
    rows = ()

    def plan(self, obs, *, alike):
        assert alike
        self.rows = (*self.rows, obs.shape[1])
        return (-0.5 * obs + torch.randn(1)).unsqueeze(2)

    def restart(self):
        raise NotImplementedError


@pytest.fixture
def agent():
    made = Planning(spec=SPEC, seeds=2, updates=0)
    made.plan_by(Halving())
    return made


def test_many_states_are_planned_for_in_parts_to_the_same_actions(agent):
    obs = torch.linspace(-1, 1, 2 * (AT_ONCE + 3)).view(2, -1, 1)
    whole = agent.act(obs)
    assert agent.planner.rows == (AT_ONCE, 3)
    assert torch.equal(agent.act(obs[:, -2:]), whole[:, -2:])


def test_the_time_of_many_plans_is_told_with_what_lowers_it(agent):
    told = io.StringIO()
    obs = torch.zeros(9, 1)
    tell_duration(agent, obs, 1_000, "fewer starts", Console(file=told, width=40))
    assert "1,000 single states" in told.getvalue() and told.getvalue().count("\n") == 1
    assert told.getvalue().endswith("less with fewer starts\n")


def test_fitted_q_of_plans_is_refused_with_its_key():
    refuse_fitted_q(0, 256, "verdict.fqe.updates", "rollouts")
    with pytest.raises(ValueError, match=r"20 x 256 plans; set verdict\.fqe\.updates=0"):
        refuse_fitted_q(20, 256, "verdict.fqe.updates", "rollouts")
