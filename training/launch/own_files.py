"""Files of a user's own options: what is wrong with one is told before Hydra composes it.

Hydra and OmegaConf say of such a file where they stumbled, mostly without its name, or take what it
holds for something else.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from reverie.mistake import Mistake
from reverie.paths import expanded
from reverie.text import near
from reverie.training.launch.options import CONF, options
from reverie.training.run_directory import flat

_PRESETS = "algorithm"
_ENTRY = re.compile(r"(?P<mark>override )?(?P<root>/)?(?P<group>[\w/]+)")
"""A group in the defaults of a file; of what stands elsewhere (`@`) or is optional, Hydra tells."""


def require_sound_files(arguments: Sequence[str]) -> None:
    """Refuse a chosen file of the user's that cannot mean what it says.

    Args:
        arguments: of a command, with `--config-dir` or `hydra.searchpath` where there is any.

    Raises:
        Mistake: names the file: no text, no mapping, defaults that are no list or name what is not
            there, a value in the place of a group's settings, a key with a dot.
    """
    folders = [*_folders(arguments)]
    for argument in arguments if folders else ():
        group, _, names = argument.lstrip("+").partition("=")
        for name in names.split(","):
            _visit(folders, group, name, set())


def own_names(group: str, arguments: Sequence[str]) -> list[str]:
    """Options of a group that lie in folders of the user's."""
    places = [folder / group for folder in _folders(arguments)]
    return sorted({path.stem for place in places for path in place.glob("*.yaml")})


def _folders(arguments: Sequence[str]) -> Iterator[Path]:
    """Where the user's options lie."""
    for place, argument in enumerate(arguments):
        flag, given, folder = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            yield expanded(folder if given else "".join(arguments[place + 1 : place + 2]))
        elif flag == "hydra.searchpath":
            try:
                found = OverridesParser.create().parse_override(argument).value()
            except HydraException:  # which is told when Hydra reads it
                continue
            for each in found if isinstance(found, list) else ():
                if str(each).startswith("file://"):
                    yield Path(str(each).removeprefix("file://"))


def _visit(folders: Sequence[Path], group: str, name: str, seen: set[Path]) -> None:
    """Look at a file of the user's, and at those that it builds on."""
    try:
        found = [folder / group / f"{name}.yaml" for folder in folders]
        path = next((each for each in found if each.is_file()), None)
    except (OSError, ValueError):  # no name of a file
        return
    if path is None:
        return
    file = f"{group}/{name}.yaml"
    if (CONF / file).is_file():
        raise Mistake(
            f"{path} has the name of an option of ours, which is read in its place; give it "
            "another name"
        )
    if path in seen:
        raise Mistake(f"{file}: its defaults lead back to itself; leave {name} out of them")
    held = _read(path, file)
    for entry in _defaults(held, file, group, name):
        if isinstance(entry, str):
            _visit(folders, group, entry, {*seen, path})
        else:
            _require_choice(folders, file, group, *next(iter(entry.items())))
    _require_values(held, file, group)


def _read(path: Path, file: str) -> Mapping[Any, Any]:
    """What a file holds; nothing where Hydra itself says what is wrong, or what it lacks."""
    try:
        held = yaml.safe_load(path.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise Mistake(f"{file} is no text in UTF-8; save it as such") from error
    except (OSError, yaml.YAMLError):
        return {}
    if held is not None and not isinstance(held, Mapping):
        if file.startswith(f"{_PRESETS}/"):
            return {}
        raise Mistake(f"{file} holds no keys with values, such as `name: mine`; add them")
    return held or {}


def _defaults(
    held: Mapping[Any, Any], file: str, group: str, name: str
) -> Sequence[str | Mapping[Any, Any]]:
    """The options that a file builds on or chooses.

    Raises:
        Mistake: they are no list of such.
    """
    entries = held.get("defaults") or []
    known = isinstance(entries, list) and all(
        isinstance(each, str) or (isinstance(each, Mapping) and len(each) == 1) for each in entries
    )
    if not known:
        example = (options(group) or [name])[0]
        raise Mistake(
            f"{file}: its defaults must be a list, with a line such as `- {example}` for what it "
            "builds on, or `- override /agent: sac` for what it chooses"
        )
    return entries


def _require_choice(
    folders: Sequence[Path], file: str, own: str, entry: Any, option: object
) -> None:
    """Refuse a choice among the defaults of a group or an option that there is not."""
    found = _ENTRY.fullmatch(str(entry))
    if found is None or not isinstance(option, str):
        return
    group = found["group"]
    if not found["root"] and not found["mark"] and own != _PRESETS:
        return  # below the file's own group
    places = [folder / group for folder in (CONF, *folders)]
    if not any(place.is_dir() for place in places):
        if group.startswith("hydra/"):
            return
        groups = sorted(path.name for path in CONF.iterdir() if path.is_dir())
        close = near(group, groups) or groups
        raise Mistake(
            f"{file}: its defaults choose an option of {group}, which is no group; did you mean "
            f"{' or '.join(close)}?"
        )
    held = {path.stem for place in places[1:] for path in place.glob("*.yaml")}
    known = sorted({*options(group), *held})
    if option not in known and not {"$", "?"} & set(option):
        close = near(option, known)
        hint = f"did you mean {' or '.join(close)}?" if close else f"options: {', '.join(known)}"
        raise Mistake(f"{file}: {group}={option} is not there; {hint}")
    if own == _PRESETS and not found["mark"] and (CONF / group).is_dir():
        raise Mistake(
            f"{file}: a preset chooses {group} in the place of another; write "
            f"`- override /{group}: {option}` among its defaults"
        )


def _require_values(held: Mapping[Any, Any], file: str, group: str) -> None:
    """Refuse values that Hydra would ignore, or not read."""
    for key, value in held.items():
        parts = str(key).split(".")
        if len(parts) > 1:
            nested = "".join(f"{part}: {{" for part in parts[:-1])
            raise Mistake(
                f"{file}: {key} is one key with a dot in it, which sets nothing; write "
                f"`{nested}{parts[-1]}: {value}{'}' * (len(parts) - 1)}`"
            )
        if group == _PRESETS and (CONF / str(key)).is_dir() and not isinstance(value, Mapping):
            raise Mistake(f"{file}: `{key}: {value}` sets nothing; {_remedy(str(key), value)}")
    for key, value in flat(held).items():
        try:
            OmegaConf.create({"value": value})
        except GrammarParseError as error:
            raise Mistake(
                f"{file}: {key}: {value} cannot be read; another setting is taken up as "
                "`${agent.discount}`"
            ) from error
        except OmegaConfBaseException:  # which is told where the file is composed
            continue


def _remedy(group: str, value: Any) -> str:
    """What to write for a value that stands in the place of a group's settings."""
    if isinstance(value, str) and ":" in value:
        return f"write `{re.sub(r':(?! )', ': ', value)}`, with a space behind the colon"
    if isinstance(value, str):
        return f"an option is chosen among the defaults, as `- override /{group}: {value}`"
    return "settings stand as `key: value` in lines below it"
