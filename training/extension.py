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
from reverie.mistake import Mistake
from reverie.training import checkpoint
from reverie.training.execution import copy_execution
from reverie.training.files import load_tensors, save_tensors
from reverie.training.run_directory import CARRIED_OUT, CONFIG, SUMMARY, flat
from reverie.world_models.optimiser import Adam

_OWN = (*CARRIED_OUT, "updates", "extend")
_REMEDY = "restore it, or give another run as extend=..."


@dataclass(frozen=True)
class Extension:
    """The beginning of a longer run.

    Attributes:
        run: directory of the shorter one.
        updates: of the longer one.
    """

    run: Path
    updates: int

    def begin(self, directory: Path, agent: Agent, settings: Mapping[str, Any]) -> str | None:
        """Make the other run's checkpoint the first one of a directory, which is resumed from it.

        Args:
            directory: of the longer run.
            agent: that will be resumed.
            settings: of the longer run.

        Returns:
            What was done, in words; None where the directory has a checkpoint of its own.

        Raises:
            Mistake: see `read`; nothing is written then.
        """
        record = self.read(directory, settings)
        if record is None:
            return None
        copy_execution(self.run, directory)
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
                updates; or it is this run.
        """
        if directory.resolve() == self.run.resolve():
            raise Mistake(f"extend={self.run} is the run directory itself; give another run_dir")
        if not anew and any((directory / name).is_file() for name in (checkpoint.FILE, SUMMARY)):
            return None
        path = self.run / checkpoint.FILE
        if not path.is_file():
            raise Mistake(
                f"extend={self.run} holds no {checkpoint.FILE}; give the directory of a run that "
                "was trained with checkpoint_every above 0, such as "
                f"{checkpoint.example_near(self.run)}"
            )
        record = load_tensors(path, checkpoint.KIND, remedy=_REMEDY)
        checkpoint.require_parts(path, record, _REMEDY)
        self._require_same(record.get("settings", {}), settings)
        done = record["update"]
        if done >= self.updates:
            raise Mistake(
                f"extend={self.run} has done {done:,} updates, this run ends after "
                f"{self.updates:,}; give more, such as updates={2 * max(done, 1)}"
            )
        return record

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
