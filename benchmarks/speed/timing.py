"""Rates of several contenders for the same work, measured in turns so that disturbances cancel."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

WARM_UP_CALLS = 4  # a compiled function compiles, records and replays in its first three calls


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Attributes:
        call: does it once.
        units: how many units (updates, rows, transitions) a call finishes.
    """

    call: Callable[[], Any]
    units: float


@dataclass(frozen=True)
class Rates:
    """Units per second by contender, one entry per round; entry i of all was timed back to back."""

    by_name: dict[str, list[float]]

    def median(self, name: str) -> float:
        return median(self.by_name[name])

    def ratios(self, name: str, baseline: str) -> list[float]:
        """Of each round, how many times faster than the baseline."""
        return [
            rate / base
            for rate, base in zip(self.by_name[name], self.by_name[baseline], strict=True)
        ]


def race(
    contenders: Mapping[str, Contender],
    *,
    rounds: int,
    seconds: float,
    device: torch.device,
    warm_up: int = WARM_UP_CALLS,
) -> Rates:
    """Let contenders run in turns, A B A B ..., each for about `seconds` a turn.

    Before the first round each has run `warm_up` times, and once more to learn how many
    calls fill a turn. Nothing of that is part of the result.
    """
    calls = {}
    for name, contender in contenders.items():
        _time(contender.call, warm_up, device)
        calls[name] = max(1, round(seconds / _time(contender.call, 1, device)))
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            taken = _time(contender.call, calls[name], device)
            rates[name].append(calls[name] * contender.units / taken)
    return Rates(rates)


def _time(call: Callable[[], Any], times: int, device: torch.device) -> float:
    """Seconds for so many calls, until the device has finished them."""
    finish(device)
    begun = time.perf_counter()
    for _ in range(times):
        call()
    finish(device)
    return time.perf_counter() - begun


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
