"""Files of one's own: both kinds, both vocabularies, and everything that can be wrong with them."""

import logging
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from reverie.datasets.readers.file import load
from reverie.datasets.tables.files import find_tables
from reverie.datasets.tables.table import read_table
from reverie.mistake import Mistake


def options(path, **changes):
    standard = {
        "name": None,
        "path": str(path),
        "env_id": None,
        "env_kwargs": {},
        "physics": "as-is",
        "max_episode_steps": None,
        "obs_slice": None,
        "action_low": None,
        "action_high": None,
        "reference": None,
        "clip_actions": False,
    }
    return {**standard, **changes}


def recording():
    """Three episodes (terminal, time limit, cut) of a counter; the true successor is obs + 1."""
    obs = np.array([0, 1, 2, 100, 101, 102, 103, 200, 201], np.float32)
    flags = np.zeros(9, bool)
    terminals, timeouts = flags.copy(), flags.copy()
    terminals[2], timeouts[6] = True, True
    return {
        "observations": np.stack([obs, obs, -obs], 1),
        "actions": np.linspace(-1, 1, 18, dtype=np.float32).reshape(9, 2),
        "rewards": obs,
        "terminals": terminals,
        "timeouts": timeouts,
        "next_observations": np.stack([obs + 1, obs + 1, -obs - 1], 1),
    }


def write(path, columns):
    if path.suffix == ".npz":
        np.savez(path, **columns)
    else:
        with h5py.File(path, "w") as file:
            for name, column in columns.items():
                file[name] = column
    return path


@pytest.mark.parametrize("suffix", [".hdf5", ".h5", ".npz"])
def test_all_rows_flags_and_true_successors_survive(tmp_path, suffix):
    data = load(**options(write(tmp_path / f"log{suffix}", recording())))
    assert data.name == "log"
    assert torch.equal(data.transitions.next_obs[:, 0], data.transitions.obs[:, 0] + 1)
    assert np.flatnonzero(data.transitions.terminated).tolist() == [2]
    assert np.flatnonzero(data.truncated).tolist() == [6, 8]
    assert data.episode_starts.tolist() == [0, 3, 7]
    assert data.valid_next.all()
    assert data.spec.env_id is None
    assert data.spec.action_high == (1.0, 1.0)


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
def test_without_stored_successors_unknown_ones_are_dropped(tmp_path, suffix):
    columns = recording()
    del columns["next_observations"]
    data = load(**options(write(tmp_path / f"log{suffix}", columns)))
    assert data.transitions.obs[:, 0].tolist() == [0, 1, 2, 100, 101, 102, 200]
    assert data.transitions.next_obs[:, 0].tolist() == [1, 2, 2, 101, 102, 103, 201]
    assert np.flatnonzero(~data.valid_next).tolist() == [2]
    assert np.flatnonzero(data.truncated).tolist() == [5, 6]


def test_neorl_names_and_index_give_the_same_dataset(tmp_path):
    columns = recording()
    plain = load(**options(write(tmp_path / "plain.npz", columns)))
    theirs = {
        "obs": columns["observations"],
        "next_obs": columns["next_observations"],
        "action": columns["actions"],
        "reward": columns["rewards"][:, None],
        "done": columns["terminals"][:, None].astype(float),
        "index": np.array([[3.0], [7.0]]),  # the first trajectory is left out in their files
    }
    neorl = load(**options(write(tmp_path / "neorl.npz", theirs)))
    assert neorl.fingerprint == plain.fingerprint
    theirs["index"] = np.array([0, 7])
    theirs["truncated"] = columns["timeouts"]
    neorl2 = load(**options(write(tmp_path / "neorl2.npz", theirs)))
    assert neorl2.fingerprint == plain.fingerprint
    theirs["index"] = np.array([7])
    theirs["truncated"] = np.arange(9) == 4
    both = load(**options(write(tmp_path / "both.npz", theirs)))
    assert both.episode_starts.tolist() == [0, 3, 5, 7]


def test_without_timeouts_jumps_of_the_stored_successors_end_episodes(tmp_path):
    columns = recording()
    del columns["timeouts"]
    data = load(**options(write(tmp_path / "log.npz", columns), max_episode_steps=2))
    assert data.episode_starts.tolist() == [0, 3, 7]
    assert np.flatnonzero(data.truncated).tolist() == [6, 8]


def test_without_timeouts_and_successors_the_limit_counts(tmp_path):
    columns = recording()
    del columns["timeouts"], columns["next_observations"]
    path = write(tmp_path / "log.npz", columns)
    data = load(**options(path, max_episode_steps=4))
    assert data.transitions.obs[:, 0].tolist() == [0, 1, 2, 100, 101, 102, 200]
    assert data.spec.max_episode_steps == 4


def test_nothing_known_about_ends_is_said(tmp_path, caplog):
    columns = recording()
    del columns["timeouts"], columns["next_observations"]
    with caplog.at_level(logging.WARNING):
        load(**options(write(tmp_path / "log.npz", columns)))
    assert "dataset.max_episode_steps" in caplog.text


def test_the_environment_gives_bounds_limit_and_physics(tmp_path):
    columns = recording()
    columns["actions"] = 2.0 * columns["actions"][:, :1]
    path = write(tmp_path / "log.npz", columns)
    data = load(**options(path, env_id="Pendulum-v1", env_kwargs={"g": 9.0}))
    assert data.spec.env_id == "Pendulum-v1"
    assert (data.spec.action_low, data.spec.max_episode_steps) == ((-2.0,), 200)
    assert data.spec.env_kwargs == {"g": 9.0}
    expected = torch.from_numpy(columns["actions"]) / 2.0
    assert torch.allclose(data.transitions.action, expected)


def test_an_environment_with_other_spaces_is_refused(tmp_path):
    path = write(tmp_path / "log.npz", recording())
    with pytest.raises(ValueError, match=r"size 3 and actions of size 2.*Hopper-v5 has 11 and 3"):
        load(**options(path, env_id="Hopper-v5"))


def test_given_bounds_rescale_and_belong_to_files_without_environment(tmp_path):
    columns = recording()
    columns["actions"] = columns["actions"] * [2.0, 5.0] + [1.0, 0.0]
    path = write(tmp_path / "log.npz", columns)
    box = {"action_low": [-1.0, -5.0], "action_high": [3.0, 5.0]}
    data = load(**options(path, **box))
    assert np.allclose(data.transitions.action, recording()["actions"], atol=1e-6)
    assert load(**options(path, action_low=-5.0, action_high=5.0)).spec.action_low == (-5.0, -5.0)
    with pytest.raises(ValueError, match="action_low has 1 entry for 2 actions"):
        load(**options(path, action_low=[-1.0]))
    with pytest.raises(ValueError, match="leave them null"):
        load(**options(path, env_id="Pendulum-v1", action_low=-2.0))


def test_observations_can_be_cut(tmp_path):
    data = load(**options(write(tmp_path / "log.npz", recording()), obs_slice=2))
    assert data.transitions.obs.shape == data.transitions.next_obs.shape == (9, 2)
    assert data.spec.obs_slice == 2
    with pytest.raises(ValueError, match="obs_slice=4 does not fit the 3"):
        load(**options(write(tmp_path / "log.npz", recording()), obs_slice=4))


def test_a_reference_can_be_given(tmp_path):
    path = write(tmp_path / "log.npz", recording())
    assert load(**options(path)).reference is None
    assert load(**options(path, reference=[10.0, 20.0])).reference.normalise(15.0) == 50.0


def spoiled(name, change):
    columns = recording()
    columns[name] = change(columns[name].copy())
    return columns


def with_nan(column):
    column[4] = np.nan
    return column


BAD = {
    "unequal": (spoiled("rewards", lambda c: c[:-1]), r"differ in length .*rewards 8"),
    "nan reward": (spoiled("rewards", with_nan), r"reward 1 NaN and 0 Inf .*first row 4"),
    "outside": (spoiled("actions", lambda c: 3 * c), r"lies outside \[-1, 1\].*clip_actions"),
    "discrete": (
        spoiled("actions", lambda c: np.arange(9)),
        "single integers as actions, a discrete action space",
    ),
    "discrete column": (
        spoiled("actions", lambda c: np.arange(9)[:, None]),
        "single integers as actions, a discrete action space",
    ),
    "flat observations": (spoiled("observations", lambda c: c[:, 0]), r"expected \[N, width\]"),
    "text": (spoiled("rewards", lambda c: c.astype("S5")), "rewards holds .*expected numbers"),
    "empty": ({key: value[:0] for key, value in recording().items()}, r"log\.\w+ has no rows"),
    "missing": (
        {key: value for key, value in recording().items() if key not in ("rewards", "terminals")},
        "lacks rewards, terminals; it holds actions, next_observations, observations, timeouts: ",
    ),
    "successors of another width": (
        spoiled("next_observations", lambda c: c[:, :2]),
        r"next_obs has shape \[9, 2\]",
    ),
}


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
@pytest.mark.parametrize("case", BAD)
def test_bad_contents_end_in_one_clear_line(tmp_path, suffix, case):
    columns, message = BAD[case]
    path = write(tmp_path / f"log{suffix}", columns)
    with pytest.raises(ValueError, match=message) as caught:
        load(**options(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_files_end_in_one_clear_line(tmp_path, suffix, share):
    columns = {key: np.repeat(value, 200, axis=0) for key, value in recording().items()}
    path = write(tmp_path / f"log{suffix}", columns)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"cannot be read as .*fetch it again") as caught:
        load(**options(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_damage_inside_a_compressed_column_is_found(tmp_path):
    path = tmp_path / "log.hdf5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for name, column in recording().items():
            file[name] = column
        del file["observations"]
        noise = rng.normal(size=(9, 500))
        file.create_dataset("observations", data=noise, compression="gzip", chunks=(9, 500))
        offset = file["observations"].id.get_chunk_info(0).byte_offset
    with path.open("r+b") as file:
        file.seek(offset + 1000)
        file.write(bytes(2000))
    with pytest.raises(ValueError, match="cannot be read as HDF5"):
        load(**options(path))


@pytest.mark.parametrize(
    ("suffix", "remedy"),
    [(".csv", "choose dataset=table"), (".mat", r"with numpy\.savez, or give")],
)
def test_another_suffix_ends_in_a_remedy(tmp_path, suffix, remedy):
    path = tmp_path / f"log{suffix}"
    path.touch()
    with pytest.raises(ValueError, match=remedy):
        load(**options(path))


def test_records_in_the_place_of_numbers_are_named(tmp_path):
    pairs = np.zeros(9, dtype=[("x", "f4"), ("y", "f4")])
    path = write(tmp_path / "log.npz", recording() | {"observations": pairs})
    with pytest.raises(Mistake, match="observations holds records of x, y, expected numbers"):
        load(**options(path))


def test_a_single_value_in_the_place_of_an_array_is_called_that(tmp_path):
    path = write(tmp_path / "log.npz", recording() | {"rewards": np.float32(1)})
    with pytest.raises(Mistake, match="rewards is a single value, expected an array with an entry"):
        load(**options(path))


def test_a_minari_file_is_recognised(tmp_path):
    path = tmp_path / "main_data.hdf5"
    with h5py.File(path, "w") as file:
        file["episode_0/observations"] = np.zeros((3, 2))
    with pytest.raises(ValueError, match="dataset=minari"):
        load(**options(path))


def test_pickled_arrays_are_not_loaded(tmp_path):
    columns = recording()
    columns["rewards"] = np.array([{}] * 9, dtype=object)
    with pytest.raises(ValueError, match="rewards holds Python objects"):
        load(**options(write(tmp_path / "log.npz", columns)))


def test_wrong_paths_are_named(tmp_path):
    with pytest.raises(Mistake, match=r"nowhere\.npz does not exist"):
        load(**options(tmp_path / "nowhere.npz"))
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"suffix '.csv', expected .hdf5"):
        load(**options(tmp_path / "table.csv"))
    (tmp_path / "folder.npz").mkdir()
    for folder in (tmp_path, tmp_path / "folder.npz"):
        with pytest.raises(Mistake, match="is a folder; give one data file"):
            load(**options(folder))
    with pytest.raises(Mistake, match=r"\.npz cannot be read: File name too long; give another"):
        load(**options(tmp_path / f"{'x' * 300}.npz"))
    with pytest.raises(Mistake, match=r"home folder in ~nobody-at-all/x\.npz is not known"):
        load(**options("~nobody-at-all/x.npz"))


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, suffix, monkeypatch):
    path = write(tmp_path / f"log{suffix}", recording())

    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    for step in ("open", "exists"):  # of the file itself, of a folder above
        monkeypatch.setattr(Path, step, refuse)
        with pytest.raises(Mistake, match=r"cannot be read: Permission denied; make it readable$"):
            load(**options(path))
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ([1, 4, 8], "found 1 to 8 of 9 rows; subtract 1 if it counts from 1"),
        ([2, 6, 8], "found 2 to 8 of 9 rows; .* store timeouts if it holds last rows"),
        (range(9), "an entry for every row"),
        ([0, 1, 2, 0, 1, 2, 3, 0, 1], "an entry for every row, .*set .*index: null"),
    ],
)
def test_an_index_of_something_else_is_refused(tmp_path, index, expected):
    columns = recording() | {"index": np.array(index)}
    with pytest.raises(Mistake, match=expected):
        load(**options(write(tmp_path / "log.npz", columns)))


@pytest.mark.parametrize("index", [[0, 9], [-1], [1.5]])
def test_an_impossible_index_is_refused(tmp_path, index):
    columns = recording()
    columns["index"] = np.array(index)
    with pytest.raises(ValueError, match="index must hold first rows"):
        load(**options(write(tmp_path / "log.npz", columns)))


def test_a_subset_keeps_whole_episodes(tmp_path):
    some = {"episodes": 2, "fraction": None, "seed": 0}
    data = load(**options(write(tmp_path / "log.npz", recording()), subset=some))
    assert sorted([*data.episode_lengths.tolist(), 9 - len(data)]) == [2, 3, 4]


def test_a_file_under_the_suffix_of_another_kind_is_to_be_renamed(tmp_path):
    for right, wrong in ((".h5", ".npz"), (".npz", ".h5"), (".hdf5", "")):
        file = write(tmp_path / f"log{right}", recording())
        file = file.rename(tmp_path / f"other{wrong}")
        with pytest.raises(Mistake, match=r"has the suffix .* rename it to other") as refused:
            load(**options(file))
        load(**options(file.rename(tmp_path / str(refused.value).rpartition(" ")[2])))


def test_a_damaged_archive_is_named(tmp_path):
    file = write(tmp_path / "log.npz", recording())
    content = bytearray(file.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 2] = 0  # where its index begins
    file.write_bytes(content)
    with pytest.raises(Mistake, match=r"log\.npz"):
        load(**options(file))


def test_a_link_to_nothing_is_no_damage(tmp_path):
    columns = recording()
    del columns["next_observations"]
    file = write(tmp_path / "log.h5", columns)
    with h5py.File(file, "a") as opened:
        opened["next_observations"] = h5py.SoftLink("/nowhere")
    with pytest.raises(Mistake, match="next_observations lies in /nowhere, which is not there"):
        load(**options(file))


@pytest.mark.parametrize("path", ["[a.h5,b.h5]", "a.h5,b.h5", "{a,b}.h5"])
def test_a_list_of_paths_is_answered_with_what_is_possible(path):
    with pytest.raises(Mistake, match=r"does not exist; dataset.path takes no list: .*folder"):
        load(**options(path))
    with pytest.raises(Mistake, match=r"dataset.path takes no list: .*folder"):
        read_table(find_tables(path)[0])
