"""Runs on data with exogenous observations: by a user's commands, killed, read back, exported."""

import io
import json
import signal

import pytest
import torch
from omegaconf import OmegaConf
from rich.console import Console

import reverie
from reverie.training.launch.restore import load_run
from reverie.training.ope.__main__ import world_model
from reverie.training.run_directory import METRICS

SMALL = (
    "algorithm=mopo",
    "dataset=builtin/two-tanks",
    "dataset.episodes=12",
    "seeds=2",
    "updates=20",
    "batch_size=32",
    "agent.hidden=[16,16]",
    "world_model.hidden=[16]",
    "world_model.weight_decay=[0.0,0.0]",
    "world_model.max_epochs=1",
    "source.starts=20",
    "source.every=10",
    "source.horizon=3",
    "log_every=5",
    "checkpoint_every=10",
    "value_gap.starts=2",
    "verdict.starts=4",
    "verdict.fqe.updates=0",
    "threads=1",
)


def make(*changes):
    return reverie.make(*SMALL, *changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exogenous") / "run"
    make().train(folder)
    return folder


@pytest.mark.slow
def test_summary_report_and_a_loaded_run_name_them(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["dataset"]["exogenous"] == ["setpoint [cm]"]
    run = load_run(finished)
    assert run.spec.exogenous == (2,)
    data, model = run.load_dataset(), run.load_part("world_model")
    start = data.transitions.obs[:3].expand(2, -1, -1)
    action = torch.zeros(2, 3, 1)
    held = model.advance(start, action, 1, model.begin(start))
    assert (held.next_obs[..., 2] == start[..., 2]).all()
    model.replay_exogenous(data)
    replayed = model.advance(start, action, 1, model.begin(start))
    assert (replayed.next_obs[..., 2] == data.transitions.next_obs[:3, 2]).all()


def test_dreams_and_measurements_of_a_run_leave_the_set_point_to_the_record(finished):
    drawn = json.loads((finished / "dreams.json").read_text())
    for episode in drawn["episodes"]:
        for kind in ("replayed", "policy"):
            found, wanted = episode[kind]["median"][2], episode["recorded"][2]
            assert found[: len(wanted)] == wanted
    measured = json.loads((finished / "world_model.json").read_text())
    assert measured["one_step"]["rmse"][0][2] is None


def test_another_verdict_on_the_run_replays_them_too(finished):
    run = load_run(finished)
    settings = OmegaConf.create({"world_model": None})
    model = world_model(run, run.load_dataset(), settings, Console(file=io.StringIO()))
    assert model.record is not None


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(finished, command, tmp_path):
    """Killed once it has logged an update behind its checkpoint."""
    arguments = ("train.py", *SMALL, f"run_dir={tmp_path / 'run'}")
    command(*arguments, death=(15, signal.SIGKILL))
    assert not (tmp_path / "run" / "summary.json").exists()
    command(*arguments)
    assert (tmp_path / "run" / METRICS).read_text() == (finished / METRICS).read_text()


@pytest.mark.slow
def test_a_model_that_predicts_the_set_point_is_another_and_trains_otherwise(finished, tmp_path):
    make("dataset.exogenous=[]").train(tmp_path)
    assert "exogenous" not in json.loads((tmp_path / "summary.json").read_text())["dataset"]
    assert (tmp_path / METRICS).read_text() != (finished / METRICS).read_text()


def test_reports_and_exports_name_them(finished, command, tmp_path):
    for arguments in (
        ("training.report", finished, "--output", tmp_path / "page"),
        ("training.export", f"run={finished}", f"output={tmp_path / 'export'}", "format=numpy"),
    ):
        done = command("-m", *map(str, arguments))
        assert done.returncode == 0, done.stderr
    page = next((tmp_path / "page").rglob("*.md")).read_text()
    assert "not predicted but replayed from the record: setpoint" in page
    manifest = next((tmp_path / "export").rglob("manifest.json"))
    assert json.loads(manifest.read_text())["exogenous"] == [2]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("[setpiont]", "did you mean setpoint [cm]?"),
        ("[h1,setpoint,h1]", "names h1 [cm] twice; name it once"),
        ("[h?,setpoint,position]", "names every observation, so no action moves anything"),
    ],
)
def test_a_wrong_name_ends_the_command_in_one_line(said, message, command):
    typed = ["dataset=builtin/two-tanks", "dataset.episodes=12", f"dataset.exogenous={said}"]
    for arguments in (["train.py"], ["-m", "datasets.check"]):
        done = command(*arguments, *typed)
        assert done.returncode == 1 and message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith("error: ")
