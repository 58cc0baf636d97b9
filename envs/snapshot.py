"""The whole state of an environment as tensors and plain values, for bitwise exact resumption."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch

_PHYSICS = int(mujoco.mjtState.mjSTATE_INTEGRATION)


def take(env: gymnasium.Env) -> dict[str, Any]:
    """What the next steps and resets depend on.

    The state of the task's random generator; every attribute of the task and its wrappers that
    is a number, an array, a queue of these or None (Pendulum's state, the counter of a time limit,
    a stack of frames); and MuJoCo's state with all that it has derived from it. Attributes of other
    types, lists for example, are taken to be constant.
    """
    task = env.unwrapped
    held = {
        "generator": task.np_random.bit_generator.state,
        "attributes": [
            {name: _plain(value) for name, value in vars(layer).items() if _is_state(value)}
            for layer in _layers(env)
        ],
    }
    if _is_mujoco(task):
        model, data = task.model, task.data  # type: ignore[attr-defined]
        state = np.empty(mujoco.mj_stateSize(model, _PHYSICS))
        mujoco.mj_getState(model, data, state, _PHYSICS)
        held["state"] = torch.from_numpy(state)
        # A step leaves positions of bodies one substep behind, and tasks read them before the
        # next one: computing them anew from the state would change a reward.
        held["derived"] = torch.from_numpy(
            np.concatenate([getattr(data, name).ravel() for name in _derived(model)])
        )
    return held


def put_back(env: gymnasium.Env, held: Mapping[str, Any]) -> None:
    """Bring an environment of the same task into a state that `take` gave."""
    task = env.unwrapped
    task.np_random.bit_generator.state = held["generator"]
    for layer, attributes in zip(_layers(env), held["attributes"], strict=True):
        for name, value in attributes.items():
            if isinstance(value, list):
                queue = getattr(layer, name)  # which knows its length
                queue.clear()
                queue.extend(map(_unplain, value))
            else:
                setattr(layer, name, _unplain(value))
    if _is_mujoco(task):
        model, data = task.model, task.data  # type: ignore[attr-defined]
        mujoco.mj_setState(model, data, held["state"].cpu().numpy(), _PHYSICS)
        derived, taken = held["derived"].cpu().numpy(), 0
        for name in _derived(model):
            array = getattr(data, name)
            array.flat = derived[taken : taken + array.size]
            taken += array.size


def is_faithful(make: Callable[[], gymnasium.Env], steps: int = 5) -> bool:
    """Whether a fresh copy of a task goes on like the one whose state it was given.

    Tasks that keep their state in objects of other libraries, Box2D for example, do not.

    Args:
        make: a new copy of the task.
        steps: compared steps, after as many that lead away from the start.
    """
    with closing(make()) as env, closing(make()) as copy:
        box = env.action_space
        box.seed(0)
        env.reset(seed=0)
        copy.reset(seed=1)
        for _ in range(steps):
            env.step(box.sample())
        put_back(copy, take(env))
        for _ in range(steps):
            action = box.sample()
            one, other = env.step(action), copy.step(action)
            if not (np.array_equal(one[0], other[0]) and one[1:4] == other[1:4]):
                return False
        again, other_again = env.reset()[0], copy.reset()[0]
        return np.array_equal(again, other_again)


def _layers(env: gymnasium.Env) -> Iterator[gymnasium.Env]:
    while True:
        yield env
        if env is env.unwrapped:
            return
        env = env.env  # type: ignore[attr-defined]


def _is_mujoco(task: gymnasium.Env) -> bool:
    return isinstance(getattr(task, "data", None), mujoco.MjData)


def _derived(model: mujoco.MjModel) -> list[str]:
    """Names of the arrays whose size the model fixes; those of contacts are empty before a step."""
    fresh = mujoco.MjData(model)
    arrays = {name: getattr(fresh, name) for name in dir(fresh) if not name.startswith("_")}
    return sorted(
        name
        for name, array in arrays.items()
        if isinstance(array, np.ndarray) and array.dtype == np.float64 and array.size
    )


def _is_state(value: object) -> bool:
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in "biuf"
    if isinstance(value, deque):
        return all(map(_is_state, value))
    return value is None or isinstance(value, bool | int | float)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return torch.from_numpy(np.array(value))
    return list(map(_plain, value)) if isinstance(value, deque) else value


def _unplain(value: Any) -> Any:
    # An empty index makes a scalar of an array without dimensions and leaves others as they are.
    return value.cpu().numpy().copy()[()] if isinstance(value, torch.Tensor) else value
