"""Ways to damage a file: its bytes, its text, or what it holds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

Random = np.random.Generator
Columns = dict[str, np.ndarray]

# --- bytes


def flip_bit(rng: Random, data: bytes) -> bytes:
    """Turn one bit over."""
    at = int(rng.integers(len(data)))
    return data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :]


def flip_bits(rng: Random, data: bytes) -> bytes:
    """Turn a few bits over."""
    for _ in range(int(rng.integers(2, 20))):
        data = flip_bit(rng, data)
    return data


def cut(rng: Random, data: bytes) -> bytes:
    """Keep only the beginning, as a copy does that was interrupted."""
    return data[: int(rng.integers(len(data)))]


def behead(rng: Random, data: bytes) -> bytes:
    """Lose the beginning."""
    return data[int(rng.integers(1, len(data) + 1)) :]


def empty(rng: Random, data: bytes) -> bytes:
    """Lose everything."""
    return b""


def append(rng: Random, data: bytes) -> bytes:
    """Grow a tail of nonsense."""
    return data + rng.bytes(int(rng.integers(1, 4096)))


def zero(rng: Random, data: bytes) -> bytes:
    """Read a block as zeros, as from a hole in the disk."""
    start, end = _block(rng, data)
    return data[:start] + bytes(end - start) + data[end:]


def scramble(rng: Random, data: bytes) -> bytes:
    """Read a block as nonsense."""
    start, end = _block(rng, data)
    return data[:start] + rng.bytes(end - start) + data[end:]


def lose_block(rng: Random, data: bytes) -> bytes:
    """Lose a block in the middle."""
    start, end = _block(rng, data)
    return data[:start] + data[end:]


def repeat_block(rng: Random, data: bytes) -> bytes:
    """Hold a block twice."""
    start, end = _block(rng, data)
    return data[:end] + data[start:]


def swap_line_ends(rng: Random, data: bytes) -> bytes:
    """Pass through a program that takes the file for a text."""
    return data.replace(b"\n", b"\r\n")


BYTES = (
    *(flip_bit, flip_bit, flip_bits, cut, behead, empty, append),
    *(zero, scramble, lose_block, repeat_block, swap_line_ends),
)


def _block(rng: Random, data: bytes) -> tuple[int, int]:
    start = int(rng.integers(len(data)))
    return start, min(len(data), start + int(rng.integers(1, 2 + len(data) // 4)))


# --- text

WORDS = (
    *("", "null", "true", "nan", ".inf", "-1", "0", "1e308", "9" * 40, "abc", "[]", "{}", "[[]]"),
    *("'", '"', "{", "}", "${seed}", "${oc.env:HOME}", "&a", "*a", "!!python/name:os.system", "\t"),
    *("\x00", "\x1b[31m", "ü", "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")),
    *("<script>", "- - -", "? ", "%", "#", ": :", "a" * 5000),
)


def change_digit(rng: Random, data: bytes) -> bytes:
    """Put another digit where one stands."""
    digits = [at for at, byte in enumerate(data) if 48 <= byte <= 57]
    if not digits:
        return append(rng, data)
    at = digits[int(rng.integers(len(digits)))]
    return data[:at] + b"%d" % rng.integers(10) + data[at + 1 :]


def change_word(rng: Random, data: bytes) -> bytes:
    """Put something else in the place of a word or number."""
    words = _words(data)
    if not words:
        return append(rng, data)
    start, end = words[int(rng.integers(len(words)))]
    return data[:start] + str(rng.choice(WORDS)).encode() + data[end:]


def insert_word(rng: Random, data: bytes) -> bytes:
    """Type something somewhere."""
    at = int(rng.integers(len(data) + 1))
    return data[:at] + str(rng.choice(WORDS)).encode() + data[at:]


def lose_line(rng: Random, data: bytes) -> bytes:
    """Lose a line."""
    lines = data.splitlines(keepends=True)
    del lines[int(rng.integers(len(lines)))]
    return b"".join(lines)


def swap_lines(rng: Random, data: bytes) -> bytes:
    """Let two lines change places."""
    lines = data.splitlines(keepends=True)
    i, j = rng.integers(len(lines), size=2)
    lines[i], lines[j] = lines[j], lines[i]
    return b"".join(lines)


def repeat_line(rng: Random, data: bytes) -> bytes:
    """Hold a line twice."""
    lines = data.splitlines(keepends=True)
    at = int(rng.integers(len(lines)))
    return b"".join([*lines[: at + 1], *lines[at:]])


def recode(rng: Random, data: bytes) -> bytes:
    """Save as another program might."""
    codec = str(rng.choice(["utf-16", "utf-8-sig", "utf-32"]))
    return data.decode(errors="replace").encode(codec)


TEXT = (
    *(change_digit, change_word, change_word, change_word, insert_word, insert_word),
    *(lose_line, swap_lines, repeat_line, recode),
)


def _words(data: bytes) -> list[tuple[int, int]]:
    found, start = [], None
    for at, byte in enumerate(data + b" "):
        inside = chr(byte).isalnum() or byte in b"._-+"
        if inside and start is None:
            start = at
        elif not inside and start is not None:
            found.append((start, at))
            start = None
    return found


def damage(rng: Random, path: Path) -> str:
    """Damage the bytes of a file, or its text where it is one; returns how."""
    data = path.read_bytes()
    ways = BYTES if path.suffix not in (".yaml", ".json", ".csv") else (*BYTES, *TEXT, *TEXT)
    way = ways[int(rng.integers(len(ways)))]
    path.write_bytes(way(rng, data) if data else b"\x00")
    return way.__name__


def damage_json(rng: Random, value: Any) -> Any:
    """Put something else in one place of a nested value."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = list(value)[int(rng.integers(len(value)))]
        if rng.random() < 0.2:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: damage_json(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = int(rng.integers(len(value)))
        return [*value[:at], damage_json(rng, value[at]), *value[at + 1 :]]
    others = [None, True, -1, 0, 1e308, 10**30, "", "abc", "a:b", [], {}, [[]], {"a": {}}]
    return others[int(rng.integers(len(others)))]


def damage_record(rng: Random, value: Any) -> Any:
    """Like `damage_json`, for what holds tensors too: their shape, type or values change."""
    if isinstance(value, dict) and value:
        key = list(value)[int(rng.integers(len(value)))]
        if rng.random() < 0.1:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: damage_record(rng, value[key])}
    if isinstance(value, torch.Tensor):
        ways: tuple[Callable[[], Any], ...] = (
            lambda: value.flatten(),
            lambda: value.unsqueeze(0),
            lambda: value[..., :0] if value.ndim else value,
            lambda: value.double() * 1e300,
            lambda: value * torch.nan if value.is_floating_point() else value + 2**40,
            lambda: value.bool(),
            lambda: value.to(torch.complex64),
            lambda: torch.zeros(1).expand(2**20),
        )
        return ways[int(rng.integers(len(ways)))]()
    if rng.random() < 0.3:
        return [float("nan"), float("inf"), torch.zeros(3), (1, 2)][int(rng.integers(4))]
    return damage_json(rng, value)


# --- columns of data


def change_columns(rng: Random, columns: Columns) -> tuple[Columns, str]:
    """Change what one column holds, or its name; returns how."""
    name = list(columns)[int(rng.integers(len(columns)))]
    way = COLUMN_WAYS[int(rng.integers(len(COLUMN_WAYS)))]
    try:
        changed = way(rng, dict(columns), name)
    except (IndexError, ValueError, TypeError):  # a second change that the first leaves no room for
        return columns, f"{way.__name__} {name} (impossible)"
    return changed, f"{way.__name__} {name}"


def drop(rng: Random, columns: Columns, name: str) -> Columns:
    """Leave a column out."""
    del columns[name]
    return columns


def rename(rng: Random, columns: Columns, name: str) -> Columns:
    """Call it otherwise."""
    others = ["dones", "done", "terminated", "obs", "x", "episode_x", "ü", "next_obs", "reward"]
    columns[str(rng.choice(others))] = columns.pop(name)
    return columns


def swap(rng: Random, columns: Columns, name: str) -> Columns:
    """Let it change places with another."""
    other = str(rng.choice(list(columns)))
    columns[name], columns[other] = columns[other], columns[name]
    return columns


def cast(rng: Random, columns: Columns, name: str) -> Columns:
    """Store it as another type."""
    kinds = ["f2", "f4", "f8", "i1", "u1", "i8", "u8", "?", "c8", "S4", ">f8", ">i4"]
    with np.errstate(all="ignore"):
        columns[name] = columns[name].astype(str(rng.choice(kinds)))
    return columns


def reshape(rng: Random, columns: Columns, name: str) -> Columns:
    """Store it in another shape."""
    column = columns[name]
    shapes = [column[:, None], column[None], column.reshape(-1), column.T, column[..., None, None]]
    shapes += [column.reshape(len(column), -1), np.asarray(column.flat[0])]
    columns[name] = shapes[int(rng.integers(len(shapes)))]
    return columns


def shorten(rng: Random, columns: Columns, name: str) -> Columns:
    """Lose its last rows."""
    columns[name] = columns[name][: int(rng.integers(len(columns[name])))]
    return columns


def shorten_all(rng: Random, columns: Columns, name: str) -> Columns:
    """Keep only the first rows of all."""
    rows = int(rng.integers(3))
    return {key: column[:rows] for key, column in columns.items()}


def poison(rng: Random, columns: Columns, name: str) -> Columns:
    """Put values into it that are no numbers, or none of this size."""
    column = columns[name].astype(np.float64)
    values = [np.nan, np.inf, -np.inf, 1e30, -1e308, 1e-320, 3.0, 0.5]
    share = column.shape and rng.random(column.shape) < rng.choice([0.001, 0.1, 1.0])
    columns[name] = np.where(share, values[int(rng.integers(len(values)))], column)
    return columns


def hold_still(rng: Random, columns: Columns, name: str) -> Columns:
    """Let it never change."""
    columns[name] = np.broadcast_to(columns[name][:1], columns[name].shape).copy()
    return columns


def flip_flags(rng: Random, columns: Columns, name: str) -> Columns:
    """Set all flags of a column, or none."""
    flag = str(rng.choice(["terminals", "timeouts"]))
    if flag in columns:
        columns[flag] = np.full_like(columns[flag], bool(rng.integers(2)))
    return columns


def shuffle(rng: Random, columns: Columns, name: str) -> Columns:
    """Shuffle the rows of all."""
    order = rng.permutation(len(columns[name]))
    return {key: column[order] for key, column in columns.items()}


def add(rng: Random, columns: Columns, name: str) -> Columns:
    """Store something else beside it."""
    strange = ["index", "episode_ends", "infos", "metadata", "timeouts", "dones", "a b", "0"]
    columns[str(rng.choice(strange))] = rng.integers(0, 3, int(rng.integers(1, 500)))
    return columns


COLUMN_WAYS = (
    *(drop, rename, swap, cast, cast, reshape, reshape, shorten, shorten_all, poison, poison),
    *(hold_still, flip_flags, shuffle, add),
)


def write_columns(rng: Random, path: Path, columns: Columns) -> str:
    """Write columns to an `.npz` or HDF5 file, the latter in one of several layouts."""
    if path.suffix == ".npz":
        pack: Callable = np.savez_compressed if rng.random() < 0.3 else np.savez
        pack(path, **columns)
        return "as npz"
    path.unlink(missing_ok=True)
    layout = str(rng.choice(["plain", "chunked", "grouped", "virtual", "linked", "unallocated"]))
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            key = name.replace("/", "_") or "_"
            if layout == "grouped" and rng.random() < 0.2:
                file.create_group(key)["values"] = column
            elif layout == "linked" and rng.random() < 0.2:
                file[key] = h5py.ExternalLink("gone.h5", "/x")
            elif layout == "virtual" and rng.random() < 0.2:
                virtual = h5py.VirtualLayout(column.shape, column.dtype)
                virtual[...] = h5py.VirtualSource("gone.h5", "x", column.shape)
                file.create_virtual_dataset(key, virtual)
            elif layout == "unallocated" and rng.random() < 0.2 and column.ndim:
                file.create_dataset(key, column.shape, column.dtype, chunks=True)
            elif layout == "chunked" and column.ndim and column.size:
                file.create_dataset(key, data=column, chunks=True, compression="gzip")
            else:
                file[key] = column
    return layout


def write_json(path: Path, value: Any) -> None:
    """Write a value as it is."""
    path.write_text(json.dumps(value))
