"""Training on a log that lacks actions: with an inverse model, and refused without."""

import io
import json

import numpy as np
import pandas
import pytest
import torch
from rich.console import Console

import reverie
from reverie import datasets
from reverie.mistake import Mistake
from reverie.training import fitting
from reverie.training.report.scores import _inferred

SETTINGS = {
    "updates": 4,
    "agent.hidden": [8],
    "batch_size": 8,
    "verdict.starts": 0,
    "evaluate.every": 0,
    "inverse_model.hidden": [16],
    "inverse_model.steps": 40,
    "inverse_model.measure_every": 20,
}


def log(path):
    """A cart that is pushed; in most episodes nobody wrote down how."""
    rng = np.random.default_rng(0)
    force = rng.uniform(-1, 1, (20, 30))
    speed = np.cumsum(force * 0.1, 1) - force * 0.1
    frame = pandas.DataFrame(
        {
            "episode": np.repeat(np.arange(20), 30),
            "speed": speed.ravel(),
            "action": np.where(np.arange(600) < 200, force.ravel(), np.nan),
            "reward": -np.abs(speed.ravel()),
        }
    )
    frame.to_csv(path, index=False)
    return frame


def make(path, *overrides, **changes):
    console = Console(file=io.StringIO(), width=200)
    run = reverie.make(
        "algorithm=td3_bc",
        "inverse_model=ensemble",
        *overrides,
        dataset={"path": str(path)} if path else None,
        console=console,
        **{**SETTINGS, **changes},
    )
    return run, console.file.getvalue()


def test_a_log_with_gaps_trains_and_says_what_was_inferred(tmp_path):
    log(tmp_path / "log.csv")
    run, told = make(tmp_path / "log.csv", "dataset=table")
    assert run.data.action_missing is None and run.data.inferred.rows.sum() == 13 * 29 + 9
    assert "inferred actions: 386 of 580 rows" in " ".join(told.split())
    results = run.train(tmp_path / "run", console=Console(quiet=True))
    found = results.summary["dataset"]["inferred_actions"]
    assert found["rows"] == 386 and len(found["r2"]) == 1
    assert "386 of 580 rows have an action that an inverse model filled in" in _inferred(
        json.loads((tmp_path / "run" / "summary.json").read_text())["dataset"]
    )
    # It is read again, from the cache, with the same actions; and nothing else has drawn numbers.
    again = reverie.load(tmp_path / "run").load_dataset()
    assert again.fingerprint == run.data.fingerprint
    assert torch.equal(again.transitions.action, run.data.transitions.action)


def test_without_an_inverse_model_it_is_refused_in_one_line(tmp_path):
    log(tmp_path / "log.csv")
    with pytest.raises(Mistake, match=r"log: 386 of 580 rows have no action") as error:
        reverie.make(
            "algorithm=td3_bc",
            dataset="table",
            console=Console(quiet=True),
            **{"dataset.path": str(tmp_path / "log.csv"), "dataset.missing_actions": True},
        )
    assert "\n" not in str(error.value) and "inverse_model=ensemble" in str(error.value)


def test_a_dataset_from_python_is_filled_in_as_well_and_a_complete_one_left_alone():
    data = datasets.load("builtin/pendulum-mixed", episodes=6)
    hidden = torch.arange(len(data)) % 5 != 0
    lacking = datasets.hide_actions(data, hidden)
    quiet = Console(quiet=True)
    run = reverie.make(
        *("algorithm=td3_bc", "inverse_model=ensemble"), dataset=lacking, console=quiet, **SETTINGS
    )
    assert torch.equal(run.data.inferred.rows, hidden)
    plain = reverie.make(
        *("algorithm=td3_bc", "inverse_model=ensemble"), dataset=data, console=quiet, **SETTINGS
    )
    assert plain.data is data


def test_a_past_beyond_every_episode_is_refused_before_a_model_is_built(tmp_path):
    log(tmp_path / "log.csv")
    with pytest.raises(Mistake, match=r"inverse_model\.past=29 looks back beyond every episode"):
        make(tmp_path / "log.csv", "dataset=table", **{"inverse_model.past": 29})


def test_rows_on_disk_are_refused_before_a_model_is_fitted(tmp_path, monkeypatch):
    log(tmp_path / "log.csv")
    monkeypatch.setattr(fitting, "fit", lambda *_, **__: pytest.fail("it was fitted"))
    with pytest.raises(Mistake, match=r"set dataset\.storage=memory"):
        make(tmp_path / "log.csv", "dataset=table", **{"dataset.storage": "memmap"})
