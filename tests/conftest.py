"""Shared fixtures; switches the shape checker on for everything imported after it."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from tests.pictures import leave_pictures_blank, render, rendered
from tests.shapes import check_shapes

CHECKOUT = Path(__file__).parent.parent

# A compiled function cannot look into the checker, so tests of compilation run without it.
CHECKED = [f"reverie.{layer}" for layer in ("agents", "world_models", "datasets", "envs")]
if os.environ.get("REVERIE_SHAPE_CHECKS", "1") == "1":
    check_shapes(CHECKED)
leave_pictures_blank()


@pytest.fixture(autouse=True)
def _seeded_and_apart(request, tmp_path_factory, monkeypatch):
    """Every test starts from the same random state and writes no cache of the user's."""
    torch.manual_seed(0)
    if rendered(request.node):
        render(monkeypatch)
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture
def spec():
    from reverie.envs.specs import Spec

    return Spec(
        env_id=None, obs_dim=3, action_dim=2, action_low=(-1.0, -1.0), action_high=(1.0, 1.0)
    )


@pytest.fixture
def make_batch():
    """Random transitions of any leading shape."""
    from reverie.datasets.transition import Transition

    def make(*lead, obs_dim=3, action_dim=2):
        return Transition(
            obs=torch.randn(*lead, obs_dim),
            action=torch.rand(*lead, action_dim) * 2 - 1,
            reward=torch.randn(*lead),
            next_obs=torch.randn(*lead, obs_dim),
            terminated=torch.rand(*lead) < 0.2,
            is_real=torch.rand(*lead) < 0.5,
        )

    return make


@pytest.fixture
def make_sac():
    """A small SAC; keywords replace its numbers."""
    from reverie.agents.sac import SAC

    def make(spec, **changes):
        hyperparameters = {
            "seeds": 1,
            "updates": 1000,
            "critics": 2,
            "hidden": [16, 16],
            "activation": "relu",
            "log_std_bounds": [-5.0, 2.0],
            "actor_learning_rate": 1e-3,
            "critic_learning_rate": 1e-3,
            "temperature_learning_rate": 1e-3,
            "actor_cosine": False,
            "discount": 0.9,
            "tau": 0.005,
            "initial_temperature": 1.0,
            "max_temperature": 1.0,
            "target_entropy": None,
            "entropy_in_target": True,
            "order": ["critic", "policy"],
            "normalise_critic_obs": False,
            "imitation": 0.0,
            "critic_layer_norm": False,
            "regulariser": None,
        }
        return SAC(spec=spec, **{**hyperparameters, **changes})

    return make


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
    """An interpreter with what commands need imported, see `cli/prepared.py`."""
    with subprocess.Popen(
        [sys.executable, CHECKOUT / "tests" / "cli" / "prepared.py"],
        cwd=CHECKOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


@pytest.fixture
def command(request, tmp_path, environment, prepared):
    """`command("train.py", "seed=1")` runs it in the checkout and gives what it printed.

    `limit` is the largest file it may write, in bytes; `death=(120, signal.SIGKILL)` sends it that
    signal when it has logged update 120; `unread` lets it print into pipes that nobody reads.
    """

    def run(*arguments, timeout=600, limit=None, death=None, unread=False):
        printed = {name: tmp_path / f"{name}.txt" for name in ("stdout", "stderr")}
        if unread:
            printed = {name: tmp_path / f"{name}.pipe" for name in printed}
            for path in printed.values():
                path.unlink(missing_ok=True)
                os.mkfifo(path)
                # Both ends wait for each other; then this one goes at once.
                threading.Thread(target=lambda path=path: path.open().close(), daemon=True).start()
        asked = {
            "arguments": arguments,
            "environment": environment,
            "folder": str(CHECKOUT),
            "limit": limit,
            "death": death,
            "rendered": rendered(request.node),
            **{name: str(path) for name, path in printed.items()},
        }
        prepared.stdin.write(json.dumps(asked) + "\n")
        prepared.stdin.flush()
        child = int(prepared.stdout.readline())
        killer = threading.Timer(timeout, os.kill, (child, signal.SIGKILL))
        killer.start()
        status = int(prepared.stdout.readline())
        killer.cancel()
        texts = {name: "" if unread else path.read_text() for name, path in printed.items()}
        if death is None:
            assert status != -signal.SIGKILL, f"{arguments} took over {timeout} s: {texts}"
        return subprocess.CompletedProcess(arguments, status, **texts)

    return run
