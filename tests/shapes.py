"""Checks shapes and types of what the lower layers are given and give, at a price tests can pay.

jaxtyping's import hook gives every function the same decorator, which costs seconds an import and
half the time of small updates: it compiles two checkers and binds all arguments, also where no
shape is annotated, and does so anew for a function within a function whenever the outer one runs.
Here a function without shapes is checked by beartype alone, or by mypy if it lies within another,
and functions of the same code within a function share their checkers.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import beartype
from jaxtyping import AbstractArray, install_import_hook

_jaxtyped = jaxtyping.jaxtyped


def check_shapes(modules: Sequence[str]) -> None:
    """Check what is imported from `modules` after this call."""
    jaxtyping.jaxtyped = _checked  # which the hook's decorator looks up where a function is defined
    install_import_hook(modules, "beartype.beartype")


def _checked(fn: Any = None, *, typechecker: Callable) -> Any:
    if fn is None:
        return functools.partial(_checked, typechecker=typechecker)
    if not inspect.isfunction(fn):
        return _jaxtyped(fn, typechecker=typechecker)
    if not fn.__annotations__:
        return fn
    within = "<locals>" in fn.__qualname__
    try:
        hints = get_type_hints(fn, include_extras=True)
    except (AttributeError, NameError):  # a name that only the type checker knows
        return _jaxtyped(fn, typechecker=typechecker)
    if within:
        return _checked_within(fn, typechecker) if _hold_shapes(hints) else fn
    return _jaxtyped(fn, typechecker=typechecker) if _hold_shapes(hints) else beartype(fn)


def _hold_shapes(hints: dict[str, Any]) -> bool:
    def holds(hint: Any) -> bool:
        shape = inspect.isclass(hint) and issubclass(hint, AbstractArray)
        return shape or any(map(holds, get_args(hint)))

    return any(map(holds, hints.values()))


_within: dict[CodeType, Callable] = {}
_running: list[Callable] = []
"""What stand-ins call: functions that were called, while their arguments are being checked."""


def _checked_within(fn: Callable, typechecker: Callable) -> Callable:
    """A function within a function; its checkers are those of a stand-in, made once."""
    checked = _within.get(fn.__code__)
    if checked is None:

        @functools.wraps(fn)
        def stand_in(*args, **kwargs):
            return _running.pop()(*args, **kwargs)

        checked = _within[fn.__code__] = _jaxtyped(stand_in, typechecker=typechecker)

    @functools.wraps(fn)
    def run(*args, **kwargs):
        _running.append(fn)
        return checked(*args, **kwargs)

    return run
