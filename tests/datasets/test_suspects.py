"""Columns of a table that are guessed to be observed, and look like a clock or the end."""

import logging

import numpy as np
import pytest

from reverie.datasets import load
from reverie.datasets.check import report
from tests.datasets.tables import EPISODES, ROWS, log


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.WARNING)

    def told(frame, **columns):
        caplog.clear()
        load(frame, columns=columns)
        return [line for each in caplog.records if " is observed" in (line := each.getMessage())]

    return told


def test_a_clock_is_told_until_it_is_the_time_or_left_out(told):
    frame = log().drop(columns="time [s]")
    frame["t_s"] = np.round(np.tile(np.arange(ROWS) * 0.0005, EPISODES), 4)
    (clock,) = told(frame)
    assert "t_s rises by 0.0005 in every row" in clock
    assert "'dataset.columns.time=[t_s]' makes it" in clock
    assert told(frame, time=["t_s"]) == [] and told(frame, observations=["t_s", "level"]) == []
    (second,) = told(frame.assign(time=frame["t_s"]))
    assert "leave it out of dataset.columns.observations" in second
    frame.loc[7, "t_s"] += 0.0002
    assert told(frame) == []


def test_a_flag_of_the_end_is_told_until_it_is_named(told):
    frame = log()
    frame["failed"] = 0
    assert told(frame) == []
    frame.loc[ROWS - 1, "failed"] = 1
    (flag,) = told(frame)
    assert f"failed is 1 only where episodes end (1 of {EPISODES})" in flag
    assert "'dataset.columns.terminated=[failed]' says so" in flag
    assert told(frame, terminated="failed") == []
    frame.loc[3, "failed"] = 1  # a state of the plant
    assert told(frame) == []


def test_a_number_of_episodes_is_told_until_it_is_named(told):
    frame = log().drop(columns="episode")
    frame["Charge"] = np.repeat(np.arange(7, 7 + EPISODES), ROWS)
    (number,) = told(frame)
    assert f"Charge counts up by one {EPISODES - 1} times in {len(frame)} rows" in number
    assert "'dataset.columns.episode=Charge'" in number
    assert told(frame, episode="Charge") == []
    frame.loc[5, "Charge"] = 0  # a state of the plant
    assert told(frame) == []


def test_a_switch_called_run_is_observed_and_ends_nothing(caplog):
    frame = log(episodes=1, rows=240).drop(columns="episode")
    data = load(frame.assign(run=np.arange(240) // 30 % 2))
    assert "run is 0 and 1 by turns, as a switch is" in caplog.text and " gap" not in caplog.text
    assert "run" in data.spec.obs_names and data.episode_lengths.tolist() == [239]


@pytest.mark.parametrize("run", [np.arange(240) // 120, np.arange(240) // 60, np.arange(240) % 2])
def test_runs_are_episodes(run, caplog):
    frame = log(episodes=1, rows=240).drop(columns="episode")
    data = load(frame.assign(run=run).drop(columns=[] if run[1] else "time [s]"))
    assert "by turns" not in caplog.text and data.origin["episode"] == "run"


AHEAD = [
    "level_next [cm]",
    "level.next",
    "level next",
    "level(t+1)",
    "level (k+1)",
    "level_t+1 [cm]",
]


@pytest.mark.parametrize("name", [*AHEAD, "next_level"])
def test_a_column_of_the_next_rows_values_is_not_observed_unless_it_is_named(name):
    frame = log()
    frame[name] = frame["level [cm]"].shift(-1, fill_value=0.0)
    guessed = load(frame)
    assert guessed.spec.obs_names == ("level [cm]", "setpoint [cm]")
    assert not any("next row's values" in line for line in report(guessed).warnings)
    named = load(frame, columns={"observations": ["level [cm]", name]})
    (line,) = [each for each in report(named).warnings if "leave them out" in each]
    assert line.startswith(f"{name}: the next row's values of other columns")
    assert not any("dataset.copies" in each for each in report(named).warnings)
    copied = load(frame, columns={"observations": ["level [cm]", name]}, copies="auto")
    assert line in report(copied).warnings


def test_names_by_pattern_leave_out_the_next_rows_too():
    frame = log().rename(columns={"level [cm]": "obs_0", "setpoint [cm]": "obs_1"})
    frame = frame.assign(obs_0_next=1.0 + frame["obs_0"], action_next=0.3)
    data = load(frame)
    assert data.spec.obs_names == ("obs_0", "obs_1") and data.spec.action_dim == 1


@pytest.mark.parametrize("name", ["heat +1", "next", "nextlevel", "level_k", "T1 [K]", "text+1"])
def test_other_names_are_observed(name):
    assert name in load(log().assign(**{name: np.arange(240.0) ** 2})).spec.obs_names
