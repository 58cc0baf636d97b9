"""Runs of earlier versions, whose settings lack what came later."""

from types import SimpleNamespace

import numpy as np
import pytest

import reverie
from reverie.mistake import Mistake
from reverie.training.launch.options import load_option
from reverie.training.launch.restore import _require_settings_of, _with_newer_settings


def test_settings_that_came_later_are_as_shipped(tmp_path):
    model = load_option("world_model", "ensemble")
    expected = model["layer_norm"]
    older = {**model, "members": 3}
    del older["layer_norm"]
    plain = {"agent": load_option("agent", "sac"), "world_model": older, "seed": 0}
    found = _with_newer_settings(plain, tmp_path)
    assert found["world_model"] == {**older, "layer_norm": expected}
    assert found["agent"] == plain["agent"] and "layer_norm" not in older
    mine = {"_target_": "mine.Model", "width": 1}
    assert _with_newer_settings({"world_model": mine}, tmp_path)["world_model"] == mine


def test_a_group_that_came_later_is_none(tmp_path):
    facts = SimpleNamespace(settings={"seed": 0})
    _require_settings_of(tmp_path / "config.yaml", {"seed": 0, "inverse_model": None}, facts)
    with pytest.raises(Mistake, match="it says seed=1"):
        _require_settings_of(tmp_path / "config.yaml", {"seed": 1}, facts)


def test_a_run_whose_data_were_named_from_another_folder_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    arrays = {key: random.uniform(-1, 1, (50, 2)) for key in ("observations", "actions")}
    np.savez("log.npz", **arrays, rewards=np.ones(50), terminals=np.zeros(50))
    run = reverie.make(
        "algorithm=td3_bc",
        "dataset=file",
        "dataset.path=log.npz",
        agent={"hidden": [4]},
        updates=1,
        probe_starts=0,
        verdict={"starts": 0},
    )
    run.train("run")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(Mistake, match=r"type this in the folder from which log\.npz was read"):
        reverie.load("../run").load_dataset()
