"""Populations: settings of which every seed of a run has its own, `agent.diversity=[0.5,1,2,5]`."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pkgutil import resolve_name
from types import UnionType
from typing import Any, get_args

from reverie.mistake import Mistake
from reverie.world_models.per_seed import PerSeed

_SINGLE = (float, int, bool, str)
Parameters = dict[str, inspect.Parameter]


def population(settings: Mapping[str, Any]) -> dict[str, list[float]]:
    """Values by seed of the settings that were given as lists where one number is meant.

    Raises:
        Mistake: a setting that all seeds share, or another number of values than of seeds.
    """
    found: dict[str, list[float]] = {}
    supporting: list[str] = []
    refused: list[str] = []
    for key, value, annotation in _settings(settings):
        supporting += [key] if _differs_by_seed(annotation) else []
        if isinstance(value, list) and _differs_by_seed(annotation):
            found[key] = value
        elif isinstance(value, list) and _is_single(annotation):
            refused.append(f"{key}={_typed(value)}")
    if refused:
        others = f"these may: {', '.join(supporting)}" if supporting else "no setting of it may"
        raise Mistake(
            f"{refused[0]} is one number for all seeds, so the seeds of a run cannot differ in it; "
            f"with the chosen parts {others}; or sweep over it with -m"
        )
    for key, values in found.items():
        numbers = all(isinstance(v, float | int) and not isinstance(v, bool) for v in values)
        if len(values) != settings["seeds"] or not numbers:
            raise Mistake(
                f"{key}={_typed(values)} must hold as many numbers as there are seeds, "
                f"{settings['seeds']}; change the list or seeds=, or give one number for all"
            )
    return found


def settings_of_seed(
    settings: Mapping[str, Any], varied: Mapping[str, Sequence[float]], seed: int
) -> dict:
    """Dotted settings as a run of that seed alone would have them."""
    return {**settings, **{key: values[seed] for key, values in varied.items()}}


def label(varied: Mapping[str, Sequence[float]], seed: int) -> str:
    """What tells a seed from the others, for people."""
    return ", ".join(f"{key}={values[seed]:g}" for key, values in varied.items())


def parameters(kind: type) -> Parameters:
    """Arguments of a constructor, with those of its bases as far as it passes `**others` on."""
    known: Parameters = {}
    for cls in inspect.getmro(kind):
        if "__init__" in vars(cls):
            own = inspect.signature(vars(cls)["__init__"]).parameters
            known = dict(own) | known
            if all(each.kind is not each.VAR_KEYWORD for each in own.values()):
                break
    return known


def _settings(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every setting of what the configuration builds: dotted key, value, annotation."""
    known: Parameters = {}
    if "_target_" in node:
        try:
            built = resolve_name(node["_target_"])
        except (ImportError, AttributeError, ValueError):  # which building it will say
            built = None
        known = parameters(built) if isinstance(built, type) else {}
    for key, value in node.items():
        path = f"{prefix}{key}"
        if key in known:
            yield path, value, known[key].annotation
        elif not prefix and not isinstance(value, Mapping):
            yield path, value, float  # of the run itself, of which all seeds have the same
        if isinstance(value, Mapping):
            yield from _settings(value, f"{path}.")


def _differs_by_seed(annotation: Any) -> bool:
    return set(get_args(PerSeed)) <= set(get_args(annotation))


def _is_single(annotation: Any) -> bool:
    """Whether only one number or word is meant, or none."""
    union = isinstance(annotation, UnionType)
    members = set(get_args(annotation) if union else (annotation,)) - {type(None)}
    return bool(members) and members <= set(_SINGLE)


def _typed(values: Sequence[Any]) -> str:
    return f"[{','.join(map(str, values))}]"
