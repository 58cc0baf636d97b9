"""The single tasks of OGBench (arXiv:2410.20092): goals, rewards and ends.

A task is a room, such as `cube-double`, with one of five goals of some parts: a place for a body or
for each cube, a state for each button, a position of drawer and window. A step pays the parts that
are in place less their number, and ends the task where all are, as judged **before** the action
(`success_timing=pre`): so do the benchmark's labels and its environments since version 1.2.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reverie.envs.rules import constants, finite

# Cells (row, column) of the mazes in which the goals 1 to 5 lie; a cell is 4 m wide.
_MAZES = {
    "medium": ((6, 6), (1, 6), (4, 2), (6, 1), (1, 1)),
    "large": ((7, 10), (7, 1), (1, 10), (5, 4), (5, 4)),
    "giant": ((10, 14), (10, 1), (1, 1), (5, 12), (3, 8)),
    "teleport": ((7, 1), (7, 10), (7, 10), (7, 10), (7, 1)),
}
_PITCHES = {
    "arena": ((5, 2), (2, 2), (6, 6), (6, 1), (1, 6)),
    "medium": ((6, 6), (1, 1), (6, 5), (5, 3), (1, 6)),
}
# Millimetres of each cube.
_CUBES = {
    "single": ("425,-100,20", "500,0,20", "350,0,20", "500,200,20", "500,-200,20"),
    "double": (
        "425,0,20 425,100,20",
        "350,100,20 500,100,20",
        "425,-200,20 425,200,20",
        "425,100,20 425,-100,20",
        "425,0,20 425,0,60",
    ),
    "triple": (
        "350,-100,20 350,100,20 500,100,20",
        "500,0,20 500,200,20 500,-200,20",
        "350,-100,20 500,-200,20 500,0,20",
        "500,-100,20 500,100,20 350,0,20",
        "425,200,20 425,200,60 425,200,100",
    ),
    "quadruple": (
        "350,-250,20 350,100,20 500,-100,20 500,250,20",
        "375,100,20 475,100,20 375,-100,20 475,-100,20",
        "525,-200,20 325,200,20 325,-200,20 525,200,20",
        "525,100,20 325,100,20 325,-100,20 525,-100,20",
        "425,200,20 425,200,60 425,200,100 425,200,140",
    ),
}
# The cube; the buttons of drawer and window; these two, in metres.
_SCENES = (
    ("350,50,20", "11", (-0.16, 0.2)),
    ("350,-50,20", "00", (0.0, 0.0)),
    ("400,150,20", "11", (-0.16, 0.0)),
    ("330,-356,65.986", "10", (0.0, 0.0)),
    ("330,-356,65.986", "00", (0.0, 0.2)),
)
# Buttons row by row.
_PUZZLES = {
    "3x3": ("110 101 011", "011 111 111", "101 010 101", "111 111 111", "101 101 101"),
    "4x4": (
        "1111 1111 1111 1111",
        "1111 1001 1001 1111",
        "0101 1010 0101 1010",
        "0000 0000 0000 0000",
        "0000 0000 0000 0000",
    ),
    "4x5": (
        "00000 00000 00000 00000",
        "11111 11111 11111 11111",
        "11111 10001 10001 11111",
        "00000 00100 00100 00000",
        "10001 01110 01110 10001",
    ),
    "4x6": (
        "000000 000000 000000 000000",
        "000000 000000 000000 000000",
        "111110 110101 101011 011111",
        "100001 000000 000000 100001",
        "100001 011110 011110 100001",
    ),
}

_CLOSE = 0.04  # metres by which cube, drawer and window may miss their goals
_ARM = 14  # positions of arm and gripper, before all others
_PROPRIOCEPTION = 19  # columns of an observation about arm and gripper
_CENTRE, _SCALE = (0.425, 0.0, 0.0), 10.0  # by which observations tell places
_SLIDE_SCALES = (18.0, 15.0)  # of drawer and window


@dataclass(frozen=True)
class Parts:
    """Where the parts of a goal are: places `[*, P, W]`, buttons `[*, B]`, slides `[*, L]`."""

    places: Float[Tensor, "*lead P W"]
    buttons: Float[Tensor, "*lead B"]
    slides: Float[Tensor, "*lead L"]


@dataclass(frozen=True)
class Goal:
    """Where they should be; places and slides within `radius`, in metres."""

    places: tuple[tuple[float, ...], ...]
    radius: float
    buttons: tuple[int, ...] = ()
    slides: tuple[float, ...] = ()

    def reached(self, parts: Parts) -> Bool[Tensor, "*lead G"]:
        """Which parts are in place."""
        numbers = [number for place in self.places for number in place]
        wanted = constants(numbers, parts.places).reshape(-1, parts.places.shape[-1])
        missed = (parts.places - wanted).square().sum(-1).sqrt()
        return torch.cat(
            [
                missed <= self.radius,
                parts.buttons == constants(self.buttons, parts.buttons),
                (parts.slides - constants(self.slides, parts.slides)).abs() <= self.radius,
            ],
            -1,
        )


@dataclass(frozen=True)
class Room:
    """An environment and its five goals.

    Attributes:
        obs_dim, action_dim: of the data; actions lie in [-1, 1].
        steps: time limit of an episode.
        kinds: of data that were recorded in it.
        default: number of the task that is meant where none is named.
        goals: of the tasks 1 to 5.
        positions, buttons: least number of stored positions, and number of buttons.
        seen: the parts as observations `[*, D]` tell them.
        stored: as positions `[*, Q]` and states of buttons `[*, B]` tell them.
    """

    obs_dim: int
    action_dim: int
    steps: int
    kinds: tuple[str, ...]
    default: int
    goals: tuple[Goal, ...]
    positions: int
    buttons: int
    seen: Callable[[Tensor], Parts]
    stored: Callable[[Tensor, Tensor], Parts]


def reward(room: Room, task: int, parts: Parts) -> Float[Tensor, "*lead"]:
    """Parts in place less their number, 0 at most."""
    reached = room.goals[task - 1].reached(parts)
    return (reached.sum(-1) - reached.shape[-1]).float()


def solved(room: Room, task: int, parts: Parts) -> Bool[Tensor, "*lead"]:
    """Whether all parts are in place."""
    return room.goals[task - 1].reached(parts).all(-1)


def reward_rule(
    room: Room,
    task: int,
    obs: Float[Tensor, "*lead D"],
    action: Float[Tensor, "*lead A"],
    next_obs: Float[Tensor, "*lead D"],
) -> Float[Tensor, "*lead"]:
    """`reward` of the state before the action, for all outcomes of it."""
    return reward(room, task, room.seen(obs)).expand(next_obs.shape[:-1])


def termination_rule(
    room: Room,
    task: int,
    obs: Float[Tensor, "*lead D"],
    action: Float[Tensor, "*lead A"],
    next_obs: Float[Tensor, "*lead D"],
) -> Bool[Tensor, "*lead"]:
    """`solved` of the state before the action."""
    return solved(room, task, room.seen(obs)) | ~finite(next_obs)


def _ground(
    obs_dim: int,
    action_dim: int,
    steps: int,
    cells: tuple[tuple[int, int], ...],
    *,
    radius: float = 0.5,
    first: int = 0,
    default: int = 1,
    explored: bool = False,
) -> Room:
    """A room with one body, of which the columns from `first` on are x and y."""

    def place(values: Tensor, _: object = None) -> Parts:
        none = values[..., :0]
        return Parts(values[..., None, first : first + 2], none, none)

    goals = tuple(Goal(((4.0 * column - 4.0, 4.0 * row - 4.0),), radius) for row, column in cells)
    kinds = ("navigate", "stitch", *(("explore",) if explored else ()))
    return Room(obs_dim, action_dim, steps, kinds, default, goals, first + 2, 0, place, place)


def _table(steps: int, goals: tuple[Goal, ...], default: int) -> Room:
    """A table with cubes, buttons and slides before an arm."""
    cubes, buttons, slides = (
        len(getattr(goals[0], part)) for part in ("places", "buttons", "slides")
    )
    of_buttons = _PROPRIOCEPTION + 9 * cubes  # a cube: place, quaternion, yaw
    of_slides = of_buttons + 4 * buttons  # a button: one-hot state, position, speed
    obs_dim = of_slides + 2 * slides

    def seen(obs: Tensor) -> Parts:
        lead = obs.shape[:-1]
        blocks = obs[..., _PROPRIOCEPTION:of_buttons].reshape(*lead, cubes, 9)
        states = obs[..., of_buttons:of_slides].reshape(*lead, buttons, 4)
        return Parts(
            blocks[..., :3] / _SCALE + constants(_CENTRE, obs),
            (states[..., 1] > 0.5).to(obs.dtype),
            obs[..., of_slides:obs_dim:2] / constants(_SLIDE_SCALES[:slides], obs),
        )

    def stored(positions: Tensor, states: Tensor) -> Parts:
        last = _ARM + 7 * cubes
        blocks = positions[..., _ARM:last].reshape(*positions.shape[:-1], cubes, 7)
        first = last + buttons
        return Parts(blocks[..., :3], states, positions[..., first : first + slides])

    positions = _ARM + 7 * cubes + buttons + slides
    kinds = ("play", "noisy")
    return Room(obs_dim, 5, steps, kinds, default, goals, positions, buttons, seen, stored)


def _cubes(text: str) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(mm) / 1000.0 for mm in cube.split(",")) for cube in text.split())


def _buttons(text: str) -> tuple[int, ...]:
    return tuple(int(state) for state in text.replace(" ", ""))


def _rooms() -> dict[str, Room]:
    rooms: dict[str, Room] = {}
    for size, cells in _MAZES.items():
        rooms[f"pointmaze-{size}"] = _ground(2, 2, 1000, cells, radius=1.0)
        rooms[f"antmaze-{size}"] = _ground(29, 8, 1000, cells, explored=size != "giant")
    for size, steps in (("medium", 2000), ("large", 2000), ("giant", 4000)):
        rooms[f"humanoidmaze-{size}"] = _ground(69, 21, steps, _MAZES[size])
    for size, cells in _PITCHES.items():
        rooms[f"antsoccer-{size}"] = _ground(42, 8, 1000, cells, first=15, default=4)
    for count, steps in (("single", 200), ("double", 500), ("triple", 1000), ("quadruple", 1000)):
        goals = tuple(Goal(_cubes(text), _CLOSE) for text in _CUBES[count])
        rooms[f"cube-{count}"] = _table(steps, goals, 2)
    scenes = (Goal(_cubes(cube), _CLOSE, _buttons(text), slides) for cube, text, slides in _SCENES)
    rooms["scene"] = _table(750, tuple(scenes), 2)
    for size, steps, default in (
        ("3x3", 500, 4),
        ("4x4", 500, 4),
        ("4x5", 1000, 2),
        ("4x6", 1000, 2),
    ):
        goals = tuple(Goal((), _CLOSE, _buttons(text)) for text in _PUZZLES[size])
        rooms[f"puzzle-{size}"] = _table(steps, goals, default)
    return rooms


ROOMS = _rooms()
"""By the name of the environment without its version."""
