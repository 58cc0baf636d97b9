"""Folders that are not ours stay as they are, and different settings have different folders."""

import os
import re
import shutil
import signal
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from reverie import temporary
from reverie.mistake import Mistake
from reverie.training import run_directory as places
from reverie.training.launch.hyperparameters import compose_run
from reverie.training.launch.options import one_spelling
from reverie.training.run_directory import (
    CARRIED_OUT,
    LOCK,
    MARKER,
    claimed,
    flat,
    require_ours,
    run_directory,
)

GONE = 2**22 + 1  # no process has this number: it is above the largest of Linux
VALUES = ["1", "-1", "1.0", "'1'", "true", "[1]", "[-1]", "[1,2]", "1-2", "${seed}", "${threads}"]
OVERRIDES = [
    *(f"agent.target_entropy={value}" for value in VALUES),
    *(f"agent.hidden={value}" for value in ("[16,16]", "[1616]", "[16]", "[-16,16]")),
    *("~agent.hidden", "agent={hidden:[16]}", "+agent.critics=2", "++agent.critics=3"),
    *("algorithm=sac", "algorithm=td3_bc", "algorithm=sac_n", "name=sac", "name=x"),
    *("dataset=builtin/pendulum-mixed", "dataset=d4rl/hopper-medium-v2", "dataset=minari"),
    *("dataset=file", "dataset.name=a", "dataset.name=pendulum-mixed"),
    *(f"dataset.path={path}" for path in ("a.npz", "x/a.npz", "x-a.npz", "a.hdf5")),
    *(f"dataset.id={name}" for name in ("a/b-c-v0", "a-b/c-v0", "hopper-medium-v2", "a/b-v0")),
    *("seed=1", "seed=2", "seeds=2", "threads=2", "threads=3", "filter=none", "~filter"),
    *(f"evaluate.every={value}" for value in ("10", "-10")),
    *("evaluate={every:5}", "updates=10", "updates=1e1"),
]


@cache
def composed(typed):
    """What a list of overrides comes to: its settings and its directory; None if it is refused."""
    spelled = one_spelling(list(typed))
    try:
        config = compose_run(spelled)
        plain = OmegaConf.to_container(config, resolve=True)
        found = run_directory(plain, spelled)
    except (HydraException, OmegaConfBaseException, ValueError, TypeError):
        return None
    kept = {
        key: value for key, value in flat(plain).items() if key.split(".")[0] not in CARRIED_OUT
    }
    return kept, found


seen = {}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(OVERRIDES), max_size=4), st.randoms(use_true_random=False))
@pytest.mark.slow
def test_different_settings_never_share_a_directory(typed, random):
    first = composed(tuple(typed))
    if first is None:
        return
    kept, found = first
    assert repr(seen.setdefault(found, kept)) == repr(kept), (typed, found)
    # In another order it is the same directory, or the settings are others as well.
    random.shuffle(typed)
    second = composed(tuple(typed))
    if second is not None and repr(second[0]) != repr(kept):
        assert second[1] != found, typed


@settings(max_examples=300, deadline=None)
@given(st.text("-+=.,[]'\"/@ a1", max_size=6), st.text("-+=.,[]'\"/@ a1", max_size=6))
def test_different_texts_of_a_value_never_share_a_directory(one, other):
    config = {"run_dir": None, "root": "runs", "name": "sac", "seed": 0, "dataset": {"name": "a"}}
    a, b = (run_directory(config, [f"x.y={text}"]) for text in (one, other))
    assert (a == b) == (one == other)


def test_a_plain_run_has_a_plain_name_that_a_command_line_takes():
    plain = OmegaConf.to_container(compose_run(["algorithm=sac"]), resolve=True)
    assert str(run_directory(plain, ["algorithm=sac"])) == "runs/sac/pendulum-mixed/0"
    typed = ["seeds=2", "agent.target_entropy=-1"]
    changes = "agent.target_entropy--1+seeds-2"
    assert str(run_directory(plain, typed)) == f"runs/sac/pendulum-mixed/{changes}/0"
    assert run_directory(plain, typed[::-1]) == run_directory(plain, typed)
    odd = run_directory(plain, ["agent.hidden=[16,16]"])
    assert re.fullmatch(r"agent.hidden-16-16@[0-9a-f]{12}", odd.parts[-2])
    override = OverridesParser.create().parse_override(f"run={odd}")
    assert override.value() == str(odd)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A home, a checkout and a working folder in it, with something in each."""
    home = tmp_path / "up" / "home"
    code = home / "checkout"
    work = code / "work"
    work.mkdir(parents=True)
    (code / "thesis.txt").write_text("years of work")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(places, "__file__", str(code / "training" / "run_directory.py"))
    monkeypatch.chdir(work)
    return home


def everything(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("place", ["", ".", "..", "../..", "~", "~/..", "/", "../work", "loop"])
def test_no_run_takes_a_folder_that_others_live_in(folders, place, overwrite):
    (folders / "checkout" / "work" / "loop").symlink_to(folders)
    for folder in (folders, folders / "checkout" / "work"):  # a marker does not help
        (folder / MARKER).write_text("")
    before = everything(folders)
    with (
        pytest.raises(Mistake, match=r"so it cannot be a run directory; give a folder of its own"),
        claimed(Path(place).expanduser(), overwrite),
    ):
        pytest.fail("it was claimed")
    assert everything(folders) == before


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("name", ""),
        *product(("name", "dataset.name"), (".", "..", "../../x", "a/../b", "/tmp/x")),
    ],
)
def test_a_name_does_not_leave_the_root(key, wrong):
    names = {"name": "x", "dataset.name": "y"} | {key: wrong}
    config = {"run_dir": None, "root": "r", "seed": 0, "name": names["name"]}
    config["dataset"] = {"name": names["dataset.name"], "path": ".."}
    with pytest.raises(Mistake, match=rf"^{key}={re.escape(wrong)} is no name of a folder"):
        run_directory(config, [])


def test_a_folder_above_gives_its_name(tmp_path, monkeypatch):
    (tmp_path / "plant" / "scripts").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "plant" / "scripts")
    config = {"run_dir": None, "root": "r", "seed": 0, "name": "x"}
    config["dataset"] = {"name": None, "path": ".."}
    assert run_directory(config, []) == Path("r/x/plant/0")


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_folder_is_refused(empty):
    with pytest.raises(Mistake, match="run_dir= is empty"):
        run_directory({"run_dir": empty}, [])
    config = {"run_dir": None, "root": empty, "name": "x", "seed": 0, "dataset": {"name": "y"}}
    with pytest.raises(Mistake, match="root= is empty"):
        run_directory(config, [])


def test_a_file_is_no_run_directory(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(Mistake, match=r"run_dir=.*run is a file; give a folder"):
        require_ours(tmp_path / "run")


@pytest.mark.parametrize("value", [{}, {"a": 1}, [0]])
def test_what_is_no_folder_is_refused(value):
    with pytest.raises(Mistake, match=r"run_dir=.* must be a folder"):
        run_directory({"run_dir": value}, [])


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["config.yaml", "checkpoint.pt", "thesis.txt", "deep/thesis.txt"])
def test_a_folder_with_files_and_no_marker_is_left_alone(tmp_path, name, overwrite):
    path = tmp_path / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_text("years of work")
    before = everything(tmp_path)
    with pytest.raises(Mistake, match="it is no run directory"), claimed(path.parent, overwrite):
        pytest.fail("it was claimed")
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "name",
    ["thesis.txt", "wandb/thesis.txt", "tensorboard/a.pt", "snapshots/0/1.pt", "sub/config.yaml"],
)
def test_overwriting_refuses_where_a_file_is_not_ours(tmp_path, name):
    run_dir = tmp_path / "run"
    with claimed(run_dir):
        (run_dir / "config.yaml").write_text("a: 1")
        (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (run_dir / name).write_text("years of work")
    before = everything(tmp_path)
    with pytest.raises(Mistake, match=f"{name} is no file of a run"), claimed(run_dir, True):
        pytest.fail("it was claimed")
    assert everything(tmp_path) == before
    with claimed(run_dir):  # without overwriting it is a run as any other
        pass


def test_overwriting_follows_no_link_out_of_the_run(tmp_path):
    away, run_dir = tmp_path / "away", tmp_path / "run"
    away.mkdir()
    (away / "1.pt").write_text("years of work")
    with claimed(run_dir):
        (run_dir / "checkpoint.pt").symlink_to(away / "1.pt")
    with claimed(run_dir, True):
        assert not (run_dir / "checkpoint.pt").is_symlink()
        (run_dir / "snapshots").symlink_to(away)
    with pytest.raises(Mistake, match="snapshots is no file of a run"), claimed(run_dir, True):
        pytest.fail("it was claimed")
    assert (away / "1.pt").read_text() == "years of work"


def test_a_run_directory_is_marked_while_it_is_used_and_gone_if_nothing_is_kept(tmp_path):
    run_dir = tmp_path / "runs" / "a" / "0"
    with pytest.raises(KeyError), claimed(run_dir):
        assert {path.name for path in run_dir.iterdir()} == {LOCK, MARKER}
        with claimed(run_dir):  # what it calls may claim it again
            pass
        assert (run_dir / MARKER).is_file()
        raise KeyError
    assert not list(tmp_path.iterdir())
    with claimed(run_dir):
        (run_dir / "metrics.csv").write_text("")
    assert {path.name for path in run_dir.iterdir()} == {"metrics.csv", MARKER}


def test_an_overwritten_run_directory_stays_locked(command, tmp_path):
    code = (
        "import sys; from pathlib import Path; from reverie.training.run_directory import claimed\n"
        "with claimed(Path(sys.argv[1])): print('works')"
    )
    run_dir = tmp_path / "run"
    with claimed(run_dir):
        (run_dir / "metrics.csv").write_text("")
    with claimed(run_dir, True):
        assert {path.name for path in run_dir.iterdir()} == {LOCK, MARKER}
        second = command("-c", code, str(run_dir))
        assert "another process is working in" in second.stderr
    third = command("-c", code, str(run_dir))
    assert third.stdout == "works\n", third.stderr


def overwrite_and_die(run_dir, steps, told):
    """Overwrite, with a kill before one of its changes of the disk or after the last."""
    left = steps

    def dying(function):
        def call(*arguments, **keywords):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **keywords)

        return call

    for name in ("mkdir", "rename", "replace", "unlink", "rmdir"):
        setattr(os, name, dying(getattr(os, name)))
    with claimed(run_dir, overwrite=True):
        os.write(told, b"over")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_at_any_step_of_overwriting_leaves_the_old_run_or_a_new_one(tmp_path):
    """Dies before its first, second, ... change of the disk, until it comes to the end."""
    outcomes = []
    for steps in range(60):
        run_dir = tmp_path / f"{steps}" / "run"
        with claimed(run_dir):
            for name in ("config.yaml", "checkpoint.pt"):
                (run_dir / name).write_text("old")
        heard, told = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                overwrite_and_die(run_dir, steps, told)
            finally:
                os._exit(1)
        os.close(told)
        with os.fdopen(heard) as stream:
            over = stream.read() == "over"
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        with claimed(run_dir):
            found = {path.name for path in run_dir.iterdir()} - {LOCK, MARKER}
            assert found in (set(), {"config.yaml", "checkpoint.pt"})
            outcomes.append(bool(found))
            (run_dir / "summary.json").write_text("")
        assert [path.name for path in run_dir.parent.iterdir()] == ["run"]
        if over:
            break
    assert over and steps > 8
    assert outcomes[0] and outcomes == sorted(outcomes, reverse=True)  # old until it is new


def test_leftovers_of_killed_processes_go_and_those_of_others_stay(tmp_path):
    run_dir = tmp_path / "run"
    with claimed(run_dir):
        (run_dir / "metrics.csv").write_text("")
    kept = {f".checkpoint.pt.{os.getppid()}.part", ".draft.part", "notes.7.part", ".a.x.part"}
    for name in (*kept, f".checkpoint.pt.{GONE}.part", f".video-seed0.mp4.{GONE}.part.mp4"):
        (run_dir / name).write_text("")
    with claimed(run_dir):
        assert {path.name for path in run_dir.iterdir()} == kept | {LOCK, MARKER, "metrics.csv"}


def test_a_file_that_is_written_again_takes_its_own_leftovers_away(tmp_path):
    path = tmp_path / "model.pt"
    other = tmp_path / f".other.pt.{GONE}.part"
    for each in (other, tmp_path / f".model.pt.{GONE}.part"):
        each.write_text("")
    with temporary.replacing(path) as name:
        name.write_text("whole")
    assert {each.name for each in tmp_path.iterdir()} == {"model.pt", other.name}
    with pytest.raises(KeyError), temporary.replacing(path) as name:
        name.write_text("half")
        raise KeyError
    assert path.read_text() == "whole" and not name.exists()
    shutil.rmtree(tmp_path)
    temporary.remove_abandoned(tmp_path)  # no folder, nothing to do


@pytest.mark.parametrize("name", ["metrics.csv", "snapshots", "tensorboard", "wandb"])
def test_a_run_writes_through_no_link(tmp_path, name):
    mine, run_dir = tmp_path / "mine", tmp_path / "run"
    mine.write_text("years of work")
    with claimed(run_dir):
        (run_dir / name).symlink_to(mine)
    with pytest.raises(Mistake, match=f"{name} is a link"), claimed(run_dir):
        pass
    assert mine.read_text() == "years of work"
