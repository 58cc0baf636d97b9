"""The two ways to read all episodes of a Minari dataset into flat float32 columns."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium import spaces

from reverie.datasets.readers.columns import in_one_line
from reverie.envs.observations import flatten, observation_keys
from reverie.mistake import Mistake

Arrays = dict[str, np.ndarray]

AGAIN = "the data are damaged or incomplete, so delete the dataset's folder and fetch it again"


def read_hdf5(
    file: Path,
    metadata: Mapping[str, Any],
    space: spaces.Space,
    box: spaces.Box,
    keys: tuple[str, ...] | None,
) -> Arrays:
    """All episodes of Minari's HDF5 layout, straight into preallocated float32 columns."""
    steps, episodes = int(metadata["total_steps"]), int(metadata["total_episodes"])
    leaves = {
        path: np.empty((steps + episodes, *shape), np.float32)
        for path, shape in _leaves(space, (b"observations",), keys)
    }
    columns = {
        b"actions": np.empty((steps, *box.shape), np.float32),
        b"rewards": np.empty(steps, np.float32),
        b"terminations": np.empty(steps, bool),
        b"truncations": np.empty(steps, bool),
    }
    lengths = np.empty(episodes, np.int64)
    begin = 0
    try:
        with h5py.File(file, "r") as handle:
            for number in range(episodes):
                group = h5py.h5g.open(handle.id, b"episode_%d" % number)
                length = h5py.h5d.open(group, b"rewards").shape[0]
                if begin + length > steps:
                    raise ValueError(f"more than the {steps:,} steps that the metadata announce")
                rows = slice(begin, begin + length)
                for key, column in columns.items():
                    _read_into(group, key, column[rows], number)
                # The last observation of an episode makes it one row longer.
                rows = slice(begin + number, begin + number + length + 1)
                for path, column in leaves.items():
                    _read_into(group, b"/".join(path), column[rows], number)
                lengths[number] = length
                begin += length
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise Mistake(f"{file} cannot be read: {in_one_line(error)}; {AGAIN}") from error
    if begin != steps:
        raise Mistake(f"{file} holds {begin:,} steps, its metadata says {steps:,}; {AGAIN}")
    nested: Any = leaves.get((b"observations",))
    if nested is None:
        nested = {}
        for path, column in leaves.items():
            inner = nested
            for key in path[1:-1]:
                inner = inner.setdefault(key.decode(), {})
            inner[path[-1].decode()] = column
    return {
        "observations": flatten(space, nested, keys),
        "actions": columns[b"actions"].reshape(steps, -1),
        "rewards": columns[b"rewards"],
        "terminations": columns[b"terminations"],
        "truncations": columns[b"truncations"],
        "lengths": lengths,
    }


def _read_into(group: Any, key: bytes, rows: np.ndarray, episode: int) -> None:
    dataset = h5py.h5d.open(group, key)
    if dataset.shape != rows.shape:
        raise ValueError(
            f"episode {episode} holds {key.decode()} of shape {list(dataset.shape)}, expected "
            f"{list(rows.shape)}"
        )
    if rows.size:
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, rows)


def _leaves(
    space: spaces.Space, path: tuple[bytes, ...], keys: tuple[str, ...] | None
) -> Iterator[tuple[tuple[bytes, ...], tuple[int, ...]]]:
    """Paths and shapes of the boxes that the flat observation is made of."""
    if isinstance(space, spaces.Dict):
        for key in observation_keys(space) if keys is None else keys:
            child = space.spaces[key]
            inner = tuple(sorted(child.spaces)) if isinstance(child, spaces.Dict) else None
            yield from _leaves(child, (*path, key.encode()), inner)
    else:
        yield path, space.shape or ()


def read_any(
    source: Any,
    space: spaces.Space,
    box: spaces.Box,
    keys: tuple[str, ...] | None,
) -> Arrays:
    """All episodes of any other format, through Minari's own reader, a `MinariDataset`."""
    parts: dict[str, list[np.ndarray]] = {
        key: []
        for key in ("observations", "actions", "rewards", "terminations", "truncations", "lengths")
    }
    try:
        for episode in source.iterate_episodes():
            obs = flatten(space, episode.observations, keys)
            length = len(episode.rewards)
            counts = (len(obs) - 1, len(episode.actions), length)
            if len(set(counts)) > 1:
                raise ValueError(
                    f"episode {episode.id} holds {len(obs)} observations, {counts[1]} actions and "
                    f"{length} rewards"
                )
            parts["observations"].append(obs)
            action = np.asarray(episode.actions, np.float32)
            parts["actions"].append(action.reshape(length, int(np.prod(box.shape))))
            parts["rewards"].append(np.asarray(episode.rewards, np.float32))
            parts["terminations"].append(np.asarray(episode.terminations, bool))
            parts["truncations"].append(np.asarray(episode.truncations, bool))
            parts["lengths"].append(np.array([length], np.int64))
        arrays = {key: np.concatenate(part) for key, part in parts.items()}
    except ImportError as error:
        raise Mistake(
            f"{source.id} is stored in a format that needs another package: {in_one_line(error)}"
        ) from error
    # pyarrow's own errors derive from ValueError, OSError or KeyError.
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise Mistake(f"{source.id} cannot be read: {in_one_line(error)}; {AGAIN}") from error
    read = int(arrays["lengths"].sum())
    if read != source.total_steps:
        raise Mistake(
            f"{source.id}: Minari returned {read:,} steps of {int(source.total_steps):,} (its "
            "arrow and parquet readers cut episodes beyond 32,768 steps); convert it to HDF5"
        )
    return arrays
