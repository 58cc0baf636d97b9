"""Datasets in a user's file: flat arrays in `.hdf5` or `.npz`, under the usual names."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from reverie.datasets.build import INFERRED_ENDS, LowAndHigh, build, given_reference
from reverie.datasets.dataset import Dataset
from reverie.datasets.exogenous import Exogenous, find_exogenous
from reverie.datasets.names import short_name
from reverie.datasets.readers.columns import (
    ARROW_FILES,
    TEXT_FILES,
    Columns,
    arrays_of,
    in_one_line,
    listed,
    read_hdf5,
    read_npz,
    require_columns,
    require_file,
    require_no_last_observations,
)
from reverie.datasets.readers.episode_ends import (
    are_inferred,
    first_rows_of,
    require_terminations,
    truncated_rows,
)
from reverie.datasets.readers.hdf5 import suffixes_of
from reverie.datasets.readers.layouts import find_columns, find_episodes, require_flat
from reverie.datasets.subset import Subset
from reverie.envs.make import spec_of
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.paths import expanded
from reverie.ranges import Count, Number
from reverie.text import counted

log = logging.getLogger(__name__)

REQUIRED = ["observations", "actions", "rewards", "terminals"]


def load(
    *,
    name: str | None,
    path: str,
    env_id: str | None,
    env_kwargs: Mapping[str, object],
    physics: Literal["as-is", "d4rl"],
    max_episode_steps: Count | None,
    obs_slice: Count | None,
    action_low: Number | Sequence[Number] | None,
    action_high: Number | Sequence[Number] | None,
    reference: LowAndHigh | None,
    clip_actions: bool,
    columns: Any = None,
    exogenous: Exogenous = None,
    subset: Subset | None = None,
    missing_actions: bool = False,
) -> Dataset:
    """Read transitions from one file.

    Arrays: observations `[N, D]`, actions `[N, A]`, rewards, terminals `[N]`, and where they exist
    timeouts `[N]` and next_observations `[N, D]`, each under this name or one of
    `columns.ALIASES`; in `.npz` also NeoRL's index (first rows of the trajectories). Without
    timeouts and index, an episode ends where the stored next observation is not the following
    row's, or, without next observations, where episodes changes (`[N]`, numbers or names of them,
    or a flag such as is_first), or without that after `max_episode_steps` steps.

    Args:
        name: short name, None to use the file's stem.
        path: the file; its suffix says which kind.
        env_id: exact Gymnasium id for scores; None for none.
        env_kwargs: options for that environment.
        physics: `d4rl` undoes MuJoCo's contact change, `as-is` does not.
        max_episode_steps: time limit in control steps, None for the environment's own.
        obs_slice: keep only the first so many observations, of data and environment; None for all.
        action_low, action_high: box of the stored actions, one number or one for each action;
            None for the environment's, or -1 and 1 without an environment.
        reference: returns that score 0 and 100, None if unknown.
        clip_actions: clip actions outside the box instead of refusing them.
        columns: names of the arrays in the file by the names above, where they are others; None
            for a column that is to be ignored.
        exogenous: observations that actions do not move, see `datasets.exogenous`.
        subset: which whole episodes to keep, see `datasets.subset.choose_episodes`; None for all.
        missing_actions: keep rows whose action holds NaN, as rows without an action.

    Raises:
        Mistake: no such file; damaged file, missing, ambiguous or unequal columns, discrete
            actions, bad values, spaces other than the environment's.
    """
    file = expanded(path)
    return from_columns(
        _read(file, columns),
        source=str(file),
        name=short_name(name=name, path=path),
        env_id=env_id,
        env_kwargs=env_kwargs,
        physics=physics,
        max_episode_steps=max_episode_steps,
        obs_slice=obs_slice,
        action_low=action_low,
        action_high=action_high,
        reference=reference,
        clip_actions=clip_actions,
        columns=columns,
        exogenous=exogenous,
        subset=subset,
        given=True,
        missing_actions=missing_actions,
    )


def source_of(settings: Mapping[str, Any]) -> Path:
    """The file that `load` reads with these settings."""
    return expanded(settings["path"])


def from_columns(
    arrays: Mapping[str, Any],
    *,
    source: str,
    name: str,
    env_id: str | None,
    env_kwargs: Mapping[str, object],
    physics: str,
    max_episode_steps: int | None,
    obs_slice: int | None,
    action_low: int | float | Sequence[int | float] | None,
    action_high: int | float | Sequence[int | float] | None,
    reference: Sequence[int | float] | None,
    clip_actions: bool,
    columns: Any = None,
    exogenous: Exogenous = None,
    subset: Subset | None = None,
    valid_next: np.ndarray | None = None,
    given: bool = False,
    missing_actions: bool = False,
) -> Dataset:
    """Turn arrays with the names of `load` into a dataset.

    Args:
        arrays: by name, or what NumPy makes arrays of.
        source: where they come from, for messages.
        valid_next: `[N]`, false where `next_observations` does not hold the true successor.
        given: whether the arrays may be kept and changed; else they are copied.

    Raises:
        Mistake: as `load`.
    """
    chosen = _choose(arrays, columns, source, index=True)
    data = {column: _as_array(arrays[name], name, source) for column, name in chosen.items()}
    if data["actions"].ndim == 1 and data["actions"].dtype.kind == "f":
        data["actions"] = data["actions"][:, None]
    rows = {key: data[key] for key in data if key not in ("index", "episodes")}
    require_columns(source, rows, REQUIRED)
    if "episodes" in data:
        begins = first_rows_of(
            source, data.pop("episodes"), chosen["episodes"], len(data["actions"])
        )
        if begins is not None:
            data["episodes"] = begins
        elif "episodes" in (columns or ()):
            raise Mistake(
                f"{source}: {chosen['episodes']} must hold one number or name for each of "
                f"{len(data['actions']):,} rows, which dataset.columns names for episodes"
            )
    require_terminations(source, data, chosen["terminals"])
    flags = data["terminals"]
    require_no_last_observations(source, "terminals", chosen["terminals"], flags, columns or ())
    obs = data["observations"]
    if obs_slice is not None and not 1 <= obs_slice <= obs.shape[1]:
        raise Mistake(
            f"obs_slice={obs_slice} does not fit the {obs.shape[1]} observations of {source}"
        )
    spec = given_spec(
        name,
        obs[:, :obs_slice].shape[1],
        data["actions"].shape[1],
        env_id,
        env_kwargs,
        physics,
        max_episode_steps,
        obs_slice,
        action_low,
        action_high,
    )
    next_obs = data.get("next_observations")
    unmoved = find_exogenous(spec.obs_labels, exogenous, source=source, key="dataset.exogenous")
    return build(
        name=name,
        spec=replace(spec, exogenous=unmoved),
        obs=obs[:, :obs_slice],
        action=data["actions"],
        reward=data["rewards"],
        terminated=data["terminals"],
        truncated=truncated_rows(source, data, spec.max_episode_steps),
        next_obs=None if next_obs is None else next_obs[:, :obs_slice],
        valid_next=valid_next,
        reference=None if reference is None else given_reference(reference),
        origin={"source": "file", "file": source, **(INFERRED_ENDS if are_inferred(data) else {})},
        clip_actions=clip_actions,
        subset=subset,
        given=given,
        missing_actions=missing_actions,
    )


def _as_array(given: Any, name: str, source: str) -> np.ndarray:
    try:
        return np.asarray(given)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, tensors on a GPU
        raise Mistake(
            f"{source}: {name} is no array ({in_one_line(error)}); give an array of NumPy, of all "
            "episodes one after another"
        ) from error


def _read(file: Path, named: Any) -> Columns:
    require_file(file)
    suffix, held = file.suffix.lower(), suffixes_of(file)
    if held and suffix not in held:
        raise Mistake(
            f"{file} has the suffix {file.suffix!r} and the content of {held[0]}; rename it to "
            f"{file.with_suffix(held[0]).name}"
        )
    if suffix not in (".hdf5", ".h5", ".npz"):
        remedy = (
            "choose dataset=table"
            if suffix in (*TEXT_FILES, *ARROW_FILES)
            else "convert the file, with numpy.savez, or give its arrays to reverie.datasets.load"
        )
        raise Mistake(
            f"{file} has the suffix {file.suffix!r}, expected .hdf5, .h5 or .npz; {remedy}"
        )

    def choose(held: Collection[str]) -> Collection[str]:
        return _choose(held, named, str(file), index=suffix == ".npz").values()

    return (read_npz if suffix == ".npz" else read_hdf5)(file, choose)


def _choose(held: Collection[str], named: Any, source: str, *, index: bool) -> dict[str, str]:
    """The array for each column, by D4RL's names; NeoRL's `index` too where it is looked for."""
    found = find_columns(held, named or {}, source)
    missing = [column for column in REQUIRED if column not in found]
    if missing:
        require_flat(held, source)
        zeros = " (terminals: zeros if no episode terminates)" if "terminals" in missing else ""
        raise Mistake(
            f"{source} lacks {', '.join(missing)}; it holds {listed(held)}: name the arrays, e.g. "
            f"dataset.columns={{{missing[0]}: NAME}}, or add them{zeros}"
        )
    if index and "index" in held and "index" not in (named or {}):
        found["index"] = "index"
    said = {"timeouts", "index", "next_observations"} & set(found)
    if not said and "episodes" not in (named or {}):
        episodes = find_episodes(held, found)
        found |= {} if episodes is None else {"episodes": episodes}
    if not said and "episodes" not in found:
        unread = [name for name in arrays_of(held) if name not in found.values()]
        if unread:
            log.warning(
                "%s: not read: %s; if one says where time limits end episodes, name it as "
                "dataset.columns.timeouts, or dataset.columns.episodes if it tells them apart",
                source,
                listed(unread),
            )
    return found


def given_spec(
    name: str,
    obs_dim: int,
    action_dim: int,
    env_id: str | None,
    env_kwargs: Mapping[str, object],
    physics: str,
    max_episode_steps: int | None,
    obs_slice: int | None,
    action_low: int | float | Sequence[int | float] | None,
    action_high: int | float | Sequence[int | float] | None,
) -> Spec:
    """The spec of recorded columns: of the environment if one is named, else of what is given.

    Raises:
        Mistake: an environment of other spaces, or bounds beside one; bounds for other actions;
            physics of no environment.
    """
    if env_id is None and physics != "as-is":
        raise Mistake(
            f"dataset.physics={physics} is for the contacts of an environment, and none is named; "
            "give its id as dataset.env_id, or leave the physics out"
        )
    if env_id is None:
        return Spec(
            env_id=None,
            obs_dim=obs_dim,
            action_dim=action_dim,
            action_low=_bound("action_low", action_low, -1.0, action_dim),
            action_high=_bound("action_high", action_high, 1.0, action_dim),
            max_episode_steps=max_episode_steps,
            env_kwargs=env_kwargs,
            obs_slice=obs_slice,
        )
    if action_low is not None or action_high is not None:
        raise Mistake(
            f"action_low and action_high are those of {env_id} when dataset.env_id is given; leave "
            "them null"
        )
    spec = spec_of(
        env_id,
        env_kwargs=env_kwargs,
        physics=physics,
        max_episode_steps=max_episode_steps,
        obs_slice=obs_slice,
    )
    found = Spec(
        env_id=None,
        obs_dim=obs_dim,
        action_dim=action_dim,
        action_low=(-1.0,) * action_dim,
        action_high=(1.0,) * action_dim,
    )
    found.require_same_spaces(spec, f"dataset {name}", f"environment {env_id}")
    return spec


def _bound(
    key: str, value: int | float | Sequence[int | float] | None, default: float, width: int
) -> tuple[float, ...]:
    if value is None:
        return (default,) * width
    if isinstance(value, (int, float)):
        return (float(value),) * width
    if len(value) != width:
        raise Mistake(
            f"{key} has {counted(len(value), 'entry')} for {counted(width, 'action')}; give one "
            "number, or one for each"
        )
    return tuple(float(bound) for bound in value)
