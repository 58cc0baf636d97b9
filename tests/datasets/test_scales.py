"""A unit that changes half-way is found; what a plant may do is not taken for one."""

import numpy as np
import pytest

from reverie.datasets import load
from reverie.datasets.check.report import report
from tests.datasets.tables import log


def told(frame, **given):
    """Lines about units: problems, then warnings."""
    found = report(load(frame, **given))
    return tuple(
        [line for line in lines if "did its unit change?" in line]
        for lines in (found.problems, found.warnings)
    )


@pytest.mark.parametrize("factor", [100.0, 0.01])
def test_a_column_in_other_units_from_an_episode_on_is_a_problem(factor):
    frame = log(episodes=10)
    frame.loc[360:, "level [cm]"] *= factor
    (line,), warned = told(frame)
    assert line.startswith("level [cm] is about ")
    size = float(line.split("about ")[1].split(" ")[0])
    assert size == pytest.approx(100, rel=0.3)
    assert ("larger" in line) == (factor > 1)
    assert "from row 360 (counted from 0) on" in line  # after six episodes
    assert not warned


def test_actions_in_other_units_are_found_too():
    frame = log(episodes=10)
    frame.loc[300:, "action [-]"] *= 100.0
    (line,), _ = told(frame)
    assert "action [-] is about" in line and "times larger from row 300 (counted from 0) on" in line


def test_within_one_episode_it_may_be_what_the_plant_did():
    frame = log(rows=600, episodes=1)
    frame.loc[300:, "level [cm]"] *= 50.0
    problems, (line,) = told(frame)
    assert not problems and "times larger from row" in line


def test_other_levels_other_spreads_and_drift_are_no_change_of_unit():
    frame = log(episodes=12)
    assert told(frame) == ([], [])
    late = np.arange(720) >= 360
    for changed in (
        frame["level [cm]"] + 1000.0 * late,  # another level
        frame["level [cm]"].mean() + np.where(late, 50.0, 1.0) * (frame["level [cm]"] - 10),
        np.exp(np.arange(720) / 100.0),  # growth throughout
        np.where(np.arange(720) < 60, 100.0, 1.0) * frame["level [cm]"],  # one odd episode
    ):
        assert told(frame.assign(**{"level [cm]": changed})) == ([], [])
