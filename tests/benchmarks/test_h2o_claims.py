"""The parts of H2O's claims: a gap that is known, arms that see what they should, rates."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from reverie.benchmarks.claims.experiment import History
from reverie.benchmarks.claims.h2o import __main__ as h2o
from reverie.benchmarks.claims.h2o import dynamics_gap, hybrid, seeds, simulator_speed
from reverie.training.launch.options import load_option

TINY = {"seeds": 2, "updates": 4, "batch": 12, "evaluate": 2, "episodes": 1}


@pytest.fixture(scope="module")
def task():
    tiny = replace(hybrid.PENDULUM.schedule, **TINY)
    return replace(hybrid.PENDULUM, schedule=tiny, hidden=[8, 8])


@pytest.fixture(scope="module")
def data(task, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REVERIE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return hybrid.load(replace(task, options={**task.options, "episodes": 12}))


def test_the_data_are_limited(data):
    assert len(data.episode_starts) == 3 and len(data) == 600


@pytest.mark.parametrize("gravity", [1.0, 0.3])
def test_a_replayed_step_differs_by_gravity_alone(data, gravity):
    rows = data.transitions[:300]
    found = dynamics_gap.replay_rows(data, rows, gravity)
    assert not found.is_real.any() and torch.equal(found.obs, rows.obs)
    # Pendulum-v1: g = 10, l = 1, dt = 0.05; the speed is clipped to +-8 rad/s.
    speed = rows.next_obs[:, 2] + 1.5 * 10 * (gravity - 1) * rows.obs[:, 1] * 0.05
    free = (rows.next_obs[:, 2].abs() < 7) & (speed.abs() < 7)
    assert free.sum() > 200
    assert torch.allclose(found.next_obs[free, 2], speed[free], atol=1e-4)


def test_discriminators_see_a_gap_where_there_is_one(data, monkeypatch):
    for name, value in {"ROWS": 400, "SEEDS": 2, "BATCH": 128}.items():
        monkeypatch.setattr(dynamics_gap, name, value)
    monkeypatch.setitem(dynamics_gap.DISCRIMINATORS, "learning_rate", 1e-2)
    none, large = (dynamics_gap.run(data, gravity, updates=150) for gravity in (1.0, 0.3))
    assert np.mean(large.weight) < np.mean(none.weight)
    assert np.mean(large.ratio_order) > 0.6
    assert h2o.gap_claims([none, large, large])[0].holds is False  # it must fall at every step


@pytest.mark.parametrize("name", hybrid.ARMS)
@pytest.mark.slow
def test_every_arm_learns_and_is_scored_in_the_truth(task, data, name, monkeypatch):
    def briefly(group, option):  # as it is but for the many steps before the first update
        return load_option(group, option) | ({"warmup": 20} if group == "source" else {})

    monkeypatch.setattr(hybrid, "load_option", briefly)
    run = hybrid.run("pendulum", task, data, name)
    updates, returns = run.series["return"]
    assert updates.tolist() == [2, 4] and returns.shape == (2, 2)
    simulated = hybrid.ARMS[name].real_ratio < 1
    assert ("simulator/reward" in run.series) is simulated


def test_a_quick_task_has_the_judged_arms_only():
    quick = hybrid.task_for(hybrid.PENDULUM, True, updates=7)
    assert quick.arms == hybrid.JUDGED and quick.schedule.updates == 7
    assert hybrid.task_for(hybrid.PENDULUM, False, updates=7) is hybrid.PENDULUM


def test_the_stream_is_measured_for_every_shape_of_a_rollout_round():
    rows = simulator_speed.measure(["Pendulum-v1"], [(1, 1), (3, 2)], seconds=0.001)
    assert [(row["copies"], row["steps"]) for row in rows] == [(1, 1), (3, 2)]
    assert all(row["stream_per_second"] > 0 and row["bare_per_second"] > 0 for row in rows)


def history(*returns):
    """Of seeds whose last three evaluations are these in the mean; the first does not count."""
    by_seed = [[1e9, value - 1.0, value, value + 1.0] for value in returns]
    series = {"return": ([1, 2, 3, 4], np.asarray(by_seed))}
    return History(series, None, seconds=1.0, evaluating=0.0, fitting=0.0, kept=[])


@pytest.mark.parametrize(
    ("gap", "holds"),
    [([9, 8, 7, 9, 8, 7, 9, 8], True), ([-9, -8, -7, -9, -8, -7, -9, -8], False)],
)
def test_eight_seeds_decide_by_their_paired_differences(gap, holds):
    levels = 1000.0 * np.arange(8)  # far apart: the means' own intervals would overlap
    runs = {"h2o": history(*(levels + gap)), "sac_sim": history(*levels)}
    found = seeds.claim(runs, "sac_sim", judged=True)
    assert found.holds is holds and "0, 1000, 2000" in found.measured
    assert seeds.claim(runs, "sac_sim", judged=False).holds is None


def test_few_seeds_decide_nothing():
    runs = {"h2o": history(9.0, 8.0), "cql": history(0.0, 0.0)}
    found = seeds.claim(runs, "cql", judged=True)
    assert found.holds is None and found.measured == "too few seeds to say: 9, 8 against 0, 0"
