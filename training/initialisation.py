"""Initialisation of an agent with the networks of another run: `init=RUN`.

It copies the weights, target networks, temperatures, and the statistics of the dataset that the
networks were trained with. Nothing of the other run is built or
imported; its checkpoint is read as tensors and plain values. After the first checkpoint of the new
run the other one is not needed any more.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from reverie.agents.base import Agent
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.paths import expanded
from reverie.text import one_line
from reverie.training import checkpoint
from reverie.training.files import load_tensors, require_finite
from reverie.training.run_directory import CONFIG, SUMMARY
from reverie.training.stored import damaged, read_settings
from reverie.world_models.optimiser import Adam

Optimiser = Literal["fresh", "keep"]
# What values of other kinds raise where a number, a text or names are expected.
_NO_RUN = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError)
_REMEDY = "restore it, or give another run as init=..."


@dataclass(frozen=True)
class Initialisation:
    """The source of the networks of a new run.

    Attributes:
        run: directory of the other run.
        optimiser: `fresh` ones, or `keep` the moments of those whose learning rate is constant; one
            that is annealed begins anew with its schedule.
    """

    run: Path
    optimiser: Optimiser

    def give(self, agent: Agent, settings: Mapping[str, Any]) -> str:
        """Put the networks of the other run into an agent; returns what was done, in words.

        One seed of the other run serves all of the agent; otherwise they have as many.

        Args:
            agent: built, and prepared for its dataset.
            settings: of its run, with `init_sha256`.

        Raises:
            Mistake: the other run has no checkpoint, a damaged one or not the one of `init_sha256`;
                its spaces, agent or networks are others. The agent is unchanged then.
        """
        path = self.run / checkpoint.FILE
        if settings.get("init_sha256") not in (None, digest(self.run)):
            raise Mistake(
                f"{path} has changed since it was named by init_sha256={settings['init_sha256']}; "
                "restore it, or start over with overwrite=true"
            )
        record = load_tensors(path, checkpoint.KIND, remedy=_REMEDY)
        try:
            facts, theirs = checkpoint.facts_of(path, record), record["identity"]
            kind, seeds, state = str(theirs["agent"]), int(theirs["seeds"]), dict(record["agent"])
            known = dict(facts.settings.get("agent") or {})
            update = int(record["update"])
        except _NO_RUN as error:
            raise damaged(path, f"its contents are not a run's: {error!r}", _REMEDY) from error
        self._require_same_spaces(facts.spec, agent.spec)
        ours = checkpoint.identity(agent, "")["agent"]
        if kind != ours:
            raise Mistake(
                f"init={self.run} holds an agent of the class {one_line(kind, 100)}, this run "
                f"learns with {ours}; choose the same agent, or leave init out"
            )
        if seeds not in (1, agent.seeds):
            raise Mistake(
                f"init={self.run} holds {seeds} seeds, this run has {agent.seeds}; set "
                f"seeds={seeds}, or start from a run of one seed, which serves all"
            )
        mine = settings.get("agent") or {}
        if known.get("activation") != mine.get("activation"):
            raise Mistake(
                f"init={self.run} holds networks with "
                f"agent.activation={one_line(str(known.get('activation')), 50)}, this run has "
                f"{mine.get('activation')}; set the same"
            )
        taken = self._taken(path, agent, state)
        require_finite(path, agent, taken, _REMEDY)
        agent.load_state_dict(agent.state_dict() | taken)
        changed = [
            f"agent.{key} was {one_line(str(known[key]), 50)}, is {mine[key]}"
            for key in sorted(known.keys() & mine.keys())
            if known[key] != mine[key]
        ]
        changed += _said_of(facts.spec, agent.spec)
        kept = "moments of its optimisers kept" if self.optimiser == "keep" else "optimisers fresh"
        return "; ".join([f"starting from {self.run} after update {update:,}, {kept}", *changed])

    def _require_same_spaces(self, theirs: Spec, ours: Spec) -> None:
        sizes = ("obs_dim", "action_dim", "action_low", "action_high")
        for what in ("stacked_obs", "stacked_actions", "hidden", *sizes):  # the first say why
            before, now = _plain(getattr(theirs, what)), _plain(getattr(ours, what))
            if before != now:
                raise self._other_space(what, before, now)
        for what, column in (("obs_names", "observations"), ("action_names", "actions")):
            before, now = _plain(getattr(theirs, what)), _plain(getattr(ours, what))
            if before and now and before != now:  # they may be unknown
                raise self._other_space(what, before, now, column)

    def _other_space(self, what: str, before: Any, now: Any, column: str | None = None) -> Mistake:
        remedy = "give a dataset of the same spaces"
        if what in ("stacked_obs", "stacked_actions", "hidden"):
            remedy = f"set dataset.{'hide' if what == 'hidden' else 'history'} as it was there"
        if column is not None and sorted(before) == sorted(now):
            listed = one_line(json.dumps(before, ensure_ascii=False), 200)
            remedy = f"put them into that order, 'dataset.columns.{column}={listed}'"
        return Mistake(
            f"init={self.run} was trained with {what} {one_line(str(before), 200)}, the dataset of "
            f"this run has {one_line(str(now), 200)}; {remedy}, or leave init out"
        )

    def _taken(self, path: Path, agent: Agent, state: Mapping[str, Any]) -> dict[str, Tensor]:
        """Those tensors of the other agent that this one begins with, in its shapes."""
        left = _left_as_they_are(agent, keep=self.optimiser == "keep")
        taken: dict[str, Tensor] = {}
        for name, own in agent.state_dict().items():
            if name in left:
                continue
            found = state.get(name)
            if isinstance(found, Tensor) and found.shape[:1] == (1,) and own.ndim == found.ndim:
                found = found.expand(own.shape[:1] + found.shape[1:])  # one seed serves all
            if not isinstance(found, Tensor) or found.shape != own.shape:
                shape = list(found.shape) if isinstance(found, Tensor) else "nothing"
                raise Mistake(
                    f"{path} holds {shape} for {name}, this run {list(own.shape)}; set agent... as "
                    f"in {self.run / CONFIG}, or leave init out"
                )
            taken[name] = found.to(own)
        return taken


def _said_of(theirs: Spec, ours: Spec) -> list[str]:
    """What may mean that equal sizes hold other quantities, for the user to judge."""
    said = []
    if theirs.env_id != ours.env_id:
        before, now = (one_line(str(each.env_id), 100) for each in (theirs, ours))
        said.append(
            f"its environment was {before}, this one's is {now}: equal sizes may mean other "
            "quantities"
        )
    for what in ("obs_names", "action_names"):
        before, now = getattr(theirs, what), getattr(ours, what)
        if bool(before) != bool(now):
            known = "that run" if before else "this dataset"
            said.append(f"only {known} has {what}, so their order is not compared")
    return said


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _left_as_they_are(agent: Agent, keep: bool) -> set[str]:
    """Names in an agent's state of what it does not take: optimisers, all or in part."""
    left: set[str] = set()
    for prefix, module in agent.named_modules():
        if isinstance(module, Adam):
            names = [f"{prefix}.{name}" for name in module.state_dict()]
            # Moments are kept; the learning rate is a setting of the new run.
            whole = not keep or module.annealed
            left.update(n for n in names if whole or n == f"{prefix}.learning_rate")
    return left


def digest(run: Path) -> str:
    """SHA-256 of the checkpoint of a run.

    Raises:
        Mistake: there is none, or it cannot be read.
    """
    path = run / checkpoint.FILE
    if not path.is_file():
        raise Mistake(
            f"init={run} holds no {checkpoint.FILE}; give the directory of a run that was trained "
            f"with checkpoint_every above 0, such as {checkpoint.example_near(run)}"
        )
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Mistake(
            f"{path} cannot be read: {error.strerror or error}; make it readable"
        ) from error


def pinned(
    settings: Mapping[str, Any], directory: Path | None, anew: bool = False
) -> Mapping[str, Any]:
    """Settings that say by a digest which checkpoint `init` names.

    Args:
        settings: of the run.
        directory: of the run; where it, or the shorter run that it extends, holds a checkpoint
            already, the digest is that of its beginning, and the other run may have changed or be
            gone. None where nothing is kept.
        anew: whether the run starts over, whatever its directory holds.

    Raises:
        Mistake: the other run has no checkpoint, or is the run itself.
    """
    if settings.get("init") is None or settings.get("init_sha256") is not None:
        return settings
    run = expanded(settings["init"])
    if directory is not None and directory.resolve() == run.resolve():
        raise Mistake(f"init={run} is the run directory itself; give this run another run_dir")
    recorded = {} if directory is None or anew else _begun(directory)
    if not recorded and settings.get("extend") is not None:  # which has begun already
        recorded = _begun(expanded(settings["extend"]))
    same = recorded.get("init") == settings["init"]
    known = recorded.get("init_sha256") if same else None
    return {**settings, "init_sha256": known or digest(run)}


def _begun(directory: Path) -> Mapping[str, Any]:
    """The settings of a run that needs its beginning no more; empty before its first checkpoint."""
    saved = directory / checkpoint.FILE
    if not saved.is_file() and not (directory / SUMMARY).is_file():
        return {}
    if (directory / CONFIG).is_file():
        return read_settings(directory / CONFIG)
    return load_tensors(saved, checkpoint.KIND).get("settings", {}) if saved.is_file() else {}
