"""What is said of analytic gradients follows from what was measured; the best regulator."""

import json

import pytest
import torch

from reverie.benchmarks.claims.second_ring import analytic_gradient as claims
from reverie.benchmarks.claims.second_ring.linear_regulator import LinearSystem, optimal_cost


def measured(**changes):
    constant = {str(count): [-200.0 - 10 * count] * 4 for count in range(6)} | {"1": [-150.0] * 4}
    culls = {
        "sindy": [-60.0, -61.0, -62.0, -63.0],
        "ensemble": [-70.0, -71.0, -72.0, -73.0],
        "rounded": [-60.0] * 4,
        "constant": constant,
        "best constant": "1",
        "scripted": [-55.0] * 4,
        "recorded": -241.0,
        "trace": {"no control": [[100.0, 30.0]] * 3, "learned": [[110.0, 32.0]] * 3},
    }
    return {
        "linear": {"shares": [1.001, 1.002, 1.003, 1.019], "seconds": 1.0},
        "pendulum, equations": {
            "analytic": [-150.0, -160.0, -170.0, -180.0],
            "SAC": [-150.0] * 4,
            "seconds": {"analytic": 4.0, "SAC": 8.0},
            "terms": [21] * 4,
        },
        "pendulum, ensemble": {
            "without": [-900.0, -910.0, -920.0, -930.0],
            "with": [-300.0, -310.0, -320.0, -330.0],
            "penalties": [1.0] * 4,
        },
        "culls": culls,
    } | changes


def verdicts(found, judged=True):
    return [claim.holds for claim in claims.judge(found, judged)]


def test_each_verdict_follows_its_number():
    held = verdicts(measured())
    assert held == [True, True, None, True, True, True, True, True, None]
    slack = measured(linear={"shares": [1.0, 1.0, 1.0, 1.021], "seconds": 1.0})
    assert verdicts(slack)[0] is False
    poor = measured()
    poor["pendulum, equations"]["analytic"] = [-196.0] * 4
    poor["pendulum, ensemble"]["with"] = [-1_500.0, -1_510.0, -1_520.0, -1_530.0]
    poor["culls"]["sindy"] = [-151.0, -152.0, -152.0, -153.0]
    assert verdicts(poor) == [True, False, None, False, True, False, True, True, None]
    unsure = measured()
    unsure["culls"]["sindy"] = [-60.0, -400.0, -60.0, -60.0]
    assert verdicts(unsure)[4:6] == [None, None]


def test_a_quick_run_judges_the_linear_system_alone():
    held = verdicts(measured(), judged=False)
    assert held[0] is True and set(held[1:]) == {None}


def test_details_become_json_and_the_picture_is_drawn(monkeypatch):
    monkeypatch.setattr(claims.experiment, "run_all", lambda jobs: measured())
    found = claims.measure(quick=True)
    assert json.dumps(found.details) and "trace" not in found.details["culls"]
    lines = found.figures["culls"].axes[0].lines
    assert [line.get_label() for line in lines][:2] == ["no control", "learned"]


def test_the_best_cost_fulfils_bellmans_equation():
    """cost(s) = min_a r(s, a) + discount cost(s'), a parabola in a, so one Newton step finds it."""
    system, discount = LinearSystem(), 0.9
    obs = torch.tensor([[0.3, -0.1, 0.2, 0.4]])

    def cost_of(action):
        after = obs @ system.of_obs.T + action @ system.of_action.T
        now = obs.square().sum() + action.square().sum() / 2
        return now + discount * optimal_cost(system, after, discount).sum()

    action = torch.zeros(1, 2)
    slope = torch.autograd.functional.jacobian(cost_of, action).flatten()
    curve = torch.autograd.functional.hessian(cost_of, action).view(2, 2)
    best = cost_of(action - torch.linalg.solve(curve, slope))
    assert float(best) == pytest.approx(float(optimal_cost(system, obs, discount)), rel=1e-4)
    assert float(best) < float(cost_of(action)) - 1e-3
