"""Columns that are clear are read, under any usual name; what HDF5 would make up is refused."""

import logging

import h5py
import numpy as np
import pytest
import torch

from reverie.datasets.options import load as load_option
from reverie.datasets.readers.file import load
from reverie.mistake import Mistake
from tests.datasets.test_file import options, recording, write

SUFFIXES = (".hdf5", ".npz")


@pytest.fixture
def plain(tmp_path):
    return load(**options(write(tmp_path / "plain.npz", recording()))).fingerprint


def renamed(**names):
    columns = recording()
    return {names.get(key, key): value for key, value in columns.items()}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "names",
    [
        {"terminals": "terminated", "timeouts": "truncated"},
        {"terminals": "terminations", "timeouts": "truncations"},
        {"terminals": "dones"},
        {"observations": "obs", "actions": "acts", "rewards": "rews", "terminals": "done"},
        {"observations": "states", "next_observations": "next_states", "actions": "action"},
        {"next_observations": "next_obs", "timeouts": "timeout"},
    ],
    ids=lambda names: ",".join(names.values()),
)
def test_other_usual_names_are_read_in_both_formats(tmp_path, plain, suffix, names):
    data = load(**options(write(tmp_path / f"log{suffix}", renamed(**names))))
    assert data.fingerprint == plain


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_ends_of_episodes_as_d3rlpy_marks_them_end_episodes(tmp_path, plain, suffix):
    columns = renamed(timeouts="episode_terminals")
    columns["episode_terminals"] = columns["episode_terminals"] | columns["terminals"]
    columns["episode_terminals"][-1] = True
    data = load(**options(write(tmp_path / f"log{suffix}", columns)))
    assert data.fingerprint == plain


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_flags_of_rlds_end_episodes_and_its_terminations_are_refused(tmp_path, plain, suffix):
    """There the last row of an episode is an observation alone, and holds the flag."""
    columns = renamed(terminals="is_terminal", timeouts="is_last")
    columns["is_first"] = np.append(True, columns["is_last"][:-1])
    path = write(tmp_path / f"log{suffix}", columns)
    with pytest.raises(Mistake, match="store the flags one row earlier, as terminals, or set"):
        load(**options(path))
    named = options(path) | {"columns": {"terminals": "is_terminal"}}
    assert load(**named).fingerprint == plain
    none = columns | {"is_terminal": np.zeros(9)}
    read, same = (
        load(**options(write(tmp_path / f"{n}{suffix}", each)))
        for n, each in (("none", none), ("same", renamed() | {"terminals": np.zeros(9)}))
    )
    assert read.fingerprint == same.fingerprint


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("is_first", [1, 0, 0, 1, 0, 0, 0, 1, 0]),
        ("is_init", [[True], *[[False]] * 2, [True], *[[False]] * 3, [True], [False]]),
        ("episode_ids", [4, 4, 4, 2, 2, 2, 2, 7, 7]),
        ("trajectory", [b"a", b"a", b"a", b"b", b"b", b"b", b"b", b"c", b"c"]),
    ],
)
def test_what_tells_episodes_apart_ends_them_where_no_time_limit_is_stored(
    tmp_path, suffix, name, column
):
    """They were one episode, and transitions led from the end of one to the start of the next."""
    columns = recording()
    del columns["next_observations"]
    known = load(**options(write(tmp_path / f"known{suffix}", columns)))
    columns["terminals"][:] = False
    all_ends = load(**options(write(tmp_path / f"all{suffix}", ended(columns))))
    del columns["timeouts"]
    path = write(tmp_path / f"log{suffix}", columns | {name: np.array(column)})
    assert load(**options(path)).fingerprint == all_ends.fingerprint != known.fingerprint
    path = write(tmp_path / f"named{suffix}", columns | {"mine": np.array(column)})
    if not name.startswith("is_"):  # a flag is known by its name, or among many more rows
        named = load(**options(path, columns={"episodes": "mine"}))
        assert named.fingerprint == all_ends.fingerprint


def ended(columns):
    flags = np.zeros(9, bool)
    flags[[2, 6]] = True
    return columns | {"timeouts": flags}


def test_numbers_of_episodes_that_come_back_or_are_too_few_are_refused(tmp_path, caplog):
    columns = recording()
    del columns["next_observations"], columns["timeouts"]
    path = write(
        tmp_path / "back.npz", columns | {"episode": np.array([1, 1, 2, 2, 2, 1, 1, 3, 3])}
    )
    with pytest.raises(Mistake, match=r"episode is not sorted: 1 comes back in row 5 .*null\}"):
        load(**options(path))
    caplog.set_level(logging.WARNING)
    load(**options(path, columns={"episodes": None}))
    assert "not read: episode; if one says where time limits end" in caplog.text
    path = write(tmp_path / "few.npz", columns | {"episode": np.arange(3)})
    assert len(load(**options(path))) == 8  # other arrays are ignored
    with pytest.raises(Mistake, match="episode must hold one number or name for each of 9 rows"):
        load(**options(path, columns={"episodes": "episode"}))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"env_kwargs": {"mass": 2}}, r"env_kwargs=\{'mass': 2\} are options of an environment"),
        ({"physics": "d4rl"}, r"physics=d4rl is for the contacts of an environment, and none"),
    ],
)
def test_options_of_an_environment_that_nobody_names_are_refused(tmp_path, given, says):
    path = write(tmp_path / "log.npz", recording())
    with pytest.raises(Mistake, match=says):
        load(**options(path, **given))


@pytest.mark.parametrize("key", ["episode_starts", "episode_ids", "episode_1_of_many"])
def test_keys_that_begin_like_minaris_groups_are_ignored(tmp_path, plain, key):
    columns = recording() | {key: np.arange(9)}
    assert load(**options(write(tmp_path / "log.hdf5", columns))).fingerprint == plain


def test_numbers_in_columns_of_width_one_and_float_flags_are_read(tmp_path, plain):
    columns = recording()
    for key in ("rewards", "terminals", "timeouts"):
        columns[key] = columns[key][:, None].astype(np.float64)
    for suffix in SUFFIXES:
        assert load(**options(write(tmp_path / f"log{suffix}", columns))).fingerprint == plain


@pytest.mark.parametrize("suffix", [".HDF5", ".H5", ".Hdf5", ".NPZ"])
def test_suffixes_in_capitals_are_read(tmp_path, plain, suffix):
    path = write(tmp_path / f"log{suffix.lower()}", recording())
    path = path.rename(path.with_suffix(suffix))
    assert load(**options(path)).fingerprint == plain


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_actions_without_a_width_are_one_action(tmp_path, suffix):
    columns = recording()
    columns["actions"] = columns["actions"][:, 0]
    data = load(**options(write(tmp_path / f"log{suffix}", columns)))
    assert data.spec.action_dim == 1
    assert data.transitions.action[:, 0].tolist() == columns["actions"].tolist()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_columns_can_be_named_and_left_out(tmp_path, plain, suffix):
    columns = renamed(terminals="fell", observations="sensors") | {"terminated": np.ones(9)}
    path = write(tmp_path / f"log{suffix}", columns)
    named = {"terminals": "fell", "observations": "sensors"}
    assert load(**options(path, columns=named)).fingerprint == plain
    without = load(**options(path, columns={**named, "next_observations": None}))
    assert len(without) == 7


def test_a_column_inside_a_group_can_be_named(tmp_path, plain):
    columns = renamed(observations="data/state")
    path = write(tmp_path / "log.hdf5", columns)
    assert load(**options(path, columns={"observations": "data/state"})).fingerprint == plain
    path = write(tmp_path / "group.hdf5", renamed(observations="observations/state"))
    with pytest.raises(Mistake, match=r"is a group.*columns=\{observations: observations/NAME\}"):
        load(**options(path))


def test_columns_beside_one_that_is_named_in_a_group_are_found_there(tmp_path, plain):
    columns = {f"data/{key}": column for key, column in recording().items()}
    path = write(tmp_path / "log.hdf5", columns | {"timeouts": np.zeros(9, bool)})
    assert load(**options(path, columns={"rewards": "data/rewards"})).fingerprint == plain
    with pytest.raises(Mistake, match="it holds data/actions, data/next_observations, data/obs"):
        load(**options(path))


@pytest.mark.parametrize("named", [["rewards"], {"rewards": ["a", "b"]}, {"rewards": 3}])
def test_what_gives_no_name_for_a_column_is_refused(tmp_path, named):
    path = write(tmp_path / "log.npz", recording())
    with pytest.raises(Mistake, match=r"dataset\.columns=.* must give one name for a column"):
        load(**options(path, columns=named))


def test_a_file_that_a_link_names_and_that_is_gone_is_told(tmp_path, plain):
    write(tmp_path / "other.hdf5", recording())
    with h5py.File(tmp_path / "log.hdf5", "w") as file:
        for key in recording():
            file[key] = h5py.ExternalLink("other.hdf5", key)
    assert load(**options(tmp_path / "log.hdf5")).fingerprint == plain
    (tmp_path / "other.hdf5").unlink()
    with pytest.raises(Mistake, match=r"lies in another file, other\.hdf5, which is not there"):
        load(**options(tmp_path / "log.hdf5"))


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
        ("\n<!DOCTYPE html>\n<html></html>", "is a web page, probably of a failed download"),
    ],
)
def test_what_stands_for_the_data_is_not_called_damaged(tmp_path, suffix, text, message):
    path = tmp_path / f"log{suffix}"
    path.write_text(text)
    with pytest.raises(Mistake, match=message):
        load(**options(path))


def test_loose_names_are_as_loose_in_a_group(tmp_path, caplog):
    columns = {f"data/{key}": column for key, column in renamed(terminals="done").items()}
    path = write(tmp_path / "log.hdf5", columns)
    with caplog.at_level(logging.WARNING):
        load(**options(path, columns={"rewards": "data/rewards", "timeouts": None}))
    assert "data/done is taken for terminations" in caplog.text


@pytest.mark.parametrize("groups", ["data/demo_{}", "ep{}", "episode_{}"])
def test_a_group_for_each_episode_is_called_so(tmp_path, groups):
    columns = {
        f"{groups.format(number)}/{key}": column[:3]
        for number in range(2)
        for key, column in recording().items()
    }
    with pytest.raises(Mistake, match=r"holds its episodes one by one \(.*_?0/actions, "):
        load(**options(write(tmp_path / "log.hdf5", columns)))


def test_given_arrays_may_be_tensors_and_settings_those_of_numpy(tmp_path, plain):
    tensors = {key: torch.tensor(column) for key, column in recording().items()}
    low, high = np.float32(-1), np.array([1.0] * tensors["actions"].shape[1])
    assert load_option(tensors, action_low=low, action_high=high).fingerprint == plain
    tensors["actions"].requires_grad_()
    with pytest.raises(Mistake, match=r"actions is no array \(Can't call numpy.*give an array"):
        load_option(tensors)
    path = write(tmp_path / "log.npz", recording())
    assert load_option("file", path=path, columns={"rewards": np.str_("rewards")}) is not None


def test_given_arrays_take_names_too(plain):
    data = load_option(renamed(terminals="fell"), columns={"terminals": "fell"})
    assert data.fingerprint == plain


def test_wrong_names_of_columns_say_what_there_is(tmp_path):
    path = write(tmp_path / "log.hdf5", renamed(terminals="fell"))
    with pytest.raises(Mistake, match=r"lacks terminals; it holds actions, fell.*terminals: NAME"):
        load(**options(path))
    with pytest.raises(Mistake, match=r"holds no 'fel', .* for terminals; it holds actions, fell"):
        load(**options(path, columns={"terminals": "fel"}))
    with pytest.raises(Mistake, match=r"has the key ends; .*observations, actions, rewards"):
        load(**options(path, columns={"ends": "fell"}))


def test_two_names_for_one_column_are_refused_unless_one_is_exact(tmp_path, plain, caplog):
    columns = renamed(rewards="reward") | {"rew": np.zeros(9)}
    path = write(tmp_path / "log.npz", columns)
    with pytest.raises(Mistake, match=r"reward and rew, .*columns=\{rewards: reward\}"):
        load(**options(path))
    assert load(**options(path, columns={"rewards": "reward"})).fingerprint == plain
    ends = recording()["terminals"] | recording()["timeouts"]
    both = renamed(terminals="terminated") | {"done": ends}  # the exact name is meant
    assert load(**options(write(tmp_path / "both.npz", both))).fingerprint == plain
    with caplog.at_level(logging.WARNING):
        more = recording() | {"reward": np.zeros(9)}
        assert load(**options(write(tmp_path / "more.npz", more))).fingerprint == plain
    assert "rewards is read, reward is not" in caplog.text


def test_done_flags_that_mark_time_limits_too_are_not_taken_for_terminations(tmp_path, caplog):
    columns = renamed(terminals="dones")
    columns["dones"] = columns["dones"] | columns["timeouts"]
    with pytest.raises(Mistake, match="dones marks every time limit too"):
        load(**options(write(tmp_path / "log.npz", columns)))
    del columns["timeouts"]
    with caplog.at_level(logging.WARNING):
        load(**options(write(tmp_path / "log.npz", columns)))
    assert "dones is taken for terminations" in caplog.text


@pytest.mark.parametrize(
    ("shape", "dtype"), [((9, 8, 8, 3), np.uint8), ((9, 8, 8), np.uint8), ((9, 4, 8, 8), "f4")]
)
def test_images_are_refused_for_what_they_are(tmp_path, shape, dtype):
    columns = recording() | {"observations": np.zeros(shape, dtype)}
    with pytest.raises(Mistake, match="images are not supported"):
        load(**options(write(tmp_path / "log.npz", columns)))


def holed(path, make):
    """A file whose rewards `make` writes."""
    write(path, {key: value for key, value in recording().items() if key != "rewards"})
    with h5py.File(path, "r+") as file:
        make(file)
    return path


def virtual(file, *, mapped=9):
    layout = h5py.VirtualLayout((9,), "f4")
    layout[:mapped] = h5py.VirtualSource("part.hdf5", "x", shape=(9,))[:mapped]
    file.create_virtual_dataset("rewards", layout)


def part(path, rows=9, name="x"):
    with h5py.File(path, "w") as file:
        file[name] = np.arange(rows, dtype=np.float32)


def test_virtual_columns_are_read_while_their_sources_are_there(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    path = holed(tmp_path / "log.hdf5", virtual)
    part(tmp_path / "part.hdf5")
    assert load(**options(path)).transitions.reward.tolist() == list(range(9))


@pytest.mark.parametrize(
    ("prepare", "how", "message"),
    [
        (lambda part_: None, {}, "rewards lies in .*part.hdf5, which is not there"),
        (lambda part_: part(part_, name="y"), {}, "x of .*part.hdf5, which is not there"),
        (lambda part_: part(part_, rows=5), {}, "x of .*part.hdf5, which holds fewer values"),
        (part, {"mapped": 4}, "has 5 of 9 values that no source fills"),
    ],
    ids=["file", "dataset", "short", "unmapped"],
)
def test_virtual_columns_without_sources_are_refused(tmp_path, prepare, how, message):
    path = holed(tmp_path / "log.hdf5", lambda file: virtual(file, **how))
    prepare(tmp_path / "part.hdf5")
    with pytest.raises(Mistake, match=message) as caught:
        load(**options(path))
    assert str(path) in str(caught.value)


def test_raw_files_that_are_gone_or_short_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def outside(file):
        file.create_dataset("rewards", (9,), "f4", external="raw.bin")[:] = np.arange(9)

    path = holed(tmp_path / "log.hdf5", outside)
    raw = tmp_path / "raw.bin"
    assert load(**options(path)).transitions.reward.tolist() == list(range(9))
    raw.write_bytes(raw.read_bytes()[:20])
    with pytest.raises(Mistake, match=r"raw\.bin, which is shorter"):
        load(**options(path))
    raw.unlink()
    with pytest.raises(Mistake, match=r"raw\.bin, which is not there"):
        load(**options(path))


def begun(file):
    file.create_dataset("rewards", (9,), "f4", chunks=(2,))[:5] = 1


def never(file):
    file.create_dataset("rewards", (9,), "f4")


@pytest.mark.parametrize(
    ("make", "message"),
    [(begun, "rewards has 2 of 5 chunks that were never written"), (never, "was never written")],
)
def test_columns_that_were_not_written_to_their_end_are_refused(tmp_path, make, message):
    with pytest.raises(Mistake, match=message):
        load(**options(holed(tmp_path / "log.hdf5", make)))


def test_zeros_that_were_written_are_read(tmp_path):
    def zeros(file):
        file.create_dataset("rewards", (9,), "f4", chunks=(2,), compression="gzip")[:] = 0

    assert not load(**options(holed(tmp_path / "log.hdf5", zeros))).transitions.reward.any()
