"""Old names of settings: refused with the new name, typed or read from a file."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reverie.mistake import Mistake

NAMES: dict[str, str] = {
    "target_rate": "tau",
    "value_weight": "alpha",
    "smoothing_std": "policy_noise",
    "smoothing_limit": "noise_clip",
    "real_fraction": "real_ratio",
    "noise_law": "noise_distribution",
}
"""Of groups and of keys at any depth: {before: now}."""
MODULES: dict[str, str] = {
    "diffusion.windows.Windows": "diffusion.segments.Segments",
    "diffusion.noise_laws": "diffusion.noise_distributions",
}
"""Of what a `_target_` names, a module or a module and its class: {before: now}."""
_ARGUMENT = re.compile(r"(\+\+|\+|~)?([\w./]+)(@[\w.:]+)?(=.*)?", re.DOTALL)


def current(key: str) -> str:
    """What a dotted key, or `group/option`, is called now."""
    return "".join(NAMES.get(part, part) for part in re.split(r"([./])", key))


def refuse_arguments(arguments: Iterable[str]) -> None:
    """Refuse `key=value`, with or without `+`, `++` and `~`, whose key has another name now.

    Raises:
        Mistake: the first one, with its name.
    """
    for argument in arguments:
        found = _ARGUMENT.fullmatch(argument)
        if found is None or (found[1] != "~" and found[4] is None):
            continue  # an option of the command itself, such as -m or a file
        mark, key, _, value = found.groups(default="")
        if key != current(key):
            # Of a group the option is said as well: it is typed in the same way.
            option = value if key in NAMES and key.isidentifier() else ""
            raise Mistake(f"{mark}{key}{option} is called {mark}{current(key)}{option} now")


def refuse_settings(settings: Mapping[Any, Any], path: Path) -> None:
    """Refuse what a file holds under a name that is no longer used.

    Raises:
        Mistake: file, the first such key or class, and its name.
    """
    for key, value in _settings(settings):
        if key != current(key):
            raise Mistake(f"{path}: {key} is called {current(key)} now; rename it there")
        if isinstance(value, str) and key.rpartition(".")[2] == "_target_":
            for before, now in MODULES.items():
                if re.search(rf"\b{re.escape(before)}\b", value):
                    moved = re.sub(rf"\b{re.escape(before)}\b", now, value)
                    raise Mistake(f"{path}: {key}: {value} is called {moved} now; rename it there")


def _settings(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key, nested ones after those that hold them."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield f"{prefix}{name}", value
            yield from _settings(value, f"{prefix}{name}.")
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for value in node:
            yield from _settings(value, prefix)
