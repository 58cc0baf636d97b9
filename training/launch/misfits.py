"""Why a constructor did not take its settings: told apart from a defect inside it."""

import inspect
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from reverie.training.population import parameters


def misfit(constructor: Callable[..., Any], run_time: Mapping[str, Any]) -> str | None:
    """The first setting that does not fit a constructor; None where all of them do.

    Args:
        constructor: what failed; the keywords of a `functools.partial` are the settings.
        run_time: what the program adds to them. A constructor that does not take these is a defect.
    """
    settings: Mapping[str, Any] = {}
    if isinstance(constructor, partial):
        settings, constructor = constructor.keywords, constructor.func
    try:
        known = (
            parameters(constructor)
            if isinstance(constructor, type)
            else inspect.signature(constructor).parameters
        )
    except ValueError:  # of what is written in C
        return None
    owner = getattr(constructor, "__qualname__", repr(constructor))
    takes_any = any(each.kind is each.VAR_KEYWORD for each in known.values())
    for key, value in settings.items():
        if key not in known and not takes_any:
            return f"{owner} has no setting {key}"
        if key in known and not fits(value, known[key].annotation):
            return f"{key}={value} does not fit {owner}, which takes {_typed(known[key])}"
    for key, each in known.items():
        single = each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
        if single and each.default is each.empty and key not in {"self", *settings, *run_time}:
            return f"{owner} needs the setting {key}"
    return None


def fits(value: Any, annotation: Any) -> bool:
    """Whether a plain value is of an annotated type; true where nobody can tell."""
    kind, inner = get_origin(annotation) or annotation, get_args(annotation)
    if kind in (Union, UnionType):
        return any(fits(value, member) for member in inner)
    if kind is Literal:
        return value in inner
    if kind in (None, NoneType):
        return value is None
    if kind in (float, int):
        number = isinstance(value, int) or (kind is float and isinstance(value, float))
        return number and not isinstance(value, bool)
    if kind in (bool, str):
        return isinstance(value, kind)
    if isinstance(kind, type) and issubclass(kind, Sequence):
        return _is_sequence(value) and all(fits(item, inner[0]) for item in value if inner)
    return True


def is_of_the_call(error: TypeError) -> bool:
    """Whether Hydra's call of a target was refused, before anything inside the target ran."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").startswith("hydra.")


def is_of_the_name(error: BaseException, target: str) -> bool:
    """Whether a target was not found because nothing has its name, or its name is none.

    Args:
        error: Hydra's; an error inside the module of the target is its cause.
    """
    cause = error.__cause__
    if isinstance(cause, ModuleNotFoundError):  # else it is a package that the module needs
        return f"{target}.".startswith(f"{cause.name}.")
    return cause is None or isinstance(cause, AttributeError)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _typed(parameter: inspect.Parameter) -> str:
    annotation = parameter.annotation
    name = annotation.__name__ if type(annotation) is type else str(annotation)
    return re.sub(r"\b(\w+\.)+", "", name)
