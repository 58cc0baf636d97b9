"""The exported policy, and the facts about it for the manifest."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.training.export.controller import in_plant_units
from reverie.training.ope.conclusions import NAMES, unfit_reason


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
    verdict = summary.get("verdict")
    if verdict is None:
        return (
            0,
            "the first, for the summary holds neither scores nor a verdict; seed=... takes another",
        )
    return _by_verdict(verdict)


def _by_verdict(verdict: Mapping[str, Any]) -> tuple[int, str]:
    """The seed of the best outcome; of equals that of the highest value, by the more careful of
    those estimates that are fit for use."""
    ranks = [_RANKS.get(outcome, len(_RANKS)) for outcome in verdict["outcome"]]
    best = [seed for seed, rank in enumerate(ranks) if rank == min(ranks)]
    fit = {seed: [m for m in NAMES if unfit_reason(verdict, m, seed) is None] for seed in best}
    # Seeds are compared by the same estimates, where there are such.
    shared = [method for method in NAMES if all(method in own for own in fit.values())]
    used = {seed: shared or own for seed, own in fit.items()}
    values = {
        seed: min((_lowest(verdict[method]["value"][seed]) for method in own), default=-np.inf)
        for seed, own in used.items()
    }
    chosen = max(best, key=lambda seed: values[seed])
    if not used[chosen]:
        return chosen, (
            f"{'the first' if chosen == 0 else 'the first that is not to be rejected'}, for no "
            "estimate of its verdict is fit for use; seed=... takes another"
        )
    outcome = verdict["outcome"][chosen]
    by = " and ".join(NAMES[method] for method in used[chosen])
    lower = "the lower of " if len(used[chosen]) > 1 else ""
    return chosen, f"of the outcome {outcome} and the best by {lower}{by}, {values[chosen]:.4g}"


_RANKS = {"better": 0, "unclear": 1, "none": 2, "worse": 3, "contradiction": 3}
"""Outcomes of a verdict, those first that are to be preferred."""


def _lowest(found: Any) -> float:
    """The estimate of an interval; one that is not finite is written as null."""
    return -np.inf if found[0] is None else float(found[0])


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
    ends = torch.stack([obs.amin(0), obs.amax(0)])
    return in_plant_units(data.spec, ends.numpy()).T.tolist()
