"""Runs read back from their directories: trained agents and fitted parts."""

import logging
import shlex
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from reverie.agents.base import Agent
from reverie.agents.planning import Planning
from reverie.datasets.dataset import Dataset
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.paths import expanded
from reverie.text import one_line
from reverie.training import checkpoint
from reverie.training.checkpoint import Facts
from reverie.training.compilation import pick_device
from reverie.training.export.subject import choose_seed
from reverie.training.fitting import FITTED, INVERSE, load_weights
from reverie.training.launch import compose, renamed
from reverie.training.launch.compose import build_agent
from reverie.training.launch.data import load_dataset
from reverie.training.launch.mistakes import build, explain
from reverie.training.launch.options import is_chosen, load_option, options
from reverie.training.launch.parts import arguments, build_part
from reverie.training.launch.strangers import (
    named,
    require_environment_allowed,
    require_known,
)
from reverie.training.plant_units import Named, as_named, as_rows, decide
from reverie.training.results.summary import Series, read_series, read_summary
from reverie.training.run_directory import CARRIED_OUT, CONFIG, METRICS, SUMMARY, flat
from reverie.training.seeding import seed_everything
from reverie.training.stored import damaged, read_settings
from reverie.world_models.base import Fitted, Policy, WorldModel
from reverie.world_models.diffusion.planner import Planner
from reverie.world_models.mpc import ModelPredictivePlanner

log = logging.getLogger(__name__)
_TABLES = ("reverie.datasets.tables", "reverie.datasets.readers.table")
"""Loggers of what reads tables."""
AGENT_CLASS = "agent_class"
"""Setting of a run whose agent is a class of somebody's own."""


@dataclass(frozen=True)
class SavedRun:
    """A run as its last checkpoint left it.

    Attributes:
        directory: of the run.
        config: as composed for the run.
        agent, facts: trained, and the task it was trained for.
        update: finished updates.
        device: where the agent is.
    """

    directory: Path
    config: DictConfig
    agent: Agent
    facts: Facts
    update: int
    device: torch.device

    @property
    def spec(self) -> Spec:
        """Spaces and environment of the task."""
        return self.facts.spec

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What `summary.json` holds.

        Raises:
            Mistake: the run is not finished, or the file is damaged.
        """
        return read_summary(self.directory / SUMMARY)

    @cached_property
    def series(self) -> Series:
        """Everything that was measured, by metric."""
        finished = (self.directory / SUMMARY).is_file()
        sha256 = self.summary.get("metrics_sha256") if finished else None
        return read_series(self.directory / METRICS, sha256)

    @overload
    def policy(self, obs: Tensor) -> Tensor: ...

    @overload
    def policy(self, obs: Named, seed: int | None = None) -> dict[str, Any]: ...

    def policy(self, obs: Any, seed: int | None = None) -> Tensor | dict[str, Any]:
        """Deterministic actions.

        Args:
            obs: `[S, B, D]` raw on the host; or a mapping from names of columns to values in the
                plant's units, a number or `[B]` numbers each; or a DataFrame of these.
            seed: for a mapping, whose action; None for the seed that an export takes.

        Returns:
            `[S, B, A]` in [-1, 1] on the host; or of a mapping, the actions by name in the plant's
            units, see `training.plant_units.decide`.
        """
        obs = as_named(obs)
        seeds = self.agent.seeds
        if not isinstance(obs, Mapping):
            rows = as_rows(obs, self.spec, seeds, self.device)
            return self.agent.act(rows, deterministic=True).cpu()
        if seed is None:
            finished = seeds > 1 and (self.directory / SUMMARY).is_file()
            seed, _ = choose_seed(seeds, None, self.summary if finished else {})
        return decide(self.policy, self.spec, obs, seeds=seeds, seed=seed)

    def begin(self) -> Policy:
        """The deterministic policy of new episodes, as `policy`, which are at the same step."""
        begun = self.agent.begin()
        return lambda obs: begun(obs.to(self.device)).cpu()

    def require_environment(self) -> None:
        """Refuse a run that knows no environment.

        Raises:
            Mistake: names the remedy.
        """
        if self.spec.env_id is None:
            raise Mistake(
                f"the dataset of {self.directory} names no environment to evaluate in; train with "
                "dataset.env_id=..., or ask the log alone with python -m training.ope "
                f"{shlex.quote(f'run={self.directory}')}"
            )

    def load_dataset(self) -> Dataset:
        """The dataset that the run was trained on.

        Raises:
            Mistake: it has changed since, or came from Python.
        """
        if not is_chosen(self.config.dataset):
            raise Mistake(
                f"{self.directory} was trained on a dataset that was made in Python, so nothing "
                "says how to read it again; load it as you did then"
            )
        try:
            with _quiet_tables():
                data = load_dataset(without_downloads(self.config))
        except (Mistake, InstantiationException) as error:
            reason = explain(error)
            if reason is None:
                raise
            # A run has its path already, so nothing that is typed would correct it.
            remedy = "put it back there; a link will do"
            path = self.config.dataset.get("path")
            if path and not Path(path).expanduser().is_absolute():
                remedy = f"type this in the folder from which {path} was read, or {remedy}"
            reason = reason.replace("correct dataset.path", remedy)
            fetched = {"mirrors", "download"} & set(self.config.dataset)
            hint = (
                " (for a run's files nothing is fetched; python -m datasets.check with the same "
                "dataset settings does)"
            )
            raise Mistake(
                f"the dataset of {self.directory} cannot be read: {reason}{hint if fetched else ''}"
            ) from error
        if data.fingerprint != self.facts.fingerprint:
            raise Mistake(
                f"{self.directory} was trained on data with fingerprint {self.facts.fingerprint}, "
                f"dataset {data.name} now has {data.fingerprint}; restore the data, or train again"
            )
        return data

    def load_part(self, group: str) -> Fitted | None:
        """What the run fitted before training, such as its `world_model`; None if it did not.

        A world model that changed during training is as the checkpoint has it.

        Raises:
            Mistake: its file is damaged.
        """
        if group not in FITTED:
            raise Mistake(f"{group} is nothing that a run fits; it may be {', '.join(FITTED)}")
        saved = self.directory / f"{group}.pt"
        if not is_chosen(self.config[group]) or not saved.is_file():
            return None
        model = build_part(self.config, group, self.spec, self.device).model
        load_weights(model, saved, group, self.device)
        if isinstance(model, WorldModel):
            checkpoint.load_changed(self.directory / checkpoint.FILE, model, self.device)
        return model


@contextmanager
def _quiet_tables() -> Iterator[None]:
    """Read a table without what training has said about it: the same data are guessed alike."""
    loggers = [logging.getLogger(name) for name in _TABLES]
    levels = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.ERROR)
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def without_downloads(config: DictConfig) -> DictConfig:
    """Settings by which a dataset is read where it lies, and nothing comes from the network.

    Where a file names what to fetch, from where and to which folder, somebody else would decide
    what is written there.
    """
    own = config.copy()
    for key, value in (("mirrors", []), ("download", False)):
        if key in own.dataset:
            own.dataset[key] = value
    return own


def load_run(
    directory: Path | str,
    device: str = "auto",
    seed: int | None = None,
    allow: str | Collection[str] | None = (),
) -> SavedRun:
    """Read a run, finished or not, as carefully as one of a stranger.

    Args:
        directory: of the run, such as `runs/mopo/pendulum-mixed/0`.
        device: auto, cpu, cuda, ...
        seed: of all random numbers from here on; None leaves them alone.
        allow: what the run's files may name outside of Reverie, for it is imported: classes
            (`my_agents.Mine`) and environments (`my_envs:My-v0`).

    Raises:
        Mistake: the folder holds no run, one of its files is damaged, or it names something outside
            of Reverie that is not allowed.
    """
    directory, names = expanded(directory), named(allow)
    saved = directory / checkpoint.FILE
    missing = [name for name in (CONFIG, checkpoint.FILE) if not (directory / name).is_file()]
    if missing:
        raise Mistake(
            f"{directory} "
            + (f"holds no {' and '.join(missing)}" if directory.is_dir() else "is no directory")
            + f"; give the directory of a run, such as {checkpoint.example_near(directory)}"
        )
    plain = _read_config(directory / CONFIG)
    place = pick_device(device)
    facts = checkpoint.read_facts(saved)
    _require_settings_of(directory / CONFIG, plain, facts)
    require_known(plain, directory / CONFIG, names)
    require_environment_allowed(facts.spec.env_id, saved, names)
    if seed is not None:
        seed_everything(seed)
    config = OmegaConf.create(_with_newer_settings(plain, directory))
    agent = build_agent(config, facts.spec).to(place)
    update = checkpoint.load_agent(saved, agent, place)
    run = SavedRun(directory, config, agent, facts, update, place)
    if isinstance(agent, Planning):
        agent.plan_by(plan_in_model(run, config.planner))
    return run


_WRITTEN_ANEW = (
    "restore it, or delete it and run the command of the run again, which writes it where the "
    "checkpoint knows the settings"
)


def _read_config(path: Path) -> dict[str, Any]:
    """The settings of a run, if it can be built again from them."""
    plain = read_settings(path, _WRITTEN_ANEW)
    renamed.refuse_settings(plain, path)
    if AGENT_CLASS in plain:
        raise Mistake(
            f"{path.parent} was trained with an agent of somebody's own, "
            f"{one_line(str(plain[AGENT_CLASS]), 200)}, which is not imported for a file; "
            "reverie.make(..., agent=...).train(folder) reads it"
        )
    if "agent" not in plain:
        raise Mistake(
            f"{path.parent} holds a run that was put together by hand, so nothing says how to "
            "build its agent; train the same Run there again to read it"
        )
    for group in ("agent", "dataset"):
        if not isinstance(plain.get(group), dict):
            raise damaged(path, f"its {group} is {plain.get(group)!r}", _WRITTEN_ANEW)
    plain.setdefault("planner", None)
    for key, least in (("seed", 0), ("seeds", 1), ("updates", 0)):
        value = plain.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise damaged(path, f"its {key} is {value!r}", _WRITTEN_ANEW)
    for group in (*FITTED, INVERSE):
        part = plain.setdefault(group, None)
        if part is not None and not isinstance(part, dict):
            raise damaged(path, f"its {group} is {part!r}", _WRITTEN_ANEW)
        if part is not None and "_target_" in part:
            given = part.setdefault("path", None)
            if given is not None and not isinstance(given, str):
                raise damaged(path, f"its {group}.path is {given!r}", _WRITTEN_ANEW)
    if "_target_" not in plain["agent"]:
        raise damaged(path, "its agent has no _target_", _WRITTEN_ANEW)
    return plain


def _require_settings_of(path: Path, plain: Mapping[str, Any], facts: Facts) -> None:
    """Refuse settings that are not those of the checkpoint beside them.

    A dataset may lie elsewhere now; whether it is the same its fingerprint tells.
    """
    known, found = flat(facts.settings), flat(plain)
    for key in sorted({*known, *found}) if known else ():
        carried = key.split(".")[0] in CARRIED_OUT or key == "dataset.path"
        if "." not in key and key not in known and found[key] is None:
            continue  # a group that came later than the run
        if not carried and (key in found, found.get(key)) != (key in known, known.get(key)):
            was, now = (one_line(str(each.get(key, "nothing")), 200) for each in (known, found))
            raise damaged(
                path, f"it says {key}={now}, and the checkpoint beside it {was}", _WRITTEN_ANEW
            )


def _with_newer_settings(plain: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """The settings of a run with those that its parts have got since, as they are shipped.

    Shipped values of new settings leave a part as it was, so that a run of before can be built.
    """
    completed, told = dict(plain), []
    for group in ("agent", *FITTED, INVERSE):
        part = plain.get(group)
        if not isinstance(part, dict) or "_target_" not in part:
            continue
        shipped = (load_option(group, name) for name in options(group))
        same = next((own for own in shipped if own.get("_target_") == part["_target_"]), {})
        newer = {key: value for key, value in same.items() if key not in part}
        completed[group] = newer | part
        told += [f"{group}.{key}={value}" for key, value in newer.items()]
    if told:
        log.info("%s is older than some settings, which are as shipped: %s", directory, told)
    return completed


def build_planner(run: SavedRun, settings: DictConfig) -> Planner | ModelPredictivePlanner:
    """A policy that plans by what a finished run fitted: its world model, or its generator.

    Raises:
        Mistake: the run fitted neither of the kind, or the parts do not suit each other.
    """
    if "generator" in arguments(settings):
        return plan_by_generator(run, settings)
    return plan_in_model(run, settings)


def plan_in_model(run: SavedRun, settings: DictConfig) -> ModelPredictivePlanner:
    """Plans in the run's world model, with its agent's proposals and values if it has one."""
    model = run.load_part("world_model")
    if not isinstance(model, WorldModel):
        raise Mistake(
            f"{run.directory} keeps no fitted world model to plan in; train with a world_model, "
            "such as algorithm=mpc, or set planner=none"
        )
    agent = None if isinstance(run.agent, Planning) else run.agent
    behaviour = run.load_part("behaviour")
    return compose.build_planner(settings, run.spec, model, behaviour, agent)


def plan_by_generator(run: SavedRun, settings: DictConfig) -> Planner:
    """Plans that the run's generator draws."""
    generator = run.load_part("generator")
    if generator is None:
        raise Mistake(
            f"{run.directory} fitted no generator to plan by; train with source=trajectories, such "
            "as algorithm=pgd condition=returns, or set planner=none"
        )
    parts = {
        name: build(f"planner.{name}", instantiate(settings[name]))
        if is_chosen(settings[name])
        else None
        for name in ("sampler", "guidance")
    }
    numbers = {key: value for key, value in settings.items() if key not in parts}
    return build(
        "planner",
        instantiate(numbers),
        generator=generator,
        moments=run.agent.moments,
        critics=run.agent.values,
        **parts,
    )
