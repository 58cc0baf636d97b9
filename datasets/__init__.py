"""Recorded experience: readers, checks, and the replay layer that feeds every agent."""

from reverie.datasets.importers import (
    from_d3rlpy,
    from_imitation,
    from_padded,
)
from reverie.datasets.options import load
from reverie.datasets.ring_buffers import from_cleanrl, from_sb3
from reverie.datasets.transforms import chunk, hide, hide_actions, stack, with_copies

__all__ = [
    "chunk",
    "from_cleanrl",
    "from_d3rlpy",
    "from_imitation",
    "from_padded",
    "from_sb3",
    "hide",
    "hide_actions",
    "load",
    "stack",
    "with_copies",
]
