"""Wrappers of Gymnasium that a recording names and that its environment is given again."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from reverie.mistake import Mistake

Wrappers = tuple[Mapping[str, Any], ...]
"""From the innermost to the outermost: `name` in `gymnasium.wrappers` and its `kwargs`."""

# Each is rebuilt from plain values alone. Running statistics (NormalizeObservation) are not.
KNOWN = frozenset(
    {
        *("FlattenObservation", "FilterObservation", "ReshapeObservation", "RescaleObservation"),
        *("FrameStackObservation", "DelayObservation", "TimeAwareObservation"),
        *("RescaleAction", "ClipAction", "StickyAction", "RepeatAction", "ClipReward"),
    }
)
# These neither change what is observed nor what an action does.
WITHOUT_EFFECT = frozenset(
    {
        *("OrderEnforcing", "PassiveEnvChecker", "TimeLimit", "RecordEpisodeStatistics"),
        *("RecordVideo", "RenderCollection", "HumanRendering"),
    }
)
# JSON has lists for these arrays.
BOUNDS = ("min_obs", "max_obs", "min_action", "max_action")
# The flat observation and the meaning of a scaled action stay the same.
TRANSPARENT = frozenset({"FlattenObservation", "RescaleAction", "ClipAction"})


def split(recorded: Sequence[Mapping[str, Any]]) -> tuple[Wrappers, list[str]]:
    """Of recorded wrappers those that can be applied again, and the names of the others."""
    known: list[Mapping[str, Any]] = []
    others = []
    for item in recorded:
        name, kwargs = str(item.get("name")), item.get("kwargs")
        theirs = str(item.get("entry_point")).startswith("gymnasium.")
        if theirs and name == "FrameStack" and isinstance(kwargs, Mapping):  # before Gymnasium 1.0
            name, kwargs = "FrameStackObservation", {"stack_size": kwargs.get("num_stack")}
        if theirs and name in WITHOUT_EFFECT:
            continue
        if theirs and name in KNOWN and isinstance(kwargs, Mapping):
            known.append({"name": name, "kwargs": dict(kwargs)})
        else:
            others.append(name)
    return tuple(known), others


def wrap(env_id: str | None, env: gymnasium.Env, wrappers: Wrappers) -> gymnasium.Env:
    """Put wrappers around an environment, the first one innermost.

    Raises:
        Mistake: an unknown wrapper, or one that does not fit.
    """
    for wrapper in wrappers:
        name = wrapper["name"]
        if name not in KNOWN:
            raise Mistake(f"environment {env_id}: wrapper {name} is none of {', '.join(KNOWN)}")
        kwargs = {
            key: np.asarray(value, np.float32)
            if isinstance(value, list) and key in BOUNDS
            else value
            for key, value in wrapper["kwargs"].items()
        }
        try:
            env = getattr(gymnasium.wrappers, name)(env, **kwargs)
        except Exception as error:  # whatever it or the environment raises
            env.close()
            reason = " ".join(str(error).split()) or type(error).__name__
            raise Mistake(
                f"environment {env_id} cannot be wrapped in {name} with {wrapper['kwargs']}, as "
                f"the data were recorded: {reason}; give another environment as dataset.env_id, "
                "or null for none"
            ) from error
    return env


def are_transparent(wrappers: Wrappers) -> bool:
    """Whether the flat observation means what it means without them."""
    return all(wrapper["name"] in TRANSPARENT for wrapper in wrappers)
