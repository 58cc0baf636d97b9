"""The Python door: runs and their parts from the names and numbers of the command line."""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.training.launch.compose import Builder, build_run
from reverie.training.launch.hyperparameters import compose_run
from reverie.training.launch.mistakes import explain
from reverie.training.launch.options import CONF, load_option, options
from reverie.training.launch.requirements import require_sense
from reverie.training.run import Run

GROUPS = ("agent", "world_model", "filter", "source", "generator", "sampler", "guidance")
"""Of the options whose classes `build` knows."""


def make(
    *overrides: str,
    dataset: str | Dataset | None = None,
    agent: str | Builder | None = None,
    console: Console | None = None,
    **settings: Any,
) -> Run:
    """A run, ready to be trained, from what one would type behind `python train.py`.

    Args:
        overrides: `"algorithm=mopo"`, `"dataset=builtin/pendulum-mixed"`, `"agent.discount=0.9"`.
        dataset: an option's name, or a dataset that is there already.
        agent: an option's name; or a class, or `functools.partial` of one, that needs no YAML:
            what it is not given comes from the YAML of its nearest base that has one.
        console: where is said what is missing, such as an environment.
        settings: more of them, as values: `updates=2000`, `evaluate={"every": 500}`.

    Raises:
        Mistake: the settings make no sense, or name what is not there.
    """
    typed = [*overrides, *(item for key in settings for item in _overrides(key, settings[key]))]
    if isinstance(dataset, str):
        typed.append(f"dataset={dataset}")
    elif dataset is not None:
        typed += ["dataset=file", "dataset.path=null", f"dataset.name={_typed(dataset.name)}"]
    if isinstance(agent, str):
        typed.append(f"agent={agent}")
    elif agent is not None:
        typed.append(f"agent={nearest_option('agent', agent)}")
    try:
        config = compose_run(typed)
    except HydraException as error:
        raise Mistake(explain(error)) from error
    plain: Any = OmegaConf.to_container(config, resolve=True)
    require_sense(config, plain)
    given = None if isinstance(dataset, str) else dataset
    if given is not None:
        with open_dict(config):
            config.dataset = {"name": given.name, "fingerprint": given.fingerprint}
    kind = None if isinstance(agent, str) else agent
    return build_run(config, console or Console(), data=given, agent=kind)


def load_preset(algorithm: str) -> dict[str, Any]:
    """The settings of a run of a preset on the default dataset, as plain values."""
    settings: Any = OmegaConf.to_container(compose_run([f"algorithm={algorithm}"]), resolve=True)
    return settings


def compose_command(name: str, **settings: Any) -> DictConfig:
    """The settings of a command, `conf/<name>.yaml`, with some set otherwise."""
    typed = [item for key in settings for item in _overrides(key, settings[key])]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, overrides=typed)


def build(kind: Builder, **given: Any) -> Any:
    """Build an object; what is not given comes from the YAML of its class.

    Args:
        kind: a class that an option of `conf/` names, or a subclass of one, or a
            `functools.partial` of either.
        given: arguments of its constructor: run-time objects such as `spec` and `seeds`, and
            numbers that differ from the YAML's.

    Raises:
        Mistake: neither the class nor a base of it has a YAML.
    """
    for group in GROUPS:
        name = nearest_option(group, kind)
        if name is not None:
            known = instantiate(load_option(group, name)).keywords
            return kind(**{**known, **getattr(kind, "keywords", {}), **given})
    raise Mistake(f"no option of conf/ builds {kind}, so give all of its arguments yourself")


def nearest_option(group: str, kind: Builder) -> str | None:
    """The option of a group that builds a class or its nearest base; None if there is none."""
    named = {target: name for target, name in reversed(list(_targets(group)))}
    built: Any = kind.func if isinstance(kind, partial) else kind
    for cls in inspect.getmro(built):
        target = f"{cls.__module__}.{cls.__qualname__}"
        if target in named:
            return named[target]
    return None


def _targets(group: str) -> Iterator[tuple[str, str]]:
    """What the options of a group build, and their names."""
    for name in options(group):
        target = load_option(group, name).get("_target_")
        if target is not None:
            yield target, name


def _overrides(key: str, value: Any) -> Iterator[str]:
    """Settings as they are typed; a mapping sets what lies below its key."""
    if isinstance(value, Mapping):
        for below, each in value.items():
            yield from _overrides(f"{key}.{below}", each)
    else:
        yield f"{key}={_typed(value)}"


def _typed(value: Any) -> str:
    """A value in the grammar of the command line."""
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(_typed(each) for each in value)}]"
    text = str(value)
    return text if re.fullmatch(r"[\w./:-]+", text) else json.dumps(text)
