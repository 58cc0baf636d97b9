"""OGBench's single tasks (arXiv:2410.20092): its `.npz` files, with rewards of one of five goals.

A file names neither task nor environment, and serves all five: `envs.ogbench` has the goals.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reverie.datasets.build import LowAndHigh, build, given_reference
from reverie.datasets.dataset import Dataset
from reverie.datasets.names import short_name
from reverie.datasets.readers.columns import (
    Columns,
    flag,
    listed,
    read_npz,
    require_columns,
    require_widths,
)
from reverie.datasets.subset import Subset
from reverie.envs.ogbench import ROOMS, Parts, Room, reward, solved
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.paths import expanded
from reverie.text import near

REQUIRED = ["observations", "actions", "terminals"]
INFORMATION = ["qpos", "button_states"]
"""What rewards are told from; older files lack it."""
_FOLDER = "~/.ogbench/data"
"""Where the benchmark's own package keeps what it has downloaded."""
_ADDRESS = "https://rail.eecs.berkeley.edu/datasets/ogbench"
_ID = r"(?P<room>.+)-(?P<kind>\w+)-singletask(-task(?P<task>[1-5]))?-v0"

IDS = tuple(
    f"{room}-{kind}-singletask{task}-v0"
    for room, known in ROOMS.items()
    for kind in known.kinds
    for task in ("", *(f"-task{number}" for number in range(1, 6)))
)
"""Of the benchmark; without a number the room's default task is meant."""


def load(
    *,
    name: str | None,
    id: str,
    path: str | None,
    env_id: str | None,
    env_kwargs: Mapping[str, object],
    reference: LowAndHigh | None,
    clip_actions: bool,
    subset: Subset | None = None,
) -> Dataset:
    """Read recorded trajectories and let them pay what the task pays.

    A trajectory stores one observation more than it has transitions: its last row goes, and the
    row before is a time limit. Where the task is solved a row terminates, but the recording, which
    knew of no task, goes on.

    Args:
        name: short name, None to use the id.
        id: one of `IDS`.
        path: the file, None for where the benchmark's package keeps it.
        env_id: Gymnasium id for scores; `standard` for the benchmark's own, whose package must then
            be installed; None for none.
        env_kwargs: options for that environment.
        reference: returns that score 0 and 100, None for raw returns only.
        clip_actions: clip actions outside [-1, 1] instead of refusing them.
        subset: which whole episodes to keep, see `datasets.subset.choose_episodes`; None for all.

    Raises:
        Mistake: unknown task; no such file; another dataset's, by its name or columns; damaged
            file, missing or unequal columns, images, bad values.
    """
    room_name, task = find_task(id)
    room = ROOMS[room_name]
    file = source_of({"id": id, "path": path})
    if path is None and not file.exists():
        raise Mistake(
            f"{file} is not there; fetch {_ADDRESS}/{file.name} and give it as dataset.path=FILE"
        )
    _require_own_file(id, file)
    data = _read(file)
    require_widths(file, data, room.obs_dim, room.action_dim, id)
    parts = _parts(room, file, data)
    last = flag(data["terminals"])
    last[-1] = True  # where the file is cut, its last row has no successor either
    environment = f"ogbench:{room_name}-singletask-task{task}-v0"
    return build(
        name=short_name(name=name, id=id),
        spec=Spec(
            env_id=environment if env_id == "standard" else env_id,
            obs_dim=room.obs_dim,
            action_dim=room.action_dim,
            action_low=(-1.0,) * room.action_dim,
            action_high=(1.0,) * room.action_dim,
            max_episode_steps=room.steps,
            env_kwargs=dict(env_kwargs),
            task=f"ogbench/{room_name}-task{task}",
        ),
        obs=data["observations"],
        action=data["actions"],
        reward=reward(room, task, parts).numpy(),
        terminated=solved(room, task, parts).numpy() & ~last,
        truncated=data["terminals"],
        ends=last,
        reference=None if reference is None else given_reference(reference),
        origin={"source": "OGBench", "id": id, "file": str(file), "task": f"{room_name} {task}"},
        clip_actions=clip_actions,
        subset=subset,
        given=True,
    )


def source_of(settings: Mapping[str, Any]) -> Path:
    """The file that `load` reads with these settings."""
    if settings["path"] is not None:
        return expanded(settings["path"])
    return expanded(_FOLDER) / f"{_stem(settings['id'])}.npz"


def _stem(id: str) -> str:
    """What the benchmark calls the file of a task."""
    return re.sub(r"-singletask(-task[1-5])?", "", id)


def _require_own_file(id: str, file: Path) -> None:
    """Refuse another dataset's file by its name: mazes differ in nothing that a file tells."""
    if file.stem != _stem(id) and file.stem in map(_stem, IDS):
        raise Mistake(
            f"{file} has the name of another dataset than {id}; give {_stem(id)}.npz, or choose "
            f"dataset=ogbench/{file.stem.removesuffix('-v0')}-singletask-v0"
        )


def find_task(id: str) -> tuple[str, int]:
    """Room and number of the task of an id.

    Raises:
        Mistake: unknown, or of goals or images; the message has what it may mean.
    """
    found = re.fullmatch(_ID, id)
    if id in IDS and found is not None:
        return found["room"], int(found["task"] or ROOMS[found["room"]].default)
    if id.startswith(("visual-", "powderworld")):
        raise Mistake(
            f"OGBench dataset {id} holds images, which are not supported; choose one of states, "
            f"such as {IDS[0]}"
        )
    single = re.sub(r"-v0$", "-singletask-v0", id)
    if single in IDS:
        raise Mistake(
            f"OGBench dataset {id} has a goal in every episode, and only its single tasks are "
            f"read; say {single}, or task n with {single.replace('-v0', '-task1-v0')} (the file is "
            "the same)"
        )
    close = near(id, IDS) or [IDS[0]]
    raise Mistake(f"OGBench has no dataset {id!r}; did you mean {' or '.join(close)}?")


def _read(file: Path) -> Columns:
    if file.suffix.lower() != ".npz":
        raise Mistake(
            f"{file} has the suffix {file.suffix!r}, expected .npz; give the file as OGBench has it"
        )

    def choose(held: Any) -> list[str]:
        missing = [column for column in REQUIRED if column not in held]
        if missing:
            raise Mistake(
                f"{file} lacks {', '.join(missing)}; it holds {listed(held)}: give the file as "
                "OGBench has it, or read one of your own with dataset=file"
            )
        shifted = [column for column in ("next_observations", "valids") if column in held]
        if shifted:
            raise Mistake(
                f"{file} holds {shifted[0]}, so it is what OGBench makes of a file and not the "
                f"file, whose trajectories end otherwise; give the one in {_FOLDER}"
            )
        return [column for column in (*REQUIRED, *INFORMATION) if column in held]

    data = read_npz(file, choose)
    require_columns(file, data, REQUIRED)
    if not flag(data["terminals"]).any():
        raise Mistake(
            f"{file}: terminals are 0 in every row, where OGBench marks the last one of each "
            "trajectory; fetch it again"
        )
    return data


def _parts(room: Room, file: Path, data: Columns) -> Parts:
    """Where things are in each row: by the positions, or, without them, by the observation."""
    if any(column not in data for column in INFORMATION[: 2 if room.buttons else 1]):
        return room.seen(torch.from_numpy(data["observations"].astype(np.float64)))
    positions = data["qpos"].astype(np.float64)
    states = data["button_states"] if room.buttons else np.zeros((len(positions), 0))
    fits = positions.ndim == 2 and positions.shape[1] >= room.positions
    if not fits or states.shape[1:] != (room.buttons,):
        raise Mistake(
            f"{file}: qpos has shape {list(positions.shape)} and button_states "
            f"{list(states.shape)}, expected at least [N, {room.positions}] and "
            f"[N, {room.buttons}]; is it the file of another dataset?"
        )
    if not np.isfinite(positions).all():
        raise Mistake(f"{file}: qpos holds NaN or Inf, so no reward can be told; fetch it again")
    return room.stored(*(torch.from_numpy(each.astype(np.float64)) for each in (positions, states)))
