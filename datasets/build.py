"""The one converter from recorded arrays to a `Dataset`: checks, rescales, finds the episodes."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch

from reverie.datasets.arrays import keep_rows, new_array, own, stretches_of
from reverie.datasets.dataset import Dataset
from reverie.datasets.places import Places
from reverie.datasets.subset import choose_episodes
from reverie.datasets.transition import Transition
from reverie.envs.specs import Reference, Spec, is_bounded
from reverie.mistake import Mistake
from reverie.ranges import Number, Pair

Array = np.ndarray

# Float32 files and policies that end in tanh overshoot the box by rounding; more than this share
# of the range is a different action space or a mistake.
BOX_TOLERANCE = 1e-3


LowAndHigh = Annotated[Sequence[Number], Pair()]
"""The returns that score 0 and 100."""
INFERRED_ENDS = {"episode ends": "where the next observation is not the following row's"}
"""Of the origin of data that store no ends: what looks odd about ends is not in the file then."""


def build(
    *,
    name: str,
    spec: Spec,
    obs: Array,
    action: Array,
    reward: Array,
    terminated: Array,
    truncated: Array,
    next_obs: Array | None = None,
    valid_next: Array | None = None,
    ends: Array | None = None,
    reference: Reference | None,
    origin: Mapping[str, str],
    clip_actions: bool,
    subset: Mapping[str, Any] | None = None,
    places: Places | None = None,
    dt: Array | None = None,
    given: bool = False,
    missing_actions: bool = False,
) -> Dataset:
    """Check N recorded rows and turn them into a `Dataset`.

    An episode ends where `truncated` is set, where `terminated` is set unless `ends` says
    otherwise, and at the last row. A row that is both terminated and truncated counts as
    terminated. Where `next_obs` is given, every row is kept. Without it the successor of a row
    inside an episode is the next row's observation; a terminated end keeps its row with
    `valid_next` false (a masked target needs no successor), and any other end is dropped because
    its true successor is unknown. The last row left of an episode that did not terminate is
    marked truncated.

    Args:
        name: short name of the dataset, for messages too where `origin` names no file.
        spec: spaces of the task; the box of `action` is `spec.action_low`, `spec.action_high`.
        obs: `[N, D]` raw.
        action: `[N, A]` in the units of the environment.
        reward: `[N]` or `[N, 1]`.
        terminated, truncated: `[N]` or `[N, 1]`, any dtype that holds 0 and 1.
        next_obs: `[N, D]` true successors, also at the ends; None to use the following rows.
        valid_next: `[N]`, with `next_obs` only: false where a successor is not the true one.
        ends: `[N]`, for sources that know their episodes: terminated rows elsewhere do not end one.
        reference: returns that define the normalised score, or None.
        origin: where the data came from.
        clip_actions: put actions outside the box on its edge instead of refusing them.
        subset: which whole episodes to keep, see `datasets.subset.choose_episodes`; None for all.
        places: where the rows stand in a table; None to count them from 0.
        dt: `[N]` seconds from each row to the next, None where all are alike.
        given: whether the columns may be kept and changed; else they are copied.
        missing_actions: keep rows with a NaN among their actions, as rows without an action.

    Raises:
        Mistake: options of an environment and none; empty, unequal or wrongly shaped columns, NaN
            or Inf, actions outside the box, flags other than 0 and 1, no row with a known
            successor.
    """
    columns = {"obs": obs, "action": action, "reward": reward}
    columns |= {"terminated": terminated, "truncated": truncated}
    optional = {"next_obs": next_obs, "valid_next": valid_next, "ends": ends}
    columns |= {key: value for key, value in optional.items() if value is not None}
    columns = {key: np.asarray(value) for key, value in columns.items()}
    source = origin.get("file") or origin.get("path") or f"dataset {name}"
    if spec.env_id is None and spec.env_kwargs:  # which nothing would read
        raise Mistake(
            f"{source}: dataset.env_kwargs={dict(spec.env_kwargs)} are options of an environment, "
            "and none is named; give its id as dataset.env_id, or leave them out"
        )
    _require_shapes(source, spec, columns)
    flags = {
        key: _flag(source, key, column) for key, column in columns.items() if key in _FLAG_NAMES
    }
    terminated = flags["terminated"]
    truncated = flags["truncated"] & ~terminated

    once = [id(column) for column in columns.values()]  # one array may be named for two columns
    # Values are judged as they will be used: a float64 that overflows float32 is not finite.
    with np.errstate(over="ignore"):
        values: dict[str, Any] = {
            key: own(columns[key], np.float32, given=given and once.count(id(columns[key])) == 1)
            for key in ("obs", "action", "next_obs", "reward")
            if key in columns
        }
    values["reward"] = values["reward"].reshape(-1)
    missing = np.isnan(values["action"]).any(axis=1) if missing_actions else np.zeros(0, bool)
    if missing.any():  # something inside the box stands there
        values["action"][missing] = (np.array(spec.action_low) + np.array(spec.action_high)) / 2
    _require_finite(source, values)
    scaled = _rescale_actions(source, spec, values["action"], clip_actions, places)

    end = truncated | flags.get("ends", terminated)
    end[-1] = True
    last = end
    if "next_obs" in values:
        successor = values["next_obs"]
        valid = flags.get("valid_next", np.ones(len(end), dtype=bool))
    else:
        keep = ~end | terminated
        successor = _following_rows(source, values["obs"], end, keep)
        valid = ~end[keep]
        if not keep.all():
            # A row before one that is left out is the last of what stays of its episode.
            last = (end | np.append(~keep[1:], False))[keep]
            terminated, truncated = terminated[keep], truncated[keep]
            scaled = keep_rows(scaled, keep)
            values |= {key: keep_rows(values[key], keep) for key in ("obs", "reward")}
            missing = missing[keep] if len(missing) else missing
            places = None if places is None else places.take(keep)
            dt = None if dt is None else dt[keep]

    starts = np.flatnonzero(np.append(True, last[:-1]))
    truncated = truncated | (last & ~terminated)
    data = Dataset(
        name=name,
        spec=spec,
        transitions=Transition(
            obs=torch.from_numpy(values["obs"]),
            action=torch.from_numpy(scaled),
            reward=torch.from_numpy(values["reward"]),
            next_obs=torch.from_numpy(successor),
            terminated=torch.from_numpy(terminated),
            is_real=torch.ones(len(terminated), dtype=torch.bool),
        ),
        truncated=torch.from_numpy(truncated),
        valid_next=torch.from_numpy(valid),
        episode_starts=torch.from_numpy(starts),
        reference=reference,
        origin=dict(origin),
        places=places,
        dt=None if dt is None else torch.from_numpy(dt.astype(np.float32)),
        action_missing=torch.from_numpy(missing) if missing.any() else None,
    )
    return choose_episodes(data, subset)


def given_reference(pair: Sequence[int | float]) -> Reference:
    """The reference that a user gives as `[low, high]`.

    Raises:
        Mistake: not two numbers, or not ascending.
    """
    if len(pair) != 2 or not pair[0] < pair[1]:
        raise Mistake(
            f"reference={list(pair)} must be two returns, [low, high] with low < high, or null"
        )
    return Reference(float(pair[0]), float(pair[1]), "given by the user")


_FLAG_NAMES = ("terminated", "truncated", "valid_next", "ends")


def _require_shapes(source: str, spec: Spec, columns: dict[str, Any]) -> None:
    lengths = {key: len(column) if column.ndim else 0 for key, column in columns.items()}
    listed = ", ".join(f"{key} {length:,}" for key, length in lengths.items())
    if len(set(lengths.values())) > 1:
        raise Mistake(
            f"{source}: columns differ in length ({listed}); every row needs one entry in "
            "each, so repair or re-download the file"
        )
    if lengths["obs"] == 0:
        raise Mistake(f"{source}: has no rows; check that the file is the right one")
    if columns["action"].ndim == 1 and np.issubdtype(columns["action"].dtype, np.integer):
        raise Mistake(
            f"{source}: actions are single integers, a discrete action space; only "
            "continuous actions [N, A] are supported; d3rlpy learns from discrete ones"
        )
    for key in ("obs", "next_obs", "action"):
        if key not in columns:
            continue
        width = spec.action_dim if key == "action" else spec.obs_dim
        if columns[key].shape[1:] != (width,):
            raise Mistake(
                f"{source}: {key} has shape {list(columns[key].shape)}, expected "
                f"[N, {width}] for {spec.env_id or 'the given spaces'}; check that data and "
                "environment belong together"
            )
    for key in ("reward", *_FLAG_NAMES):
        if key in columns and columns[key].shape[1:] not in ((), (1,)):
            raise Mistake(
                f"{source}: {key} has shape {list(columns[key].shape)}, expected one number "
                "for each row, [N] or [N, 1]"
            )


def _flag(source: str, key: str, column: Array) -> np.ndarray:
    column = column.reshape(-1)
    if column.dtype == bool:
        return column.copy()
    odd = (column != 0) & (column != 1)  # NaN is odd too
    if odd.any():
        row = int(np.argmax(odd))
        raise Mistake(
            f"{source}: {key} must hold only 0 and 1, found {column[row]} in row {row}; "
            "repair that column"
        )
    return column.astype(bool)


def _require_finite(source: str, values: Mapping[str, Any]) -> None:
    found = []
    for key, column in values.items():
        # A finite sum proves the column clean in one pass; a sum may also overflow, so look again.
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(column.sum(dtype=np.float64)):
                continue
        bad = ~np.isfinite(column)
        if bad.any():
            rows = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
            nans = int(np.isnan(column).sum())
            found.append(
                f"{key} {nans} NaN and {int(bad.sum()) - nans} Inf in {len(rows)} rows "
                f"(first row {rows[0]})"
            )
    if found:
        raise Mistake(
            f"{source}: {'; '.join(found)}: values must be finite float32; remove or repair "
            f"those rows{_or_infer(values)}"
        )


def _or_infer(values: Mapping[str, Any]) -> str:
    """What else can be done where nothing but actions is missing."""
    bad = [key for key, column in values.items() if not np.isfinite(column).all()]
    only = bad == ["action"] and not np.isinf(values["action"]).any()
    return ", or let the missing actions be inferred, inverse_model=ensemble" if only else ""


def _following_rows(source: str, obs: np.ndarray, end: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """The observation after each row that is kept, or its own where nobody knows the next one."""
    if not keep.any():
        raise Mistake(
            f"{source}: no row has a known successor (every one of the {len(end)} rows "
            "ends an episode without terminating); store next_observations"
        )
    following = new_array((int(keep.sum()), obs.shape[1]), np.float32)
    count = 0
    for part in stretches_of(obs):
        rows = part.start + np.flatnonzero(keep[part])
        following[count : count + len(rows)] = obs[np.where(end[rows], rows, rows + 1)]
        count += len(rows)
    return following


def _rescale_actions(
    source: str, spec: Spec, action: Any, clip_actions: bool, places: Places | None
) -> np.ndarray:
    with np.errstate(over="ignore"):
        low, high = (np.asarray(bound, np.float32) for bound in (spec.action_low, spec.action_high))
    if not (is_bounded(spec.action_low, spec.action_high) and (low < high).all()):
        raise Mistake(
            f"{source}: the action box {spec.action_low} to {spec.action_high} is empty or "
            "unbounded; give finite bounds with low < high (dataset.action_low and action_high of "
            "dataset=file), or as dataset.env_id an environment that has them"
        )
    if not clip_actions:
        margin = BOX_TOLERANCE * (high - low)
        # The extremes of each dimension decide; rows are searched only for the message.
        if (action.min(axis=0) < low - margin).any() or (action.max(axis=0) > high + margin).any():
            outside = (action < low - margin) | (action > high + margin)
            row, dim = (int(index) for index in np.argwhere(outside)[0])
            name = spec.action_names[dim] if spec.action_names else f"action[{dim}]"
            where = f"row {row}" if places is None else places.at(row)
            raise Mistake(
                f"{source}: {name} = {action[row, dim]:g} in {where} lies outside "
                f"[{low[dim]:g}, {high[dim]:g}], as do {int(outside.any(axis=1).sum()):,} rows in "
                "all; correct the bounds, or set dataset.clip_actions=true to clip them"
            )
    np.clip(action, low, high, out=action)
    if not ((low == -1.0).all() and (high == 1.0).all()):
        for part in stretches_of(action):
            scaled = 2.0 * (action[part] - low) / (high - low) - 1.0
            np.clip(scaled, -1.0, 1.0, out=action[part])
    return action
