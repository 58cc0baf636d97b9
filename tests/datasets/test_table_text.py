"""Tables as spreadsheets of several countries write them, and cells that are no numbers."""

import logging

import numpy as np
import pandas
import pytest

from reverie.datasets.tables.cells import parse_numbers
from reverie.mistake import Mistake
from tests.datasets.tables import load_file, log

ROWS = 240


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records]


def german(number, digits=4):
    return f"{number:,.{digits}f}".translate(str.maketrans(",.", ".,"))


def plant():
    """A log with a large column, one line a row, as lists of texts by column."""
    rng = np.random.default_rng(0)
    return {
        "time": np.arange(ROWS) * 0.5,
        "F\u00fcllstand": 10 + rng.normal(size=ROWS).cumsum() * 0.1,
        "flow": rng.uniform(900.0, 3000.0, ROWS),
        "action": rng.uniform(0.1, 0.9, ROWS),
        "reward": -rng.uniform(size=ROWS),
    }


def write_german(path, *, encoding="utf-8", separator=";", units=None, change=(), first=()):
    """The plant's log in German; `change`: other texts, by row and column."""
    columns = plant()
    rows = [[german(column[row]) for column in columns.values()] for row in range(ROWS)]
    for row, column, text in change:
        rows[row][list(columns).index(column)] = text
    head = [*first, separator.join(columns), *([separator.join(units)] if units else [])]
    text = "\r\n".join([*head, *map(separator.join, rows)]) + "\r\n"
    path.write_bytes(text.encode(encoding))
    return path


def in_points(tmp_path):
    """The same numbers as a program writes them."""
    path = tmp_path / "points.csv"
    rounded = {name: np.round(column, 4) for name, column in plant().items()}
    pandas.DataFrame(rounded).to_csv(path, index=False)
    return load_file(path)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a.csv", {}),
        ("a.csv", {"encoding": "utf-8-sig"}),
        ("a.csv", {"encoding": "cp1252"}),
        ("a.txt", {"encoding": "utf-16", "separator": "\t"}),
        ("a.tsv", {"encoding": "utf-16", "separator": "\t"}),
        ("a.csv", {"encoding": "utf-32"}),
        ("a.csv", {"separator": "|"}),
        ("a.csv", {"first": ["sep=;"]}),
        ("a.csv", {"units": ["[s]", "[m]", "[l/h]", "[-]", ""]}),
        ("a.csv", {"units": ["s", "m", "l/h", "-", ""]}),
    ],
)
def test_a_german_spreadsheet_holds_the_same_numbers(tmp_path, name, written):
    data = load_file(write_german(tmp_path / name, **written))
    assert data.fingerprint == in_points(tmp_path).fingerprint
    assert data.spec.obs_names[0].startswith("F\u00fcllstand")


def test_units_below_the_names_become_part_of_them_and_are_told(tmp_path, lines):
    path = write_german(tmp_path / "a.csv", units=["[s]", "[m]", "(l/h)", "-", ""])
    data = load_file(path)
    assert data.spec.obs_names == ("F\u00fcllstand [m]", "flow [l/h]")
    assert data.spec.action_names == ("action [-]",) and data.origin["time"] == "time [s]"
    assert data.where(0) == "line 3"
    write_german(path, units=["s", "m", "l/h", "%", "-"])
    assert load_file(path).spec.action_names == ("action [%]",)
    assert sum("line 2 is read as the units of the columns (s, m," in line for line in lines()) == 2


def test_a_first_row_of_marks_or_texts_is_no_row_of_units(tmp_path):
    path = write_german(tmp_path / "a.csv", units=["---", "Bad Input", "#N/A", "---", "---"])
    data = load_file(path)
    assert data.spec.obs_names == ("F\u00fcllstand", "flow") and data.where(0) == "line 3"


def test_an_encoding_that_is_not_unicode_is_told_and_can_be_named(tmp_path, lines):
    path = write_german(tmp_path / "a.csv", encoding="cp1252")
    load_file(path)
    assert any("is not text in UTF-8, so it is read as cp1252" in line for line in lines())
    told = len(lines())
    assert load_file(path, encoding="cp1252").spec.obs_names[0] == "F\u00fcllstand"
    assert not any("UTF-8" in line for line in lines()[told:])
    odd = write_german(tmp_path / "b.csv", encoding="cp850")
    assert load_file(odd, encoding="cp850").spec.obs_names[0] == "F\u00fcllstand"
    with pytest.raises(Mistake, match=r"is not text in ascii .*set dataset\.encoding=utf-8"):
        load_file(path, encoding="ascii")
    with pytest.raises(Mistake, match=r"dataset\.encoding=klingon is no encoding of text"):
        load_file(path, encoding="klingon")
    marked = write_german(tmp_path / "c.csv", encoding="utf-8-sig")
    assert load_file(marked, encoding="utf-8").origin["time"] == "time"
    bare = write_german(tmp_path / "d.csv", encoding="utf-16-le")
    with pytest.raises(Mistake, match=r"set dataset\.encoding=utf-16-le"):
        load_file(bare)
    assert load_file(bare, encoding="utf-16-le").fingerprint == load_file(path).fingerprint


def test_quoted_names_over_several_lines_and_separators_within_them(tmp_path):
    path = write_german(tmp_path / "a.csv")
    text = path.read_text().replace("F\u00fcllstand", '"Level,\r\ninner"', 1)
    path.write_text(text, newline="")
    data = load_file(path)
    assert data.spec.obs_names[0] == "Level, inner" and data.where(0) == "line 3"
    assert data.fingerprint == in_points(tmp_path).fingerprint


def test_blank_lines_and_cells_of_several_lines_keep_the_lines_of_the_editor(tmp_path):
    frame = log()
    frame["note"] = ["two\nlines" if row < 3 else "" for row in range(ROWS)]
    path = tmp_path / "a.csv"
    frame.to_csv(path, index=False)
    text = path.read_text().splitlines()
    text[50:50] = ["", "   ", ""]
    path.write_text("\n".join(text) + "\n")
    data = load_file(path)
    written = path.read_text().splitlines()
    for row in (0, 1, 2, 3, 40, 60, 200):
        line = int(data.where(row).split()[1])
        assert float(written[line - 1].split(",")[2]) == pytest.approx(
            float(data.transitions.obs[row, 0]), rel=1e-6
        )


@pytest.mark.parametrize(
    "mark", ["#VALUE!", "#N/A", "#WERT!", "#DIV/0!", "Bad Input", "---", "NaN", "", "n.a."]
)
def test_marks_of_missing_values_are_counted_with_the_first_line(tmp_path, lines, mark):
    change = [(30, "F\u00fcllstand", mark), (31, "F\u00fcllstand", mark)]
    data = load_file(write_german(tmp_path / "a.csv", change=change))
    assert len(data) == ROWS - 2 - 2
    told = [line for line in lines() if "hold no finite number" in line]
    assert len(told) == 1 and "2 of 240 rows" in told[0]
    assert "(F\u00fcllstand 2, first in line 32: " in told[0]
    assert mark in ("#N/A", "NaN", "") or repr(mark) in told[0]  # which pandas reads as empty


def test_other_texts_are_refused_by_line_with_a_remedy_that_works(tmp_path):
    path = write_german(tmp_path / "a.csv", change=[(30, "flow", "valve stuck")])
    with pytest.raises(Mistake) as caught:
        load_file(path)
    assert str(caught.value) == (
        f"{path}: flow holds 'valve stuck' in line 32, where a number belongs; "
        "'dataset.missing=[\"valve stuck\"]' takes it as missing, or leave flow out"
    )
    assert (
        len(load_file(path, missing=["valve stuck"])) == ROWS - 1 - 2
    )  # of two pieces the last rows
    with pytest.raises(Mistake, match=r"dataset.missing=\[True\] must be a list, each entry text"):
        load_file(path, missing=[True])


def test_numbers_that_can_be_read_in_two_ways_are_refused_until_the_mark_is_named(tmp_path):
    path = tmp_path / "a.csv"
    rows = [f"{row};{1 + row % 9},{100 + row};{row % 7};{row}" for row in range(ROWS)]
    path.write_text("\n".join(["time;level;action;reward", *rows]) + "\n")
    with pytest.raises(Mistake) as caught:
        load_file(path)
    assert str(caught.value) == (
        f"{path}: level holds '1,100' in line 2, which could be 1.100 or 1100; set "
        "'dataset.decimal=\",\"' for the former, 'dataset.decimal=\".\"' for the latter"
    )
    assert float(load_file(path, decimal=",").transitions.obs[0, 0]) == pytest.approx(1.1)
    assert float(load_file(path, decimal=".").transitions.obs[0, 0]) == 1100.0
    with pytest.raises(Mistake, match=r"dataset.decimal=; must be \. or , or null"):
        load_file(path, decimal=";")


def test_a_column_in_thousands_among_decimal_commas_is_unclear(tmp_path):
    change = [(row, "flow", f"{1 + row % 7}.{100 + row}") for row in range(ROWS)]
    path = write_german(tmp_path / "a.csv", change=change)
    with pytest.raises(Mistake, match=r"flow holds '1\.100' in line 2, which could be 1\.100 or 1"):
        load_file(path)
    assert float(load_file(path, decimal=",").transitions.obs[0, 1]) == 1100.0


def test_two_ways_of_writing_numbers_in_one_file_are_told_apart_by_column(tmp_path):
    numbers = plant()["flow"]
    change = [(row, "flow", f"{numbers[row]:.4f}") for row in range(ROWS)]
    data = load_file(write_german(tmp_path / "a.csv", change=change))
    assert data.fingerprint == in_points(tmp_path).fingerprint


@pytest.mark.parametrize(
    ("cells", "usual", "wanted"),
    [
        (["1.234,5", "1.250"], None, [1234.5, 1250]),
        (["1,234.5", "1,250"], None, [1234.5, 1250]),
        (["1'234.5", "2\u00a0500,0"], ".", None),
        (["1'234.5", "12"], None, [1234.5, 12]),
        (["1 234,5", "12"], None, [1234.5, 12]),
        (["1.250", "2.375"], ".", [1.25, 2.375]),
        (["1.234.567", "5"], None, [1234567, 5]),
        (["1,5e3", "-,5"], None, [1500, -0.5]),
        ([" 3 ", "-4"], None, [3, -4]),
        ([True, 2], None, [1, 2]),
    ],
)
def test_cells_of_text_as_numbers(cells, usual, wanted):
    found = parse_numbers(np.array(cells, dtype=object), None, usual, ())
    if wanted is None:
        assert found.text.any()
        return
    assert found.unclear is None and not found.text.any()
    assert found.values.tolist() == wanted


def test_decimal_commas_between_commas_are_refused_by_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("time,level,action,reward\n0,5,1,25,0,5,1,0\n")
    with pytest.raises(Mistake, match="line 2 has 8 cells, where 4 columns are named; are decimal"):
        load_file(path)
    frame = log()
    frame.to_csv(path, index=False)
    text = path.read_text().splitlines()
    text[150] += ",7,8"
    path.write_text("\n".join(text))
    with pytest.raises(Mistake, match="line 151 has 8 cells, where 6 columns are named"):
        load_file(path)


def test_a_line_too_long_beyond_the_sample_is_named_too(tmp_path):
    path = tmp_path / "a.csv"
    log(rows=600).to_csv(path, index=False)
    text = path.read_text().splitlines()
    text[1999] += ",7,8"
    path.write_text("\n".join(text))
    with pytest.raises(Mistake, match="line 2000 has 8 cells, where 6 columns are named"):
        load_file(path)


def test_a_separator_behind_the_last_cell_is_no_column(tmp_path):
    path = write_german(tmp_path / "a.csv")
    path.write_text(path.read_text().replace("\n", ";\n"))
    assert load_file(path).fingerprint == in_points(tmp_path).fingerprint


def test_names_of_digits_may_be_values_too(tmp_path):
    rows = ["0,1,reward", *(f"{row % 2},{row % 3},1" for row in range(200))]
    named = {"actions": "1", "observations": "0"}
    path = tmp_path / "log.csv"
    path.write_text("\n".join(rows) + "\n")
    assert len(load_file(path, columns=named)) == 199
    path.write_text("\n".join(["0,1,2", *rows[1:], "0,1,2"]) + "\n")
    assert len(load_file(path, columns=named | {"reward": "2"})) == 200


TOA5 = """"TOA5","station","CR1000","12345","CR1000.Std.32","CPU:prog.CR1","54321","Table1"
"TIMESTAMP","RECORD","level","action","reward"
"TS","RN","cm","%",""
"","","Avg","Smp","Tot"
"""


@pytest.mark.parametrize("skipped", [0, 1])
def test_the_head_of_a_campbell_logger_is_read(tmp_path, lines, skipped):
    times = pandas.date_range("2026-01-31", periods=200, freq="10s").astype(str)
    rows = [f'"{time}",{row},{row % 7}.5,{row % 5},1' for row, time in enumerate(times)]
    path = tmp_path / "log.csv"
    path.write_text("".join(TOA5.splitlines(keepends=True)[skipped:]) + "\n".join(rows) + "\n")
    data = load_file(path, columns={"observations": "level"})
    assert data.spec.obs_names == ("level [cm]",) and len(data) == 199
    assert data.places.at(0) == f"line {5 - skipped}"
    assert any(f"line {3 - skipped} is read as the units" in line for line in lines())
    assert any(f"line {4 - skipped}, texts below units, is left" in line for line in lines())


def test_two_rows_of_texts_that_are_values_stay(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("level,action,reward\n1.5,on,1\n2.5,off,1\n" + "0.5,3,1\n" * 200)
    with pytest.raises(Mistake, match="action holds 'on' in line 2"):
        load_file(path)
