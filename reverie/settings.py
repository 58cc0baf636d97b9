"""What the constructors that a configuration names say about their settings, and its values."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pkgutil import resolve_name
from typing import Any, Union, get_args

from reverie.mistake import Mistake
from reverie.ranges import MOST, arguments_of, bounds_of, describe, fits

MISSING = "???"
"""A setting without a value, which whoever reads it refuses."""
Annotations = dict[str, Any]


def require_declared(settings: Any, own: Mapping[str, Any] | None = None, prefix: str = "") -> None:
    """Refuse settings whose types or numbers are not those that their classes declare.

    Args:
        settings: see `declared`.
        own: annotations of settings of a command that no class takes, by dotted key.
        prefix: what precedes their keys in messages.

    Raises:
        Mistake: names the first one, with what it must be.
    """
    for key, annotation in (own or {}).items():
        value = _at(settings, key, prefix)
        if value == MISSING:  # no class that is built from it would say so
            raise Mistake(f"{prefix}{key}={MISSING} is no value; give one, or leave the key out")
        _require(f"{prefix}{key}", value, annotation)
    for key, value, annotation in declared(settings, prefix):
        _require(key, value, annotation)


def declared(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every setting that a class or a function takes: dotted key, value, annotation.

    Args:
        node: nested plain values, what they build stands as `_target_`; or a `functools.partial`.
        prefix: what precedes the keys.
    """
    if isinstance(node, partial):
        with suppress(ValueError):  # of what is written in C
            yield from _of(_annotations(node.func, node.keywords), node.keywords, prefix)
    elif isinstance(node, Mapping):
        known: Annotations = {}
        if "_target_" in node:
            # Building it says why it is not there.
            with suppress(ImportError, AttributeError, ValueError, TypeError):
                known = _annotations(resolve_name(node["_target_"]), node)
        yield from _of(known, node, prefix)


def _annotations(taker: Any, settings: Mapping[str, Any]) -> Annotations:
    """What a function, a class or a mapping of annotations takes, by key."""
    if isinstance(taker, Mapping):
        return dict(taker)
    known: Annotations = {}
    for name, each in parameters(taker).items():
        others = arguments_of(each.annotation) if each.kind is each.VAR_KEYWORD else None
        if others is not None:  # which it passes on to another one
            with suppress(KeyError, TypeError):  # which says itself that it is not there
                known = _annotations(others.find(settings), settings) | known
        optional = each.default is None and each.annotation is not each.empty
        known[name] = Union[each.annotation, None] if optional else each.annotation  # noqa: UP007
    return known


def _of(known: Annotations, node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any, Any]]:
    """The settings of a node whose arguments are known, and of the nodes below."""
    for key, value in node.items():
        if key in known:
            yield f"{prefix}{key}", value, known[key]
        yield from _below(known.get(key), value, node, f"{prefix}{key}")


def _below(
    annotation: Any, value: Any, siblings: Mapping[str, Any], path: str
) -> Iterator[tuple[str, Any, Any]]:
    inside = arguments_of(annotation)
    if isinstance(value, Mapping) and inside is not None:
        yield from _of(_annotations(inside.find(siblings), siblings), value, f"{path}.")
    elif isinstance(value, Mapping | partial):
        yield from declared(value, f"{path}.")
    elif isinstance(value, list) and get_args(annotation):
        for index, each in enumerate(value):
            yield from _below(get_args(annotation)[0], each, siblings, f"{path}[{index}]")


def parameters(kind: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Arguments of a function, or of a constructor with those of its bases.

    A base counts as far as the constructor passes `**others` on to it.
    """
    if not isinstance(kind, type):
        return dict(inspect.signature(kind).parameters)
    known: dict[str, inspect.Parameter] = {}
    for cls in inspect.getmro(kind):
        if "__init__" in vars(cls):
            own = inspect.signature(vars(cls)["__init__"]).parameters
            known = dict(own) | known
            if all(each.kind is not each.VAR_KEYWORD for each in own.values()):
                break
    return known


def misfit(key: str, value: Any, annotation: Any) -> str | None:
    """Why a value is not what is declared, `agent.discount=1.5 must lie in [0, 1]`, or None."""
    if (isinstance(value, str) and value == MISSING) or fits(value, annotation):
        return None
    if fits(value, annotation, bounded=True):
        whole, other = MOST.values()
        return (
            f"{key}={value} must be nearer to 0: whole numbers reach to {whole}, others to {other}"
        )
    number = isinstance(value, int | float) and not isinstance(value, bool)
    bounds = bounds_of(annotation)
    if number and bounds is not None:
        return f"{key}={value} must lie {bounds}"
    shown = f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else value
    return f"{key}={shown} must be {describe(annotation)}"


def _require(key: str, value: Any, annotation: Any) -> None:
    why = misfit(key, value, annotation)
    if why is not None:
        raise Mistake(f"{why}; leave it out" if value is None else why)


def _at(settings: Any, key: str, prefix: str) -> Any:
    """The value of a dotted key.

    Raises:
        Mistake: a value stands where the key has a section.
    """
    *sections, last = key.split(".")
    for depth, part in enumerate(sections, 1):
        settings = settings[part]
        if not isinstance(settings, Mapping):
            shown = "null" if settings is None else settings
            raise Mistake(
                f"{prefix}{'.'.join(sections[:depth])}={shown} must be keys with values; leave it "
                f"out, and set what it holds, such as {prefix}{key}=..."
            )
    return settings[last]
