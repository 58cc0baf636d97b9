"""The table of all offline methods: who is in it, what is claimed of it, and how it goes on."""

import json
from dataclasses import replace

import pytest

from reverie.benchmarks import results_page
from reverie.benchmarks.claims import comparison
from reverie.benchmarks.claims.baselines import __main__ as baselines
from reverie.benchmarks.claims.baselines import training
from reverie.mistake import Mistake
from reverie.training.launch.options import options

TINY = replace(
    training.QUICK, updates=4, batch=16, evaluate=2, episodes=1, iterations=10, fqe_updates=2
)
RECORDED = comparison.Recorded(mean=100.0, best=300.0)


def record(*returns, alarms=(), stopped=None):
    """Of seeds whose last two evaluations lie 10 around these."""
    seconds = {"fitting": 40.0, "training": 90.0, "evaluation": 30.0}
    found = [[1e9, value - 10.0, value + 10.0] for value in returns]
    return {"returns": found, "alarms": list(alarms), "seconds": seconds, "stopped": stopped}


def test_every_preset_is_trained_or_left_out_with_a_reason():
    assert len(set(training.METHODS)) == len(training.METHODS)
    assert not set(training.METHODS) & set(training.LEFT_OUT)
    assert {*training.METHODS, *training.LEFT_OUT} == set(options("algorithm"))
    assert set(baselines.QUICK_METHODS) <= set(training.METHODS)
    assert set(baselines.QUICK_TASKS) <= set(training.TASKS)


@pytest.mark.parametrize("method", training.METHODS)
@pytest.mark.slow
def test_every_method_has_the_same_budget(method):
    run = training.build(method, training.TASKS["pendulum"], TINY)
    settings = run.settings
    assert (settings["updates"], settings["batch_size"], settings["seeds"]) == (4, 16, 2)
    agent = settings["agent"]
    assert agent["hidden"] == [64, 64] and not agent.get("actor_cosine")
    assert agent.get("tau", 0.01) == 0.01
    rates = {key: value for key, value in agent.items() if key.endswith("learning_rate")}
    assert rates and set(rates.values()) <= {0.0, training.RATE}
    if "holdout_limit" in (settings["world_model"] or {}):
        model = settings["world_model"]
        assert {key: model[key] for key in training.ENSEMBLE} == training.ENSEMBLE
        assert model["max_epochs"] == TINY.epochs
    assert agent.get("target_floor") is None  # this task has nothing but costs
    assert run.online is None and "simulator" not in run.sources


def test_a_finished_method_is_not_trained_again(tmp_path, monkeypatch, capsys):
    first = training.train_or_read("bc", "pendulum", TINY, tmp_path)
    assert first["updates"] == [2, 4] and first["stopped"] is None
    assert [len(own) for own in first["returns"]] == [2, 2] and len(first["outcome"]) == 2
    monkeypatch.setattr(comparison, "train", lambda *_: pytest.fail("trained again"))
    assert training.train_or_read("bc", "pendulum", TINY, tmp_path) == first
    assert capsys.readouterr().out.count("pendulum, bc: ") == 1
    # Another budget is another training.
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        training.train_or_read("bc", "pendulum", replace(TINY, updates=5), tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text().replace('"bc"', '"td3_bc"'))
    with pytest.raises(Mistake, match=f"{path.name} is damaged .*; delete it"):
        training.train_or_read("bc", "pendulum", TINY, tmp_path)


def test_claims_follow_the_numbers():
    good = {
        "bc": record(100.0, 102.0, 104.0),
        "bc_best": record(200.0, 202.0, 204.0),
        "td3_bc": record(150.0, 152.0, 154.0),
        "rebrac": record(148.0, 150.0, 152.0),
        "mbpo": record(90.0, 91.0, 92.0, alarms=["the policy earns ..."]),
        "mopo": record(190.0, 191.0, 192.0, alarms=["the policy earns ..."]),
    }

    def judged(records, judge=True):
        return baselines.judge_task("x", records, RECORDED, judge=judge)

    assert [claim.holds for claim in judged(good)] == [True, True, True, True, None]
    assert judged(good)[3].measured == "1 of 6 below, silent: none"
    assert judged(good)[4].measured == "1 of 5: mopo"
    assert {claim.holds for claim in judged(good, judge=False)} == {None}
    bad = {
        **good,
        "bc_best": record(50.0, 52.0, 54.0),
        "rebrac": record(100.0, 101.0, 102.0),
        "mopo": record(10.0, 11.0, 12.0),
    }
    assert [claim.holds for claim in judged(bad)] == [False, False, False, False, None]
    assert judged(bad)[3].measured == "3 of 6 below, silent: bc_best, mopo"
    # Seeds that differ widely decide nothing.
    wide = {**good, "bc_best": record(0.0, 500.0, 100.0), "rebrac": record(0.0, 300.0, 100.0)}
    assert [claim.holds for claim in judged(wide)][:2] == [None, None]
    stopped = {**good, "rebrac": record(stopped="not finite by update 500")}
    assert judged(stopped)[1].holds is None and "rebrac stopped" in judged(stopped)[1].measured
    # A part has the claims of which it trained both sides.
    assert len(judged({"bc": good["bc"]})) == 2


def test_the_table_is_sorted_and_stands_on_the_page(tmp_path):
    records = {
        "bc": record(99.0, 101.0),
        "sac": record(stopped="not finite by update 500"),
        "iql": record(200.0, 200.0, alarms=["one", "two"]),
    }
    shown = comparison.tabulate("hopper", records, RECORDED, notes=["without sindy_rl, whose ..."])
    assert [row[0] for row in shown["rows"]] == ["iql", "bc", "sac"]
    assert shown["rows"][0] == ["iql", "200 ± 0", "50 ± 0", "2", "2.0"]
    assert shown["rows"][1][2].startswith("0 ± ")
    assert shown["rows"][2][3] == "not finite by update 500"
    assert "without the 2.0 that fits" in shown["caption"]
    assert "; without sindy_rl, whose ..." in shown["caption"]
    found = {
        "date": "2026-01-01",
        "quick": False,
        "hardware": {"gpu": None, "cpu": "X", "threads": 2, "versions": {"torch": "2"}},
        "claims": [],
        "tables": [shown],
    }
    (tmp_path / "mine.json").write_text(json.dumps({**found, "partial": False}))
    (tmp_path / "mine-part.json").write_text(json.dumps({**found, "partial": True}))
    for name in ("mine", "mine-part", "mine-quick"):
        (tmp_path / f"{name}.png").touch()
    text = results_page.page(tmp_path)
    assert "| iql | 200 ± 0 | 50 ± 0 | 2 | 2.0 |" in text and shown["caption"] in text
    assert "mine-part" not in text and "mine-quick" not in text


def test_a_part_never_takes_the_place_of_the_whole():
    def chosen(*typed):
        known = baselines.COMPARISON
        return comparison.choose(known, comparison.options(known, None).parse_args(typed))

    name, methods, tasks, budget = chosen()
    assert (name, methods, tasks) == ("baselines", list(training.METHODS), list(training.TASKS))
    assert budget == training.Budget()
    name, methods, tasks, budget = chosen("--quick")
    assert (name, methods, budget) == ("baselines", list(baselines.QUICK_METHODS), training.QUICK)
    typed = ("--only", "bc", "iql", "--datasets", "hopper", "--seeds", "8")
    name, methods, tasks, budget = chosen(*typed)
    assert (name, methods, tasks) == ("baselines-part", ["bc", "iql"], ["hopper"])
    assert budget == replace(training.Budget(), seeds=8)
    with pytest.raises(Mistake, match="--seeds 1 leaves no interval"):
        chosen("--seeds", "1")
    with pytest.raises(Mistake, match="--datasets hopper leaves nothing to train"):
        chosen("--only", "sindy_rl")
