"""The command that checks a dataset: what it takes, what it writes, and how it ends."""

import io
import json
import logging
import shlex
import sys

import numpy as np
import pytest
from rich.console import Console

import reverie
import reverie.datasets
from reverie.paths import quote_paths, unquote
from reverie.training.launch import check as command
from reverie.training.launch import mistakes
from reverie.training.launch.check import FIRST
from reverie.training.launch.hyperparameters import compose_run
from reverie.training.launch.options import as_typed, one_spelling, options


@pytest.fixture
def check(monkeypatch):
    """`check(*arguments)` as it is typed; returns the status."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["check", *arguments])
        with pytest.raises(SystemExit) as ended:
            mistakes.run(command.main)
        return ended.value.code

    return run


def write(path, **changes):
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(8, 3))
    columns = {
        "observations": obs[:7],
        "actions": rng.uniform(-1, 1, (7, 2)),
        "rewards": rng.normal(size=7),
        "terminals": np.array([0, 0, 1, 0, 0, 0, 0]),
        "timeouts": np.zeros(7),
    }
    np.savez(path, **{**columns, **changes})
    return f"dataset.path={path}"


def test_it_takes_the_options_of_a_dataset(check, tmp_path, capsys):
    path = write(tmp_path / "log.npz")
    assert check("dataset=file", path, "dataset.reference=[0,2]") == 0
    out = capsys.readouterr().out
    assert "nothing found" in out
    assert "given by the user" in out


def _as_typed(typed):
    """As they come back from what the command gets of them."""
    got = one_spelling(quote_paths(typed))
    return [unquote(as_typed(each)) for each in got]


def test_it_ends_with_what_to_type_next(check, tmp_path, capsys):
    (tmp_path / "my logs").mkdir()
    path = write(tmp_path / "my logs" / "log.npz")
    assert check("dataset=file", path, f"--config-dir={tmp_path}") == 0
    *_, typed, _ = capsys.readouterr().out.splitlines()
    python, name, *given = shlex.split(typed)
    assert (python, name) == ("python", "train.py")
    assert given == ["-m", f"--config-dir={tmp_path}", f"algorithm={FIRST}", "dataset=file", path]
    columns = "dataset.columns={actions: u, observations: [x, y]}"
    reward = "dataset.reward=-(x-1)**2-y**2"
    assert _as_typed([columns, reward]) == [columns, reward]
    assert _as_typed(["dataset.path=a,b.csv"]) == ["dataset.path='a,b.csv'"]  # else a sweep
    assert set(FIRST.split(",")) <= set(options("algorithm"))
    write(tmp_path / "my logs" / "log.npz", rewards=np.full(7, np.nan))
    assert check("dataset=file", path) == 1
    assert "next: " not in capsys.readouterr().out


def test_what_to_type_next_fills_in_the_actions_that_are_missing(check, tmp_path, capsys):
    actions = np.random.default_rng(1).uniform(-1, 1, (7, 2))
    actions[1] = np.nan
    path = write(tmp_path / "log.npz", actions=actions)
    assert check("dataset=file", path, "dataset.missing_actions=true") == 0
    assert "dataset.missing_actions=true inverse_model=ensemble\n" in capsys.readouterr().out
    assert check("dataset=file", path, "inverse_model=ensemble") == 0
    *_, typed, _ = capsys.readouterr().out.splitlines()
    assert typed.count("inverse_model=") == 1


def test_a_recording_is_told_and_warnings_are_marked(check, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path))
    assert check("dataset=builtin/duffing", "dataset.steps=400") == 0
    (told,) = [each for each in caplog.records if "recording in" in each.message]
    assert command._Formatter().format(told).startswith("builtin/duffing: recording in")
    told.levelno = logging.WARNING
    assert command._Formatter().format(told).startswith("warning: builtin/duffing:")


def test_an_inverse_model_keeps_the_rows_that_it_would_fill_in(check, tmp_path, capsys):
    actions = np.random.default_rng(1).uniform(-1, 1, (7, 2))
    actions[2:4] = np.nan
    path = write(tmp_path / "log.npz", actions=actions)
    assert check("dataset=file", path, "inverse_model=ensemble") == 0
    assert "2 of 6 rows have no action" in capsys.readouterr().out


@pytest.mark.parametrize(
    "typed",
    [
        "+dataset.env_kwargs.max_torque=1",
        "dataset.env_kwargs.max_torque=1",
        "++dataset.env_kwargs.max_torque=1",
        "dataset.env_kwargs={max_torque: 1}",
        "dataset.env_kwargs={max_torque:1}",
    ],
)
def test_options_of_the_environment_are_those_of_a_run(monkeypatch, typed):
    """As Hydra's own composition, which `train.py` goes through."""
    seen = []

    def look(config, **_):
        seen.append(config.dataset)
        raise SystemExit

    monkeypatch.setattr(command, "load_dataset", look)
    chosen = ["dataset=random", "dataset.env_id=Pendulum-v1", typed]
    with pytest.raises(SystemExit):
        command.check(chosen)
    assert seen[0].env_kwargs == {"max_torque": 1}
    assert compose_run(["algorithm=bc", *chosen]).dataset.env_kwargs == {"max_torque": 1}


def test_it_fails_on_a_problem(check, tmp_path, capsys):
    assert check("dataset=file", write(tmp_path / "log.npz", actions=np.zeros((7, 2)))) == 1
    assert "problem: all actions are the same" in capsys.readouterr().out


def test_nan_in_a_file_is_counted_in_one_line(check, tmp_path, capsys):
    rewards = np.arange(7.0)
    rewards[[1, 4]] = np.nan
    assert check("dataset=file", write(tmp_path / "log.npz", rewards=rewards)) == 1
    error = capsys.readouterr().err
    assert "log.npz: reward 2 NaN and 0 Inf in 2 rows (first row 1)" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dataset=d4rl/hoper-medium-v2"], "did you mean d4rl/hopper-medium-v2"),
        (["dataset=nonsense"], "options: builtin/"),
        (["dataset=d4rl"], "dataset.id has no value; give it"),
        (["dataset=file"], "dataset.path has no value"),
        (["dataset=file", "dataset.pth=x"], "there is no setting 'dataset.pth'"),
        ([__file__], f"dataset=file dataset.path={__file__}"),
        (["dataset=file", "dataset.path=nowhere.npz"], "nowhere.npz does not exist"),
        (["dataset=file", "dataset.path=[x"], "[x"),
        (["dataset=file", "seed=1"], "expected dataset=... and dataset.key=value only"),
        (["dataset.path=x"], "expected dataset=..."),
        (["dataset=file", "dataset=random"], "expected dataset=..."),
        (["dataset=file", "dataset.path=a.npz,b.npz"], "a.npz,b.npz does not exist"),
        (["dataset=file,random"], "is a sweep"),
        (["dataset=file", "--json", "my.npz"], "expected .json"),
        (["dataset=file", "--plot", "my.hdf5"], "expected .png"),
    ],
)
def test_wrong_options_end_in_one_line(check, arguments, message, capsys):
    assert check(*arguments) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_help_says_how_to_call_it(check, capsys):
    assert check("--help") == 0
    assert "python -m datasets.check dataset=" in capsys.readouterr().out
    assert check() == 2


@pytest.mark.pictures
def test_it_writes_a_picture_and_json_and_again_over_its_own(check, tmp_path, capsys):
    path = write(tmp_path / "log.npz")
    picture, table = tmp_path / "log.png", tmp_path / "log.json"
    for _ in range(2):
        assert check("dataset=file", path, "--plot", str(picture), "--json", str(table)) == 0
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert json.loads(table.read_text())["rows"] == 6  # the last one has no successor
    assert "nothing found" in capsys.readouterr().out
    assert {each.name for each in tmp_path.iterdir()} == {"log.npz", "log.png", "log.json"}


def test_json_alone_is_printed(check, tmp_path, capsys):
    assert check("dataset=file", write(tmp_path / "log.npz"), "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 2


@pytest.mark.parametrize("name", ["thesis.png", "thesis.json"])
def test_files_of_others_stay_as_they_are(check, tmp_path, capsys, name):
    theirs = tmp_path / name
    theirs.write_text("mine")
    flag = f"--{'plot' if name.endswith('png') else 'json'}"
    assert check("dataset=file", write(tmp_path / "log.npz"), flag, str(theirs)) == 1
    assert "stays as it is; give another name" in capsys.readouterr().err
    assert theirs.read_text() == "mine"


def test_a_folder_that_is_not_there_is_named(check, tmp_path, capsys):
    missing = tmp_path / "none" / "a.json"
    assert check("dataset=file", write(tmp_path / "log.npz"), "--json", str(missing)) == 1
    refused = capsys.readouterr().err
    assert f"could not write {missing}" in refused
    assert refused.endswith(f"make the folder {missing.parent} first\n")


def test_a_run_tells_the_problems_of_its_data_and_goes_on():
    rng = np.random.default_rng(0)
    columns = {
        "observations": rng.normal(size=(60, 3)),
        "actions": np.eye(2)[rng.integers(2, size=60)],
        "rewards": rng.normal(size=60),
        "terminals": np.zeros(60),
        "timeouts": np.arange(60) % 20 == 19,
    }
    file = io.StringIO()
    small = {"updates": 2, "batch_size": 8, "evaluate": {"every": 0}, "threads": 1}
    for actions in (columns["actions"], rng.uniform(-1, 1, (60, 2))):
        data = reverie.datasets.load(columns | {"actions": actions})
        reverie.make("algorithm=bc", dataset=data, console=Console(file=file, width=40), **small)
    budget, problem, more, again = file.getvalue().splitlines()
    assert budget == again and budget.startswith("budget laptop: ")
    assert problem.startswith("problem: arrays: all actions are one-hot")
    assert "datasets.check shows more" in more


@pytest.mark.parametrize("flag", ["--config-dir", "-cd"])
def test_it_finds_options_in_a_folder_of_ones_own(check, tmp_path, capsys, flag):
    path = write(tmp_path / "log.npz").removeprefix("dataset.path=")
    (tmp_path / "conf" / "dataset").mkdir(parents=True)
    text = f"defaults: [file]\nname: mine\npath: {path}\n"
    (tmp_path / "conf" / "dataset" / "own.yaml").write_text(text)
    assert check("dataset=own", flag, str(tmp_path / "conf")) == 0
    assert capsys.readouterr().out.startswith("mine\n")
    assert check("dataset=own", flag, str(tmp_path / "none")) == 1
    error = capsys.readouterr().err
    assert "none is no folder" in error and error.count("\n") == 1


def test_the_module_runs_from_the_checkout_and_returns_its_status(command, tmp_path):
    path = write(tmp_path / "log.npz", rewards=np.full(7, np.inf))
    done = command("-m", "datasets.check", "dataset=file", str(path))
    assert done.returncode == 1
    assert "log.npz: reward 0 NaN and 7 Inf" in done.stderr
    assert done.stderr.count("\n") == 1
