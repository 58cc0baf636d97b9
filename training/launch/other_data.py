"""Data that a run was not trained on, read as its own were, such as the log of another month."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf, open_dict

from reverie.datasets.dataset import Dataset
from reverie.datasets.readers import file
from reverie.datasets.readers.columns import ARROW_FILES, TEXT_FILES
from reverie.mistake import Mistake
from reverie.training.launch.data import load_dataset
from reverie.training.launch.options import is_chosen
from reverie.training.launch.restore import SavedRun, without_downloads

SAME = (
    *("obs_names", "action_names", "obs_dim", "action_dim", "action_low", "action_high"),
    *("exogenous", "hidden", "stacked_obs", "stacked_actions", "chunk"),
)
"""What a policy or a world model relies on."""


def read_other(run: SavedRun, changes: Mapping[str, Any]) -> Dataset:
    """A dataset with the settings of a run's, of which some are others.

    All of its episodes are read, whatever part of its own data the run was trained on; where the
    range of those was the box of the actions, the box stays what it was.

    Args:
        changes: settings of the dataset by name, such as `path`.

    Raises:
        Mistake: the run's dataset was made in Python or has no such setting, the data are refused
            or a table where the run's are arrays, or their columns or the box of their actions are
            not those of the run.
    """
    if not is_chosen(run.config.dataset):
        raise Mistake(
            f"{run.directory} was trained on a dataset that was made in Python, so nothing says "
            "how to read another; train on dataset=table or dataset=file to judge on other files"
        )
    config = without_downloads(run.config)
    known = [key for key in config.dataset if not key.startswith("_")]
    unknown = [key for key in changes if key not in known]
    if unknown:
        raise Mistake(
            f"the dataset of {run.directory} has no {unknown[0]}; its settings are "
            f"{', '.join(known)}"
        )
    is_table = Path(str(changes.get("path"))).suffix.lower() in (*TEXT_FILES, *ARROW_FILES)
    if is_table and config.dataset["_target_"] == f"{file.__name__}.{file.load.__name__}":
        raise Mistake(
            f"dataset.path={changes['path']} is a table, and {run.directory} was trained on arrays "
            "in a file; store the columns as such in .npz or .hdf5, under the same names"
        )
    with open_dict(config.dataset):
        if config.dataset.get("subset") is not None:
            config.dataset.subset.update(episodes=None, fraction=None)
        for key in ("action_low", "action_high"):
            if config.dataset.get(key, 0) is None and run.spec.env_id is None:
                config.dataset[key] = list(getattr(run.spec, key)[: _columns(run)])
        if "path" in changes:
            config.dataset.name = None  # else the other log would be called as the run's
        for key, value in changes.items():
            OmegaConf.update(config.dataset, key, value)
    data = load_dataset(config)
    for name in SAME:
        was, now = getattr(run.spec, name), getattr(data.spec, name)
        if was != now:
            raise Mistake(
                f"{data.name}: its {name} are {now}, and those of {run.directory} {was}; give data "
                "of the same columns and the same box of actions"
            )
    return data


def _columns(run: SavedRun) -> int:
    """How many actions were recorded, of which a chunk holds several."""
    return run.spec.action_dim // run.spec.chunk
