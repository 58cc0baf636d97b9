"""Data-parallel fits: several processes share every batch and take the same steps.

Data-parallel training by torch's DistributedDataParallel, arXiv:2006.15704.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from reverie.mistake import Mistake


class Alone:
    """A fit in one process; also the interface of a shared one."""

    def begin(self, batch: int) -> None:
        """Start a fit with batches of so many records.

        Raises:
            Mistake: they cannot be shared out evenly.
        """

    def same(self, state: dict[str, Any] | None, device: torch.device) -> dict[str, Any] | None:
        """The state that all processes go on from, None to start; only the first one has it."""
        return state

    def part(self, column: Tensor) -> Tensor:
        """Of a column `[B, ...]` that is the same in all processes, the rows of this one."""
        return column

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network as it is called in training."""
        return network

    def gradients(self, loss: Tensor, targets: Sequence[nn.Parameter]) -> Sequence[Tensor]:
        """Of the mean of `loss` over all processes."""
        return torch.autograd.grad(loss, targets)

    def mean(self, value: Tensor) -> Tensor:
        """Of the values that the processes have."""
        return value


class Shared(Alone):
    """A fit in all processes of torch's process group.

    Every process samples the whole batch from the same random stream and uses its own part of it,
    so the fit equals that of one process up to rounding and can be resumed with any number of them.
    The first process decides whether to fit, and only it reads and writes files.
    """

    def __init__(self) -> None:
        self.rank = torch.distributed.get_rank()
        self.processes = torch.distributed.get_world_size()
        self.rows = slice(None)

    def begin(self, batch: int) -> None:
        if batch % self.processes:
            raise Mistake(
                f"generator.batch={batch} cannot be shared by {self.processes} processes; make it "
                "a multiple of their number"
            )
        own = batch // self.processes
        self.rows = slice(self.rank * own, (self.rank + 1) * own)
        if self.rank == 0:
            self.tell(True)

    def tell(self, fit: bool) -> None:
        """Call the other processes to a fit, or let them go."""
        with telling_of_lost_processes():
            torch.distributed.broadcast_object_list([fit], src=0)

    def is_called(self) -> bool:
        """Wait for what the first process tells."""
        told = [False]
        with telling_of_lost_processes():
            torch.distributed.broadcast_object_list(told, src=0)
        return told[0]

    def gather(self, mine: Any) -> list[Any]:
        """What every process has."""
        found = [None] * self.processes
        with telling_of_lost_processes():
            torch.distributed.all_gather_object(found, mine)
        return found

    def same(self, state: dict[str, Any] | None, device: torch.device) -> dict[str, Any] | None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        given = [buffer.getvalue()]
        with telling_of_lost_processes():
            torch.distributed.broadcast_object_list(given, src=0)
        return torch.load(io.BytesIO(given[0]), map_location=device, weights_only=True)

    def part(self, column: Tensor) -> Tensor:
        return column[self.rows]

    def wrap(self, network: nn.Module) -> nn.Module:
        device = next(network.parameters()).device
        with telling_of_lost_processes():
            return DistributedDataParallel(
                network, device_ids=[device] if device.type == "cuda" else None
            )

    def gradients(self, loss: Tensor, targets: Sequence[nn.Parameter]) -> Sequence[Tensor]:
        # Its hooks are where gradients are added up in parameters, which autograd.grad passes by.
        with telling_of_lost_processes():
            loss.backward()
        gradients = [target.grad for target in targets]
        for target in targets:
            target.grad = None
        return gradients  # type: ignore[return-value]

    def mean(self, value: Tensor) -> Tensor:
        total = value.clone()
        with telling_of_lost_processes():
            torch.distributed.all_reduce(total)
        return total / self.processes


@contextmanager
def telling_of_lost_processes() -> Iterator[None]:
    """Turn what a backend says of a process that is gone into one line.

    Raises:
        Mistake: another process ended.
    """
    try:
        yield
    except RuntimeError as error:
        # gloo has no class of errors of its own.
        if isinstance(error, torch.distributed.DistError) or "gloo" in str(error):
            raise Mistake(
                "another process of this fit has ended, see what it said; the same command goes "
                "on from the last checkpoint of the fit"
            ) from error
        raise
