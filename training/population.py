"""Populations: settings of which every seed of a run has its own, `agent.diversity=[0.5,1,2,5]`."""

from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from reverie.mistake import Mistake
from reverie.settings import declared
from reverie.world_models.per_seed import PerSeed

_SINGLE = (float, int, bool, str)


def population(settings: Mapping[str, Any]) -> dict[str, list[float]]:
    """Values by seed of the settings that were given as lists where one number is meant.

    Raises:
        Mistake: a setting that all seeds share, or another number of values than of seeds.
    """
    found: dict[str, list[float]] = {}
    supporting: list[str] = []
    refused: list[str] = []
    for key, value, annotation in _settings(settings):
        supporting += [key] if differs_by_seed(annotation) else []
        if isinstance(value, list) and differs_by_seed(annotation):
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


def _settings(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Every setting that a class takes, or the run itself: dotted key, value, annotation."""
    for key, value in settings.items():
        if not isinstance(value, Mapping):
            yield key, value, float  # of which all seeds have the same
        elif key != "dataset":  # which all seeds have in common
            yield from declared(value, f"{key}.")


def differs_by_seed(annotation: Any) -> bool:
    """Whether a number of every seed's own may be given, as `PerSeed` says."""
    return _members(PerSeed) <= _members(annotation)


def _is_single(annotation: Any) -> bool:
    """Whether only one number or word is meant, or none."""
    members = _members(annotation) - {NoneType}
    return bool(members) and members <= set(_SINGLE)


def _members(annotation: Any) -> set[Any]:
    """The types of a union, without their ranges."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return set().union(*map(_members, get_args(annotation)))
    return {annotation}


def _typed(values: Sequence[Any]) -> str:
    return f"[{','.join(map(str, values))}]"
