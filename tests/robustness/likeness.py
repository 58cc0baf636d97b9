"""What differs between two folders that the same commands should have left, times apart."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

FREE = ("multirun.yaml",)
"""Files in which Hydra writes down where it was called."""
PLACED = "writing-*.lock"
"""Empty files that are named after the place of a folder, which no two commands share."""
TIMES = ("seconds", "epoch_seconds", "sha256")
"""Keys of what no two commands share, the digest of a file with times among them."""


def differences(expected: Path, found: Path) -> list[str]:
    """Paths that only one of them has, and those with other contents."""
    paths = [
        {path.relative_to(each) for path in each.rglob("*") if not path.match(PLACED)}
        for each in (expected, found)
    ]
    result = [f"{path} is missing" for path in sorted(paths[0] - paths[1])]
    result += [f"{path} is left over" for path in sorted(paths[1] - paths[0])]
    for path in sorted(paths[0] & paths[1]):
        if path.name in FREE or not (expected / path).is_file():
            continue
        if _read(expected / path) != _read(found / path):
            result.append(f"{path} differs")
    return result


def _read(path: Path) -> Any:
    """The contents in a form that can be compared."""
    if path.suffix == ".pt":
        return _plain(torch.load(path, weights_only=True))
    if path.suffix == ".json":
        return _plain(json.loads(path.read_text()))
    if path.suffix == ".npz":
        with np.load(path) as file:
            return _plain(dict(file))
    if path.suffix == ".hdf5":
        with h5py.File(path) as file:
            return dict(_walk(file))
    if path.suffix == ".csv":
        with open(path, newline="") as file:
            return list(csv.reader(file))
    return path.read_bytes()


def _walk(group: h5py.Group) -> Iterator[tuple[str, Any]]:
    for item in group.values():
        attributes = {key: _plain(value) for key, value in item.attrs.items()}
        yield item.name, attributes
        if isinstance(item, h5py.Group):
            yield from _walk(item)
        else:
            yield f"{item.name}[]", _plain(item[()])


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return str(value.dtype), _plain(value.cpu().contiguous().numpy())
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key not in TIMES}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return repr(value)  # one that is no number too
    return value
