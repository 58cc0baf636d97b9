"""Advice in a run's warnings, limited to settings that this run has."""

from collections.abc import Mapping
from typing import Any

_PENALTY = "filter.penalty"
_LEVERS = (
    ("filter", "penalty", ("raise", "a higher", _PENALTY)),
    ("model_updates", "weight", ("raise", "a higher", "model_updates.weight")),
    ("agent", "penalty", ("raise", "a higher", "agent.penalty")),
    ("agent", "conservative_weight", ("raise", "a higher", "agent.conservative_weight")),
    ("agent", "model_weight", ("lower", "a lower", "agent.expectile")),
    ("world_model", "_target_", ("choose", "the", "filter=penalty")),
)
"""What makes a run more pessimistic about its model, by group and key; the first that it has."""


def suit(sentence: str, settings: Mapping[str, Any]) -> str:
    """A warning that advises another lever than filter.penalty, where the run has another.

    Args:
        settings: of the run, nested as on the command line; others leave the sentence as it is.
    """
    if (found := _lever_of(settings)) is None:
        return sentence
    change, more, lever = found
    told = sentence.replace(f"raise {_PENALTY}", f"{change} {lever}")
    return told.replace(f"a higher {_PENALTY}", f"{more} {lever}")


def after_divergence(settings: Mapping[str, Any]) -> str:
    """What to do about a run whose numbers have left the finite ones, by what it has.

    Args:
        settings: see `suit`.
    """
    advised = "lower the learning rates"
    source = settings.get("source")
    if isinstance(source, Mapping) and source.get("horizon") is not None:
        advised += " or source.horizon"
    change, _, lever = _lever_of(settings) or ("", "", "")
    return f"{advised}, or {change} {lever}" if lever else advised


def _lever_of(settings: Mapping[str, Any]) -> tuple[str, str, str] | None:
    for group, key, lever in _LEVERS:
        part = settings.get(group)
        if isinstance(part, Mapping) and part.get(key) is not None:
            return lever
    return None
