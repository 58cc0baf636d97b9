"""`format=numpy`: one Python file and its weights."""

import shutil
from importlib.util import module_from_spec, spec_from_file_location
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
    """A function of a file that was just written here."""
    found = spec_from_file_location("exported_policy", path)
    assert found is not None and found.loader is not None
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return getattr(module, function)
