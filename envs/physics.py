"""Settings of MuJoCo: no log file, and the contacts of older versions."""

import logging
import re

import gymnasium
import mujoco

log = logging.getLogger(__name__)

# Since this version the contact margins of two geoms are added; before, the larger one counted.
# Hopper, Ant and Humanoid give every geom the same margin, so half of it restores the old contact.
MARGINS_ADD_SINCE = (3, 5)
TASKS_WITH_MARGIN = frozenset(
    f"{task}-v{version}" for task in ("Hopper", "Ant", "Humanoid") for version in (2, 3, 4, 5)
)

_seen: set[str] = set()


def quieten() -> None:
    """Send MuJoCo's C-level warnings to logging; by itself it prints them and writes
    MUJOCO_LOG.TXT into the working folder, for some tasks at every construction.

    A handler that is already set stays.
    """
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_log_once)


def margins_add() -> bool:
    """Whether the installed MuJoCo adds contact margins."""
    return tuple(int(part) for part in mujoco.__version__.split(".")[:2]) >= MARGINS_ADD_SINCE


def restore_contact_margin(env_id: str, env: gymnasium.Env) -> bool:
    """Halve the contact margins of a task whose contacts MuJoCo 3.5 changed.

    Returns:
        Whether anything was changed: not before MuJoCo 3.5, and not for tasks without a margin.
    """
    if env_id not in TASKS_WITH_MARGIN or not margins_add():
        return False
    env.unwrapped.model.geom_margin[:] *= 0.5  # type: ignore[attr-defined]
    return True


def _log_once(message: str) -> None:
    kind = re.split(r"\d", message)[0]  # the same warning comes with other times and joint numbers
    if kind in _seen:
        return
    _seen.add(kind)
    # A remark about the model file is of no concern to a user; an unstable simulation is.
    level = logging.DEBUG if "compiler attribute" in message else logging.WARNING
    log.log(level, "MuJoCo: %s", " ".join(message.split()))
