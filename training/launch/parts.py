"""From a composed configuration to the models, generators and sources that a run learns from."""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from reverie.agents.base import Agent
from reverie.datasets.dataset import Dataset
from reverie.datasets.replay import Mixture
from reverie.envs.specs import Spec
from reverie.paths import expanded
from reverie.training.fitting import FITTED, Part
from reverie.training.launch.budget import sized
from reverie.training.launch.mistakes import build
from reverie.training.launch.options import is_chosen
from reverie.training.mixing import mix
from reverie.training.online import Online
from reverie.training.seeding import side_stream
from reverie.world_models.sources import RolloutSource

Builder = type | partial
"""A class, or `functools.partial` of one."""


def chosen_parts(config: DictConfig) -> list[str]:
    """Groups of which an option is fitted to the dataset, in the order of their fits."""
    return [group for group in FITTED if is_chosen(config[group])]


def build_part(config: DictConfig, group: str, spec: Spec, device: torch.device) -> Part:
    """The chosen option of a group of `FITTED`, to be fitted.

    What it draws comes from a stream of its own: the run is the same whether it is fitted or
    reused.
    """
    settings: Any = OmegaConf.to_container(config[group], resolve=True)
    given = settings.pop("path")
    with side_stream(config.seed, device):
        model = build(
            group, instantiate(settings), spec=spec, seeds=config.seeds, seed=config.seed
        ).to(device)
        return Part(model, None if given is None else expanded(given), torch.get_rng_state())


def build_streams(
    config: DictConfig,
    data: Dataset,
    parts: Mapping[str, Any],
    device: torch.device,
    online: Online | None = None,
    agent: Agent | None = None,
) -> tuple[Mixture, dict[str, RolloutSource]]:
    """The dataset, growing online, and the replay of what a source makes, as one mixture.

    Args:
        parts: what is fitted before training, by group.
        agent: whose further columns the rows have, see `mix`.
    """
    source = None
    if is_chosen(config.source):
        source = build_source(config, data, parts).to(device)
    mixture, sources = mix(
        data,
        seeds=config.seeds,
        batch_size=config.batch_size,
        real_rows=real_rows(config),
        source=source,
        online=online,
        agent=agent,
    )
    return mixture.to(device), sources


def build_source(config: DictConfig, data: Dataset, parts: Mapping[str, Any]) -> RolloutSource:
    """The source, with the filter, simulator and so on that it works with, of what each asks for.

    Args:
        parts: what was fitted, by group.
    """
    known: dict[str, Any] = {name: None for name in FITTED} | dict(parts)
    known |= {"spec": data.spec, "seeds": config.seeds, "model": known["world_model"]}
    known |= {"sampler": None, "guidance": None}
    for group in ("filter", "simulator", "sampler", "guidance", "source"):
        if is_chosen(config[group]):
            asked = {name: known[name] for name in arguments(config[group]) if name in known}
            settings = config[group]
            if group == "source":
                settings = sized(settings, *count_rows(config, data, parts))
            known[group] = build(group, instantiate(settings), **asked)
        if group == "filter":
            known["transition_filter"] = known[group]
    return known["source"]


def count_rows(config: DictConfig, data: Dataset, parts: Mapping[str, Any]) -> tuple[int, int]:
    """Rows of the dataset with those that will be collected, and transitions of a drawn record."""
    collected, generator = 0, parts.get("generator")
    if is_chosen(config.online):
        steps = config.online.steps * config.online.environments
        collected = min(config.updates * steps // config.online.every, config.online.capacity)
    return len(data) + collected, 1 if generator is None else generator.records.transitions


def arguments(node: DictConfig) -> set[str]:
    """Names of the arguments of the class that a node builds."""
    return set(inspect.signature(get_object(node._target_).__init__).parameters)


def real_rows(config: DictConfig) -> int:
    """Rows of a batch that come from the dataset, rounded down as published code does."""
    # 100 * 0.29 is 28.999... in floating point.
    return int(config.batch_size * config.real_ratio + 1e-9)
