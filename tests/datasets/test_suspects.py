"""Columns of a table that are guessed to be observed, and look like a clock or the end."""

import logging

import numpy as np
import pytest

from reverie.datasets import load
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
