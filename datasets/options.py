"""Datasets by the names of their options, for Python: `reverie.datasets.load("file", path=...)`."""

import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import yaml

from reverie.datasets.dataset import Dataset
from reverie.datasets.names import short_name
from reverie.datasets.readers import d4rl, neorl2, ogbench
from reverie.datasets.readers.file import from_columns
from reverie.datasets.storage import read_into
from reverie.datasets.transforms import SETTINGS, transform
from reverie.mistake import Mistake
from reverie.settings import require_declared
from reverie.text import near

FOLDER = Path(__file__).resolve().parent.parent / "conf" / "dataset"
BENCHMARKS: dict[str, tuple[str, ...]] = {
    "d4rl": tuple(d4rl.TASKS),
    "neorl2": tuple(neorl2.TASKS),
    "ogbench": ogbench.IDS,
}
"""Ids of datasets by the option that reads them; `d4rl/<id>` is an option too."""
ARRAYS = "file"
"""The option whose settings arrays take."""
TABLE = "table"
"""The option whose settings a DataFrame takes."""
_SUFFIXES = {
    TABLE: (".csv", ".tsv", ".txt", ".parquet", ".feather"),
    ARRAYS: (".hdf5", ".h5", ".npz"),
}


def load(source: str | Mapping[str, np.ndarray] | Any, **settings: Any) -> Dataset:
    """Load a dataset as `dataset=<source> dataset.<key>=<value> ...` does on the command line.

    Args:
        source: an option, such as `"builtin/pendulum-mixed"`, `"d4rl/hopper-medium-v2"`,
            `"minari"` or `"file"`; or arrays by name: `observations [N, D]`, `actions [N, A]`,
            `rewards [N]`, `terminals [N]`, and where there are any `timeouts [N]` and
            `next_observations [N, D]`; or a pandas or polars DataFrame with a row for each step (a
            LazyFrame is collected).
        settings: what to set of `conf/dataset/<source>.yaml`, of `file.yaml` for arrays, or of
            `table.yaml` for a DataFrame.

    Raises:
        Mistake: no such option or setting, or the data are refused.
    """
    if isinstance(source, os.PathLike):  # which is told how a file is given
        source = str(source)
    if not isinstance(source, str | Mapping):
        if type(source).__name__ == "LazyFrame":  # of polars, which need not be installed
            source = source.collect()
        if not hasattr(source, "columns"):
            raise Mistake(
                f"expected the name of a dataset, arrays by name or a DataFrame, found "
                f"{type(source).__name__}"
            )
        options, asked = _read_given(TABLE, settings)
        options["name"] = options["name"] or "table"
        # Only who has a DataFrame waits for pandas.
        read = resolve_name("reverie.datasets.readers.table:load_frame")
        return transform(read(source, **options), asked, 1.0)
    if not isinstance(source, str):
        return from_arrays(source, "the given arrays", settings)
    benchmark, _, id_ = source.partition("/")
    if benchmark in BENCHMARKS and id_ and option_of(source) is None:
        source, settings = benchmark, {"id": id_, **settings}
    options, asked = _for_reader(source, settings)
    options["name"] = short_name(**options)
    given = {key: value for key, value in options.items() if key != "_target_"}
    read = partial(resolve_name(options["_target_"]), **given)
    return transform(read_into(asked["storage"], read, options), asked, 1.0)


def from_arrays(
    arrays: Mapping[str, Any],
    source: str,
    settings: Mapping[str, Any],
    *,
    valid_next: np.ndarray | None = None,
) -> Dataset:
    """A dataset of arrays by name, see `load`.

    Args:
        source: where they come from, for messages.
        settings: what to set of `conf/dataset/file.yaml`.
        valid_next: `[N]`, false where `next_observations` does not hold the true successor.

    Raises:
        Mistake: no such setting, or the data are refused.
    """
    options, asked = _read_given(ARRAYS, settings)
    options["name"] = options["name"] or "arrays"
    data = from_columns(arrays, source=source, valid_next=valid_next, **options)
    return transform(data, asked, 1.0)


def read_arrays_option(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What `conf/dataset/file.yaml` says about arrays that are given, with what is set otherwise.

    Raises:
        Mistake: no such setting, one of another kind, or a path.
    """
    return _read_given(ARRAYS, settings)[0]


def _read_given(name: str, settings: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """An option for data in memory, which have no path, and its transforms."""
    if "path" in settings:
        raise Mistake("the data are given, so path=... would not be read; leave one of them out")
    options, asked = _for_reader(name, {**settings, "path": name})
    if asked["storage"] == "memmap":
        raise Mistake(
            "the data are given, in memory, so storage=memmap would be too late; write them to a "
            "file and load that"
        )
    del options["path"], options["_target_"]
    return options, asked


def read_option(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a YAML file of `conf/dataset/` says, with what is set otherwise.

    Raises:
        Mistake: no such option or setting, or one that has no value.
    """
    options = _read(name)
    unknown = sorted(set(settings) - set(options))
    if unknown:
        known = ", ".join(key for key in options if key != "_target_")
        raise Mistake(f"dataset {name} has no setting {unknown[0]}; it has {known}")
    for key, value in _as_plain(settings).items():
        nested = isinstance(value, Mapping) and isinstance(options[key], Mapping)
        options[key] = {**options[key], **value} if nested else value
    for key, value in options.items():
        same_as = re.fullmatch(r"\$\{\.(\w+)\}", value) if isinstance(value, str) else None
        options[key] = options[same_as[1]] if same_as else value
        if isinstance(options[key], str) and options[key] == "???":
            raise Mistake(f"dataset {name} needs {key}=...")
    require_declared(options, prefix="dataset.")
    return options


def _for_reader(name: str, settings: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """An option without what readers do not know, and that, by the keys of `SETTINGS`.

    Raises:
        Mistake: as `read_option`; chunks are asked for.
    """
    options = read_option(name, settings)
    asked = {key: options.pop(key, None) for key in SETTINGS}
    if asked["chunks"] not in (None, 1):
        raise Mistake(
            "chunks are summed with a discount, that of the agent; load without chunks and give "
            "the data to reverie.datasets.chunk(data, steps, discount=...)"
        )
    require_declared(asked, SETTINGS, "dataset.")
    return options, {**asked, "chunks": None}


def _as_plain(value: Any) -> Any:
    """Settings from Python as a YAML file would hold them, without paths and arrays."""
    if isinstance(value, Mapping):
        return {key: _as_plain(each) for key, each in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.tolist() if hasattr(value, "tolist") else value


def option_of(path: str) -> str | None:
    """The option that reads files of this suffix, None for any other name."""
    suffix = Path(path).suffix.lower()
    return next((option for option, suffixes in _SUFFIXES.items() if suffix in suffixes), None)


def _read(name: str) -> dict[str, Any]:
    """A file with those that it builds on."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = sorted(
            each.relative_to(FOLDER).with_suffix("").as_posix() for each in FOLDER.rglob("*.yaml")
        )
        option = option_of(name)
        if option is not None:
            raise Mistake(
                f"there is no dataset {name}; a file is given by its path: "
                f"reverie.datasets.load({option!r}, path={name!r}, ...)"
            )
        close = near(name, known) or known
        raise Mistake(f"there is no dataset {name}; did you mean {' or '.join(close)}?")
    own = yaml.safe_load(path.read_text())
    read: dict[str, Any] = {}
    for base in own.pop("defaults", []):
        if isinstance(base, str) and base != "_self_":
            read |= _read(str(Path(name).parent / base))
    return read | own
