"""Verdicts about SINDy-RL, and its arms end to end at a tiny size."""

from dataclasses import replace

import numpy as np
import pytest

from reverie.benchmarks.claims.experiment import History
from reverie.benchmarks.claims.sindy_rl import __main__ as sindy_rl
from reverie.benchmarks.claims.sindy_rl import controllers as sparse_controllers
from reverie.benchmarks.claims.sindy_rl import dyna
from reverie.benchmarks.claims.sindy_rl import dynamics as sparse_dynamics
from reverie.benchmarks.claims.sindy_rl import figures as sparse_figures
from reverie.benchmarks.claims.sindy_rl import size as sindy_size
from reverie.benchmarks.claims.sindy_rl.dyna import ARMS, ENSEMBLE, PENDULUM, SAC, SINDY

SMALL = replace(PENDULUM.budget, updates=40, batch=16, starts=50, every=20, evaluate=20, episodes=1)
TINY = replace(
    PENDULUM,
    budget=replace(SMALL, seeds=2),
    updates_per_step=10,
    refit_every=2,
    sac_updates=40,
    sac_evaluate=20,
)


def small_equations(monkeypatch):
    hyperparameters = {
        "members": 2,
        "fit_rows": 200,
        "thresholds": [1e-3],
        "library_ensemble": False,
    }
    for name, value in hyperparameters.items():
        monkeypatch.setitem(dyna.MODELS[SINDY][1], name, value)


def history(returns):
    """Evaluations after 100, 200, ... updates, a row of returns for each seed."""
    values = np.array(returns, float)
    updates = 100 * np.arange(1, values.shape[1] + 1)
    return History({"return": (updates, values)}, None, 1.0)  # type: ignore[arg-type]


def test_steps_to_the_goal_count_the_random_ones():
    task = replace(PENDULUM, start={"steps": 400}, goal=-200.0, updates_per_step=10)
    run = history([[-900, -150, -300], [-900, -900, -200], [-900, -900, -900]])
    assert dyna.steps_to_goal(task, SINDY, run) == [420, 430, None]
    assert dyna.steps_to_goal(task, SAC, run) == [600, 700, None]


@pytest.mark.parametrize(
    ("own", "other", "expected", "holds"),
    [
        ([400, 600], [6_000, 6_000], (12.0, False), True),
        ([400, 600], [4_000, 4_000], (8.0, False), False),
        ([400, 600], [4_000, None], (14.0, True), True),  # the other's end is 10,000
        ([2_000, 2_000], [None, None], (5.0, True), None),  # more steps might have shown it
        ([400, None], [6_000, 6_000], (None, False), False),
    ],
)
def test_seeds_that_never_arrive_bound_the_ratio(own, other, expected, holds):
    found = sindy_rl.times_fewer(own, other, 10_000)
    assert found == expected
    assert sindy_rl.verdict(*found, sindy_rl.FEWER) is holds
    assert sindy_rl.words([400, None], 10_000) == "400 > 10000"


def test_claims_about_steps_are_judged_in_a_full_run_only():
    runs = {
        SINDY: history([[-100.0]] * 2),
        ENSEMBLE: history([[-900, -100.0]] * 2),
        SAC: history([[-900.0] * 40] * 2),
    }
    task = replace(PENDULUM, start={"steps": 0}, updates_per_step=1)
    claims = sindy_rl.steps_claims("pendulum", task, runs, judged=True)
    assert [claim.holds for claim in claims] == [True, True]
    assert "> 40 times fewer" in claims[0].measured
    claims = sindy_rl.steps_claims("pendulum", task, runs, judged=False)
    assert [claim.holds for claim in claims] == [None, None]


def test_a_gate_that_is_silent_or_always_loud_fails_its_claim():
    quiet = {"median": 0.1, "alarm": False, "limit": 0.3, "steps": 50}
    loud = quiet | {"median": None, "alarm": True}
    gap = {"model_return": [100.0, None], "limit": 30.0, "best_recorded": 10.0, "alarm": True}
    linear = {"returns": [5.0, 6.0], "gap": gap}
    good = {"gap": gap | {"alarm": False}}

    def verdicts(gates, linear, good):
        return [claim.holds for claim in sindy_rl.gate_claims(gates, linear, good, judged=True)]

    assert verdicts({"default": quiet, "linear": loud}, linear, good) == [True] * 3
    assert verdicts({"default": loud, "linear": loud}, linear, linear) == [False, True, False]
    deserved = linear | {"returns": [90.0, 95.0]}  # the model was right after all
    assert verdicts({"default": quiet, "linear": quiet}, deserved, good) == [False, False, True]


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.slow
def test_every_arm_collects_and_is_scored(arm, tmp_path, monkeypatch):
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path))
    small_equations(monkeypatch)
    monkeypatch.setitem(dyna.MODELS[ENSEMBLE][1], "max_epochs", 1)
    run = dyna.run("pendulum", TINY, arm, dyna.load(TINY))
    updates, returns = run.series["return"]
    assert updates.tolist() == [20, 40] and np.isfinite(returns).all()
    assert (run.fitting > 0) is (arm != SAC)
    assert ("world_model/rows" in run.series) is (arm != SAC)
    assert set(sparse_figures.COLOURS) == set(ARMS)


def test_a_quick_run_judges_no_agent():
    gap = {"model_return": [1.0], "limit": 30.0, "best_recorded": 10.0, "alarm": False}
    quiet = {"median": 0.1, "alarm": False, "limit": 0.3, "steps": 50}
    gates = {"default": quiet, "linear": quiet | {"alarm": True}}
    run = {"returns": [-900.0, -800.0], "random_return": -1100.0, "gap": gap}
    recovered = {"errors": [0.002], "equations": [[]]}
    tests = sindy_rl.test_claims(recovered, run, judged=False)
    gated = sindy_rl.gate_claims(gates, run, run, judged=False)
    assert [claim.holds for claim in tests + gated] == [True, None, True, None, True]
    assert sparse_controllers.shorten(sparse_controllers.BUDGETS["pendulum"]).updates == 500


@pytest.mark.slow
def test_agents_in_equations_become_equations_and_are_judged(tmp_path, monkeypatch):
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path))
    monkeypatch.setattr(sparse_controllers, "ROWS", 400)
    monkeypatch.setattr(sparse_controllers, "EPISODES", 2)
    small_equations(monkeypatch)
    for name, value in {"rows": 200, "episodes": 1, "members": 2, "degrees": [1]}.items():
        monkeypatch.setitem(sparse_controllers.DISTIL, name, value)
    run = sparse_controllers.offline("pendulum", replace(SMALL, seeds=2), linear=True)
    assert len(run["returns"]) == len(run["gap"]["model_return"]) == 2
    students = sparse_controllers.distil(run["agent"], run["spec"], quick=True)
    assert len(students["student"]) == 2 and students["parameters"] > 4_000
    assert all(0 < terms <= 4 for terms in students["terms"])
    judged = sindy_rl.policy_claims("pendulum", students, judged=False)
    assert judged[0].holds is None and judged[1].holds is True


@pytest.mark.slow
def test_errors_have_a_place_for_every_seed(tmp_path, monkeypatch):
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path))
    monkeypatch.setattr(sparse_dynamics, "SEEDS", range(2))
    monkeypatch.setattr(sparse_dynamics, "TEST_STEPS", 300)
    small_equations(monkeypatch)
    monkeypatch.setitem(dyna.MODELS[ENSEMBLE][1], "max_epochs", 1)
    found = sparse_dynamics.errors("pendulum", (sindy_rl.LOW,))
    assert np.shape(found["random"][SINDY]["many"]) == (1, 2)
    claims = sindy_rl.error_claims("pendulum", (sindy_rl.LOW,), found)
    assert claims[0].holds is True  # an epoch teaches the ensemble nothing


def test_sizes_and_returns_of_students_are_decided_by_six_seeds():
    students = {"terms": [50] * 5 + [49], "parameters": 4674, "microseconds": {}}
    students |= {"teacher": [140.0] * 6, "student": [141.0, 130.0, 150.0, 139.0, 160.0, 145.0]}
    large, good = sindy_size.claims({sindy_size.SELECTED: students}, judged=True)
    assert large.holds is False and "94 times" in large.measured and large.source == "paper"
    assert good.holds is True and "[" in good.measured
    sparse = students | {"terms": [20] * 6, "student": [110.0, 150.0] * 3}
    small, poor = sindy_size.claims({sindy_size.SPARSE: sparse}, judged=True)
    assert small.holds is True and poor.holds is None  # 10 below and 30 above the margin
    assert poor.measured.endswith("]")  # without the number of seeds that another run would need
    few = {name: each[:2] if isinstance(each, list) else each for name, each in sparse.items()}
    lines = sindy_size.claims({sindy_size.SPARSE: few}, judged=False)
    assert [line.holds for line in lines] == [None, None]
    assert sindy_size.plot({sindy_size.SELECTED: students}).axes
