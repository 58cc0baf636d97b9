"""Datasets from Python: by the name of an option, or from arrays."""

import numpy as np
import pytest
import torch
import yaml

from reverie.datasets import load
from reverie.datasets.options import FOLDER, read_option
from reverie.mistake import Mistake

OWN = {
    "observations": np.arange(24, dtype=np.float32).reshape(8, 3),
    "actions": np.linspace(-4, 4, 8, dtype=np.float32)[:, None],
    "rewards": np.ones(8),
    "terminals": np.zeros(8, bool),
    "timeouts": np.arange(8) % 4 == 3,
    "next_observations": np.arange(24, dtype=np.float32).reshape(8, 3) + 1,
}


def test_arrays_become_a_dataset_with_the_settings_of_a_file():
    data = load(OWN, action_low=-4, action_high=4, max_episode_steps=4)
    assert data.name == "arrays" and len(data) == 8 and len(data.episode_starts) == 2
    assert torch.allclose(data.transitions.action[[0, -1], 0], torch.tensor([-1.0, 1.0]))
    assert data.spec.max_episode_steps == 4 and data.truncated.sum() == 2
    with pytest.raises(ValueError, match="the given arrays lacks rewards"):
        load({name: OWN[name] for name in OWN if name != "rewards"})


def test_a_file_is_the_same_by_its_option_as_by_its_arrays(tmp_path):
    path = tmp_path / "log.npz"
    np.savez(path, **OWN)
    read = load("file", path=str(path), action_low=-4, action_high=4)
    assert read.name == "log"
    assert read.fingerprint == load(OWN, action_low=-4, action_high=4).fingerprint


def test_builtin_data_take_settings():
    data = load("builtin/pendulum-mixed", episodes=3, subset={"episodes": 2})
    assert data.name == "pendulum-mixed" and len(data.episode_starts) == 2


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("builtin/pendulum", {}, r"no dataset builtin/pendulum; did you mean builtin/pendulum-mix"),
        ("file", {"pth": "x"}, r"dataset file has no setting pth; it has .*path"),
        ("file", {}, r"dataset file needs path="),
    ],
)
def test_a_wrong_name_is_refused_with_what_there_is(name, settings, message):
    with pytest.raises(ValueError, match=message):
        load(name, **settings)


PATHS = [path for path in sorted(FOLDER.rglob("*.yaml")) if path.parent.name != "d4rl"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_an_option_is_read_as_the_command_line_composes_it(path):
    from reverie.training.launch.options import load_option

    name = path.relative_to(FOLDER).with_suffix("").as_posix()
    missing = {k: "x" for k, v in yaml.safe_load(path.read_text()).items() if v == "???"}
    read = read_option(name, missing)
    composed = {**load_option("dataset", name), **missing}
    composed = {k: "x" if v == "${.id}" else v for k, v in composed.items()}
    assert {key: read[key] for key in read if key != "path"} == {
        key: composed[key] for key in composed if key != "path"
    }


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("log.csv", "table"),
        ("logs/A.PARQUET", "table"),
        ("d4rl/my.hdf5", "file"),
        ("a.npz", "file"),
    ],
)
def test_a_path_in_the_place_of_a_name_is_told_how_to_be_given(name, option):
    with pytest.raises(Mistake, match="a file is given by its path") as caught:
        load(name)
    assert f"reverie.datasets.load('{option}', path='{name}', ...)" in str(caught.value)
