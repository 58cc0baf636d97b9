"""From a composed configuration to the objects that a run works with."""

import inspect
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from reverie.agents.base import Agent
from reverie.datasets.dataset import Dataset
from reverie.datasets.replay import GrowingReplay, Mixture, Replay
from reverie.envs.evaluation import Evaluator
from reverie.envs.true_dynamics import simulator_for
from reverie.mistake import Mistake
from reverie.training import checkpoint
from reverie.training.checkpoint import Facts
from reverie.training.files import load_tensors
from reverie.training.fitting import kind_of
from reverie.training.launch import mistakes
from reverie.training.online import Online, Refit
from reverie.training.probes.lipschitz import LipschitzProbe
from reverie.training.probes.value_gap import ValueGap
from reverie.training.probes.values import ValueProbe
from reverie.training.run_directory import CONFIG
from reverie.training.seeding import seed_everything
from reverie.world_models.base import Fitted, Policy, WorldModel
from reverie.world_models.diffusion.planner import Planner
from reverie.world_models.sources import RolloutSource

FITTED = ("world_model", "dynamics_reward", "generator", "behaviour")
"""Groups whose option is fitted to the dataset before training, in this order."""


@dataclass(frozen=True)
class Restored:
    """A run as its last checkpoint left it.

    Attributes:
        config: as composed for the run.
        agent, facts: trained, and the task it was trained for.
        update: finished updates.
        device: where the agent is.
        policy: its deterministic actions, on the host.
    """

    config: DictConfig
    agent: Agent
    facts: Facts
    update: int
    device: torch.device
    policy: Policy


def restored(run_dir: Path, device: str, seed: int) -> Restored:
    """Read a run.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: its checkpoint is damaged.
    """
    saved = run_dir / checkpoint.FILE
    if not (run_dir / CONFIG).is_file() or not saved.is_file():
        raise Mistake(
            f"{run_dir} holds no {CONFIG} and {checkpoint.FILE}; give the directory of a run, "
            "such as runs/mopo/pendulum-mixed/0"
        )
    config = OmegaConf.load(run_dir / CONFIG)
    assert isinstance(config, DictConfig)
    place = mistakes.pick_device(device)
    seed_everything(seed)
    facts = checkpoint.read_facts(saved)
    agent: Agent = mistakes.build(
        "agent",
        instantiate(config.agent),
        spec=facts.spec,
        seeds=config.seeds,
        updates=config.updates,
    ).to(place)
    update = checkpoint.load_agent(saved, agent, place)
    return Restored(config, agent, facts, update, place, mistakes.policy_on(agent, place))


def trained(run_dir: Path, device: str, seed: int) -> tuple[Agent, Facts, int, Policy]:
    """The agent of a run's last checkpoint, its task, its updates, and what it does, on the host.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: the run knows no environment, or its checkpoint is damaged.
    """
    run = restored(run_dir, device, seed)
    if run.facts.spec.env_id is None:
        raise Mistake(
            f"the dataset of {run_dir} names no environment to evaluate in; train with "
            "dataset.env_id=..."
        )
    return run.agent, run.facts, run.update, run.policy


def trained_part(run_dir: Path, group: str, facts: Facts, device: str) -> Fitted | None:
    """What a run fitted before training, such as its world model; None for a run without one.

    Raises:
        ValueError: its file is damaged.
    """
    config: Any = OmegaConf.load(run_dir / CONFIG)
    saved = run_dir / f"{group}.pt"
    if not is_chosen(config[group]) or not saved.is_file():
        return None
    settings: Any = OmegaConf.to_container(config[group], resolve=True)
    del settings["path"]
    place = mistakes.pick_device(device)
    part: Fitted = mistakes.build(
        group, instantiate(settings), spec=facts.spec, seeds=config.seeds, seed=config.seed
    ).to(place)
    part.load_state_dict(load_tensors(saved, kind_of(group), place)["state"])
    return part


def build_planner(
    run_dir: Path, settings: DictConfig, agent: Agent, facts: Facts, device: str
) -> Planner:
    """A policy that plans by the generator of a finished run.

    Raises:
        ValueError: the run fitted no generator, or its parts do not suit each other.
    """
    generator = trained_part(run_dir, "generator", facts, device)
    if generator is None:
        raise Mistake(
            f"{run_dir} fitted no generator to plan by; train with source=trajectories, such as "
            "algorithm=pgd condition=returns, or set planner=none"
        )
    parts = {
        name: mistakes.build(f"planner.{name}", instantiate(settings[name]))
        if is_chosen(settings[name])
        else None
        for name in ("sampler", "guidance")
    }
    numbers = {key: value for key, value in settings.items() if key not in parts}
    return mistakes.build(
        "planner",
        instantiate(numbers),
        generator=generator,
        moments=agent.moments,
        critics=agent.values,
        **parts,
    )


def build_online(config: DictConfig, data: Dataset) -> Online | None:
    """Steps in the true environment, unless nobody asked."""
    if not is_chosen(config.online):
        return None
    return mistakes.build("online", instantiate(config.online), spec=data.spec, seeds=config.seeds)


def build_refit(
    online: Online | None,
    parts: dict[str, Any],
    data: Dataset,
    mixture: Mixture,
    device: torch.device,
) -> Refit | None:
    """Refits of the world model on what is collected."""
    real = mixture["real"]
    if online is None or not isinstance(real, GrowingReplay):
        return None
    return online.refit(parts.get("world_model"), data, real, device)


def build_streams(
    config: DictConfig,
    data: Dataset,
    parts: dict[str, Any],
    device: torch.device,
    online: Online | None = None,
) -> tuple[Mixture, dict[str, RolloutSource]]:
    """The dataset, growing online, and the replay of what a source makes, as one mixture."""
    streams: dict[str, Replay] = {"real": Replay.of(data.transitions)}
    rows = {"real": config.batch_size}
    sources: dict[str, RolloutSource] = {}
    if online is not None:
        sources["real"] = online.source
        streams["real"] = GrowingReplay(
            data.transitions, lanes=config.seeds, capacity=online.source.capacity
        )
    if is_chosen(config.source):
        source = build_source(config, data, parts).to(device)
        sources[source.stream] = source
        streams[source.stream] = Replay(
            data.transitions[:1], lanes=config.seeds, capacity=source.capacity
        )
        rows["real"] = real_rows(config)
        rows[source.stream] = config.batch_size - rows["real"]
    return Mixture(streams, rows, seeds=config.seeds).to(device), sources


def build_source(config: DictConfig, data: Dataset, parts: dict[str, Any]) -> RolloutSource:
    """The source, with the filter, simulator and so on that it works with, of what each asks for.

    Args:
        parts: what was fitted, by group.
    """
    known: dict[str, Any] = {name: None for name in FITTED} | parts
    known |= {"spec": data.spec, "seeds": config.seeds, "model": known["world_model"]}
    known |= {"sampler": None, "guidance": None}
    for group in ("filter", "simulator", "sampler", "guidance", "source"):
        if is_chosen(config[group]):
            asked = {name: known[name] for name in arguments(config[group]) if name in known}
            known[group] = mistakes.build(group, instantiate(config[group]), **asked)
        if group == "filter":
            known["transition_filter"] = known[group]
    return known["source"]


def build_evaluator(config: DictConfig, data: Dataset, console: Console) -> Evaluator | None:
    """Copies of the true environment, unless there is none or nobody asked."""
    if not config.evaluate.every:
        return None
    if data.spec.env_id is None:
        console.print(
            f"dataset {data.name} names no environment, so nothing is scored; "
            "dataset.env_id=... adds one",
            soft_wrap=True,
        )
        return None
    return Evaluator(spec=data.spec, seeds=config.seeds, episodes=config.evaluate.episodes)


def build_probe(
    config: DictConfig,
    data: Dataset,
    agent: Agent,
    mixture: Mixture,
    sources: dict[str, RolloutSource],
) -> ValueProbe | None:
    """Measurements of what the critics believe, unless nobody asked."""
    if not config.probe_starts:
        return None
    return ValueProbe(
        agent=agent,
        mixture=mixture,
        sources=sources,
        data=data,
        starts=config.probe_starts,
        edge_of_reach=None,
    )


def build_lipschitz_probe(
    config: DictConfig,
    data: Dataset,
    agent: Agent,
    mixture: Mixture,
    model: WorldModel | None,
    console: Console,
) -> LipschitzProbe | None:
    """Measurements of the critics' slopes and of the model's targets, if somebody asked."""
    if not config.lipschitz.states:
        return None
    truth = None
    if model is not None:
        try:
            truth = simulator_for(data.spec, threads(config.threads))
        except Mistake as error:
            console.print(f"no gaps of Bellman targets: {error}", soft_wrap=True, highlight=False)
    return LipschitzProbe(
        agent=agent,
        real=mixture["real"],
        data=data,
        seeds=config.seeds,
        model=model,
        truth=truth,
        **config.lipschitz,
    )


def build_value_gap(
    config: DictConfig, data: Dataset, agent: Agent, model: WorldModel | None
) -> ValueGap | None:
    """The policy's return in its world model, unless there is none or nobody asked."""
    if model is None or not config.value_gap.starts:
        return None
    return ValueGap(agent=agent, model=model, data=data, **config.value_gap)


def arguments(node: DictConfig) -> set[str]:
    """Names of the arguments of the class that a node builds."""
    return set(inspect.signature(get_object(node._target_).__init__).parameters)


def real_rows(config: DictConfig) -> int:
    """Rows of a batch that come from the dataset, rounded down as published code does."""
    # 100 * 0.29 is 28.999... in floating point.
    return int(config.batch_size * config.real_fraction + 1e-9)


def is_chosen(node: DictConfig | None) -> bool:
    """Whether a group holds an option; numbers tuned for a dataset may be there without one."""
    return node is not None and "_target_" in node


def threads(choice: str | int) -> int:
    """Resolve `threads=auto`: all cores, shared among the jobs of a parallel sweep.

    A launcher that gives every job cores of its own (submitit, Slurm, Ray) decides by itself: one,
    unless it is told another number.
    """
    if choice != "auto":
        return int(choice)
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    jobs = 1
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        launcher = HydraConfig.get().launcher
        for key in ("cpus_per_task", "ray.remote.num_cpus"):
            if key.split(".")[0] in launcher:
                return max(1, int(OmegaConf.select(launcher, key) or 1))
        jobs = launcher.get("n_jobs") or 1
    return max(1, cores // (cores if jobs < 0 else jobs))
