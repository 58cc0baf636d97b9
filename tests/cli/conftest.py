"""Runs the commands as a user types them, with settings small enough for a test."""

import json

import pytest

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
    "verdict.starts=0",
    "log_every=10",
    "checkpoint_every=10",
    "threads=1",
)


@pytest.fixture
def own_module(environment, tmp_path):
    """`own_module("name", text)` is a module of a user, outside of the checkout."""

    def write(name, text):
        folder = tmp_path / "own"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text)
        environment["PYTHONPATH"] = str(folder)

    return write


@pytest.fixture
def train(command, tmp_path):
    """A small training run with changes; run directories lie under the test's own folder."""

    def run(*changes, script="train.py", **how):
        flags = [change for change in changes if change.startswith("-")]
        values = [change for change in changes if not change.startswith("-")]
        return command(script, *flags, f"root={tmp_path / 'runs'}", *SMALL, *values, **how)

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
