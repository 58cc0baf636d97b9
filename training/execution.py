"""Threads and compilation of a run, if its settings leave them open: decided once and stored.

The number of threads and compilation both change the last bits of results. A resumed run therefore
keeps its first choice, however busy the machine is then.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from reverie.mistake import Mistake
from reverie.training import checkpoint
from reverie.training.compilation import repays
from reverie.training.cores import count_cores
from reverie.training.files import write_json
from reverie.training.run_directory import EXECUTION


@dataclass(frozen=True)
class Execution:
    """What was decided.

    Attributes:
        threads: of torch, on the CPU.
        compiled: whether updates, rollouts and fits go through the compiler.
    """

    threads: int
    compiled: bool


def settle(
    directory: Path | None,
    *,
    threads: int | None,
    compiled: bool | None,
    updates: int,
    gains: bool = True,
) -> Execution:
    """Decide, or go on as before, and set torch's threads.

    Args:
        directory: of the run, None where nothing is kept.
        threads: what the settings say; None takes what the run began with, or torch's number.
        compiled: likewise; None lets a run compile on whose updates that repays.
        updates: of the whole run.
        gains: whether compiled updates of the agent are faster on a CPU.

    Raises:
        Mistake: what was written down earlier is damaged.
    """
    known = None if directory is None else _read(directory)
    if threads is None:
        # On a machine with fewer cores the bits would be others in any case.
        threads = torch.get_num_threads() if known is None else min(known.threads, count_cores())
    if compiled is None:
        compiled = gains and repays(updates) if known is None else known.compiled
    torch.set_num_threads(threads)
    decided = Execution(threads, compiled)
    if directory is not None and decided != known:
        write_json(directory / EXECUTION, asdict(decided))
    return decided


def copy_execution(run: Path, directory: Path) -> None:
    """Let a run that begins in `directory` go on as another one did.

    Raises:
        Mistake: what was written down there is damaged.
    """
    known = _read(run)
    if known is not None:
        write_json(directory / EXECUTION, asdict(known))


def _read(directory: Path) -> Execution | None:
    path = directory / EXECUTION
    if not path.is_file():
        # Runs of earlier versions were compiled on a GPU only.
        old = (directory / checkpoint.FILE).is_file()
        return Execution(torch.get_num_threads(), False) if old else None
    try:
        record = json.loads(path.read_text())
        threads, compiled = record["threads"], record["compiled"]
        if type(threads) is not int or threads < 1 or type(compiled) is not bool:
            raise ValueError("threads is a number, compiled true or false")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Mistake(
            f"{path} is damaged ({error}); delete it to let the run decide anew, or start over "
            "with overwrite=true"
        ) from error
    return Execution(threads, compiled)
