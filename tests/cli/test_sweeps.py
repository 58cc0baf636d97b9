"""Sweeps that meet finished, broken and crashing jobs."""

import atexit
import errno
import json
import os
import signal
from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from reverie.mistake import Mistake, writing
from reverie.training.launch import failures
from reverie.training.launch.compose import threads
from reverie.training.launch.failures import reason
from reverie.training.launch.mistakes import DEFECT
from reverie.training.launch.options import as_typed, one_spelling
from reverie.training.launch.sweeps import SweepTable, require_directories

SMALL = (
    "algorithm=bc",
    "dataset.episodes=12",
    "updates=20",
    "batch_size=32",
    "agent.hidden=[16,16]",
    "evaluate.every=20",
    "evaluate.episodes=1",
    "probe_starts=0",
    "log_every=10",
    "checkpoint_every=10",
    "threads=1",
)

SHAPE_BUG = """
import torch
from reverie.agents.bc import BC

class Agent(BC):
    def update(self, batch):
        return {"loss": torch.zeros(2, 3) @ torch.zeros(2, 3)}
"""


@pytest.fixture
def sweep(command, tmp_path):
    """A sweep of which one learning rate trains and the other one diverges."""

    def run(*changes):
        seeds = [] if "seed=0" in changes else ["seed=0,1"]
        lists = ("agent.learning_rate=1e-3,1e30", *seeds)
        return command("train.py", "-m", f"root={tmp_path / 'runs'}", *SMALL, *lists, *changes)

    return run


@pytest.mark.slow
def test_the_second_time_a_sweep_does_only_what_is_missing(sweep, tmp_path):
    first = sweep()
    assert first.returncode == 1
    assert "4 jobs: 2 finished, 2 failed" in first.stdout
    assert first.stdout.count("\njob 3: ") == 1 and "#" not in first.stdout
    assert first.stdout.count("(one seed)") == 2
    failed = sorted(path.parent for path in (tmp_path / "runs").rglob("failed.json"))
    finished = sorted(path.parent for path in (tmp_path / "runs").rglob("summary.json"))
    assert len(failed) == len(finished) == 2
    for run_dir in failed:  # one line each, after the table and when it happened
        assert f"\nfailed: {run_dir}: not finite by update 10" in first.stdout
        assert f"error: {run_dir}: not finite by update 10" in first.stderr
        record = json.loads((run_dir / "failed.json").read_text())
        assert "Mistake: not finite" in record["traceback"] and not record["defect"]
    assert "Traceback" not in first.stderr

    # One of the finished jobs was killed instead, so it has a checkpoint and no summary.
    (finished[1] / "summary.json").unlink()
    kept = (finished[0] / "checkpoint.pt").stat().st_mtime_ns
    left = [(run_dir / "metrics.csv").stat().st_mtime_ns for run_dir in failed]
    second = sweep()
    assert second.returncode == 1
    assert "4 jobs: 1 skipped, 1 resumed and finished, 2 failed before" in second.stdout
    assert "retry_failed=true" in second.stdout and f"resuming {finished[1]}" in second.stdout
    assert (finished[0] / "checkpoint.pt").stat().st_mtime_ns == kept
    assert [(run_dir / "metrics.csv").stat().st_mtime_ns for run_dir in failed] == left

    third = sweep("retry_failed=true")
    assert third.returncode == 1 and "4 jobs: 2 skipped, 2 failed\n" in strip(third.stdout)
    assert all((run_dir / "metrics.csv").stat().st_mtime_ns > left[0] for run_dir in failed)


def test_a_sweep_shows_the_traceback_of_a_new_agent_with_a_bug(command, own_module, tmp_path):
    own_module("buggy", SHAPE_BUG)
    typed = ["train.py", "-m", f"root={tmp_path / 'runs'}", *SMALL, "agent._target_=buggy.Agent"]
    done = command(*typed)
    (kept,) = (tmp_path / "runs").rglob("failed.json")
    assert done.returncode == 1 and "shapes cannot be multiplied" in done.stderr
    assert f"{DEFECT}; {kept} keeps this traceback" in done.stderr
    assert f"cannot be multiplied (2x3 and 2x3); {kept} keeps this traceback" in done.stdout
    again = command(*typed)
    assert "1 job: 1 failed before" in again.stdout and "Traceback" not in again.stderr
    assert f"{kept} keeps its traceback" in again.stdout


def strip(text):
    return "\n".join(line.rstrip() for line in text.splitlines())


def test_a_sweep_without_failures_ends_well_and_a_job_alone_tries_again(command, tmp_path):
    root = f"root={tmp_path / 'runs'}"
    good = command("train.py", "-m", root, *SMALL, "seed=0,1")
    assert good.returncode == 0 and "2 jobs: 2 finished" in good.stdout
    assert not list((tmp_path / "runs" / ".sweep").glob("jobs-*"))
    (run_dir, _) = sorted(path.parent for path in (tmp_path / "runs").rglob("summary.json"))
    (run_dir / "summary.json").unlink()
    (run_dir / "failed.json").write_text('{"reason": "the disk was full"}')
    alone = command("train.py", root, *SMALL)
    assert alone.returncode == 0 and (run_dir / "summary.json").is_file()
    assert not (run_dir / "failed.json").exists()


def test_what_kills_a_sweep_leaves_a_table_of_what_it_had_begun(command, tmp_path):
    done = command(
        *("train.py", "-m", f"root={tmp_path}", *SMALL, "seed=0,1"),
        death=(10, signal.SIGINT),
    )
    assert done.returncode == 130 and "run the same command again" in done.stderr
    assert "1 job: 1 stopped" in done.stdout
    assert "jobs that had not begun are not listed" in done.stdout
    assert not list(tmp_path.rglob("failed.json"))


def test_defects_are_told_apart_from_mistakes(tmp_path):
    with pytest.raises(KeyError), failures.record_failure(tmp_path):
        {}["x"]
    assert reason(tmp_path) == f"KeyError: 'x'; {tmp_path / 'failed.json'} keeps its traceback"
    with pytest.raises(Mistake), failures.record_failure(tmp_path):
        raise Mistake("seeds=0 must be at least 1")
    assert reason(tmp_path) == "seeds=0 must be at least 1"
    with failures.record_failure(tmp_path):
        assert reason(tmp_path) is None
    with pytest.raises(KeyboardInterrupt), failures.record_failure(tmp_path):
        raise KeyboardInterrupt
    assert reason(tmp_path) is None
    with pytest.raises(Mistake), failures.record_failure(tmp_path), writing(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")  # the job itself did not fail
    assert reason(tmp_path) is None
    (tmp_path / "failed.json").write_text("{")
    assert "damaged" in reason(tmp_path)


@pytest.mark.parametrize(
    ("launcher", "expected"),
    [
        ({"cpus_per_task": 3}, 3),
        ({"cpus_per_task": None}, 1),
        ({"n_jobs": -1}, 1),
        ({"ray": {"remote": {}}}, 1),
        ({"ray": {"remote": {"num_cpus": 0.5, "num_gpus": 0.25}}}, 1),
        ({"ray": {"remote": {"num_cpus": 5}}}, 5),
        ({"n_jobs": 2}, 2),
    ],
)
def test_a_job_takes_the_cores_that_its_launcher_gives_it(monkeypatch, launcher, expected):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    config = OmegaConf.create({"mode": RunMode.MULTIRUN, "launcher": launcher})
    monkeypatch.setattr(HydraConfig, "get", lambda: config)
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(4), raising=False)
    assert threads("auto") == expected and threads(5) == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert threads("auto") == (1 if "n_jobs" in launcher else expected)


def test_a_job_alone_takes_the_free_cores_or_what_the_user_asks_for(monkeypatch):
    monkeypatch.setattr("reverie.training.launch.compose.count_free_cores", lambda: 3)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads("auto") == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert threads("auto") == 7


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["submitit_local", "ray"])
def test_a_sweep_in_processes_of_their_own_survives_a_crash(sweep, tmp_path, launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    done = sweep("seed=0", f"hydra/launcher={launcher}", "threads=auto")
    assert done.returncode == 1 and "2 jobs: 1 finished, 1 failed" in done.stdout, done.stderr
    (path,) = (tmp_path / "runs").rglob("summary.json")
    assert "CPU, 1 threads" in json.loads(path.read_text())["device"]


SLURM = {
    # Runs the job behind the back of the command that asked for it.
    "sbatch": """cp "$1" "$0.script"
        export SLURM_JOB_ID=7 SLURM_JOB_NODELIST=here SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1
        export SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
        sh "$1" > "$0.log" 2>&1 &
        echo Submitted batch job 7""",
    "srun": """while [ "${1#--}" != "$1" ]; do
            [ "$1" = --unbuffered ] || shift
            shift
        done
        exec "$@\"""",
    "sacct": "echo 'JobID|State|NodeList'; echo '7|RUNNING|here'",
    "scontrol": "echo here",
}
"""Stand-ins for the commands of Slurm that submitit calls."""


@pytest.mark.slow
def test_slurm_gets_what_the_launcher_was_told(command, environment, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    programs = tmp_path / "slurm"
    programs.mkdir()
    for name, script in SLURM.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    environment["PATH"] = f"{programs}:{environment['PATH']}"
    resources = {
        "partition": "gpu",
        "gres": "shard:1",
        "cpus_per_task": 2,
        "timeout_min": 600,
    }
    done = command(
        *("train.py", "-m", f"root={tmp_path / 'runs'}", *SMALL, "threads=auto"),
        "hydra/launcher=submitit_slurm",
        *(f"hydra.launcher.{name}={value}" for name, value in resources.items()),
    )
    assert done.returncode == 0 and "1 job: 1 finished" in done.stdout, done.stderr
    lines = (programs / "sbatch.script").read_text().splitlines()
    asked = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    expected = {"--partition=gpu", "--gres=shard:1", "--cpus-per-task=2", "--time=600"}
    assert expected <= asked, asked
    (path,) = (tmp_path / "runs").rglob("summary.json")
    assert "CPU, 2 threads" in json.loads(path.read_text())["device"]


@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=pytest.mark.slow)])
def test_a_sweep_makes_one_run_directory_a_job(command, tmp_path, launcher):
    lists = ("agent.learning_rate=1e-3,1e-2", "seed=0,1")
    sweep = ("train.py", "-m", f"root={tmp_path / 'runs'}", *SMALL, *lists)
    how = {"basic": (), "joblib": ("hydra.launcher.n_jobs=2", "threads=auto")}[launcher]
    done = command(*sweep, f"hydra/launcher={launcher}", *how)
    assert done.returncode == 0, done.stderr[-2000:]
    finished = sorted(path.parent for path in (tmp_path / "runs").rglob("summary.json"))
    assert len(finished) == 4
    assert len({path.parent.name for path in finished}) == 2  # one folder a learning rate ...
    assert {path.name for path in finished} == {"0", "1"}  # ... with one a seed inside
    # Jobs side by side share the cores.
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    share = min(share, int(os.environ.get("OMP_NUM_THREADS", share)))
    each = {"basic": 1, "joblib": share}[launcher]
    for run_dir in finished:
        device = json.loads((run_dir / "summary.json").read_text())["device"]
        assert f"CPU, {each} threads" in device
    again = command(*sweep, *how[1:])
    assert again.stdout.count("is finished") == 4


@pytest.mark.parametrize("also", [[], ["overwrite=true"]], ids=str)
@pytest.mark.parametrize("params", [None, {"seed": "0,1"}], ids=str)
def test_jobs_that_share_a_directory_are_refused_before_the_first(tmp_path, capsys, also, params):
    """With overwrite=true the last would be all that is left of them."""
    task = ["seed=0,1", f"run_dir={tmp_path / 'mine'}", *also]
    config = OmegaConf.create(
        {
            "hydra": {
                "overrides": {"task": task if params is None else task[1:]},
                "sweep": {"dir": str(tmp_path)},
                "sweeper": {"params": params},
            }
        }
    )
    with pytest.raises(SystemExit):
        SweepTable().on_multirun_start(config)
    told = capsys.readouterr().err
    assert f"run_dir={tmp_path / 'mine'} is one directory for all jobs of a sweep over seed" in told
    assert f"root={tmp_path / 'mine'} makes one below it for each job" in told
    for fine in (["seed=0,1"], task[1:], ["seed=0,1", "run_dir=x-${seed}"], ["run_dir=a,b"]):
        require_directories(fine)


def test_a_single_run_leaves_no_table():
    table = SweepTable()
    table.on_job_start(SimpleNamespace())
    table.on_job_end(SimpleNamespace(), None)


def test_jobs_are_told_as_they_were_typed(tmp_path, capsys):
    """Hydra is given settings of open groups with `++`, and says so itself if it may."""
    task = one_spelling(["dataset.env_kwargs.x=1,2", "dataset.columns={actions: u}", "seed=0"])
    config = OmegaConf.create(
        {"hydra": {"overrides": {"task": task}, "sweep": {"dir": str(tmp_path)}, "job": {"num": 0}}}
    )
    table = SweepTable()
    table.on_multirun_start(config)
    table.on_job_start(config)  # which has no run directory to be named by
    assert not table.conclude()
    atexit.unregister(table.conclude)
    typed = "dataset.env_kwargs.x=1,2 dataset.columns={actions: u} seed=0"
    told = capsys.readouterr().out
    assert told.startswith(f"job 0: {typed}\n") and f"stopped: {typed}: " in told
    assert "++" not in told
    assert as_typed("++agent.mine=1") == "++agent.mine=1"


def test_a_sweep_ends_where_it_cannot_keep_its_table(tmp_path, capsys):
    """Hydra would go on with a warning, and the sweep would end well though its jobs had failed."""
    config = OmegaConf.create(
        {"hydra": {"overrides": {"task": ["seed=0,1"]}, "sweep": {"dir": str(tmp_path / "file")}}}
    )
    config.hydra.job = {"num": 0}
    (tmp_path / "file").write_text("")
    table = SweepTable()
    with pytest.raises(SystemExit):
        table.on_multirun_start(config)
    assert f"error: could not write {tmp_path / 'file'}/jobs-" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        table.on_job_start(config)
    assert f"error: could not write {tmp_path / 'file'}/jobs-" in capsys.readouterr().err
