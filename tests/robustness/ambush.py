"""Commands that kill themselves at a chosen moment, in forked copies of this interpreter.

The moments are counted, not timed: the n-th change of a file or folder, the n-th update of a fit or
a training, a write that is cut short at a byte. One by the clock may hit anything between.
"""

import atexit
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.cli.prepared import become, leave

CHECKOUT = Path(__file__).resolve().parents[2]
LONGEST = 120
"""Seconds of processor time after which a command hangs."""
_CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link")
_DEATHS = (-signal.SIGKILL, -signal.SIGXFSZ, -signal.SIGALRM)


@dataclass(frozen=True)
class Ending:
    """How a command ended: its exit status, negative for a signal, and what it printed."""

    status: int
    text: str

    @property
    def killed(self) -> bool:
        return self.status in _DEATHS


def run(
    arguments: Sequence[str],
    folder: Path,
    before: Callable[[], None] = lambda: None,
    printed_at: Path | None = None,
) -> Ending:
    """Run a script of the checkout, or `-m` and a module, in a folder, and wait for its end.

    Args:
        before: called in the process of the command.
    """
    if arguments[0] != "-m":
        arguments = [str(CHECKOUT / arguments[0]), *arguments[1:]]
    beside = printed_at or folder
    printed = [beside.with_name(f"{beside.name}.{end}.txt") for end in ("stdout", "stderr")]
    request = {
        "arguments": list(arguments),
        "environment": {
            **os.environ,
            "REVERIE_CACHE": "cache",
            "PYTHONPATH": str(CHECKOUT),
            "OMP_NUM_THREADS": "1",
        },
        "folder": str(folder),
        "limit": None,
        "death": None,
        "stdout": str(printed[0]),
        "stderr": str(printed[1]),
    }
    for path in printed:
        path.touch()  # a child may be killed before it opens them
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (LONGEST, LONGEST))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            before()
            become(request)
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:  # nothing of this program goes on in the child
            leave(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = "".join(path.read_text(errors="replace") for path in printed)
    for path in printed:
        path.unlink()
    return Ending(status, text)


def count(arguments: Sequence[str], folder: Path) -> tuple[Ending, dict[str, int]]:
    """Run a command to its end and count the moments at which it could be killed."""
    told = folder.with_name(f"{folder.name}.json")
    counts = {"file": 0, "update": 0}

    def add(kind: str) -> None:
        counts[kind] += 1

    def watch() -> None:
        _watch_files(partial(add, "file"))
        _watch_updates(partial(add, "update"))
        atexit.register(lambda: told.write_text(json.dumps(counts)))

    ending = run(arguments, folder, watch)
    counts = json.loads(told.read_text())
    told.unlink()
    return ending, counts


def die_at(kind: str, at: int) -> None:
    """Let this process be killed.

    Args:
        kind: `file` before the change number `at`, `update` after the update number `at`, `torn`
            in the first write beyond byte `at` of a file, `clock` after `at` milliseconds.
    """
    left = at

    def step() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    if kind == "file":
        _watch_files(step)
    elif kind == "update":
        _watch_updates(step)
    elif kind == "torn":
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which Python ignores
        resource.setrlimit(resource.RLIMIT_FSIZE, (at, at))
    else:
        signal.setitimer(signal.ITIMER_REAL, at / 1000)


def _watch_files(step: Callable[[], None]) -> None:
    """Call `step` before whatever changes a file or a folder."""

    def see(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if path != os.devnull and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                step()
        elif event in _CHANGES:
            step()

    sys.addaudithook(see)


def _watch_updates(step: Callable[[], None]) -> None:
    """Call `step` after every update of a fit or a training."""
    from reverie.training.progress import Stage

    advance_to = Stage.advance_to

    def advance_and_step(self: Stage, done: int) -> None:
        advance_to(self, done)
        step()

    Stage.advance_to = advance_and_step  # type: ignore[method-assign]
