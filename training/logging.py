"""Measurements of a run: averaged on the device, written to CSV and to the chosen tracker."""

import csv
import hashlib
import io
import logging
import math
import re
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie.envs import extras
from reverie.mistake import Mistake, writing
from reverie.training.files import write_text

WATCHED = ("score", "return", "value", "critic_loss")
HEADER = ("update", "seed", "metric", "value")

log = logging.getLogger(__name__)


class Tracker(ABC):
    """An experiment tracker, in addition to the run directory's CSV."""

    @abstractmethod
    def start(self, run_dir: Path, config: Mapping[str, Any], first_update: int) -> None:
        """Open the tracker for a run that begins, or goes on, at `first_update`."""

    @abstractmethod
    def write(self, update: int, values: Mapping[str, float]) -> None:
        """Show named numbers at a gradient step."""

    @abstractmethod
    def close(self) -> None:
        """Flush and close."""


class NoTracker(Tracker):
    """CSV only."""

    def start(self, run_dir: Path, config: Mapping[str, Any], first_update: int) -> None:
        pass

    def write(self, update: int, values: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


class WandbTracker(Tracker):
    """Weights & Biases.

    Args:
        project, entity, group: as wandb names them; entity and group may be None.
        mode: online, offline or disabled.
    """

    def __init__(self, *, project: str, entity: str | None, group: str | None, mode: str) -> None:
        if mode not in ("online", "offline", "disabled"):
            raise Mistake(f"logger.mode={mode!r} is unknown; use online, offline or disabled")
        self.project, self.entity, self.group, self.mode = project, entity, group, mode
        self.wandb = extras.require("wandb", "wandb", "logger=wandb")

    def start(self, run_dir: Path, config: Mapping[str, Any], first_update: int) -> None:
        try:
            with writing(run_dir / "wandb"):
                self.run: Any = self.wandb.init(
                    project=self.project,
                    entity=self.entity,
                    group=self.group,
                    mode=self.mode,
                    name=str(run_dir),
                    id=_wandb_id(run_dir),
                    resume="allow",
                    dir=str(run_dir),
                    config=dict(config),
                )
        except self.wandb.Error as error:  # no account, no network, no such project
            raise Mistake(
                f"logger=wandb cannot begin ({error}); log in to wandb, or set "
                "logger.mode=offline: the run then goes on with what it has fitted"
            ) from error
        # Our own axis: wandb's step cannot go back, but a resumed run repeats a few updates.
        self.run.define_metric("update")
        self.run.define_metric("*", step_metric="update")

    def write(self, update: int, values: Mapping[str, float]) -> None:
        self.run.log({"update": update, **values})

    def close(self) -> None:
        self.run.finish()


def _wandb_id(run_dir: Path) -> str:
    """An id kept in the run directory, so that a resumed run continues its curves there."""
    path = run_dir / "wandb-id.txt"
    if not path.is_file():
        write_text(path, secrets.token_hex(8))
    found = path.read_text(encoding="utf-8", errors="replace").strip()
    if not re.fullmatch(r"[\w-]{1,128}", found, re.ASCII):
        raise Mistake(f"{path} is damaged, for it holds no id of wandb; restore it, or delete it")
    return found


class TensorBoardTracker(Tracker):
    """TensorBoard event files under `tensorboard/` in the run directory."""

    def __init__(self) -> None:
        tensorboard = extras.require("torch.utils.tensorboard", "tensorboard", "logger=tensorboard")
        self.open = tensorboard.SummaryWriter

    def start(self, run_dir: Path, config: Mapping[str, Any], first_update: int) -> None:
        self.folder = run_dir / "tensorboard"
        self.hook = threading.excepthook
        threading.excepthook = self._except
        with writing(self.folder):
            self.writer: Any = self.open(str(self.folder), purge_step=first_update or None)

    def write(self, update: int, values: Mapping[str, float]) -> None:
        with writing(self.folder):
            for name, value in values.items():
                self.writer.add_scalar(name, value, update)

    def close(self) -> None:
        try:
            with writing(self.folder):
                self.writer.close()
        finally:
            threading.excepthook = self.hook

    def _except(self, raised: threading.ExceptHookArgs) -> None:
        """Leave errors of the disk to the next `write`, for TensorBoard raises them there again."""
        writes = type(raised.thread).__module__.startswith("tensorboard.")
        if not (writes and issubclass(raised.exc_type, OSError)):
            self.hook(raised)


class Log:
    """Averages measurements `[S]` between flushes and writes one CSV row a seed and metric.

    The CSV is tidy, `update,seed,metric,value`. A checkpoint holds all of it, so a killed and
    resumed run leaves the same file as an undisturbed one, whatever became of the file meanwhile.

    Args:
        seeds: S.
        remedy: what to try if a measurement is not finite.
    """

    def __init__(
        self, path: Path, tracker: Tracker, seeds: int, *, remedy: str = "lower the learning rates"
    ) -> None:
        self.path, self.tracker, self.seeds, self.remedy = path, tracker, seeds, remedy
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.text: list[str] = []
        self.scores: list[dict[str, Any]] = []
        self.latest: dict[str, float] = {}

    def begin(self) -> None:
        """Start the file, or make it what the checkpoint knows."""
        known = "".join(self.text).encode()
        found = self.path.read_bytes() if self.path.is_file() else b""
        if not known:
            self.text = [",".join(HEADER) + "\n"]
        elif found[: len(known)] != known:
            log.warning("%s was damaged; written again from the checkpoint", self.path)
        if not known or found != known:
            write_text(self.path, "".join(self.text))

    def sha256(self) -> str:
        """Digest of the file, in hex."""
        return hashlib.sha256("".join(self.text).encode()).hexdigest()

    def add(self, measured: Mapping[str, Tensor]) -> None:
        """Add measurements to the running means; nothing leaves the device."""
        for name, value in measured.items():
            # A new tensor at once: a replayed CUDA graph overwrites its results.
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
            self.counts[name] = self.counts.get(name, 0) + 1

    def flush(self, update: int) -> None:
        """Write the means since the last flush.

        Raises:
            Mistake: a mean is not finite.
        """
        if not self.sums:
            return
        names = sorted(self.sums)
        stacked = torch.stack([self.sums[name].float() for name in names]).cpu()
        counts = torch.tensor([self.counts[name] for name in names])
        means = (stacked / counts.unsqueeze(1)).tolist()
        self.sums, self.counts = {}, {}
        self.write(update, dict(zip(names, means, strict=True)))
        broken = {
            name: [seed for seed, value in enumerate(row) if not math.isfinite(value)]
            for name, row in zip(names, means, strict=True)
            if not all(map(math.isfinite, row))
        }
        if broken:
            raise Mistake(
                f"not finite by update {update}: "
                + ", ".join(f"{name} (seeds {per_seed})" for name, per_seed in broken.items())
                + f"; the run has diverged: {self.remedy}, then start over with overwrite=true"
            )

    def write(self, update: int, values: Mapping[str, list[float]]) -> None:
        """Write named values, one per seed."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for name, row in values.items():
            for seed, value in enumerate(row):
                writer.writerow((update, seed, name, f"{value:.9g}"))
        remedy = "free some disk space, then run the same command again to go on from the last"
        with writing(self.path, f"{remedy} checkpoint"), open(self.path, "ab") as file:
            file.write(text.getvalue().encode())
        self.text.append(text.getvalue())
        means = {name: sum(row) / len(row) for name, row in values.items()}
        self.latest |= means
        shown = dict(means)
        if self.seeds > 1:
            shown |= {
                f"{name}/seed{seed}": value
                for name, row in values.items()
                for seed, value in enumerate(row)
            }
        self.tracker.write(update, shown)

    def record_evaluation(
        self, update: int, returns: list[float], scores: list[float] | None
    ) -> None:
        """Record the mean return of each seed, and its normalised score where one is defined."""
        self.scores.append({"update": update, "returns": returns, "scores": scores})
        values = {"return": returns}
        if scores is not None:
            values["score"] = scores
        self.write(update, values)

    def readable(self) -> str:
        """The measurements a person watches, in one line."""
        names = [name for name in WATCHED if name in self.latest]
        return "  ".join(f"{name} {self.latest[name]:.4g}" for name in names)

    def state(self) -> dict[str, Any]:
        """Everything a checkpoint must know."""
        return {
            "text": "".join(self.text),
            "scores": list(self.scores),
            "latest": dict(self.latest),
            "counts": dict(self.counts),
            "sums": {name: value.clone() for name, value in self.sums.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave.

        Raises:
            Mistake: an earlier version gave it.
        """
        if "text" not in state:
            raise Mistake(
                f"the checkpoint beside {self.path} was written by an earlier version of Reverie; "
                "start over with overwrite=true, or use the version that wrote it"
            )
        self.text, self.scores = [state["text"]], list(state["scores"])
        self.latest = dict(state["latest"])
        self.counts, self.sums = dict(state["counts"]), dict(state["sums"])
