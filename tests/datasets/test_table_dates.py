"""Times as people and programs write them."""

import numpy as np
import pandas
import pytest

from reverie.datasets import load as load_any
from reverie.datasets.tables.dates import Unread, parse_dates
from reverie.mistake import Mistake
from tests.datasets.tables import load_file, log, write

START = pandas.Timestamp("2026-03-28 11:59:00")


def texts(*cells):
    return np.array(cells, dtype=object)


def dated(form, start=START):
    """The plant's log without episodes in a column: a day for each."""
    frame = log()
    shift = pandas.to_timedelta(frame["time [s]"], "s") + pandas.to_timedelta(frame["episode"], "D")
    return frame.drop(columns="episode").assign(**{"time [s]": (start + shift).map(form)})


@pytest.mark.parametrize(
    "form",
    [
        lambda at: at.strftime("%d.%m.%Y %H:%M:%S,%f"),
        lambda at: at.strftime("%d.%m.%y %H:%M:%S.%f"),
        lambda at: at.strftime("%m/%d/%Y %I:%M:%S.%f %p"),
        lambda at: at.strftime("%d/%m/%Y %H:%M:%S.%f"),
        lambda at: at.strftime("%Y/%m/%d %H:%M:%S.%f"),
        lambda at: at.strftime("%Y-%m-%d %H:%M:%S,%f"),
        lambda at: at.isoformat(),
        lambda at: at.isoformat() + "Z",
        lambda at: at.tz_localize("Europe/Berlin").isoformat(),
        lambda at: at.tz_localize("America/Chicago").isoformat(),
    ],
)
def test_dates_of_several_countries_give_the_same_rows(tmp_path, form):
    # The clock of Berlin goes forward on 2026-03-29, which only lengthens a gap.
    data = load_file(write(dated(form), tmp_path / "log.csv"))
    assert data.fingerprint == load_any(log()).fingerprint


def test_a_change_of_the_clock_is_no_gap_where_the_zone_is_written():
    found = parse_dates(texts("2026-03-29T01:59:59+01:00", "2026-03-29T03:00:00+02:00"), None)
    assert found.tolist() == [0.0, 1.0]


def test_day_and_month_that_cannot_be_told_apart_are_refused_until_their_order_is_named(tmp_path):
    form, start = "%m/%d/%Y %H:%M:%S.%f", pandas.Timestamp("2026-03-04")
    path = write(dated(lambda at: at.strftime(form), start), tmp_path / "log.csv")
    with pytest.raises(Mistake) as caught:
        load_file(path)
    assert str(caught.value) == (
        f"{path}: time [s] holds '03/04/2026 00:00:00.000000' in line 2, in which day and month "
        "cannot be told apart; set dataset.date_format=day-first or dataset.date_format=month-first"
    )
    for order in ("month-first", "day-first", form):
        assert load_file(path, date_format=order).fingerprint == load_any(log()).fingerprint


def test_the_order_of_day_and_month_is_what_was_said():
    cells = texts("03/04/2026", "03/05/2026")
    assert parse_dates(cells, "month-first").tolist() == [0.0, 86_400.0]
    assert parse_dates(cells, "day-first").tolist() == [0.0, 30 * 86_400.0]
    assert parse_dates(cells, "%d/%m/%Y").tolist() == [0.0, 30 * 86_400.0]


def test_of_one_day_the_order_makes_no_difference():
    found = parse_dates(texts("03/04/2026 10:00:00", None, "03/04/2026 10:00:02.5"), None)
    np.testing.assert_array_equal(found, [0.0, np.nan, 2.5])


def test_elapsed_times_go_beyond_a_day():
    assert parse_dates(texts("0:00:59,5", "00:01:00", "25:00:00"), None).tolist() == [
        0.0,
        0.5,
        89_940.5,
    ]


@pytest.mark.parametrize(
    ("cells", "given", "row", "why"),
    [
        (["2026-03-29T01:00:00Z", "2026-03-29T01:00:01"], None, 1, "some dates have a time zone"),
        (["13/01/2026", "01/13/2026"], None, 1, "the month comes first, and the day in other rows"),
        (["01.02.2026", "32.01.2026"], None, 1, "neither a number nor a date"),
        (["01.02.2026 25:61:00", "02.02.2026"], None, 0, "neither a number nor a date"),
        ([None, "28 Mrz 2026"], None, 1, "'dataset.date_format="),
        (["2026-01-01", "28 Mar 2026"], "%d %b %Y", 0, "not follow dataset.date_format=%d %b %Y"),
        (["28 Mar 2026"], "%d %Q", 0, "does not follow dataset.date_format=%d %Q"),
    ],
)
def test_what_is_no_date_is_named_by_its_row(cells, given, row, why):
    found = parse_dates(texts(*cells), given)
    assert isinstance(found, Unread) and found.row == row and why in found.why


def test_a_format_that_is_named_is_read():
    found = parse_dates(texts("28 Mar 2026 10:00:00", "28 Mar 2026 10:00:02"), "%d %b %Y %H:%M:%S")
    assert found.tolist() == [0.0, 2.0]


@pytest.mark.parametrize("cell", [[1.0], {"t": 1}, np.ones(2)])
def test_lists_are_no_times(cell):
    frame = log()
    frame["time [s]"] = [cell] * len(frame)
    with pytest.raises(
        Mistake, match=r"time \[s\] holds .* in row 0 .*which is no date; name anot"
    ):
        load_any(frame, columns={"actions": ["action [-]"]})


@pytest.mark.parametrize("word", ["now", "today"])
@pytest.mark.parametrize("form", [None, "%Y-%m-%d %H:%M:%S"])
def test_words_for_the_time_of_reading_are_no_dates(word, form):
    found = parse_dates(texts("2026-01-31 12:00:00", word), form)
    assert isinstance(found, Unread) and found.row == 1
