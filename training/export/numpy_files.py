"""`format=numpy`: one Python file and its weights."""

import shutil
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
    np.savez(folder / "policy.npz", kinds=kinds, **arrays)
    return measured(load(folder / "policy.py"), controller, decisions)


def load(path: Path, function: str = "policy") -> Any:
    """A function of a file that was just written here; an import would leave its cache beside."""
    names: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    exec(compile(path.read_text(), str(path), "exec"), names)
    return names[function]
