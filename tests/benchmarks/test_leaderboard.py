"""The leaderboard: what is trained next, how parts come together, what its page says."""

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reverie.benchmarks.claims import comparison, growing, shipped
from reverie.benchmarks.claims.comparison import Recorded, Task
from reverie.benchmarks.leaderboard import __main__ as leaderboard
from reverie.benchmarks.leaderboard import page, rounds
from reverie.benchmarks.leaderboard import tasks as offered
from reverie.benchmarks.leaderboard.rounds import Board
from reverie.envs.specs import Reference
from reverie.mistake import Mistake
from reverie.training.launch.options import options

TINY = replace(shipped.QUICK, updates=4, evaluate=2, episodes=1)
RECORDED = Recorded(mean=100.0, best=300.0)


def record(*returns, stopped=None, outcome="better", **others):
    """Of seeds whose last two evaluations lie 10 around these."""
    return {
        "returns": [[1e9, value - 10.0, value + 10.0] for value in returns],
        "alarms": [],
        "outcome": [outcome] * len(returns),
        "promised": {
            "recorded": [-50.0, -51.0, -49.0],
            "fqe": [[-40.0, -41.0, -39.0]],
            "model": None,
        },
        "seconds": {"fitting": 40.0, "training": 80.0},
        "stopped": stopped,
        "digest": "d",
        "cpu": "X",
        "reference": [0.0, 200.0],
        **others,
    }


def board(batches=4, methods=("mopo", "td3_bc", "bc")):
    return Board(methods, "td3_bc", 4, batches)


def batch(mean, seed, spread=1.0):
    rng = np.random.default_rng(seed)
    return record(*(mean + rng.normal(0.0, spread, 4)))


def test_every_offline_preset_is_there():
    assert set(offered.METHODS) | set(offered.LEFT_OUT) == set(options("algorithm"))
    assert len(set(offered.METHODS)) == len(offered.METHODS)
    assert not set(offered.METHODS) & set(offered.LEFT_OUT)
    assert len(offered.usual("small")) == 24
    ids = {task.options["id"] for task in offered.datasets("small").values()}
    assert "reverie-suite-small/two-tanks/medium-v0" in ids and "bench/hopper/mixed-v0" in ids


@pytest.mark.parametrize(
    ("dataset", "updates", "evaluate"),
    [
        ("pendulum-medium-replay", 5_000, 1_250),
        ("swing-up-random", 10_000, 2_500),
        ("hopper-medium", None, 5_000),
        ("hopper-mixed", None, 5_000),
    ],
)
def test_easy_tasks_of_the_small_suite_get_fewer_updates(dataset, updates, evaluate):
    found = offered.budget_of(dataset, offered.BUDGETS["small"])
    assert (found.updates, found.evaluate) == (updates, evaluate)
    for budget in (offered.BUDGETS["full"], shipped.QUICK):
        assert offered.budget_of(dataset, budget) == budget


def test_no_preset_trains_longer_than_its_own_limit():
    long = replace(shipped.QUICK, updates=5_000)
    data = Task(dataset="builtin/pendulum-mixed")
    assert shipped.build("bc", data, long).updates == 5_000
    assert shipped.build("apg", data, long).updates == 2_000


def test_seeds_are_added_until_everything_is_told_apart():
    methods = ["mopo", "td3_bc", "bc"]
    records = {}
    assert board().wanted(records, methods) == ["mopo/0", "td3_bc/0", "bc/0"]
    records |= {"td3_bc/0": batch(100.0, 0), "bc/0": batch(100.0, 1)}
    assert board().wanted(records, methods) == ["mopo/0"]
    records["mopo/0"] = batch(200.0, 2)
    # Four seeds decide nothing at this error.
    assert board().wanted(records, methods) == ["mopo/1", "td3_bc/1", "bc/1"]
    records |= {"td3_bc/1": batch(100.0, 3), "bc/1": batch(100.0, 4), "mopo/1": batch(200.0, 5)}
    assert board().decide(records, "mopo").better is True
    assert board().wanted(records, methods) == ["td3_bc/2", "bc/2"]
    # A shard that is behind is waited for.
    records["td3_bc/2"] = batch(100.0, 6)
    assert board().wanted(records, methods) == ["bc/2"]
    for seed in (2, 3):
        records |= {f"{m}/{seed}": batch(100.0, 10 * seed + len(m)) for m in ("td3_bc", "bc")}
    found = board().decide(records, "bc")
    assert (found.seeds, found.better, found.final) == (16, None, True)
    assert board().wanted(records, methods) == []
    assert board().decide(records, "td3_bc") is None


def test_the_yardstick_is_trained_for_whatever_is_undecided():
    records = {"td3_bc/0": batch(100.0, 0), "mopo/0": batch(100.0, 2), "mopo/1": batch(100.0, 3)}
    assert board().wanted(records, ["mopo", "td3_bc"]) == ["td3_bc/1"]
    # Without more batches there is nothing to add, and without a yardstick nothing to compare.
    assert board(batches=1).wanted({"td3_bc/0": batch(1.0, 0), "bc/0": batch(1.0, 1)}, ["bc"]) == []
    alone = board(methods=("mopo", "bc"))
    assert alone.wanted({"mopo/0": batch(1.0, 0), "bc/0": batch(1.0, 1)}, ["mopo", "bc"]) == []


def test_a_run_that_stopped_is_not_compared():
    records = {"td3_bc/0": batch(100.0, 0), "bc/0": record(stopped="diverged")}
    assert board().decide(records, "bc") is None
    assert board().wanted(records, ["td3_bc", "bc"]) == []


def test_runs_of_a_method_are_one_line():
    joined = rounds.join(
        {"x": {"bc/0": record(1.0, 2.0), "bc/1": record(3.0, 4.0), "bc/3": record(9.0)}}, ["bc"]
    )["x"]["bc"]
    assert [row[1] for row in joined["returns"]] == [-9.0, -8.0, -7.0, -6.0]
    assert joined["seconds"] == {"fitting": 80.0, "training": 160.0}


def test_the_aggregates_are_of_datasets_that_all_share():
    records = {
        "a": {"bc/0": record(0.0, 200.0, 0.0, 200.0), "td3_bc/0": record(*[100.0] * 4)},
        "b": {"bc/0": record(*[200.0] * 4), "td3_bc/0": record(*[100.0] * 4)},
        "c": {"bc/0": record(*[1.0] * 4)},
        "d": {"bc/0": record(1.0, reference=None), "td3_bc/0": record(1.0, reference=None)},
        "e": {"bc/0": record(stopped="diverged"), "td3_bc/0": record(1.0, 2.0)},
    }
    shared, scores = page.scores_of(records, ["bc", "td3_bc", "mopo"])
    assert shared == ["a", "b"] and set(scores) == {"bc", "td3_bc"}
    assert scores["bc"].tolist() == [[0.0, 100.0], [100.0, 100.0], [0.0, 100.0], [100.0, 100.0]]
    found = page.aggregate(
        records,
        board(methods=("bc", "td3_bc", "mopo")),
        dict.fromkeys(("bc", "td3_bc", "mopo"), 60.0),
    )
    assert found["header"][-3:] == ["P(above td3_bc)", "runs", "minutes"]
    first, second = found["rows"]
    assert first[0] == "bc" and first[1].startswith("100.0 [") and first[5].startswith("0.75 [")
    assert second[:2] == ["td3_bc", "50.0 [50.0, 50.0]"] and second[5:] == ["-", "8", "1"]
    assert found["caption"].endswith("not among them: mopo")
    assert page.scores_of({}, ["bc"]) == ([], {})


def test_the_tables_hold_decisions_and_what_verdicts_promised():
    records = {
        "x": {
            **{f"bc/{seed}": batch(150.0, seed) for seed in range(4)},
            **{f"td3_bc/{seed}": batch(50.0, 10 + seed) for seed in range(4)},
            "mopo/0": record(stopped="diverged"),
        }
    }
    (shown,) = page.tables(records, {"x": RECORDED}, board(), {"x": {"iql": "which is not asked"}})
    assert shown["header"][-5:] == ["seeds", "less td3_bc", "verdicts", "promised", "came"]
    rows = {row[0]: row for row in shown["rows"]}
    assert {len(row) for row in rows.values()} == {len(shown["header"])}
    assert rows["bc"][5] == "16" and rows["bc"][6].startswith("better: 1")
    assert rows["bc"][7:] == ["better 16", "+20%", "+50%"]
    assert rows["td3_bc"][6] == "-" and rows["td3_bc"][7:] == ["better 16", "+20%", "-50%"]
    assert rows["mopo"][5:] == ["0", "-", "-", "-", "-"] and rows[page.BEHAVIOUR][5:] == ["-"] * 5
    assert "without iql, which is not asked" in shown["caption"]
    first, better, worse, absent = page.claims(records, {"x": RECORDED}, board(), ["x/iql"])
    assert first.measured == "better: bc; worse: -; undecided: -"
    assert better.measured == "50% of 32" and worse.measured == "none"
    assert absent.measured == "x/iql" and {first.holds, better.holds, absent.holds} == {None}


@pytest.mark.pictures
def test_the_picture_has_a_profile_a_method():
    scores = {"bc": np.array([[1.0], [2.0]]), "iql": np.array([[50.0], [120.0]])}
    (axes,) = page.plot(scores).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["bc", "iql"]
    assert axes.lines[1].get_ydata()[0] == 1.0 and axes.lines[1].get_ydata()[-1] == 0.0
    page.plot({})


@pytest.fixture
def trained(monkeypatch):
    """Jobs in this process that train nothing; what was asked for."""
    found = []

    def build(method, task, budget, seed):
        return SimpleNamespace(
            settings={"name": method, "seed": seed, "seeds": budget.seeds},
            data=SimpleNamespace(fingerprint=task.dataset, reference=Reference(0.0, 200.0, "test")),
            agent=SimpleNamespace(seeds=budget.seeds),
            device=torch.device("cpu"),
        )

    def train(run, place):
        found.append((run.settings["name"], run.settings["seed"], place))
        own = record(*[100.0 + len(found)] * run.agent.seeds)
        left_out = ("digest", "cpu", "reference")
        return {key: value for key, value in own.items() if key not in left_out}

    tasks = {name: Task(dataset="builtin/pendulum-mixed") for name in ("x", "y")}
    monkeypatch.setattr(growing, "run_all", lambda jobs: {key: job() for key, job in jobs.items()})
    monkeypatch.setattr(shipped, "build", build)
    monkeypatch.setattr(leaderboard, "read_behaviour", lambda task: RECORDED)
    monkeypatch.setattr(comparison, "train", train)
    monkeypatch.setattr(leaderboard, "datasets", lambda size: tasks)
    monkeypatch.setattr(leaderboard, "usual", lambda size: tuple(tasks))
    monkeypatch.setattr(leaderboard, "BUDGETS", {"small": TINY, "full": TINY})
    monkeypatch.setattr(leaderboard, "plot", lambda scores: None)
    monkeypatch.setattr("reverie.benchmarks.claims.report.save_figure", lambda figure, path: None)
    monkeypatch.setenv("MINARI_DATASETS_PATH", "anywhere")
    return found


def run(monkeypatch, folder, *typed, records="records"):
    where = ["--records", str(folder / records), "--output", str(folder)]
    monkeypatch.setattr("sys.argv", ["leaderboard", "--small", *typed, *where])
    return leaderboard.main()


def test_the_table_grows_in_parts(trained, tmp_path, monkeypatch):
    assert run(monkeypatch, tmp_path, "--only", "bc", "--datasets", "x", "--continue") == 0
    path = tmp_path / "leaderboard_small.json"
    first = json.loads(path.read_text())
    assert list(first["records"]["x"]) == ["bc/0"] and first["partial"] is False
    assert first["records"]["x"]["bc/0"]["reference"] and first["seconds"] == 120.0
    # Elsewhere, where none of the records lie; what was trained is not trained again.
    run(monkeypatch, tmp_path, "--only", "td3_bc", "--continue", records="other")
    grown = json.loads(path.read_text())
    assert set(grown["records"]["x"]) == {"td3_bc/0", "bc/0"} and set(grown["records"]["y"]) == {
        "td3_bc/0"
    }
    assert grown["records"]["x"]["bc/0"] == first["records"]["x"]["bc/0"]
    assert [(name, seed) for name, seed, _ in trained] == [("bc", 0), ("td3_bc", 0), ("td3_bc", 0)]
    assert all(place.is_relative_to(tmp_path) for *_, place in trained)
    x, y = (told.split(": ") for told in grown["claims"][-1]["measured"].split("; "))
    assert "bc" not in x[1].split(", ") and "bc" in y[1].split(", ")
    assert grown["plan"]["comparisons"] == 1
    # A part of its own is no table of the whole.
    run(monkeypatch, tmp_path, "--only", "bc", "--datasets", "x")
    part = json.loads((tmp_path / "leaderboard_small-part.json").read_text())
    assert part["partial"] is True and len(trained) == 3


def test_seeds_are_added_by_the_command(trained, tmp_path, monkeypatch):
    typed = ("--only", "bc", "td3_bc", "--datasets", "x", "--until-decided")
    run(monkeypatch, tmp_path, *typed)
    found = json.loads((tmp_path / "leaderboard_small-part.json").read_text())
    # Differences of one sign at every seed: 2 of them and 4 decide nothing at 5 %, 6 do.
    assert found["plan"]["looks"] == [2, 4, 6, 8]
    assert {seed for name, seed, _ in trained if name == "bc"} == {0, 1, 2}
    run(monkeypatch, tmp_path, *typed)
    assert len(trained) == 6


def test_shards_share_the_work_and_write_no_table(trained, tmp_path, monkeypatch, capsys):
    typed = ("--only", "bc", "td3_bc")
    for shard in ("0/2", "1/2"):
        assert run(monkeypatch, tmp_path, *typed, "--shard", shard) == 0
    assert len(trained) == 4 and not list(tmp_path.glob("*.json"))
    run(monkeypatch, tmp_path, *typed)
    assert len(trained) == 4 and list(tmp_path.glob("leaderboard_small-part.json"))


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["--continue", "--seeds", "3"], "--continue adds to the recorded table"),
        (["--against", "nobody"], "--against nobody must be one of"),
        (["--seeds", "6", "--until-decided"], "24 in all, of which at most 20.*give 5 or fewer"),
    ],
)
def test_what_cannot_be_is_refused(trained, tmp_path, monkeypatch, typed, told):
    with pytest.raises(Mistake, match=told):
        run(monkeypatch, tmp_path, *typed)


@pytest.mark.parametrize("text", ["2/2", "a/2", "1", "-1/2", "0/0"])
def test_shards_are_numbered_from_nought(text, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path, f"--shard={text}")
    assert "must be I/N with I from 0" in capsys.readouterr().err


def test_a_suite_that_is_not_there_is_told_early(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", "anywhere")  # so that it is put back
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Mistake, match=r"runs/suite-small holds no suite; run python -m .* --small"):
        run(monkeypatch, tmp_path)
    (tmp_path / "mine" / "datasets").mkdir(parents=True)
    monkeypatch.setattr(leaderboard, "train_all", lambda *_: {})
    monkeypatch.setattr(leaderboard, "carry_out", lambda *_: 0)
    assert run(monkeypatch, tmp_path, "--data", str(tmp_path / "mine")) == 0
    assert os.environ["MINARI_DATASETS_PATH"] == str(tmp_path / "mine" / "datasets")


@pytest.mark.slow
def test_a_training_is_kept_with_its_metrics_and_reported(tmp_path, monkeypatch):
    tasks = {"x": Task(dataset="builtin/pendulum-mixed")}
    monkeypatch.setattr(growing, "run_all", lambda jobs: {key: job() for key, job in jobs.items()})
    monkeypatch.setattr(leaderboard, "datasets", lambda size: tasks)
    monkeypatch.setattr(leaderboard, "usual", lambda size: tuple(tasks))
    monkeypatch.setattr(leaderboard, "BUDGETS", {"small": TINY, "full": TINY})
    monkeypatch.setenv("MINARI_DATASETS_PATH", "anywhere")
    assert run(monkeypatch, tmp_path, "--only", "bc", "td3_bc", "--datasets", "x") == 0
    kept = list((tmp_path / "records" / "runs" / "x").glob("*/*/metrics.csv"))
    assert len(kept) == 2 and (tmp_path / "records" / "report" / "report.html").is_file()
    found = json.loads((tmp_path / "leaderboard_small-part.json").read_text())
    own = found["records"]["x"]["bc/0"]
    assert own["promised"]["recorded"] and len(own["outcome"]) == 2
    assert (tmp_path / "leaderboard_small-part.png").is_file()
