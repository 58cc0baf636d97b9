"""DataFrames whose index is the time, or episode and time."""

import logging

import numpy as np
import pandas
import polars
import pytest
import torch

from reverie.datasets import load
from reverie.mistake import Mistake
from tests.datasets.tables import log

FRAME = log()
PLAIN = FRAME.drop(columns=["time [s]", "episode"])
ELAPSED = pandas.to_timedelta(FRAME["time [s]"], "s")
DATES = pandas.Timestamp("2026-03-28", tz="Europe/Berlin") + ELAPSED


def several(*levels, names):
    return PLAIN.set_index(pandas.MultiIndex.from_arrays(levels, names=names))


@pytest.mark.parametrize(
    ("frame", "time", "episode"),
    [
        (PLAIN.set_index(pandas.DatetimeIndex(DATES).rename(None)), "time", None),
        (PLAIN.set_index(pandas.TimedeltaIndex(ELAPSED).rename(None)), "time", None),
        (PLAIN.set_index(pandas.Index(FRAME["time [s]"], name="t_plc")), "t_plc", None),
        (several(FRAME["episode"], DATES, names=["batch", "stamp"]), "stamp", "batch"),
        (several(FRAME["episode"], ELAPSED, names=[None, None]), "time", "episode"),
        (several(FRAME["episode"], FRAME["time [s]"], names=["run", "t"]), "t", "run"),
        (FRAME.drop(columns="episode").set_index(FRAME["episode"]), "time [s]", "episode"),
    ],
    ids=["dates", "elapsed", "named", "levels", "levels without names", "usual names", "episode"],
)
def test_the_index_is_the_time_or_the_episode(frame, time, episode):
    data = load(frame)
    assert data.fingerprint == load(FRAME).fingerprint
    assert (data.origin["time"], data.origin.get("episode")) == (time, episode)
    assert data.spec.obs_names == ("level [cm]", "setpoint [cm]")


def test_an_index_is_never_observed_by_a_guess_but_can_be_named():
    rows = pandas.Index(np.arange(len(FRAME))[::-1], name="id")
    frame = FRAME.set_index(rows)
    assert load(frame).fingerprint == load(FRAME).fingerprint
    named = {"observations": ["id", "level"]}
    assert load(frame, columns=named).spec.obs_names == ("id", "level [cm]")
    assert load(PLAIN.set_index(DATES), columns={"time": []}).origin.get("time") is None


def test_levels_that_nothing_names_are_refused():
    with pytest.raises(Mistake, match=r"its index has 2 levels without names; name them, e\.g\."):
        load(several(FRAME["episode"], FRAME["time [s]"], names=[None, None]))


def test_polars_reads_dates_of_a_zone_and_durations():
    frame = FRAME.drop(columns="time [s]")
    for column in (DATES, ELAPSED):
        data = load(polars.from_pandas(frame.assign(timestamp=column)))
        assert data.fingerprint == load(FRAME).fingerprint and data.origin["time"] == "timestamp"


def test_times_of_other_kinds_are_read():
    clock = [(pandas.Timestamp(2026, 1, 1) + each).time() for each in ELAPSED]
    periods = pandas.period_range("2026-01-01", periods=len(FRAME), freq="s").array
    frame = FRAME.drop(columns="time [s]")
    for column, episode in ((clock, "episode"), (periods, "episode")):
        data = load(frame.assign(timestamp=column), columns={"time": "timestamp"})
        assert data.origin["time"] == "timestamp" and data.origin["episode"] == episode
        assert len(data) == len(load(FRAME))


def test_a_lazy_frame_of_polars_is_collected_and_its_structures_are_no_numbers():
    frame = polars.from_pandas(FRAME)
    assert load(frame.lazy()).fingerprint == load(FRAME).fingerprint
    pairs = polars.struct("level [cm]", "reward").alias("both")
    assert load(frame.with_columns(pairs)).fingerprint == load(FRAME).fingerprint


def test_rows_of_a_frame_are_counted_from_0_and_texts_in_it_are_numbers(caplog):
    frame = FRAME.assign(**{"level [cm]": FRAME["level [cm]"].map("{:.6f}".format)})
    frame.loc[7, "level [cm]"] = "---"
    caplog.set_level(logging.WARNING)
    data = load(frame)
    assert len(data) == len(load(FRAME)) - 2 and data.spec.obs_names[0] == "level [cm]"
    assert data.where(6) == "row 8 (counted from 0)"  # rows 6 and 7 are left out
    told = [record.getMessage() for record in caplog.records]
    first = "1 of 240 rows holds no finite number in a column that is read (level [cm] 1, first in "
    assert any(first + "row 7 (counted from 0): '---'); it is left out" in line for line in told)
    with pytest.raises(Mistake, match="encoding=utf-8 says how a file is written"):
        load(frame, encoding="utf-8")


def test_durations_are_read_in_seconds_and_dates_are_no_numbers():
    seconds = FRAME["reward"].round(3)
    timed = FRAME.assign(reward=pandas.to_timedelta(seconds, unit="s"))
    found = load(timed).transitions.reward
    assert torch.allclose(found, load(FRAME.assign(reward=seconds)).transitions.reward)
    dated = FRAME.assign(reward=pandas.Timestamp("2026-01-01") + timed["reward"])
    with pytest.raises(Mistake, match="reward holds dates, where numbers belong; leave reward out"):
        load(dated)
