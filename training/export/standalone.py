"""A trained policy that needs numpy, and policy.npz beside this file, and nothing else.

`policy(obs)` takes a raw observation `[D]` in the units of the plant, or rows of them `[N, D]`, and
gives the action `[A]` or `[N, A]` in the units of the plant, inside its box, as float32. An
observation that is not a number gives an action that is none either. manifest.json says which
columns these are. Where it has "chunk": N, an action holds those of N control steps, one after the
other: play all, then ask again. Where it has "history", an observation is a stack of the last ones
and of past actions, newest first: `Controller` keeps it, and is given what is seen now.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np


def policy(obs):
    """Decide.

    Raises:
        ValueError: the observation has another length than the policy was trained for.
    """
    layers = _layers()
    x = np.asarray(obs, np.float32)
    width = _width()
    if x.ndim not in (1, 2) or x.shape[-1] != width:
        raise ValueError(f"an observation has {width} numbers, got the shape {x.shape}")
    with np.errstate(over="ignore"):  # of exp and cubes, far out, where their limit is right
        for kind, arrays in layers:
            x = _LAYERS[kind](x, **arrays)
    return x


class Controller:
    """The policy of one plant, with the history of what was seen and done: ask it every step.

    Call `start` where the plant starts anew, and `took` after a step in which the plant did
    something else than it was told, a saturated valve or an operator, in its own units.
    """

    def __init__(self):
        self._obs, self._actions = _history()
        self._middle = next(arrays["middle"] for kind, arrays in _layers() if kind == "box")
        self.start()

    def start(self):
        """Forget what was seen and done."""
        self._seen, self._done = [], [self._middle] * self._actions
        self._last = None

    def took(self, action):
        """Correct the last action."""
        action = np.asarray(action, np.float32)
        if self._last is None or action.shape != self._last.shape:
            raise ValueError(f"expected the {len(self._middle)} numbers of an action just answered")
        self._last = action

    def __call__(self, newest):
        """The action `[A]` for what is seen now.

        Raises:
            ValueError: it has another length than what the policy sees in a step.
        """
        newest = np.asarray(newest, np.float32)
        width = _width() - len(self._middle) * self._actions
        if newest.shape != (width // self._obs,):
            raise ValueError(f"{width // self._obs} numbers are seen now, got {newest.shape}")
        if self._last is not None:
            self._done = [self._last, *self._done][: self._actions]
        self._seen = [newest, *(self._seen or [newest] * self._obs)][: self._obs]
        self._last = policy(np.concatenate([*self._seen, *self._done]))
        return self._last.copy()


@cache
def _stored():
    with np.load(Path(__file__).with_name("policy.npz"), allow_pickle=False) as file:
        return dict(file)


def _history():
    """Observations and past actions in one."""
    return tuple(int(each) for each in _stored().get("history", (1, 0)))


def _width():
    return next(len(arrays["weight"]) for kind, arrays in _layers() if kind == "linear")


@cache
def _layers():
    stored = {name: value for name, value in _stored().items() if name != "history"}
    layers = []
    for number, kind in enumerate(stored.pop("kinds").tolist()):
        start = f"{number}_"
        names = [name for name in stored if name.startswith(start)]
        layers.append((kind, {name.removeprefix(start): stored[name] for name in names}))
    return layers


def _layer_norm(x, scale, shift, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    variance = np.square(centred).mean(-1, keepdims=True)
    return scale * (centred / np.sqrt(variance + epsilon)) + shift


_LAYERS: dict[str, Callable] = {
    "standardise": lambda x, mean, scale: (x - mean) / scale,
    "linear": lambda x, weight, bias: x @ weight + bias,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x * x * x))),
    "leaky_relu": lambda x: np.where(x < 0, 0.01 * x, x),
    "symlog": lambda x: np.sign(x) * np.log1p(np.abs(x)),
    "round": np.rint,
    "layer_norm": _layer_norm,
    "box": lambda x, middle, half, low, high: np.clip(middle + half * x, low, high),
}
