"""`format=numpy`: one Python file and its weights."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reverie.training.export import standalone
from reverie.training.export.controller import Controller, Measured, measured


def export(controller: Controller, folder: Path, decisions: int) -> Measured:
    """Write policy.py and policy.npz, and ask them."""
    assert standalone.__file__ is not None
    shutil.copyfile(standalone.__file__, folder / "policy.py")
    arrays: dict[str, Any] = {
        f"{number}_{name}": value
        for number, step in enumerate(controller.steps)
        for name, value in step.arrays.items()
    }
    # Text of a fixed width, which is stored without pickle.
    kinds = np.array([step.kind for step in controller.steps], np.str_)
    spec = controller.spec
    if spec.has_history:
        arrays["history"] = np.array([spec.stacked_obs, spec.stacked_actions])
    np.savez(folder / "policy.npz", kinds=kinds, **arrays)
    path = folder / "policy.py"
    follow = partial(_follow, load(path, "Controller")) if spec.has_history else None
    return measured(load(path), controller, decisions, follow)


def _follow(keeper: Any, frames: np.ndarray) -> np.ndarray:
    """Actions of an episode, by what keeps the history itself."""
    decide = keeper()
    return np.array([decide(frame) for frame in frames])


def load(path: Path, function: str = "policy") -> Any:
    """A function of a file that was just written here; an import would leave its cache beside."""
    names: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    exec(compile(path.read_text(), str(path), "exec"), names)
    return names[function]
