"""Tables in files of Arrow, Parquet and Feather."""

import re
from pathlib import Path
from typing import Any

import pandas

from reverie.datasets.readers.columns import in_one_line
from reverie.datasets.tables.text import require_different
from reverie.envs import extras
from reverie.mistake import Mistake
from reverie.text import one_line

LARGEST_SHARE = 1000
"""Bytes of numbers for a byte of their file, beyond which it is made to fill the memory."""
_SMALL = 2**28  # bytes of numbers that nobody minds
_INDEX = re.compile(r"__index_level_\d+__")  # as which pandas stores row numbers
# What readers of binary tables raise for files that are damaged or something else; pyarrow's own
# errors are ValueError, OSError and NotImplementedError too.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, NotImplementedError, OverflowError)


def read_arrow(path: Path, kind: str) -> pandas.DataFrame:
    """The table in a file.

    Args:
        kind: `parquet` or `feather`.

    Raises:
        Mistake: damaged, a name that stands twice, more than the memory holds; pyarrow is missing.
    """
    module = extras.require(f"pyarrow.{kind}", "tables", f"dataset.path={path}")
    try:
        table = (_read_parquet if kind == "parquet" else _read_feather)(module, path)
        # What the file says of pandas would hide columns as its index.
        return table.to_pandas(ignore_metadata=True)
    except Mistake:
        raise
    except MemoryError as error:  # pyarrow's is an OSError too
        raise Mistake(
            f"{path} holds more than fits into the memory ({one_line(in_one_line(error), 200)}); "
            "split it, or leave out columns that are not needed"
        ) from error
    except _UNREADABLE as error:
        raise Mistake(
            f"{path} cannot be read as {kind} ({one_line(in_one_line(error), 200)}); "
            "write it again, or save it as .csv"
        ) from error


def _read_parquet(parquet: Any, path: Path) -> Any:
    with parquet.ParquetFile(path) as file:
        names, rows = file.schema_arrow.names, file.metadata.num_rows
        require_different(names, str(path))
        numbers = 8 * rows * len(names)
        if numbers > _SMALL and numbers > LARGEST_SHARE * path.stat().st_size:
            raise Mistake(
                f"{path} has {path.stat().st_size:,} bytes and would fill {numbers:,} with "
                f"{rows:,} rows that are nearly all the same; leave out what repeats"
            )
    # A text that stands in every row is kept once; checksums are compared where there are any.
    texts = [
        field.name for field in file.schema_arrow if str(field.type) in ("string", "large_string")
    ]
    with parquet.ParquetFile(path, read_dictionary=texts, page_checksum_verification=True) as file:
        return _without_index(file.read())


def _read_feather(feather: Any, path: Path) -> Any:
    table = feather.read_table(path, memory_map=False)
    require_different(table.column_names, str(path))
    return _without_index(table)


def _without_index(table: Any) -> Any:
    return table.drop_columns([name for name in table.column_names if _INDEX.fullmatch(name)])
