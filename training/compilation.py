"""The device of a run, and one switch that compiles functions of fixed shapes."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from reverie.mistake import Mistake

Result = TypeVar("Result")
log = logging.getLogger(__name__)

REPAID = 20_000
"""Updates of a run that repay compilation on a CPU.

It takes 10 to 40 CPU seconds the first time, of which 4,000 to 10,000 updates of one agent with the
usual networks win back as much, whichever agent it is. A number of updates and no timing: the same
run must come to the same decision however busy the machine is.
"""


def pick_device(choice: str) -> torch.device:
    """Resolve `device=auto` and refuse a GPU that is not there."""
    if choice == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(choice)
    except RuntimeError as error:
        raise Mistake(f"device={choice} is unknown; use auto, cpu, cuda or cuda:1") from error
    if device.type == "cuda":
        found = torch.cuda.device_count()
        if not torch.cuda.is_available():
            raise Mistake(f"device={choice}, but torch sees no CUDA device; use device=cpu")
        if device.index is not None and device.index >= found:
            raise Mistake(f"device={choice}, but the last of {found} is cuda:{found - 1}; use it")
    elif device.type != "cpu":
        try:
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError) as error:  # meta, or a device that torch lacks
            raise Mistake(f"device={choice} cannot compute here; use auto, cpu or cuda") from error
    return device


def should_compile(choice: str | bool, device: torch.device) -> bool:
    """Resolve `compile=auto|true|false` where no length of a run is known: on a GPU only."""
    if choice not in ("auto", True, False):
        raise Mistake(f"compile={choice!r} is unknown; use auto, true or false")
    return device.type == "cuda" if choice == "auto" else bool(choice)


def decided(choice: str | bool, device: torch.device) -> bool | None:
    """What the settings say about compilation; None where the length of the run decides."""
    known = should_compile(choice, device)
    return None if choice == "auto" and device.type == "cpu" else known


def repays(updates: int) -> bool:
    """Whether a run of so many updates on a CPU is compiled, if there is a C++ compiler."""
    return updates >= REPAID and can_compile()


def can_compile() -> bool:
    """Whether there is a C++ compiler, which a CPU takes."""
    chosen = os.environ.get("CXX")
    return any(shutil.which(name) for name in ([chosen] if chosen else ["g++", "clang++"]))


def keep_compiled(cache: Path) -> None:
    """Let later runs read what this process compiles: seconds in the place of half a minute.

    Torch's own choice, a temporary folder, is gone after the next start of the machine. Where the
    user has chosen a folder, that one is kept.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache.resolve() / "compiled"))


def wrapper(choice: str | bool, device: torch.device) -> Callable[..., Any]:
    """What functions of fixed shapes are passed through: the compiler, or nothing."""
    if not should_compile(choice, device):
        return lambda function: function
    return lambda function: compile_whole(function, device)


def compile_whole(function: Callable[..., Result], device: torch.device) -> Callable[..., Result]:
    """Compile a whole function into one graph; fall back to it as it is, with one warning.

    Random numbers are drawn by the same kernels as without compilation, so both variants follow
    the same random stream and agree up to rounding. On a GPU the graph is replayed as a CUDA
    graph; results must be used before the next call overwrites them.
    """
    torch._inductor.config.fallback_random = True
    # Lets torch.autograd.grad inside the function become part of the graph. A torch without the
    # switch refuses to compile such a function, and the fallback below takes over.
    if hasattr(torch._dynamo.config, "trace_autograd_ops"):
        torch._dynamo.config.trace_autograd_ops = True
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    candidate = torch.compile(function, mode=mode, fullgraph=True, dynamic=False)
    active: Callable[..., Any] = candidate
    proven = False

    def call(*arguments: Any) -> Result:
        nonlocal active, proven
        if active is function:
            return function(*arguments)
        if device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        if proven:
            return active(*arguments)
        try:
            result = active(*arguments)
        except Exception as error:
            # The compiler fails in many ways (no C++ compiler, an operation it does not know);
            # it does so before anything ran, so the plain function can simply take over.
            reason = str(error).strip().splitlines()
            log.warning(
                "compilation failed, going on without it (%s: %s); compile=false silences this",
                type(error).__name__,
                reason[0] if reason else "no message",
            )
            active = function
            return function(*arguments)
        proven = True
        return result

    return call
