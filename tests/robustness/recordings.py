"""Recordings of somebody's own that are damaged: HDF5, `.npz` and Minari."""

import json
import shutil
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.robustness import mutations, sandbox
from tests.robustness.judging import REFUSED, RIGHT, Attempt, digests, judge_refusal
from tests.robustness.mutations import Columns, Random


def record(episodes: int = 6, length: int = 30) -> Columns:
    """A small recording with all columns."""
    rng = np.random.default_rng(0)
    rows = episodes * length
    obs = rng.normal(size=(episodes, length + 1, 3)).cumsum(1).astype("f4")
    return {
        "observations": obs[:, :-1].reshape(rows, 3),
        "actions": rng.uniform(-1, 1, (rows, 2)).astype("f4"),
        "rewards": rng.normal(size=rows).astype("f4"),
        "next_observations": obs[:, 1:].reshape(rows, 3),
        "terminals": np.zeros(rows, bool),
        "timeouts": np.arange(rows) % length == length - 1,
    }


class File:
    """A file of somebody's own, as `dataset=file` reads it."""

    def __init__(self, suffix: str) -> None:
        self.name = f"recording{suffix}"

    def prepare(self, folder: Path) -> None:
        """Write the file."""
        _write_plain(folder / self.name, record())

    def attempt(self, rng: Random, whole: Path, folder: Path) -> Attempt:
        """Damage its bytes or its columns, and check it."""
        path = folder / self.name
        shutil.copy(whole / self.name, path)
        if rng.random() < 0.5:
            how = mutations.damage(rng, path)
        else:
            columns, how = mutations.change_columns(rng, record())
            if rng.random() < 0.3:
                columns, second = mutations.change_columns(rng, columns) if columns else ({}, "")
                how += f", {second}"
            how += f", {mutations.write_columns(rng, path, columns)}"
        options = ["dataset=file", f"dataset.path={path}"]
        outcome = sandbox.run(["-m", "reverie.datasets.check", *options], folder)
        if "Python" in outcome.stderr:
            return Attempt(how, "warns of Python's own", outcome)
        verdict = judge_refusal(outcome, path.name, may_warn=True)
        if verdict == RIGHT:
            loaded = sandbox.run([], folder, then=lambda: _compare_file(path))
            verdict = loaded.fault() or (loaded.stdout.strip() or "says nothing")
        return Attempt(how, verdict, outcome)


def _write_plain(path: Path, columns: Columns) -> None:
    if path.suffix == ".npz":
        np.savez(path, **columns)
        return
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            file[name] = column


def _compare_file(path: Path) -> None:
    """Print `RIGHT` if our reader gives what h5py or numpy read under the standard names."""
    from reverie import datasets

    data = datasets.load("file", path=str(path))
    found: Columns = {}
    if path.suffix == ".npz":
        with np.load(path) as file:
            found = {name: file[name] for name in file.files}
    else:
        with h5py.File(path) as file:
            found = {name: file[name][()] for name in file if isinstance(file[name], h5py.Dataset)}
    _print_verdict(data, found)


def _print_verdict(data: Any, found: Columns) -> None:
    rows = data.transitions
    pairs = {
        "observations": rows.obs,
        "actions": rows.action,
        "rewards": rows.reward,
        "terminals": rows.terminated,
    }
    stored, read = [], []
    for name, column in pairs.items():
        if name in found:  # else it stands there under another name
            stored.append(np.asarray(found[name], np.float32).reshape(found[name].shape[0], -1))
            read.append(np.asarray(column, np.float32).reshape(len(column), -1))
    if len({len(each) for each in stored}) > 1:
        print("columns of unequal length were read")
        return
    # Rows without a known successor may be left out; what is kept keeps its order and values.
    print(
        RIGHT if _is_subsequence(np.hstack(read), np.hstack(stored)) else "other values were read"
    )


def _is_subsequence(rows: np.ndarray, of: np.ndarray) -> bool:
    at = 0
    for row in rows:
        while at < len(of) and not np.allclose(row, of[at], rtol=1e-5, atol=1e-6, equal_nan=True):
            at += 1
        if at == len(of):
            return False
        at += 1
    return True


class Minari:
    """A Minari dataset of somebody's own."""

    id = "own/log-v0"

    def prepare(self, folder: Path) -> None:
        """Write a root folder with one dataset in Minari's HDF5 layout."""
        from gymnasium import spaces
        from minari.serialization import serialize_space

        data = folder / "root" / self.id / "data"
        data.mkdir(parents=True)
        columns, length = record(), 30
        with h5py.File(data / "main_data.hdf5", "w") as file:
            for number, start in enumerate(range(0, len(columns["rewards"]), length)):
                rows = slice(start, start + length)
                group = file.create_group(f"episode_{number}")
                group.attrs["id"], group.attrs["total_steps"] = number, length
                last = columns["next_observations"][start + length - 1]
                group["observations"] = np.vstack([columns["observations"][rows], last])
                group["actions"] = columns["actions"][rows]
                group["rewards"] = columns["rewards"][rows]
                group["terminations"] = columns["terminals"][rows]
                group["truncations"] = columns["timeouts"][rows]
        metadata = {
            "dataset_id": self.id,
            "total_episodes": 6,
            "total_steps": 180,
            "data_format": "hdf5",
            "observation_space": serialize_space(spaces.Box(-np.inf, np.inf, (3,), np.float32)),
            "action_space": serialize_space(spaces.Box(-1, 1, (2,), np.float32)),
            "minari_version": "0.5.3",
            "ref_min_score": -5.0,
            "ref_max_score": 5.0,
        }
        mutations.write_json(data / "metadata.json", metadata)

    def attempt(self, rng: Random, whole: Path, folder: Path) -> Attempt:
        """Damage the bytes, an episode or the metadata, and check the dataset."""
        shutil.copytree(whole / "root", folder / "root")
        data = folder / "root" / self.id / "data"
        path = data / str(rng.choice(["metadata.json", "main_data.hdf5"]))
        if rng.random() < 0.5:
            how = f"{mutations.damage(rng, path)} {path.name}"
        elif path.suffix == ".json":
            metadata = json.loads(path.read_text())
            mutations.write_json(path, mutations.damage_json(rng, metadata))
            how = "damage_json metadata.json"
        else:
            how = _change_episode(rng, path)
        before = digests(folder / "root")
        options = [f"dataset.id={self.id}", f"dataset.path={folder / 'root'}"]
        options += ["dataset=minari", "dataset.download=false", "dataset.env_id=null"]
        outcome = sandbox.run(["-m", "reverie.datasets.check", *options], folder)
        verdict = judge_refusal(outcome, path.name, self.id, str(folder / "root"), may_warn=True)
        if verdict == REFUSED and "delete" in outcome.errors[0]:
            verdict = "advises to delete what is not ours"
        if digests(folder / "root") != before:
            verdict = "changed the files of a user"
        if verdict == RIGHT:
            # Of damaged metadata the box of the actions may be another, and so their scale.
            but = ("actions",) if path.suffix == ".json" else ()
            compare = partial(_compare_minari, folder / "root", self.id, but)
            loaded = sandbox.run([], folder, then=compare)
            verdict = loaded.fault() or (loaded.stdout.strip() or "says nothing")
        return Attempt(how, verdict, outcome)


def _change_episode(rng: Random, path: Path) -> str:
    with h5py.File(path, "a") as file:
        group = file[f"episode_{rng.integers(6)}"]
        columns = {name: item[()] for name, item in group.items()}
        changed, how = mutations.change_columns(rng, columns)
        for name in columns:
            del group[name]
        for name, column in changed.items():
            group[name] = column
        if rng.random() < 0.2:
            group.attrs["total_steps"] = int(rng.integers(-1, 40))
            how += ", another total_steps"
    return how


def _compare_minari(root: Path, id: str, but: Collection[str]) -> None:
    from reverie import datasets

    data = datasets.load("minari", id=id, path=str(root), download=False, env_id=None)
    episodes: list[Columns] = []
    with h5py.File(root / id / "data" / "main_data.hdf5") as file:
        for name in sorted(file, key=lambda each: int(each.rpartition("_")[2])):
            group = file[name]
            columns = {key: group[key][()] for key in group}
            rows = len(columns["actions"])
            episodes.append(
                {
                    "observations": columns["observations"][:rows].reshape(rows, -1),
                    "actions": columns["actions"].reshape(rows, -1),
                    "rewards": columns["rewards"].reshape(-1),
                    "terminals": columns["terminations"].reshape(-1),
                }
            )
    keys = [key for key in episodes[0] if key not in but]
    found = {key: np.concatenate([each[key] for each in episodes]) for key in keys}
    _print_verdict(data, found)
