"""Options of `conf/`: one file per option, and tables whose rows are options too.

Three tables are rows and not files: datasets of benchmarks, `dataset=d4rl/<id>`, `neorl2/<id>` and
`ogbench/<id>` for every id that their readers know; the hyperparameters tuned for datasets,
`conf/tuned/<algorithm>.yaml` by dataset; and what a budget limits, `conf/limits/<budget>.yaml` by
chosen options. Importing this module makes Hydra see them as if each row were a file.
"""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import OverrideParseException
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from reverie.datasets.options import BENCHMARKS
from reverie.mistake import Mistake
from reverie.training.fitting import FITTED, INVERSE

CONF = Path(__file__).resolve().parents[2] / "conf"
"""Of the checkout, or of the installed package."""

PACKAGES = {
    "discriminators": "agent.discriminators",
    "regulariser": "agent.regulariser",
    "forcing": "world_model.forcing",
    "noise_distribution": "generator.noise_distribution",
    "condition": "generator.condition",
    "warm_start": "source.warm_start",
}
"""Groups whose settings do not lie under their own name."""

AUTO, LAPTOP, PAPER = "auto", "laptop", "paper"
"""Options of `budget`."""
_LIMITING = (
    *("budget", "algorithm", "agent", "world_model", "source", "generator", "dynamics_reward"),
    "dataset",
)
"""Groups by which rows of conf/limits are chosen, in the order in which conf/train.yaml asks."""


def options(group: str) -> list[str]:
    """Names of the options of a group, as they are typed."""
    files = (path.relative_to(CONF / group) for path in (CONF / group).rglob("*.yaml"))
    names = {path.with_suffix("").as_posix() for path in files}
    rows = (PurePosixPath(row) for row in _rows() if row.startswith(f"{group}/"))
    return sorted(names | {row.relative_to(group).as_posix() for row in rows})


def learners() -> list[str]:
    """Options of `agent` that learn."""
    return [name for name in options("agent") if name != "none"]


def read_option(
    name: str, folders: Sequence[Path] = (CONF,), alone: bool = False
) -> dict[str, Any]:
    """An option with those that it builds on, as plain values: `read_option("agent/edac")`.

    For what needs no composition; overrides of other groups among its defaults are left out.

    Args:
        name: group and option.
        folders: of options; the first that holds it counts.
        alone: without those that it builds on.

    Raises:
        Mistake: none of the folders holds it.
    """
    group = name.rpartition("/")[0]
    path = next((p for folder in folders if (p := folder / f"{name}.yaml").is_file()), None)
    if path is None:
        raise Mistake(f"there is no option {name} in {', '.join(map(str, folders))}")
    own: Any = OmegaConf.load(path)
    parts: list[Any] = []
    for entry in own.pop("defaults", []) if isinstance(own, DictConfig) else []:
        if entry == "_self_" or alone:
            continue
        if isinstance(entry, str):  # another option of the same group
            parts.append(read_option(f"{group}/{entry}", folders))
        else:  # an option of another group, below a key of this one
            ((where, option),) = entry.items()
            other, _, key = str(where).removeprefix("/").partition("@")
            if not other.startswith("override "):
                parts.append({key: read_option(f"{other}/{option}", folders)})
    merged: Any = OmegaConf.to_container(OmegaConf.merge(*parts, own))
    return merged or {}


def load_option(group: str, name: str) -> dict[str, Any]:
    """The settings of one option alone, with those that it builds on.

    Without the `path` of what is fitted, which names a file and no argument of its class.
    """
    settings = read_option(f"{group}/{name}")
    return {
        key: settings[key] for key in settings if key != "path" or group not in (*FITTED, INVERSE)
    }


def build_option(
    group: str, name: str, *, changes: Mapping[str, Any] | None = None, **given: Any
) -> Any:
    """What one option builds, with changed hyperparameters and what it is given at run time.

    Args:
        changes: settings to replace; those below a mapping replace what has the same key there.
    """
    merged: Any = OmegaConf.merge(load_option(group, name), dict(changes or {}))
    made = instantiate(merged, _convert_="all")
    return made(**given) if merged.get("_partial_") else made


def is_chosen(node: DictConfig | None) -> bool:
    """Whether a group holds an option; values tuned for a dataset may be there without one."""
    return isinstance(node, Mapping) and "_target_" in node


def tuned(algorithm: str) -> dict[str, dict[str, Any]]:
    """Hyperparameters of an algorithm by dataset, empty where none are known."""
    return deepcopy(_table(CONF / "tuned" / f"{algorithm}.yaml"))


def choose_budget(
    choice: str, algorithm: str, dataset: str, called: str | None = None
) -> tuple[str, str]:
    """The budget that `budget=auto` stands for, and why.

    Args:
        choice: auto, or a budget, which is kept.
        algorithm, dataset: options of these groups.
        called: what the dataset is called where it is no option; None for `dataset=...`.
    """
    if choice != AUTO:
        return choice, f"budget={choice}"
    if dataset.partition("/")[0] == "d4rl":
        return PAPER, f"{dataset} is one of D4RL's"
    if dataset in tuned(algorithm):
        return PAPER, f"hyperparameters of {algorithm} are tuned for {dataset}"
    if algorithm not in options("algorithm"):
        return PAPER, f"algorithm={algorithm} is a preset of your own"
    return (
        LAPTOP,
        f"no hyperparameters of {algorithm} are tuned for {called or f'dataset={dataset}'}",
    )


def limits(budget: str, chosen: Mapping[str, str]) -> dict[str, Any]:
    """What a budget changes of a preset: the rows of its table that fit, merged in their order.

    Args:
        budget: laptop, or one without a table, which changes nothing.
        chosen: options by group.
    """
    table = _table(CONF / "limits" / f"{budget}.yaml")
    names = {"all", *(f"{group}/{option}" for group, option in chosen.items())}
    merged = OmegaConf.merge(*(table[name] for name in table if name in names), {"budget": budget})
    return OmegaConf.to_container(merged)  # type: ignore[return-value]


@cache  # one composition asks a dozen times
def _table(path: Path) -> dict[str, Any]:
    """The rows of a table, none where there is no such file."""
    rows: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else {}
    return rows


def _limits_asked(path: str) -> dict[str, Any] | None:
    """The row that `limits: ...` of conf/train.yaml asks for; None for another path."""
    group, _, asked = path.partition("/")
    choices = asked.removesuffix(".yaml").split(",")
    if group != "limits" or len(choices) != len(_LIMITING):
        return None
    chosen = dict(zip(_LIMITING, choices, strict=True))
    budget, _ = choose_budget(chosen["budget"], chosen["algorithm"], chosen["dataset"])
    return limits(budget, chosen)


def one_spelling(arguments: Sequence[str]) -> list[str]:
    """Arguments with `dataset=d4rl dataset.id=X` as `dataset=d4rl/X`, which means the same.

    So for every benchmark.

    An id that the reader does not know is left to it, for it says why. Settings of which the file
    cannot list the keys, such as `dataset.env_kwargs.x=1`, need no `+`.

    Raises:
        Mistake: a group is given something else than the name of an option.
    """
    for each in arguments:
        _refuse_marks(each)
        _require_name(each)
    arguments = [f"++{each}" if _OPEN.match(each) else each for each in arguments]
    found = {key: [a for a in arguments if a.startswith(f"{key}=")] for key in _BY_ID}
    if not all(found.values()):
        return list(arguments)
    dataset, id_ = (OverridesParser.create().parse_override(found[key][-1]) for key in _BY_ID)
    (benchmark, *more) = _values(dataset)
    names = [f"{benchmark}/{value}" for value in _values(id_)]
    known = benchmark in BENCHMARKS and all(f"dataset/{name}" in _rows() for name in names)
    if more or not known:
        return list(arguments)
    kept = [a for a in arguments if not a.startswith("dataset.id=")]
    return [f"dataset={','.join(names)}" if a.startswith("dataset=") else a for a in kept]


def as_typed(override: str) -> str:
    """An override without the `++` that `one_spelling` gives it."""
    plain = override.removeprefix("++")
    return plain if _OPEN.match(plain) else override


_BY_ID = ("dataset", "dataset.id")
_OPEN = re.compile(r"dataset\.(env_kwargs|columns)(\.|=\s*\{)")
"""Keys of one's own below a setting: one of them, or all in braces."""


def _refuse_marks(argument: str) -> None:
    """Refuse to set the marks by which Hydra knows how something is built."""
    found = re.match(r"[+~]*([\w.]*\b_(?:partial|convert|recursive|args)_)(=|\Z)", argument)
    if found:
        raise Mistake(f"{found[1]} is no setting, but says how Hydra builds one; leave it out")
    if re.match(r"[+~]*hydra\.sweeper\.params(\.|=(?!null\Z)|\Z)", argument):
        raise Mistake(  # Hydra cannot set it there
            f"{argument} belongs in a file, below `hydra:`; on the command line a sweep is typed "
            "as -m seed=0,1"
        )


def _require_name(argument: str) -> None:
    """Refuse `source=[0]` and `agent=null`, of which Hydra says that they are no strings.

    And a choice that is typed where its settings lie, as `world_model.forcing=alpha`.
    """
    key = argument.partition("=")[0]
    group = next((group for group, place in PACKAGES.items() if place == key), key)
    if not re.fullmatch(r"[a-z_]+", group) or not (CONF / group).is_dir():
        return
    try:
        (override,) = OverridesParser.create().parse_overrides([argument])
    except OverrideParseException:  # which is told when Hydra reads it
        return
    # Values in braces are merged into the chosen option.
    named = dict if key != group else str | dict
    if override.is_sweep_override() or isinstance(override.value(), named):
        return
    names = options(group)
    if override.value() is None and key != group and "none" in names:
        return  # which is what that option sets
    known = f"{', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"
    if key == group:
        raise Mistake(f"{argument} must be the name of an option; {group} has {known}")
    remedy = f"{group}=... chooses from {known}" if len(names) > 1 else "leave it out"
    raise Mistake(f"{argument} must be settings, as {key}.name=value or in braces; {remedy}")


def _values(override: Override) -> list[str]:
    """What a setting is to be, one after the other in a sweep."""
    if override.is_choice_sweep():
        return [value.strip("'\"") for value in override.sweep_string_iterator()]
    return [override.get_value_element_as_str().strip("'\"")]


@cache
def _rows() -> dict[str, tuple[dict[str, Any], str | None]]:
    """The options that are rows of tables: content and package by `group/option`."""
    rows: dict[str, tuple[dict[str, Any], str | None]] = {
        f"dataset/{name}/{id_}": ({"defaults": [f"/dataset/{name}@_here_"], "id": id_}, None)
        for name, ids in BENCHMARKS.items()
        for id_ in ids
    }
    for path in (CONF / "tuned").glob("*.yaml"):
        for dataset, numbers in tuned(path.stem).items():
            rows[f"tuned/{path.stem}/{dataset}"] = (numbers, "_global_")
    return rows


class TableSource(ConfigSource):
    """Answers Hydra's questions for an option from the tables."""

    @staticmethod
    def scheme() -> str:
        return "reverie"

    def load_config(self, config_path: str) -> ConfigResult:
        if not self.is_config(config_path):
            raise ConfigLoadError(f"Config not found : {config_path}")
        asked = _limits_asked(config_path)
        content, package = (
            _rows()[config_path.removesuffix(".yaml")] if asked is None else (asked, "_global_")
        )
        return ConfigResult(
            config=OmegaConf.create(content),
            path=self.full_path(),
            provider=self.provider,
            header={"package": package},
        )

    def available(self) -> bool:
        return True

    def is_config(self, config_path: str) -> bool:
        return config_path.removesuffix(".yaml") in _rows() or bool(_limits_asked(config_path))

    def is_group(self, config_path: str) -> bool:
        return any(row.startswith(f"{config_path.rstrip('/')}/") for row in _rows())

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        prefix = f"{config_path.rstrip('/')}/".removeprefix("/")
        below = {row[len(prefix) :] for row in _rows() if row.startswith(prefix)}
        groups = {row.partition("/")[0] for row in below if "/" in row}
        configs = {row for row in below if "/" not in row}
        if results_filter is None:
            return sorted(groups | configs)
        return sorted(groups if results_filter == ObjectType.GROUP else configs)


class Tables(SearchPathPlugin):
    """Lets every configuration see the tables."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="reverie", path=f"{TableSource.scheme()}://tables")


Plugins.instance().register(TableSource)
Plugins.instance().register(Tables)
