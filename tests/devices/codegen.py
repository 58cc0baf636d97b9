"""What a GPU would run, made without one: `python -m tests.devices.codegen`.

Traces the updates, rollout rounds and training steps of every composition on the CPU, hands the
graphs to torch's compiler as if they lay on a GPU, and has the Triton kernels that come of it
assembled for its architecture. Needs torch's CUDA build (PyPI's wheel, with Triton and ptxas
inside), and no driver. Nothing is carried out: this finds operations that the compiler cannot
lower and kernels that do not assemble, not wrong numbers.

It reaches deep into one version of torch; another may need other stand-ins, so it is no test.
"""

import argparse
import hashlib
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any
from unittest import mock

CACHE = mkdtemp(prefix="codegen-")  # of this process, so that every kernel is made anew
os.environ |= {
    "TORCHINDUCTOR_CACHE_DIR": f"{CACHE}/inductor",
    "TRITON_CACHE_DIR": f"{CACHE}/triton",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}

import torch  # noqa: E402
from torch._guards import TracingContext, tracing  # noqa: E402
from torch._inductor import config as inductor  # noqa: E402
from torch._inductor.compile_fx import compile_fx_inner  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.fx import GraphModule  # noqa: E402
from torch.fx.passes.fake_tensor_prop import FakeTensorProp  # noqa: E402

from reverie.benchmarks.speed.hardware import describe  # noqa: E402
from reverie.training.files import write_json  # noqa: E402
from tests.devices.graphs import traced  # noqa: E402
from tests.devices.rehearsal import names, typed_for  # noqa: E402

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def moved(graph: GraphModule, inputs: list[Any]) -> tuple[list[Any], FakeTensorMode]:
    """The graph on a GPU, in place, and inputs that only have shapes there."""
    cuda = torch.device("cuda", 0)
    for node in graph.graph.nodes:
        if node.kwargs.get("device") is not None:
            node.kwargs = {**node.kwargs, "device": cuda}
    graph.recompile()
    mode = FakeTensorMode()
    with mode:
        fakes = [
            torch.empty_strided(each.shape, each.stride(), dtype=each.dtype, device=cuda)
            if isinstance(each, torch.Tensor)
            else each
            for each in inputs
        ]
        FakeTensorProp(graph, mode).propagate_dont_convert_inputs(*fakes)
    return fakes, mode


def assemble(graph: GraphModule, inputs: list[Any]) -> dict[str, int]:
    """Lower one graph and assemble its kernels; counts of both, and bytes of machine code."""
    before = set(Path(CACHE).rglob("*.cubin"))
    kernels = len(KERNELS)
    fakes, mode = moved(graph, inputs)
    plain = {"triton.cudagraphs": False, "fx_graph_cache": False, "compile_threads": 1}
    with tracing(TracingContext(mode)), inductor.patch(plain):
        compile_fx_inner(graph, fakes)
    made = set(Path(CACHE).rglob("*.cubin")) - before
    return {
        "nodes": len(graph.graph.nodes),
        "kernels": len(KERNELS) - kernels,
        "binaries": len(made),
        "bytes": sum(path.stat().st_size for path in made),
    }


KERNELS: list[str] = []


@contextmanager
def pretended(capability: int) -> Iterator[None]:
    """A GPU of this compute capability (90: H100, H200) for whoever asks about one."""
    import triton
    from torch._dynamo import device_interface
    from torch._inductor.runtime import hints, triton_helpers, triton_heuristics
    from torch.utils._triton import has_triton
    from triton.backends.compiler import GPUTarget

    major, minor = divmod(capability, 10)
    facts = {
        **{"multi_processor_count": 132, "warp_size": 32, "max_threads_per_block": 1024},
        **{"regs_per_multiprocessor": 65536, "max_threads_per_multi_processor": 2048},
        **{"major": major, "minor": minor},
    }
    properties = SimpleNamespace(
        **facts,
        **{"name": "none", "total_memory": 80 << 30, "L2_cache_size": 50 << 20},
        **{"shared_memory_per_block": 49152, "shared_memory_per_block_optin": 232448},
        gcnArchName="",
    )
    known = {key: value for key, value in facts.items() if key != "minor"}
    hint = hints.DeviceProperties(type="cuda", index=0, cc=capability, **known)
    target = GPUTarget("cuda", capability, 32)
    triton.runtime.driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: target,
            get_current_device=lambda: 0,
            set_current_device=lambda number: None,
            get_current_stream=lambda number=0: 0,
            get_device_interface=lambda: torch.cuda,
            get_active_torch_device=lambda: torch.device("cuda", 0),
            get_benchmarker=lambda: lambda *_, **__: [1.0],
            map_python_to_cpp_type=lambda name: name,
            binary_ext="cubin",
            launcher_cls=None,
            utils=None,
        )
    )
    precompile = triton_heuristics.CachingAutotuner._precompile_worker

    def counted(tuner: Any) -> None:
        precompile(tuner)
        KERNELS.append(getattr(tuner.fn, "__name__", "kernel"))

    interface, worker = device_interface.CudaInterface, device_interface.CudaInterface.Worker
    stand_ins: list[tuple[Any, str, Any]] = [
        (hints.DeviceProperties, "create", classmethod(lambda cls, device: hint)),
        (torch.cuda, "get_device_properties", lambda *_: properties),
        (torch.cuda, "get_device_capability", lambda *_: (major, minor)),
        (torch.cuda, "current_device", lambda: 0),
        (torch.cuda, "device_count", lambda: 1),
        (torch.cuda, "synchronize", lambda *_: None),
        (triton_helpers, "set_driver_to_gpu", lambda: None),
        (triton_heuristics.CachingAutotuner, "_precompile_worker", counted),
        (triton_heuristics.CachingAutotuner, "_make_launchers", lambda tuner: None),
        (interface, "get_device_properties", staticmethod(lambda *_: properties)),
        (interface, "current_device", staticmethod(lambda: 0)),
        (interface, "get_compute_capability", staticmethod(lambda *_: capability)),
        (interface, "is_available", staticmethod(lambda: True)),
        (worker, "get_device_properties", staticmethod(lambda *_: properties)),
        (worker, "current_device", staticmethod(lambda: 0)),
    ]
    patches = [mock.patch.object(*each) for each in stand_ins]
    for patch in patches:
        patch.start()
    has_triton.cache_clear()  # tracing on the CPU has asked before
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def measure(name: str, capability: int, seen: set[str]) -> Iterator[dict[str, Any]]:
    """A line of results for every graph of a composition that no other had before."""
    for function, graph, inputs in traced(typed_for(name), wide=True):
        shapes = [tuple(each.shape) for each in inputs if isinstance(each, torch.Tensor)]
        code = hashlib.sha256(f"{graph.code}{shapes}".encode()).hexdigest()[:16]
        if code in seen:
            continue
        seen.add(code)
        begun = time.monotonic()
        try:
            with pretended(capability):
                found: dict[str, Any] = assemble(graph, inputs)
            said = "{nodes} operations, {kernels} kernels, {binaries} binaries of {bytes:,} bytes"
            measured, holds = said.format(**found), True
        except Exception as error:
            found, holds = {}, False
            measured = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            traceback.print_exc()
        yield {
            "text": f"{name}: {function}",
            "expected": f"assembled for sm_{capability}",
            "measured": measured,
            "holds": holds,
            "source": "ours",
            **{"composition": name, "code": code, **found},
            "seconds": round(time.monotonic() - begun, 1),
        }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.devices.codegen", description=__doc__)
    parser.add_argument("names", nargs="*", help="compositions; none = all that have no row yet")
    parser.add_argument("--capability", type=int, default=90, help="90 = H100, H200; 80 = A100")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no other after so many")
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu_codegen.json")
    asked = parser.parse_args()
    report: dict[str, Any] = {"claims": [], "done": []}
    if asked.output.is_file():
        report = json.loads(asked.output.read_text())
    begun = time.monotonic()
    for name in asked.names or [each for each in names() if each not in report["done"]]:
        if time.monotonic() - begun > asked.seconds:
            break
        report["claims"] = [row for row in report["claims"] if row["composition"] != name]
        for row in measure(name, asked.capability, {each["code"] for each in report["claims"]}):
            report["claims"].append(row)
            print(f"{row['text']}: {row['measured']}, {row['seconds']} s", flush=True)
        report |= {
            "benchmark": "gpu_codegen",
            "date": date.today().isoformat(),
            "quick": False,
            "hardware": describe(torch.device("cpu")),
            "architecture": f"sm_{asked.capability}",
            "done": [*(each for each in report["done"] if each != name), name],
        }
        write_json(asked.output, report)
    return 0 if all(row["holds"] for row in report["claims"]) else 1


if __name__ == "__main__":
    sys.exit(main())
