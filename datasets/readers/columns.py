"""Columns of flat dataset files (one array for each quantity, all episodes one after another)."""

import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from reverie.datasets.readers.hdf5 import missing_values
from reverie.datasets.readers.rehearsal import New, read_in_child
from reverie.mistake import Mistake
from reverie.paths import absent_path

Columns = dict[str, np.ndarray]
Choice = Callable[[Collection[str]], Collection[str]]
"""From the names that a file holds to those to read."""

ALIASES = {
    "observations": ("obs", "observation", "states", "state"),
    "actions": ("action", "acts", "act"),
    "rewards": ("reward", "rews", "rew"),
    "terminals": (
        *("terminal", "terminated", "terminateds", "terminations", "termination"),
        *("done", "dones", "is_terminal"),
    ),
    "timeouts": (
        *("timeout", "truncated", "truncateds", "truncations", "truncation"),
        *("episode_terminals", "is_last"),
    ),
    "next_observations": ("next_obs", "next_observation", "next_states", "next_state", "obs_next"),
}
"""D4RL's names and what others call the same: NeoRL, Gymnasium, Minari, d3rlpy, RLDS, loggers."""
RLDS = ("is_first", "is_last", "is_terminal")
"""Flags of RLDS, by which nobody observes anything."""
FIRST_ROWS = (RLDS[0], "is_init")
"""Flags of the first row of each episode: of RLDS, of TorchRL."""
EPISODES = (
    *("episode", "episode_id", "episode_ids", "episodes"),
    *("trajectory", "trajectory_id", "trajectory_ids", "traj", "traj_id", "traj_ids"),
)
"""Numbers or names that change with the episode."""

TEXT_FILES = (".csv", ".tsv", ".txt")
"""Suffixes of tables as text ..."""
ARROW_FILES = (".parquet", ".feather")
"""... and as columns."""

# Names that some files give to every end of an episode; a more exact one goes first.
LOOSE = ("done", "dones", "episode_terminals", "is_last")

_MOST_NAMES = 1000

# What h5py and numpy raise for files that are damaged or something else.
UNREADABLE = (
    *(OSError, KeyError, RuntimeError, ValueError, TypeError, EOFError, MemoryError),
    *(OverflowError, struct.error, zipfile.BadZipFile, zlib.error),
)


def require_no_last_observations(
    source: str, column: str, name: str, flags: np.ndarray, named: Collection[str]
) -> None:
    """Refuse a termination that RLDS may mean for the row before.

    Args:
        column: what the flags `[N]` are taken for, and `name` what they are called.
        named: columns of which the user says what they are called.

    Raises:
        Mistake: as above.
    """
    if name == RLDS[2] and column not in named and flags.any():
        raise Mistake(
            f"{source}: {name} is 1 in some rows, and in RLDS such a row is the last observation "
            f"alone, to which the row before it led; store the flags one row earlier, as {column}, "
            f"or set 'dataset.columns={{{column}: {name}}}' if these rows have actions and rewards "
            "of their own"
        )


def is_loose(array: str) -> bool:
    """Whether an array has a name, in whichever group, that some files give to every end."""
    return re.split(r"[/.]", array)[-1].removeprefix("next_") in LOOSE


def arrays_of(held: Collection[str]) -> list[str]:
    """The names in a file; of HDF5 those of the arrays within its groups, as `group/array`."""
    if not isinstance(held, h5py.Group):
        return sorted(held)
    found: list[str] = []

    def look(name: str, item: h5py.Group | h5py.Dataset) -> bool | None:
        if isinstance(item, h5py.Dataset):
            found.append(name)
        return True if len(found) >= _MOST_NAMES else None  # which ends the visit

    held.visititems(look)
    return found or sorted(held)


def listed(names: Collection[str]) -> str:
    """Names for a message, not more than twenty."""
    shown = arrays_of(names)
    rest = f" and {len(shown) - 20} more" if len(shown) > 20 else ""
    return (", ".join(shown[:20]) + rest) or "nothing"


def read_hdf5(path: Path, choose: Choice) -> Columns:
    """Arrays of an HDF5 file; others are not read. Rows of floating-point numbers are float32.

    Args:
        path: the file.
        choose: from the names at its top to those to read.

    Raises:
        Mistake: there is no such file; the file is no HDF5, cut short, damaged, or not flat; a
            column lies in another file that is gone, or was not written to its end.
    """
    require_file(path)
    remedy = "restore it from a copy, or write or fetch it again"

    def read(new: New) -> Columns:
        with h5py.File(path, "r") as file:
            return {array: _read(path, file, array, new) for array in choose(file)}

    try:
        return read_in_child(path, read, remedy)
    except Mistake:
        raise
    except UNREADABLE as error:
        raise Mistake(
            f"{path} cannot be read as HDF5 ({in_one_line(error)}); it is cut short, damaged or of "
            f"another kind: {remedy}"
        ) from error


def _read(path: Path, file: h5py.File, array: str, new: New) -> np.ndarray:
    link = file.get(array, getlink=True)
    if isinstance(link, h5py.ExternalLink | h5py.SoftLink) and file.get(array) is None:
        place = f"{link.path}, which is not there (null in dataset.columns leaves a column out)"
        if isinstance(link, h5py.ExternalLink):
            place = f"another file, {link.filename}, which is not there or lacks {link.path}"
        raise Mistake(f"{path}: {array} lies in {place}; bring it back, beside this one")
    found = file[array]
    if not isinstance(found, h5py.Dataset):
        raise Mistake(
            f"{path}: {array} is a group, where a flat array was expected; with dataset=file name "
            f"one in it, e.g. dataset.columns={{observations: {array}/NAME}}"
        )
    missing = missing_values(found)
    if missing is not None:
        raise Mistake(
            f"{path}: {array} {missing}; bring back what is missing, or write the file again to "
            "its end"
        )
    if not found.size or found.dtype.kind not in "fiub":
        return found[()]
    # Row numbers (`index`) may be stored as float64, of which float32 has too few.
    rows = new(
        found.shape, np.float32 if found.dtype.kind == "f" and found.ndim > 1 else found.dtype
    )
    found.read_direct(rows)
    return rows


def read_npz(path: Path, choose: Choice) -> Columns:
    """Arrays of an `.npz` file; others are not read.

    Args:
        path: the file.
        choose: from the names in it to those to read.

    Raises:
        Mistake: there is no such file; the file is no `.npz`, cut short, damaged, or needs pickle.
    """
    require_file(path)
    try:
        with path.open("rb") as stream:
            if not zipfile.is_zipfile(stream):  # NumPy would advise to unpickle it
                raise ValueError("File is not a zip file")
        with np.load(path, allow_pickle=False) as file:
            return {array: _read_array(path, file, array) for array in choose(file.files)}
    except Mistake:
        raise
    except UNREADABLE as error:
        raise Mistake(
            f"{path} cannot be read as .npz ({in_one_line(error)}); it must hold plain numeric "
            "arrays written by numpy.savez, so write or fetch it again"
        ) from error


def _read_array(path: Path, file: Any, array: str) -> np.ndarray:
    """One array of an open `.npz` file, which must hold no Python objects."""
    try:
        found: np.ndarray = file[array]
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        raise Mistake(
            f"{path}: {array} holds Python objects, such as None or rows of different lengths, and "
            "not numbers; write it as numbers, for example numpy.asarray(values, dtype=float)"
        ) from error
    return found


def require_file(path: Path) -> None:
    """Refuse a path at which no file can be read.

    Raises:
        Mistake: nothing is there, a folder is, or the system lets nobody in.
    """
    try:
        found = path.exists()
    except OSError as error:  # a folder that is closed, a name that is too long
        raise unreadable(path, error) from error
    if not found:
        raise Mistake(f"{path} does not exist; {absent_path(str(path))}")
    if path.is_dir():
        raise Mistake(
            f"{path} is a folder; give one data file as dataset.path (several are joined into one "
            "first; of tables, dataset=table reads a folder)"
        )
    if not path.is_file():
        raise Mistake(f"{path} is not a file; give the data file itself as dataset.path")
    require_readable(path)


def require_readable(path: Path) -> None:
    """Refuse a file that is there and cannot be read for a reason that is no damage.

    Raises:
        Mistake: the system does not open it; it holds what stands for the data, not the data.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(64).lstrip().lower()
    except OSError as error:
        raise unreadable(path, error) from error
    if begin.startswith(b"version https://git-lfs"):
        raise Mistake(
            f"{path} is a pointer of Git LFS and not the data; fetch them with `git lfs pull` "
            "where it was cloned"
        )
    if begin.startswith((b"<!doctype html", b"<html")):
        raise Mistake(
            f"{path} is a web page, probably of a failed download, and not the data; fetch it again"
        )


def unreadable(path: Path, error: OSError) -> Mistake:
    """What to say of a path that the system does not let anybody read."""
    remedy = "make it readable" if isinstance(error, PermissionError) else "give another path"
    return Mistake(f"{path} cannot be read: {error.strerror or error}; {remedy}")


def require_columns(
    path: Path | str, columns: Mapping[str, np.ndarray], required: list[str]
) -> None:
    """Refuse a file that lacks a column, has columns of unequal length or no rows.

    The first `required` must be observations, the second actions: both `[N, width]`.

    Raises:
        Mistake: as above; or single integers or booleans as actions, a discrete space.
    """
    missing = [name for name in required if name not in columns]
    if missing:
        raise Mistake(
            f"{path} lacks {', '.join(missing)} (found {', '.join(columns) or 'no known column'}); "
            f"{', '.join(required)} are needed, so rename or add the arrays"
        )
    single = [name for name, column in columns.items() if not column.ndim]
    if single:
        raise Mistake(
            f"{path}: {single[0]} is a single value, expected an array with an entry for every row"
        )
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
        raise Mistake(
            f"{path} has columns that differ in length ({counts}); every row needs one entry in "
            "each, so repair the file or fetch it again"
        )
    if not all(lengths.values()):
        raise Mistake(f"{path} has no rows; check that it is the right file")
    actions = columns[required[1]]
    if actions.dtype.kind in "iub" and actions.shape[1:] in ((), (1,)):
        kind = "booleans" if actions.dtype.kind == "b" else "integers"
        raise Mistake(
            f"{path} has single {kind} as actions, a discrete action space; only continuous "
            "actions [N, A] are supported; d3rlpy learns from discrete ones"
        )
    for name, column in columns.items():
        if column.dtype.names:
            raise Mistake(
                f"{path}: {name} holds records of {listed(column.dtype.names)}, expected numbers; "
                "store each of these as an array"
            )
        if column.dtype.kind not in "fiub":
            raise Mistake(
                f"{path}: {name} holds {column.dtype} values, expected numbers; convert them"
            )
    for name in (*required[:2], "next_observations"):
        if name not in columns:
            continue
        column = columns[name]
        if column.ndim == 4 or (column.ndim > 2 and column.dtype == np.uint8):
            raise Mistake(
                f"{path}: {name} holds {column.dtype} images of shape {list(column.shape[1:])}; "
                "images are not supported, so store vectors of features [N, width]"
            )
        if column.ndim != 2:
            raise Mistake(
                f"{path}: {name} has shape {list(column.shape)}, expected [N, width]; "
                "reshape it to one flat row for each step"
            )


def require_widths(
    file: Path, columns: Mapping[str, np.ndarray], obs_dim: int, action_dim: int, id: str
) -> None:
    """Refuse a file whose observations or actions are not as wide as those of the dataset `id`.

    Raises:
        Mistake: as above.
    """
    widths = {"observations": obs_dim, "actions": action_dim, "next_observations": obs_dim}
    for name, width in widths.items():
        if name in columns and columns[name].shape[1:] != (width,):
            raise Mistake(
                f"{file}: {name} has shape {list(columns[name].shape)}, expected [N, {width}] for "
                f"{id}; is it the file of another dataset?"
            )


def first_rows(column: np.ndarray, name: str) -> np.ndarray | None:
    """`[N]` rows that begin an episode, of a flag such as `is_first`; None of what names episodes.

    Of a flag with another name, a 1 stands alone among many 0.

    Args:
        column: `[N]` of anything.
        name: what it is called, in lower case.
    """
    if column.dtype.kind not in "fiub" or not np.isin(column, (0, 1)).all():
        return None
    first = column == 1
    alone = 1 < first.sum() < len(first) / 3 and not (first[1:] & first[:-1]).any()
    return first if alone or name in FIRST_ROWS else None


def flag(column: np.ndarray) -> np.ndarray:
    """A stored flag, `[N]` or `[N, 1]` of any number type, as `[N]` bool."""
    return column.reshape(-1) != 0


def limit_ends(terminated: np.ndarray, limit: int) -> np.ndarray:
    """`[N]` bool: rows at which a counter of steps since the last end reaches the time limit.

    For files without their own record of time limits; an episode ends at `terminated` and after
    `limit` steps.
    """
    rows = np.arange(len(terminated))
    first = np.append(True, terminated[:-1])
    start = np.maximum.accumulate(np.where(first, rows, 0))  # of the stretch between terminations
    return (rows - start) % limit == limit - 1


def in_one_line(error: BaseException) -> str:
    """The text of an error without line breaks, or its kind if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
