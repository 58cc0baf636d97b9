"""A policy in the units of its plant: values by column name."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.datasets.tables.table import bare
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.text import one_line
from reverie.training.export.controller import box_of

Named = Mapping[str, Any]
"""Numbers, or columns of equal length, by name."""


def as_named(obs: Any) -> Any:
    """Rows of a DataFrame, or one of a Series, by the names of columns; anything else as it is."""
    if isinstance(obs, Mapping) or not hasattr(obs, "to_dict"):
        return obs
    names = obs.columns if hasattr(obs, "columns") else obs.index
    return {str(name): obs[name] for name in names}


def as_rows(obs: Any, spec: Spec, seeds: int, device: torch.device) -> Tensor:
    """Observations `[S, B, D]` of any type of numbers, as the networks take them.

    Raises:
        Mistake: they are no numbers, or of another shape.
    """
    wanted = f"a policy takes observations [{seeds}, rows, {spec.obs_dim}]"
    if not isinstance(obs, Tensor):
        try:
            obs = torch.from_numpy(np.array(obs, np.float32))
        except (ValueError, TypeError) as error:
            raise Mistake(f"{wanted} of numbers, found {one_line(repr(obs), 80)}") from error
    if obs.shape[-1:] != (spec.obs_dim,):
        raise Mistake(f"{wanted}, found {list(obs.shape)}; give {', '.join(spec.obs_labels[:20])}")
    if obs.ndim != 3 or len(obs) != seeds:
        raise Mistake(
            f"{wanted}, rows for each seed, found {list(obs.shape)}; the same rows for all are "
            f"torch.as_tensor(obs).reshape(1, -1, {spec.obs_dim}).expand({seeds}, -1, -1)"
        )
    return obs.to(device, torch.float32)


def decide(
    act: Callable[[Tensor], Tensor], spec: Spec, observation: Named, *, seeds: int, seed: int
) -> dict[str, Any]:
    """What one seed's policy does at observations by name, in the plant's units.

    The names are the spec's, `level [cm]`, or without the unit, `level`; `obs 3` where the data
    name none. Others, such as the rest of a row of the log, are not read.

    Args:
        act: actions `[S, B, A]` in [-1, 1] for `[S, B, D]`.
        observation: a number each, or `[B]` numbers each.
        seeds, seed: S, and whose action is asked.

    Returns:
        The actions by their names in the spec, kept inside their box: a float each, or `[B]`.

    Raises:
        Mistake: an observation is missing or no number, the lengths differ, or there is no such
            seed.
    """
    if not 0 <= seed < seeds:
        raise Mistake(f"seed={seed} is not there; the run has the seeds 0 to {seeds - 1}")
    columns = {label: _column(spec, label, observation) for label in spec.obs_labels}
    lengths = {label: len(column) for label, column in columns.items() if column.ndim}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{label} {length}" for label, length in lengths.items())
        raise Mistake(f"the observations have different lengths, {told}; give as many of each")
    rows = np.stack(np.broadcast_arrays(*columns.values()), -1).astype(np.float32)
    rows = rows.reshape(-1, spec.obs_dim)
    if spec.stacked_actions:
        box, past = box_of(spec), rows[:, spec.past_actions].reshape(-1, spec.action_dim)
        rows[:, spec.past_actions] = ((past - box.middle) / box.half).reshape(len(rows), -1)
    obs = torch.from_numpy(rows)
    actions = box_of(spec)(act(obs.expand(seeds, -1, -1))[seed].detach().numpy())
    if lengths:
        return dict(zip(spec.action_labels, actions.T, strict=True))
    return dict(zip(spec.action_labels, actions[0].tolist(), strict=True))


def _column(spec: Spec, label: str, observation: Named) -> np.ndarray:
    """One observation as a number `[]` or numbers `[B]`, NaN where it is missing."""
    short = bare(label)
    if label not in observation:
        alike = [each for each in spec.obs_labels if bare(each) == short]
        if len(alike) > 1 and short in observation:
            raise Mistake(f"{short} could be {' or '.join(alike)}; give the whole name")
        if short not in observation:
            known, given = (", ".join(names) for names in (spec.obs_labels, map(str, observation)))
            raise Mistake(
                f"the policy sees {one_line(known, 300)}, and {label} is not among "
                f"{one_line(given, 300) or 'nothing'}; give it by that name"
            )
    value = observation[label if label in observation else short]
    try:
        column = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise Mistake(
            f"{label} is {one_line(repr(value), 60)}; give a number, or a column of numbers"
        ) from error
    if column.ndim > 1:
        raise Mistake(f"{label} has the shape {column.shape}; give a number, or a column [rows]")
    return column
