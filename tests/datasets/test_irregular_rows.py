"""Tables whose rows are unequally far apart, kept with their durations."""

import numpy as np
import pandas
import pytest
import torch

from reverie.datasets import chunk
from reverie.datasets.readers.table import load_frame
from reverie.mistake import Mistake

OPTIONS = {
    "name": "log",
    "columns": {"observations": ["h"], "actions": ["u"], "reward": "r", "time": "t"},
    "reward": None,
    "action_low": -1,
    "action_high": 1,
    "env_id": None,
    "env_kwargs": {},
    "max_episode_steps": None,
    "reference": None,
    "clip_actions": False,
}


def table(rows: int = 300, seed: int = 0) -> pandas.DataFrame:
    random = np.random.default_rng(seed)
    steps = np.round(random.uniform(0.1, 2.0, rows), 3)
    return pandas.DataFrame(
        {
            "t": np.cumsum(steps),
            "h": random.normal(size=rows),
            "u": random.uniform(-1, 1, rows),
            "r": random.normal(size=rows),
        }
    )


def test_unequal_rows_are_refused_with_the_remedy():
    with pytest.raises(Mistake, match=r"dataset\.longest_step=\d") as refused:
        frame = table()
        frame["t"] += np.arange(len(frame)) // 3 * 4.0
        load_frame(frame, **OPTIONS)
    assert "neural_ode" in str(refused.value)


def test_every_row_says_how_long_it_lasted():
    frame = table()
    data = load_frame(frame, **OPTIONS, longest_step=2.0)
    assert data.dt is not None
    assert len(data) == len(frame) - 1
    expected = torch.from_numpy(np.diff(frame.t).astype(np.float32))
    assert torch.allclose(data.dt, expected)
    assert data.nominal_dt == pytest.approx(expected.median().item())


def test_longer_steps_cut_episodes_and_missing_values_do_too():
    frame = table()
    frame.loc[100:, "t"] += 50.0
    frame.loc[200, "h"] = np.nan
    data = load_frame(frame, **OPTIONS, longest_step=2.0)
    assert data.dt is not None
    assert data.episode_starts.tolist() == [0, 99, 198]
    assert data.dt[98].item() == pytest.approx(frame.t[99] - frame.t[98], abs=1e-5)
    assert data.dt[99].item() == pytest.approx(frame.t[101] - frame.t[100], abs=1e-5)


def test_durations_are_part_of_what_models_are_fitted_to():
    frame = table()
    data = load_frame(frame, **OPTIONS, longest_step=2.0)
    frame["t"] *= 1.1
    slower = load_frame(frame, **OPTIONS, longest_step=2.5)
    assert data.fingerprint != slower.fingerprint


def test_a_chunk_lasts_as_long_as_its_steps():
    data = load_frame(table(), **OPTIONS, longest_step=2.0)
    chunks = chunk(data, 3, discount=1.0)
    assert data.dt is not None
    assert chunks.dt is not None
    assert chunks.dt[0].item() == pytest.approx(data.dt[:3].sum().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"columns": {**OPTIONS["columns"], "time": []}}, "no column tells the time"),
        ({}, {"longest_step": 0.3}, "raise it"),
        ({"t": 7.0}, {}, "stands still.*or write times more exactly"),
    ],
)
def test_what_cannot_be_is_refused(changes, options, message):
    frame = table()
    for name, value in changes.items():
        frame.loc[6:7, name] = value
        frame.loc[6:7, name] = frame[name][5] + 0.1
    with pytest.raises(Mistake, match=message):
        load_frame(frame, **{**OPTIONS, "longest_step": 2.0, **options})
