"""One random stream for a run, and its state for checkpoints."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from reverie.mistake import Mistake


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (every device).

    Raises:
        Mistake: torch does not take such a seed.
    """
    if not -(2**63) <= seed < 2**63:
        raise Mistake(f"seed={seed} is too large; use one below 2^63")
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def side_stream(seed: int, device: torch.device) -> Iterator[None]:
    """Run a block on a random stream of its own and leave the run's stream as it was.

    What follows a stage then does not depend on whether the stage ran or came from a cache.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def random_state(device: torch.device) -> dict[str, Any]:
    """State of torch's generators. Only these are used between checkpoints."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Take back what `random_state` gave."""
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def evaluation_seed(seed: int, update: int) -> int:
    """First environment seed of the evaluation after `update`.

    Other start states each time: ten evaluations of ten episodes then see a hundred starts. The
    numbers depend on nothing but the arguments, so a resumed run meets the same ones.
    """
    return (1_000_003 * (seed + 1) + 7919 * update) % 2**31
