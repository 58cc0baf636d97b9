"""The dataset files in conf/: they compose and name every argument of their reader, and the
transforms."""

import importlib
import inspect
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from reverie.datasets.transforms import SETTINGS

CONF = Path(__file__).resolve().parents[2] / "conf"


def options(*overrides):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=list(overrides))
    return OmegaConf.to_container(config.dataset, resolve=True)


@pytest.mark.parametrize(
    "overrides",
    [
        ["+dataset=d4rl", "dataset.id=pen-human-v1"],
        ["+dataset=minari", "dataset.id=a/b-v0"],
        ["+dataset=file", "dataset.path=x.npz"],
        ["+dataset=random", "dataset.env_id=Pendulum-v1"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_a_file_names_exactly_the_arguments_of_its_reader(overrides):
    found = options(*overrides)
    transforms = {key: None for key in SETTINGS if key != "storage"}
    assert {key: found.pop(key) for key in SETTINGS} == {**transforms, "storage": "memory"}
    module, _, function = found.pop("_target_").rpartition(".")
    load = getattr(importlib.import_module(module), function)
    assert set(found) == set(inspect.signature(load).parameters)
    inspect.signature(load).bind(**found)


def test_columns_are_named_on_the_command_line():
    named = options(
        "+dataset=file", "dataset.path=x.npz", "dataset.columns={terminals: a, observations: b/c}"
    )
    assert named["columns"] == {"terminals": "a", "observations": "b/c"}
    left_out = options("+dataset=file", "dataset.path=x", "dataset.columns={timeouts: null}")
    assert left_out["columns"] == {"timeouts": None}
