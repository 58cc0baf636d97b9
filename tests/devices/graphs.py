"""Graphs of what a run compiles, and what a GPU would wait for in them.

`python -m tests.devices.graphs [NAME ...]` traces the compositions named, or all of them, and
prints a line of JSON for each.
"""

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.decomposition import select_decomp_table
from torch.fx import GraphModule

from tests.devices.rehearsal import finished, names, rehearse, typed_for

Graph = tuple[str, GraphModule, list[Any]]
"""Name of the function, its graph of low-level operations, example inputs."""


def traced(typed: tuple[str, ...], wide: bool = False) -> list[Graph]:
    """The graphs of what a small run passes through the compiler; each function must be whole."""
    found: list[Graph] = []

    def compile_named(function: Callable[..., Any]) -> Callable[..., Any]:
        def keep(graph: GraphModule, inputs: list[Any]) -> Callable[..., Any]:
            found.append((function.__qualname__.replace(".<locals>", ""), graph, inputs))
            return graph.forward

        backend = aot_autograd(fw_compiler=keep, decompositions=select_decomp_table())
        return torch.compile(function, backend=backend, fullgraph=True, dynamic=False)

    # As training.compilation sets them.
    torch._dynamo.config.trace_autograd_ops = True
    torch._inductor.config.fallback_random = True
    torch._dynamo.reset()
    with rehearse(*typed, wide=wide) as run:
        run.compile = compile_named
        finished(run)
    return found


def waits(graph: GraphModule) -> Iterator[str]:
    """Operations that read a value, have a shape that only values tell, or copy from the host."""
    for node in graph.graph.nodes:
        if node.op == "get_attr" and isinstance(getattr(graph, node.target, None), torch.Tensor):
            yield f"{node.target}, a constant of the host"
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        tags, name = node.target.tags, node.target.overloadpacket.__name__
        if torch.Tag.data_dependent_output in tags or name in ("_linalg_check_errors", "item"):
            yield f"{name} reads a value"
        elif name in ("index", "index_put", "index_put_"):
            masks = (each.meta["val"].dtype for each in node.args[1] if each is not None)
            if torch.bool in masks and (name == "index" or node.args[2].meta["val"].numel() > 1):
                yield f"{name} by a mask"
        elif torch.Tag.dynamic_output_shape in tags:
            yield f"{name} has a shape that only values tell"
        elif node.kwargs.get("device") is not None and name in ("_to_copy", "device_put"):
            yield f"{name} to {node.kwargs['device']}"


def main() -> None:
    for name in sys.argv[1:] or names():
        graphs = traced(typed_for(name))
        faults = [f"{key}: {fault}" for key, graph, _ in graphs for fault in waits(graph)]
        print(json.dumps({"name": name, "graphs": len(graphs), "faults": faults}), flush=True)


if __name__ == "__main__":
    main()
