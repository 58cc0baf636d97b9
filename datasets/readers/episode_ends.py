"""Where the episodes of a file of flat arrays end, and which ends are terminations."""

import logging
import re

import numpy as np

from reverie.datasets.arrays import stretches_of
from reverie.datasets.readers.columns import Columns, first_rows, flag, is_loose, limit_ends
from reverie.mistake import Mistake

log = logging.getLogger(__name__)

# Where a file stores no time limits, a next observation this far (relative) from the following
# row's observation shows that another episode begins there.
JUMP = 1e-5


def truncated_rows(file: str, columns: Columns, limit: int | None) -> np.ndarray:
    """Where episodes end without terminating: from the file, from jumps, or from a counter."""
    terminated = flag(columns["terminals"])
    count = len(terminated)
    if "index" in columns or "episodes" in columns:
        ends = (
            _after_index(file, columns["index"], count)
            if "index" in columns
            else np.append(columns["episodes"][1:], True)
        )
        return ends | flag(columns["timeouts"]) if "timeouts" in columns else ends
    if "timeouts" in columns:
        return columns["timeouts"]
    if are_inferred(columns):
        jump = jumps(columns["observations"], columns["next_observations"])
        log.info("%s records no timeouts; found %d jumps between episodes", file, int(jump.sum()))
        return jump
    if limit is not None:
        return limit_ends(terminated, limit)
    log.warning(
        "%s records no timeouts and no next observations, and no time limit is given: only "
        "terminal rows end an episode (set dataset.max_episode_steps if there is a limit)",
        file,
    )
    return np.zeros(count, dtype=bool)


def _after_index(file: str, index: np.ndarray, count: int) -> np.ndarray:
    """`[N]` last rows of trajectories, of NeoRL's array of their first rows."""
    starts = index.reshape(-1)
    rows = starts.astype(np.int64)
    if (rows != starts).any() or (rows < 0).any() or (rows >= count).any():
        raise Mistake(
            f"{file}: index must hold first rows of trajectories, whole numbers from 0 to "
            f"{count - 1}, found values from {starts.min()} to {starts.max()}"
        )
    if len(rows) == count > 1:
        raise Mistake(
            f"{file}: index has an entry for every row, where it should hold the first row of "
            "each trajectory; set 'dataset.columns={index: null}' and store timeouts"
        )
    if len(np.unique(rows)) < len(rows):  # lengths of trajectories, for example
        raise Mistake(
            f"{file}: index must hold the first row of each trajectory, and some stand there "
            "twice; correct it, or leave it out and store timeouts"
        )
    # NeoRL leaves 0 out; a trajectory of one row at either end is none.
    if len(rows) and (rows.min() == 1 or (rows.min() > 1 and rows.max() == count - 1)):
        raise Mistake(
            f"{file}: index must hold the first row of each trajectory, counted from 0, found "
            f"{rows.min()} to {rows.max()} of {count} rows; subtract 1 if it counts from 1, "
            "store timeouts if it holds last rows, or add 0 if these are first rows"
        )
    ends = np.zeros(count, dtype=bool)
    ends[rows[rows > 0] - 1] = True
    return ends


def are_inferred(columns: Columns) -> bool:
    """Whether only the next observations tell where episodes end."""
    return "next_observations" in columns and not {"index", "episodes", "timeouts"} & set(columns)


def first_rows_of(source: str, episodes: np.ndarray, name: str, count: int) -> np.ndarray | None:
    """`[N]` first rows of episodes that are told apart in each row; None of anything else."""
    if episodes.shape not in ((count,), (count, 1)) or (episodes != episodes).any():
        return None
    episodes = episodes.reshape(-1)
    begins = first_rows(episodes, re.split(r"[/.]", name)[-1].lower())
    if begins is not None:
        return begins
    begins = np.append(True, episodes[1:] != episodes[:-1])
    rows = np.flatnonzero(begins)
    _, firsts = np.unique(episodes[rows], return_index=True)
    if len(firsts) < len(rows):
        row = int(rows[np.setdiff1d(np.arange(len(rows)), firsts)[0]])
        raise Mistake(
            f"{source}: {name} is not sorted: {episodes[row]} comes back in row {row} after other "
            "episodes; sort the rows by it, or set 'dataset.columns={episodes: null}' and store "
            "timeouts"
        )
    return begins


def require_terminations(source: str, columns: Columns, name: str) -> None:
    """Refuse or remark flags of ends under a name that does not tell terminations from limits."""
    if not is_loose(name) or "index" in columns:
        return
    if "timeouts" not in columns:
        log.warning(
            "%s: %s is taken for terminations; if it marks time limits too, store them apart, as "
            "timeouts",
            source,
            name,
        )
        return
    limits = flag(columns["timeouts"])
    if limits.any() and flag(columns["terminals"])[limits].all():
        raise Mistake(
            f"{source}: {name} marks every time limit too, so it holds ends of episodes, not "
            f"terminations; store terminals = {name} without the time limits"
        )


def jumps(obs: np.ndarray, next_obs: np.ndarray) -> np.ndarray:
    """`[N]` whether a row's successor `[N, D]` is not the following row's observation."""
    found = np.zeros(len(obs), dtype=bool)
    with np.errstate(invalid="ignore"):
        for part in stretches_of(obs[:-1]):
            following = obs[part.start + 1 : part.stop + 1]
            gap = np.abs(next_obs[part] - following).max(axis=1)
            found[part] = gap > JUMP * (1.0 + np.abs(following).max(axis=1))
    return found
