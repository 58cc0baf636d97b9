"""The number of CPU cores for this process, and how many of them are idle."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

STATISTICS = Path("/proc/stat")
"""Where Linux counts what each core did."""
SAMPLE_SECONDS = 0.2
"""How long the load is watched: some twenty turns of the kernel's clock."""

Ticks = Mapping[int, tuple[int, int]]
"""Idle ticks and all ticks so far, by core."""


def count_cores() -> int:
    """Cores that this process may use: by its CPU affinity and the quota of its container."""
    from joblib import cpu_count  # on demand: it knows the quotas, and takes a while to load

    return cpu_count()


def count_free_cores() -> int:
    """Those of `count_cores` that no other process keeps busy at present, at least one.

    Watches the cores for `SAMPLE_SECONDS`, in which this process does nothing. All, where the
    system does not tell.
    """
    cores = count_cores()
    if not STATISTICS.is_file() or not hasattr(os, "sched_getaffinity"):
        return cores
    before = _ticks()
    time.sleep(SAMPLE_SECONDS)
    return max(1, cores - round(busy_cores(before, _ticks())))


def busy_cores(before: Ticks, after: Ticks) -> float:
    """How many cores' worth of work was done between two looks."""
    busy = 0.0
    for core, (idle, total) in after.items():
        idle_before, total_before = before.get(core, (idle, total))
        if total > total_before:
            busy += 1 - (idle - idle_before) / (total - total_before)
    return busy


def _ticks() -> Ticks:
    """Of the cores of this process's affinity."""
    found = {}
    for line in STATISTICS.read_text().splitlines():
        name, *ticks = line.split()
        if name.startswith("cpu") and name[3:].isdigit():
            numbers = [int(each) for each in ticks[:8]]  # guests are counted as user already
            found[int(name[3:])] = (sum(numbers[3:5]), sum(numbers))  # idle, waiting for a disk
    mine = os.sched_getaffinity(0)
    return {core: ticks for core, ticks in found.items() if core in mine}


def threads_of_user() -> int | None:
    """What `OMP_NUM_THREADS` asks for, None where it is not set."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return max(1, int(first)) if first.isdigit() else None
