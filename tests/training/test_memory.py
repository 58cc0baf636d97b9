"""Memory that is freed stays with the process."""

import os
import subprocess
import sys

import pytest

from reverie.training.memory import keep_freed_memory

FAULTS = """
import resource, torch
from reverie.training.memory import keep_freed_memory
print(keep_freed_memory())
for turn in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(40 * 2**20 // 4)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux")
def test_a_block_is_not_asked_for_twice():
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "LD_PRE", "GLIBC"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env=kept, capture_output=True, text=True, check=True
    )
    told, faults = done.stdout.split()
    assert told == "False" or int(faults) < 1000, "51,200 pages were asked for again"


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"])
def test_an_allocator_of_the_users_is_left_alone(monkeypatch, name):
    monkeypatch.setenv(name, "")
    assert not keep_freed_memory()
