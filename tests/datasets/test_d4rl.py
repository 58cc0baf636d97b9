"""D4RL files: which rows, which successors, which flags, which environment."""

import importlib.util
import logging
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reverie.datasets.readers import d4rl
from reverie.datasets.readers.columns import limit_ends
from reverie.datasets.readers.d4rl import TASKS, find_task, load, original_rows, urls
from reverie.envs.reference import reference_for
from reverie.mistake import Mistake

ARCHIVE = "http://rail.eecs.berkeley.edu/datasets/offline_rl/"


def options(id, path, **changes):
    standard = {
        "name": None,
        "id": id,
        "path": None if path is None else str(path),
        "env_id": "standard",
        "physics": "d4rl",
        "compat": None,
        "max_episode_steps": None,
        "clip_actions": False,
        "mirrors": [ARCHIVE + "{path}"],
        "sha256": None,
    }
    return {**standard, **changes}


def episodes(id, lengths, ends, start=0):
    """Columns of episodes whose observation counts on, with a gap between episodes.

    `ends` says how each ends: t terminal, l time limit, c cut. The true successor is obs + 1.
    """
    task = TASKS[id]
    obs, terminals, timeouts = [], [], []
    for length, end in zip(lengths, ends, strict=True):
        obs += range(start, start + length)
        start += length + 100
        terminals += [False] * (length - 1) + [end == "t"]
        timeouts += [False] * (length - 1) + [end == "l"]
    obs = np.array(obs, np.float32)
    rng = np.random.default_rng(0)
    return {
        "observations": np.repeat(obs[:, None], task.obs_dim, 1),
        "actions": rng.uniform(-1, 1, (len(obs), task.action_dim)).astype(np.float32),
        "rewards": obs / 10,
        "terminals": np.array(terminals),
        "timeouts": np.array(timeouts),
    }


def write(path, columns):
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            file[name] = column
    return path


@pytest.fixture
def hopper(tmp_path):
    """Two terminals, a time limit and a cut; successors stored; the extras of real files."""
    columns = episodes("hopper-medium-v2", [3, 4, 2, 3], "tltc")
    columns["next_observations"] = columns["observations"] + 1
    columns["infos/qpos"] = np.zeros((12, 6))
    columns["metadata/algorithm"] = np.bytes_("SAC")
    columns["metadata/policy/fc0/weight"] = np.zeros((256, 11))
    return write(tmp_path / "hopper_medium-v2.hdf5", columns)


def test_stored_successors_keep_every_row_and_tell_limits_from_terminals(hopper):
    data = load(**options("hopper-medium-v2", hopper))
    assert len(data) == 12
    assert torch.equal(data.transitions.next_obs, data.transitions.obs + 1)
    assert data.valid_next.all()
    assert np.flatnonzero(data.transitions.terminated).tolist() == [2, 8]
    assert np.flatnonzero(data.truncated).tolist() == [6, 11]
    assert data.episode_starts.tolist() == [0, 3, 7, 9]
    assert torch.allclose(data.transitions.reward, data.transitions.obs[:, 0] / 10)
    assert data.name == "hopper-medium-v2"
    assert data.reference.high == 3234.3
    assert data.origin["file"] == str(hopper)


def test_replay_files_in_float64_with_flags_as_numbers_give_the_same_rows(hopper, tmp_path):
    with h5py.File(hopper) as file:
        names = ("observations", "actions", "rewards", "terminals", "timeouts")
        columns = {name: file[name][()].astype(np.float64) for name in names}
        columns["next_observations"] = file["next_observations"][()].astype(np.float64)
    columns["rewards"] = columns["rewards"][:, None]
    columns["terminals"] = columns["terminals"][:, None].astype(np.uint8)
    other = write(tmp_path / "other.hdf5", columns)
    ours = load(**options("hopper-medium-replay-v2", other))
    assert ours.fingerprint == load(**options("hopper-medium-v2", hopper)).fingerprint
    assert ours.transitions.reward.shape == (12,)


def test_overlapping_flags_count_as_terminal(tmp_path):
    columns = episodes("hopper-medium-v2", [3, 2], "tc")
    columns["timeouts"] = columns["terminals"]
    columns["next_observations"] = columns["observations"] + 1
    data = load(**options("hopper-medium-v2", write(tmp_path / "x.hdf5", columns)))
    assert np.flatnonzero(data.transitions.terminated).tolist() == [2]
    assert np.flatnonzero(data.truncated).tolist() == [4]


def test_without_stored_successors_no_row_reaches_into_the_next_episode(tmp_path):
    path = write(tmp_path / "pen.hdf5", episodes("pen-human-v1", [3, 4, 2, 3], "tltc"))
    data = load(**options("pen-human-v1", path))
    terminal = data.transitions.terminated
    assert len(data) == 10  # a time limit and the cut lose their last row
    step = data.transitions.next_obs - data.transitions.obs
    assert (step[~terminal] == 1).all()
    assert (step[terminal] == 0).all()
    assert torch.equal(data.valid_next, ~terminal)
    assert data.episode_starts.tolist() == [0, 3, 6, 8]
    assert np.flatnonzero(data.truncated).tolist() == [5, 9]


def test_files_without_timeouts_count_steps_against_the_limit(tmp_path):
    columns = episodes("kitchen-mixed-v0", [5, 3, 4], "ltc")
    del columns["timeouts"]
    columns["infos"] = np.zeros(12)
    path = write(tmp_path / "kitchen.hdf5", columns)
    data = load(**options("kitchen-mixed-v0", path, max_episode_steps=5))
    assert data.episode_starts.tolist() == [0, 4, 7]
    assert np.flatnonzero(data.truncated).tolist() == [3, 9]
    moved = data.transitions.next_obs - data.transitions.obs
    assert (moved[data.valid_next] == 1).all()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 7))
def test_the_counter_ends_every_episode_at_its_limit(terminated, limit):
    found, steps = [], 0
    for end in terminated:
        steps += 1
        found.append(steps == limit)
        if end or steps == limit:
            steps = 0
    assert limit_ends(np.array(terminated), limit).tolist() == found


def test_antmaze_terminals_do_not_end_an_episode(tmp_path):
    columns = episodes("antmaze-umaze-v2", [5, 4], "lt")
    columns["terminals"][1:3] = True  # reached the goal, moved on
    columns["timeouts"][8] = True
    path = write(tmp_path / "maze.hdf5", columns)
    data = load(**options("antmaze-umaze-v2", path))
    # Row 4 is cut by its time limit; row 8 too, but it is terminal and needs no successor.
    assert data.transitions.terminated.tolist() == [0, 1, 1, 0, 0, 0, 0, 1]
    assert data.valid_next.tolist() == [1, 1, 1, 1, 1, 1, 1, 0]
    moved = data.transitions.next_obs - data.transitions.obs
    assert (moved[:7] == 1).all()
    assert data.episode_starts.tolist() == [0, 4]
    assert np.flatnonzero(data.truncated).tolist() == [3]
    assert torch.allclose(data.transitions.reward[:4], data.transitions.obs[:4, 0] / 10)


def naive_rows(terminals, timeouts, limit):
    """The conversion of D4RL as its description says: one row after another."""
    rows, counter = [], 0
    for i in range(len(terminals) - 1):
        final = timeouts[i] if timeouts is not None else counter == limit - 1
        if final:
            counter = 0
            continue
        if terminals[i]:
            counter = 0
        rows.append(i)
        counter += 1
    return rows


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60),
    st.integers(2, 6),
    st.booleans(),
)
def test_the_original_rows_are_those_of_a_naive_loop(flags, limit, stored):
    terminals = np.array([t for t, _ in flags])
    timeouts = np.array([t for _, t in flags]) if stored else None
    expected = naive_rows(terminals, timeouts, limit)
    assert original_rows(terminals, timeouts, limit).tolist() == expected


@pytest.mark.parametrize("stored", [True, False])
def test_compat_reproduces_the_original_transitions_exactly(tmp_path, stored):
    columns = episodes("hopper-medium-v2", [3, 4, 2, 4, 3], "tltlt")
    path = tmp_path / "hopper.hdf5"
    columns["next_observations"] = columns["observations"] + 1  # ignored by the original
    id = "hopper-medium-v2"
    if not stored:
        id = "kitchen-mixed-v0"
        columns = episodes(id, [3, 4, 2, 4, 3], "tltlt")
        del columns["timeouts"]
    data = load(**options(id, write(path, columns), compat="d4rl", max_episode_steps=4))
    rows = naive_rows(columns["terminals"], columns.get("timeouts"), 4)
    kept = data.transitions
    assert np.array_equal(kept.obs, columns["observations"][rows])
    assert np.array_equal(kept.action, columns["actions"][rows])
    assert np.array_equal(kept.reward, columns["rewards"][rows])
    assert np.array_equal(kept.next_obs, columns["observations"][np.array(rows) + 1])
    assert np.array_equal(kept.terminated, columns["terminals"][rows])
    # No model may learn from a reset state.
    true = (kept.next_obs - kept.obs)[:, 0] == 1
    assert torch.equal(data.valid_next, true)
    assert "own rows" in data.origin["source"]


def test_ant_is_cut_to_what_the_environment_observes(tmp_path, caplog):
    columns = episodes("ant-medium-v2", [3, 2], "lt")
    columns["next_observations"] = columns["observations"] + 1
    for name in ("observations", "next_observations"):
        columns[name] = columns[name].copy()
        columns[name][:, 27:] = 0.0
    with caplog.at_level(logging.WARNING):
        data = load(**options("ant-medium-v2", write(tmp_path / "ant.hdf5", columns)))
    assert caplog.text == ""
    assert data.transitions.obs.shape == data.transitions.next_obs.shape == (5, 27)
    assert (data.spec.obs_dim, data.spec.obs_slice) == (27, 27)
    columns["observations"][1, 30] = 1.0
    with caplog.at_level(logging.WARNING):
        load(**options("ant-medium-v2", write(tmp_path / "live.hdf5", columns)))
    assert "1 of the 84 observations beyond the first 27 vary" in caplog.text


def test_stored_successors_that_disagree_with_the_rows_are_reported(tmp_path, caplog):
    columns = episodes("hopper-medium-v2", [4, 3], "tl")
    columns["next_observations"] = columns["observations"] + 1
    columns["next_observations"][1] += 0.5
    with caplog.at_level(logging.WARNING):
        load(**options("hopper-medium-v2", write(tmp_path / "x.hdf5", columns)))
    assert "in 1 of 5 rows" in caplog.text
    assert "largest difference 0.5" in caplog.text


@pytest.mark.parametrize(
    ("id", "env_id", "steps", "physics"),
    [
        ("halfcheetah-random-v2", "HalfCheetah-v4", 1000, "d4rl"),
        ("hopper-full-replay-v2", "Hopper-v4", 1000, "d4rl"),
        ("walker2d-expert-v2", "Walker2d-v4", 1000, "d4rl"),
        ("pen-cloned-v1", "AdroitHandPen-v1", 100, "as-is"),
        ("door-cloned-v1", "AdroitHandDoor-v1", 200, "as-is"),
        ("maze2d-large-dense-v1", None, 800, "as-is"),
        ("antmaze-large-play-v2", None, 1000, "as-is"),
        ("kitchen-complete-v0", None, 280, "as-is"),
    ],
)
def test_the_environment_stands_for_the_task(tmp_path, id, env_id, steps, physics):
    path = write(tmp_path / "x.hdf5", episodes(id, [3, 3], "tc"))
    spec = load(**options(id, path)).spec
    assert (spec.env_id, spec.max_episode_steps, spec.physics) == (env_id, steps, physics)
    assert spec.action_low == (-1.0,) * spec.action_dim
    assert load(**options(id, path, env_id=None)).spec.env_id is None
    assert load(**options(id, path, env_id="Mine-v0", physics="as-is")).spec.env_id == "Mine-v0"


def test_standard_environments_have_the_spaces_of_the_data():
    from reverie.envs.make import make_env

    for id in ("hopper-medium-v2", "ant-medium-v2"):
        task = TASKS[id]
        env = make_env(d4rl._spec(task, task.obs_slice or task.obs_dim, "standard", "d4rl"))
        env.close()


def test_addresses_follow_the_families():
    def url(id):
        return urls(find_task(id), [ARCHIVE + "{path}"])[0].removeprefix(ARCHIVE)

    assert url("hopper-medium-replay-v2") == "gym_mujoco_v2/hopper_medium_replay-v2.hdf5"
    assert url("maze2d-open-v0") == "maze2d/maze2d-open-sparse.hdf5"
    assert url("maze2d-large-dense-v1") == "maze2d/maze2d-large-dense-v1.hdf5"
    assert url("antmaze-umaze-v2") == (
        "ant_maze_v2/Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse_fixed.hdf5"
    )
    assert url("antmaze-medium-play-v2") == (
        "ant_maze_v2/Ant_maze_big-maze_noisy_multistart_True_multigoal_False_sparse_fixed.hdf5"
    )
    assert url("kitchen-complete-v0") == (
        "kitchen/mini_kitchen_microwave_kettle_light_slider-v0.hdf5"
    )
    mirror = ["https://mirror/{file}"]
    assert urls(find_task("pen-human-v1"), mirror) == ["https://mirror/pen-human-v1.hdf5"]
    with pytest.raises(ValueError, match="neither"):
        urls(find_task("pen-human-v1"), ["https://mirror/"])


def test_every_task_has_a_reference():
    assert len(TASKS) == 24 + 8 + 6 + 12 + 3
    for id in TASKS:
        assert reference_for(id) is not None, id


PACKAGE = importlib.util.find_spec("d4rl")  # found, never imported: that needs old binaries


@pytest.mark.skipif(PACKAGE is None, reason="the extra d4rl is not installed")
def test_tables_agree_with_the_original_package():
    folder = Path(PACKAGE.submodule_search_locations[0])
    found = importlib.util.spec_from_file_location("d4rl_infos", folder / "infos.py")
    infos = importlib.util.module_from_spec(found)
    found.loader.exec_module(infos)
    for id in TASKS:
        assert urls(TASKS[id], [ARCHIVE + "{path}"]) == [infos.DATASET_URLS[id]]
    compared = 0
    for id, low in infos.REF_MIN_SCORE.items():
        ours = reference_for(id)
        if ours is not None:
            assert (ours.low, ours.high) == (low, infos.REF_MAX_SCORE[id]), id
            compared += 1
    assert compared > 100


def test_an_existing_download_of_the_original_is_used(hopper, tmp_path, monkeypatch):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    assert len(load(**options("hopper-medium-v2", None))) == 12


def test_an_unreachable_download_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    dead = ["http://127.0.0.1:1/{path}"]
    with pytest.raises(Mistake, match=r"127\.0\.0\.1:1/gym.*dataset\.path") as caught:
        load(**options("hopper-medium-v2", None, mirrors=dead))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("hopper-medium-v0", "defective.*use hopper-medium-v2"),
        ("hopper-medium-v1", "corrected since; use hopper-medium-v2"),
        ("antmaze-umaze-v0", "corrected since; use antmaze-umaze-v2"),
        ("hoper-medium-v2", "did you mean hopper-medium-v2"),
        ("quadruped", "unknown"),
    ],
)
def test_other_generations_and_typos_are_refused_with_the_reason(id, message):
    with pytest.raises(ValueError, match=message):
        load(**options(id, None))


def test_an_old_file_under_a_new_name_is_refused(tmp_path):
    columns = episodes("hopper-medium-v2", [3, 3], "tt")
    del columns["timeouts"]
    with pytest.raises(ValueError, match="records no timeouts, so it is a v0 file"):
        load(**options("hopper-medium-v2", write(tmp_path / "x.hdf5", columns)))


def test_the_file_of_another_task_is_refused(hopper):
    with pytest.raises(ValueError, match=r"\[12, 11\], expected \[N, 17\] for walker2d-medium-v2"):
        load(**options("walker2d-medium-v2", hopper))


def test_an_unknown_compatibility_is_refused(hopper):
    with pytest.raises(ValueError, match="compat='cql' is unknown"):
        load(**options("hopper-medium-v2", hopper, compat="cql"))


def test_a_changed_file_is_refused_when_its_checksum_is_given(hopper):
    with pytest.raises(ValueError, match="sha256"):
        load(**options("hopper-medium-v2", hopper, sha256="0" * 64))


def test_a_subset_keeps_whole_episodes(hopper):
    some = {"episodes": 2, "fraction": None, "seed": 0}
    data = load(**options("hopper-medium-v2", hopper, subset=some))
    assert len(data.episode_starts) == 2 and len(data) < 12
    assert torch.equal(data.transitions.next_obs, data.transitions.obs + 1)
