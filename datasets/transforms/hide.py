"""Observations without some of their columns, such as those of a missing sensor."""

from dataclasses import replace
from typing import Any

import torch

from reverie.datasets.dataset import Dataset
from reverie.datasets.exogenous import find_columns
from reverie.mistake import Mistake
from reverie.text import counted


def hide(data: Dataset, columns: Any) -> Dataset:
    """The dataset without some of its observations; its environment does not show them either.

    Rewards and terminations stay as they are, also where they depend on what is hidden.

    Args:
        data: recorded rows.
        columns: see `datasets.exogenous.Columns`, or an array of indices; a name may lack its unit.

    Raises:
        Mistake: an observation that there is not, or named twice; all of them; of histories, or
            of rows on disk.
    """
    spec, key = data.spec, "dataset.hide"
    hidden = find_columns(spec.obs_labels, columns, source=data.name, key=key)
    if not hidden:
        return data
    if len(hidden) == spec.obs_dim:
        raise Mistake(f"{data.name}: {key} names every observation; leave one to be seen")
    if spec.has_history or spec.hidden or spec.chunk > 1:
        raise Mistake(f"the rows of {data.name} are transformed already; hide their columns first")
    if data.mapped:
        raise Mistake(
            f"{key}={list(hidden)} makes new rows of all of {data.name}, in memory; set "
            "dataset.storage=memory, or dataset.hide=null"
        )
    if set(spec.exogenous) >= {*range(spec.obs_dim)} - {*hidden}:
        raise Mistake(
            f"{data.name}: {key} leaves exogenous observations alone, which no action moves; leave "
            "another one to be seen"
        )
    kept = [dim for dim in range(spec.obs_dim) if dim not in hidden]
    rows, index = data.transitions, torch.tensor(kept)
    return replace(
        data,
        spec=replace(
            spec,
            obs_dim=len(kept),
            obs_names=tuple(spec.obs_labels[dim] for dim in kept),
            exogenous=tuple(kept.index(dim) for dim in spec.exogenous if dim in kept),
            hidden=hidden,
            copies=(),
        ),
        transitions=replace(
            rows,
            obs=rows.obs.index_select(1, index),
            next_obs=rows.next_obs.index_select(1, index),
        ),
        origin={
            **data.origin,
            "hidden": f"{counted(len(hidden), 'column')}: "
            + ", ".join(spec.obs_labels[dim] for dim in hidden),
        },
        untransformed=data.recorded,
    )
