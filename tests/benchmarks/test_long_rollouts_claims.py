"""Verdicts about long rollouts follow the numbers, and each arm is what its name says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from reverie import datasets
from reverie.agents.redq import REDQ
from reverie.benchmarks.claims.experiment import History
from reverie.benchmarks.claims.judging import estimate
from reverie.benchmarks.claims.long_rollouts import __main__ as claims
from reverie.benchmarks.claims.long_rollouts import pendulum, plane
from reverie.benchmarks.claims.plane import SCALE
from reverie.envs.specs import Reference
from reverie.world_models.filters import KeepAll
from reverie.world_models.truncation import UncertaintyQuantile


def numbers(value, spread=1.0):
    return estimate([value - spread, value, value, value + spread])


def scored(**changes):
    usual = {arm: 50.0 for arm in pendulum.ARMS}
    usual |= {pendulum.NEUBAY: 100.0, pendulum.MOPO: 104.0, pendulum.RAVL: 90.0}
    return {arm: numbers(value) for arm, value in (usual | changes).items()}


def holds(score, reached=120.0):
    steps = {arm: numbers(reached) for arm in pendulum.ARMS}
    return [claim.holds for claim in claims.pendulum_claims(score, steps)]


def test_verdicts_on_the_pendulum_follow_medians_and_intervals():
    assert holds(scored()) == [True] * 8 + [None]
    assert holds(scored(mopo=106.0))[0] is False and holds(scored(ravl=106.0))[1] is False
    assert holds(scored(), reached=60.0)[2] is False
    better = {arm: numbers(120.0) for arm in (pendulum.STRICT, pendulum.UNCUT)}
    assert holds(scored() | better)[3:5] == [False, False]
    touching = scored() | {pendulum.BARE: numbers(99.0)}
    assert holds(touching)[5] is None


def history(**series):
    updates = np.arange(1, 4)
    measured = {name: (updates, np.full((4, 3), value)) for name, value in series.items()}
    return History(measured, None, 1.0)


def test_verdicts_on_the_plane_and_the_picture():
    good = history(value=50.0, **{"return": 25.0})
    runs = dict.fromkeys(plane.ARMS, good)
    assert [c.holds for c in claims.plane_claims(runs)] == [True] * 4 + [None] * 2
    runs[plane.NEUBAY] = history(value=500.0, **{"return": -90.0})
    assert [c.holds for c in claims.plane_claims(runs)] == [True, True, False, False, None, None]
    arms = (*pendulum.ARMS, pendulum.MOPO, pendulum.RAVL)
    trained = {
        arm: history(**{"return": -200.0, "synthetic/reached_horizon": 90.0}) for arm in arms
    }
    both = {"pendulum": trained, "plane": runs}
    assert isinstance(claims.plot(both, Reference(-1000.0, -100.0, "x")), Figure)


@pytest.fixture(scope="module")
def fitted():
    data = datasets.load(pendulum.DATASET, episodes=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pendulum, "FIT", {"hidden": [8], "weight_decay": [0.0, 0.0], "max_epochs": 1})
        few = {"members": 3, "elites": 2}
        small = {name: {**each, **few} for name, each in pendulum.MODELS.items()}
        patch.setattr(pendulum, "MODELS", small)
        patch.setattr(pendulum, "QUICK_FIT", {})
        return data, {name: fit() for name, fit in pendulum.fits(data, quick=True).items()}


TINY = replace(
    pendulum.BUDGET, **{**pendulum.QUICK, "updates": 10, "evaluate": 5, "episodes": 1, "starts": 20}
)


def test_each_arm_lacks_its_part_and_nothing_else(fitted):
    data, models = fitted
    assert models[pendulum.NEUBAY].model.layer_norm and not models[pendulum.BARE].model.layer_norm
    for arm, settings in pendulum.ARMS.items():
        source = pendulum.long_rollouts(settings, data, models[settings.model], TINY)
        model, judge = source.frontier.model, source.frontier.filter
        assert source.horizon == (5 if arm == pendulum.SHORT else 200)
        assert model.rollout_state.keeps_member == (arm != pendulum.STEPWISE)
        assert model.layer_norm == (arm != pendulum.BARE)
        if arm == pendulum.UNCUT:
            assert isinstance(judge, KeepAll)
        else:
            assert isinstance(judge, UncertaintyQuantile)
            assert judge.quantile == (0.5 if arm == pendulum.STRICT else 1.0)


@pytest.mark.slow
def test_an_arm_trains_end_to_end(fitted):
    data, models = fitted
    run = pendulum.train(pendulum.NEUBAY, data, models[pendulum.NEUBAY], TINY)
    assert isinstance(run.agent, REDQ)
    assert np.isfinite(run.last("return")).all() and len(run.last("return")) == 4
    assert min(run.last("synthetic/reached_horizon")) >= 1


@pytest.mark.parametrize("arm", [pytest.param(plane.LONG, marks=pytest.mark.slow), plane.NEUBAY])
def test_the_plane_trains_on_long_rollouts_of_the_truth(arm):
    data = datasets.load("builtin/edge-of-reach", episodes=20, episode_steps=1, seed=0)
    budget = replace(plane.BUDGET, updates=4, evaluate=4, episodes=1, starts=10, batch=8)
    run = plane.train(arm, data, budget)
    assert isinstance(run.agent, plane.OfThePlane)
    assert isinstance(run.agent, REDQ) == (arm == plane.NEUBAY)
    obs = torch.randn(4, 3, 2) * 5
    action = run.agent.act(obs, deterministic=True)
    torch.testing.assert_close(action, run.agent.actor.act(obs / SCALE, True))
