"""A longer run that goes on from the checkpoint of a shorter one: `extend=RUN updates=MORE`.

The new run has its own directory and the settings of the other one but for `updates`; it takes the
whole state, so that without an annealed learning rate it ends with the bits of a run that had that
length from the start. The other run is only read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reverie.agents.base import Agent
from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.training import checkpoint
from reverie.training.execution import copy_execution
from reverie.training.files import load_tensors, save_tensors, write_text
from reverie.training.run_directory import CARRIED_OUT, CONFIG, METRICS, SUMMARY, flat
from reverie.training.stored import damaged
from reverie.world_models.optimiser import Adam

_OWN = (*CARRIED_OUT, "updates", "extend")
REMEDY = "restore it, or give another run as extend=..."


@dataclass(frozen=True)
class Extension:
    """The beginning of a longer run.

    Attributes:
        run: directory of the shorter one.
        updates: of the longer one.
    """

    run: Path
    updates: int

    @property
    def path(self) -> Path:
        """The checkpoint of the shorter run."""
        return self.run / checkpoint.FILE

    def begin(
        self, directory: Path, agent: Agent, data: Dataset, settings: Mapping[str, Any]
    ) -> str | None:
        """Make the other run's checkpoint the first one of a directory, which is resumed from it.

        Args:
            directory: of the longer run.
            agent: that will be resumed.
            data: what it learns from.
            settings: of the longer run.

        Returns:
            What was done, in words; None where the directory has a checkpoint of its own.

        Raises:
            Mistake: see `read`; the other run had other rows or another agent. Nothing is written
                then.
        """
        record = self.read(directory, settings)
        if record is None:
            return None
        self._require_identity(record, checkpoint.identity(agent, data.fingerprint))
        curves = record["log"].get("text")
        if not isinstance(curves, str):
            raise damaged(self.path, "its log is that of an earlier version", REMEDY)
        copy_execution(self.run, directory)
        write_text(directory / METRICS, curves)
        own = {key: value for key, value in settings.items() if key not in CARRIED_OUT}
        save_tensors(directory / checkpoint.FILE, checkpoint.KIND, {**record, "settings": own})
        return "; ".join([f"extending {self.run} to {self.updates:,} updates", *_annealed(agent)])

    def read(
        self, directory: Path, settings: Mapping[str, Any], anew: bool = False
    ) -> dict[str, Any] | None:
        """The other run's checkpoint; None where the directory has one of its own.

        Args:
            directory, settings: of the longer run.
            anew: whether it starts over, whatever its directory holds.

        Raises:
            Mistake: the other run has no checkpoint, a damaged one, other settings, or as many
                updates; or it is this run, or holds it.
        """
        if directory.resolve() == self.run.resolve():
            raise Mistake(f"extend={self.run} is the run directory itself; give another run_dir")
        if not anew and any((directory / name).is_file() for name in (checkpoint.FILE, SUMMARY)):
            return None
        if self.run.resolve() in directory.resolve().parents:  # it would not only be read
            raise Mistake(f"{directory} lies inside of extend={self.run}; give another run_dir")
        path = self.path
        if not path.is_file():
            raise Mistake(
                f"extend={self.run} holds no {checkpoint.FILE}; give the directory of a run that "
                "was trained with checkpoint_every above 0, such as "
                f"{checkpoint.example_near(self.run)}"
            )
        record = load_tensors(path, checkpoint.KIND, remedy=REMEDY)
        checkpoint.require_parts(path, record, REMEDY)
        self._require_same(record.get("settings", {}), settings)
        done = record["update"]
        if done >= self.updates:
            raise Mistake(
                f"extend={self.run} has done {done:,} updates, this run ends after "
                f"{self.updates:,}; give more, such as updates={2 * max(done, 1)}"
            )
        return record

    def _require_identity(self, record: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """Refuse what equal settings do not tell, before it is copied or anything is fitted."""
        for name, value in wanted.items():
            found = record["identity"].get(name)
            if found == value:
                continue
            if name == "dataset":
                raise Mistake(
                    f"extend={self.run} was learned from other rows than the dataset has now "
                    f"(fingerprint {found}, now {value}); restore the data, or begin anew from its "
                    f"networks with init={self.run}"
                )
            what = "networks of other shapes" if name == "shapes" else f"{name}={found}"
            now = "" if name == "shapes" else f", this run has {value}"
            raise Mistake(f"extend={self.run} holds {what}{now}; {REMEDY}")

    def _require_same(self, theirs: Any, ours: Mapping[str, Any]) -> None:
        """Refuse settings that differ in more than the length."""
        before, now = flat(theirs), flat(ours)
        for key in sorted(before.keys() | now.keys(), key=lambda key: (key != "budget", key)):
            if key.split(".")[0] in _OWN or before.get(key) == now.get(key):
                continue
            raise Mistake(
                f"extend={self.run} was trained with {key}={before.get(key)}, this run has "
                f"{key}={now.get(key)}; set all but updates as in {self.run / CONFIG}, or begin "
                f"anew from its networks with init={self.run}"
            )


def _annealed(agent: Agent) -> list[str]:
    if not any(isinstance(each, Adam) and each.annealed for each in agent.modules()):
        return []
    return [
        "a learning rate that fell to zero over the shorter run rises again to where the longer "
        "one's has it, so the result is not that of a run of this length from the start"
    ]
