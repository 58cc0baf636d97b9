"""`format=torchscript`: one file that torch and libtorch load without any of our code."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from reverie.training.export.controller import Controller, Measured, Step, measured
from reverie.training.files import write_atomically

FILE = "policy.pt"
_LAYERS = {
    "standardise": "(x - self.{p}_mean) / self.{p}_scale",
    "linear": "torch.matmul(x, self.{p}_weight) + self.{p}_bias",
    "relu": "torch.relu(x)",
    "silu": "x * torch.sigmoid(x)",
    "tanh": "torch.tanh(x)",
    "gelu": "0.5 * x * (1.0 + torch.tanh(0.7978845608 * (x + 0.044715 * x * x * x)))",
    "leaky_relu": "torch.nn.functional.leaky_relu(x)",
    "symlog": "torch.sign(x) * torch.log1p(torch.abs(x))",
    "round": "torch.round(x)",
    "layer_norm": "torch.layer_norm(x, [{width}], self.{p}_scale, self.{p}_shift, {epsilon!r})",
    "box": "torch.minimum(torch.maximum(self.{p}_middle + self.{p}_half * x, self.{p}_low),"
    " self.{p}_high)",
}


def export(controller: Controller, folder: Path, decisions: int) -> Measured:
    """Write policy.pt, load it as anybody would, and ask it."""
    with _quietly():
        made = program(controller)
        write_atomically(folder / FILE, lambda file: torch.jit.save(made, file))
    return measured(load(folder / FILE), controller, decisions)


def load(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A file as a function of rows."""
    with _quietly():
        loaded = torch.jit.load(path)

    def act(obs: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return loaded(torch.from_numpy(obs)).numpy()

    return act


def program(controller: Controller) -> torch.jit.ScriptModule:
    """Steps as a program of their own: a trace would carry the paths of this machine.

    Rows of any leading shape.
    """

    arrays: dict[str, torch.Tensor] = {}
    lines = ["def forward(self, x):", "    # type: (Tensor) -> Tensor"]
    for number, step in enumerate(controller.steps):
        prefix = f"{step.kind}{number}"
        for name, value in step.arrays.items():
            arrays[f"{prefix}_{name}"] = torch.from_numpy(np.array(value))
        lines.append(f"    x = {_expression(step, prefix)}")
    lines += ["    return x", ""]

    # A class of its own: programs of one class whose weights are called alike share their code.
    class Policy(torch.jit.ScriptModule):
        __module__ = "exported"  # by which the file calls its code

        def __init__(self) -> None:
            super().__init__()
            for name, value in arrays.items():
                self.register_buffer(name, value)
            self.define("\n".join(lines))

    return Policy()


def _expression(step: Step, prefix: str) -> str:
    arrays = step.arrays
    norm = step.kind == "layer_norm"
    return _LAYERS[step.kind].format(
        p=prefix,
        width=len(arrays["scale"]) if norm else 0,
        epsilon=float(arrays["epsilon"]) if norm else 0.0,
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """torch advises its own users to another format, which C++ does not load as easily."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        yield
