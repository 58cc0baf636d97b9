"""Tables whose rows stand in another order than they were recorded in."""

import numpy as np
import pandas
import pytest

from reverie.datasets import load as load_any
from reverie.mistake import Mistake
from tests.datasets.tables import EPISODES, ROWS, load_file, log, write

TOLD = "falls from row to row, so the newest row is first; rows are read from the last"


def dated(frame):
    times = pandas.date_range("2026-01-31", periods=len(frame), freq="500ms")
    return frame.assign(**{"time [s]": times})


def episodes_of(data):
    """The observations of each episode, in any order of the episodes."""
    obs = np.split(data.transitions.obs.numpy(), data.episode_starts.numpy()[1:])
    return sorted(each.tolist() for each in obs)


@pytest.mark.parametrize("episode", [True, False])
@pytest.mark.parametrize("dates", [True, False])
def test_a_log_with_its_newest_row_first_is_read_from_its_end(tmp_path, caplog, dates, episode):
    frame = dated(log()) if dates else log()
    frame = frame if episode else frame.drop(columns="episode")
    wanted = load_file(write(frame, tmp_path / "a.csv"))
    assert TOLD not in caplog.text
    found = load_file(write(frame[::-1], tmp_path / "b.csv"))
    assert "time [s] " + TOLD in caplog.text
    assert episodes_of(found) == episodes_of(wanted)
    assert found.places.at(0) == f"line {2 + len(frame) - 1}"  # where it stands


def test_episodes_in_order_may_each_have_their_newest_row_first():
    frame = log()
    turned = pandas.concat([part[::-1] for _, part in frame.groupby("episode")])
    assert episodes_of(load_any(turned)) == episodes_of(load_any(frame))


def test_an_index_that_falls_is_turned_too(caplog):
    frame = dated(log()).set_index("time [s]")
    assert episodes_of(load_any(frame[::-1])) == episodes_of(load_any(frame))
    assert TOLD in caplog.text


def test_each_of_several_files_is_turned(tmp_path):
    frame = dated(log()).drop(columns="episode")
    half = len(frame) // 2
    for name, part in (("a", frame[:half]), ("b", frame[half:])):
        write(part[::-1], tmp_path / f"{name}.csv")
    found = load_file(tmp_path)
    assert found.fingerprint == load_any(frame).fingerprint


def test_rows_side_by_side_with_the_newest_first_are_put_together():
    frame = log()
    mixed = frame.sort_values(["time [s]", "episode"], ascending=False, ignore_index=True)
    assert episodes_of(load_any(mixed)) == episodes_of(load_any(frame))


def test_a_coarse_clock_that_goes_back_is_to_be_sorted_and_not_left_out():
    frame = log()
    coarse = frame.assign(**{"time [s]": -np.floor(frame["time [s]"] / 4)})
    with pytest.raises(
        Mistake, match=r"never adv.*goes back after 28 rows; sort the rows, the old"
    ):
        load_any(coarse)
    ahead = coarse.assign(**{"time [s]": -coarse["time [s]"]})
    assert len(load_any(ahead)) == EPISODES * (ROWS - 1)
