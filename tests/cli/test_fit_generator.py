"""The fit of a generator ahead of its run, in one process and in two."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reverie.mistake import Mistake
from reverie.world_models.diffusion.sharing import Shared
from tests.world_models.diffusion.test_generator import data, generator  # noqa: F401

CHECKOUT = Path(__file__).parents[2]
SMALL = (
    *("algorithm=synther", "dataset.episodes=12", "threads=1", "device=cpu", "compile=false"),
    *("generator.steps=40", "generator.batch=32", "generator.measure_every=10"),
    *("generator.checkpoint_every=10", "generator.heldout_records=64"),
    *("generator.network.width=32", "generator.network.blocks=2"),
)
TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture
def group():
    """A process group of this process alone."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def together(environment):
    """Run something in two processes; returns its status and what it printed as errors."""

    def run(*what):
        done = subprocess.run(
            [*TWO, *map(str, what)],
            cwd=CHECKOUT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
        return done.returncode, done.stderr

    return run


def read(cache):
    """The one fitted generator of a cache."""
    (path,) = (cache / "generators").glob("*.pt")
    return torch.load(path, weights_only=True)


def test_the_parallel_fit_of_one_process_is_the_fit(data, group):  # noqa: F811
    alone, shared = generator(), generator()
    shared.share = Shared()
    assert shared.fit(data) == alone.fit(data)
    for name, value in alone.state_dict().items():
        assert torch.equal(shared.state_dict()[name], value), name


def test_processes_take_parts_that_make_up_the_batch(group):
    parts = []
    for rank in range(3):
        share = Shared()
        share.processes, share.rank = 3, rank
        if rank:  # the first one would call the others
            share.begin(12)
            parts.append(share.part(torch.arange(12)).tolist())
    assert parts == [[4, 5, 6, 7], [8, 9, 10, 11]]
    with pytest.raises(Mistake, match="batch=10 cannot be shared by 3 processes"):
        share.begin(10)


@pytest.mark.slow
def test_two_processes_fit_what_one_does(command, together, tmp_path):
    one, two = (f"cache={tmp_path / name}" for name in ("one", "two"))
    done = command("-m", "training.fit_generator", *SMALL, one)
    assert done.returncode == 0, done.stderr
    status, errors = together("-m", "training.fit_generator", *SMALL, two)
    assert status == 0, errors
    alone, shared = read(tmp_path / "one"), read(tmp_path / "two")
    assert shared["signature"] == alone["signature"]
    for name in ("holdout_loss", "train_loss"):
        assert shared["described"][name] == pytest.approx(alone["described"][name], rel=1e-4)
    for name, value in alone["state"].items():
        torch.testing.assert_close(shared["state"][name], value, rtol=1e-4, atol=1e-5)
    run = ("updates=10", "batch_size=16", "source.records=64", "evaluate.every=0")
    off = (
        "verdict.starts=0",
        "probe_starts=0",
        "checkpoint_every=0",
        f"run_dir={tmp_path / 'run'}",
    )
    done = command("train.py", *SMALL, *run, *off, two)
    assert done.returncode == 0, done.stderr
    assert "generator: reused" in done.stdout


@pytest.mark.slow
def test_two_processes_go_on_where_one_of_them_died(command, together, tmp_path):
    one, two = (f"cache={tmp_path / name}" for name in ("one", "two"))
    status, _ = together("-m", "tests.cli.dying_process", *SMALL, two)
    assert status != 0
    (partial,) = (tmp_path / "two" / "generators").glob("*.pt")
    assert partial.name.endswith(".partial.pt")
    assert torch.load(partial, weights_only=True)["state"]["done"] == 20
    status, errors = together("-m", "training.fit_generator", *SMALL, two)
    assert status == 0, errors
    done = command("-m", "training.fit_generator", *SMALL, one)
    assert done.returncode == 0, done.stderr
    for name, value in read(tmp_path / "one")["state"].items():
        torch.testing.assert_close(
            read(tmp_path / "two")["state"][name], value, rtol=1e-4, atol=1e-5
        )


@pytest.mark.slow
def test_two_processes_tell_a_mistake_once(together, tmp_path):
    cache = f"cache={tmp_path}"
    for change, words in (
        ("generator.batch=33", "batch=33 cannot be shared by 2 processes"),
        ("generator.batch=0", "generator.batch"),
        ("algorithm=mopo", "there is no generator to fit"),
    ):
        own = [each for each in SMALL if "generator" not in each] if "mopo" in change else SMALL
        status, errors = together("-m", "training.fit_generator", *own, change, cache)
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert status != 0 and len(lines) == 1 and words in lines[0], errors
    assert not list(tmp_path.rglob("*.pt"))
