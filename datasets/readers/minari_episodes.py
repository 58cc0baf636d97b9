"""The two ways to read all episodes of a Minari dataset into flat float32 columns."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium import spaces

from reverie.datasets.readers.columns import UNREADABLE, in_one_line
from reverie.datasets.readers.hdf5 import missing_values
from reverie.datasets.readers.rehearsal import New, read_in_child
from reverie.envs.observations import flatten, flatten_space, observation_keys
from reverie.mistake import Mistake

Arrays = dict[str, np.ndarray]

_EPISODE = re.compile(r"episode_\d+")  # what else lies there is the user's
FLAGS = (b"terminations", b"truncations")


def read_hdf5(
    file: Path,
    metadata: Mapping[str, Any],
    space: spaces.Space,
    box: spaces.Box,
    keys: tuple[str, ...] | None,
    remedy: str,
) -> Arrays:
    """All episodes of Minari's HDF5 layout, straight into preallocated float32 columns.

    Args:
        file: the main file.
        metadata: of the dataset.
        space, box: of its observations and actions.
        keys: of dict observations in order, None for the standard order.
        remedy: what to do about a file that cannot be read.

    Raises:
        Mistake: a damaged file, or an episode that is not as the metadata and spaces say.
    """

    def read(new: New) -> Arrays:
        with h5py.File(file, "r") as handle:
            return _read_episodes(file, handle, metadata, space, box, keys, new)

    try:
        return read_in_child(file, read, remedy)
    except Mistake:
        raise
    except UNREADABLE as error:
        raise Mistake(
            f"{file} cannot be read as HDF5 ({in_one_line(error)}); it is cut short or damaged: "
            f"{remedy}"
        ) from error


def _read_episodes(
    file: Path,
    handle: h5py.File,
    metadata: Mapping[str, Any],
    space: spaces.Space,
    box: spaces.Box,
    keys: tuple[str, ...] | None,
    new: New,
) -> Arrays:
    episodes = sum(_EPISODE.fullmatch(name) is not None for name in handle)
    if episodes != metadata["total_episodes"]:
        raise Mistake(
            f"{file} holds {episodes:,} episodes, its metadata says "
            f"{metadata['total_episodes']:,}; correct total_episodes, or record the rest"
        )
    groups = [_group(file, handle, number) for number in range(episodes)]
    lengths = np.array(
        [_opened(file, n, group, b"rewards").shape[0] for n, group in enumerate(groups)], np.int64
    )
    steps = int(lengths.sum())
    if steps != metadata["total_steps"]:
        raise Mistake(
            f"{file} holds {steps:,} steps, its metadata says {metadata['total_steps']:,}; correct "
            "total_steps, or record the rest"
        )
    leaves = dict(_leaves(space, (b"observations",), keys))
    obs = new((steps + episodes, flatten_space(space, keys)), np.float32)
    columns = {
        b"actions": new((steps, *box.shape), np.float32),
        b"rewards": new((steps,), np.float32),
        **{key: new((steps,), bool) for key in FLAGS},
    }
    begin = 0
    for number, (group, length) in enumerate(zip(groups, lengths.tolist(), strict=True)):
        if not length:  # its observation, where there is one, leads nowhere
            obs[begin + number] = 0
            continue
        rows = slice(begin, begin + length)
        for key, column in columns.items():
            _read_into(file, number, group, key, column[rows])
        # The last observation of an episode makes it one row longer.
        rows = slice(begin + number, begin + number + length + 1)
        if len(leaves) == 1:
            [(path, shape)] = leaves.items()
            whole = obs[rows].reshape(length + 1, *shape)
            _read_into(file, number, group, b"/".join(path), whole)
        else:
            obs[rows] = flatten(space, _read_nested(file, number, group, leaves, length + 1), keys)
        begin += length
    return {
        "observations": obs,
        "actions": columns[b"actions"].reshape(steps, -1),
        "rewards": columns[b"rewards"],
        "terminations": columns[b"terminations"],
        "truncations": columns[b"truncations"],
        "lengths": lengths,
    }


def _read_nested(
    file: Path,
    episode: int,
    group: Any,
    leaves: Mapping[tuple[bytes, ...], tuple[int, ...]],
    rows: int,
) -> dict[str, Any]:
    """The dict observations of an episode."""
    nested: dict[str, Any] = {}
    for path, shape in leaves.items():
        column = np.empty((rows, *shape), np.float32)
        _read_into(file, episode, group, b"/".join(path), column)
        inner = nested
        for key in path[1:-1]:
            inner = inner.setdefault(key.decode(), {})
        inner[path[-1].decode()] = column
    return nested


def _group(file: Path, handle: h5py.File, episode: int) -> Any:
    try:
        return h5py.h5g.open(handle.id, b"episode_%d" % episode)
    except (KeyError, ValueError) as error:
        raise Mistake(
            f"{file} has no group episode_{episode} though it holds {len(handle):,} episodes "
            f"({in_one_line(error)}); Minari numbers them from 0, so rename its groups"
        ) from error


def _opened(file: Path, episode: int, group: Any, key: bytes) -> Any:
    try:
        found = h5py.h5d.open(group, key)
    except (KeyError, ValueError, TypeError) as error:
        raise Mistake(
            f"{file}: episode {episode} has no array {key.decode()} ({in_one_line(error)}); add it"
        ) from error
    if not found.shape:
        raise Mistake(f"{file}: episode {episode} holds one number as {key.decode()}, not an array")
    if found.dtype.kind not in "fiub":
        kind = "texts" if found.dtype.kind in "SUO" else f"values of type {found.dtype}"
        raise Mistake(
            f"{file}: episode {episode} holds {kind} as {key.decode()}, expected numbers; correct "
            "that episode"
        )
    return found


def _read_into(file: Path, episode: int, group: Any, key: bytes, rows: np.ndarray) -> None:
    """Read one array of an episode; axes of length 1 may be there or not."""
    dataset = _opened(file, episode, group, key)
    shape = dataset.shape
    if not same_but_for_ones(shape, rows.shape):
        raise Mistake(
            f"{file}: episode {episode} holds {key.decode()} of shape {list(shape)}, expected "
            f"{list(rows.shape)}; correct that episode"
        )
    missing = missing_values(h5py.Dataset(dataset))
    if missing is not None:
        raise Mistake(
            f"{file}: {key.decode()} of episode {episode} {missing}; bring back what is missing, "
            "or record that episode again"
        )
    if not rows.size:
        return
    if key in FLAGS and dataset.dtype != bool:
        values = np.empty(shape, np.float64)
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
        rows[...] = as_flag(f"{file}: episode {episode}", key.decode(), values)
    else:
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, rows.reshape(shape))


def same_but_for_ones(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether arrays of two shapes hold the same rows, each in the same order."""
    widths = ([width for width in each[1:] if width != 1] for each in (shape, expected))
    return shape[0] == expected[0] and next(widths) == next(widths)


def as_flag(where: str, key: str, values: np.ndarray) -> np.ndarray:
    """`[T]` bool of a flag that is stored as numbers.

    Raises:
        Mistake: another number than 0 and 1.
    """
    values = np.asarray(values).reshape(-1)
    odd = (values != 0) & (values != 1)  # NaN is odd too
    if odd.any():
        step = int(np.argmax(odd))
        raise Mistake(
            f"{where} holds {values[step]} as {key} of step {step}; it must be 0 or 1, so correct "
            "that episode"
        )
    return values != 0


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
    remedy: str,
) -> Arrays:
    """All episodes of any other format, through Minari's own reader, a `MinariDataset`."""
    parts: dict[str, list[np.ndarray]] = {
        key: []
        for key in ("observations", "actions", "rewards", "terminations", "truncations", "lengths")
    }
    try:
        for episode in source.iterate_episodes():
            where = f"{source.id}: episode {episode.id}"
            length = len(episode.rewards)
            if not length:
                continue
            obs = flatten(space, episode.observations, keys)
            columns = {
                "actions": np.asarray(episode.actions, np.float32),
                "rewards": np.asarray(episode.rewards, np.float32),
                "terminations": np.asarray(episode.terminations),
                "truncations": np.asarray(episode.truncations),
            }
            expected = dict.fromkeys(columns, (length,)) | {"actions": (length, *box.shape)}
            for key, column in columns.items():
                if not same_but_for_ones(column.shape, expected[key]):
                    raise Mistake(
                        f"{where} holds {key} of shape {list(column.shape)}, expected "
                        f"{list(expected[key])}; correct that episode"
                    )
            if len(obs) != length + 1:
                raise Mistake(
                    f"{where} holds {len(obs)} observations for {length} rewards, expected one "
                    "more; correct that episode"
                )
            parts["observations"].append(obs)
            parts["actions"].append(columns["actions"].reshape(length, -1))
            parts["rewards"].append(columns["rewards"].reshape(length))
            for key in ("terminations", "truncations"):
                parts[key].append(as_flag(where, key, columns[key]))
            parts["lengths"].append(np.array([length], np.int64))
        arrays = {key: np.concatenate(part) for key, part in parts.items()}
    except Mistake:
        raise
    except ImportError as error:
        raise Mistake(
            f"{source.id} is stored in a format that needs another package: {in_one_line(error)}"
        ) from error
    # pyarrow's own errors derive from ValueError, OSError or KeyError.
    except UNREADABLE as error:
        raise Mistake(
            f"{source.id} cannot be read by Minari's own reader ({in_one_line(error)}); store it "
            f"as HDF5, or {remedy}"
        ) from error
    read = int(arrays["lengths"].sum())
    if read != source.total_steps:
        raise Mistake(
            f"{source.id}: Minari returned {read:,} steps of {int(source.total_steps):,} (its "
            "arrow and parquet readers cut episodes beyond 32,768 steps); convert it to HDF5"
        )
    return arrays
