"""NeoRL-2's files: which rows, which ends, which scores, and what is refused."""

import logging

import numpy as np
import pandas
import pytest
import torch

from reverie.datasets import load as load_by_name
from reverie.datasets.readers.neorl2 import find_task, load
from reverie.envs.neorl2 import TASKS
from reverie.mistake import Mistake
from tests.datasets.benchmark_files import neorl2_columns, record, write


def options(id, path, **changes):
    standard = {
        "name": None,
        "id": id,
        "path": None if path is None else str(path),
        "trajectories": "standard",
        "env_id": "standard",
        "env_kwargs": {},
        "exogenous": None,
        "clip_actions": False,
    }
    return {**standard, **changes}


@pytest.fixture
def rocket(tmp_path):
    """A terminal, a time limit, a terminal and a cut."""
    return write(tmp_path / "rocket.npz", neorl2_columns("RocketRecovery", [3, 4, 2, 3], "tltc"))


def test_every_row_is_kept_and_limits_are_no_terminations(rocket):
    data = load(**options("RocketRecovery", rocket))
    assert len(data) == 12 and data.valid_next.all()
    assert torch.equal(data.transitions.next_obs, data.transitions.obs + 1)
    assert np.flatnonzero(data.transitions.terminated).tolist() == [2, 8]
    assert np.flatnonzero(data.truncated).tolist() == [6, 11]
    assert data.episode_starts.tolist() == [0, 3, 7, 9]
    assert torch.allclose(data.transitions.reward, data.transitions.obs[:, 0] / 10)
    assert data.name == "RocketRecovery" and data.spec.task == "neorl2/RocketRecovery"
    assert data.spec.obs_names[6] == "wind" and data.spec.max_episode_steps == 500
    assert (data.reference.low, data.reference.high) == (-176.0, 208.0)
    assert data.spec.env_id is None  # there is no simulator of ours
    assert data.origin["file"] == str(rocket)


def test_the_benchmark_learns_from_the_first_trajectories_only(tmp_path):
    columns = neorl2_columns("RocketRecovery", [2] * 103, "tl" * 51 + "t")
    path = write(tmp_path / "rocket.npz", columns)
    assert len(load(**options("RocketRecovery", path))) == 200
    assert len(load(**options("RocketRecovery", path, trajectories=3))) == 6
    whole = load(**options("RocketRecovery", path, trajectories=None))
    assert (
        len(whole) == 206
        and whole.fingerprint != load(**options("RocketRecovery", path)).fingerprint
    )
    other = write(tmp_path / "dmsd.npz", neorl2_columns("DMSD", [2] * 103, "l" * 103))
    assert len(load(**options("DMSD", other))) == 206


def test_where_trajectories_begin_can_stand_in_an_index(tmp_path):
    columns = neorl2_columns("DMSD", [3, 4, 2], "lll")
    del columns["truncated"]
    columns["index"] = np.array([0.0, 3.0, 7.0])
    data = load(**options("DMSD", write(tmp_path / "x.npz", columns)))
    assert data.episode_starts.tolist() == [0, 3, 7]
    assert np.flatnonzero(data.truncated).tolist() == [2, 6, 8]


@pytest.mark.parametrize("marks", [True, False])
def test_parquet_of_hugging_face_gives_the_same_rows(tmp_path, marks):
    columns = neorl2_columns("RocketRecovery", [3, 4, 2, 3], "tltc")
    table = {
        "observations": list(columns["obs"]),
        "actions": list(columns["action"]),
        "rewards": columns["reward"],
        "next_observations": list(columns["next_obs"]),
        "terminals": columns["done"],
    }
    if marks:
        table["truncated"] = columns["truncated"]
    path = tmp_path / "rocket.parquet"
    pandas.DataFrame(table).to_parquet(path)
    ours = load(**options("RocketRecovery", path))
    same = load(**options("RocketRecovery", write(tmp_path / "rocket.npz", columns)))
    assert ours.fingerprint == same.fingerprint  # without marks a jump ends an episode


def test_names_of_columns_say_which_are_exogenous(tmp_path):
    path = write(tmp_path / "x.npz", neorl2_columns("Pipeline", [30], "l"))
    data = load(**options("Pipeline", path, exogenous=["target"]))
    assert data.spec.exogenous == (1,)
    assert data.spec.obs_names[2] == "flow -1" and data.spec.obs_names[27] == "gate -1"


def test_an_option_of_its_own_is_the_reader_with_an_id(tmp_path):
    path = str(write(tmp_path / "Pipeline-train.npz", neorl2_columns("Pipeline", [30], "l")))
    by_name = load_by_name("neorl2/Pipeline", path=path, history=2, copies="auto")
    assert by_name.spec.stacked_obs == 2 and by_name.name == "Pipeline"
    plain = load_by_name("neorl2", id="Pipeline", path=path)
    assert plain.fingerprint == load(**options("Pipeline", path)).fingerprint


def test_rules_give_the_rewards_of_our_simulators_exactly_and_the_pipeline_copies(tmp_path):
    for task, episodes in (("Pipeline", 1), ("DMSD", 3)):
        path = str(write(tmp_path / f"{task}.npz", record(task, episodes)))
        data = load_by_name(f"neorl2/{task}", path=path, copies="auto")
        rows = data.transitions
        said = TASKS[task].reward(rows.obs, rows.action, rows.next_obs)
        assert (said - rows.reward).abs().max() < 1e-5
        assert len(data.spec.copies) == (50 if task == "Pipeline" else 0)
        assert data.spec.env_id.startswith("Reverie") and not rows.terminated.any()


def test_a_whole_file_under_its_name_is_found_where_the_package_keeps_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".neorl2" / "datasets"
    with pytest.raises(
        Mistake, match=r"Fusion-train.npz is not there; fetch http://.*dataset.path"
    ):
        load(**options("Fusion", None))
    folder.mkdir(parents=True)
    write(folder / "Fusion-train.npz", neorl2_columns("Fusion", [4], "l"))
    assert len(load(**options("Fusion", None))) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": None}, "lacks rewards; it holds .*obs"),
        ({"done": None, "next_obs": None}, "lacks terminals, next_observations"),
        (
            {"obs": np.zeros((12, 6), np.float32)},
            r"observations has shape \[12, 6\], expected \[N, 7\]",
        ),
        (
            {"action": np.zeros((12, 3), np.float32)},
            r"actions has shape .* is it the file of another",
        ),
        ({"reward": np.zeros(11)}, "differ in length"),
        ({"reward": np.full(12, np.nan)}, "reward 12 NaN"),
        ({"obs": np.zeros((12, 64, 64, 3), np.uint8)}, "images are not supported"),
        ({"action": np.full((12, 2), 3.0)}, "lies outside"),
        ({"done": np.eye(12)[5] * 2}, "terminated must hold only 0 and 1"),
        ({"truncated": np.eye(12)[5] * 2}, "truncated must hold only 0 and 1"),
        ({"done": np.array([0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0.0])}, "done marks every time limit"),
        ({"index": np.array([0, 30])}, "index must hold first rows"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, change, message):
    columns = neorl2_columns("RocketRecovery", [3, 4, 2, 3], "tltc") | change
    columns = {key: value for key, value in columns.items() if value is not None}
    path = write(tmp_path / "x.npz", columns)
    with pytest.raises(Mistake, match=message) as refused:
        load(**options("RocketRecovery", path))
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)


def test_unreadable_files_and_pickles_are_refused(tmp_path, rocket):
    cut = tmp_path / "cut.npz"
    cut.write_bytes(rocket.read_bytes()[:-200])
    pickled = tmp_path / "pickled.npz"
    columns = neorl2_columns("RocketRecovery", [3], "t")
    np.savez(pickled, **{**columns, "obs": columns["obs"].astype(object)})
    ragged = tmp_path / "ragged.parquet"
    pandas.DataFrame(
        {
            "observations": [[1.0] * 7, [1.0] * 6],
            "actions": [[0.0] * 2] * 2,
            "rewards": [0.0] * 2,
            "next_observations": [[1.0] * 7] * 2,
            "terminals": [0.0] * 2,
        }
    ).to_parquet(ragged)
    text = tmp_path / "text.npz"
    text.write_text("no zip\n")
    for path, message in (
        (cut, "cannot be read as .npz"),
        (text, r"\(File is not a zip file\)"),
        (pickled, "obs holds Python objects, .* write it as numbers"),
        (ragged, "lists of unequal length"),
        (tmp_path / "none.npz", "does not exist"),
        (tmp_path / "x.pkl", "has the suffix"),
    ):
        with pytest.raises(Mistake, match=message):
            load(**options("RocketRecovery", path))


@pytest.mark.parametrize(
    ("id", "nearest"),
    [("pipline", "Pipeline"), ("dmsd", "DMSD"), ("Hopper", "RandomFrictionHopper")],
)
def test_an_unknown_task_is_told_what_it_may_mean(id, nearest):
    with pytest.raises(Mistake, match=nearest):
        find_task(id)


def test_a_file_of_ends_in_one_flag_alone_is_remarked(tmp_path, caplog):
    columns = neorl2_columns("RocketRecovery", [3, 4], "tt")
    del columns["truncated"]
    with caplog.at_level(logging.WARNING):
        load(**options("RocketRecovery", write(tmp_path / "x.npz", columns)))
    assert "done is taken for terminations" in caplog.text
