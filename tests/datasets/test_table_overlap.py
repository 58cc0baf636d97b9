"""Logs in several files that repeat rows, lie in another order than time, or differ in writing."""

import logging

import numpy as np
import pytest

from reverie.datasets import load
from reverie.datasets.tables.files import find_tables
from reverie.mistake import Mistake
from tests.datasets.tables import log, write

ONE = log().drop(columns="episode").assign(**{"time [s]": lambda each: np.arange(len(each)) * 0.5})


@pytest.fixture
def whole():
    return load(ONE).fingerprint


def read(path):
    return load("table", path=str(path))


def files_of(folder, **rows):
    for name, (first, last) in rows.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(ONE.iloc[first:last].reset_index(drop=True), folder / f"{name}.csv")


@pytest.mark.parametrize(
    "rows",
    [
        {"a1": (0, 101), "a2": (100, 180), "a3": (170, 240)},  # the last rows again
        {"a1": (0, 100), "a2": (0, 180), "a3": (0, 240)},  # exports that grow
        {"a1": (0, 100), "a1 (1)": (0, 100), "a2": (100, 240)},  # a copy
        {"a1": (0, 100), "a2": (100, 240), "all": (0, 240)},
        {"c": (0, 110), "a": (100, 180), "b": (170, 240)},  # in another order, too
    ],
)
def test_rows_that_several_files_hold_are_read_once(tmp_path, rows, whole, caplog):
    files_of(tmp_path, **rows)
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path).fingerprint == whole
    assert "stand in files before them too, with the same time and values" in caplog.text


def test_other_values_at_the_same_times_stay(tmp_path, caplog):
    write(ONE, tmp_path / "plant1.csv")
    write(
        log(seed=1).drop(columns="episode").assign(**{"time [s]": ONE["time [s]"]}),
        tmp_path / "plant2.csv",
    )
    with caplog.at_level(logging.WARNING):
        assert len(read(tmp_path)) == 2 * (len(ONE) - 1)
    assert "read once" not in caplog.text and "order of their times" not in caplog.text


def test_files_are_put_in_the_order_of_their_times(tmp_path, whole, caplog):
    files_of(tmp_path, **{"31.01.2026": (0, 90), "01.02.2026": (90, 150), "02.02.2026": (150, 240)})
    with caplog.at_level(logging.WARNING):
        data = read(tmp_path)
    assert data.fingerprint == whole
    assert data.places.at(0) == "line 2 of 31.01.2026.csv"
    assert "3 files in the order of their times; 2 times an episode goes on" in caplog.text


def test_an_episode_that_its_column_ends_is_not_said_to_go_on(tmp_path, caplog):
    for index, rows in enumerate((slice(0, 100), slice(100, 240))):
        write(ONE.iloc[rows].assign(batch=f"B{index}"), tmp_path / f"{index}.csv")
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path).episode_lengths.tolist() == [99, 139]
    assert "2 files in the order of their names; an episode ends with each" in caplog.text


def test_a_link_to_another_file_is_not_read_again(tmp_path, whole):
    files_of(tmp_path, day1=(0, 100), day2=(100, 240))
    (tmp_path / "a_latest.csv").symlink_to("day2.csv")
    assert read(tmp_path).fingerprint == whole
    assert [each.name for each in find_tables(f"{tmp_path}/*.csv")] == ["day1.csv", "day2.csv"]


@pytest.mark.parametrize("path", ["", "/*.csv"])
def test_a_link_to_nothing_is_refused(tmp_path, path):
    files_of(tmp_path, day1=(0, 240))
    (tmp_path / "day2.csv").symlink_to(tmp_path / "gone.csv")
    with pytest.raises(Mistake, match=r"day2\.csv is a link to .*gone\.csv, which is not there"):
        find_tables(f"{tmp_path}{path}")


def test_what_else_a_folder_holds_is_told(tmp_path, caplog):
    files_of(tmp_path, day1=(0, 240))
    files_of(tmp_path / "old", day0=(0, 240))
    (tmp_path / "day0.csv.gz").touch()
    with caplog.at_level(logging.WARNING):
        read(tmp_path)
    assert "not read: day0.csv.gz, old" in caplog.text


def test_folders_of_parts_are_named(tmp_path):
    files_of(tmp_path / "day.parquet", part=(0, 240))
    with pytest.raises(Mistake, match=r"fits the folder .*day\.parquet; .*/\*\.parquet/\*'"):
        find_tables(f"{tmp_path}/*.parquet")
    assert len(find_tables(f"{tmp_path}/*.parquet/*")) == 1
    with pytest.raises(Mistake, match=r"it holds day\.parquet; .*/\*\*/\*\.parquet"):
        find_tables(str(tmp_path))


def test_a_folder_with_brackets_is_no_pattern(tmp_path):
    files_of(tmp_path / "log [2026]", day1=(0, 240))
    assert len(find_tables(f"{tmp_path}/log [2026]/day*.csv")) == 1


def test_files_of_one_name_are_told_apart(tmp_path):
    files_of(tmp_path / "1", log=(0, 100))
    files_of(tmp_path / "2", log=(100, 240))
    places = read(tmp_path / "**" / "*.csv").places
    assert places.between(3, 110) == "line 5 of 1/log.csv to line 12 of 2/log.csv"


def test_files_may_be_written_in_different_ways(tmp_path, caplog):
    # With decimal commas beside points, a text among the numbers, and names without units.
    odd = ONE.astype({"level [cm]": object})
    odd.iloc[[5, 205], 1] = "Bad Input"
    bare = odd.iloc[:100].rename(columns=lambda name: name.split(" [")[0])
    comma = bare.assign(level=[str(each).replace(".", ",") for each in bare["level"]])
    comma.to_csv(tmp_path / "a1.csv", sep=";", decimal=",", index=False)
    odd.iloc[100:].to_csv(tmp_path / "a2.csv", index=False)
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path).fingerprint == load(odd).fingerprint
    assert "taken for the same: action and action [-], level and level [cm]" in caplog.text


def test_numbers_among_dates_are_refused(tmp_path):
    files_of(tmp_path, a1=(0, 100))
    write(ONE.iloc[:100].assign(**{"time [s]": "2026-01-01 00:00:00"}), tmp_path / "a2.csv")
    with pytest.raises(Mistake, match=r"holds '0.0' in line 2 of a1\.csv and dates such as '2026"):
        read(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_line_that_is_still_written_is_left_out(tmp_path, encoding, whole, caplog):
    text = ONE.to_csv(index=False)
    (tmp_path / "log.csv").write_text(text + "120.0,9.8", encoding=encoding)
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path / "log.csv").fingerprint == whole
    assert "line 242 is left out, as the file ends within it" in caplog.text
    (tmp_path / "log.csv").write_text(text + "120.0,9.8\n", encoding=encoding)
    with pytest.raises(Mistake, match="line 242 has 2 cells"):
        read(tmp_path / "log.csv")
