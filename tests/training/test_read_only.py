"""A finished run on a disk that may only be read is shown, and nothing is written."""

import errno
import os
import shutil
import sys

import pytest

import reverie
from reverie import evaluate as evaluation
from reverie import train
from reverie.mistake import Mistake
from reverie.training.files import LOCK
from reverie.training.launch.hyperparameters import compose_run
from reverie.training.launch.make import compose_command
from reverie.training.report.__main__ import report

_protected: list[str] = []


def _refuse(event, arguments):
    """Ends every attempt of this process to change what lies below a protected folder."""
    if not _protected:
        return
    if event == "open":
        path, mode, flags = arguments
        writes = (mode or "r").strip("rbtU") or (flags or 0) & (
            os.O_WRONLY | os.O_RDWR | os.O_CREAT
        )
        paths = [path] if writes else []
    elif event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.utime"):
        paths = list(arguments[:2])
    else:
        return
    for path in paths:
        if isinstance(path, str | bytes | os.PathLike):
            name = os.path.realpath(os.fsdecode(path))
            if name.startswith(tuple(_protected)):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), name)


@pytest.fixture
def read_only():
    """`read_only(folder)` lets nobody write there until the test ends."""
    if not getattr(sys, "_reverie_read_only", False):  # a hook cannot be taken away again
        sys.addaudithook(_refuse)
        sys._reverie_read_only = True  # type: ignore[attr-defined]
    yield lambda folder: _protected.append(os.path.realpath(folder))
    _protected.clear()


OVERRIDES = (
    *("algorithm=td3_bc", "dataset.episodes=4", "agent.hidden=[4]", "updates=2", "log_every=1"),
    *("batch_size=8", "evaluate.every=2", "evaluate.episodes=1", "probe_starts=0", "threads=1"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("read_only") / "run"
    train.run(compose_run([*OVERRIDES, f"run_dir={folder}"]), [])
    return folder


@pytest.fixture
def run_dir(trained, tmp_path, read_only):
    run_dir = shutil.copytree(trained, tmp_path / "disk" / "run")
    read_only(tmp_path / "disk")
    return run_dir


def again(run_dir, *changes):
    return train.run(compose_run([*OVERRIDES, f"run_dir={run_dir}", *changes]), [])


def test_the_protection_protects(run_dir):
    for attempt in (
        lambda: (run_dir / "x").write_text("x"),
        lambda: (run_dir / "summary.json").unlink(),
        lambda: os.replace(run_dir / "summary.json", run_dir / "y"),
        lambda: (run_dir / "z").mkdir(),
        lambda: os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT),
    ):
        with pytest.raises(OSError, match="Read-only"):
            attempt()


def test_training_again_shows_what_is_there(run_dir, capsys):
    assert again(run_dir) is not None
    printed = capsys.readouterr().out
    assert "is finished" in printed and "mean of last" in printed
    run = reverie.make(*OVERRIDES)
    assert run.train(run_dir).summary["name"] == "td3_bc"


def test_other_settings_are_refused_there_too(run_dir):
    with pytest.raises(Mistake, match=r"agent\.discount"):
        again(run_dir, "agent.discount=0.5")
    for change in ("overwrite=true", "updates=3"):
        with pytest.raises(Mistake, match=r"could not write|holds a run with updates"):
            again(run_dir, change)


def test_a_run_that_is_not_finished_cannot_go_on_there(trained, tmp_path, read_only):
    run_dir = shutil.copytree(trained, tmp_path / "disk" / "run")
    (run_dir / "summary.json").unlink()
    read_only(tmp_path / "disk")
    with pytest.raises(Mistake, match=r"could not write .*Read-only"):
        again(run_dir)
    with pytest.raises(Mistake, match="is not finished") as caught:
        _ = reverie.load(run_dir).summary
    assert "damaged" not in str(caught.value)


def test_its_scores_are_printed_though_not_kept(run_dir, capsys):
    settings = compose_command("evaluate", run=str(run_dir), episodes=1)
    assert evaluation.score(settings) is not None
    printed = capsys.readouterr().out
    assert "episode length" in printed and "not kept: could not write" in printed
    assert not (run_dir / "evaluation.json").exists()


def test_it_is_reported_on(run_dir, tmp_path):
    _, markdown, *_ = report([run_dir], tmp_path / "out")
    assert "# 1 run on 1 task" in markdown.read_text()
