"""Atomic writes, safe loads, and one process per directory."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO

import torch
from filelock import FileLock, Timeout
from torch import nn

from reverie.mistake import Mistake, writing
from reverie.sealed import require_whole, seal
from reverie.temporary import replacing

DIGEST = "sha256"
"""Key of a JSON object whose value is the digest of the others."""
LOCK = ".lock"
"""File in a directory that a process works in."""
_held: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())
FORMAT = 2
"""Version of everything written by `save_tensors`; raise it when the contents change meaning."""
_REMEDY = (
    "free some disk space or choose a folder that can be written, then run the same command again "
    "(the previous file is intact)"
)


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Let `write` fill a temporary neighbour of `path`, then rename it into place.

    Raises:
        Mistake: the disk is full or not writable; whatever stood at `path` is untouched.
    """
    with writing(path, _REMEDY):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacing(path) as temporary, open(temporary, "w+b") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
        except RuntimeError as error:
            # torch reports a failed write as RuntimeError, raised while it handles the reason.
            cause = error.__context__
            if isinstance(cause, OSError):
                raise OSError(cause.errno, cause.strerror) from error
            raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda file: _write_all(file, text.encode()))


def write_json(path: Path, value: Any, *, with_digest: bool = False) -> None:
    """Write plain values as indented JSON, atomically. NaN is written as null.

    Args:
        with_digest: whether an object also tells the SHA-256 of its other values, see
            `stored.read_record`.
    """
    plain = _without_nan(value)
    if with_digest:
        plain[DIGEST] = digest_of(plain)
    write_text(path, json.dumps(plain, indent=2, allow_nan=False) + "\n")


def digest_of(record: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of the values that a JSON object holds beside its digest."""
    others = {key: value for key, value in record.items() if key != DIGEST}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


PLAIN = (
    *("identity", "settings", "spec", "reference", "update", "seconds"),
    *("signature", "described", "fitted_on"),
)
"""Parts of what `save_tensors` writes that hold no tensors, whoever wrote them."""


def save_tensors(path: Path, kind: str, contents: Mapping[str, Any]) -> None:
    """Save tensors and plain values with a format mark and a digest, atomically."""
    record = {"reverie": kind, "format": FORMAT, **contents}

    def write(file: BinaryIO) -> None:
        torch.save(record, file)
        seal(file)

    write_atomically(path, write)


def load_tensors(
    path: Path,
    kind: str,
    device: torch.device | str = "cpu",
    remedy: str = "delete it and run again",
) -> dict[str, Any]:
    """Load what `save_tensors` wrote, if it is whole to the last bit.

    Args:
        remedy: what to do where it is not; end of the message.

    Raises:
        Mistake: no such file; not ours, damaged, of another kind, or of another format version.
    """
    if not path.is_file():
        raise Mistake(f"{path} does not exist; check the path, or train first")
    try:
        require_whole(path)
        record = torch.load(path, map_location=device, weights_only=True)
    except OSError as error:
        raise Mistake(
            f"{path} cannot be read: {error.strerror or error}; make it readable, or restore it"
        ) from error
    except Exception as error:
        # torch raises many types for a damaged file; all of them mean the same to the user.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "weights" in reason.lower():  # torch goes on to say how to load it all the same
            reason = "it holds more than tensors and plain values, so loading it could run code"
        raise Mistake(
            f"{path} cannot be read as {_with_article(kind)} ({reason}); it is damaged or not "
            f"ours, so load it in no other way: {remedy}"
        ) from error
    marks = (record.get("reverie"), record.get("format")) if isinstance(record, dict) else ()
    if not is_plain(marks) or not marks or marks[0] != kind:  # a tensor is like nothing
        raise Mistake(f"{path} is not {_with_article(kind)} of this project; give the path of one")
    if marks[1] != FORMAT:
        raise Mistake(
            f"{path} was written by another version of Reverie (format {marks[1]}, "
            f"this one reads {FORMAT}); make it again (a run: its command with another root=), or "
            "use the version that wrote it"
        )
    for name in PLAIN:
        if not is_plain(record.get(name)):
            raise Mistake(f"{path} is damaged (its {name} holds more than plain values); {remedy}")
    return record


def is_plain(value: Any) -> bool:
    """Whether a value consists of what JSON could hold, tuples included."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, str | int | float)


def require_finite(
    path: Path, module: nn.Module, state: Mapping[str, Any], remedy: str = "train again"
) -> None:
    """Refuse a module's state that nothing can be computed with.

    Args:
        path: where it lies, or is to be written.
        state: of the module's `state_dict`. Its weights must be finite; statistics may be infinite,
            as a bound that was never met.

    Raises:
        Mistake: names the first tensor that is not finite.
    """
    weights = {name for name, _ in module.named_parameters()}
    for name, value in state.items():
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            continue
        if not (value.isfinite() if name in weights else ~value.isnan()).all():
            raise Mistake(
                f"{path} holds weights that are not finite ({name}), for the training diverged; "
                f"{remedy}"
            )


@contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Claim a directory, made where there is none, while the block runs or the process lives.

    Raises:
        Mistake: another process, or another thread of this one, holds it.
    """
    held = _held.get()
    if holds(directory):  # by a block around this one
        yield
        return
    lock = FileLock(directory / LOCK)
    with writing(directory):
        _lock(directory, lock)
    before = _held.set(held | {directory.resolve()})
    try:
        yield
    finally:
        _held.reset(before)
        # Removed while it is held: whoever opened it before and locks it after sees that it has
        # no name any more, and is refused. Segments does not remove what is open.
        with suppress(PermissionError):
            (directory / LOCK).unlink(missing_ok=True)
        lock.release()


def holds(directory: Path) -> bool:
    """Whether this thread is in a block of `lock_directory` for this directory."""
    return directory.resolve() in _held.get()


def _lock(directory: Path, lock: FileLock) -> None:
    for attempt in range(10):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
            return
        except Timeout as error:  # which is an OSError
            raise Mistake(
                f"another process is working in {directory}; wait for it, or give this run its "
                "own directory with run_dir=..."
            ) from error
        except FileNotFoundError:  # whoever made a folder above takes it away, being empty
            if attempt == 9:
                raise


def _with_article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _write_all(file: BinaryIO, data: bytes) -> None:
    file.write(data)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
