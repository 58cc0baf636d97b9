"""What a crashed run leaves in its directory, so that a sweep can tell it from a killed one."""

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reverie.training.files import write_json
from reverie.training.launch.mistakes import explain
from reverie.training.run_directory import FAILED


def in_one_line(error: BaseException) -> str:
    """What went wrong; of a defect of the program, which does not explain itself, with its type."""
    told = explain(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}" if told is None else told


def reason(run_dir: Path) -> str | None:
    """Why the latest attempt crashed, None where it did not."""
    path = run_dir / FAILED
    if not path.is_file():
        return None
    try:
        return str(json.loads(path.read_text())["reason"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return f"{path} is damaged, so nobody knows"


@contextmanager
def kept(run_dir: Path) -> Iterator[None]:
    """Keep in the run directory why the block crashed; an interruption or a kill is no crash."""
    (run_dir / FAILED).unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        told = {"reason": in_one_line(error), "traceback": traceback.format_exc()}
        try:
            write_json(run_dir / FAILED, told)
        except OSError as full:  # the error itself matters more
            error.add_note(f"and {full}")
        raise
