"""Tables as loggers of strangers write them: marks, words, archives, unsorted rows."""

import csv
import gzip
import logging
import os

import numpy as np
import pandas
import pytest

from reverie.datasets import load as load_any
from reverie.datasets.check import problems, report
from reverie.datasets.readers import file
from reverie.datasets.storage import find_newer
from reverie.datasets.tables.cells import parse_numbers, split_unit
from reverie.datasets.tables.dates import parse_compact, parse_dates
from reverie.mistake import Mistake
from tests.datasets.tables import EPISODES, ROWS, load_file, log, write

LEVEL = "level [cm]"


def saved(tmp_path, text, encoding="utf-8", name="a.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


def as_text(frame=None):
    return (log() if frame is None else frame).to_csv(index=False)


@pytest.mark.parametrize("mark", [-999, "-999", -999.0, "-999.0"])
def test_a_number_that_marks_missing_values_is_missing_in_columns_of_numbers(tmp_path, mark):
    frame, lacking = log(), log()
    frame.loc[[5, 6, 80], LEVEL] = -999.0
    lacking.loc[[5, 6, 80], LEVEL] = np.nan
    expected = load_file(write(lacking, tmp_path / "b.csv"))
    found = load_file(write(frame, tmp_path / "a.csv"), missing=[mark])
    assert found.fingerprint == expected.fingerprint


def test_a_number_that_marks_missing_values_is_a_time_like_any_other(tmp_path):
    path = write(log(), tmp_path / "a.csv")
    assert load_file(path, missing=[5.0]).fingerprint == load_file(path).fingerprint


@pytest.mark.parametrize(("column", "mark"), [(LEVEL, -999.0), (LEVEL, 9999.9)])
def test_check_finds_numbers_that_mark_missing_values(tmp_path, column, mark):
    frame = log()
    frame.loc[[5, 6, 80], column] = mark
    [told] = problems(load_file(write(frame, tmp_path / "a.csv")))
    assert f"is {mark:g} in 3 rows, first in line 7" in told
    assert f"'dataset.missing=[{mark:g}]'" in told


def test_a_reward_like_one_may_be_what_a_crash_costs(tmp_path):
    frame = log()
    frame.loc[80, "reward"] = -99.9
    found = report(load_file(write(frame, tmp_path / "a.csv")))
    assert not found.problems
    assert any("reward is -99.9 in 1 row" in each for each in found.warnings)


def test_check_leaves_alone_what_a_column_reaches_itself(tmp_path):
    frame = log()
    frame[LEVEL] *= 80
    frame.loc[[5, 6], LEVEL] = 999.0
    assert not problems(load_file(write(frame, tmp_path / "a.csv")))


@pytest.mark.parametrize("words", [("no", "yes"), ("OFF", "ON"), ("f", "t"), ("False", "True")])
def test_a_column_of_two_words_is_read_as_0_and_1(tmp_path, words):
    frame, numbers = log(), log()
    numbers["failed"] = (np.arange(len(frame)) % ROWS == ROWS - 1).astype(int)
    frame["failed"] = [words[each] for each in numbers["failed"]]
    named = {"terminated": "failed"}
    expected = load_file(write(numbers, tmp_path / "b.csv"), columns=named)
    assert int(expected.transitions.terminated.sum()) == 4
    found = load_file(write(frame, tmp_path / "a.csv"), columns=named)
    assert found.fingerprint == expected.fingerprint


def test_words_among_numbers_stay_texts():
    found = parse_numbers(np.array(["1.5", "on", "2"], dtype=object), None, None, ())
    assert found.text.tolist() == [False, True, False]
    with_missing = parse_numbers(np.array(["yes", "", "no"], dtype=object), None, None, ())
    assert with_missing.text.tolist() == [False] * 3
    assert with_missing.values[[0, 2]].tolist() == [1.0, 0.0] and np.isnan(with_missing.values[1])


def test_flags_of_other_words_are_refused_with_a_remedy_that_works(tmp_path):
    path = write(log().assign(done=["running"] * (4 * ROWS)), tmp_path / "a.csv")
    with pytest.raises(Mistake, match=r"done .* found 'running' in line 2; .*terminated=\[\]"):
        load_file(path)
    load_file(path, columns={"terminated": []})


@pytest.mark.parametrize(
    ("text", "encoding", "given"),
    [
        ("\ufeff{}", "utf-8", "latin-1"),
        ("\ufeff{}", "utf-8", "cp1252"),
        ("\ufeff\ufeff{}", "utf-8", None),
        ("{}", "utf-16", "utf-16-le"),
    ],
)
def test_a_mark_of_the_encoding_is_no_part_of_the_first_name(tmp_path, text, encoding, given):
    path = saved(tmp_path, text.format(as_text()), encoding)
    found = load_file(path, encoding=given)
    assert found.origin["time"] == "time [s]"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (gzip.compress(b"a,b\n1,2\n", mtime=0), "gzip archive"),
        (b"PK\x03\x04" + bytes(40), r"zip archive or an \.xlsx"),
        (b"PAR1" + bytes(40), r"\.parquet file"),
        ("a b reward\n1.0 2.0 3.0\n", "spaces between its cells"),
        ("# a logger\n" + "a,b,reward\n1,2,3\n" * 2, "line 2 has 3 cells.*delete the lines above"),
        ("Report\n\na,b,c\n1,2,3\n", "line 3 has 3 cells.*delete the lines above"),
    ],
)
def test_what_is_no_table_of_named_columns_is_called_what_it_is(tmp_path, text, told):
    with pytest.raises(Mistake, match=told):
        load_file(saved(tmp_path, text))


def test_an_encoding_that_does_not_fit_is_refused_with_others_to_try(tmp_path):
    text = as_text(log().rename(columns={LEVEL: "\u6c34\u4f4d"}))
    path = saved(tmp_path, text, "shift_jis")
    with pytest.raises(Mistake, match="shift_jis"):
        load_file(path)
    assert load_file(path, encoding="shift_jis").spec.obs_names[0] == "\u6c34\u4f4d"


def test_rows_in_any_order_without_episodes_are_refused(tmp_path):
    frame = log(episodes=1, rows=300).drop(columns="episode")
    path = write(frame.sample(frac=1.0, random_state=0), tmp_path / "a.csv")
    with pytest.raises(Mistake, match=r"time \[s\] is not sorted: .*first after line"):
        load_file(path)
    sorted_path = write(frame, tmp_path / "b.csv")
    assert len(load_file(sorted_path)) == 299


@pytest.mark.parametrize("columns", [["episode"], ["time [s]"], []])
def test_rows_of_empty_cells_at_the_end_are_left_out_with_a_line(tmp_path, caplog, columns):
    frame = log().drop(columns=columns)
    plain = load_file(write(frame, tmp_path / "b.csv"))
    cells = "," * (len(frame.columns) - 1)
    path = saved(tmp_path, f"{as_text(frame)}{cells}\n{cells}\n")
    assert load_file(path).fingerprint == plain.fingerprint
    told = caplog.text.partition("a.csv")[2]
    assert "2 rows without any value, first in line 242, left out" in told
    assert "no finite number" not in told and "gap" not in told


def test_a_row_of_empty_cells_within_an_episode_cuts_it(tmp_path, caplog):
    lines = as_text().splitlines()
    path = saved(tmp_path, "\n".join([*lines[:31], "," * 5, *lines[31:]]))
    data = load_file(path)
    assert data.episode_lengths.tolist() == [29, 29, *[ROWS - 1] * (EPISODES - 1)]
    assert "time [s] has no value in 1 row, first in line 32; episodes are cut" in caplog.text
    assert " gap" not in caplog.text and "without any value" not in caplog.text


def test_an_infinite_time_is_none_and_no_gap(tmp_path, caplog):
    frame = log()
    frame.loc[30, "time [s]"] = np.inf
    data = load_file(write(frame, tmp_path / "a.csv"))
    assert data.episode_lengths.tolist() == [29, 28, *[ROWS - 1] * (EPISODES - 1)]
    assert "time [s] has no value in 1 row, first in line 32; episodes are cut" in caplog.text
    assert " gap" not in caplog.text and "goes back" not in caplog.text


def with_unit(unit, column=LEVEL, called="level", rows=slice(None)):
    """A log in which a unit stands behind the numbers of a column, and its name."""
    frame = log().astype({column: object})
    frame.loc[frame.index[rows], column] = [f"{each}{unit}" for each in frame[column][rows]]
    return frame.rename(columns={column: called})


@pytest.mark.parametrize("unit", ["cm", "\u00b0C", "%", "m3/h"])
@pytest.mark.parametrize("gap", ["", " "], ids=["close", "apart"])
def test_a_unit_behind_each_number_of_a_column_goes_into_its_name(tmp_path, caplog, unit, gap):
    plain = load_file(write(log(), tmp_path / "b.csv"))
    frame = with_unit(f"{gap}{unit}")
    for given in (write(frame, tmp_path / "a.csv"), write(frame, tmp_path / "a.parquet")):
        data = load_file(given)
        assert data.spec.obs_names[0] == f"level [{unit}]"
        assert np.array_equal(data.transitions.obs, plain.transitions.obs)
        assert f"its unit, {unit}; it is read as level [{unit}]" in caplog.text
        caplog.clear()
    assert load_any(with_unit(f"{gap}{unit}")).spec.obs_names == data.spec.obs_names


def test_times_with_units_and_missing_numbers_with_units_are_read(tmp_path):
    frame = with_unit(" s", "time [s]", "time")
    assert load_file(write(frame, tmp_path / "a.csv")).origin["time"] == "time [s]"
    frame = with_unit(" cm")
    frame.loc[[5, 7], "level"] = ["", "lost"]
    lacking = log()
    lacking.loc[[5, 7], LEVEL] = np.nan
    expected = load_file(write(lacking, tmp_path / "b.csv"))
    found = load_file(write(frame, tmp_path / "c.csv"), missing=["lost"])
    assert found.fingerprint == expected.fingerprint


def test_units_that_differ_are_refused(tmp_path):
    path = write(with_unit(" cm", rows=slice(50, 60)), tmp_path / "a.csv")
    with pytest.raises(Mistake, match=r"line 52, where .* a number with its unit: .* of level$"):
        load_file(path, columns={"observations": "level"})
    with pytest.raises(Mistake, match=r"cells of level \[cm\] are in mm, and its name says cm"):
        load_file(write(with_unit(" mm", called=LEVEL), tmp_path / "a.csv"))


@pytest.mark.parametrize(
    "cell", ["1.5D+00", "1e3", "2.3d1", "12:30", "7 PM", "2026-01-01T00", "x1"]
)
def test_what_is_no_unit_is_not_taken_for_one(cell):
    assert split_unit(cell) is None


def test_an_episode_that_stands_in_its_first_row_alone_is_filled_in():
    frame = log()
    sparse = frame.assign(episode=frame["episode"].where(np.arange(len(frame)) % ROWS == 0))
    with pytest.raises(Mistake, match=r"empty in 236 rows.* frame\['episode'\]\.ffill\(\)"):
        load_any(sparse)
    mended = sparse.assign(episode=sparse["episode"].ffill())
    assert load_any(mended).fingerprint == load_any(frame).fingerprint


def test_spaces_behind_the_name_of_an_episode_do_not_split_it(tmp_path):
    frame = log()
    plain = load_file(write(frame, tmp_path / "b.csv"))
    frame["episode"] = [f"run {e}{' ' * (i % 2)}" for i, e in enumerate(frame["episode"])]
    assert load_file(write(frame, tmp_path / "a.csv")).fingerprint == plain.fingerprint


def test_rows_of_which_each_is_an_episode_are_refused_with_the_column(tmp_path):
    frame = log().assign(episode=np.arange(4 * ROWS))
    with pytest.raises(Mistake, match=r"last of its episode.*columns\.episode"):
        load_file(write(frame, tmp_path / "a.csv"))


@pytest.mark.parametrize("written", ["%Y%m%d%H%M%S", "%Y%m%d%H%M", "%Y%m%d"])
def test_dates_written_as_numbers_advance_evenly(tmp_path, written):
    step = {"%Y%m%d%H%M%S": "s", "%Y%m%d%H%M": "min", "%Y%m%d": "D"}[written]
    times = pandas.date_range("2026-01-30 23:58:30", periods=4 * ROWS, freq=step)
    frame = log().assign(**{"time [s]": times.strftime(written).astype(np.int64)})
    found = load_file(write(frame.drop(columns="episode"), tmp_path / "a.csv"))
    assert len(found) == 4 * ROWS - 1  # one episode, without a gap


def test_numbers_that_are_no_dates_stay_numbers():
    assert parse_compact(np.array([20260130.0, 20260199.0])) is None
    assert parse_compact(np.array([20260130.5, 20260131.0])) is None
    assert parse_compact(np.arange(5.0)) is None
    assert parse_compact(np.array([np.nan])) is None


def test_dates_of_any_year_are_read():
    dates = np.array(["0001-01-01T00:00:00", "0001-01-01T00:00:02"], dtype=object)
    assert np.asarray(parse_dates(dates, None)).tolist() == [0.0, 2.0]


def test_a_comparison_with_a_missing_value_gives_no_reward(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    frame = log().drop(columns="reward").assign(seen=1.0)
    frame.loc[7, "setpoint [cm]"] = np.nan
    named = {"observations": [LEVEL, "seen"]}
    for formula in ("-(setpoint > 8)", "where(setpoint > 8, -1, 0)", "where(setpoint, -1, 0)"):
        caplog.clear()
        load_file(write(frame, tmp_path / "a.csv"), columns=named, reward=formula)
        assert "dataset.reward 1, first in line 9" in caplog.text


@pytest.mark.parametrize("index", [[40, 40, 40], [0, 40, 40]])
def test_an_index_that_repeats_is_refused(index):
    flags = {"terminals": np.zeros(120), "index": np.array(index)}
    with pytest.raises(Mistake, match="index must hold the first row of each trajectory"):
        file.truncated_rows("a.npz", flags, None)


@pytest.mark.parametrize("first", ["%Y%m%d", "%Y-%m-%d"])
def test_a_time_of_day_written_as_a_number_belongs_to_its_date(tmp_path, first):
    times = pandas.date_range("2026-01-30 23:58:30", periods=4 * ROWS, freq="s")
    frame = log().drop(columns=["episode", "time [s]"])
    frame = frame.assign(date=times.strftime(first), time=times.strftime("%H%M%S"))
    found = load_file(write(frame, tmp_path / "a.csv"))
    assert found.spec.obs_names == (LEVEL, "setpoint [cm]")
    assert len(found) == 4 * ROWS - 1  # one episode across midnight


def test_a_date_format_holds_for_dates_written_as_numbers(tmp_path):
    times = pandas.date_range("2026-01-30 23:58:30", periods=4 * ROWS, freq="s")
    frame = log().drop(columns="episode")
    frame["time [s]"] = times.strftime("%d%m%Y%H%M%S")
    path = write(frame, tmp_path / "a.csv")
    assert len(load_file(path, date_format="%d%m%Y%H%M%S")) == 4 * ROWS - 1
    with pytest.raises(Mistake, match=r"does not follow dataset\.date_format=%Y%m%d"):
        load_file(path, date_format="%Y%m%d")


@pytest.mark.parametrize(
    "written", ["%Y-%m-%d %H:%M:%S UTC", "%d.%m.%Y %H:%M:%S GMT", "%y%m%d%H%M%S"]
)
def test_zones_in_words_and_short_dates_in_digits_are_dates(tmp_path, written):
    """As numbers the latter jumped at the end of every minute, and cut episodes there."""
    times = pandas.date_range("2020-01-30 23:58:30", periods=4 * ROWS, freq="s")
    frame = log().drop(columns="episode").assign(**{"time [s]": times.strftime(written)})
    assert len(load_file(write(frame, tmp_path / "a.csv"))) == 4 * ROWS - 1


@pytest.mark.parametrize("written", [str, lambda each: str(each.to_pytimedelta())])
def test_durations_of_days_as_python_and_pandas_write_them_are_times(tmp_path, written):
    times = pandas.timedelta_range("0s", periods=4 * ROWS, freq="20min")
    frame = log().drop(columns="episode").assign(**{"time [s]": [written(each) for each in times]})
    assert len(load_file(write(frame, tmp_path / "a.csv"))) == 4 * ROWS - 1
    assert parse_dates(np.array(["1 day, 0:00:02", "0:00:01"], object), None).tolist() == [86401, 0]


@pytest.mark.parametrize(
    ("cell", "value"),
    [("\u22121.5", -1.5), ("\ufeff2.5", 2.5), ("1.#INF", np.nan), ("-1.#IND00", np.nan)],
)
def test_signs_and_marks_of_other_programs(cell, value):
    found = parse_numbers(np.array([cell, "1.0"], object), None, None, ())
    assert not found.text.any() and np.array_equal(found.values, [value, 1.0], equal_nan=True)


def test_a_mark_between_joined_files_hides_neither_names_nor_numbers(tmp_path):
    header, *rows = as_text().splitlines(keepends=True)
    first, second = "".join(rows[:120]), "".join(rows[120:])
    path = saved(tmp_path, f"\ufeff{header}{first}\ufeff{header}{second}")
    with pytest.raises(Mistake, match="line 122 names the columns again"):
        load_file(path)
    path = saved(tmp_path, f"\ufeff{header}{first}\ufeff{second}")
    assert load_file(path).fingerprint == load_file(write(log(), tmp_path / "b.csv")).fingerprint


@pytest.mark.parametrize("mark", ["#", "# "])
def test_a_comment_mark_before_the_first_name_is_no_part_of_it(tmp_path, mark):
    """As numpy.savetxt writes it: the first column was not known by its name."""
    path = saved(tmp_path, mark + as_text())
    assert load_file(path).fingerprint == load_file(write(log(), tmp_path / "b.csv")).fingerprint


def test_commas_in_a_file_called_tsv_separate_its_cells(tmp_path):
    path = saved(tmp_path, as_text(), name="a.tsv")
    assert load_file(path).fingerprint == load_file(write(log(), tmp_path / "b.csv")).fingerprint


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace(",", ":"), "has one column, 'time .* save it with commas"),
        (
            lambda text: "\n".join(
                line if number == 0 else f"{number},{line}"
                for number, line in enumerate(text.splitlines())
            ),
            "line 2 has 7 cells, where 6 columns are named, as have .*; name the first column too",
        ),
        (lambda text: '[{"a": 1}]', "is a JSON file and no text"),
        (
            lambda text: text.replace("\n", ",done\n").replace(",done", ",terminated", 1),
            "terminated must hold only 0 and 1, found 'done' in line 2",
        ),
        (
            lambda text: "\n".join(
                f"{line},{'terminated' if number == 0 else 'x' if number == 60 else ''}"
                for number, line in enumerate(text.splitlines())
            ),
            "terminated must hold only 0 and 1, found 'x' in line 61",
        ),
    ],
)
def test_what_is_no_table_is_told_for_what_it_is(tmp_path, change, says):
    with pytest.raises(Mistake, match=says):
        load_file(saved(tmp_path, change(as_text())))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a.csv.gz", "unpack it first"),
        ("a.xlsx", "what pandas.read_excel returns"),
        ("a.json", "save the table as one of these"),
    ],
)
def test_a_table_of_another_kind_is_told_what_to_do_with_it(tmp_path, name, says):
    with pytest.raises(Mistake, match=says):
        load_file(saved(tmp_path, as_text(), name=name))


@pytest.mark.parametrize("address", ["https://a.org/log.csv", "s3://a/log.csv", "file:///log.csv"])
def test_an_address_is_no_file(address):
    with pytest.raises(Mistake, match=r"fetch it, and give the file|without file://"):
        load_file(address)


def test_words_with_digits_may_mark_missing_values(tmp_path):
    text = as_text().splitlines()
    cells = text[7].split(",")
    text[7] = ",".join([*cells[:2], "Error 17", *cells[3:]])
    path = saved(tmp_path, "\n".join(text))
    with pytest.raises(Mistake, match=r"'dataset.missing=\[\"Error 17\"\]' takes it as missing"):
        load_file(path)
    assert len(load_file(path, missing=["Error 17"])) == 4 * ROWS - 4 - 2


@pytest.mark.parametrize(
    ("kind", "given", "says"),
    [
        (".csv", {"date_format": "day-first"}, r"time \[s\] holds numbers, of which"),
        (
            ".csv",
            {"date_format": "day-first", "columns": {"actions": "action", "time": []}},
            "date_format=day-first says how times are written, and no column is one",
        ),
        (".parquet", {"encoding": "latin-1"}, "is no text, so dataset.encoding=latin-1 would"),
        (".csv", {"env_kwargs": {"mass": 2}}, "are options of an environment, and none is named"),
    ],
)
def test_settings_that_say_nothing_of_a_table_are_refused(tmp_path, kind, given, says):
    path = write(log(), tmp_path / f"a{kind}")
    with pytest.raises(Mistake, match=says):
        load_file(path, **given)


def test_a_date_format_holds_for_digits_beside_columns_of_text(tmp_path):
    """Where two ways of writing numbers stand in one file, all columns are texts at first."""
    times = pandas.date_range("2026-01-30 23:58:30", periods=4 * ROWS, freq="s")
    frame = log().drop(columns="episode").assign(**{"time [s]": times.strftime("%d%m%Y%H%M%S")})
    frame[LEVEL] = [f"{each:.2f}".replace(".", ",") for each in frame[LEVEL]]
    path = saved(tmp_path, frame.to_csv(index=False, sep=";"))
    assert len(load_file(path, date_format="%d%m%Y%H%M%S")) == 4 * ROWS - 1


def test_years_of_two_digits_in_front_are_not_taken_for_days(tmp_path):
    times = pandas.date_range("2026-01-30 23:58:30", periods=4 * ROWS, freq="s")
    frame = log().drop(columns="episode")
    path = write(
        frame.assign(**{"time [s]": times.strftime("%y/%m/%d %H:%M:%S")}), tmp_path / "a.csv"
    )
    with pytest.raises(Mistake, match="the year seems to come first"):
        load_file(path)
    assert len(load_file(path, date_format="%y/%m/%d %H:%M:%S")) == 4 * ROWS - 1
    path = write(
        frame.assign(**{"time [s]": times.strftime("%d/%m/%y %H:%M:%S")}), tmp_path / "b.csv"
    )
    assert len(load_file(path)) == 4 * ROWS - 1


def test_flags_that_mark_time_limits_too_are_no_terminations(tmp_path):
    last = (np.arange(4 * ROWS) % ROWS == ROWS - 1).astype(int)
    path = write(log().assign(done=last, timeouts=last), tmp_path / "a.csv")
    with pytest.raises(Mistake, match=r"done is 1 at every time limit \(timeouts\) too"):
        load_file(path)
    found = load_file(path, columns={"terminated": [], "truncated": "done"})
    assert not found.transitions.terminated.any()


def test_columns_of_words_and_empty_ones_are_not_guessed(tmp_path):
    frame = log().assign(state=["RUN", "STOP"] * (2 * ROWS), empty=np.nan)
    found = load_file(write(frame, tmp_path / "a.csv"))
    assert found.spec.obs_names == (LEVEL, "setpoint [cm]")


def test_a_file_that_was_written_after_a_run_is_found(tmp_path):
    summary, data = tmp_path / "summary.json", tmp_path / "log.csv"
    settings = {"_target_": "reverie.datasets.readers.table.load", "path": str(data)}
    summary.touch()
    assert find_newer(settings, summary) is None  # there is none
    data.touch()
    os.utime(data, (1, 1))
    assert find_newer(settings, summary) is None
    os.utime(summary, (0, 0))
    assert find_newer(settings, summary) == data
    made = {"_target_": "reverie.datasets.readers.builtin.load_two_tanks"}
    assert find_newer(made, summary) is None


def with_flags_of_rlds(terminal):
    """The plant's log with RLDS's flags alone; the row that ends an episode is an observation."""
    frame = log().drop(columns=["episode", "time [s]"])
    last = np.arange(len(frame)) % ROWS == ROWS - 1
    flags = {"is_first": np.roll(last, 1), "is_last": last, "is_terminal": last & terminal}
    return frame.assign(**{name: flag.astype(int) for name, flag in flags.items()})


def test_flags_of_rlds_end_episodes_and_are_not_observed():
    data = load_any(with_flags_of_rlds(False), columns={"actions": "action", "reward": "reward"})
    plain = load_any(log().drop(columns="time [s]"), columns={"reward": "reward"})
    assert data.fingerprint == plain.fingerprint
    assert data.spec.obs_names == ("level [cm]", "setpoint [cm]")


@pytest.mark.parametrize("words", [(0, 1), ("False", "True")])
def test_a_flag_of_first_rows_begins_episodes(tmp_path, caplog, words):
    plain = load_any(log().drop(columns="time [s]"))
    frame = log().drop(columns=["episode", "time [s]"])
    first = [words[row % ROWS == 0] for row in range(len(frame))]
    found = load_file(write(frame.assign(is_first=first), tmp_path / "a.csv"))
    assert "episode = is_first (guessed, by its name)" in caplog.text
    assert found.fingerprint == plain.fingerprint
    path = write(frame.assign(reset=first), tmp_path / "b.csv")
    assert load_file(path, columns={"episode": "reset"}).fingerprint == plain.fingerprint


def test_two_episodes_side_by_side_are_no_flag_of_first_rows():
    frame = log(episodes=2)
    mixed = frame.sort_values(["time [s]", "episode"], ignore_index=True)
    assert load_any(mixed).fingerprint == load_any(frame).fingerprint


def test_terminations_of_rlds_are_refused_and_read_one_row_earlier():
    frame = with_flags_of_rlds(True)
    with pytest.raises(Mistake, match="store the flags one row earlier, as terminated, or set"):
        load_any(frame)
    mended = load_any(frame.assign(terminated=frame["is_terminal"].shift(-1, fill_value=0)))
    assert int(mended.transitions.terminated.sum()) == EPISODES
    assert len(mended) == EPISODES * (ROWS - 1)  # none of an observation alone
    named = load_any(frame, columns={"terminated": "is_terminal"})
    assert len(named) == EPISODES * ROWS


def test_single_quotes_are_refused_by_name(tmp_path):
    path = tmp_path / "log.csv"
    text = log().to_csv(index=False, quoting=csv.QUOTE_ALL, quotechar="'")
    path.write_text(text)
    with pytest.raises(Mistake, match=r"line 1 names its columns in single quotes .* write double"):
        load_file(path)
    path.write_text(text.replace("'", '"'))
    assert load_file(path).fingerprint == load_any(log()).fingerprint
