"""Reads a file in a child process, because damaged bytes can crash or hang the HDF5 library."""

import faulthandler
import json
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reverie.datasets.arrays import array_in, new_array, new_file
from reverie.mistake import Mistake

SECONDS = 10
"""Of processor time that reading any file may take."""
BYTES_PER_SECOND = 2_000_000
"""Of a file, for which more time is given; gzip was read at 150 MB/s."""
CRASHES = ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL")

Arrays = dict[str, np.ndarray]
New = Callable[[tuple[int, ...], Any], np.ndarray]
"""Makes an array of a shape and a type to read into."""
Logged = list[tuple[str, int, str]]
"""Logger, level and text."""
_MOST_ARRAYS = 64  # that are handed over; a message carries no more than 253


def read_in_child(path: Path, read: Callable[[New], Arrays], remedy: str) -> Arrays:
    """What `read` gives, read once, by a child process that a crash cannot take us with.

    The child reads into memory that both share. Where it ends without handing anything over, for
    `read` raised something or the system lacks what this takes (Windows), `read` is done here.

    Args:
        path: the file.
        read: reads it, and changes nothing; arrays that it asks for are shared, others copied.
        remedy: what to do about a file that cannot be read.

    Raises:
        Mistake: the child crashed, or was still reading after `SECONDS` of processor time and the
            file's size by `BYTES_PER_SECOND`.
    """
    handed = _in_child(path, partial(_hand_over, read), remedy)
    return read(new_array) if handed is None else handed


def rehearse(path: Path, read: Callable[[], object], remedy: str) -> None:
    """Do `read` in a child process and forget what comes of it; then it is safe to do here.

    For what is small. What it raises there it will raise here, so only a crash counts.

    Raises:
        Mistake: as `read_in_child`.
    """
    _in_child(path, lambda *_: read(), remedy)


def _in_child(
    path: Path, work: Callable[[socket.socket, Logged], object], remedy: str
) -> Arrays | None:
    """What some work in a child process sends, None for nothing."""
    if not hasattr(os, "fork"):
        return None
    seconds = SECONDS + path.stat().st_size // BYTES_PER_SECOND if path.is_file() else SECONDS
    ours, theirs = socket.socketpair()
    with ours, warnings.catch_warnings():
        # Other threads of this process do not exist in the child, which needs none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
        if child == 0:
            try:
                ours.close()
                work(theirs, _become_quiet(seconds))
            finally:  # whatever happens, nothing of this program goes on in the child
                os._exit(0)
        theirs.close()
        handed = _take_over(ours)
        _, status = os.waitpid(child, 0)
    end = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else None
    if end in CRASHES:
        raise Mistake(f"{path} makes the HDF5 library crash ({end}); it may be damaged: {remedy}")
    if end == "SIGXCPU":
        raise Mistake(
            f"{path} was not read to its end in {seconds} s of processor time; it may be damaged: "
            f"{remedy}"
        )
    return handed


def _hand_over(read: Callable[[New], Arrays], to: socket.socket, logged: Logged) -> None:
    """Read, and send where the arrays are and what was logged."""
    files: dict[int, int] = {}  # of shared arrays, by where they begin in memory

    def new(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        file = new_file(shape, dtype)
        array = array_in(file, shape, dtype)
        files[array.__array_interface__["data"][0]] = file
        return array

    arrays = read(new)
    told, sent = [], []
    for name, array in arrays.items():
        file = files.get(array.__array_interface__["data"][0])
        if file is None or not array.flags.c_contiguous:
            copy = new(array.shape, array.dtype)
            copy[...] = array
            file = files[copy.__array_interface__["data"][0]]
        if array.dtype.hasobject:  # which no other process could follow
            return
        told.append([name, list(array.shape), array.dtype.str])
        sent.append(file)
    message = json.dumps([told, logged]).encode()
    if len(sent) <= _MOST_ARRAYS:
        socket.send_fds(to, [len(message).to_bytes(8, "big")], sent)
        to.sendall(message)


def _take_over(source: socket.socket) -> Arrays | None:
    """What the child has read, None for nothing; what it would have logged is logged."""
    files: list[int] = []
    try:
        head, files, _, _ = socket.recv_fds(source, 8, _MOST_ARRAYS)
        if len(head) < 8:
            return None
        with source.makefile("rb") as stream:
            told, logged = json.loads(stream.read(int.from_bytes(head, "big")))
        for name, level, text in logged:
            logging.getLogger(name).log(level, "%s", text)
        return {
            name: array_in(file, tuple(shape), np.dtype(dtype))
            for (name, shape, dtype), file in zip(told, files, strict=True)
        }
    except (OSError, ValueError):  # it ended in the middle
        return None
    finally:
        for file in files:
            os.close(file)


def _become_quiet(seconds: int) -> Logged:
    """Show nothing, end after so much processor time; what is logged from now on goes to a list."""
    import resource  # which Windows lacks

    logged: Logged = []

    def collect(logger: logging.Logger, record: logging.LogRecord) -> None:
        logged.append((record.name, record.levelno, record.getMessage()))

    logging.Logger.callHandlers = collect  # type: ignore[method-assign, assignment]
    faulthandler.disable()
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (it closes with the child)
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stdout.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    if most == resource.RLIM_INFINITY or seconds < most:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, most))
    return logged
