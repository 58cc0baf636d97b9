"""How many processor cores there are for this process."""

import os


def count_cores() -> int:
    """Cores that this process may use, by its CPU affinity; where systems have none, all cores."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
