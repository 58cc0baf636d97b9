"""What a measurement ran on, and how fast that multiplies matrices."""

import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor


def describe(device: torch.device) -> dict[str, Any]:
    """Processor, threads, GPU and versions, as plain values."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": device.type,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "numpy": numpy.__version__,
            "system": platform.system(),
        },
    }


def cpu_name() -> str:
    """The processor's model as the system calls it."""
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", facts.read_text(), re.MULTILINE)
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()


def slug(name: str) -> str:
    """A device's name as a part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def square_product(size: int, device: torch.device) -> tuple[Callable[[], Tensor], int]:
    """A float32 product of two square matrices, and its floating-point operations."""
    left, right = (torch.randn(size, size, device=device) for _ in range(2))
    out = torch.empty_like(left)
    return lambda: torch.matmul(left, right, out=out), 2 * size**3
