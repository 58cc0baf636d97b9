"""Whose policy is exported, and the facts that a manifest tells of it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake


def choose_seed(seeds: int, wanted: int | None, summary: Mapping[str, Any]) -> tuple[int, str]:
    """Which seed's policy, and why, for the user to read.

    Args:
        seeds: how many there are.
        wanted: as typed, None for the best one.
        summary: of the run; empty where it is not finished.

    Raises:
        Mistake: there is no such seed.
    """
    if wanted is not None:
        if wanted >= seeds:
            raise Mistake(f"seed={wanted} is not there; the run has the seeds 0 to {seeds - 1}")
        return wanted, "as chosen"
    if seeds == 1:
        return 0, "the only one"
    if not summary:
        return 0, "the first, for the run is not finished; seed=... takes another"
    for key in ("score", "return"):
        values = summary["result"].get(f"{key}_last10_per_seed")
        if values and len(values) == seeds and any(each is not None for each in values):
            best = max(range(seeds), key=lambda i: -np.inf if values[i] is None else values[i])
            return best, f"the best {key}, {values[best]:.4g} over the last ten evaluations"
    verdict = summary.get("verdict") or {}
    found = [
        verdict[key]["value"] for key in ("fqe", "model") if "value" in (verdict.get(key) or {})
    ]
    if found:
        # The more careful of two estimates; one that is not finite is written as null.
        values = [
            min(-np.inf if each[i][0] is None else each[i][0] for each in found)
            for i in range(seeds)
        ]
        best = int(np.argmax(values))
        return best, f"the best by the lower estimate of its verdict, {values[best]:.4g}"
    return (
        0,
        "the first, for the summary holds neither scores nor a verdict; seed=... takes another",
    )


def findings(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a summary says of how well the policies do, None where it says nothing."""
    return {
        "scores": summary.get("result") or None,
        **{key: summary.get(key) for key in ("verdict", "alarms")},
    }


def recorded_ranges(data: Dataset | None) -> list[list[float]] | None:
    """Lowest and highest recorded value of every observation."""
    if data is None:
        return None
    obs = data.transitions.obs
    return torch.stack([obs.amin(0), obs.amax(0)], 1).tolist()
