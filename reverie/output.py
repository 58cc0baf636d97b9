"""Output that nobody reads any more, as of `train.py | head -1`, stops no command."""

import errno
import io
import os
import sys
from typing import Any

_GONE = (errno.EPIPE, errno.EIO, errno.ESHUTDOWN, errno.ECONNRESET)
"""How the system says that a pipe, a terminal or a socket has no reader left."""


class _Outliving(io.FileIO):
    """Standard output or error, which becomes the null device once its reader is gone."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            number, gone = self.fileno(), error.errno in _GONE
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, number)  # of what this process starts as well
            os.close(null)
            if not gone:  # once, for what is still in the buffer would fail again at the end
                name = "standard output" if number == 1 else "standard error"
                raise OSError(error.errno, os.strerror(error.errno or 0), name) from None
            return memoryview(data).nbytes


def outlive_readers() -> None:
    """Let standard output and error go nowhere once nobody reads them, or where they are closed.

    Streams that somebody has put in their place, as a notebook does, stay.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # closed since the start of the process
            null = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, open(null, "w", closefd=False))  # noqa: SIM115
            continue
        buffer = getattr(stream, "buffer", None)
        raw = getattr(buffer, "raw", buffer)  # there is no other buffer with PYTHONUNBUFFERED=1
        if type(raw) is not io.FileIO or raw.fileno() != number:
            continue
        stream.flush()
        outliving = _Outliving(number, "w", closefd=False)
        replaced = io.TextIOWrapper(
            outliving if raw is buffer else io.BufferedWriter(outliving),
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, replaced)
