"""`format=onnx`: a graph of standard operators, of a policy or of an ensemble of models.

Written with onnx's own helper rather than traced: the layers are known, and a trace would carry the
paths of this machine.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reverie.envs import extras
from reverie.training.export.controller import Controller, Measured, Step, measured
from reverie.training.files import write_atomically

OPSET, IR_VERSION = 18, 8
"""Of 2022, so that runtimes on machines which are seldom updated read it."""
FILE = "policy.onnx"


class Graph:
    """Nodes and weights of a graph that grows."""

    def __init__(self) -> None:
        self.onnx = extras.require("onnx", "export", "format=onnx")
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def constant(self, name: str, values: Any, dtype: type = np.float32) -> str:
        """A stored array."""
        array: np.ndarray = np.array(values, dtype, order="C")
        self.weights.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def add(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """A node of one output; returns the output's name."""
        output = name or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, [output], **attributes))
        return output

    def layers(self, steps: Sequence[Step], x: str) -> str:
        """Steps one after the other."""
        for number, step in enumerate(steps):
            arrays = {
                name: self.constant(f"{step.kind}{number}_{name}", values)
                for name, values in step.arrays.items()
                if values.ndim
            }
            x = _LAYERS[step.kind](self, x, step, arrays)
        return x

    def write(
        self,
        path: Path,
        inputs: dict[str, list[int | str]],
        outputs: dict[str, list[int | str]],
    ) -> None:
        """Check and write it; float32 inputs and outputs by name with their shapes."""
        helper = self.onnx.helper
        sides = [
            [
                helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, shape)
                for name, shape in side.items()
            ]
            for side in (inputs, outputs)
        ]
        model = helper.make_model(
            helper.make_graph(self.nodes, path.stem, *sides, self.weights),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="reverie",
        )
        self.onnx.checker.check_model(model, full_check=True)
        data = model.SerializeToString(deterministic=True)
        write_atomically(path, lambda file: _write(file, data))


def _write(file: Any, data: bytes) -> None:
    file.write(data)


def _linear(graph: Graph, x: str, step: Step, arrays: dict[str, str]) -> str:
    return graph.add("Add", graph.add("MatMul", x, arrays["weight"]), arrays["bias"])


def _layer_norm(graph: Graph, x: str, step: Step, arrays: dict[str, str]) -> str:
    epsilon, scale = float(step.arrays["epsilon"]), step.arrays["scale"]
    if scale.ndim == 1:
        inputs = (x, arrays["scale"], arrays["shift"])
        return graph.add("LayerNormalization", *inputs, axis=-1, epsilon=epsilon)
    # Of several members, which the operator does not know: with the scale of none, then theirs.
    one = graph.constant(f"norm{len(graph.nodes)}_one", np.ones_like(scale[0, 0]))
    normal = graph.add("LayerNormalization", x, one, axis=-1, epsilon=epsilon)
    return graph.add("Add", graph.add("Mul", normal, arrays["scale"]), arrays["shift"])


def _box(graph: Graph, x: str, step: Step, arrays: dict[str, str]) -> str:
    x = graph.add("Add", arrays["middle"], graph.add("Mul", arrays["half"], x))
    return graph.add("Min", graph.add("Max", x, arrays["low"]), arrays["high"])


def _gelu(graph: Graph, x: str, step: Step, arrays: dict[str, str]) -> str:
    """From its parts, for the operator is younger than `OPSET`."""
    number = len(graph.nodes)
    numbers = {"half": 0.5, "one": 1.0, "cubic": 0.044715, "slope": 0.7978845608}
    half, one, cubic, slope = (
        graph.constant(f"gelu{number}_{name}", value) for name, value in numbers.items()
    )
    cube = graph.add("Mul", cubic, graph.add("Mul", x, graph.add("Mul", x, x)))
    bent = graph.add("Tanh", graph.add("Mul", slope, graph.add("Add", x, cube)))
    return graph.add("Mul", graph.add("Mul", half, x), graph.add("Add", one, bent))


def _symlog(graph: Graph, x: str, step: Step, arrays: dict[str, str]) -> str:
    one = graph.constant(f"symlog{len(graph.nodes)}_one", 1.0)
    size = graph.add("Log", graph.add("Add", one, graph.add("Abs", x)))
    return graph.add("Mul", graph.add("Sign", x), size)


_LAYERS: dict[str, Callable[[Graph, str, Step, dict[str, str]], str]] = {
    "standardise": lambda graph, x, step, arrays: graph.add(
        "Div", graph.add("Sub", x, arrays["mean"]), arrays["scale"]
    ),
    "linear": _linear,
    "relu": lambda graph, x, step, arrays: graph.add("Relu", x),
    "silu": lambda graph, x, step, arrays: graph.add("Mul", x, graph.add("Sigmoid", x)),
    "tanh": lambda graph, x, step, arrays: graph.add("Tanh", x),
    "gelu": _gelu,
    "leaky_relu": lambda graph, x, step, arrays: graph.add("LeakyRelu", x, alpha=0.01),
    "symlog": _symlog,
    "round": lambda graph, x, step, arrays: graph.add("Round", x),
    "layer_norm": _layer_norm,
    "box": _box,
}


def export(controller: Controller, folder: Path, decisions: int) -> Measured:
    """Write policy.onnx, and ask onnxruntime."""
    graph = Graph()
    last = graph.layers(controller.steps, "obs")
    graph.add("Identity", last, name="action")
    spec = controller.spec
    graph.write(
        folder / FILE, {"obs": ["batch", spec.obs_dim]}, {"action": ["batch", spec.action_dim]}
    )
    run = session(folder / FILE)
    return measured(lambda obs: run(obs=obs)["action"], controller, decisions)


def session(path: Path) -> Callable[..., dict[str, np.ndarray]]:
    """A file as a function of its inputs, on one thread."""
    runtime = extras.require("onnxruntime", "export", "format=onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    opened = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in opened.get_outputs()]

    def run(**inputs: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, opened.run(None, inputs), strict=True))

    return run
