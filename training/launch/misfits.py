"""Why a constructor refused its settings, as opposed to a defect inside it."""

import traceback
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from reverie.settings import parameters


def misfit(constructor: Callable[..., Any], run_time: Mapping[str, Any]) -> str | None:
    """A setting that a constructor lacks, or one that it needs; None where there is none.

    Args:
        constructor: what failed; the keywords of a `functools.partial` are the settings.
        run_time: what the program adds to them. A constructor that does not take these is a defect.
    """
    settings: Mapping[str, Any] = {}
    if isinstance(constructor, partial):
        settings, constructor = constructor.keywords, constructor.func
    try:
        known = parameters(constructor)
    except ValueError:  # of what is written in C
        return None
    owner = getattr(constructor, "__qualname__", repr(constructor))
    takes_any = any(each.kind is each.VAR_KEYWORD for each in known.values())
    for key in settings:
        if key not in known and not takes_any:
            return f"{owner} has no setting {key}"
    for key, each in known.items():
        single = each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
        if single and each.default is each.empty and key not in {"self", *settings, *run_time}:
            return f"{owner} needs the setting {key}"
    return None


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
