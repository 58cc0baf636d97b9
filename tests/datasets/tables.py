"""Small logs of a plant for the tests of tables."""

import numpy as np
import pandas

from reverie.datasets import transforms
from reverie.datasets.options import read_option
from reverie.datasets.readers.table import load

ROWS, EPISODES = 60, 4


def log(rows=ROWS, episodes=EPISODES, step=0.5, seed=0):
    """A DataFrame of `rows * episodes` rows with units in its names, as a plant's recorder has."""
    rng = np.random.default_rng(seed)
    count = rows * episodes
    level, valve = 10 + rng.normal(size=count).cumsum() * 0.1, rng.uniform(0.1, 0.9, count)
    return pandas.DataFrame(
        {
            "time [s]": np.tile(np.arange(rows) * step, episodes),
            "episode": np.repeat(np.arange(episodes), rows),
            "level [cm]": level,
            "setpoint [cm]": np.repeat(rng.uniform(5, 15, episodes), rows),
            "action [-]": valve,
            "reward": -((level - 10) ** 2),
        }
    )


def settings(**given):
    options = read_option("table", {"path": "table", **given})
    for key in ("path", "_target_", *transforms.SETTINGS):
        del options[key]
    return options | {"name": options["name"] or "table"}


def write(frame, path):
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".feather":
        frame.to_feather(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


def load_file(path, **given):
    return load(path=str(path), **settings(**given) | {"name": given.get("name")})
