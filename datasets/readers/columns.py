"""Columns of flat dataset files (one array for each quantity, all episodes one after another)."""

import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path

import h5py
import numpy as np

from reverie.mistake import Mistake

Columns = dict[str, np.ndarray]


def read_hdf5(path: Path, names: Collection[str]) -> Columns:
    """The named arrays that an HDF5 file holds at its top; others are not read.

    Raises:
        Mistake: there is no such file; the file is no HDF5, cut short, damaged, or not flat.
    """
    require_file(path)
    try:
        with h5py.File(path, "r") as file:
            groups = [name for name in names if isinstance(file.get(name), h5py.Group)]
            if groups or any(name.startswith("episode_") for name in file):
                raise Mistake(
                    f"{path} holds groups where flat arrays were expected "
                    f"({', '.join(groups) or 'one for each episode'}); a Minari file is read with "
                    "dataset=minari"
                )
            return {name: file[name][()] for name in names if name in file}
    except (OSError, KeyError, RuntimeError) as error:  # what h5py raises for damage
        raise Mistake(
            f"{path} cannot be read as HDF5 ({in_one_line(error)}); it is cut short or damaged, "
            "so delete it and fetch it again"
        ) from error


def read_npz(path: Path, names: Collection[str]) -> Columns:
    """The named arrays that an `.npz` file holds; others are not read.

    Raises:
        Mistake: there is no such file; the file is no `.npz`, cut short, damaged, or needs pickle.
    """
    require_file(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            return {name: file[name] for name in names if name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zipfile.error) as error:
        raise Mistake(
            f"{path} cannot be read as .npz ({in_one_line(error)}); it must hold plain numeric "
            "arrays written by numpy.savez, so write or fetch it again"
        ) from error


def require_file(path: Path) -> None:
    if not path.exists():
        raise Mistake(f"{path} does not exist; correct dataset.path")
    if not path.is_file():
        raise Mistake(f"{path} is not a file; give the data file itself as dataset.path")


def require_columns(path: Path, columns: Mapping[str, np.ndarray], required: list[str]) -> None:
    """Refuse a file that lacks a column, has columns of unequal length or no rows.

    The first `required` must be observations, the second actions: both `[N, width]`.

    Raises:
        Mistake: as above; or single integers as actions, which are a discrete space.
    """
    missing = [name for name in required if name not in columns]
    if missing:
        raise Mistake(
            f"{path} lacks {', '.join(missing)} (found {', '.join(columns) or 'no known column'}); "
            f"{', '.join(required)} are needed, so rename or add the arrays"
        )
    lengths = {name: len(column) if column.ndim else 0 for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
        raise Mistake(
            f"{path} has columns that differ in length ({listed}); every row needs one entry in "
            "each, so repair the file or fetch it again"
        )
    if not all(lengths.values()):
        raise Mistake(f"{path} has no rows; check that it is the right file")
    actions = columns[required[1]]
    if np.issubdtype(actions.dtype, np.integer) and actions.shape[1:] in ((), (1,)):
        raise Mistake(
            f"{path} has single integers as actions, a discrete action space; only continuous "
            "actions [N, A] are supported"
        )
    for name, column in columns.items():
        if column.dtype.kind not in "fiub":
            raise Mistake(
                f"{path}: {name} holds {column.dtype} values, expected numbers; convert them"
            )
    for name in required[:2]:
        if columns[name].ndim != 2:
            raise Mistake(
                f"{path}: {name} has shape {list(columns[name].shape)}, expected [N, width]; "
                "reshape it to one flat row for each step"
            )


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
