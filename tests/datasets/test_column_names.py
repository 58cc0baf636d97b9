"""Names of columns in what a check says, and nothing of them where the data have none."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from reverie.datasets.build import build
from reverie.datasets.check import report, show
from reverie.datasets.check.figures import draw
from reverie.datasets.check.report import as_json
from reverie.envs.specs import Spec

NAMES = ("level [cm]", "cost $", "same again", "set\x1b[31m point")


@pytest.fixture
def tanks():
    """Four named columns, of which two are equal and one constant; a valve from 0 to 4."""
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(400, 4)).cumsum(0)
    obs[:, 2], obs[:, 3] = obs[:, 1], 7.0
    spec = Spec(
        env_id=None,
        obs_dim=4,
        action_dim=2,
        action_low=(0.0, -1.0),
        action_high=(4.0, 1.0),
        obs_names=NAMES,
        action_names=("valve [V]", "pump"),
    )
    action = np.stack([rng.uniform(0, 4, 400), np.full(400, 0.5)], 1)
    return build(
        name="tanks",
        spec=spec,
        obs=obs,
        action=action,
        reward=-np.abs(obs[:, 0]),
        terminated=np.zeros(400, bool),
        truncated=np.arange(400) % 100 == 99,
        next_obs=None,
        reference=None,
        origin={},
        clip_actions=False,
    )


def printed(data):
    console = Console(width=200, record=True, file=io.StringIO())
    show(data, report(data), console)
    return console.export_text()


def test_tables_and_findings_name_the_columns(tanks):
    text = printed(tanks)
    for line in (
        "constant observations  set\\x1b[31m point",
        "equal observations     cost $=same again",
        "constant actions       pump",
        "warning: actions pump never change",
        "actions are in their own units here",
    ):
        assert line in text
    assert "level [cm]" in text and "obs 0" not in text and "action 0" not in text


def test_named_actions_are_told_in_their_own_units(tanks):
    valve = report(tanks).columns[4]
    assert valve.name == "valve [V]"
    assert valve.min == pytest.approx(0.0, abs=0.1) and valve.max == pytest.approx(4.0, abs=0.1)
    share = (tanks.transitions.action[:, 0].abs() > 0.99).float().mean()
    assert valve.at_edge == pytest.approx(share)
    nameless = replace(tanks, spec=replace(tanks.spec, action_names=()))
    assert report(nameless).columns[4].max <= 1.0


def test_json_and_picture_hold_the_names(tanks):
    record = json.loads(as_json(tanks, report(tanks)))
    assert [each["name"] for each in record["columns"]][:2] == ["level [cm]", "cost $"]
    assert record["spec"]["obs_names"][0] == "level [cm]"
    assert draw(tanks).startswith(b"\x89PNG")


def test_a_column_that_is_not_finite_is_named(tanks):
    obs = tanks.transitions.obs.clone()
    obs[9, 1] = float("nan")
    found = report(replace(tanks, transitions=replace(tanks.transitions, obs=obs)))
    assert any("first in row 9 (in cost $)" in line for line in found.problems)


def test_without_names_columns_are_numbered(tanks):
    nameless = replace(tanks, spec=replace(tanks.spec, obs_names=(), action_names=()))
    text = printed(nameless)
    assert "constant observations  3\n" in text and "equal observations     1=2\n" in text
    assert "obs 0" in text and "action 1" in text and "units here" not in text
    assert torch.equal(nameless.transitions.action, tanks.transitions.action)
