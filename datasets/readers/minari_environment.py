"""The environment of a Minari dataset, from the recording and the user's settings."""

import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium

from reverie.envs.faults import import_module
from reverie.envs.make import is_registered
from reverie.envs.wrappers import Wrappers, split
from reverie.mistake import Mistake

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """An environment and how to make it.

    Attributes:
        env_id: for `envs.make.spec_of`; None for none.
        env_kwargs, max_episode_steps, wrappers: as there.
    """

    env_id: str | None
    env_kwargs: Mapping[str, object]
    max_episode_steps: int | None
    wrappers: Wrappers = ()


def choose_task(
    short: str,
    metadata: Mapping[str, Any],
    env_id: str | None,
    env_kwargs: Mapping[str, object],
    max_episode_steps: int | None,
) -> Task:
    """The environment that the user names, with what was recorded of it.

    A module is imported only where the user names it: a file may come from anyone.

    Args:
        short: id of the dataset, for messages.
        metadata: of the dataset.
        env_id: `recorded`, an id, or None.
        env_kwargs: on top of the recorded ones.
        max_episode_steps: None for the recorded limit.

    Raises:
        Mistake: nothing usable is recorded; the module that the user names cannot be imported.
    """
    if env_id is None:
        return Task(None, env_kwargs, max_episode_steps)
    if env_id == "recorded":
        recorded = _recorded(short, metadata)
        if not recorded:
            raise Mistake(
                f"dataset {short} names no environment; give its Gymnasium id as dataset.env_id, "
                "or train without scores: dataset.env_id=null"
            )
        spec = recorded[0]
        env_id = _registered_id(short, spec)
    else:
        same = _same_task(short, metadata, env_id)
        if same is None:
            return Task(env_id, env_kwargs, max_episode_steps)
        spec = same
        env_id = _importable_id(env_id, spec)
    wrappers, others = split(spec["additional_wrappers"])
    if others:
        log.warning(
            "%s was recorded with the wrappers %s around %s, which scores do without; register an "
            "environment that applies them and give it as dataset.env_id=module:Name-v0",
            short,
            ", ".join(others),
            env_id,
        )
    options = {**spec["kwargs"], **env_kwargs}
    options.pop("render_mode", None)
    limit = spec["max_episode_steps"] if max_episode_steps is None else max_episode_steps
    return Task(env_id, options, limit, wrappers)


def _recorded(short: str, metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Gymnasium's specs in the metadata, that for evaluation first."""
    found = []
    for key in ("eval_env_spec", "env_spec"):
        if not metadata.get(key):
            continue
        try:
            spec = json.loads(metadata[key])
            found.append(
                {
                    "id": str(spec["id"]),
                    "entry_point": str(spec.get("entry_point") or ""),
                    "kwargs": dict(spec.get("kwargs") or {}),
                    "additional_wrappers": [
                        dict(item) for item in spec.get("additional_wrappers") or ()
                    ],
                    "max_episode_steps": _limit(spec.get("max_episode_steps")),
                }
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Mistake(
                f"dataset {short} has an {key} that cannot be read ({error}); give the "
                "environment's id as dataset.env_id, or null for none"
            ) from error
    return found


def _limit(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _registered_id(short: str, spec: Mapping[str, Any]) -> str:
    """The recorded id, if it needs no module that only the file names."""
    module, _, name = spec["id"].rpartition(":")
    if is_registered(name):
        return spec["id"] if module in sys.modules else name  # which imports nothing new
    maker = spec["entry_point"]
    module = module or maker.partition(":")[0]
    if module.partition(".")[0] == "gymnasium":  # a version of a task that is no more
        return name
    made_by = f", made by {maker}" if maker else ""
    raise Mistake(
        f"dataset {short} was recorded in {name}{made_by}, which is not registered here, and a "
        "module is not imported because a file names it; if you trust it, give dataset.env_id="
        f"{module or 'MODULE'}:{name}, or train without scores: dataset.env_id=null"
    )


def _same_task(short: str, metadata: Mapping[str, Any], env_id: str) -> dict[str, Any] | None:
    """What was recorded of the environment that the user names; None for another one."""
    name = env_id.rpartition(":")[2]
    try:
        recorded = _recorded(short, metadata)
    except Mistake as error:
        log.warning("%s", error)
        return None
    for spec in recorded:
        if name == spec["id"].rpartition(":")[2] or env_id == spec["entry_point"]:
            return spec
    if recorded and recorded[0]["kwargs"]:
        log.warning(
            "%s was recorded in %s with the options %s; %s is made without them (dataset."
            "env_kwargs gives options)",
            short,
            recorded[0]["id"],
            recorded[0]["kwargs"],
            env_id,
        )
    return None


def _importable_id(env_id: str, spec: Mapping[str, Any]) -> str:
    """The id that the user names, or the recorded maker, if it lies in the module named."""
    module, _, name = env_id.rpartition(":")
    maker = spec["entry_point"]
    if module:
        import_module(env_id, module)
        inside = f"{maker.partition(':')[0]}.".startswith(f"{module}.")
        if name not in gymnasium.registry and inside and ":" in maker:
            return maker
    return env_id
