"""What is damaged, who reads it, and what must come of it.

A subject prepares whole files once. An attempt copies them, damages one, lets a command read it,
and judges: `"right"` values, `"refused"` in one line that names the file, or a fault in words.
"""

import hashlib
import json
import os
import re
import shutil
import signal
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import yaml

from tests.robustness import mutations, sandbox
from tests.robustness.mutations import Columns, Random
from tests.robustness.sandbox import Outcome

RIGHT, REFUSED = "right", "refused"
TINY = (
    *("dataset.episodes=12", "updates=60", "batch_size=32", "agent.hidden=[16,16]"),
    *("evaluate.every=20", "evaluate.episodes=2", "probe_starts=16", "value_gap.starts=0"),
    *("log_every=10", "checkpoint_every=10", "threads=1"),
)
MODEL = (
    *("world_model.hidden=[16]", "world_model.weight_decay=[0.0,0.0]", "world_model.max_epochs=2"),
    *("source.starts=40", "source.every=20", "source.horizon=3"),
)
MOPO = ("algorithm=mopo", *TINY, *MODEL)


@dataclass(frozen=True)
class Attempt:
    """One damage and what came of it.

    Attributes:
        how: the damage, and the command that met it.
        verdict: `RIGHT`, `REFUSED`, or a fault.
        outcome: of the command.
    """

    how: str
    verdict: str
    outcome: Outcome


class Subject(Protocol):
    """Something that can be damaged."""

    def prepare(self, folder: Path) -> None:
        """Make whole files below `folder`."""

    def attempt(self, rng: Random, whole: Path, folder: Path) -> Attempt:
        """Damage a copy of what `prepare` made in `whole`, in the empty `folder`."""


# --- recorded data


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
        before = _digests(folder / "root")
        options = [f"dataset.id={self.id}", f"dataset.path={folder / 'root'}"]
        options += ["dataset=minari", "dataset.download=false", "dataset.env_id=null"]
        outcome = sandbox.run(["-m", "reverie.datasets.check", *options], folder)
        verdict = judge_refusal(outcome, path.name, self.id, str(folder / "root"), may_warn=True)
        if verdict == REFUSED and "delete" in outcome.errors[0]:
            verdict = "advises to delete what is not ours"
        if _digests(folder / "root") != before:
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


# --- runs of ours


class Run:
    """A finished and an interrupted run, and the caches that they fill."""

    files = ("checkpoint.pt", "world_model.pt", "config.yaml", "metrics.csv", "summary.json")

    def prepare(self, folder: Path) -> None:
        """Train once to the end and once to the middle, and keep what each reader then says."""
        work = folder / "work"
        work.mkdir()
        whole = folder / "finished"
        _require(sandbox.run(["train.py", *MOPO, f"run_dir={whole}"], work))
        killed = folder / "interrupted"
        death = (40, signal.SIGKILL)
        sandbox.run(["train.py", *MOPO, f"run_dir={killed}"], work, death=death)
        assert not (killed / "summary.json").exists(), "the run was not interrupted"
        (work / "cache").rename(folder / "cache")
        for name in READERS:
            copy = folder / f"read-{name}"
            _copy_run(folder, copy, name)
            outcome = sandbox.run(_reading(name, copy), copy)
            _require(outcome)
            text = _result(name, copy, outcome)
            shutil.rmtree(copy)
            (folder / f"{name}.txt").write_text(text)

    def attempt(self, rng: Random, whole: Path, folder: Path) -> Attempt:
        """Damage a file of the run or of the caches, and let a command read it."""
        shares = np.array([share for share, _ in READERS.values()])
        name = str(rng.choice(list(READERS), p=shares / shares.sum()))
        _copy_run(whole, folder, name)
        run = folder / "run"
        files = [run / each for each in READERS[name][1]]
        if name == "refit":
            files = [each for each in (folder / "cache").rglob("*") if each.suffix != ".lock"]
            files = [each for each in files if each.is_file()]
        path = files[int(rng.integers(len(files)))]
        if path.suffix == ".json" and rng.random() < 0.5:
            value = mutations.damage_json(rng, json.loads(path.read_text()))
            mutations.write_json(path, value)
            way = "damage_json"
        elif path.suffix == ".yaml" and rng.random() < 0.5:
            value = mutations.damage_json(rng, yaml.safe_load(path.read_text()))
            path.write_text(yaml.safe_dump(value))
            way = "damage_yaml"
        else:
            way = mutations.damage(rng, path)
        how = f"{way} {path.name}, {name}"
        before = _digests(run)
        outcome = sandbox.run(_reading(name, folder), folder)
        verdict = judge_refusal(outcome, path.name, str(run))
        if verdict == REFUSED and _digests(run) != before:
            changed = _changed(before, _digests(run))
            if changed:
                verdict = f"was refused, but changed {changed}"
        if verdict == RIGHT:
            told = path.name in outcome.stdout + outcome.stderr
            right = (whole / f"{name}.txt").read_text()
            if _result(name, folder, outcome) != right and not (name == "report" and told):
                verdict = f"{name} is silently different after damage to {path.name}"
        return Attempt(how, verdict, outcome)


READERS: Mapping[str, tuple[float, tuple[str, ...]]] = {
    "evaluate": (0.3, ("checkpoint.pt", "config.yaml")),
    "report": (0.2, ("metrics.csv", "summary.json", "config.yaml")),
    "shown": (0.1, ("metrics.csv", "summary.json", "config.yaml", "checkpoint.pt")),
    "resume": (0.2, ("checkpoint.pt", "world_model.pt", "metrics.csv", "config.yaml")),
    "refit": (0.15, ()),
    "distil": (0.05, ("checkpoint.pt", "config.yaml")),
}
"""Share of the attempts by reader, and the files that it reads."""


def _reading(name: str, folder: Path) -> list[str]:
    run = folder / "run"
    if name == "evaluate":
        return ["evaluate.py", f"run={run}", "episodes=2"]
    if name == "report":
        return ["-m", "reverie.training.report", str(run), "--output", str(folder / "report")]
    if name == "distil":
        small = ["members=2", "degrees=[1]", "thresholds=[0.1]"]
        return ["-m", "reverie.training.distil", f"run={run}", *small]
    return ["train.py", *MOPO, f"run_dir={run}"]


def _copy_run(whole: Path, folder: Path, name: str) -> None:
    """What a reader finds."""
    folder.mkdir(exist_ok=True)
    shutil.copytree(whole / "cache", folder / "cache")
    if name != "refit":
        shutil.copytree(whole / ("interrupted" if name == "resume" else "finished"), folder / "run")


def _result(name: str, folder: Path, outcome: Outcome) -> str:
    """What the reader found, without what depends on the clock or the place."""
    run = folder / "run"
    if name == "evaluate":
        found = json.loads((run / "evaluation.json").read_text())
        return json.dumps({key: found[key] for key in ("update", "returns", "lengths", "scores")})
    if name == "report":
        text = (folder / "report" / "report.md").read_text().replace(str(folder), "")
        return re.sub(r"\d+(\.\d+)? (s|min|h)\b", "", text)
    if name == "distil":
        return (run / "sparse_policy.json").read_text().replace(str(folder), "")
    if name == "shown":
        text = outcome.stdout.replace(str(folder), "")
        return "\n".join(line for line in text.splitlines() if "wall-clock" not in line)
    return (run / "metrics.csv").read_text()


# --- what somebody types


class Settings:
    """The command line of a training run."""

    values = (
        *("-1", "0", "1", "2", "0.5", "1.5", "-0.1", "nan", "inf", "-.inf", "1e9", "null", "true"),
        *("abc", "''", "[]", "[0]", "[-1,2]", "[abc]", "{}", "{a:1}", "[[1]]", "'a=b'", "none"),
        *("~/x", "/no/such/place", "a,b", "${seed}", "${oc.env:NOTHING}", "$HOME", "ü", "'  '"),
        *("a(1)", "a[", "{", "#", "'#'", "%s", "\\", "=", "&a", "!!x", "???", "1e-400", "0x10"),
    )
    algorithms = ("mopo", "td3_bc", "iql", "cql", "edac", "ravl", "h2o", "sindy_rl")

    def prepare(self, folder: Path) -> None:
        """Keep the names of all settings."""
        for name in self.algorithms:
            out = sandbox.run(["train.py", "--cfg", "job", f"algorithm={name}"], folder)
            _require(out)
            (folder / f"{name}.yaml").write_text(out.stdout)
        _require(sandbox.run(["train.py", "algorithm=bc", *self._short(folder)], folder))
        shutil.rmtree(folder / "runs")

    def attempt(self, rng: Random, whole: Path, folder: Path) -> Attempt:
        """Type something strange for one or two settings."""
        algorithm = str(rng.choice(self.algorithms))
        keys = _flat(yaml.safe_load((whole / f"{algorithm}.yaml").read_text()))
        keys = [key for key in keys if "_target_" not in key and not key.startswith("logger")]
        typed = [
            f"{rng.choice(keys)}={rng.choice(self.values)}"
            for _ in range(int(rng.choice([1, 1, 1, 2])))
        ]
        shutil.copytree(whole / "cache", folder / "cache")
        typed = [each for each in typed if not each.startswith(("cache=", "root="))]
        arguments = [f"algorithm={algorithm}", *self._short(folder), *typed]
        how = f"train.py algorithm={algorithm} {' '.join(typed)}"
        outcome = sandbox.run(["train.py", *arguments], folder)
        names = [each.partition("=")[0].rpartition(".")[2] for each in typed]
        names += [name for each in typed for name in re.findall(r"\w{3,}", each.partition("=")[2])]
        verdict = judge_refusal(outcome, *filter(None, names))
        return Attempt(how, verdict, outcome)

    def _short(self, folder: Path) -> list[str]:
        own = ("agent.hidden", "updates", "batch_size")
        short = [each for each in TINY if not each.startswith(own)]
        return [*short, "updates=2", "batch_size=96", "evaluate.every=2", f"root={folder / 'runs'}"]


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key}")
    return found


# --- judging


def judge_refusal(outcome: Outcome, *names: str, may_warn: bool = False) -> str:
    """`REFUSED` in one line that holds one of `names`, `RIGHT` if nothing was refused, or a fault.

    Args:
        outcome: of the command.
        names: of what was damaged.
        may_warn: whether a status of 1 without an error is in order, as of a check that found
            problems.
    """
    fault = outcome.fault()
    if fault is not None:
        return fault
    if not outcome.errors:
        silent = outcome.status > int(may_warn)
        return f"ends with {outcome.status}, silently" if silent else RIGHT
    if outcome.status == 0:
        return "prints an error and ends with 0"
    if "weights_only=False" in outcome.errors[0] or "weights_only" in outcome.errors[0]:
        return "advises to open the file unsafely"
    return REFUSED if any(name in outcome.errors[0] for name in names) else "does not name the file"


def _require(outcome: Outcome) -> None:
    assert outcome.status == 0, outcome


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def _changed(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Files of before that are no more what they were."""
    return ", ".join(name for name, digest in before.items() if after.get(name) != digest)


SUBJECTS: Mapping[str, tuple[float, Subject]] = {
    "hdf5": (0.2, File(".hdf5")),
    "npz": (0.15, File(".npz")),
    "minari": (0.2, Minari()),
    "run": (0.3, Run()),
    "settings": (0.15, Settings()),
}
"""Share of the attempts by subject."""

os.environ.setdefault("OMP_NUM_THREADS", "1")
