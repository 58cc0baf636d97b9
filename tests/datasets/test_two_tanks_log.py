"""The log of the two tanks: made once, the same each time, read as any other table."""

from pathlib import Path

import numpy as np
import pytest
import torch

from reverie.datasets import load
from reverie.datasets.check.report import report
from reverie.datasets.readers import two_tanks as log
from reverie.envs import two_tanks
from reverie.mistake import Mistake


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path))


def test_it_is_a_csv_without_an_environment_whose_columns_have_names(monkeypatch):
    data = load("builtin/two-tanks", episodes=3)
    assert (len(data), len(data.episode_starts)) == (3 * 199, 3)
    assert data.spec.env_id is None and data.reference is None
    assert data.spec.obs_names == two_tanks.OBS_NAMES
    assert data.spec.action_names == two_tanks.ACTION_NAMES
    assert (data.spec.action_low, data.spec.action_high) == ((0.0,), (1.0,))
    assert not data.transitions.terminated.any() and data.valid_next.all()
    assert (data.transitions.reward < 0).all()
    text = Path(data.origin["file"]).read_text()
    assert (
        text.splitlines()[0]
        == "time [s],episode,h1 [cm],h2 [cm],setpoint [cm],position [-],valve [-],reward"
    )
    assert len(text.splitlines()) == 601
    assert report(data).problems == ()
    # The cached file is read, not made anew, and a new one is the same.
    monkeypatch.setattr(log, "record", lambda **_: pytest.fail("made twice"))
    assert load("builtin/two-tanks", episodes=3).fingerprint == data.fingerprint
    monkeypatch.undo()


def test_a_row_shows_what_the_plant_did():
    rows = load("builtin/two-tanks", episodes=2).transitions
    valve = (rows.action + 1.0) / 2.0
    torch.testing.assert_close(rows.next_obs[:, 3:], valve, rtol=0, atol=2e-6)
    wanted = two_tanks.reward_of(rows.obs, valve)
    torch.testing.assert_close(rows.reward, wanted, rtol=1e-3, atol=1e-4)


def test_the_reward_that_is_logged_can_be_computed_from_the_other_columns(tmp_path):
    logged = load("builtin/two-tanks", episodes=2)
    data = load(
        "table",
        path=logged.origin["file"],
        columns={"actions": "valve"},
        reward="-((h2 - setpoint) / 5)**2 - 2 * (valve - position)**2",
        action_low=0,
        action_high=1,
    )
    assert data.spec.obs_names == logged.spec.obs_names
    np.testing.assert_allclose(
        data.transitions.reward, logged.transitions.reward, rtol=1e-3, atol=1e-4
    )


def test_numbers_that_mean_nothing_are_refused():
    with pytest.raises(Mistake, match=r"dataset.random=1\.5 must lie in \[0, 1\]"):
        load("builtin/two-tanks", random=1.5)
    with pytest.raises(Mistake, match=r"dataset\.episodes=0 must be"):
        load("builtin/two-tanks", episodes=0)
