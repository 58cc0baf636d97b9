"""Columns of a Parquet file in which a row is a step, and observations and actions are lists."""

from pathlib import Path

import numpy as np

from reverie.datasets.readers.columns import Choice, Columns, require_file
from reverie.datasets.tables.arrow import read_arrow
from reverie.mistake import Mistake


def read_parquet(path: Path, choose: Choice) -> Columns:
    """Arrays of a file, a list in each row as a row `[N, W]`; columns that are not chosen go.

    Args:
        path: the file.
        choose: from the names of its columns to those to read.

    Raises:
        Mistake: there is no such file; the file is no Parquet, cut short or damaged; lists of
            unequal length; pyarrow is missing.
    """
    require_file(path)
    table = read_arrow(path, "parquet")
    return {name: _array(path, name, table[name].to_numpy()) for name in choose([*table.columns])}


def _array(path: Path, name: str, column: np.ndarray) -> np.ndarray:
    if column.dtype != object or not len(column):
        return column
    try:
        return np.array([np.asarray(row, np.float64) for row in column])
    except (TypeError, ValueError) as error:
        raise Mistake(
            f"{path}: {name} holds no numbers, or lists of unequal length, where every row needs "
            "as many numbers; write it again"
        ) from error
