"""Verdicts about histories, and one arm of each kind end to end."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from reverie.benchmarks.claims import blind_pendulum
from reverie.benchmarks.claims.blind_pendulum import FULL, LEARNED, LENGTHS, Modelled
from reverie.benchmarks.claims.experiment import Fit, History
from reverie.benchmarks.claims.history import __main__ as claims
from reverie.benchmarks.claims.history import pendulum
from reverie.benchmarks.claims.history.pendulum import CLONES, QUICK
from reverie.benchmarks.claims.judging import Estimate
from reverie.envs.specs import Reference

TINY = replace(
    QUICK,
    episodes=20,
    model={**QUICK.model, "max_epochs": 1, "heldout_episodes": 2, "hidden": [8], "members": 2}
    | {"elites": 1, "weight_decay": [0.0, 0.0]},
    budget=replace(
        QUICK.budget, updates=4, evaluate=2, episodes=1, starts=5, every=2, horizon=1, batch=8
    ),
    clone=5,
)


def modelled(one_step, open_loop=0.5):
    values = [one_step * (1 + shift) for shift in (-0.01, 0.0, 0.0, 0.01)]
    ahead = [open_loop * (1 + shift) for shift in (-0.01, 0.0, 0.0, 0.01)]
    fit = Fit(None, {}, 1.0)
    return Modelled(fit, values, values, ahead, [1, 25], [[each, each] for each in ahead])


def models(four=0.01, learned=0.6, full=0.008):
    by_length = {f"k={length}": modelled(0.2 if length == 1 else four) for length in LENGTHS}
    return {**by_length, LEARNED: modelled(four, learned), FULL: modelled(full)}


def test_models_are_judged_by_their_intervals():
    holds = [claim.holds for claim in claims.model_claims(models())]
    assert holds == [True, True, None, True, None]
    worse = [claim.holds for claim in claims.model_claims(models(four=0.03, learned=0.4))]
    assert worse == [False, False, None, False, None]
    assert claims.model_claims(models(learned=0.505))[3].holds is None  # intervals touch


@pytest.mark.parametrize(
    ("three", "one", "expected"),
    [(80, 10, [True, True]), (61, 29, [False, False]), (40, 50, [False, False])],
)
def test_policies_are_judged_by_their_intervals(three, one, expected):
    scores = {"k=3": three, "k=1": one, FULL: 90.0}
    found = {arm: Estimate(mean, 5.0, [mean] * 4) for arm, mean in scores.items()}
    assert [claim.holds for claim in claims.policy_claims(found)] == expected


@pytest.mark.slow
def test_each_arm_runs():
    log = blind_pendulum.record(TINY)
    data = blind_pendulum.arms(log)
    assert [each.spec.obs_dim for each in data.values()] == [2, 5, 8, 11, 23, 11, 3]
    found = {arm: blind_pendulum.model(arm, data[arm], TINY) for arm in ("k=3", LEARNED)}
    assert found["k=3"].fit.model.gaussians.learned.tolist() == [0, 1, 8]
    assert len(found[LEARNED].fit.model.gaussians.learned) == 12
    assert np.isfinite(found["k=3"].one_step + found["k=3"].open_loop).all()
    run = pendulum.train("k=3", data["k=3"], found["k=3"].fit, TINY)
    arm, cloned = next(iter(pendulum.clones(log).items()))
    clone = pendulum.clone(arm, cloned, TINY)
    assert log.reference is not None
    for each in (run, clone):
        assert len(claims.score(each, log.reference).values) == 4
    assert isinstance(
        claims.plot(models(), {arm: run for arm in ("k=1", "k=3", FULL, *CLONES)}, log.reference),
        Figure,
    )


def test_scores_are_those_of_the_last_evaluations():
    series = {"return": (np.arange(4), np.array([[0.0, 1.0, 2.0, 3.0]] * 2))}
    run = History(series, SimpleNamespace(), 1.0)  # type: ignore[arg-type]
    assert claims.score(run, Reference(0.0, 4.0, "made up")).values == [50.0, 50.0]
