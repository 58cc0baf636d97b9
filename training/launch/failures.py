"""The record of a crashed run in its directory, by which a sweep tells it from a killed one."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reverie.mistake import Mistake, Unwritable
from reverie.text import one_line
from reverie.training.files import write_json
from reverie.training.launch.mistakes import DEFECT, explain, mark_defect
from reverie.training.run_directory import FAILED, is_empty
from reverie.training.stored import read_record


def in_one_line(error: BaseException) -> str:
    """What went wrong; of a defect, with its type and the file that keeps its traceback."""
    told = explain(error)
    if told is not None:
        return told
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith(f"{DEFECT}; ")]
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return "; ".join([text, *(note.removeprefix(f"{DEFECT}; ") for note in notes)])


def reason(run_dir: Path) -> str | None:
    """Why the latest attempt crashed, None where it did not."""
    path = run_dir / FAILED
    if not path.is_file():
        return None
    try:
        record = read_record(path)
    except Mistake:
        record = {}
    if not isinstance(record.get("reason"), str):
        return f"{path} is damaged, so the reason is unknown"
    pointer = f"; {path} keeps its traceback" if record.get("defect") else ""
    return f"{one_line(record['reason'])}{pointer}"


@contextmanager
def record_failure(run_dir: Path, always: bool = True) -> Iterator[None]:
    """Keep in the run directory why the block crashed.

    No crash are an interruption, a kill, and a disk that is full or cannot be written.

    Args:
        run_dir: of the run.
        always: also keep what the user was told in one line before anything was computed, as a
            mistyped dataset; a sweep does not try that again.
    """
    path = run_dir / FAILED
    path.unlink(missing_ok=True)
    try:
        yield
    except Unwritable:
        raise
    except Exception as error:
        if not always and explain(error) is not None and is_empty(run_dir):
            raise
        told = {
            "reason": in_one_line(error),
            "defect": explain(error) is None,
            "traceback": traceback.format_exc(),
        }
        try:
            write_json(path, told)
        except Mistake as full:  # the error itself matters more
            error.add_note(f"and {full}")
        else:
            mark_defect(error, path)
        raise
