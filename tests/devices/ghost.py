"""A device that does not exist, for machines without a GPU.

Tensors on `ghost` keep their numbers on the host and let nobody see them: whatever mixes them with
tensors of the host fails as it would on a GPU. What is marked as `unwatched` may read and copy
values, as fits and logs do now and then; what is `watched` runs thousands of times a second and
may not: every read is a wait for the GPU, and none of it can be part of a CUDA graph.

Registers a backend for the whole process, so tests leave it to a process of its own. The call that
does so is experimental in torch and may be absent: `AVAILABLE`.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

NAME = "ghost"
AVAILABLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


class Fault(AssertionError):
    """Something that a GPU would refuse, or wait for."""


class _Module(backend_registration._DummyBackendModule if AVAILABLE else object):  # type: ignore[misc]
    """What torch looks for in `torch.ghost`."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def register() -> None:
    """Make `torch.device("ghost")` known, in this process and for good."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    # As on a GPU, a parameter that moves is still the one that its optimiser holds.
    torch.__future__.set_swap_module_params_on_conversion(True)


class GhostTensor(torch.Tensor):
    """A tensor on the ghost; `host` holds its numbers."""

    host: torch.Tensor

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> "GhostTensor":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=torch.device(NAME, 0),
        )
        made.host = host
        return made

    def __init__(self, host: torch.Tensor) -> None:
        pass

    def tolist(self) -> Any:  # torch's own knows no subclasses
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError("a tensor outlived its Ghost")


class Ghost(TorchDispatchMode):
    """Carries operations out for the ghost, as a context.

    Attributes:
        watching: whether reads and copies between host and device are faults.
        operations: how many ran while watching.
    """

    def __init__(self) -> None:
        super().__init__()
        self.watching = False
        self.operations = 0

    def __enter__(self) -> "Ghost":
        # Else torch.tensor(..., device="ghost") would go past every mode, to a kernel there is not.
        self.lifting = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch._C._set_only_lift_cpu_tensors(self.lifting)
        super().__exit__(*error)

    @contextmanager
    def watched(self, watching: bool = True) -> Iterator[None]:
        before, self.watching = self.watching, watching
        try:
            yield
        finally:
            self.watching = before

    def watch(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, watched at every call."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.watched():
                return function(*args, **kwargs)

        return call

    def watch_later(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, watched from its second call on: the first may prepare what others use."""
        calls = 0

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            with self.watched(calls > 1):
                return function(*args, **kwargs)

        return call

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves: list[torch.Tensor] = []
        on_host = [_on_host(each, leaves) for each in args]
        named = {key: _on_host(each, leaves) for key, each in kwargs.items()}
        ghosts = [x for x in leaves if isinstance(x, GhostTensor)]
        name = function.overloadpacket.__name__
        asked = kwargs.get("device")
        there = bool(ghosts) if asked is None else torch.device(asked).type == NAME
        moves = name == "copy_" or (name == "_to_copy" and asked is not None)
        _refuse_mixtures(name, leaves, ghosts, moves)
        if self.watching:
            self.operations += 1
            _refuse_waits(function, name, args, leaves, ghosts, there, moves)
        if asked is not None:
            named["device"] = torch.device("cpu")
        result = function(*on_host, **named)
        if name == "_to_copy" and result is getattr(args[0], "host", args[0]):
            result = result.clone()  # the host has only one place for both
        if not there or name == "_local_scalar_dense":
            return args[0] if name == "copy_" else result
        made = _on_ghost(result)
        return return_and_correct_aliasing(function, args, kwargs, made) if ghosts else made


def _on_host(value: Any, leaves: list[torch.Tensor]) -> Any:
    """An argument with tensors of the host in it; what was there is added to `leaves`."""
    if isinstance(value, torch.Tensor):
        leaves.append(value)
        return value.host if isinstance(value, GhostTensor) else value
    if isinstance(value, list | tuple):
        return [_on_host(each, leaves) for each in value]
    return value


def _on_ghost(result: Any) -> Any:
    if isinstance(result, torch.Tensor):
        return GhostTensor(result)
    if isinstance(result, list | tuple):
        return type(result)(_on_ghost(each) for each in result)
    return result


def _refuse_mixtures(
    name: str, leaves: list[torch.Tensor], ghosts: list[GhostTensor], moves: bool
) -> None:
    """What a GPU raises an error for."""
    if moves or not ghosts or (name in _INDEXING and isinstance(leaves[0], GhostTensor)):
        return
    for each in leaves:
        if each.ndim and not isinstance(each, GhostTensor):
            raise Fault(f"{name} mixes a tensor of the host, {_of(each)}, with the device's")


def _refuse_waits(
    function: Any,
    name: str,
    args: tuple,
    leaves: list[torch.Tensor],
    ghosts: list[GhostTensor],
    there: bool,
    moves: bool,
) -> None:
    """What a GPU waits for, or what no CUDA graph can hold."""
    if moves:
        if name == "copy_":
            there, crosses = isinstance(args[0], GhostTensor), len(ghosts) == 1
        else:
            crosses = isinstance(args[0], GhostTensor) != there
        if crosses:
            way = "to the device" if there else "to the host"
            raise Fault(f"{name} copies {_of(leaves[-1])} {way}")
        return
    if not ghosts:
        return
    for each in leaves:
        if not isinstance(each, GhostTensor):
            raise Fault(f"{name} reads a constant of the host, {_of(each)}")
    if name in _INDEXING:
        mask = any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
        fills = name != "index" and len(args) > 2 and args[2].numel() == 1
        if mask and not fills:
            raise Fault(f"{name} by a mask has a shape that only the values tell")
    elif torch.Tag.dynamic_output_shape in function.tags:
        raise Fault(f"{name} has a shape that only the values tell")
    elif torch.Tag.data_dependent_output in function.tags or name == "_linalg_check_errors":
        raise Fault(f"{name} reads a value on the host")


def _of(tensor: torch.Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
