"""Runs the commands as a user types them, with settings small enough for a test."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent.parent

SMALL = (
    "dataset.episodes=12",
    "updates=60",
    "batch_size=32",
    "agent.hidden=[16,16]",
    "world_model.hidden=[16]",
    "world_model.weight_decay=[0.0,0.0]",
    "world_model.max_epochs=2",
    "source.starts=40",
    "source.every=20",
    "source.horizon=3",
    "evaluate.every=20",
    "evaluate.episodes=2",
    "probe_starts=16",
    "value_gap.starts=0",
    "log_every=10",
    "checkpoint_every=10",
    "threads=1",
)


@pytest.fixture
def environment(tmp_path_factory):
    """Of the child processes: caches shared by all tests of this worker, no shape checker."""
    return {
        **os.environ,
        "REVERIE_CACHE": str(tmp_path_factory.getbasetemp() / "cache"),
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "120",
    }


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """An interpreter with the large libraries imported, see `prepared.py`."""
    with subprocess.Popen(
        [sys.executable, Path(__file__).with_name("prepared.py")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


@pytest.fixture
def command(tmp_path, environment, prepared):
    """`command("train.py", "seed=1")` runs it in the checkout and gives what it printed."""

    def run(script, *arguments, timeout=180, limit=None):
        printed = {name: tmp_path / f"{name}.txt" for name in ("stdout", "stderr")}
        request = {
            "arguments": [script, *arguments],
            "environment": environment,
            "folder": str(CHECKOUT),
            "limit": limit,
            **{name: str(path) for name, path in printed.items()},
        }
        prepared.stdin.write(json.dumps(request) + "\n")
        prepared.stdin.flush()
        child = int(prepared.stdout.readline())
        killer = threading.Timer(timeout, os.kill, (child, signal.SIGKILL))
        killer.start()
        status = int(prepared.stdout.readline())
        killer.cancel()
        texts = {name: path.read_text() for name, path in printed.items()}
        assert status != -signal.SIGKILL, f"{request['arguments']} took over {timeout} s: {texts}"
        return subprocess.CompletedProcess([script, *arguments], status, **texts)

    return run


@pytest.fixture
def train(command, tmp_path):
    """A small training run with changes; run directories lie under the test's own folder."""

    def run(*changes, script="train.py", limit=None):
        flags = [change for change in changes if change.startswith("-")]
        values = [change for change in changes if not change.startswith("-")]
        return command(script, *flags, f"root={tmp_path / 'runs'}", *SMALL, *values, limit=limit)

    run.small = SMALL
    return run


@pytest.fixture
def call(command):
    """Run a command in one of three ways; returns its status, output and modules of two names."""

    def run(kind, name, *arguments):
        done = command("tests/cli/loaded_twice.py", kind, name, *arguments)
        *printed, last = done.stdout.splitlines() or [""]
        assert last.startswith("{"), done.stderr
        found = json.loads(last)
        return found["status"], "\n".join(printed), done.stderr, found["twice"]

    return run


@pytest.fixture
def fails(command, tmp_path):
    """The single line with which a command refuses something."""

    def run(*arguments, script="train.py"):
        root = () if script == "evaluate.py" else (f"root={tmp_path / 'runs'}",)
        done = command(script, *root, *arguments)
        assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
        errors = [line for line in done.stderr.splitlines() if line.strip()]
        assert len(errors) == 1, done.stderr
        assert errors[0].startswith("error: ")
        return errors[0]

    return run
