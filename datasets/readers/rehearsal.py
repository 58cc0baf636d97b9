"""Reads a file in a child process first: damaged bytes can crash the HDF5 library or hang it."""

import faulthandler
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from reverie.mistake import Mistake

SECONDS = 10
"""Of processor time that reading any file may take."""
BYTES_PER_SECOND = 2_000_000
"""Of a file, for which more time is given; gzip was read at 150 MB/s."""
CRASHES = ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL")


def rehearse(path: Path, read: Callable[[], object], remedy: str) -> None:
    """Do `read` in a child process and forget what comes of it; then it is safe to do here.

    What it raises there it will raise here, so only a crash counts. Where a process cannot be
    copied (Windows), nothing is done.

    Args:
        path: the file.
        read: reads it, and changes nothing.
        remedy: what to do about a file that cannot be read.

    Raises:
        Mistake: the child crashed, or was still reading after `SECONDS` of processor time and the
            file's size by `BYTES_PER_SECOND`.
    """
    if not hasattr(os, "fork"):
        return
    seconds = SECONDS + path.stat().st_size // BYTES_PER_SECOND if path.is_file() else SECONDS
    with warnings.catch_warnings():
        # Other threads of this process do not exist in the child, which needs none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            _become_quiet(seconds)
            read()
        finally:  # whatever happens, nothing of this program goes on in the child
            os._exit(0)
    _, status = os.waitpid(child, 0)
    end = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else None
    if end in CRASHES:
        raise Mistake(f"{path} makes the HDF5 library crash ({end}); it may be damaged: {remedy}")
    if end == "SIGXCPU":
        raise Mistake(
            f"{path} was not read to its end in {seconds} s of processor time; it may be damaged: "
            f"{remedy}"
        )


def _become_quiet(seconds: int) -> None:
    import resource  # which Windows lacks

    faulthandler.disable()
    logging.disable()
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (it closes with the child)
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stdout.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    if most == resource.RLIM_INFINITY or seconds < most:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, most))
