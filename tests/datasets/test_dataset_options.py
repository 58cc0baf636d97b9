"""The dataset files in conf/: they compose, name every argument, and cover every D4RL task."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from reverie.datasets.readers.d4rl import TASKS

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
    module, _, function = found.pop("_target_").rpartition(".")
    load = getattr(importlib.import_module(module), function)
    assert set(found) == set(inspect.signature(load).parameters)
    inspect.signature(load).bind(**found)


def test_every_d4rl_task_has_its_file_and_no_other():
    files = {path.stem for path in (CONF / "dataset" / "d4rl").glob("*.yaml")}
    assert files == set(TASKS)


def test_a_d4rl_file_is_the_shared_one_with_its_id():
    short = options("+dataset=d4rl/hopper-medium-v2", "dataset.compat=d4rl")
    long = options("+dataset=d4rl", "dataset.id=hopper-medium-v2", "dataset.compat=d4rl")
    assert short == long
    assert short["name"] == "hopper-medium-v2"
    for path in (CONF / "dataset" / "d4rl").glob("*.yaml"):
        text = path.read_text()
        assert text == f"defaults: [/dataset/d4rl@_here_]\nid: {path.stem}\n"


def test_a_sweep_goes_over_nested_files(tmp_path):
    script = tmp_path / "sweep.py"
    script.write_text(
        "import hydra\n"
        f"@hydra.main(config_path={str(CONF)!r}, config_name=None, version_base='1.3')\n"
        "def main(config):\n"
        "    print('swept', config.dataset.id)\n"
        "main()\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            str(script),
            "-m",
            "+dataset=d4rl/hopper-medium-v2,d4rl/pen-human-v1",
            f"hydra.sweep.dir={tmp_path}",
            "hydra/job_logging=disabled",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("swept")]
    assert found == ["hopper-medium-v2", "pen-human-v1"]
