"""The parts that only the claims on the edge of reach and on MOREC have, and their judgements."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from reverie.benchmarks.claims import plane as shared
from reverie.benchmarks.claims.edge_of_reach import __main__ as edge_of_reach
from reverie.benchmarks.claims.edge_of_reach import plane
from reverie.benchmarks.claims.experiment import History
from reverie.benchmarks.claims.morec import __main__ as morec
from reverie.benchmarks.claims.morec import cold_storage
from reverie.benchmarks.claims.report import save_figure
from reverie.envs import edge_of_reach as task
from reverie.envs import refrigerator
from reverie.training.launch.options import build_option

TINY = replace(
    plane.BUDGET,
    seeds=2,
    updates=20,
    batch=16,
    starts=20,
    every=10,
    evaluate=10,
    episodes=2,
    probe=8,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REVERIE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(shared, "START_STATES", 50)
        return shared.start_states(0)


def make_agent(target, data, **changes):
    settings = {**plane.NETWORK, "critics": 2, "diversity": 0.0, "_target_": target, **changes}
    return build_option("agent", "ravl", changes=settings, spec=data.spec, seeds=2, updates=10)


def test_start_states_fill_the_box_and_nothing_else(data):
    obs = data.transitions.obs
    assert len(data) == 50
    assert (task.extent(obs) <= task.START_HALF_WIDTH).all() and task.extent(obs).max() > 1.0


def test_the_patch_replaces_edge_values_by_the_truth_and_no_others(data):
    torch.manual_seed(0)
    patched = make_agent("reverie.benchmarks.claims.edge_of_reach.plane.OraclePatched", data)
    plain = make_agent("reverie.benchmarks.claims.edge_of_reach.plane.PlaneAgent", data)
    plain.load_state_dict(patched.state_dict(), strict=False)
    position = torch.tensor([[0.0, 0.0], [11.5, 0.0], [-3.0, 10.9], [0.0, -11.9]])
    next_obs = position.expand(2, -1, -1) / shared.SCALE
    torch.manual_seed(1)
    found = patched.next_value(next_obs)
    torch.manual_seed(1)
    expected = plain.next_value(next_obs)
    truth = task.controller_value(next_obs * shared.SCALE, patched.discount)
    torch.testing.assert_close(found[:, [0, 2]], expected[:, [0, 2]])
    torch.testing.assert_close(found[:, [1, 3]], truth[:, [1, 3]])
    assert plane.patched_share(patched) == [0.5, 0.5]


def test_the_networks_of_the_plane_see_scaled_positions(data):
    agent = make_agent("reverie.benchmarks.claims.edge_of_reach.plane.PlaneAgent", data)
    obs = torch.randn(2, 3, 2) * 5
    action = agent.act(obs, deterministic=True)
    torch.testing.assert_close(action, agent.actor.act(obs / shared.SCALE, True))
    torch.testing.assert_close(agent.values(obs, action), agent.critics(obs / shared.SCALE, action))


def test_mopo_with_the_true_dynamics_is_the_base_procedure(data):
    base, mopo, ravl = (plane.run(arm, data, TINY) for arm in ("base", "mopo", "ravl"))
    for metric in ("value", "return", "critic_loss"):
        updates, values = base.series[metric]
        assert updates.tolist() == [10, 20] and values.shape == (2, 2)
        assert np.array_equal(values, mopo.series[metric][1])
    assert not np.array_equal(base.series["value"][1], ravl.series["value"][1])
    assert len(plane.region_auc(ravl.agent)) == 2


def history(agent, **series):
    return History(
        {name: (np.arange(1, 6), np.array([values] * 2)) for name, values in series.items()},
        agent,
        1.0,
    )


def test_verdicts_on_the_plane_follow_the_numbers(data):
    exploding = {
        "value": [20, 60, 150, 300, 900.0],
        "return": [-300.0] * 5,
        "critic_loss": [1.0] * 5,
    }
    sound = {"value": [5, 20, 50, 70, 80.0], "return": [25.0] * 5, "critic_loss": [1.0] * 5}
    patched = make_agent("reverie.benchmarks.claims.edge_of_reach.plane.OraclePatched", data)
    patched.next_value(torch.zeros(2, 4, 2))
    agent = make_agent("reverie.benchmarks.claims.edge_of_reach.plane.PlaneAgent", data)

    def verdicts(base, ravl):
        runs = {
            "base": history(agent, **base),
            "mopo": history(agent, **base),
            "base + oracle patch": history(patched, **sound),
            "ravl": history(agent, **ravl),
        }
        return {claim.text: claim.holds for claim in edge_of_reach.plane_claims(runs, False)}

    good = verdicts(exploding, sound)
    assert good["plane, base: values explode with the true dynamics"] is True
    assert good["plane, RAVL: the policy succeeds"] is True
    bad = verdicts(sound, exploding)
    assert bad["plane, base: values explode with the true dynamics"] is False
    assert bad["plane, base: the policy fails"] is False
    assert bad["plane, RAVL: values stay attainable"] is False
    assert bad["plane, RAVL: the policy succeeds"] is False

    # Two seeds far apart leave an interval in which anything is possible.
    def of_two_seeds(**series):
        run = history(agent, **series)
        run.series["value"][1][:, -1] = [1500.0, 300.0]
        return run

    runs = {
        "base": of_two_seeds(**exploding),
        "mopo": of_two_seeds(**exploding),
        "base + oracle patch": history(patched, **sound),
        "ravl": history(agent, **sound),
    }
    name = "plane, base: values explode with the true dynamics"
    for quick in (False, True):
        found = {claim.text: claim.holds for claim in edge_of_reach.plane_claims(runs, quick)}
        assert found[name] is quick


def test_verdicts_in_halfcheetah_compare_gap_and_return():
    same = {
        "reach/auc": [0.6] * 5,
        "reach/edge_share": [0.3] * 5,
        "start/return": [0.0] * 5,
        "value": [1.0] * 5,
        "critic_loss": [1.0] * 5,
    }

    def holds(base_gap, base_return, mopo_return, judged):
        base = {**same, "start/value": [base_gap] * 5, "return": [base_return] * 5}
        ravl = {**same, "start/value": [50.0] * 5, "return": [500.0] * 5}
        runs = {
            "base": history(None, **base),
            "mopo": history(None, **{**base, "return": [mopo_return] * 5}),
            "ravl": history(None, **ravl),
        }
        return [claim.holds for claim in edge_of_reach.cheetah_claims(runs, judged=judged)]

    # Gap, MOPO equal to the base procedure, return, spread.
    assert holds(600.0, -500.0, -500.0, True) == [True, True, True, True]
    assert holds(60.0, 900.0, 901.0, True) == [False, False, False, True]
    assert holds(60.0, 900.0, 900.0, False) == [None, True, None, None]


def test_verdicts_on_the_dynamics_reward_follow_the_numbers():
    def rolled(off, on):
        arm = {"alive": [[1.0, 0.5]] * 2, "length": [1.5, 1.5]}
        return {
            "steps": 2,
            "unfiltered": {"mean": [[0.0, off]] * 2, "median": [[0.0, off]] * 2, **arm},
            "filtered": {"mean": [[0.0, on], [0.0, on]], "median": [[0.0, on]] * 2, **arm},
        }

    def judged(good):
        off, on, rank, hit = (2.0, 1.0, -0.5, 0.3) if good else (1.0, None, 0.5, 0.1)
        one = {"pearson": [None, 0.1], "rank": [rank] * 2, "hit": [hit] * 2}
        one |= {"error_chosen": [on] * 2, "error_random": [off] * 2, "error_best": [0.0] * 2}
        policy = {"one_step": one, "rollouts": rolled(off, on), "under_policy": rolled(off, on)}
        fridge = {"policies": {point: policy for point in ("5", "-3", "12")}}
        task = {
            "diagnostics": policy,
            "returns": {"mopo": [1.0, 2.0], "morec_mopo": [2.0, 3.0] if good else [0.0, 9.0]},
            "transitions_per_second": {"unfiltered": 10.0, "filtered": 1.0},
        }
        claims = morec.fridge_claims(fridge, fridge, True) + morec.task_claims("hopper", task, True)
        return [claim.holds for claim in claims]

    fridge, task = [True, None] * 6 + [True, None], [True, True, True, None, True, None]
    assert judged(True) == [*fridge, *task]
    assert judged(False) == [None if holds is None else False for holds in [*fridge, *task]]


def test_errors_are_compared_in_pairs_and_by_the_interval_of_their_ratio():
    def compared(off, on):
        return morec.Comparison(morec.of(off), morec.of(on))

    # Errors differ tenfold between seeds, their ratio does not.
    sound = compared([1.0, 10.0, 3.0], [0.5, 5.0, 1.5])
    assert sound.interval == pytest.approx((0.5, 0.5, 0.5)) and sound.is_lower
    assert "ratio 0.5 (0.5 to 0.5)" in str(sound)
    # ln 0.25 and ln 1: mean ln 0.5, half-width 12.706 ln 4 / 2 (Student, two seeds).
    wide = compared([1.0, 1.0], [0.25, 1.0])
    assert wide.interval[2] == pytest.approx(0.5 * 2**12.706, rel=1e-3) and not wide.is_lower
    for broken in (compared([1.0, 2.0], [None, 1.0]), compared([None, 1.0], [None, 1.0])):
        assert not broken.is_lower


@pytest.mark.pictures
@pytest.mark.slow
def test_a_refrigerator_run_has_what_its_pictures_and_verdicts_need(tmp_path, monkeypatch):
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path))
    monkeypatch.setattr(cold_storage, "GAME", {"player_hidden": [8], "behaviour_updates": 5})
    monkeypatch.setattr(cold_storage, "GAINS", {"5": 0.05, "12": 0.1})
    monkeypatch.setattr(refrigerator, "EPISODE_STEPS", 30)
    tiny = cold_storage.Budget(
        seeds=2, iterations=30, starts=8, horizon=2, keep=30, thin=1, epochs=1, segments=2
    )
    run, plain = cold_storage.run(tiny).values()
    path = run["policies"]["12"]["paths"]
    assert len(path["truth"]) == 30 and path["truth"][-1] == pytest.approx(12.0, abs=0.02)
    assert [len(path[arm]) for arm in ("unfiltered", "filtered")] == [2, 2]
    seen = run["landscape"]
    middle = len(seen["true"]) // 2  # 4.5 degrees, where 1 / 3 of the power adds 0.025
    assert seen["true"][middle] == pytest.approx(0.025, abs=1e-4)
    assert 0.3132 < np.min(seen["score"]) <= np.max(seen["score"]) < 1.3134
    assert [claim.holds for claim in morec.fridge_claims(run, plain, False)][4:8] == [None] * 4
    save_figure(cold_storage.figure({"default": run}), tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 10_000
    kept = morec.without(morec.FRIDGE_PLOTTED, run)
    assert set(kept) == {"reward", "policies"}
    assert set(kept["policies"]["12"]["rollouts"]["filtered"]) == {"mean", "length"}
