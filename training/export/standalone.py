"""A trained policy that needs numpy, and policy.npz beside this file, and nothing else.

`policy(obs)` takes a raw observation `[D]` in the units of the plant, or rows of them `[N, D]`, and
gives the action `[A]` or `[N, A]` in the units of the plant, inside its box, as float32. An
observation that is not a number gives an action that is none either. manifest.json says which
columns these are. Where it has "chunk": N, an action holds those of N control steps, one after the
other: play all, then ask again.
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
    width = next(len(a["weight"]) for kind, a in layers if kind == "linear")
    if x.ndim not in (1, 2) or x.shape[-1] != width:
        raise ValueError(f"an observation has {width} numbers, got the shape {x.shape}")
    with np.errstate(over="ignore"):  # of exp and cubes, far out, where their limit is right
        for kind, arrays in layers:
            x = _LAYERS[kind](x, **arrays)
    return x


@cache
def _layers():
    with np.load(Path(__file__).with_name("policy.npz"), allow_pickle=False) as file:
        stored = dict(file)
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
    "symlog": lambda x: np.sign(x) * np.log1p(np.abs(x)),
    "layer_norm": _layer_norm,
    "box": lambda x, middle, half, low, high: np.clip(middle + half * x, low, high),
}
