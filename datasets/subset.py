"""Part of a dataset: whole episodes, chosen by seed (the limited data of H2O, arXiv:2206.13464) or
by return (the best tenth of it, "10 % BC" of Decision Transformer, arXiv:2106.01345)."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch

from reverie.datasets.arrays import take_rows
from reverie.datasets.dataset import Dataset, Inferred
from reverie.mistake import Mistake
from reverie.ranges import ArgumentsOf, Count, Range, Seed

KEYS: dict[str, Any] = {
    "episodes": Count | None,
    "fraction": Annotated[int | float, Range(above=0, high=1)] | None,
    "seed": Seed,
    "order": Literal["seed", "return"],
}
Subset = Annotated[Mapping[str, Any], ArgumentsOf(lambda _: KEYS)]


def choose_episodes(data: Dataset, choice: Mapping[str, Any] | None) -> Dataset:
    """The dataset with some of its episodes only, in recorded order.

    In the order `seed` the seed alone decides which episodes are chosen first, without
    replacement; in the order `return` those of the highest undiscounted return, and of equal ones
    the first recorded. In either a smaller subset is part of a larger one.

    Args:
        data: all episodes.
        choice: `episodes`, how many, or `fraction`, in (0, 1]: as few of them as hold that share of
            the rows; `seed`; and `order`, which may be missing and is `seed` then. All episodes
            where the first two are None, or for None in place of all.

    Raises:
        Mistake: both are given, or a value that is out of range, or another key.
    """
    if choice is None:
        return data
    choice = {"order": "seed", **choice}
    if set(choice) != set(KEYS):
        raise Mistake(f"dataset.subset has the keys {', '.join(KEYS)}, got {dict(choice)}")
    episodes, fraction, seed, by = (choice[key] for key in KEYS)
    if by not in ("seed", "return"):
        raise Mistake(f"dataset.subset.order={by} must be one of seed, return")
    if episodes is None and fraction is None:
        return data
    if data.untransformed is not None:
        raise Mistake(
            f"dataset.subset chooses recorded episodes, and {data.name} was transformed; choose "
            "before datasets.chunk, stack or hide, or leave dataset.subset out"
        )
    if episodes is not None and fraction is not None:
        raise Mistake(
            f"dataset.subset.episodes={episodes} and dataset.subset.fraction={fraction} both say "
            "how much to keep; set one of them to null"
        )
    if not _is_whole(seed) or seed < 0:
        raise Mistake(f"dataset.subset.seed={seed} must be a whole number, at least 0")
    lengths = data.episode_lengths
    if by == "return":
        order = data.returns.argsort(descending=True, stable=True)
    else:
        order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed))
    if episodes is None:
        if isinstance(fraction, bool | str) or not 0 < fraction <= 1:
            raise Mistake(f"dataset.subset.fraction={fraction} must lie in (0, 1]; null is all")
        episodes = 1 + int((lengths[order].cumsum(0) < fraction * len(data)).sum())
    elif not _is_whole(episodes) or not 1 <= episodes <= len(lengths):
        raise Mistake(
            f"dataset.subset.episodes={episodes} must be a whole number from 1 to the "
            f"{len(lengths)} episodes of {data.name}; null is all"
        )
    chosen = f"seed {seed}" if by == "seed" else "those of the highest return"
    kept = torch.zeros(len(lengths), dtype=torch.bool)
    kept[order[:episodes]] = True
    row = kept.repeat_interleave(lengths)
    return replace(
        data,
        transitions=data.transitions.map(partial(_take, row.numpy())),
        truncated=data.truncated[row],
        valid_next=data.valid_next[row],
        dt=None if data.dt is None else data.dt[row],
        action_missing=_part(data.action_missing, row),
        inferred=None if data.inferred is None else _inferred(data.inferred, row),
        places=None if data.places is None else data.places.take(row.numpy()),
        episode_starts=lengths[kept].cumsum(0) - lengths[kept],
        origin={**data.origin, "subset": f"{episodes} of {len(lengths)} episodes, {chosen}"},
    )


def _part(mask: torch.Tensor | None, row: torch.Tensor) -> torch.Tensor | None:
    """Of rows without an action; None where all that are left have one."""
    return None if mask is None or not mask[row].any() else mask[row]


def _inferred(whole: Inferred, row: torch.Tensor) -> Inferred:
    return replace(whole, rows=whole.rows[row], unsure=whole.unsure[row])


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _take(rows: np.ndarray, column: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(take_rows(column.numpy(), rows))
