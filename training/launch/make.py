"""The Python interface: runs and their parts from the names and settings of the command line."""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from os import PathLike
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from reverie.agents.base import Agent
from reverie.datasets.dataset import Dataset
from reverie.datasets.subset import choose_episodes
from reverie.mistake import Mistake
from reverie.paths import quote
from reverie.text import one_line
from reverie.training.launch import mistakes
from reverie.training.launch.compose import build_run
from reverie.training.launch.hyperparameters import compose_run
from reverie.training.launch.mistakes import explain
from reverie.training.launch.options import CONF, load_option, options
from reverie.training.launch.parts import Builder
from reverie.training.launch.requirements import require_sense
from reverie.training.launch.restore import AGENT_CLASS
from reverie.training.run import Run

GROUPS = ("agent", "world_model", "filter", "source", "generator", "sampler", "guidance")
"""Of the options whose classes `build` knows."""
_OF_THE_COMMAND = ("run_dir", "root", "overwrite", "retry_failed")
_WORD = re.compile(r"[A-Za-z_][\w./:-]*", re.ASCII)
_VALUES = ("null", "true", "false", "inf", "nan")
"""Words that the command line takes for something else."""


def make(
    *overrides: str,
    dataset: str | Mapping[str, Any] | Dataset | None = None,
    agent: str | Mapping[str, Any] | Builder | None = None,
    console: Console | None = None,
    **settings: Any,
) -> Run:
    """A run, ready to be trained, from what one would type behind `python train.py`.

    Args:
        overrides: `"algorithm=mopo"`, `"dataset=builtin/pendulum-mixed"`, `"agent.discount=0.9"`.
        dataset: an option's name, settings of it, or a dataset that is there already.
        agent: an option's name, or settings of it; or a class, or `functools.partial` of one, that
            needs no YAML: what it is not given comes from the YAML of its nearest base that has
            one. It is built with `spec`, `seeds` and `updates`.
        console: where is said what is missing, such as an environment.
        settings: more of them, as values: `updates=2000`, `evaluate={"every": 500}`. Strings are
            taken as they are; an interpolation belongs into `overrides`.

    Raises:
        Mistake: the settings make no sense, name what is not there, or would be ignored.
    """
    typed = [*_require_strings(overrides), *_override_all(settings)]
    given = dataset if isinstance(dataset, Dataset) else None
    kind = agent if isinstance(agent, type | partial) else None
    _refuse_ignored(typed, given, dataset)
    if given is not None:
        typed += ["dataset=file", "dataset.path=null", f"dataset.name={_typed(given.name)}"]
    else:
        typed += _choose("dataset", dataset)
    base, console = None, console or Console(markup=False, emoji=False)
    if kind is None:
        typed += _choose("agent", agent)
    else:
        base = nearest_option("agent", kind)
        _require_agent(kind, base, typed)
        typed += [] if base is None else [f"agent={base}"]
    try:
        called = None if given is None else f"the given dataset {one_line(given.name, 80)}"
        config = compose_run(typed, lambda text: console.print(text, soft_wrap=True), called)
        if given is not None:
            # What a preset asks for, such as the best episodes; one cannot type it here.
            given = choose_episodes(given, config.dataset.subset)
            with open_dict(config):
                config.dataset = {"name": given.name, "fingerprint": given.fingerprint}
        require_sense(config, OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
        if kind is not None:
            known = {} if base is None else instantiate(config.agent).keywords
            kind = partial(_class_of(kind), **(known | getattr(kind, "keywords", {})))
        run = build_run(config, console, data=given, agent=kind)
    except (HydraException, OmegaConfBaseException) as error:
        message = explain(error, typed)
        if message is None:  # a defect, of an agent of one's own for example
            raise
        raise Mistake(message) from error
    if run.initialisation is not None:
        # train() tells, and only if the run has no checkpoint yet.
        with suppress(Mistake):
            run.initialisation.give(run.agent, run.settings)
    if kind is not None:
        run.settings = _with_class(run.settings, agent, base)
    return run


def _require_strings(overrides: tuple[Any, ...]) -> tuple[str, ...]:
    for each in overrides:
        if not isinstance(each, str):
            raise Mistake(f"{each!r} is no override; write it as text, such as 'updates=2000'")
    return overrides


def _refuse_ignored(typed: list[str], given: Dataset | None, dataset: Any) -> None:
    """Refuse settings that nothing would read."""
    for each in typed:
        key = each.partition("=")[0].lstrip("+~")
        if key in _OF_THE_COMMAND:
            raise Mistake(
                f"{key} is for the command line; from Python, give the folder to run.train(folder)"
            )
        if given is not None and key.split(".")[0] == "dataset":
            raise Mistake(f"{each} would be ignored beside a dataset that is there; leave one out")
        if key == "dataset" and isinstance(dataset, str):
            raise Mistake(f"{each} and dataset={dataset!r} are two datasets; leave one out")


def _choose(group: str, choice: Any) -> list[str]:
    """An option by its name, or settings of the one that is chosen otherwise."""
    if choice is None:
        return []
    if isinstance(choice, str):
        return [f"{group}={choice}"]
    if isinstance(choice, PathLike):
        return [f"{group}={choice}"]
    if isinstance(choice, Mapping):
        if group == "dataset" and any(getattr(each, "ndim", 0) for each in choice.values()):
            raise Mistake(
                "arrays are read by reverie.datasets.load(arrays); give what that returns as "
                "dataset"
            )
        return list(_overrides(group, choice))
    if group == "dataset" and hasattr(choice, "columns"):
        raise Mistake(
            "a DataFrame is read by reverie.datasets.load(frame, columns=...); give what that "
            "returns as dataset"
        )
    raise Mistake(
        f"{group}={one_line(repr(choice), 80)} is neither a name nor settings nor "
        f"{'a dataset' if group == 'dataset' else 'a class of an agent'}"
    )


def _require_agent(kind: Builder, base: str | None, typed: list[str]) -> None:
    built = _class_of(kind)
    if not (isinstance(built, type) and issubclass(built, Agent)):
        raise Mistake(f"agent={built!r} is no agent; derive it from reverie.agents.base.Agent")
    loose = [each for each in typed if each.lstrip("+~").startswith("agent.")]
    if base is None and loose:
        raise Mistake(
            f"{loose[0]} would be ignored, for no option of conf/ builds {built.__name__} or a "
            "base of it; give it by functools.partial"
        )


def _with_class(settings: Mapping[str, Any], agent: Any, base: str | None) -> dict[str, Any]:
    """Settings that tell what was built in the place of the configured agent."""
    given = {key: _plain(value) for key, value in getattr(agent, "keywords", {}).items()}
    built = _class_of(agent)
    name = f"{built.__module__}.{built.__qualname__}"
    configured: Mapping[str, Any] = {} if base is None else settings["agent"]
    known = {**settings, "agent": {**configured, **given}}
    return known if configured.get("_target_") == name else {**known, AGENT_CLASS: name}


def _plain(value: Any) -> Any:
    """What YAML can hold; anything else by what it shows of itself."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return repr(value)


def load_preset(algorithm: str) -> dict[str, Any]:
    """The published settings of a preset, as plain values, with the default dataset."""
    composed = compose_run([f"algorithm={algorithm}", "budget=paper"])
    settings: Any = OmegaConf.to_container(composed, resolve=True)
    return settings


def compose_command(name: str, **settings: Any) -> DictConfig:
    """The settings of a command, `conf/<name>.yaml`, with some set otherwise."""
    typed = _override_all(settings)
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
            numbers = {**known, **getattr(kind, "keywords", {}), **given}
            return mistakes.build(group, partial(_class_of(kind), **numbers))
    raise Mistake(f"no option of conf/ builds {kind}, so give all of its arguments yourself")


def nearest_option(group: str, kind: Builder) -> str | None:
    """The option of a group that builds a class or its nearest base; None if there is none."""
    named = {target: name for target, name in reversed(list(_targets(group)))}
    built = _class_of(kind)
    if not isinstance(built, type):
        return None
    for cls in inspect.getmro(built):
        target = f"{cls.__module__}.{cls.__qualname__}"
        if target in named:
            return named[target]
    return None


def _class_of(kind: Any) -> Any:
    return kind.func if isinstance(kind, partial) else kind


def _targets(group: str) -> Iterator[tuple[str, str]]:
    """What the options of a group build, and their names."""
    for name in options(group):
        target = load_option(group, name).get("_target_")
        if target is not None:
            yield target, name


def _override_all(settings: Mapping[str, Any]) -> list[str]:
    return [each for key, value in settings.items() for each in _overrides(key, value)]


def _overrides(key: str, value: Any) -> Iterator[str]:
    """Settings as they are typed; a mapping sets what lies below its key."""
    if isinstance(value, Mapping):
        for below, each in value.items():
            yield from _overrides(f"{key}.{below}", each)
    else:
        yield f"{key}={_typed(value)}"


def _typed(value: Any) -> str:
    """A value in the grammar of the command line, which gives the same value back."""
    if hasattr(value, "tolist"):  # of NumPy, whose numbers show their type
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(_typed(each) for each in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_typed(each)}' for key, each in value.items())}}}"
    text = str(value)
    if "${" in text:
        raise Mistake(f"{text!r} holds an interpolation; give it as text, 'key=value'")
    if _WORD.fullmatch(text) and text.lower() not in _VALUES:
        return text
    return quote(text)
