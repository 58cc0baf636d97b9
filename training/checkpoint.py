"""The whole state of a run in one file, so that an interrupted run resumes bitwise exactly."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import nn

from reverie.agents.base import Agent
from reverie.datasets.dataset import Dataset
from reverie.datasets.replay import Mixture
from reverie.envs.specs import Reference, Spec
from reverie.mistake import Mistake
from reverie.ranges import describe, fits
from reverie.training.files import load_tensors, require_finite, save_tensors, write_text
from reverie.training.logging import Log
from reverie.training.run_directory import CARRIED_OUT, CONFIG, require_same
from reverie.training.seeding import random_state, restore_random_state
from reverie.training.stored import contents_of, damaged, write_settings
from reverie.world_models.base import WorldModel
from reverie.world_models.model_updates import ModelUpdates
from reverie.world_models.sources import RolloutSource

KIND = "checkpoint"
FILE = "checkpoint.pt"
_PARTS = {"update": int} | dict.fromkeys(
    ("identity", "spec", "agent", "streams", "random", "log", "seconds"),
    Mapping,
)
_REPAIR = "restore it, start over with overwrite=true, or give another run_dir"
_DIVERGED = (
    "lower the learning rates or source.horizon, or raise filter.penalty, then start over with "
    "overwrite=true"
)


def example_near(directory: Path) -> str:
    """What a message gives as an example of a run directory: the run that was trained last of those
    below a folder, or below the nearest one that is there."""
    place = next(each for each in (directory, *directory.parents) if each.is_dir())
    if place.resolve() in (Path.cwd(), Path.home(), Path(place.resolve().anchor)):
        place = Path("runs")  # those may hold anything
    found = [saved for depth in range(5) for saved in place.glob("*/" * depth + FILE)]
    found = [saved for saved in found if (saved.parent / CONFIG).is_file()]
    return str(max(found, key=_written).parent) if found else "runs/mopo/pendulum-mixed/0"


def _written(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


@dataclass
class State:
    """All state that the rest of a run depends on.

    Streams that a source refills are saved; the dataset itself and fitted models are not, they
    have files of their own and are compared by fingerprint. A model that changes during the run is
    saved too.

    Attributes:
        agent, mixture, sources, log: the objects of the training loop.
        seconds: wall-clock per stage so far.
        data: the dataset, for its fingerprint and task.
        device: where the run takes place, for its random state.
        model_updates: updates of the world model during the run, None for none.
        settings: plain values, by which a checkpoint is known to belong to a run.
        clock: tells seconds.
    """

    agent: Agent
    mixture: Mixture
    sources: Mapping[str, RolloutSource]
    log: Log
    seconds: dict[str, float]
    data: Dataset
    device: torch.device
    model_updates: ModelUpdates | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._counted_until = self.clock()

    @contextmanager
    def count(self, name: str) -> Iterator[None]:
        """Count the seconds of the block as `name`, and those since the last block as training."""
        begun = self.clock()
        yield
        now = self.clock()
        self.seconds["training"] += begun - self._counted_until
        self.seconds[name] += now - begun
        self._counted_until = now

    def save(self, path: Path, update: int) -> None:
        """Write the state after `update` updates.

        Raises:
            Mistake: the agent has diverged, and an earlier checkpoint stays; it cannot be written.
        """
        with self.count("training"):
            pass
        require_finite(path, self.agent, self.agent.state_dict(), _DIVERGED)
        changed, changes = None, {}
        if self.model_updates is not None:
            model = self.model_updates.model
            changed, changes = model.state_dict(), self.model_updates.contents()
            require_finite(path, model, changed, _DIVERGED)
        reference = self.data.reference
        save_tensors(
            path,
            KIND,
            {
                "update": update,
                "identity": identity(self.agent, self.data.fingerprint),
                "settings": {
                    key: value for key, value in self.settings.items() if key not in CARRIED_OUT
                },
                "spec": _plain_spec(self.agent.spec),
                "reference": None if reference is None else asdict(reference),
                "agent": self.agent.state_dict(),
                "streams": {name: self.mixture[name].contents() for name in self.sources},
                "sources": {name: source.contents() for name, source in self.sources.items()},
                "world_model": changed,
                "model_updates": changes,
                "random": random_state(self.device),
                "log": self.log.state(),
                "seconds": dict(self.seconds),
            },
        )

    def resume(self, path: Path, origin: Path | None = None, remedy: str = _REPAIR) -> int:
        """Go back to a checkpoint; returns its finished updates.

        Args:
            origin: the file of which it is a copy, None for none; messages are about that one.
            remedy: for a damaged one.

        Raises:
            Mistake: the checkpoint is damaged, has diverged, or belongs to another run.
        """
        record = _load(path, self.device)
        path = origin or path
        _require_identity(path, record, identity(self.agent, self.data.fingerprint))
        require_same(path, record.get("settings", {}), self.settings)
        diverged = _DIVERGED if origin is None else remedy
        _take(path, self.agent, record["agent"], remedy, diverged)
        with contents_of(path, "a run", remedy):
            for name in self.sources:
                self.mixture[name].restore(record["streams"][name])
            sources = {name: record.get("sources", {}).get(name, {}) for name in self.sources}
            self.log.restore(record["log"])
            self.seconds.update({name: float(each) for name, each in record["seconds"].items()})
            restore_random_state(record["random"], self.device)
        for name, source in self.sources.items():
            source.restore(sources[name])
        if self.model_updates is not None:
            _take(path, self.model_updates.model, record["world_model"], remedy, diverged)
            with contents_of(path, "a run", remedy):
                self.model_updates.restore(record.get("model_updates", {}))
        self._counted_until = self.clock()
        return record["update"]


@dataclass(frozen=True)
class Facts:
    """What an evaluation needs besides the configuration.

    Attributes:
        spec, reference: of the task.
        fingerprint: of the dataset.
        settings: of the run.
    """

    spec: Spec
    reference: Reference | None
    fingerprint: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_facts(path: Path) -> Facts:
    """The task a checkpoint was trained for."""
    return facts_of(path, _load(path))


def facts_of(path: Path, record: Mapping[str, Any]) -> Facts:
    """The task that the contents of a checkpoint belong to.

    Raises:
        Mistake: they are none, as where somebody else has written them.
    """
    try:
        plain, reference = dict(record["spec"]), record["reference"]
        _require_types(plain, Spec, "spec")
        for name, value in plain.items():
            if isinstance(value, list):
                plain[name] = tuple(value)
        if reference is not None:
            _require_types(reference, Reference, "reference")
        return Facts(
            Spec(**plain),
            None if reference is None else Reference(**reference),
            str(record["identity"]["dataset"]),
            dict(record.get("settings", {})),
        )
    except (LookupError, TypeError, ValueError) as error:
        raise damaged(path, error, _REPAIR) from error


def _require_types(values: Mapping[str, Any], kind: type, name: str) -> None:
    for key, hint in get_type_hints(kind).items():
        if key in values and not fits(values[key], hint):
            raise ValueError(f"{name}.{key} must be {describe(hint)}")


def load_agent(path: Path, agent: Agent, device: torch.device) -> int:
    """Load only the agent of a checkpoint; returns its finished updates."""
    record = _load(path, device)
    _require_identity(path, record, identity(agent, record["identity"]["dataset"]))
    _take(path, agent, record["agent"])
    return record["update"]


def load_changed(path: Path, model: WorldModel, device: torch.device) -> None:
    """Load the world model of a checkpoint, if the run has changed it; else leave it."""
    state = load_tensors(path, KIND, device, _REPAIR).get("world_model")
    if state is not None:
        _take(path, model, state)


def restore_settings(directory: Path, settings: Mapping[str, Any]) -> None:
    """Write the `config.yaml` of a run anew, which its checkpoint says were its settings.

    Raises:
        Mistake: there is no checkpoint, or it says others.
    """
    saved = directory / FILE
    if not saved.is_file():
        raise Mistake(
            f"{directory} has lost its {CONFIG} and keeps no {FILE}, so nothing says "
            f"what it computed; restore {CONFIG}, or start over with overwrite=true"
        )
    record = _load(saved)
    require_same(saved, record.get("settings", {}), settings)
    write_text(directory / CONFIG, write_settings(settings))


def _load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    record = load_tensors(path, KIND, device, _REPAIR)
    require_parts(path, record, _REPAIR)
    return record


def require_parts(path: Path, record: Mapping[str, Any], remedy: str) -> None:
    """Refuse a file that somebody else has written in the place of a checkpoint.

    Raises:
        Mistake: it lacks a part of a run.
    """
    for name, kind in _PARTS.items():
        if not isinstance(record.get(name), kind):
            raise damaged(path, f"it has no {name} of a run", remedy)


def _take(
    path: Path,
    module: nn.Module,
    state: Mapping[str, Any],
    remedy: str = _REPAIR,
    diverged: str = _DIVERGED,
) -> None:
    with contents_of(path, "a run", remedy):
        require_finite(path, module, state, diverged)
        module.load_state_dict(state)


def identity(agent: Agent, dataset: str) -> dict[str, Any]:
    """What must agree between a checkpoint and the run that loads it."""
    return {
        "agent": f"{type(agent).__module__}.{type(agent).__qualname__}",
        "seeds": agent.seeds,
        "obs_dim": agent.spec.obs_dim,
        "action_dim": agent.spec.action_dim,
        "dataset": dataset,
        "shapes": {name: list(value.shape) for name, value in agent.state_dict().items()},
    }


def _require_identity(path: Path, record: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    remedy = "use the settings it was trained with (config.yaml beside it), or overwrite=true"
    for name, value in wanted.items():
        found = record["identity"].get(name)
        if found == value:
            continue
        if name == "shapes":
            raise Mistake(
                f"{path} holds networks of other shapes than the configured agent; {remedy}"
            )
        if name == "dataset":
            raise Mistake(
                f"{path} was learned from other rows than the dataset has now "
                f"(fingerprint {found}, now {value}): restore the data to go on, or "
                "begin again on those of now with overwrite=true or another run_dir"
            )
        raise Mistake(f"{path} was written with {name}={found}, this run has {value}; {remedy}")


def _plain_spec(spec: Spec) -> dict[str, Any]:
    plain = asdict(spec)
    plain["env_kwargs"] = dict(spec.env_kwargs)
    plain["action_low"], plain["action_high"] = list(spec.action_low), list(spec.action_high)
    return plain
