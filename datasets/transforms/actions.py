"""Datasets of which some actions are missing: hidden on purpose, or filled in.

Action-free trajectories, SS-ORL, arXiv:2210.06518. The model that predicts actions is in
`world_models.inverse`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reverie.datasets.dataset import Dataset, Inferred
from reverie.mistake import Mistake


def hide_actions(data: Dataset, rows: Any) -> Dataset:
    """The dataset as if nobody had recorded the actions of some rows.

    Args:
        data: recorded rows.
        rows: `[N]` bool of torch or NumPy, true for those that lose theirs.

    Raises:
        Mistake: another shape or type; of histories or chunks, or of rows on disk.
    """
    require_recorded(data)
    rows = torch.as_tensor(rows)
    if rows.dtype != torch.bool or rows.shape != (len(data),):
        raise Mistake(
            f"rows must be true or false for each of the {len(data):,} rows of {data.name}, found "
            f"{str(rows.dtype).removeprefix('torch.')} of shape {list(rows.shape)}"
        )
    missing = rows if data.action_missing is None else rows | data.action_missing
    action = torch.where(missing.unsqueeze(1), 0.0, data.transitions.action)
    return replace(
        data,
        transitions=replace(data.transitions, action=action),
        action_missing=missing if missing.any() else None,
    )


def fill_actions(
    data: Dataset,
    action: Float[Tensor, "M A"],
    unsure: Bool[Tensor, " M"],
    r2: Sequence[float | None],
) -> Dataset:
    """The dataset with an action in every row.

    Args:
        data: recorded rows, of which M have no action.
        action: of these, in their order, in [-1, 1].
        unsure: where it is hardly more than a guess.
        r2: see `Inferred`.

    Raises:
        Mistake: of histories or chunks, or of rows on disk.
    """
    missing = data.action_missing
    assert missing is not None, "every row has an action"
    require_recorded(data)
    filled = data.transitions.action.clone()
    filled[missing] = action.clamp(-1.0, 1.0)
    doubtful = torch.zeros_like(missing)
    doubtful[missing] = unsure
    inferred = Inferred(rows=missing, unsure=doubtful, r2=tuple(r2))
    known = [f"{each:.3f}" for each in r2 if each is not None]
    told = f", R2 {', '.join(known)} on recorded ones" if known else ""
    return replace(
        data,
        transitions=replace(data.transitions, action=filled),
        action_missing=None,
        inferred=inferred,
        origin={
            **data.origin,
            "inferred actions": f"{int(missing.sum()):,} of {len(data):,} rows, "
            f"{int(doubtful.sum()):,} of them unsure{told}",
        },
    )


def require_recorded(data: Dataset) -> None:
    """Refuse rows whose actions can no longer be changed.

    Raises:
        Mistake: histories or chunks, or rows on disk.
    """
    if data.untransformed is not None:
        raise Mistake(
            f"the rows of {data.name} are transformed already; infer their actions first, without "
            "hide, history and chunks"
        )
    if data.mapped:
        raise Mistake(
            f"inferred actions are held in memory, and the rows of {data.name} lie on disk; set "
            "dataset.storage=memory, or inverse_model=none"
        )
