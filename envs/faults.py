"""Errors of a user's environment, reported in one line with its name and a remedy."""

import importlib
import logging
import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np

from reverie.mistake import Mistake

log = logging.getLogger(__name__)

# Packages that register environments, by the module that does. Whatever else is missing may be a
# file of the user's, and a stranger may hold its name on PyPI.
PACKAGES = {
    "ale_py": "ale-py",
    "gymnasium_robotics": "gymnasium-robotics",
    "highway_env": "highway-env",
    "metaworld": "metaworld",
    "minigrid": "minigrid",
    "mo_gymnasium": "mo-gymnasium",
    "panda_gym": "panda-gym",
    "safety_gymnasium": "safety-gymnasium",
    "shimmy": "shimmy",
}
_LARGEST = float(np.finfo(np.float32).max)
SHOWN = "fix the environment (REVERIE_TRACEBACK=1 shows where), or choose another"


class stepped:
    """After `with`: names the environment in whatever it raises while it is reset or stepped.

    A class, for a generator costs each step a microsecond more.

    Raises:
        Mistake: with its error, and what to change in the environment.
    """

    __slots__ = ("env_id",)

    def __init__(self, env_id: str | None) -> None:
        self.env_id = env_id

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception | SystemExit) and not isinstance(error, Mistake):
            raise _explained(self.env_id, error) from error


def reset_result(env_id: str | None, result: Any) -> tuple[Any, dict[str, Any]]:
    """What a reset returned: the observation and the info.

    Raises:
        Mistake: it is not these two.
    """
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict):
        return result
    raise _old_interface(env_id, "reset", "(observation, info)")


def step_result(env_id: str | None, result: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
    """What a step returned, with a float as reward, and bool; an array of one number is one.

    Raises:
        Mistake: it is not five things, or one of them is of another type.
    """
    if not (isinstance(result, tuple) and len(result) == 5):
        raise _old_interface(env_id, "step", "(observation, reward, terminated, truncated, info)")
    value, reward, terminated, truncated, info = result
    if not (isinstance(terminated, bool) and isinstance(truncated, bool)):
        terminated = _flag(env_id, "terminated", terminated)
        truncated = _flag(env_id, "truncated", truncated)
    if not isinstance(info, dict):
        raise Mistake(f"environment {env_id}: its step returned {info!r} as info; return a dict")
    if type(reward) is not float:
        plain = isinstance(reward, float | np.floating)
        reward = float(reward) if plain else _number(env_id, reward)
    return value, reward, terminated, truncated, info


def require_finite(env_id: str | None, when: str, obs: np.ndarray) -> None:
    """Refuse a flat observation `[D]` that no policy can act on.

    Raises:
        Mistake: it holds NaN or Inf.
    """
    if math.isfinite(obs.dot(obs)):  # the quickest proof; it may overflow, so look again
        return
    dims = np.flatnonzero(~np.isfinite(obs)).tolist()
    if dims:
        shown = ", ".join(map(str, dims[:5])) + (", ..." if len(dims) > 5 else "")
        raise Mistake(
            f"environment {env_id}: its {when} returned an observation that is not finite "
            f"(entries {shown} are NaN or Inf); {SHOWN}"
        )


def require_finite_reward(env_id: str | None, reward: float) -> None:
    """Refuse a reward that would make a return meaningless.

    Raises:
        Mistake: it is NaN or infinite, or would be as float32.
    """
    if not -_LARGEST <= reward <= _LARGEST:
        raise Mistake(f"environment {env_id}: its step returned the reward {reward}; {SHOWN}")


def import_module(env_id: str, module: str) -> ModuleType:
    """The module that registers an environment, where the command line or Python names it.

    Raises:
        Mistake: it is not there, or fails while it is imported.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if module != missing and not module.startswith(f"{missing}."):
            raise Mistake(
                f"environment {env_id}: its module {module} imports {missing}, which is not "
                "there; install it, or correct that import"
            ) from error
        cure = _cure(module)
        if module.endswith(".py"):
            name = f"{Path(module).stem}:{env_id.rpartition(':')[2]}"
            cure = f"write {name}, with PYTHONPATH={Path(module).parent} before the command"
        raise Mistake(f"environment {env_id}: there is no module {module}; {cure}") from error
    except (Exception, SystemExit) as error:
        raise Mistake(
            f"environment {env_id}: its module {module} fails on import with {_told(error)}; fix "
            "it (REVERIE_TRACEBACK=1 shows where)"
        ) from error


def _cure(module: str) -> str:
    top = module.partition(".")[0]
    if top in PACKAGES:
        return f"install it with: pip install {PACKAGES[top]}"
    if Path(f"{top}.py").is_file() or Path(top).is_dir():
        return f"{top} lies in the working folder, so put PYTHONPATH=. before the command"
    return (
        f"run where {top}.py or the folder {top} lies, with PYTHONPATH=. before the command, or "
        "set PYTHONPATH to that folder; if it is a package, install it"
    )


def close(env_id: str | None, env: gymnasium.Env) -> None:
    """Close an environment; what that raises is told, for nothing depends on it."""
    try:
        env.close()
    except (Exception, SystemExit) as error:
        log.warning("environment %s: its close failed with %s", env_id, _told(error))


def _flag(env_id: str | None, name: str, given: Any) -> bool:
    array = np.asarray(given)
    if array.size == 1 and array.dtype.kind in "fiub" and array.item() in (0, 1):
        return bool(array.item())
    raise Mistake(
        f"environment {env_id}: its step returned {given!r} as {name}, expected true or false; "
        f"{SHOWN}"
    )


def _number(env_id: str | None, reward: Any) -> float:
    array = np.asarray(reward)
    if array.size == 1 and array.dtype.kind in "fiub":
        return float(array.reshape(-1)[0])
    found = f"an array of shape {list(array.shape)}" if array.ndim else f"{reward!r}"
    raise Mistake(
        f"environment {env_id}: its step returned the reward {found}, expected one number; "
        "return a float"
    )


def _explained(env_id: str | None, error: BaseException) -> Mistake:
    text = str(error)
    if _in_the_call(error):
        lacks = re.search(r"unexpected keyword argument '(seed|options)'", text)
        if isinstance(error, TypeError) and lacks:
            return Mistake(
                f"environment {env_id}: its reset does not take `{lacks[1]}`; Gymnasium calls "
                "reset(seed=..., options=...), so write def reset(self, *, seed=None, "
                "options=None), call super().reset(seed=seed) and return (observation, info)"
            )
        if "unpack" in text:  # too many, too few, or None
            method = _innermost(error)[1]
            if "expected 5" in text or method == "step":
                wanted = "(observation, reward, terminated, truncated, info)"
                return _old_interface(env_id, "step", wanted)
            if "expected 2" in text or method == "reset":
                return _old_interface(env_id, "reset", "(observation, info)")
    return Mistake(f"environment {env_id} failed with {_told(error)}; {SHOWN}")


def _in_the_call(error: BaseException) -> bool:
    """Whether the error lies between Gymnasium and the environment rather than inside it."""
    return _innermost(error)[0].startswith(("gymnasium.", "reverie."))


def _innermost(error: BaseException) -> tuple[str, str]:
    """The module and the function in which it was raised, empty where nobody knows."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "", ""
    return trace.tb_frame.f_globals.get("__name__", ""), trace.tb_frame.f_code.co_name


def _old_interface(env_id: str | None, method: str, wanted: str) -> Mistake:
    return Mistake(
        f"environment {env_id}: its {method} does not return {wanted}, so it follows the old Gym "
        f"interface or another one; let {method} return these, as Gymnasium asks "
        "(https://gymnasium.farama.org/introduction/migration_guide/)"
    )


def _told(error: BaseException) -> str:
    reason = " ".join(str(error).split())
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__
