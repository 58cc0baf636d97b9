"""NeoRL-2's files (arXiv:2503.19267), `.npz` or Hugging Face's `.parquet`, without its package.

A file names no environment. `envs.neorl2` says what is known of each task.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from reverie.datasets.build import INFERRED_ENDS, build
from reverie.datasets.dataset import Dataset
from reverie.datasets.exogenous import Exogenous, find_exogenous
from reverie.datasets.names import short_name
from reverie.datasets.readers.columns import (
    Columns,
    flag,
    listed,
    read_npz,
    require_columns,
    require_widths,
)
from reverie.datasets.readers.episode_ends import (
    are_inferred,
    require_terminations,
    truncated_rows,
)
from reverie.datasets.readers.layouts import find_columns
from reverie.datasets.readers.parquet import read_parquet
from reverie.datasets.subset import Subset
from reverie.envs.neorl2 import TASKS, Task
from reverie.envs.reference import reference_for
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.paths import expanded
from reverie.ranges import Count
from reverie.text import near

REQUIRED = ["observations", "actions", "rewards", "terminals", "next_observations"]
STANDARD = "standard"
_FOLDER = "~/.neorl2/datasets"
"""Where the benchmark's own package keeps what it has downloaded."""
_ADDRESS = "http://datasets.polixir.site/neorl2"


def load(
    *,
    name: str | None,
    id: str,
    path: str | None,
    trajectories: Count | Literal["standard"] | None,
    env_id: str | None,
    env_kwargs: Mapping[str, object],
    exogenous: Exogenous,
    clip_actions: bool,
    subset: Subset | None = None,
) -> Dataset:
    """Read the recorded transitions of a task; every row is kept, with its true next observation.

    Args:
        name: short name, None to use the id.
        id: of the task, a key of `envs.neorl2.TASKS`.
        path: the file, None for where the benchmark's package keeps it.
        trajectories: so many from the beginning of the file; `standard` for as many as the
            benchmark learns from by default, None for all.
        env_id: Gymnasium id for scores; `standard` for our own simulator of the task where there
            is one, None for none.
        env_kwargs: options for that environment.
        exogenous: observations that actions do not move, see `datasets.exogenous`.
        clip_actions: clip actions outside [-1, 1] instead of refusing them.
        subset: which whole episodes to keep, see `datasets.subset.choose_episodes`; None for all.

    Raises:
        Mistake: unknown task; no such file; damaged file, missing, ambiguous or unequal columns,
            another task's columns, flags that do not tell terminations from limits, bad values.
    """
    task = find_task(id)
    file = source_of({"id": id, "path": path})
    if path is None and not file.exists():
        raise Mistake(
            f"{file} is not there; fetch {_ADDRESS}/{id}/{file.name} and give it as "
            "dataset.path=FILE"
        )
    data = _read(file)
    source = str(file)
    require_widths(file, data, len(task.obs_names), len(task.action_names), id)
    truncated = truncated_rows(source, data, None)
    wanted = task.trajectories if isinstance(trajectories, str) else trajectories
    rows = _first(wanted, flag(truncated) | flag(data["terminals"]))
    width = len(task.action_names)
    unmoved = find_exogenous(task.obs_names, exogenous, source=source, key="dataset.exogenous")
    return build(
        name=short_name(name=name, id=id),
        spec=Spec(
            env_id=task.env_id if env_id == STANDARD else env_id,
            obs_dim=len(task.obs_names),
            action_dim=width,
            action_low=(-1.0,) * width,
            action_high=(1.0,) * width,
            max_episode_steps=task.steps,
            env_kwargs=dict(env_kwargs),
            obs_names=task.obs_names,
            action_names=task.action_names,
            exogenous=unmoved,
            task=f"neorl2/{id}",
        ),
        obs=data["observations"][rows],
        action=data["actions"][rows],
        reward=data["rewards"][rows],
        terminated=data["terminals"][rows],
        truncated=truncated[rows],
        next_obs=data["next_observations"][rows],
        reference=reference_for(f"neorl2/{id}"),
        origin={
            "source": "NeoRL-2",
            "id": id,
            "file": source,
            **(INFERRED_ENDS if are_inferred(data) else {}),
            **({} if wanted is None else {"trajectories": f"the first {wanted}"}),
            **({} if task.advice is None else {"advice": task.advice}),
        },
        clip_actions=clip_actions,
        subset=subset,
        given=True,
    )


def source_of(settings: Mapping[str, Any]) -> Path:
    """The file that `load` reads with these settings."""
    if settings["path"] is not None:
        return expanded(settings["path"])
    return expanded(_FOLDER) / f"{settings['id']}-train.npz"


def find_task(id: str) -> Task:
    """The task of an id.

    Raises:
        Mistake: unknown; the message has what it may mean.
    """
    if id in TASKS:
        return TASKS[id]
    close = near(id, TASKS) or list(TASKS)
    raise Mistake(f"NeoRL-2 has no task {id!r}; did you mean {' or '.join(close)}?")


def _read(file: Path) -> Columns:
    """The columns by D4RL's names, and `index` where it says where trajectories begin."""
    suffix = file.suffix.lower()
    if suffix not in (".npz", ".parquet"):
        raise Mistake(
            f"{file} has the suffix {file.suffix!r}, expected .npz or .parquet; give the file as "
            "NeoRL-2 has it"
        )
    names: dict[str, str] = {}

    def choose(held: Any) -> list[str]:
        names.update(find_columns(held, {}, str(file)))
        if suffix == ".npz" and "index" in held:
            names["index"] = "index"
        missing = [column for column in REQUIRED if column not in names]
        if missing:
            raise Mistake(
                f"{file} lacks {', '.join(missing)}; it holds {listed(held)}: give the file as "
                "NeoRL-2 has it, or read one of your own with dataset=file"
            )
        return [*names.values()]

    found = (read_npz if suffix == ".npz" else read_parquet)(file, choose)
    data = {column: found[array] for column, array in names.items()}
    require_columns(file, {key: data[key] for key in data if key != "index"}, REQUIRED)
    require_terminations(str(file), data, names["terminals"])
    return data


def _first(trajectories: int | None, ends: np.ndarray) -> slice:
    """The rows of so many trajectories from the beginning."""
    last = np.flatnonzero(ends)
    if trajectories is None or trajectories >= len(last):
        return slice(None)
    return slice(int(last[trajectories - 1]) + 1)
