"""As shipped at the laptop budget: what is trained and claimed, how the table grows in parts."""

import json
from dataclasses import replace

import pytest
from rich.console import Console

import reverie
from reverie.benchmarks.claims import comparison, growing, shipped
from reverie.benchmarks.claims.laptop_budget import __main__ as laptop
from reverie.benchmarks.claims.laptop_budget import tasks as claimed
from reverie.mistake import Mistake
from reverie.training.launch.options import options

TINY = replace(shipped.QUICK, updates=4, evaluate=2, episodes=1)
RECORDED = comparison.Recorded(mean=100.0, best=300.0)
FREE = ("td3_bc", "rebrac", "iql")


def record(*returns, alarms=(), stopped=None, digest="d"):
    """Of seeds whose last two evaluations lie 10 around these."""
    return {
        "returns": [[1e9, value - 10.0, value + 10.0] for value in returns],
        "alarms": list(alarms),
        "seconds": {"fitting": 40.0, "training": 90.0},
        "stopped": stopped,
        "digest": digest,
        "cpu": "X",
    }


def task(model, *, alarms=("one",), stopped=None):
    """Model-free methods around 150, and MOPO."""
    own = {method: record(149.0, 150.0, 151.0) for method in FREE}
    return own | {"mopo": record(*model, alarms=alarms, stopped=stopped)}


ABOVE = task([200.0, 201.0, 202.0])
TOUCHING = task([100.0, 200.0, 250.0])
BELOW = task([50.0, 51.0, 52.0])


def test_every_preset_with_a_world_model_is_there():
    free = {*shipped.MODEL_FREE, "sac", "sac_n", "cql", "cal_ql", "edac", "fql", "awac"}
    free |= {"td3_awr", "rvs", "bc_best"}
    simulated = {"h2o", "h2o_plus", "darc", "darc_plus", "sac_sim"}
    online = {"mbpo_online", "sac_online", "sindy_rl_online"}
    generators = {"pgd", "pgd_iql", "synther"}
    left = set(options("algorithm")) - free - simulated - online - generators - {"mpc"}
    assert set(shipped.MODEL_BASED) == left
    assert sorted(shipped.METHODS) == sorted([*shipped.MODEL_BASED, *shipped.MODEL_FREE])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rebrac", "leq"])
def test_nothing_is_changed_but_how_it_is_measured(method):
    ours = shipped.build(method, claimed.USUAL["pendulum"], shipped.Budget()).settings
    as_shipped = reverie.make(
        f"algorithm={method}",
        "dataset=builtin/pendulum-mixed",
        "budget=laptop",
        "~tuned",
        console=Console(quiet=True),
    ).settings
    changed = {key for key in as_shipped if ours[key] != as_shipped[key]}
    assert changed <= {"seeds", "evaluate", "threads"}
    assert (ours["seeds"], ours["updates"], ours["evaluate"]["every"]) == (4, 10_000, 5_000)


def test_parts_of_tasks_hold_the_rows_that_their_names_say():
    whole = claimed.TASKS["pendulum"].load()
    few, best = (claimed.TASKS[f"pendulum-{part}"].load() for part in ("few", "best"))
    assert len(few) == pytest.approx(0.1 * len(whole), abs=200)
    assert len(best) == pytest.approx(0.3 * len(whole), abs=200)
    assert best.returns.min() >= whole.returns.quantile(0.69)
    assert few.name == "pendulum-few" and best.name == "pendulum-best"
    assert shipped.build("bc", claimed.TASKS["pendulum-few"], TINY).data.fingerprint == (
        few.fingerprint
    )
    assert not set(claimed.TASKS) - set(claimed.USUAL) & set(laptop.COMPARISON.usual)


@pytest.mark.parametrize(
    ("records", "answer", "told"),
    [
        (ABOVE, "yes", "mopo 201 ± 2.5 above; model-free rebrac 150 ± 2.5"),
        (TOUCHING, "undecided", "mopo 183 ± 190 above, intervals overlap"),
        (BELOW, "no", "mopo 51 ± 2.5 below"),
        (task([], stopped="diverged"), "no", "no model-based method came to its end"),
        (
            {method: record(stopped="diverged") for method in FREE} | {"mopo": ABOVE["mopo"]},
            "undecided",
            "no model-free method came to its end",
        ),
        (ABOVE | {"bc": record(300.0, 301.0, 302.0)}, "no", "model-free bc 301 ± 2.5"),
    ],
)
def test_a_task_is_decided_by_intervals(records, answer, told):
    found, words = laptop.compare(records)
    assert found == answer and told in words


def test_half_of_the_tasks_must_say_yes():
    assert laptop.judge_share(["yes", "yes"]) is True
    assert laptop.judge_share(["no", "no", "no"]) is False
    assert laptop.judge_share(["no", "no"]) is None  # of the other two, both may
    assert laptop.judge_share(["yes", "undecided", "no", "no"]) is None
    assert laptop.judge_share(["yes"]) is None
    assert laptop.judge_share([]) is None


def judged(records, judge=True):
    return laptop.claim_all(records, dict.fromkeys(records, RECORDED), judge=judge)


def test_only_what_is_complete_is_judged():
    first, *lines, absent = judged({"pendulum": ABOVE, "hopper": BELOW})
    assert first.holds is None and first.measured.startswith("2 of 4 tasks count; yes: pendulum;")
    assert [line.holds for line in lines] == [None, True, None, None, True, None]
    assert "hopper: leq" in absent.measured and "cartpole: all" in absent.measured
    silent = {"pendulum": task([50.0, 51.0, 52.0], alarms=())}
    first, _, alarm, *_ = judged(silent)
    assert (first.holds, alarm.holds) == (None, False) and "silent: mopo" in alarm.measured
    assert judged({"pendulum": ABOVE, "hopper": ABOVE, "cartpole": BELOW})[0].holds is True
    assert judged(dict.fromkeys(("pendulum", "hopper", "cartpole"), BELOW))[0].holds is False
    # Without IQL, or on a task that was not among the four, nothing is judged.
    partial = {method: own for method, own in BELOW.items() if method != "iql"}
    for records in ({"pendulum": partial}, {"pendulum-few": BELOW}, {"mine": BELOW}):
        assert {claim.holds for claim in judged(records)} == {None}
    assert {claim.holds for claim in judged({"pendulum": BELOW}, judge=False)} == {None}
    every = dict.fromkeys(shipped.METHODS, record(1.0, 2.0))
    (*_, absent) = judged(dict.fromkeys(claimed.USUAL, every))
    assert absent.measured == "none"


@pytest.mark.slow
def test_a_table_grows_in_parts_and_drops_what_is_of_other_settings(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(growing, "run_all", lambda jobs: {key: job() for key, job in jobs.items()})
    tasks = {"pendulum": claimed.USUAL["pendulum"]}

    trained = []

    def train(run, place):
        assert place.parts[-4:-1] == ("runs", "pendulum", run.settings["name"])
        trained.append(run.settings["name"])
        found = record(*[100.0 + len(trained)] * run.agent.seeds)
        return {key: found[key] for key in ("returns", "alarms", "seconds", "stopped")}

    monkeypatch.setattr(comparison, "train", train)
    monkeypatch.setattr(laptop, "plot", lambda *_: None)  # which takes longer than all else

    def measured(asked, known, folder):
        return laptop.measure(
            tasks, [("pendulum", method) for method in asked], TINY, folder, known, judge=False
        ).details

    first = measured(["bc"], None, tmp_path / "a")
    assert first["seconds"] == 130.0 and "td3_bc" in first["missing"]["pendulum"]
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"records": first["records"]}))
    known = growing.read_known(path)
    # Another machine has none of the records, and does not train again what the table has.
    grown = measured(["td3_bc"], known, tmp_path / "b")["records"]["pendulum"]
    assert list(grown) == ["td3_bc", "bc"] and grown["bc"] == first["records"]["pendulum"]["bc"]
    assert trained == ["bc", "td3_bc"]
    # Its own folder counts, too; a plain part shows what it was asked for.
    assert set(measured(["bc"], {}, tmp_path / "b")["records"]["pendulum"]) == {"td3_bc", "bc"}
    assert set(measured(["td3_bc"], None, tmp_path / "b")["records"]["pendulum"]) == {"td3_bc"}
    assert trained == ["bc", "td3_bc", "bc"]
    known["pendulum"]["bc"]["digest"] = "other"
    capsys.readouterr()
    assert set(measured(["td3_bc"], known, tmp_path / "c")["records"]["pendulum"]) == {"td3_bc"}
    assert "pendulum: left out, because settings or data are others: bc" in capsys.readouterr().out


def test_a_table_that_is_damaged_is_not_taken_for_an_empty_one(tmp_path):
    path = tmp_path / "table.json"
    assert growing.read_known(path) == {}
    for text in ("{", '{"claims": []}', '{"records": {"pendulum": [1]}}'):
        path.write_text(text)
        with pytest.raises(Mistake, match=r"table.json is damaged .*; restore it"):
            growing.read_known(path)


def test_somebody_elses_task_needs_an_environment(monkeypatch):
    name, own = shipped.name_task("mujoco/hopper/medium-v0")
    assert (name, own.dataset, own.options) == (
        "mujoco-hopper-medium-v0",
        "minari",
        {"id": "mujoco/hopper/medium-v0"},
    )
    name, own = shipped.name_task("builtin/two-tanks")
    assert (name, own.dataset) == ("builtin-two-tanks", "builtin/two-tanks")
    with pytest.raises(Mistake, match=r"names no environment .*verdict"):
        growing.read_behaviour(own)


@pytest.mark.parametrize("typed", [["--quick"], ["--seeds", "2"], ["--dataset", "a/b-v0"]])
def test_a_table_is_not_continued_with_something_else(typed, monkeypatch):
    monkeypatch.setattr("sys.argv", ["laptop_budget", "--continue", *typed])
    with pytest.raises(Mistake, match="--continue adds to the table"):
        laptop.main()


@pytest.mark.parametrize(
    ("typed", "name", "asked"),
    [
        (["--only", "bc", "--datasets", "pendulum"], "laptop_budget-part", {"pendulum"}),
        (["--only", "bc", "--continue"], "laptop_budget", set(claimed.USUAL)),
        (["--dataset", "a/b-v0", "--only", "bc"], "laptop_budget-part", {"a-b-v0"}),
    ],
)
def test_a_part_takes_the_place_of_the_whole_only_where_it_adds_to_it(
    typed, name, asked, monkeypatch
):
    def measure(tasks, pairs, budget, folder, known, **_):
        assert {task for task, _ in pairs} == asked and {method for _, method in pairs} == {"bc"}
        assert (known is None) == ("--continue" not in typed) and budget == shipped.Budget()
        return laptop.Findings([], {}, {laptop.NAME: None})

    def carry_out(written, title, arguments, found):
        whole = found()
        assert written == name and whole.details["partial"] == name.endswith("-part")
        assert set(whole.figures) == {name}
        return 0

    monkeypatch.setattr(laptop, "measure", measure)
    monkeypatch.setattr(laptop, "carry_out", carry_out)
    monkeypatch.setattr("sys.argv", ["laptop_budget", *typed])
    assert laptop.main() == 0


def test_the_longest_come_first():
    pairs = laptop.pairs_of(claimed.USUAL, ["bc", "leq"])
    assert pairs[0] == ("halfcheetah", "leq") and pairs[-1] == ("pendulum", "bc")
