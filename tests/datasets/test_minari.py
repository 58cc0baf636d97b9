"""Minari datasets: every episode's last observation is used, nothing is lost, damage is found."""

import json
import logging
import os
import warnings

import gymnasium
import h5py
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from minari.data_collector import EpisodeBuffer
from minari.serialization import serialize_space

from reverie.datasets.cache import cache_root
from reverie.datasets.readers import minari as reader
from reverie.datasets.readers.minari import load
from reverie.datasets.readers.minari_episodes import read_any, read_hdf5
from reverie.datasets.readers.minari_files import read_metadata
from reverie.mistake import Mistake

BOX = spaces.Box(-np.inf, np.inf, (2,), np.float64)
ACTION = spaces.Box(-2.0, 2.0, (1,), np.float32)
GOAL = spaces.Dict(
    {
        "achieved_goal": spaces.Box(-np.inf, np.inf, (1,), np.float64),
        "desired_goal": spaces.Dict(
            {
                "b": spaces.Box(-np.inf, np.inf, (1,), np.float64),
                "a": spaces.Box(-np.inf, np.inf, (2,), np.float64),
            }
        ),
        "observation": spaces.Box(-np.inf, np.inf, (3,), np.float64),
    }
)


def options(root, **changes):
    standard = {
        "name": None,
        "id": "toy/count-v0",
        "path": str(root),
        "download": False,
        "env_id": None,
        "env_kwargs": {},
        "physics": "auto",
        "obs_keys": None,
        "reference": "recorded",
        "clip_actions": False,
    }
    return {**standard, **changes}


def buffers(ends="tlc", lengths=(3, 4, 2)):
    """Episodes of a counter with gaps between them; ends t(erminal), l(imit) or c(ut)."""
    start = 0
    for end, length in zip(ends, lengths, strict=True):
        count = np.arange(start, start + length + 1, dtype=np.float64)
        terminations = np.zeros(length, bool)
        truncations = np.zeros(length, bool)
        terminations[-1], truncations[-1] = end == "t", end == "l"
        yield {
            "observations": np.stack([count, -count], 1),
            "actions": np.linspace(-2, 2, length, dtype=np.float32)[:, None],
            "rewards": count[:-1] / 10,
            "terminations": terminations,
            "truncations": truncations,
        }
        start += length + 100


def write(root, episodes, id="toy/count-v0", space=BOX, action=ACTION, **metadata):
    """A local dataset in Minari's HDF5 layout."""
    data = root / id / "data"
    data.mkdir(parents=True)
    episodes = list(episodes)
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for number, episode in enumerate(episodes):
            group = file.create_group(f"episode_{number}")
            group.attrs["id"] = number
            group.attrs["total_steps"] = len(episode["rewards"])
            put(group, episode)
    standard = {
        "total_episodes": len(episodes),
        "total_steps": sum(len(episode["rewards"]) for episode in episodes),
        "data_format": "hdf5",
        "observation_space": serialize_space(space),
        "action_space": serialize_space(action),
        "dataset_id": id,
        "minari_version": "0.5.4",
    }
    (data / "metadata.json").write_text(json.dumps({**standard, **metadata}))
    return data


def put(group, columns):
    for name, column in columns.items():
        if isinstance(column, dict):
            put(group.create_group(name), column)
        else:
            group.create_dataset(name, data=column, chunks=True)


def env_spec(id, **changes):
    spec = EnvSpec(id, entry_point="unused:Unused", **changes)
    return spec.to_json()


def test_every_row_is_kept_with_its_true_successor(tmp_path):
    write(tmp_path, buffers())
    data = load(**options(tmp_path))
    assert data.name == "toy-count-v0"
    assert data.transitions.obs[:, 0].tolist() == [0, 1, 2, 103, 104, 105, 106, 207, 208]
    assert torch.equal(data.transitions.next_obs[:, 0], data.transitions.obs[:, 0] + 1)
    assert torch.equal(data.transitions.next_obs[:, 1], -data.transitions.next_obs[:, 0])
    assert np.flatnonzero(data.transitions.terminated).tolist() == [2]
    assert np.flatnonzero(data.truncated).tolist() == [6, 8]  # the last one was merely cut
    assert data.episode_starts.tolist() == [0, 3, 7]
    assert data.valid_next.all()
    assert torch.allclose(data.transitions.reward, data.transitions.obs[:, 0] / 10)
    assert data.transitions.action[:3, 0].tolist() == [-1.0, 0.0, 1.0]  # from [-2, 2]
    assert data.spec.action_low == (-2.0,)


def test_minaris_own_writer_and_reader_agree_with_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    infos = {"qpos": np.zeros((4, 2))}
    recorded = [
        EpisodeBuffer(infos=infos if len(e["rewards"]) == 3 else None, **e) for e in buffers()
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one for each piece of metadata not given
        minari.create_dataset_from_buffers(
            "toy/count-v0",
            recorded,
            observation_space=BOX,
            action_space=ACTION,
        )
    data = load(**options(None, path=None))
    expected = load(**options(write_elsewhere(tmp_path)))
    assert data.fingerprint == expected.fingerprint
    theirs = list(minari.load_dataset("toy/count-v0").iterate_episodes())
    obs = np.concatenate([episode.observations[:-1] for episode in theirs])
    assert np.array_equal(data.transitions.obs, obs.astype(np.float32))


def write_elsewhere(tmp_path):
    write(tmp_path / "elsewhere", buffers())
    return tmp_path / "elsewhere"


def test_a_termination_inside_an_episode_does_not_split_it(tmp_path):
    episodes = list(buffers())
    episodes[1]["terminations"][1] = True
    write(tmp_path, episodes)
    data = load(**options(tmp_path))
    assert np.flatnonzero(data.transitions.terminated).tolist() == [2, 4]
    assert data.episode_starts.tolist() == [0, 3, 7]


def goals(count):
    count = np.asarray(count, np.float64)[:, None]
    return {
        "achieved_goal": 1000 + count,
        "desired_goal": {"a": np.concatenate([count + 0.1, count + 0.2], 1), "b": count + 0.3},
        "observation": np.concatenate([count, 2 * count, 3 * count], 1),
    }


def goal_dataset(root):
    episodes = list(buffers())
    for episode in episodes:
        episode["observations"] = goals(episode["observations"][:, 0])
    return write(root, episodes, space=GOAL)


def test_goal_observations_are_flattened_in_the_house_order(tmp_path):
    goal_dataset(tmp_path)
    data = load(**options(tmp_path))
    expected = torch.tensor([104, 208, 312, 104.1, 104.2, 104.3])
    assert data.transitions.obs.shape == (9, 6)
    assert torch.allclose(data.transitions.next_obs[3], expected)


def test_keys_of_dict_observations_can_be_chosen(tmp_path):
    goal_dataset(tmp_path)
    load(**options(tmp_path))  # another choice must not come from the cache of this one
    data = load(**options(tmp_path, obs_keys=["achieved_goal", "observation"]))
    assert data.transitions.obs[1].tolist() == [1001, 1, 2, 3]
    assert data.spec.obs_keys == ("achieved_goal", "observation")


@pytest.mark.parametrize("keys", [["observation", "observation"], []])
def test_keys_that_stand_twice_or_are_none_are_no_damage(tmp_path, keys):
    goal_dataset(tmp_path)
    with pytest.raises(Mistake, match=r"observation key.*; name each once, of achieved_goal, desi"):
        load(**options(tmp_path, obs_keys=keys))


@pytest.mark.parametrize("dictionary", [False, True])
def test_the_general_reader_gives_the_same_columns(tmp_path, dictionary):
    data = goal_dataset(tmp_path) if dictionary else write(tmp_path, buffers())
    source = minari.MinariDataset(data)
    space = source.observation_space
    metadata = read_metadata(data)
    fast = read_hdf5(data / "main_data.hdf5", metadata, space, ACTION, None, "remedy")
    general = read_any(source, space, ACTION, None, "remedy")
    assert fast.keys() == general.keys()
    for name in fast:
        assert np.array_equal(fast[name], general[name]), name
        assert fast[name].dtype == general[name].dtype, name


def test_episodes_cut_by_minaris_reader_are_noticed(tmp_path, monkeypatch):
    source = minari.MinariDataset(write(tmp_path, buffers()))
    episodes = list(source.iterate_episodes())
    monkeypatch.setattr(source, "iterate_episodes", lambda: iter(episodes[:2]))
    with pytest.raises(ValueError, match=r"returned 7 steps of 9.*convert it to HDF5"):
        read_any(source, BOX, ACTION, None, "remedy")


def test_the_second_load_reads_the_cache_only(tmp_path, monkeypatch):
    data = write(tmp_path, buffers())
    first = load(**options(tmp_path))
    assert len(list((cache_root() / "minari").glob("toy-count-v0-*.npz"))) >= 1
    with monkeypatch.context() as patch:
        patch.setattr(reader, "read_hdf5", None)
        assert load(**options(tmp_path)).fingerprint == first.fingerprint
    episodes = list(buffers())
    episodes[0]["rewards"][0] = 77.0
    os.rename(data.parent, tmp_path / "old")
    write(tmp_path, episodes)
    assert load(**options(tmp_path)).transitions.reward[0] == 77.0  # a changed file is read again


class Counter(gymnasium.Env):
    observation_space = BOX
    action_space = ACTION

    def __init__(self, render_mode=None, gain=1.0):
        self.gain = gain


@pytest.fixture
def counter_env():
    gymnasium.register("ReverieTestCounter-v0", entry_point=Counter, max_episode_steps=50)
    yield "ReverieTestCounter-v0"
    del gymnasium.registry["ReverieTestCounter-v0"]


def test_the_recorded_environment_is_used_with_its_options_and_limit(tmp_path, counter_env):
    recorded = env_spec(
        counter_env, max_episode_steps=30, kwargs={"gain": 2.0, "render_mode": "human"}
    )
    write(tmp_path, buffers(), env_spec=recorded)
    spec = load(**options(tmp_path, env_id="recorded")).spec
    assert (spec.env_id, spec.max_episode_steps) == (counter_env, 30)
    assert spec.env_kwargs == {"gain": 2.0}
    changed = load(**options(tmp_path, env_id="recorded", env_kwargs={"gain": 3.0})).spec
    assert changed.env_kwargs == {"gain": 3.0}
    named = load(**options(tmp_path, env_id=counter_env, env_kwargs={"gain": 4.0})).spec
    assert (named.max_episode_steps, named.env_kwargs) == (30, {"gain": 4.0})
    limited = load(**options(tmp_path, env_id="recorded", max_episode_steps=20)).spec
    assert (limited.max_episode_steps, limited.env_kwargs) == (20, {"gain": 2.0})


def test_an_environment_recorded_for_evaluation_goes_first(tmp_path, counter_env):
    write(
        tmp_path,
        buffers(),
        env_spec=env_spec("Elsewhere-v0"),
        eval_env_spec=env_spec(counter_env, kwargs={"gain": 5.0}),
    )
    assert load(**options(tmp_path, env_id="recorded")).spec.env_kwargs == {"gain": 5.0}


def test_no_recorded_environment_gives_the_remedy(tmp_path):
    write(tmp_path, buffers())
    with pytest.raises(ValueError, match=r"names no environment.*dataset\.env_id=null"):
        load(**options(tmp_path, env_id="recorded"))


def test_an_unknown_recorded_environment_gives_the_remedy(tmp_path):
    write(tmp_path, buffers(), env_spec=env_spec("Elsewhere-v0"))
    with pytest.raises(ValueError, match=r"Elsewhere-v0.*dataset\.env_id=null"):
        load(**options(tmp_path, env_id="recorded"))


def test_an_environment_with_other_spaces_is_refused(tmp_path, counter_env):
    write(tmp_path, buffers())
    with pytest.raises(ValueError, match=r"size 2 and actions of size 1.*Pendulum-v1 has 3 and 1"):
        load(**options(tmp_path, env_id="Pendulum-v1"))
    half = spaces.Box(-1.0, 1.0, (1,), np.float32)
    write(tmp_path, buffers(), id="toy/half-v0", action=half)
    with pytest.raises(ValueError, match=r"actions from \[-1.0\] to \[1.0\].*takes \[-2.0\]"):
        load(**options(tmp_path, id="toy/half-v0", env_id=counter_env))


@pytest.mark.parametrize(
    ("requirements", "physics"),
    [
        (["gymnasium>=1.0", "mujoco==3.2.3"], "d4rl"),
        (["mujoco==3.5.0"], "as-is"),
        (["mujoco>=2.3"], "as-is"),
        (["mujoco-py==2.1"], "as-is"),
        (None, "as-is"),
    ],
)
def test_contacts_follow_the_mujoco_that_recorded(tmp_path, counter_env, requirements, physics):
    extra = {} if requirements is None else {"requirements": requirements}
    write(tmp_path, buffers(), env_spec=env_spec(counter_env), **extra)
    assert load(**options(tmp_path, env_id="recorded")).spec.physics == physics
    forced = load(**options(tmp_path, env_id="recorded", physics="as-is"))
    assert forced.spec.physics == "as-is"


def test_wrappers_that_scores_do_without_are_reported(tmp_path, counter_env, caplog):
    recorded = json.loads(env_spec(counter_env))
    recorded["additional_wrappers"] = [{"name": "Squash", "entry_point": "x:Y", "kwargs": {}}]
    write(tmp_path, buffers(), eval_env_spec=None, env_spec=json.dumps(recorded))
    with caplog.at_level(logging.WARNING):
        try:
            load(**options(tmp_path, env_id="recorded"))
        except ValueError as error:  # gymnasium may refuse to parse a wrapper it cannot import
            pytest.fail(str(error))
    assert "wrappers Squash" in caplog.text


def test_references_come_from_the_metadata_or_from_the_user(tmp_path, counter_env):
    write(tmp_path, buffers(), ref_min_score=1.0, ref_max_score=3.0)
    recorded = load(**options(tmp_path)).reference
    assert (recorded.low, recorded.high) == (1.0, 3.0)
    assert "metadata of toy/count-v0" in recorded.source
    assert load(**options(tmp_path, reference=None)).reference is None
    assert load(**options(tmp_path, reference=[0.0, 4.0])).reference.high == 4.0
    write(tmp_path, buffers(), id="toy/bare-v0")
    assert load(**options(tmp_path, id="toy/bare-v0")).reference is None
    with pytest.raises(ValueError, match="no constants for None"):
        load(**options(tmp_path, reference="d4rl"))
    with pytest.raises(ValueError, match="reference='best' is unknown"):
        load(**options(tmp_path, reference="best"))


def test_d4rl_constants_are_labelled_as_borrowed():
    found = reader._reference("x/y-v0", {}, "Hopper-v5", "d4rl")
    assert (found.low, found.high) == (-20.272305, 3234.3)
    assert "not D4RL's" in found.source


@pytest.mark.parametrize("id", ["no-version", "a/short-v0", "../up-v0", "toy/count"])
def test_malformed_ids_are_refused_before_anything_is_created(tmp_path, id):
    with pytest.raises(ValueError, match="malformed"):
        load(**options(tmp_path, id=id, download=True))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_dataset_lists_those_that_are_there(tmp_path):
    write(tmp_path, buffers())
    with pytest.raises(Mistake, match=r"toy/other-v0 is not in .*found there: toy/count"):
        load(**options(tmp_path, id="toy/other-v0"))


def test_of_many_datasets_those_like_the_missing_one_are_listed(tmp_path):
    for number in range(25):
        (tmp_path / f"many/other{number}-v0" / "data").mkdir(parents=True)
    write(tmp_path, buffers())
    with pytest.raises(Mistake, match=r"found there: toy/count-v0 and 25 others"):
        load(**options(tmp_path, id="toy/count-v1"))


@pytest.mark.parametrize("inside", ["toy", "toy/count-v0", "toy/count-v0/data/main_data.hdf5"])
def test_a_folder_of_the_dataset_is_no_root_and_the_root_is_told(tmp_path, inside):
    write(tmp_path, buffers())
    with pytest.raises(Mistake, match=f"lies inside of .*dataset.path={tmp_path}$"):
        load(**options(tmp_path / inside))


def test_a_file_is_no_root(tmp_path):
    (tmp_path / "root").write_text("")
    with pytest.raises(Mistake, match="is a file, where the root folder"):
        load(**options(tmp_path / "root", download=True))


def test_a_dataset_without_metadata_is_called_so(tmp_path):
    write(tmp_path, buffers())
    (tmp_path / "toy/count-v0/data/metadata.json").unlink()
    with pytest.raises(Mistake, match=r"holds no metadata\.json"):
        load(**options(tmp_path))


def test_a_discrete_action_space_is_refused(tmp_path):
    write(tmp_path, buffers(), action=spaces.Discrete(3))
    with pytest.raises(ValueError, match=r"action space Discrete\(3\).*continuous"):
        load(**options(tmp_path))


def test_keys_that_can_be_read_are_told_where_others_cannot(tmp_path):
    space = spaces.Dict(at=spaces.Box(-1, 1, (2,)), mode=spaces.Discrete(3))
    write(tmp_path, buffers(), space=space)
    with pytest.raises(Mistake, match=r"flattened.*, or choose keys: dataset.obs_keys=\[at\]$"):
        load(**options(tmp_path))


def test_observations_that_are_no_vector_are_refused(tmp_path):
    write(tmp_path, buffers(), space=spaces.Discrete(3))
    with pytest.raises(ValueError, match=r"toy/count-v0.*cannot be flattened"):
        load(**options(tmp_path))


def lost_observation(episodes):
    episodes[1]["observations"] = episodes[1]["observations"][:-1]


def wider(episodes):
    episodes[2]["observations"] = np.zeros((3, 5))


def no_actions(episodes):
    del episodes[0]["actions"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lost_observation, r"episode 1 holds observations of shape \[4, 2\], expected \[5, 2\]"),
        (wider, r"episode 2 holds observations of shape \[3, 5\], expected \[3, 2\]"),
        (no_actions, r"main_data\.hdf5: episode 0 has no array actions"),
    ],
)
def test_inconsistent_episodes_are_named(tmp_path, damage, message):
    episodes = list(buffers())
    damage(episodes)
    write(tmp_path, episodes)
    with pytest.raises(ValueError, match=message) as caught:
        load(**options(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("announced", "message"),
    [(8, "holds 9 steps, its metadata says 8"), (10, "holds 9 steps, its metadata says 10")],
)
def test_lost_or_surplus_steps_are_noticed(tmp_path, announced, message):
    write(tmp_path, buffers(), total_steps=announced)
    with pytest.raises(ValueError, match=message):
        load(**options(tmp_path))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_truncated_file_ends_in_one_clear_line(tmp_path, share):
    file = write(tmp_path, buffers()) / "main_data.hdf5"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="cut short or damaged: restore it from a copy") as caught:
        load(**options(tmp_path))
    assert "\n" not in str(caught.value)
    assert "delete" not in str(caught.value)


def test_damaged_metadata_end_in_one_clear_line(tmp_path):
    data = write(tmp_path, buffers())
    (data / "metadata.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be opened as metadata of a Minari dataset"):
        load(**options(tmp_path))
    (data / "metadata.json").write_text("{}")
    with pytest.raises(ValueError, match=r"metadata\.json lacks total_steps"):
        load(**options(tmp_path))


def test_datasets_of_unsupported_versions_are_refused(tmp_path):
    write(tmp_path, buffers(), minari_version="9.9.9")
    with pytest.raises(
        ValueError,
        match=r"by Minari 9\.9\.9, which the installed .* not support.*pip install -U minari",
    ):
        load(**options(tmp_path))


def test_bad_values_and_actions_outside_the_box_are_refused(tmp_path):
    episodes = list(buffers())
    episodes[1]["rewards"][2] = np.nan
    write(tmp_path, episodes)
    with pytest.raises(ValueError, match=r"reward 1 NaN and 0 Inf .*first row 5"):
        load(**options(tmp_path))
    narrow = spaces.Box(-0.5, 0.5, (1,), np.float32)
    write(tmp_path, buffers(), id="toy/narrow-v0", action=narrow)
    with pytest.raises(ValueError, match="clip_actions=true"):
        load(**options(tmp_path, id="toy/narrow-v0"))
    assert len(load(**options(tmp_path, id="toy/narrow-v0", clip_actions=True))) == 9


def test_a_subset_keeps_whole_episodes(tmp_path):
    write(tmp_path, buffers())
    data = load(**options(tmp_path, subset={"episodes": 2, "fraction": None, "seed": 0}))
    assert sorted([*data.episode_lengths.tolist(), 9 - len(data)]) == [2, 3, 4]
