"""Output that nobody reads, as of `train.py | head -1`, ends no command."""

import os
import subprocess
import sys

import pytest

from reverie.output import outlive_readers

TALK = """
import sys
from rich.console import Console
from reverie.output import outlive_readers
outlive_readers()
outlive_readers()
console = Console()
for number in range(2000):
    console.print("line", number)
    print("error", number, file=sys.stderr)
open(sys.argv[1], "w").write("done")
"""
TD3_BC = ("algorithm=td3_bc", "updates=20")


@pytest.fixture
def model_free(train, command, tmp_path):
    """A small training without a model."""
    small = [s for s in train.small if not s.startswith(("world_model", "source"))]

    def run(*changes, **how):
        return command("train.py", *changes, *small, *TD3_BC, f"root={tmp_path / 'runs'}", **how)

    return run


@pytest.fixture
def talk(tmp_path):
    """Print to given ends; returns the status, and whether all was carried out."""

    def run(stdout, stderr, **environment):
        done = tmp_path / "done"
        process = subprocess.run(
            [sys.executable, "-c", TALK, str(done)],
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **environment},
            check=False,
        )
        return process.returncode, done.exists()

    return run


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("closed", ["stdout", "stderr", "both"])
def test_a_process_outlives_the_readers_of_its_pipes(talk, tmp_path, closed, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    with open(tmp_path / "read.txt", "w") as read:
        ends = [writer if closed in (name, "both") else read for name in ("stdout", "stderr")]
        assert talk(*ends, PYTHONUNBUFFERED=unbuffered) == (0, True)
    os.close(writer)
    lines = (tmp_path / "read.txt").read_text().splitlines()
    word = {"stdout": "error", "stderr": "line", "both": None}[closed]
    assert lines == ([f"{word} {number}" for number in range(2000)] if word else [])


def test_closed_output_goes_nowhere_and_never_into_a_file(tmp_path):
    done = tmp_path / "done"
    command = f'exec "{sys.executable}" -c "$0" "$1" >&- 2>&-'
    process = subprocess.run(["sh", "-c", command, TALK, str(done)], check=False)
    assert process.returncode == 0 and done.read_text() == "done"


def test_output_that_cannot_be_written_is_an_error_that_names_it():
    code = "from reverie.output import outlive_readers\noutlive_readers()\nprint('x', flush=True)"
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert process.returncode == 1
    last = process.stderr.splitlines()[-1]  # and nothing else at the end of the process
    assert last == "OSError: [Errno 28] No space left on device: 'standard output'"


def test_streams_of_others_stay(capsys):
    before = sys.stdout, sys.stderr
    outlive_readers()
    assert (sys.stdout, sys.stderr) == before


def test_commands_go_on_and_write_their_files(model_free, command, tmp_path):
    done = model_free(unread=True)
    assert done.returncode == 0
    (run_dir,) = [path.parent for path in (tmp_path / "runs").rglob("summary.json")]
    evaluated = command("evaluate.py", f"run={run_dir}", "episodes=1", unread=True)
    assert evaluated.returncode == 0 and (run_dir / "evaluation.json").is_file()
    swept = model_free("-m", "seed=1,2", unread=True)
    assert swept.returncode == 0 and len(list((tmp_path / "runs").rglob("summary.json"))) == 3
    page = tmp_path / "page"
    arguments = (str(tmp_path / "runs"), "--output", str(page))
    reported = command("-m", "reverie.training.report", *arguments, unread=True)
    assert reported.returncode == 0 and list(page.iterdir())
    checked = ("-m", "reverie.datasets.check", "dataset=builtin/pendulum-mixed")
    statuses = [command(*checked, unread=unread).returncode for unread in (False, True)]
    assert statuses[0] == statuses[1]


def test_errors_that_nobody_reads_keep_their_status(model_free):
    assert model_free("agent.discont=1", unread=True).returncode == 1
