"""A date and a time of day in two columns."""

import numpy as np
import pandas
import pytest

from reverie.datasets import load as load_any
from reverie.datasets.tables.clock import JOINED, join_clock
from reverie.datasets.tables.table import from_frame
from reverie.mistake import Mistake
from tests.datasets.tables import load_file, log, write

ROLES = {"actions": "action", "reward": "reward"}


def apart(date, clock, names=("date", "time"), start="2026-01-30 23:59:50"):
    """The plant's log, whose episodes begin a day apart and each cross midnight."""
    frame = log()
    at = pandas.to_timedelta(frame["time [s]"], "s") + pandas.to_timedelta(frame["episode"], "D")
    at = pandas.Timestamp(start) + at
    columns = {names[0]: at.map(date), names[1]: at.map(clock)}
    rest = frame.drop(columns=["episode", "time [s]"])
    return pandas.concat([pandas.DataFrame(columns), rest], axis=1)


def clock_of(at):
    return at.strftime("%H:%M:%S.%f")


@pytest.mark.parametrize(
    ("date", "clock"),
    [
        (lambda at: at.strftime("%Y-%m-%d"), clock_of),
        (lambda at: at.strftime("%d.%m.%Y"), lambda at: at.strftime("%H:%M:%S,%f")),
        (lambda at: at.strftime("%m/%d/%Y"), lambda at: at.strftime("%I:%M:%S.%f %p")),
        (lambda at: at.strftime("%Y%m%d"), clock_of),
        (lambda at: at.strftime("%Y-%m-%d 00:00:00"), clock_of),
    ],
)
def test_they_are_one_time_and_midnight_ends_nothing(tmp_path, caplog, date, clock):
    path = write(apart(date, clock), tmp_path / "log.csv")
    data = load_file(path, columns=ROLES)
    whole = load_any(log(), columns=ROLES)
    assert data.fingerprint == whole.fingerprint
    assert data.spec.obs_names == whole.spec.obs_names  # the date is none of them
    assert "time = date and time together (guessed" in caplog.text


def test_a_frame_may_hold_dates_and_times_as_such():
    frame = apart(lambda at: at.normalize(), lambda at: at.time())
    assert frame["date"].dtype.kind == "M"
    assert load_any(frame, columns=ROLES).fingerprint == load_any(log(), columns=ROLES).fingerprint


def test_other_names_are_named(tmp_path):
    form = "%d %b %Y"
    frame = apart(lambda at: at.strftime(form), clock_of, names=("Tag", "Takt [h]"))
    given = {"columns": {**ROLES, "time": ["Tag", "Takt"]}, "date_format": form}
    data = load_file(write(frame, tmp_path / "log.csv"), **given)
    assert data.fingerprint == load_any(log(), columns=ROLES).fingerprint


def test_a_cell_that_is_missing_is_a_row_without_time(tmp_path):
    frame = apart(lambda at: at.strftime("%Y-%m-%d"), clock_of)
    frame.loc[30, "time"] = None
    frame.loc[90, "date"] = ""
    data = load_file(write(frame, tmp_path / "log.csv"), columns=ROLES)
    assert (np.sort(data.episode_lengths.numpy()) < 59).sum() >= 2  # cut there


@pytest.mark.parametrize(
    ("date", "clock", "message"),
    [
        ("today", clock_of, "date holds 'today' in line 2"),
        (1, clock_of, "date does not hold dates alone, so date and time make no time"),
        (clock_of, clock_of, "date holds"),
    ],
)
def test_a_date_that_is_none_is_refused_with_a_remedy_that_works(tmp_path, date, clock, message):
    frame = apart(date if callable(date) else lambda at: date, clock)
    path = write(frame, tmp_path / "log.csv")
    if date is clock_of:  # a duration is a time, but no date
        message = "date does not hold dates alone"
    with pytest.raises(Mistake, match=message) as caught:
        load_file(path, columns=ROLES)
    assert "\n" not in str(caught.value) and "dataset.columns.time" in str(caught.value)
    assert len(load_file(path, columns={**ROLES, "time": "time"})) > 100


def test_two_columns_that_are_no_date_and_time_are_refused(tmp_path):
    frame = apart(lambda at: at.strftime("%Y-%m-%d"), lambda at: "soon")
    path = write(frame, tmp_path / "log.csv")
    with pytest.raises(Mistake, match="time does not hold times of day"):
        load_file(path, columns={**ROLES, "time": ["date", "time"]})
    with pytest.raises(Mistake, match="has no column 'tim'"):
        load_file(path, columns={**ROLES, "time": ["date", "tim"]})
    with pytest.raises(Mistake, match="it is one column"):
        load_file(path, columns={**ROLES, "time": ["date", "time", "reward"]})


def test_a_time_that_counts_and_a_date_beside_stay_what_they_were(tmp_path):
    frame = log().assign(date="2026-01-30")
    data = load_file(write(frame, tmp_path / "log.csv"))
    assert data.fingerprint == load_any(log()).fingerprint


@pytest.mark.parametrize("role", ["episode", "reward", "observations"])
def test_a_number_for_a_name_is_left_to_who_refuses_it(role):
    table = from_frame(apart(lambda at: at.strftime("%Y-%m-%d"), clock_of), "log")
    joined, columns = join_clock(table, {**ROLES, role: 1})
    assert JOINED in joined.columns and columns == {**ROLES, role: 1, "time": JOINED}


def through_a_change(start, minutes, form, zone="Europe/Berlin"):
    """A log of 120 rows without episodes."""
    at = pandas.date_range(start, periods=120, freq=f"{minutes}min", tz="UTC").tz_convert(zone)
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(rng.uniform(-1, 1, (120, 3)), columns=["level", "action", "reward"])
    return frame.assign(time=at.strftime(form))


@pytest.mark.parametrize(
    ("start", "minutes", "row", "said"),
    [
        ("2026-10-24 20:00", 15, 19, "the hour that comes twice after row 19"),
        ("2026-03-28 20:00", 15, 19, "the hour that is missing after row 19"),
        ("2026-10-24 20:00", 60, 4, "the hour that comes twice after row 4"),
    ],
)
def test_a_clock_that_is_set_by_an_hour_is_named_and_its_offset_mends_it(
    caplog, start, minutes, row, said
):
    """The last Sundays of October and March, where clocks change at one o'clock UTC."""
    naive = load_any(through_a_change(start, minutes, "%d.%m.%Y %H:%M:%S"), columns=ROLES)
    assert f"{said} (counted from 0) is likely a clock set to or from" in caplog.text
    assert "write times in UTC, or with their offset" in caplog.text
    caplog.clear()
    mended = load_any(through_a_change(start, minutes, "%Y-%m-%d %H:%M:%S%z"), columns=ROLES)
    assert "daylight" not in caplog.text
    assert len(mended) == 119 and len(naive) == (119 if minutes == 60 else 118)


@pytest.mark.parametrize(
    "named", [str, lambda text: text.replace("CEST", "MESZ").replace("CET", "MEZ")]
)
@pytest.mark.parametrize("form", ["%Y-%m-%d %H:%M:%S %Z", "%d.%m.%Y %H:%M:%S %Z"])
@pytest.mark.parametrize("start", ["2026-10-24 20:00", "2026-03-28 20:00"])
def test_zones_by_name_tell_summer_time(caplog, start, form, named):
    frame = through_a_change(start, 15, form)
    assert len(load_any(frame.assign(time=frame["time"].map(named)), columns=ROLES)) == 119
    assert "daylight" not in caplog.text


def test_other_gaps_are_no_change_of_the_clock(caplog):
    for minutes, lost in ((15, 3), (15, 5), (60, 1)):
        frame = through_a_change("2026-06-01 00:00", minutes, "%Y-%m-%d %H:%M:%S")
        load_any(frame.drop(index=range(10, 10 + lost)), columns=ROLES)
    assert "1 gap" in caplog.text and "daylight" not in caplog.text
