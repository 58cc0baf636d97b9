"""Runs read back from their directories: what they learnt, and what they fitted."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from reverie.agents.base import Agent
from reverie.datasets.dataset import Dataset
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.training import checkpoint
from reverie.training.checkpoint import Facts
from reverie.training.compilation import pick_device
from reverie.training.files import load_tensors
from reverie.training.fitting import FITTED, kind_of
from reverie.training.launch import renamed
from reverie.training.launch.compose import build_agent, build_part, is_chosen, load_dataset
from reverie.training.launch.mistakes import build
from reverie.training.results.summary import read_summary
from reverie.training.run import Series, read_series
from reverie.training.run_directory import CONFIG, METRICS, SUMMARY
from reverie.training.seeding import seed_everything
from reverie.world_models.base import Fitted, WorldModel
from reverie.world_models.diffusion.planner import Planner

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
        return read_series(self.directory / METRICS)

    def policy(self, obs: Tensor) -> Tensor:
        """Deterministic actions `[S, B, A]` in [-1, 1] for `obs [S, B, D]`, both on the host."""
        return self.agent.act(obs.to(self.device), deterministic=True).cpu()

    def require_environment(self) -> None:
        """Refuse a run that knows no environment.

        Raises:
            Mistake: names the remedy.
        """
        if self.spec.env_id is None:
            raise Mistake(
                f"the dataset of {self.directory} names no environment to evaluate in; train with "
                "dataset.env_id=..."
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
        data = load_dataset(self.config)
        if data.fingerprint != self.facts.fingerprint:
            raise Mistake(
                f"{self.directory} was trained on data with fingerprint {self.facts.fingerprint}, "
                f"dataset {data.name} now has {data.fingerprint}; restore the data, or train again"
            )
        return data

    def load_part(self, group: str) -> Fitted | None:
        """What the run fitted before training, such as its `world_model`; None if it did not.

        A world model that was fitted again during training is as the checkpoint has it.

        Raises:
            Mistake: its file is damaged.
        """
        if group not in FITTED:
            raise Mistake(f"{group} is nothing that a run fits; it may be {', '.join(FITTED)}")
        saved = self.directory / f"{group}.pt"
        if not is_chosen(self.config[group]) or not saved.is_file():
            return None
        model = build_part(self.config, group, self.spec, self.device).model
        model.load_state_dict(load_tensors(saved, kind_of(group), self.device)["state"])
        if isinstance(model, WorldModel):
            checkpoint.load_refitted(self.directory / checkpoint.FILE, model, self.device)
        return model


def load_run(directory: Path | str, device: str = "auto", seed: int | None = None) -> SavedRun:
    """Read a run, finished or not.

    Args:
        directory: of the run, such as `runs/mopo/pendulum-mixed/0`.
        device: auto, cpu, cuda, ...
        seed: of all random numbers from here on; None leaves them alone.

    Raises:
        Mistake: the folder holds no run, or its checkpoint is damaged.
    """
    directory = Path(directory).expanduser()
    saved = directory / checkpoint.FILE
    missing = [name for name in (CONFIG, checkpoint.FILE) if not (directory / name).is_file()]
    if missing:
        raise Mistake(
            f"{directory} holds no {' and '.join(missing)}; give the directory of a run, "
            "such as runs/mopo/pendulum-mixed/0"
        )
    config = _read_config(directory / CONFIG)
    place = pick_device(device)
    if seed is not None:
        seed_everything(seed)
    facts = checkpoint.read_facts(saved)
    agent = build_agent(config, facts.spec).to(place)
    update = checkpoint.load_agent(saved, agent, place)
    return SavedRun(directory, config, agent, facts, update, place)


def _read_config(path: Path) -> DictConfig:
    """The settings of a run, if it can be built again from them."""
    try:
        config = OmegaConf.load(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Mistake(f"{path} is damaged ({str(error).splitlines()[0]}); restore it") from error
    if not isinstance(config, DictConfig):
        raise Mistake(f"{path} is damaged (it holds no settings); restore it")
    plain: Any = OmegaConf.to_container(config)
    renamed.refuse_settings(plain, path)
    if AGENT_CLASS in plain:
        raise Mistake(
            f"{path.parent} was trained with an agent of somebody's own, {plain[AGENT_CLASS]}, "
            "which is not imported for a file; reverie.make(..., agent=...).train(folder) reads it"
        )
    if not isinstance(plain.get("agent"), dict):
        raise Mistake(
            f"{path.parent} holds a run that was put together by hand, so nothing says how to "
            "build its agent; train the same Run there again to read it"
        )
    return config


def build_planner(run: SavedRun, settings: DictConfig) -> Planner:
    """A policy that plans by the generator of a finished run.

    Raises:
        Mistake: the run fitted no generator, or its parts do not suit each other.
    """
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
