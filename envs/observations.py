"""The one recipe that turns observations into flat vectors, for stored data and live environments.

Key order differs between storage formats and environments, so it is fixed here: goal tasks give
`observation` then `desired_goal`, everything else goes by sorted key.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from reverie.mistake import Mistake

GOAL_KEYS = ("observation", "desired_goal")


def observation_keys(space: spaces.Space, include_achieved_goal: bool = False) -> tuple[str, ...]:
    """Keys of a dict space in the order of the flat vector; empty for a box.

    Args:
        space: of the environment or of the stored observations.
        include_achieved_goal: append it to a goal task's vector. It usually repeats a part of
            `observation`, but not everywhere: AntMaze keeps the position there only.
    """
    if not isinstance(space, spaces.Dict):
        return ()
    if all(key in space.spaces for key in GOAL_KEYS):
        return (*GOAL_KEYS, "achieved_goal") if include_achieved_goal else GOAL_KEYS
    return tuple(sorted(space.spaces))


def flatten_space(space: spaces.Space, keys: Sequence[str] | None = None) -> int:
    """Length D of the flat vector.

    Args:
        space: boxes, or dicts of boxes of any depth.
        keys: see `flatten`.

    Raises:
        Mistake: another kind of space, images, a key that the space does not have, one that stands
            twice, or none.
    """
    if keys is not None and isinstance(space, spaces.Dict):
        _require_different(keys, sorted(space.spaces))
    if keys and isinstance(space, spaces.Box):
        raise Mistake(
            f"observation space {space} has no keys, of which [{', '.join(keys)}] could be some; "
            "leave the list of keys out"
        )
    leaves = [leaf for leaf, _ in _leaves(space, None, keys)]
    for leaf in leaves:
        ndim = len(leaf.shape)
        if ndim > 2 or (ndim == 2 and leaf.dtype == np.uint8):
            raise Mistake(
                f"observation space {leaf} is one of images, which are not supported; use a task "
                "or data with vectors of features, or flatten it on purpose "
                "(gymnasium.wrappers.FlattenObservation)"
            )
    return sum(int(np.prod(leaf.shape)) for leaf in leaves)


def _require_different(keys: Sequence[str], known: Sequence[str]) -> None:
    twice = [key for key in keys if list(keys).count(key) > 1]
    if twice or not keys:
        found = f"the observation key {twice[0]!r} twice" if twice else "no observation key"
        raise Mistake(
            f"the list of keys [{', '.join(keys)}] has {found}; name each once, of "
            f"{', '.join(known)}"
        )


def flatten(space: spaces.Space, value: Any, keys: Sequence[str] | None = None) -> np.ndarray:
    """Flat float32 observation `[*, D]` of a value with any leading shape `[*]`.

    Args:
        space: of one observation, without the leading shape.
        value: array, or nested mapping of arrays as the space says.
        keys: top-level keys of a dict space in order, None for `observation_keys(space)`.

    Raises:
        Mistake: the space cannot be flattened, or the value does not have its shape.
    """
    parts = []
    for leaf, array in _leaves(space, value, keys):
        if array is None:
            raise Mistake(f"an observation is None, expected an array of shape {leaf.shape}")
        array = np.asarray(array)
        lead = array.shape[: array.ndim - len(leaf.shape)]
        if lead + leaf.shape != array.shape:
            raise Mistake(
                f"an observation has shape {array.shape}, expected {leaf.shape} (with any leading "
                "shape) as its space says; data and observation space do not belong together"
            )
        if array.dtype.kind not in "fiub":
            raise Mistake(f"an observation holds {array.dtype} values, expected real numbers")
        parts.append(array.reshape(*lead, -1).astype(np.float32))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def _leaves(
    space: spaces.Space, value: Any, keys: Sequence[str] | None
) -> list[tuple[spaces.Box, Any]]:
    """Boxes of a space with their part of the value (None throughout if there is no value)."""
    if isinstance(space, spaces.Box):
        return [(space, value)]
    if not isinstance(space, spaces.Dict):
        raise Mistake(
            f"observation space {space} cannot be flattened to a vector of numbers; only Box and "
            "Dict of Box are supported, so wrap the environment (gymnasium.wrappers."
            "TransformObservation) or convert the data"
        )
    found: list[tuple[spaces.Box, Any]] = []
    for key in observation_keys(space) if keys is None else keys:
        if key not in space.spaces:
            raise Mistake(
                f"observation key {key!r} is not in the space, which has {sorted(space.spaces)}; "
                "correct the list of keys"
            )
        if isinstance(value, Mapping) and key not in value:
            raise Mistake(
                f"an observation lacks the key {key!r} of its space, it has {sorted(value)}; data "
                "and observation space do not belong together"
            )
        # Nested dicts always go by sorted key, also inside a goal.
        child = space.spaces[key]
        inner = sorted(child.spaces) if isinstance(child, spaces.Dict) else None
        found += _leaves(child, None if value is None else value[key], inner)
    return found
