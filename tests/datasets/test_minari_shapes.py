"""Recordings of a user's own are read where they are clear, and named for what they are."""

import json

import h5py
import numpy as np
import pytest
from gymnasium import spaces

from reverie.datasets.readers.minari import load
from reverie.mistake import Mistake
from tests.datasets.test_minari import ACTION, buffers, env_spec, options, write


@pytest.fixture
def plain(tmp_path):
    write(tmp_path, buffers(), id="toy/plain-v0")
    return load(**options(tmp_path, id="toy/plain-v0")).fingerprint


def as_column(column):
    return column[:, None]


def as_floats(column):
    return column.astype(np.float64)


def as_float_column(column):
    return column.astype(np.float32)[:, None]


@pytest.mark.parametrize(
    "changes",
    [
        {"rewards": as_column},
        {"terminations": as_floats, "truncations": as_floats},
        {"terminations": as_float_column, "truncations": as_column, "rewards": as_float_column},
        {"terminations": lambda flags: flags.astype(np.uint8), "rewards": np.float16},
        {"actions": lambda actions: actions[:, 0]},
        {"observations": lambda obs: obs[:, None, :]},
    ],
    ids=["rewards", "flags", "columns", "small types", "actions", "observations"],
)
def test_shapes_and_types_that_are_clear_are_read(tmp_path, plain, changes):
    episodes = list(buffers())
    for episode in episodes:
        for key, change in changes.items():
            episode[key] = change(episode[key])
    write(tmp_path, episodes)
    data = load(**options(tmp_path))
    if "rewards" not in changes or np.float16 not in changes.values():
        assert data.fingerprint == plain


def test_what_a_user_adds_to_a_set_and_whole_numbers_as_floats_are_no_loss(tmp_path, plain):
    data = write(tmp_path, buffers(), total_episodes=3.0, total_steps=9.0)
    with h5py.File(data / "main_data.hdf5", "a") as file:
        file["my_notes/observations"] = np.zeros(3)
    assert load(**options(tmp_path)).fingerprint == plain


@pytest.mark.parametrize("observations", [0, 1])
def test_an_episode_without_a_step_is_left_out(tmp_path, plain, observations):
    data = write(tmp_path, buffers(), total_episodes=4)
    with h5py.File(data / "main_data.hdf5", "a") as file:
        for key, column in file["episode_0"].items():
            rows = observations if key == "observations" else 0
            file[f"episode_3/{key}"] = column[:rows]
    assert load(**options(tmp_path)).fingerprint == plain


def test_keys_of_observations_that_have_none_are_refused(tmp_path):
    write(tmp_path, buffers())
    with pytest.raises(Mistake, match=r"has no keys, of which \[x\] could be some; leave"):
        load(**options(tmp_path, obs_keys=["x"]))


def spoil(key, value):
    def change(episodes):
        episodes[1][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoil("terminations", np.full(4, 0.5)), "episode 1 holds 0.5 as terminations of step 0"),
        (spoil("truncations", np.full(4, np.nan)), "episode 1 holds nan as truncations of step 0"),
        (spoil("rewards", np.zeros((4, 2))), "episode 1 holds rewards of shape .4, 2., expected"),
        (spoil("rewards", np.float64(3.0)), "episode 1 holds one number as rewards"),
        (spoil("actions", {"a": np.zeros(4)}), "episode 1 has no array actions"),
        (spoil("rewards", np.array([b"1"] * 4)), "episode 1 holds texts as rewards, expected numb"),
        (spoil("actions", np.zeros((4, 1), complex)), "values of type complex128 as actions"),
    ],
)
def test_what_is_wrong_is_named_and_nobody_is_told_to_delete_it(tmp_path, change, message):
    episodes = list(buffers())
    change(episodes)
    data = write(tmp_path, [e for e in episodes if np.ndim(e["rewards"])], id="toy/count-v0")
    if not np.ndim(episodes[1]["rewards"]):
        with h5py.File(data / "main_data.hdf5", "r+") as file:
            del file["episode_1/rewards"]
            file["episode_1/rewards"] = 3.0
    with pytest.raises(Mistake, match=message) as caught:
        load(**options(tmp_path))
    assert str(data / "main_data.hdf5") in str(caught.value)
    assert "delete" not in str(caught.value)
    assert "damaged" not in str(caught.value)


def test_episodes_are_counted_and_looked_for_by_number(tmp_path):
    data = write(tmp_path, buffers(), total_episodes=4)
    with pytest.raises(Mistake, match="holds 3 episodes, its metadata says 4"):
        load(**options(tmp_path))
    with h5py.File(data / "main_data.hdf5", "r+") as file:
        file.move("episode_1", "episode_7")
        file.create_group("episode_9")
    with pytest.raises(Mistake, match="has no group episode_1 though it holds 4 episodes"):
        load(**options(tmp_path))


@pytest.mark.parametrize("odd", [{}, [], 7, 1.5, True, None, "text"])
@pytest.mark.parametrize(
    "key", ["minari_version", "data_format", "observation_space", "env_spec", "requirements"]
)
def test_metadata_of_any_type_are_read_or_refused(tmp_path, key, odd):
    write(tmp_path, buffers(), **{key: odd})
    try:
        assert len(load(**options(tmp_path))) == 9
    except Mistake as refused:
        assert "toy" in str(refused) and "\n" not in str(refused)


@pytest.mark.parametrize("total", ["9", None, -1, 1e18])
def test_numbers_in_the_metadata_are_not_trusted(tmp_path, total):
    write(tmp_path, buffers(), total_steps=total)
    with pytest.raises(Mistake, match="total_steps"):
        load(**options(tmp_path))


def test_an_episode_that_was_not_written_to_its_end_is_refused(tmp_path):
    data = write(tmp_path, buffers())
    with h5py.File(data / "main_data.hdf5", "r+") as file:
        del file["episode_2/rewards"]
        file["episode_2"].create_dataset("rewards", (2,), "f8", chunks=(1,))[0] = 1.0
    with pytest.raises(Mistake, match="rewards of episode 2 has 1 of 2 chunks that were never"):
        load(**options(tmp_path))


def to_version_4(data, drop=(), **changes):
    """Bring a dataset into the layout of Minari 0.4: what the metadata say are attributes."""
    metadata = json.loads((data / "metadata.json").read_text()) | {"minari_version": "0.4.3"}
    (data / "metadata.json").unlink()
    with h5py.File(data / "main_data.hdf5", "r+") as file:
        for key, value in {**metadata, **changes}.items():
            if key not in drop:
                file.attrs[key] = value


def test_the_layout_of_minari_4_is_read(tmp_path, plain):
    data = write(tmp_path, buffers())
    with h5py.File(data / "main_data.hdf5", "r+") as file:  # as its checkpoints left them
        with h5py.File(data / "additional_data_0.hdf5", "w") as other:
            file.copy("episode_2", other)
        del file["episode_2"]
        file["episode_2"] = h5py.ExternalLink("additional_data_0.hdf5", "/episode_2")
    to_version_4(data)
    assert load(**options(tmp_path)).fingerprint == plain
    (data / "additional_data_0.hdf5").unlink()
    (data / "main_data.hdf5").touch()  # not from the cache
    with pytest.raises(Mistake, match="has no group episode_2"):
        load(**options(tmp_path))


def test_layouts_before_4_are_refused_with_their_version(tmp_path):
    to_version_4(write(tmp_path, buffers()), drop=("minari_version",))
    with pytest.raises(Mistake, match=r"by Minari before 0\.4, .*as \.npz for dataset=file"):
        load(**options(tmp_path))


def test_spaces_that_are_not_stored_come_from_the_environment_and_nobody_builds_it(
    tmp_path, monkeypatch
):
    box = spaces.Box(-np.inf, np.inf, (3,))
    episodes = list(buffers())
    for episode in episodes:
        episode["observations"] = np.zeros((len(episode["rewards"]) + 1, 3), np.float32)
    data = write(tmp_path, episodes, space=box, env_spec=env_spec("Pendulum-v1"))
    metadata = json.loads((data / "metadata.json").read_text())
    del metadata["observation_space"], metadata["action_space"]
    (data / "metadata.json").write_text(json.dumps(metadata))
    assert load(**options(tmp_path, env_id="recorded")).spec.action_low == (-2.0,)
    with pytest.raises(Mistake, match=r"records no spaces, .*give it as dataset.env_id"):
        load(**options(tmp_path))
    (tmp_path / "evil_maker.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    metadata["env_spec"] = env_spec("Evil-v0").replace("unused:Unused", "evil_maker:Task")
    for format in ("hdf5", "arrow"):
        (data / "metadata.json").write_text(json.dumps(metadata | {"data_format": format}))
        for env_id in (None, "recorded"):
            with pytest.raises(Mistake, match=r"records no spaces|not imported because a file"):
                load(**options(tmp_path, env_id=env_id))


def test_images_are_refused_for_what_they_are(tmp_path):
    write(tmp_path, buffers(), space=spaces.Box(0, 255, (4, 4, 3), np.uint8))
    with pytest.raises(Mistake, match=r"toy/count-v0: observation space .* one of images"):
        load(**options(tmp_path))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_float_is_no_bound(tmp_path, dtype):
    largest = np.finfo(dtype).max
    write(tmp_path, buffers(), action=spaces.Box(-largest, largest, (1,), dtype))
    with pytest.raises(Mistake, match=r"is empty or unbounded; .*dataset.env_id an environment"):
        load(**options(tmp_path))
    three = list(buffers())
    for episode in three:
        episode["observations"] = np.zeros((len(episode["rewards"]) + 1, 3))
    id, obs = "toy/three-v0", spaces.Box(-np.inf, np.inf, (3,))
    write(tmp_path, three, id=id, space=obs, action=spaces.Box(-largest, largest, (1,), dtype))
    assert load(**options(tmp_path, id=id, env_id="Pendulum-v1")).spec.action_low == (-2.0,)
    assert ACTION.high[0] == 2.0
