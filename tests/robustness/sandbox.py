"""Runs a command in a forked copy of this interpreter, under limits, and says how it ended."""

import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cli.prepared import MODULES, become, leave

CHECKOUT = Path(__file__).resolve().parents[2]
LONGEST = 20.0
"""Seconds of processor time after which a command hangs."""
SLEEPING = 240.0
"""Seconds by the clock after which it hangs, however busy the machine is."""
LARGEST = 2 * 1024
"""Megabytes of memory in use, beyond which a command asks for too much."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        status: of its exit; negative for a signal.
        stdout, stderr: what it printed.
        seconds: of processor time.
        megabytes: the largest memory in use.
    """

    status: int
    stdout: str
    stderr: str
    seconds: float
    megabytes: float

    @property
    def errors(self) -> list[str]:
        """Lines with which it refused something."""
        return [line for line in self.stderr.splitlines() if line.startswith("error: ")]

    def fault(self) -> str | None:
        """What no damaged file may cause: a traceback, a crash, a hang, a large memory."""
        if self.seconds > LONGEST or self.status in (-signal.SIGKILL, -signal.SIGXCPU):
            return f"hangs ({self.seconds:.0f} s of processor time, status {self.status})"
        if self.status < 0:
            return f"crashes with {signal.Signals(-self.status).name}"
        if self.megabytes > LARGEST or "out of memory" in self.stderr:
            return f"asks for too much memory ({self.megabytes:,.0f} MB)"
        if "Traceback" in self.stderr or "Traceback" in self.stdout:
            return "shows a traceback"
        if "Exception ignored" in self.stderr:
            return "is noisy at its end"
        if self.status and len(self.errors) > 1:
            return "needs more than one line"
        return None


def import_everything() -> None:
    """Import what commands need, once, before anything is forked."""
    for name in MODULES:
        __import__(name)


def run(
    arguments: Sequence[str],
    folder: Path,
    *,
    at: Path = CHECKOUT,
    death: tuple[int, int] | None = None,
    then: Callable[[], None] | None = None,
) -> Outcome:
    """Run `arguments`, a script of the checkout or `-m` and a module, and wait for its end.

    Args:
        folder: where it may keep its caches and its output; it takes it for the home folder.
        at: its working folder.
        death: update and signal, with which it kills itself.
        then: called in its place, instead of a command.
    """
    printed = [folder / ".stdout", folder / ".stderr"]
    arguments = list(arguments)
    if arguments and arguments[0] != "-m":
        arguments[0] = str(CHECKOUT / arguments[0])
    request = {
        "arguments": arguments,
        "environment": {
            **os.environ,
            "REVERIE_CACHE": str(folder / "cache"),
            "HOME": str(folder),
            "COLUMNS": "120",
            "WANDB_MODE": "offline",
            "WANDB_SILENT": "true",
            "OMP_NUM_THREADS": "1",
        },
        "folder": str(at),
        "limit": None,
        "death": death,
        "stdout": str(printed[0]),
        "stderr": str(printed[1]),
    }
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _limit()
            become(request) if then is None else become_function(request, then)
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:  # nothing of the harness goes on in the child
            leave(status)
    killer = threading.Timer(SLEEPING, os.kill, (child, signal.SIGKILL))
    killer.start()
    _, status, usage = os.wait4(child, 0)
    killer.cancel()
    killer.join()
    texts = [path.read_bytes().decode(errors="replace") for path in printed]
    for path in printed:
        path.unlink()
    return Outcome(
        os.waitstatus_to_exitcode(status),
        *texts,
        seconds=usage.ru_utime + usage.ru_stime,
        megabytes=usage.ru_maxrss / 1024,
    )


def become_function(request: dict, then: Callable[[], None]) -> None:
    """Like `become`, for a function in place of a command."""
    for number, path in ((1, request["stdout"]), (2, request["stderr"])):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, number)
    os.environ.update(request["environment"])
    then()


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (int(LONGEST) + 10,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    memory = _data_in_use() + 3 * LARGEST * 1024**2
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def _data_in_use() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
