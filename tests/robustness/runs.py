"""Runs of ours that are damaged, and the caches that they fill."""

import json
import re
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
import yaml

from reverie.training.files import digest_of, save_tensors
from tests.robustness import mutations, sandbox
from tests.robustness.judging import (
    REFUSED,
    RIGHT,
    Attempt,
    changed_files,
    digests,
    judge_refusal,
    require,
)
from tests.robustness.mutations import Random
from tests.robustness.sandbox import Outcome

TINY = (
    *("dataset.episodes=12", "updates=60", "batch_size=32", "agent.hidden=[16,16]"),
    *("evaluate.every=20", "evaluate.episodes=2", "probe_starts=16", "value_gap.starts=0"),
    *("log_every=10", "checkpoint_every=10", "threads=1"),
)
MODEL = (
    *("world_model.hidden=[16]", "world_model.weight_decay=[0.0,0.0]", "world_model.max_epochs=2"),
    *("source.starts=40", "source.every=20", "source.horizon=3"),
)
VERDICT = ("verdict.starts=4", "verdict.fqe.updates=10", "verdict.fqe.hidden=[8]")
MOPO = ("algorithm=mopo", *TINY, *MODEL, *VERDICT)
PLANT = (
    *("algorithm=mopo", "dataset=table", *(each for each in TINY if "episodes" not in each)),
    *(*MODEL, *VERDICT, "seeds=2", "dataset.columns.actions=[valve]"),
    *("dataset.path=WHOLE/log.csv", "source.every=40"),
)
"""A run on a table, without an environment."""


@dataclass(frozen=True)
class Reader:
    """A command that reads a run.

    Attributes:
        share: of the attempts.
        files: that it reads, or ignores; none for those of the caches.
        arguments: of the command; RUN is the run's folder, HERE the one around it.
    """

    share: float
    files: tuple[str, ...]
    arguments: tuple[str, ...]


class Run:
    """A finished and an interrupted run, and the caches that they fill.

    Args:
        typed: settings of the training; WHOLE is the folder of what `prepare` made.
        readers: by name.
        table: whether it learns from a table that lies there, of which its equations are made too.
    """

    def __init__(
        self, typed: Sequence[str], readers: Mapping[str, Reader], table: bool = False
    ) -> None:
        self.typed, self.readers, self.table = typed, readers, table

    def prepare(self, folder: Path) -> None:
        """Train once to the end and once to the middle, and keep what each reader then says."""
        work = folder / "work"
        work.mkdir()
        if self.table:
            write_log(folder / "log.csv")
        whole = folder / "finished"
        training = ["train.py", *self._typed(folder)]
        require(sandbox.run([*training, f"run_dir={whole}"], work))
        if self.table:
            require(sandbox.run(_filled(DISTIL, whole), work))
        killed = folder / "interrupted"
        death = (40, signal.SIGKILL)
        sandbox.run([*training, f"run_dir={killed}"], work, death=death)
        assert not (killed / "summary.json").exists(), "the run was not interrupted"
        (work / "cache").rename(folder / "cache")
        for name in self.readers:
            copy = folder / f"read-{name}"
            _copy_run(folder, copy, name)
            outcome = sandbox.run(self._reading(name, folder, copy), copy)
            require(outcome)
            text = _result(name, copy, outcome)
            shutil.rmtree(copy)
            (folder / f"{name}.txt").write_text(text)

    def attempt(self, rng: Random, whole: Path, folder: Path) -> Attempt:
        """Damage a file of the run or of the caches, and let a command read it."""
        shares = np.array([reader.share for reader in self.readers.values()])
        name = str(rng.choice(list(self.readers), p=shares / shares.sum()))
        _copy_run(whole, folder, name)
        run = folder / "run"
        files = [run / each for each in self.readers[name].files]
        if not files:
            files = [each for each in (folder / "cache").rglob("*") if each.suffix != ".lock"]
            files = [each for each in files if each.is_file()]
        path = files[int(rng.integers(len(files)))]
        way, same = _damage(rng, path)
        how = f"{way} {path.name}, {name}"
        before = digests(run)
        outcome = sandbox.run(self._reading(name, whole, folder), folder)
        # What a stranger made whole may be refused for what comes of it.
        verdict = judge_refusal(outcome, *([path.name, str(run)] if same else [""]))
        if verdict == REFUSED and digests(run) != before:
            changed = changed_files(before, digests(run))
            if changed:
                verdict = f"was refused, but changed {changed}"
        if verdict == RIGHT and same:
            right, found = (whole / f"{name}.txt").read_text(), _result(name, folder, outcome)
            if found != right and not _told(name, path, outcome):
                verdict = f"{name} is silently different after damage to {path.name}: "
                verdict += _difference(right, found)
        return Attempt(how, verdict, outcome)

    def _typed(self, whole: Path) -> list[str]:
        return [each.replace("WHOLE", str(whole)) for each in self.typed]

    def _reading(self, name: str, whole: Path, folder: Path) -> list[str]:
        found = _filled(self.readers[name].arguments, folder / "run")
        return [*found, *self._typed(whole)] if found[0] == "train.py" else found


def write_log(path: Path) -> None:
    """A small log of a plant with all columns but an environment."""
    rng = np.random.default_rng(0)
    level = rng.normal(size=(180, 2)).cumsum(0).round(4)
    lines = ["time [s],level [cm],flow,valve,reward,episode"]
    for row, (first, second) in enumerate(level.tolist()):
        valve, reward = rng.uniform(-1, 1), -abs(first)
        lines.append(f"{row % 30 * 0.5},{first},{second},{valve:.4f},{reward:.4f},{row // 30}")
    path.write_text("\n".join(lines) + "\n")


def _filled(arguments: Sequence[str], run: Path) -> list[str]:
    places = {"RUN": str(run), "HERE": str(run.parent)}
    return [re.sub("RUN|HERE", lambda found: places[found[0]], each) for each in arguments]


def _damage(rng: Random, path: Path) -> tuple[str, bool]:
    """How a file was damaged, and whether what it says must still be the same, or refused.

    A stranger writes other values with a digest that fits; then any values are in order.
    """
    stranger = rng.random() < 0.3
    if path.suffix == ".json" and rng.random() < 0.5:
        value = mutations.damage_json(rng, json.loads(path.read_text()))
        stranger = stranger and isinstance(value, dict)
        if stranger and "sha256" in value:
            value["sha256"] = digest_of(value)
        mutations.write_json(path, value)
        return ("rewrite_json" if stranger else "damage_json"), not stranger
    if path.suffix == ".yaml" and rng.random() < 0.5:
        value = mutations.damage_json(rng, yaml.safe_load(path.read_text()))
        path.write_text(yaml.safe_dump(value))
        return "damage_yaml", True
    if path.suffix == ".pt" and stranger:
        record = torch.load(path, weights_only=True)
        record = mutations.damage_record(rng, record)
        save_tensors(path, record.pop("reverie", "nothing"), record)
        return "rewrite_tensors", False
    return mutations.damage(rng, path), True


SMALL = ("members=2", "degrees=[1]", "thresholds=[0.1]")
DISTIL = (
    *("-m", "reverie.training.distil", "run=RUN", *SMALL, "rounds=0", "rows=60"),
    *("episodes=2", "copies=1", *VERDICT),
)
EXPORT = ("-m", "reverie.training.export", "run=RUN", "tests=16", "decisions=1")
REPORT = Reader(
    0.2,
    ("metrics.csv", "summary.json", "config.yaml"),
    ("-m", "reverie.training.report", "RUN", "--output", "HERE/report"),
)
SHOWN = Reader(
    0.1,
    ("metrics.csv", "summary.json", "config.yaml", "checkpoint.pt"),
    ("train.py", "run_dir=RUN"),
)
READERS: Mapping[str, Reader] = {
    "evaluate": Reader(
        0.3, ("checkpoint.pt", "config.yaml"), ("evaluate.py", "run=RUN", "episodes=2")
    ),
    "report": REPORT,
    "shown": SHOWN,
    "resume": Reader(
        0.2,
        ("checkpoint.pt", "world_model.pt", "metrics.csv", "config.yaml"),
        ("train.py", "run_dir=RUN"),
    ),
    "refit": Reader(0.15, (), ("train.py", "run_dir=RUN")),
    "distil": Reader(
        0.05,
        ("checkpoint.pt", "config.yaml"),
        ("-m", "reverie.training.distil", "run=RUN", *SMALL),
    ),
}
"""Of a run with an environment."""
PLANT_READERS: Mapping[str, Reader] = {
    "export": Reader(
        0.35,
        ("checkpoint.pt", "config.yaml", "summary.json", "dreams.json"),
        (*EXPORT, "format=[numpy,torchscript]"),
    ),
    "equations": Reader(
        0.2,
        ("sparse_policy.json", "summary.json", "checkpoint.pt"),
        (*EXPORT, "format=equations"),
    ),
    "distil": Reader(0.15, ("checkpoint.pt", "world_model.pt", "config.yaml"), DISTIL),
    "init": Reader(
        0.2,
        ("checkpoint.pt", "config.yaml", "summary.json", "dreams.json"),
        ("train.py", "init=RUN", "run_dir=HERE/next"),
    ),
    "report": REPORT,
    "shown": SHOWN,
}
"""Of a run on a table."""


def _difference(right: str, found: str) -> str:
    """The first line that differs, both ways."""
    pairs = zip_longest(right.splitlines(), found.splitlines(), fillvalue="")
    return next((f"{found!r} and not {right!r}" for right, found in pairs if found != right), "")


def _told(name: str, path: Path, outcome: Outcome) -> bool:
    """Whether a reader that goes on without what it cannot read has said so."""
    printed = outcome.stdout + outcome.stderr
    without = {"report": path.name, "export": "no recorded ranges: the dataset of"}
    return name in without and without[name] in printed


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
        # Names of temporary folders have underscores, which Markdown escapes.
        text = (folder / "report" / "report.md").read_text().replace("\\_", "_")
        text = text.replace(str(folder), "")
        return re.sub(r"\d+(\.\d+)? (s|min|h)\b", "", text)
    if name == "distil":
        return (run / "sparse_policy.json").read_text().replace(str(folder), "")
    if name in ("export", "equations"):
        found = json.loads(next((run / "export").rglob("manifest.json")).read_text())
        del found["measured"]  # with times
        return json.dumps(found, indent=1).replace(str(folder), "")
    if name == "init":
        return (folder / "next" / "metrics.csv").read_text()
    if name == "shown":
        text = outcome.stdout.replace(str(folder), "")
        return "\n".join(line for line in text.splitlines() if "wall-clock" not in line)
    return (run / "metrics.csv").read_text()
