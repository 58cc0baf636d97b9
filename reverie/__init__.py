"""Reverie: model-based offline reinforcement learning.

Everything is imported by this one name: `reverie.agents`, `reverie.datasets` and so on. In a
checkout these folders lie beside this one, in an installed package inside it.

    data = reverie.datasets.load("builtin/pendulum-mixed")
    run = reverie.make("algorithm=td3_bc", dataset=data, updates=2000)
    results = run.train()
    reverie.load("runs/mopo/pendulum-mixed/0").policy(obs)
"""

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie.training.launch.make import build, make
    from reverie.training.launch.restore import load_run as load

# Before torch loads OpenMP, which reads it then: by default a thread that waits for another spins
# for milliseconds, and where other processes want its core, it takes the time that the other one
# needs. GNU's, which Linux has, shall look a thousand times before it sleeps: most waits between
# small operations are shorter than waking up. docs/reference/speed.md has the measurements.
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
if not any(name in os.environ for name in _WAITING):
    os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}

_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "train.py").is_file() and (_checkout / "conf" / "train.yaml").is_file():
    __path__.append(str(_checkout))

# Found when they are asked for: torch takes seconds to load.
_DOOR = {
    "make": ("training.launch.make", "make"),
    "build": ("training.launch.make", "build"),
    "load": ("training.launch.restore", "load_run"),
}
_PACKAGES = ("agents", "datasets", "envs", "training", "world_models")

__all__ = ["build", "load", "make"]


def __getattr__(name: str) -> Any:
    if name in _DOOR:
        module, function = _DOOR[name]
        return getattr(import_module(f"{__name__}.{module}"), function)
    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *_PACKAGES])
