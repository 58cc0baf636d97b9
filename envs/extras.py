"""Optional packages: imported when needed, with a one-line error if they are missing."""

import importlib
import shlex
from typing import Any

from reverie.mistake import Mistake

EXTRAS = {
    "minari": ("minari[hdf5,hf]>=0.5.4", "pillow"),
    "wandb": ("wandb>=0.19",),
    "tensorboard": ("tensorboard>=2.18",),
    "tables": ("pyarrow>=18",),
    "sindy": ("pysindy>=2.1", "scipy>=1.14", "threadpoolctl>=3.5"),
    "ode": ("torchdiffeq>=0.2.4", "scipy>=1.14"),
    "video": ("imageio[pyav]>=2.36", "pygame>=2.6"),
    "robotics": ("gymnasium-robotics>=1.4",),
    "tune": ("optuna>=4.2",),
    "submitit": ("hydra-submitit-launcher>=1.2",),
    "export": ("onnx>=1.18", "onnxruntime>=1.22"),
    "ray": ("ray>=2.40",),
}
"""Requirements by the name of the extra, as in pyproject.toml; `reverie[name]` brings them."""


def require(module: str, extra: str, wanted_by: str) -> Any:
    """Import a module that an extra brings.

    Args:
        module: full name.
        extra: of `EXTRAS`.
        wanted_by: what the user chose, such as `logger=wandb`.

    Raises:
        Mistake: it is not installed; says what is missing and how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = str(error.name or module).split(".")[0]
        raise Mistake(
            f"{wanted_by} needs the package {missing}, which is not installed; {remedy(extra)}"
        ) from error


def remedy(extra: str) -> str:
    """The command that installs an extra, into a checkout's environment too."""
    return f"pip install {shlex.join(EXTRAS[extra])} (the extra {extra} of reverie)"
