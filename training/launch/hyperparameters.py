"""Precedence of hyperparameters: typed ones override tuned ones, which override the preset.

Hydra merges them in that order, and the limits of the budget between those of the preset and tuned
ones. All these are meant for the options that the preset picks, so they are removed
if another option was chosen (`filter=none` has no penalty). Typed settings are never removed but
refused.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict

from reverie.datasets.options import BENCHMARKS
from reverie.mistake import Mistake
from reverie.paths import quote_paths
from reverie.settings import parameters
from reverie.text import near
from reverie.training.launch import renamed
from reverie.training.launch.budget import told_budget
from reverie.training.launch.options import (
    CONF,
    PACKAGES,
    is_chosen,
    limits,
    one_spelling,
    options,
    read_option,
    tuned,
)
from reverie.training.launch.own_files import require_sound_files
from reverie.training.launch.own_options import require_built
from reverie.training.run_directory import flat

NOT_GLOBAL = (
    "{}: its file must begin with the line `# @package _global_`, before any other comment, and "
    "hold keys with values; else they are no settings of a run"
)


def compose_run(
    overrides: Sequence[str],
    tell: Callable[[str], None] = lambda text: None,
    called: str | None = None,
) -> DictConfig:
    """The configuration that `python train.py` has for the same arguments.

    Args:
        tell: is given the line about the budget.
        called: what that line calls a dataset that was made in Python.

    Raises:
        Mistake: a typed setting that the chosen option does not have.
        hydra.errors.HydraException: an option or a setting that is not there.
    """
    renamed.refuse_arguments(overrides)
    require_sound_files(overrides)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(
            "train", overrides=one_spelling(quote_paths(overrides)), return_hydra_config=True
        )
    settle(config, config.hydra)
    told = told_budget(config.updates, config.hydra.runtime.choices, overrides, called)
    if told is not None:
        tell(told)
    with open_dict(config):
        del config["hydra"]
    return config


def settle(config: DictConfig, hydra: HydraConf) -> str | None:
    """Keep of a composed configuration what the chosen options take.

    Args:
        config: as composed; changed in place.
        hydra: what Hydra knows about it: options by group, typed overrides, folders of options.

    Returns:
        What tuned numbers are used, in words; None without any.

    Raises:
        Mistake: a typed setting that the chosen option does not have, or two names of datasets.
    """
    choices = hydra.runtime.choices
    folders = [
        Path(each.path if each.schema == "file" else str(files(each.path)))
        for each in hydra.runtime.config_sources
        if each.schema in ("file", "pkg")
    ]
    _require_one_dataset(config, choices["dataset"])
    typed = _typed(hydra.overrides.task, choices)
    for key in typed:
        part = lacking(config, key, choices, folders)
        if part is not None:
            raise Mistake(refusal(key, part, choices))
    if "algorithm" in config:
        raise Mistake(NOT_GLOBAL.format(f"algorithm={choices['algorithm']}"))
    chosen = f"algorithm/{choices['algorithm']}"
    if OmegaConf.is_missing(config, "name"):
        name = choices["algorithm"]
        raise Mistake(f"{chosen}.yaml: it has no name, by which runs are filed; add `name: {name}`")
    preset, own = read_option(chosen, folders), flat(read_option(chosen, folders, alone=True))
    renamed.refuse_settings(preset, Path(f"{chosen}.yaml"))
    groups = {*choices, *PACKAGES.values(), "hydra"}
    composed = OmegaConf.to_yaml(config)
    _require_settings(own, f"{chosen}.yaml", groups, composed)
    _require_settings(dict.fromkeys(typed), "the command line", groups, composed)
    picked = {each.partition("=")[0].lstrip("+~") for each in hydra.overrides.task}
    _require_read(config, {*typed, *picked}, choices)
    _require_given(config, typed, choices, folders)
    algorithm, _, dataset = str(choices.get("tuned") or "").partition("/")
    numbers = tuned(algorithm).get(dataset, {})
    for key in {**flat(preset), **flat(limits(config.budget, choices)), **flat(numbers)}:
        part = lacking(config, key, choices, folders)
        # An option that is none builds nothing; what lies there is ignored.
        node = None if part is None else OmegaConf.select(config, part.rpartition(".")[0])
        if part is not None and isinstance(node, DictConfig) and "_target_" in node:
            # No number of the option that the preset picks, if nobody chose another one.
            if key in own and not any(key.startswith(f"{PACKAGES.get(g, g)}.") for g in picked):
                raise Mistake(f"{chosen}.yaml: {refusal(key, part, choices)}")
            with open_dict(node):
                node.pop(part.rpartition(".")[2], None)
    require_built(config, choices)
    return f"conf/tuned/{algorithm}.yaml for {dataset}" if numbers else None


def _require_settings(
    own: Mapping[str, Any], file: str, groups: Collection[str], composed: str
) -> None:
    """Refuse a key of a preset, or one that was added with +, that no part of a run would read.

    Args:
        own: keys and values, flat.
        file: where they stand.
        groups: those whose options have keys of their own, which are looked at elsewhere.
        composed: the whole configuration as YAML; a key that a value takes up, `${rate}` or
            `${..rate}`, is meant.

    Raises:
        Mistake: names the nearest that there is.
    """
    known = flat(read_option("train", alone=True))
    for key in own:
        if any(key.startswith(f"{each}.") or each.startswith(f"{key}.") for each in known):
            continue  # of another kind than that setting is, which is told elsewhere
        placed = any(key.startswith(f"{group}.") for group in groups)
        parts = key.split(".")
        tails = "|".join(re.escape(".".join(parts[at:])) for at in range(len(parts)))
        asked = rf"\$\{{({re.escape(key)}|\.+({tails}))\}}"
        if not (key in known or placed or re.search(asked, composed)):
            close = near(key, known)
            hint = f"did you mean {' or '.join(close)}?" if close else "leave it out"
            raise Mistake(f"{file}: there is no setting '{key}'; {hint}")


def _require_read(config: DictConfig, typed: Collection[str], choices: Mapping[str, Any]) -> None:
    """Refuse what somebody typed for a part that is not there, where it has the same key with none.

    A preset's numbers for that part are left unread without a word.
    """
    usual = read_option("train", alone=True)
    for part, chosen, example, keys in (
        ("source", is_chosen(config.source), "branched", ("real_ratio", "filter")),
        ("init", config.init is not None, "RUN", ("init_optimiser", "init_sha256")),
    ):
        for key in keys if not chosen else ():
            named = sorted(each for each in typed if each.split(".")[0] == key)
            # As where it is left out: nothing would be otherwise.
            idle = choices[key] == "none" if key in choices else config[key] == usual[key]
            if named and not idle:
                raise Mistake(
                    f"{named[0]} would not be read, for there is no {part}; choose one, for "
                    f"example {part}={example}, or leave {named[0]} out"
                )


def _require_given(
    config: DictConfig, typed: Collection[str], choices: Mapping[str, Any], folders: Sequence[Path]
) -> None:
    """Refuse `alpha: ???` in a file of the user's that builds on one with a value for it.

    The value would stay, where the line says that there is none before somebody gives it.
    """
    for group, option in choices.items():
        file = f"{group}/{option}"
        if (CONF / f"{file}.yaml").is_file() or group.startswith("hydra/"):
            continue
        try:
            held = flat(read_option(file, folders, alone=True))
        except Mistake:  # it is a row of a table, or none
            continue
        place = "" if group == "algorithm" else f"{PACKAGES.get(group, group)}."
        for key in (f"{place}{name}" for name, value in held.items() if value == "???"):
            kept = OmegaConf.select(config, key)  # None of what is missing
            if kept is not None and key not in typed:
                raise Mistake(
                    f"{file}.yaml: {key} is ???, no value, and would stay {kept}; give one there "
                    f"or as {key}=..., or leave the line out"
                )


def lacking(
    config: DictConfig, key: str, choices: Mapping[str, Any], folders: Sequence[Path]
) -> str | None:
    """The beginning of a dotted key that the chosen option does not have; None if it has all.

    An option has what its file lists and what its class takes.
    """
    groups = {PACKAGES.get(group, group): group for group in choices}
    node: Any = config
    path = ""
    for part in key.split("."):
        here = f"{path}.{part}".lstrip(".")
        builds = isinstance(node, DictConfig) and "_target_" in node
        if not builds and path in groups:
            return here
        if builds and not part.startswith("_") and part not in {*_accepted(node), "path"}:
            own = f"{groups[path]}/{choices[groups[path]]}" if path in groups else None
            if own is None or part not in _listed(own, folders):
                return here
        if not isinstance(node, DictConfig) or OmegaConf.is_missing(node, part):
            return None
        if OmegaConf.is_interpolation(node, part):
            return None
        node, path = node.get(part), here
    return None


def _listed(option: str, folders: Sequence[Path]) -> dict[str, Any]:
    benchmark = option.removeprefix("dataset/").partition("/")[0]
    if benchmark in BENCHMARKS:  # its rows are the same option
        option = f"dataset/{benchmark}"
    try:
        return read_option(option, folders)
    except Mistake:  # it is a row of a table, or of a plugin
        return {}


def _accepted(node: DictConfig) -> set[str]:
    """Arguments of what a node builds, a class or a function."""
    built = get_object(node._target_)
    return set(parameters(built))


def _typed(overrides: Sequence[str], choices: Mapping[str, Any]) -> list[str]:
    """Dotted keys of the settings among what was typed."""
    keys: list[str] = []
    for each in OverridesParser.create().parse_overrides(list(overrides)):
        # A group takes an option's name, or settings in braces for the chosen one.
        names_option = each.key_or_group in choices and not isinstance(each.value(), dict)
        if not names_option and not each.is_delete():
            keys += flat(each.value(), each.key_or_group)
    return keys


def refusal(key: str, part: str, choices: Mapping[str, Any]) -> str:
    """One line: what was typed, the option that lacks it, and which option has it.

    Args:
        key: as typed.
        part: the beginning of it that is lacking.
        choices: options by group, None where it is not known.
    """
    groups = {PACKAGES.get(group, group): group for group in choices}
    place = part.rpartition(".")[0]
    while place and place not in groups:
        place = place.rpartition(".")[0]
    if not place:
        return f"there is no setting '{key}'; leave it out"
    group, name = groups[place], part.removeprefix(f"{place}.").partition(".")[0]
    if {",", "("} & set(choices[group] or ""):  # Hydra composes once before it knows of each job
        return f"there is no '{key}' before a sweep over {group} has chosen; say ++{key}=..."
    having = [f"{group}={option}" for option in options(group) if name in _settings(group, option)]
    option = f"{group}={choices[group]}" if choices[group] else f"the chosen {group}"
    remedy = f"choose {' or '.join(having[:3])}, or leave" if having else "leave"
    return f"there is no setting '{key}' with {option}; {remedy} {key} out"


def _settings(group: str, option: str) -> set[str]:
    """Names of what an option of ours lists and of what its class takes."""
    listed = _listed(f"{group}/{option}", [CONF])
    node = OmegaConf.create(listed)
    return set(listed) | (_accepted(node) if "_target_" in node else set())


def _require_one_dataset(config: DictConfig, choice: str) -> None:
    """Refuse a benchmark's id beside the name of another dataset, whose numbers would be used."""
    id_ = None if OmegaConf.is_missing(config.dataset, "id") else config.dataset.get("id")
    benchmark, name = choice.split("/")[0], f"{choice.split('/')[0]}/{id_}"
    if id_ in BENCHMARKS.get(benchmark, ()) and choice != name:
        raise Mistake(
            f"dataset={choice} and dataset.id={id_} are two names; say dataset={name} alone"
        )
