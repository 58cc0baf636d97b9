"""Logs in several files: one for each episode, one a day, a folder or a pattern of them."""

import logging
import os

import numpy as np
import pandas
import pytest
import torch

from reverie.datasets import load
from reverie.datasets.names import short_name
from reverie.datasets.storage import find_newer
from reverie.datasets.tables.files import find_tables
from reverie.mistake import Mistake
from tests.datasets.tables import ROWS, log, write

WHOLE = log()
TIMED = WHOLE.drop(columns="episode")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "logs"


def split(frame, folder, borders, suffix=".csv", prefix="day"):
    """Files of the rows between the borders, numbered from 8 on."""
    folder.mkdir(exist_ok=True)
    parts = np.split(np.arange(len(frame)), borders)
    return [
        write(frame.iloc[rows].reset_index(drop=True), folder / f"{prefix}{8 + index}{suffix}")
        for index, rows in enumerate(parts)
    ]


def read(path, **given):
    return load("table", path=str(path), **given)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".feather", ".tsv"])
def test_a_folder_is_read_in_the_order_of_its_numbers(folder, suffix, caplog):
    split(TIMED, folder, [ROWS, 2 * ROWS, 3 * ROWS], suffix)
    with caplog.at_level(logging.WARNING):
        data = read(folder)
    assert data.fingerprint == load(WHOLE).fingerprint
    assert "4 files in the order of their names; an episode ends with each" in caplog.text
    assert data.name == "logs"


def test_a_pattern_chooses_files_at_any_depth(folder):
    split(TIMED, folder, [ROWS, 2 * ROWS, 3 * ROWS])
    write(TIMED, folder / "all.csv")
    assert read(folder / "day*.csv").fingerprint == load(WHOLE).fingerprint
    assert read(folder.parent / "**" / "day*.csv").name == "day"
    assert len(find_tables(str(folder / "day[89].csv"))) == 2


def test_an_episode_that_time_carries_into_the_next_file_goes_on(folder, caplog):
    one = TIMED.assign(**{"time [s]": np.arange(len(TIMED)) * 0.5})
    split(one, folder, [50, 130])
    with caplog.at_level(logging.WARNING):
        data = read(folder)
    assert data.fingerprint == load(one).fingerprint
    assert "2 times an episode goes on in the next, by time [s]" in caplog.text
    gap = pandas.concat([one.iloc[:100], one.iloc[103:]])
    split(gap, folder, [50, 100])
    assert read(folder).fingerprint == load(gap).fingerprint


def test_files_may_count_their_episodes_anew(folder):
    half = 2 * ROWS
    again = WHOLE.assign(episode=WHOLE["episode"] % 2)
    split(again, folder, [half])
    assert read(folder).fingerprint == load(WHOLE).fingerprint
    split(again.drop(columns="time [s]"), folder, [half])
    assert read(folder).fingerprint == load(WHOLE).fingerprint


def test_an_episode_that_a_new_file_cuts_goes_on_only_by_its_time(folder):
    dated = WHOLE.assign(**{"time [s]": np.arange(len(WHOLE)) * 0.5})
    split(dated, folder, [ROWS + 10])
    assert read(folder).fingerprint == load(dated).fingerprint
    split(dated.drop(columns="time [s]"), folder, [ROWS + 10])
    cut = np.repeat([0, 1, 2, 3, 4], [ROWS, 10, ROWS - 10, ROWS, ROWS])
    assert read(folder).fingerprint == load(WHOLE.assign(episode=cut)).fingerprint


def test_unequal_steps_go_on_across_files(folder):
    rng = np.random.default_rng(0)
    one = TIMED.assign(**{"time [s]": np.cumsum(rng.uniform(0.1, 1.0, len(TIMED)))})
    split(one, folder, [77])
    found, whole = read(folder, longest_step=2.0), load(one, longest_step=2.0)
    assert found.fingerprint == whole.fingerprint
    assert torch.equal(found.dt, whole.dt)


def test_messages_name_the_file_and_its_line(folder):
    split(TIMED, folder, [ROWS, 2 * ROWS, 3 * ROWS])
    wrong = TIMED.iloc[:ROWS].astype({"level [cm]": object})
    wrong.loc[3, "level [cm]"] = "broken"
    write(wrong, folder / "day10.csv")
    with pytest.raises(Mistake, match=r"level \[cm\] holds 'broken' in line 5 of day10\.csv"):
        read(folder, columns={"observations": ["level", "setpoint"]})


def test_rows_are_told_by_their_file(folder):
    split(TIMED, folder, [ROWS, 2 * ROWS])
    places = read(folder).places
    assert places.at(0) == "line 2 of day8.csv"
    assert places.at(ROWS) == "line 3 of day9.csv"  # the last row of an episode is left out
    assert places.between(1, 4) == "lines 3 to 6 of day8.csv"
    assert places.between(1, ROWS) == "line 3 of day8.csv to line 3 of day9.csv"


def test_a_column_that_not_every_file_has_is_told_and_not_read(folder, caplog):
    files = split(TIMED, folder, [ROWS, 2 * ROWS])
    write(TIMED.iloc[:ROWS].assign(note="x"), files[0])
    with caplog.at_level(logging.WARNING):
        assert read(folder).spec.obs_names == ("level [cm]", "setpoint [cm]")
    assert "columns that not every file has are not read: note (not in day9.csv)" in caplog.text
    write(pandas.DataFrame({"a": [1.0], "b": [2.0]}), files[1])
    with pytest.raises(Mistake, match="no column stands in each of 3 files"):
        read(folder)


def test_files_without_rows_are_left_out(folder, caplog):
    split(TIMED, folder, [ROWS])
    write(TIMED.iloc[:0], folder / "day8b.csv")
    (folder / "day8c.csv").touch()
    with caplog.at_level(logging.WARNING):
        read(folder)
    assert "2 files without rows: day8b.csv, day8c.csv" in caplog.text
    with pytest.raises(Mistake, match="none of 2 files has rows"):
        read(folder / "day8[bc].csv")


def test_numbers_in_one_file_are_marked_missing_in_another(folder):
    files = split(TIMED, folder, [ROWS, 2 * ROWS])
    odd = TIMED.iloc[ROWS : 2 * ROWS].astype({"level [cm]": object})
    odd.iloc[5, odd.columns.get_loc("level [cm]")] = "Bad Input"
    write(odd, files[1])
    empty = TIMED.iloc[2 * ROWS :].assign(**{"level [cm]": np.nan})
    write(empty, files[2])
    whole = pandas.concat([TIMED.iloc[:ROWS].assign(episode=0), odd.assign(episode=1)])
    assert read(folder).fingerprint == load(whole).fingerprint


def test_dates_that_one_file_lacks_are_missing_there(folder):
    dated = TIMED.assign(**{"time [s]": pandas.date_range("2026-01-01", periods=len(TIMED))})
    files = split(dated, folder, [ROWS, 2 * ROWS], ".parquet")
    write(dated.iloc[2 * ROWS :].assign(**{"time [s]": None}).reset_index(drop=True), files[2])
    with pytest.raises(Mistake, match=r"time \[s\] has no one sampling time"):
        read(folder)
    assert len(read(folder / "day[89].parquet")) == 2 * ROWS - 1


def test_folders_that_hold_no_log_are_refused(folder):
    folder.mkdir()
    (folder / "notes.pdf").touch()
    with pytest.raises(Mistake, match=r"is a folder without a table .* it holds notes\.pdf"):
        read(folder)
    split(TIMED, folder, [ROWS])
    write(TIMED, folder / "notes.txt")
    with pytest.raises(
        Mistake, match=r"several kinds \(\.csv, \.txt\); .*dataset\.path=.*/\*\.csv"
    ):
        read(folder)
    with pytest.raises(Mistake, match=r"night\*\.csv fits no file; correct dataset\.path"):
        read(folder / "night*.csv")


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tmp_path):
    write(TIMED, tmp_path / "run[1].csv")
    write(TIMED.iloc[:150], tmp_path / "run1.csv")
    data = read(tmp_path / "run[1].csv")
    assert (len(data), data.name) == (len(TIMED) - 4, "run[1]")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("plant/logs", "logs"),
        ("plant/logs/", "logs"),
        ("plant/logs/*.csv", "logs"),
        ("plant/2026-*.csv", "2026"),
        ("plant/**/*.csv", "plant"),
        ("plant/day[0-9].csv", "day"),
    ],
)
def test_the_name_is_what_is_fixed_in_the_path(path, name):
    assert short_name(path=path) == name


def test_a_changed_or_new_file_is_converted_anew_and_told(folder, tmp_path):
    split(TIMED, folder, [ROWS, 2 * ROWS])
    first = read(folder, storage="memmap")
    assert first.fingerprint == read(folder).fingerprint
    done = tmp_path / "summary.json"
    done.touch()
    for each in (folder, *folder.iterdir()):  # clocks of file systems are coarse
        os.utime(each, (0, 0))
    settings = {"_target_": "reverie.datasets.readers.table.load", "path": str(folder)}
    assert find_newer(settings, done) is None
    split(log(seed=1).drop(columns="episode"), folder, [], prefix="more")
    os.utime(done, (1, 1))
    assert find_newer(settings, done) == folder / "more8.csv"
    os.utime(folder / "more8.csv", (0, 0))  # as a copy of an older one
    assert find_newer(settings, done) == folder
    assert len(read(folder, storage="memmap")) == len(first) + len(WHOLE) - 4


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".csv"])
def test_files_with_and_without_a_time_zone_are_not_mixed(folder, suffix):
    start = pandas.Timestamp("2026-03-01", tz="Europe/Berlin")
    times = start + pandas.to_timedelta(np.arange(len(TIMED)) * 0.5, "s")
    first, second = split(TIMED.assign(**{"time [s]": times}), folder, [2 * ROWS], suffix)
    assert len(read(folder)) == len(TIMED) - 1
    late = TIMED.assign(**{"time [s]": times.tz_localize(None)}).iloc[2 * ROWS :]
    write(late.reset_index(drop=True), second)
    with pytest.raises(Mistake, match=r"time zone .* none"):
        read(folder)
    for file in (first, second):  # without a zone in both it is a clock as any other
        frame = pandas.read_csv(file) if suffix == ".csv" else None
        if frame is None:
            kind = pandas.read_parquet if suffix == ".parquet" else pandas.read_feather
            frame = kind(file)
        dates = pandas.to_datetime(frame["time [s]"])
        write(frame.assign(**{"time [s]": dates.dt.tz_localize(None)}), file)
    assert len(read(folder)) == len(TIMED) - 1
