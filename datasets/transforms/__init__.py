"""Transforms of recorded data before training, for every source.

A transform is a function from a dataset to a dataset, and a setting of it in `SETTINGS` and in
every file of `conf/dataset/`. Readers know none of them. What a transform changes in actions or
observations is recorded in the spec, by which `envs.make` changes the environment in the same way.
"""

from collections.abc import Mapping
from typing import Any, Literal

from reverie.datasets.dataset import Dataset
from reverie.datasets.exogenous import Columns
from reverie.datasets.storage import Storage
from reverie.datasets.transforms.actions import (
    fill_actions,
    hide_actions,
    require_recorded,
)
from reverie.datasets.transforms.chunks import chunk
from reverie.datasets.transforms.copies import AUTO, with_copies
from reverie.datasets.transforms.hide import hide
from reverie.datasets.transforms.history import Lengths, lengths_of, stack
from reverie.ranges import Count

SETTINGS: dict[str, Any] = {
    "hide": Columns,
    "history": Lengths,
    "chunks": Count | None,
    "copies": Literal["auto"] | None,
    "storage": Storage | None,
}
"""Settings of a dataset that readers do not know, and what they may be: transforms, in the order in
which they are applied, and `storage`, where the rows lie, see `datasets.storage`."""


def transform(data: Dataset, settings: Mapping[str, Any], discount: float) -> Dataset:
    """The dataset as the settings want it; a setting that is null or absent changes nothing.

    Args:
        settings: by the keys of `SETTINGS`.
        discount: per control step, the agent's; 1 for one that has none.

    Raises:
        Mistake: rows without an action, of which no history or chunk can be made.
    """
    for name in ("hide", "history", "chunks"):
        if settings.get(name) is not None:
            data.require_actions()
    if settings.get("hide") is not None:
        data = hide(data, settings["hide"])
    if settings.get("history") is not None:
        data = stack(data, *lengths_of(settings["history"]))
    if settings.get("chunks") is not None:
        data = chunk(data, settings["chunks"], discount=discount)
    return with_copies(data) if settings.get("copies") == AUTO else data


__all__ = [
    "SETTINGS",
    "chunk",
    "fill_actions",
    "hide",
    "hide_actions",
    "require_recorded",
    "stack",
    "transform",
    "with_copies",
]
