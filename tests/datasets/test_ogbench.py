"""OGBench's files: rows, ends and next observations by hand, rewards by goals, and refusals."""

import numpy as np
import pytest
import torch

from reverie.datasets import load as load_by_name
from reverie.datasets.readers.ogbench import IDS, find_task, load
from reverie.envs.ogbench import ROOMS
from reverie.mistake import Mistake
from tests.datasets.benchmark_files import ogbench_columns, walks, write

MAZE = "pointmaze-medium-navigate-singletask-task1-v0"


def options(id, path, **changes):
    standard = {
        "name": None,
        "id": id,
        "path": None if path is None else str(path),
        "env_id": None,
        "env_kwargs": {},
        "reference": None,
        "clip_actions": False,
    }
    return {**standard, **changes}


def test_a_trajectory_loses_the_row_that_has_no_successor(tmp_path):
    path = write(tmp_path / "x.npz", ogbench_columns("pointmaze-medium", [2, 3]))
    data = load(**options(MAZE, path))
    assert data.transitions.obs[:, 0].tolist() == [0, 1, 103, 104, 105]
    assert data.transitions.next_obs[:, 0].tolist() == [1, 2, 104, 105, 106]
    assert data.episode_starts.tolist() == [0, 2] and data.valid_next.all()
    assert np.flatnonzero(data.truncated).tolist() == [1, 4]
    assert not data.transitions.terminated.any()
    assert data.transitions.reward.tolist() == [-1] * 5
    assert data.spec.task == "ogbench/pointmaze-medium-task1" and data.spec.env_id is None
    assert data.spec.max_episode_steps == 1000 and data.reference is None


def test_a_file_that_is_cut_within_a_trajectory_loses_its_last_row_too(tmp_path):
    columns = ogbench_columns("pointmaze-medium", [2, 3])
    columns = {key: value[:6] for key, value in columns.items()}
    data = load(**options(MAZE, write(tmp_path / "x.npz", columns)))
    assert data.transitions.obs[:, 0].tolist() == [0, 1, 103, 104]
    assert np.flatnonzero(data.truncated).tolist() == [1, 3]


def test_the_goal_pays_and_terminates_in_the_row_that_begins_there_and_the_walk_goes_on(tmp_path):
    # Goal 1 lies at (20, 20), within 1 m: from 19.3 on each axis.
    columns = ogbench_columns("pointmaze-medium", [4])
    columns["observations"][:, :] = np.array([17, 19, 19.5, 20, 20])[:, None]
    data = load(**options(MAZE, write(tmp_path / "x.npz", columns)))
    assert data.transitions.reward.tolist() == [-1, -1, 0, 0]
    assert data.transitions.terminated.tolist() == [False, False, True, True]
    assert data.episode_starts.tolist() == [0]
    assert data.valid_next.all() and data.transitions.next_obs[2, 0] == 20
    other = load(**options(MAZE.replace("task1", "task3"), tmp_path / "x.npz"))
    assert other.transitions.reward.tolist() == [-1] * 4
    assert other.fingerprint != data.fingerprint


def test_positions_decide_where_the_file_has_them(tmp_path):
    columns = ogbench_columns("pointmaze-medium", [2])
    columns["qpos"] = np.full((3, 2), 20.0)
    data = load(**options(MAZE, write(tmp_path / "x.npz", columns)))
    assert data.transitions.reward.tolist() == [0, 0]


def test_cubes_buttons_and_slides_count_apart(tmp_path):
    columns = ogbench_columns("scene", [3], scale=0.0)
    qpos = np.zeros((4, 14 + 7 + 2 + 2))
    qpos[:, 14:17] = 0.35, -0.05, 0.02  # where task 2 wants the cube
    qpos[1:, -2:] = -0.16, 0.2  # as task 1 wants drawer and window
    columns["qpos"] = qpos
    columns["button_states"] = np.array([[0, 0], [0, 0], [1, 0], [1, 1]])
    path = write(tmp_path / "scene-play-v0.npz", columns)
    data = load(**options("scene-play-singletask-task2-v0", path))
    assert data.transitions.reward.tolist() == [0, -2, -3]
    assert data.transitions.terminated.tolist() == [True, False, False]
    assert load(**options("scene-play-singletask-v0", path)).fingerprint == data.fingerprint
    first = load(**options("scene-play-singletask-task1-v0", path))
    assert first.transitions.reward.tolist() == [-5, -3, -2]


@pytest.mark.parametrize("room", ["cube-double", "puzzle-3x3", "antsoccer-arena", "scene"])
def test_observations_tell_the_same_as_positions(room):
    """What is made of observations in the benchmark's scales is what was stored, the goal there."""
    known, task = ROOMS[room], 3
    goal = known.goals[task - 1]
    obs = torch.zeros(known.obs_dim)
    if room == "antsoccer-arena":
        obs[15:17] = torch.tensor(goal.places[0])
    else:
        cubes, buttons = len(goal.places), len(goal.buttons)
        for cube, place in enumerate(goal.places):
            scaled = (torch.tensor(place) - torch.tensor([0.425, 0.0, 0.0])) * 10
            obs[19 + 9 * cube : 22 + 9 * cube] = scaled
        for button, state in enumerate(goal.buttons):
            obs[19 + 9 * cubes + 4 * button + state] = 1.0
        for slide, (place, scale) in enumerate(zip(goal.slides, (18.0, 15.0), strict=False)):
            obs[19 + 9 * cubes + 4 * buttons + 2 * slide] = place * scale
    assert goal.reached(known.seen(obs)).all()
    assert not goal.reached(known.seen(obs + 1.0)).all()


def test_sizes_are_the_benchmarks():
    sizes = {room: (known.obs_dim, known.action_dim) for room, known in ROOMS.items()}
    assert sizes["pointmaze-giant"] == (2, 2) and sizes["antmaze-large"] == (29, 8)
    assert sizes["humanoidmaze-giant"] == (69, 21) and sizes["antsoccer-arena"] == (42, 8)
    assert sizes["cube-single"] == (28, 5) and sizes["cube-quadruple"] == (55, 5)
    assert sizes["scene"] == (40, 5) and sizes["puzzle-4x6"] == (115, 5)
    assert all(len(known.goals) == 5 for known in ROOMS.values())


def test_an_option_of_its_own_is_the_reader_with_an_id(tmp_path):
    path = str(write(tmp_path / "x.npz", walks(3, 100)))
    data = load_by_name(f"ogbench/{MAZE}", path=path, env_id="standard")
    assert data.name == MAZE and len(data) == 300
    assert data.spec.env_id == "ogbench:pointmaze-medium-singletask-task1-v0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": None}, "lacks actions; it holds observations, terminals"),
        ({"observations": np.zeros((7, 29), np.float32)}, r"expected \[N, 2\] for pointmaze"),
        ({"observations": np.zeros((7, 64, 64, 3), np.uint8)}, "images are not supported"),
        ({"observations": np.full((7, 2), np.nan)}, "obs 14 NaN"),
        ({"terminals": np.zeros(7)}, "terminals are 0 in every row"),
        ({"terminals": np.ones(6)}, "differ in length"),
        ({"terminals": np.ones(7)}, "no row has a known successor"),
        ({"qpos": np.zeros((7, 1))}, r"expected at least \[N, 2\]"),
        ({"qpos": np.full((7, 2), np.inf)}, "qpos holds NaN or Inf"),
        ({"next_observations": np.zeros((7, 2))}, "trajectories end otherwise"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, change, message):
    columns = ogbench_columns("pointmaze-medium", [2, 3]) | change
    columns = {key: value for key, value in columns.items() if value is not None}
    path = write(tmp_path / "x.npz", columns)
    with pytest.raises(Mistake, match=message) as refused:
        load(**options(MAZE, path))
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)


def test_the_file_of_another_dataset_is_known_by_its_name(tmp_path):
    """Mazes of all sizes have the same columns, and walls that a row does not show."""
    large, other = "pointmaze-large-navigate-v0.npz", "pointmaze-large-stitch-v0-val.npz"
    for name in (large, other):
        write(tmp_path / name, walks(1, 10))
    with pytest.raises(Mistake, match="dataset=ogbench/pointmaze-large-navigate-singletask-v0"):
        load(**options(MAZE, tmp_path / large))
    assert len(load(**options("pointmaze-large-navigate-singletask-v0", tmp_path / large))) == 10
    assert len(load(**options(MAZE, tmp_path / other))) == 10


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("cube-single-play-v0", r"say cube-single-play-singletask-v0, or task n"),
        ("visual-cube-single-play-singletask-task1-v0", "holds images"),
        (
            "cube-singel-play-singletask-task1-v0",
            "did you mean .*cube-single-play-singletask-task1",
        ),
        ("cube-single-play-singletask-task6-v0", "did you mean"),
        ("antmaze-giant-explore-singletask-v0", "did you mean"),
    ],
)
def test_an_unknown_task_is_told_what_it_may_mean(id, message):
    with pytest.raises(Mistake, match=message):
        find_task(id)


def test_default_tasks_and_places_are_the_benchmarks(tmp_path, monkeypatch):
    assert find_task("antsoccer-arena-stitch-singletask-v0") == ("antsoccer-arena", 4)
    assert find_task("puzzle-4x5-noisy-singletask-task1-v0") == ("puzzle-4x5", 1)
    assert len(IDS) == len(set(IDS)) == 282
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(
        Mistake, match=r"\.ogbench/data/pointmaze-medium-navigate-v0.npz is not there"
    ):
        load(**options(MAZE, None))
