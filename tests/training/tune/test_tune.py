"""The search over settings, with a script in place of train.py that needs no seconds."""

import json
import os
import shutil
import sys

import pytest

optuna = pytest.importorskip("optuna")

from optuna.trial import TrialState  # noqa: E402

from reverie.mistake import Mistake  # noqa: E402
from reverie.training.files import FORMAT  # noqa: E402
from reverie.training.launch.search_space import question  # noqa: E402
from reverie.training.tune import __main__ as tune  # noqa: E402
from reverie.training.tune.__main__ import Tuner  # noqa: E402

# Scores follow from agent.discount; below 0.2 it crashes, and it counts how often it was started.
# A trial of LONG writes its first score and then waits for its end.
FAKE = """
import json, pathlib, signal, sys
given = dict(each.split("=", 1) for each in sys.argv[1:])
run_dir = pathlib.Path(given["run_dir"].strip("'"))
with open(run_dir / "starts", "a") as file:
    file.write("x")
value = float(given["agent.discount"])
if value < 0.2:
    sys.exit("error: the disk is full")
with open(run_dir / "metrics.csv", "w") as file:
    print("update,seed,metric,value", file=file)
    for update in (1, 2, 3):
        rows = [f"{update},{seed},score,{100 * value + update + seed}" for seed in (0, 1)]
        print(*rows, sep="\\n", file=file, flush=True)  # at once, as a run writes them
        if value in LONG:
            signal.alarm(600)  # of a search that forgets it
            signal.pause()
score = {"score_last10": 100 * value, "score_last10_per_seed": [100 * value] * 2}
behaviour = {f"{unit}_{kind}": 1.0 for unit in ("score", "return") for kind in ("mean", "best")}
summary = {
    "format": FORMAT,
    "name": "fake",
    "seed": 0,
    "seeds": 2,
    "result": score,
    "dataset": {"name": "toy", "fingerprint": "f", "behaviour": behaviour},
    "environment": None,
    "physics": "as-is",
    "seconds": {},
}
(run_dir / "summary.json").write_text(json.dumps(summary))
"""


@pytest.fixture
def tuner(tmp_path, monkeypatch):
    """A study of agent.discount; trials of the values `long` never end by themselves."""
    monkeypatch.setattr(tune, "_PAUSE", 0.02)

    def make(*settings, long=(), jobs=1):
        script = tmp_path / "fake.py"
        script.write_text(FAKE.replace("LONG", str(long)).replace("FORMAT", str(FORMAT)))
        settings = settings or ("algorithm=sac", "agent.discount=0.5,0.9,0.1")
        return Tuner(tmp_path / "study", settings, 0, jobs, [sys.executable, str(script)])

    return make


def test_the_syntax_of_sweeps_becomes_distributions():
    fixed, space = question(
        [
            "algorithm=td3_bc",
            "seeds=2",
            "agent.hidden=[64,64],[256,256]",
            "agent.policy_delay=range(1,8,2)",
            "agent.alpha=interval(0.5,10)",
            "agent.actor_learning_rate=tag(log,interval(1e-4,1e-2))",
            "agent.critic_steps=int(interval(1,3))",
        ]
    )
    assert fixed == ["algorithm=td3_bc", "seeds=2"]
    kinds = optuna.distributions
    assert space == {
        "agent.hidden": kinds.CategoricalDistribution(["[64,64]", "[256,256]"]),
        "agent.policy_delay": kinds.IntDistribution(1, 7, step=2),
        "agent.alpha": kinds.FloatDistribution(0.5, 10.0),
        "agent.actor_learning_rate": kinds.FloatDistribution(1e-4, 1e-2, log=True),
        "agent.critic_steps": kinds.IntDistribution(1, 3),
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["seed=1"], "there is nothing to search"),
        (["agent.discount=range(1,1)"], "is empty"),
        (
            ["seeds=2", "filter.penalty=[1,2]", "agent.discount=0.9,0.99"],
            "differs between the seeds",
        ),
        (["evaluate.every=0", "agent.discount=0.9,0.99"], "scores nothing"),
    ],
)
def test_searches_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        question(settings)


@pytest.mark.pictures
def test_a_study_finds_the_best_reports_failures_and_goes_on(tuner, tmp_path, capsys, monkeypatch):
    tuner().run(6)
    study = tuner().study
    states = [trial.state for trial in study.trials]
    assert len(states) == 6 and set(states) <= {TrialState.COMPLETE, TrialState.FAIL}
    for trial in study.trials:
        assert (trial.state == TrialState.FAIL) == (trial.params["agent.discount"] == "0.1")
        if trial.state == TrialState.COMPLETE:  # mean of both seeds at each evaluation
            value = 100 * float(trial.params["agent.discount"])
            assert trial.intermediate_values == {u: value + u + 0.5 for u in (1, 2, 3)}
        else:
            assert trial.user_attrs["why"] == "status 1: the disk is full"
    best = json.loads((tmp_path / "study" / "best.json").read_text())
    assert best["value"] == 90 and best["command"][-1] == "agent.discount=0.9"
    for name in ("optimization_history", "intermediate_values", "slice"):
        assert (tmp_path / "study" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    assert "failed: " in printed and "of 2 seeds" in printed
    monkeypatch.setattr(tune, "draw", lambda *_: None)
    tuner().run(6)  # nothing is missing
    starts = [path.read_text() for path in (tmp_path / "study").rglob("starts")]
    assert starts == ["x"] * 6
    tuner().run(8)
    assert len(tuner().study.trials) == 8
    with pytest.raises(ValueError, match="is a study of space="):
        tuner("algorithm=sac", "agent.discount=0.5,0.8")


def test_unpromising_trials_are_stopped_and_cost_no_more(tuner, tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "STARTUP", 2)
    monkeypatch.setattr(tune, "draw", lambda *_: None)
    searched = tuner("algorithm=sac", "agent.discount=0.9,0.5", long=(0.5,))
    for value in ("0.9", "0.9", "0.5"):
        searched.study.enqueue_trial({"agent.discount": value})
    searched.run(3)
    assert [t.state.name for t in searched.study.trials] == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert not (tmp_path / "study" / "trials" / "0002" / "summary.json").exists()


def test_a_study_in_which_all_trials_fail_says_so(tuner):
    with pytest.raises(Mistake, match=r"no trial of .* finished"):
        tuner("algorithm=sac", "agent.discount=0.1,0.11").run(2)


def test_a_killed_search_goes_on_with_the_trial_it_had_begun(tuner, tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "draw", lambda *_: None)
    searched = tuner()
    searched.study.enqueue_trial({"agent.discount": "0.9"})
    searched.study.ask(fixed_distributions=searched.space)  # and then it was killed
    again = tuner()
    assert [t.state for t in again.study.trials if t.number == 0] == [TrialState.RUNNING]
    again.run(2)
    assert [t.state.is_finished() for t in again.study.trials] == [True, True]
    assert (tmp_path / "study" / "trials" / "0000" / "starts").read_text() == "x"


def test_trials_side_by_side_share_the_cores_that_the_search_may_use(tuner, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(6), raising=False)

    def told(jobs, *settings):
        searched = tuner("algorithm=sac", *settings, "agent.discount=0.5,0.9", jobs=jobs)
        started = searched._start(searched.study.ask(fixed_distributions=searched.space))
        started.process.wait()
        shutil.rmtree(searched.folder)
        return [each for each in started.process.args if each.startswith("threads=")]

    assert told(3) == ["threads=2"] and told(8) == ["threads=1"]
    assert told(1) == []  # it finds out by itself
    assert told(3, "threads=5") == ["threads=5"]


def test_trials_side_by_side_end_with_their_search(tuner, tmp_path, monkeypatch):
    """Interrupted, the search takes its trials along; they stay open and go on later."""
    searched = tuner("algorithm=sac", "agent.discount=0.5,0.9", long=(0.5, 0.9), jobs=2)
    started = []
    keep = searched._start
    monkeypatch.setattr(
        searched, "_start", lambda trial: started.append(keep(trial)) or started[-1]
    )

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(searched, "_has_ended", interrupt)
    with pytest.raises(KeyboardInterrupt):
        searched.run(4)
    assert len(started) == 2
    assert all(job.process.poll() is not None for job in started)
    assert [t.state for t in searched.study.trials] == [TrialState.RUNNING] * 2


@pytest.mark.parametrize("text", ["", "[]", "{", '{"fixed": 1, "fixed": 2}', "[" * 100_000])
def test_a_damaged_question_is_named(tuner, tmp_path, text):
    tuner()
    (tmp_path / "study" / tune.QUESTION).write_text(text)
    with pytest.raises(Mistake, match=r"study.json is damaged .*delete it and type the settings"):
        tuner()
    (tmp_path / "study" / tune.QUESTION).unlink()
    tuner()  # the remedy


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xff" + text,
        lambda text: text.replace(b"op_code", b"code"),
        lambda text: b"7\n" + text,
        lambda text: b"{}\n" + text,
    ],
)
def test_a_damaged_journal_is_named(tuner, tmp_path, change):
    tuner().study.ask(fixed_distributions={})
    journal = tmp_path / "study" / tune.JOURNAL
    journal.write_bytes(change(journal.read_bytes()))
    with pytest.raises(Mistake, match=r"journal.log is damaged .*give a new folder") as caught:
        tuner()
    assert "\n" not in str(caught.value)


def test_a_journal_adds_nothing_to_the_settings_that_were_typed(tuner, tmp_path):
    """Trials at work are carried out again with what the journal says of them."""
    evil = optuna.distributions.CategoricalDistribution(["os.system"])
    tuner().study.ask(fixed_distributions={"agent._target_": evil})
    with pytest.raises(Mistake, match=r"journal.log is damaged .*draws agent._target_ otherwise"):
        tuner()
