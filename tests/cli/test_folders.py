"""Run directories through the command line: what is refused, what is left, what is ours."""

import signal
from importlib.util import find_spec

import pytest
import torch
import yaml

from reverie.training.run_directory import LOCK, MARKER, _files, _is_ours


def left(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def strangers(run_dir):
    below = (path.relative_to(run_dir) for path in _files(run_dir))
    return [str(path) for path in below if not _is_ours(path)]


@pytest.mark.parametrize("script", ["train.py", "-m"])
def test_an_empty_run_dir_is_refused_in_one_line(command, script, tmp_path):
    """Not with overwrite=true: a test that fails must not delete the checkout."""
    flags = ["-m"] if script == "-m" else []
    done = command("train.py", *flags, f"root={tmp_path / 'runs'}", "run_dir=")
    assert done.returncode == 1 and "run_dir= is empty; give a folder of its own" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_folder_of_the_user_is_left_alone(fails, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "config.yaml").write_text("chapters: 3")
    (mine / "thesis.txt").write_text("years of work")
    for change in ("overwrite=true", "overwrite=false"):
        assert "it is no run directory" in fails(f"run_dir={mine}", change)
    assert left(mine) == ["config.yaml", "thesis.txt"]


def test_a_mistyped_dataset_leaves_nothing(fails, tmp_path):
    assert "no.npz" in fails("algorithm=sac", "dataset=file", f"dataset.path={tmp_path / 'no.npz'}")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_what_commands_write_into_a_run_directory_is_ours(train, command, tmp_path):
    """A run with a model and probes, and commands that read it."""
    loggers = ["logger=tensorboard"] if find_spec("tensorboard") else []
    run_dir = tmp_path / "run"
    here = (f"run_dir={run_dir}", "updates=20", *loggers)
    done = train("algorithm=mopo", "lipschitz.states=4", *here)
    assert done.returncode == 0, done.stderr
    small = (
        "fqe.updates=2",
        "fqe.replicas=1",
        "fqe.hidden=[8,8]",
        "starts=8",
        "doubly_robust.updates=2",
        "model.rollouts=1",
    )
    for words in (("evaluate.py", "episodes=1"), ("-m", "reverie.training.ope", *small)):
        done = command(*words, f"run={run_dir}", "threads=1" if "-m" in words else "seed=7")
        assert done.returncode == 0, done.stderr
    names = left(run_dir)
    assert {
        "checkpoint.pt",
        "world_model.pt",
        "world_model.png",
        "dreams.png",
        "dreams.json",
        "off_policy_evaluation.json",
    } <= set(names)
    assert MARKER in names and LOCK not in names
    assert not strangers(run_dir)
    (run_dir / "notes.txt").write_text("mine")
    assert strangers(run_dir) == ["notes.txt"]
    refused = train("algorithm=mopo", "lipschitz.states=4", *here, "overwrite=true")
    assert refused.returncode == 1 and "notes.txt is no file of a run" in refused.stderr
    assert left(run_dir) == sorted([*names, "notes.txt"])
    (run_dir / "notes.txt").unlink()
    done = train("algorithm=mopo", *here, "overwrite=true", "agent.discount=0.5")
    assert done.returncode == 0 and "resuming" not in done.stdout
    assert "evaluation.json" not in left(run_dir) and left(run_dir.parent).count("run") == 1


@pytest.mark.slow
def test_a_checkpoint_knows_the_settings_it_belongs_to(train, fails, tmp_path):
    """Weights of one discount under the settings of another, as a kill could leave them."""
    run_dir = tmp_path / "run"
    here = ("algorithm=mopo", f"run_dir={run_dir}")
    killed = train(*here, "agent.discount=0.99", death=(20, signal.SIGKILL))
    assert killed.returncode == -signal.SIGKILL and (run_dir / MARKER).is_file()
    record = torch.load(run_dir / "checkpoint.pt", weights_only=True)
    assert record["settings"]["agent"]["discount"] == 0.99
    config = run_dir / "config.yaml"
    settings = yaml.safe_load(config.read_text())
    settings["agent"]["discount"] = 0.5
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    done = train(*here, "agent.discount=0.5")
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1 and "checkpoint.pt holds a run with agent.discount=0.99" in line
    done = train(*here, "agent.discount=0.5", "overwrite=true")
    assert done.returncode == 0 and "resuming" not in done.stdout, done.stderr
