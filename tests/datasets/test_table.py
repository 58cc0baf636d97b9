"""Tables: every format gives the same rows, columns are found by name, ends and gaps are kept."""

import builtins
import logging

import numpy as np
import pandas
import polars
import pytest

from reverie.datasets import load as load_any
from reverie.datasets.check import report
from reverie.mistake import Mistake
from tests.datasets.tables import EPISODES, ROWS, load_file, log, write


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records]


def test_every_format_and_both_kinds_of_frames_give_the_same_rows(tmp_path):
    frame = log()
    found = {
        suffix: load_file(write(frame, tmp_path / f"log.{suffix}"))
        for suffix in ("csv", "tsv", "parquet", "feather", "CSV")
    }
    found |= {"pandas": load_any(frame), "polars": load_any(polars.from_dict(dict(frame.items())))}
    assert len({data.fingerprint for data in found.values()}) == 1
    data = found["csv"]
    assert (data.name, found["pandas"].name) == ("log", "table")
    assert (len(data), data.episode_lengths.tolist()) == (
        EPISODES * (ROWS - 1),
        [ROWS - 1] * EPISODES,
    )
    assert data.spec.obs_names == ("level [cm]", "setpoint [cm]")
    assert data.spec.action_names == ("action [-]",)
    np.testing.assert_allclose(
        data.transitions.obs[:, 0], frame["level [cm]"].drop(range(ROWS - 1, 240, ROWS)), rtol=1e-6
    )
    np.testing.assert_array_equal(data.transitions.next_obs[0], data.transitions.obs[1])
    assert data.origin["observations"] == "level [cm], setpoint [cm]"


def test_guesses_are_told_one_line_each_and_what_is_named_is_not_guessed(lines):
    load_any(log())
    told = lines()
    for text in (
        "observations = level [cm], setpoint [cm] (guessed, all other columns of numbers)",
        "actions = action [-] (guessed, by name)",
        "reward = reward (guessed, by its name)",
        "episode = episode (guessed, by its name)",
        "time = time [s] (guessed, by its name)",
        "dataset.action_low = 0.10",
        "the highest in the data; no policy will go beyond it",
    ):
        assert sum(text in line for line in told) == 1, text
    assert len(told) == 7 and not any("\n" in line for line in told)


def test_letters_of_control_engineers_are_not_taken_for_others():
    """T is a temperature, r a set-point; u is what is done."""
    names = {"level [cm]": "T", "setpoint [cm]": "r", "action [-]": "u1"}
    data = load_any(log().rename(columns=names), columns=None)
    assert (data.spec.obs_names, data.spec.action_names) == (("T", "r"), ("u1",))
    assert data.origin["time"] == "time [s]"


def test_names_without_units_and_patterns_choose_columns(lines):
    frame = log().rename(columns={"action [-]": "valve (%)", "reward": "gain"})
    data = load_any(
        frame,
        columns={
            "observations": ["set*", "level"],
            "actions": "valv?",
            "reward": "gain",
            "terminated": [],
            "truncated": [],
            "episode": "episode",
            "time": [],
        },
        action_low=0,
        action_high=[1],
    )
    assert lines() == []
    assert data.spec.obs_names == ("setpoint [cm]", "level [cm]")
    assert data.spec.action_names == ("valve (%)",)
    assert (data.spec.action_low, data.spec.action_high) == ((0.0,), (1.0,))
    np.testing.assert_allclose(
        data.transitions.action[:3, 0], 2 * frame["valve (%)"][:3] - 1, rtol=1e-5
    )


def test_text_of_other_countries_and_programs_is_read(tmp_path):
    frame = log()
    wanted = load_file(write(frame, tmp_path / "log.csv"))
    path = tmp_path / "comma.csv"
    frame.to_csv(path, index=False, sep=";", decimal=",", encoding="utf-8-sig")
    assert load_file(path).fingerprint == wanted.fingerprint
    dates = frame.assign(
        **{"time [s]": pandas.Timestamp("2026-01-31") + pandas.to_timedelta(frame["time [s]"], "s")}
    )
    names = frame.assign(episode=[f"run {each}" for each in frame["episode"]])
    for other in (dates, names):
        assert load_file(write(other, path)).fingerprint == wanted.fingerprint
    frame.to_csv(path)  # with pandas' index, which has no name
    assert load_file(path).fingerprint == wanted.fingerprint


def test_terminations_and_time_limits_are_kept_apart():
    frame = log().drop(columns=["episode", "time [s]"])
    frame["terminated"], frame["truncated"] = 0, 0
    frame.loc[59, "terminated"] = frame.loc[119, "truncated"] = frame.loc[179, "terminated"] = 1
    data = load_any(frame)
    rows = data.transitions
    assert data.episode_lengths.tolist() == [60, 59, 60, 59]
    assert rows.terminated.nonzero()[:, 0].tolist() == [59, 178]
    assert data.truncated.nonzero()[:, 0].tolist() == [118, 237]
    assert (~data.valid_next).nonzero()[:, 0].tolist() == [59, 178]


def test_without_an_episode_column_time_shows_the_episodes(lines):
    frame = log().drop(columns="episode")
    assert load_any(frame).fingerprint == load_any(log()).fingerprint
    assert any(
        "time [s] goes back after row 59 (counted from 0), and in 3 places" in line
        for line in lines()
    )
    frame["time [s]"] = np.arange(240) * 0.5 + np.repeat([0, 10, 20, 300], 60)
    assert load_any(frame).fingerprint == load_any(log()).fingerprint
    gaps = "3 gaps, the first after row 59 (counted from 0), the longest of 280.5 s where a step is"
    assert any(gaps in line for line in lines())


def test_rows_that_are_left_out_do_not_widen_the_box(tmp_path, lines):
    frame = log()
    wanted = load_file(write(frame, tmp_path / "a.csv"))
    assert not any("of one row" in line for line in lines())
    text = frame.to_csv(index=False) + ",Total,2400,2400,120,-500\n"
    (tmp_path / "b.csv").write_text(text)
    found = load_file(tmp_path / "b.csv")
    assert found.fingerprint == wanted.fingerprint
    assert any("1 episode of one row, first in line 242, is left out" in line for line in lines())
    frame.loc[ROWS - 1, "action [-]"] = 7.0  # the last of an episode, of which nothing is known
    assert load_any(frame).spec == load_any(log()).spec
    load_any(frame, action_low=0, action_high=1)


def test_one_episode_is_told(lines):
    assert len(load_any(log().drop(columns=["episode", "time [s]"]))) == 239
    assert any(
        "nothing says where episodes end, so all 240 rows are one" in line for line in lines()
    )


@pytest.mark.parametrize("steps", ["time [s]", None])
def test_a_limit_ends_episodes_where_nothing_else_does(lines, steps):
    """As `check` advises; a time that goes on tells of no end either."""
    frame = log().assign(**{"time [s]": np.arange(EPISODES * ROWS) * 0.5})
    frame["level [cm]"] += 9.0 * frame["episode"]  # as from an end to a start
    single = frame.drop(columns="episode" if steps else ["episode", "time [s]"])
    (told,) = [line for line in report(load_any(single)).warnings if "unlike all others" in line]
    assert f"set dataset.max_episode_steps={ROWS} (they lie" in told
    assert "columns.truncated or episode" in told
    assert not any("a limit ended" in line for line in lines())
    cut = load_any(single, max_episode_steps=ROWS)
    assert cut.episode_lengths.tolist() == [ROWS - 1] * EPISODES
    assert any(f"each ends after {ROWS} steps, as dataset.max_epi" in line for line in lines())
    assert not any("unlike all others" in line for line in report(cut).warnings)
    ended = load_any(frame, max_episode_steps=7)
    assert ended.episode_lengths.tolist() == cut.episode_lengths.tolist()
    failed = load_any(single.assign(terminated=frame.index == 9), max_episode_steps=ROWS)
    assert failed.episode_lengths.tolist() == [10, *[ROWS - 1] * 3, ROWS - 11]


def test_no_row_leads_across_missing_values_or_missing_rows(lines):
    frame = log()
    frame.loc[70:74, "level [cm]"] = np.nan
    frame.loc[100, "reward"] = np.inf
    frame = frame.drop(index=[20, 21]).reset_index(drop=True)
    data = load_any(frame)
    # Of 240 rows: 2 and 6 are gone, and of 7 stretches each the last has no successor.
    assert len(data) == 240 - 2 - 6 - 7
    assert data.episode_lengths.tolist() == [19, 37, 9, 24, 18, 59, 59]
    step = (data.transitions.next_obs - data.transitions.obs)[:, 0]
    assert step.abs().max() < 0.5  # a random walk of 0.1 a step, whose gaps would be longer
    told = "\n".join(lines())
    assert (
        "time [s] has 1 gap, the first after row 19 (counted from 0), the longest of 1.5 s where a "
        "step is 0.5 s (2 rows are missing)" in told
    )
    assert (
        "6 of 238 rows hold no finite number in a column that is read (level [cm] 5, first in row "
        "68 (counted from 0): empty or NaN; reward 1, first in row 98 (counted from 0): inf)"
        in told
    )
    assert "episodes are cut there, in 2 places" in told


def test_columns_of_half_the_rate_are_to_be_filled_in():
    frame, level = log(), "level [cm]"
    sparse = frame.assign(**{level: frame[level].where(frame.index % 2 == 0)})
    with pytest.raises(Mistake, match=r"no row with all values is followed .* frame\.ffill\(\)"):
        load_any(sparse)
    assert len(load_any(sparse.ffill())) == len(load_any(frame))
    assert len(load_any(sparse, columns={"observations": "setpoint"})) == len(load_any(frame))


def test_rows_of_an_episode_are_put_together_where_time_shows_how(lines):
    frame = log()
    mixed = frame.sort_values(["time [s]", "episode"], ignore_index=True)  # side by side
    assert load_any(mixed).fingerprint == load_any(frame).fingerprint
    told = "episode is not sorted (episode 0 comes back in row 4 (counted from 0))"
    assert any(told in line for line in lines())
    with pytest.raises(
        Mistake, match=r"not sorted: 0 comes back in row 4 \(counted from 0\) after"
    ):
        load_any(mixed.drop(columns="time [s]"))
    again = pandas.concat([frame, frame], ignore_index=True)  # two logs that both count from 0
    with pytest.raises(Mistake, match="comes back in row 240"):
        load_any(again)


def test_sampling_that_varies_is_told_and_mixed_sampling_refused(lines):
    frame = log()
    time = frame["time [s]"].to_numpy(copy=True)
    time[5::10] += 0.2
    load_any(frame.assign(**{"time [s]": time}))
    assert any(
        "48 of 236 steps differ by more than 20 % from the sampling time of 0.5 s" in line
        for line in lines()
    )
    time = np.where(frame["episode"] < 3, 1.0, 2.0) * frame["time [s]"]
    with pytest.raises(
        Mistake,
        match=r"mixed sampling times: .* by 0.5 s in most rows, by 1 s in the episode from row 180",
    ):
        load_any(frame.assign(**{"time [s]": time}))
    rng = np.random.default_rng(0)
    time = np.tile(rng.exponential(size=60).cumsum(), 4)
    with pytest.raises(Mistake, match="no one sampling time"):
        load_any(frame.assign(**{"time [s]": time}))
    with pytest.raises(Mistake, match="never advances"):
        load_any(frame.assign(**{"time [s]": 3.0}))
    load_any(frame.assign(**{"time [s]": np.floor(frame["time [s]"])}))
    assert any("time [s] stands still in 120 rows" in line for line in lines())


def test_an_environment_can_be_named():
    frame = log().rename(columns={"level [cm]": "cos", "setpoint [cm]": "sin"})
    frame["speed"] = frame["cos"]
    data = load_any(frame, env_id="Pendulum-v1")
    assert (data.spec.env_id, data.spec.action_high) == ("Pendulum-v1", (2.0,))
    assert data.spec.obs_names == ("cos", "sin", "speed")
    with pytest.raises(Mistake, match="has observations of size 2"):
        load_any(log(), env_id="Pendulum-v1")


@pytest.mark.parametrize(
    ("change", "given", "message"),
    [
        (
            {},
            {"columns": {"actions": "valv"}},
            "has no column 'valv', which dataset.columns.actions",
        ),
        ({}, {"columns": {"actions": "aktion"}}, r"did you mean action \[-\]\?"),
        ({}, {"columns": {"observations": ["x*"]}}, r"has no column 'x\*'"),
        ({}, {"columns": {"states": "level"}}, "dataset.columns has the key states"),
        (
            {},
            {"columns": ["level"]},
            r"dataset.columns=\['level'\] must say which columns are what",
        ),
        ({}, {"columns": {"actions": 3}}, "dataset.columns.actions=3 must be a name"),
        ({}, {"columns": {"reward": ["reward", "level"]}}, "it is one column"),
        (
            {},
            {"columns": {"observations": ["level", "action"], "actions": "action"}},
            "named for observations and for act",
        ),
        (
            {},
            {"columns": {"observations": "*", "actions": "action", "reward": "reward"}},
            "named for observations and for act",
        ),
        ({}, {"columns": {"observations": []}}, "dataset.columns.observations is empty"),
        (
            {"action [-]": "valve"},
            {},
            r"no column is called an action; .*'dataset.columns.actions=\[valve\]'",
        ),
        (
            {"action [-]": "Stellgr\u00f6\u00dfe [%]"},
            {},
            r"""'dataset.columns.actions=\["Stellgr\u00f6\u00dfe"\]'""",
        ),
        ({"reward": "cost"}, {}, 'has no reward; .*dataset.reward="-cost"'),
        (
            {"level [cm]": "level", "setpoint [cm]": "level"},
            {},
            "the column 'level' stands 2 times",
        ),
        (
            {"setpoint [cm]": "level [m]"},
            {"columns": {"observations": "level"}},
            r"level could be level \[cm\] or level \[m\]",
        ),
        ({}, {"reward": "-level", "columns": {"reward": "reward"}}, "both give the reward"),
        ({}, {"action_high": 0.5}, "lies outside"),
        ({}, {"action_high": [1, 2]}, "action_high has 2 entries for 1 action;"),
    ],
)
def test_what_is_named_wrongly_is_refused_in_one_line(change, given, message):
    frame = log()
    frame.columns = [change.get(name, name) for name in frame.columns]
    with pytest.raises(Mistake, match=message) as caught:
        load_any(frame, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("level [cm]", ["wrong"] + ["1"] * 239, r"level \[cm\] holds 'wrong' in row 0 \(coun"),
        ("level [cm]", np.nan, r"level \[cm\] has no value in any row"),
        ("action [-]", 0.5, r"action \[-\] is 0.5 in every row, so no policy"),
        ("episode", [np.nan] + [0] * 239, "episode is empty in 1 row, first in row 0"),
        ("episode", [[0]] * 240, "episode holds a list in row 0, where the number or name"),
        ("terminated", [0.5] + [0] * 239, "terminated must hold only 0 and 1, found 0.5 in row 0"),
        ("time [s]", ["noon"] * 240, "holds 'noon' in row 0 .*, which is neither a number nor a d"),
    ],
)
def test_values_that_poison_are_refused_in_one_line(column, value, message):
    frame = log()
    if column == "level [cm]" and isinstance(value, list):
        frame[column] = pandas.Series(value, dtype=object)
    else:
        frame[column] = value
    given = {"columns": {"observations": ["level", "setpoint"]}}
    with pytest.raises(Mistake, match=message) as caught:
        load_any(frame, **given)
    assert "\n" not in str(caught.value)


def test_too_few_rows_are_refused(tmp_path):
    with pytest.raises(Mistake, match=r"gives 9 transitions, .* at least 100 are needed"):
        load_file(write(log(rows=10, episodes=1), tmp_path / "log.csv"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("log.xlsx", "a", "has the suffix '.xlsx', expected .csv"),
        ("log.h5", "a", "has the suffix '.h5', expected .csv.*; choose dataset=file"),
        ("log.csv", "", "has no named columns"),
        ("log.csv", "a,b\n", "has no rows"),
        ("log.csv", "a,b,a\n1,2,3\n", "the column 'a' stands 2 times"),
        ("log.csv", "a,b\n1,2\n1,2,3,4\n", "line 3 has 4 cells, where 2 columns are named"),
        ("log.csv", "0.5,0,10.07\n1,0,9.5\n", "line 1 holds numbers, where the columns must"),
        ("log.csv", "0,0,10.07\n1,0,9.5\n", "line 1 holds numbers, where the columns must"),
        ("log.csv", "0,0,10\n1,0,9\n", "line 1 holds numbers, where the columns must"),
        ("log.csv", "a,b\n1,2\na,b\n3,4\n", "line 3 names the columns again; remove it"),
        ("log.csv", "a,b,\nm,l,\n1,2,\na,b,\n", "line 4 names the columns again; remove it"),
        (
            "log.csv",
            "a,b\n1,2\n".encode("utf-16-le"),
            "holds zero bytes.*dataset.encoding=utf-16-le",
        ),
        ("log.parquet", "nothing of this kind", "cannot be read as parquet"),
        ("log.feather", "nothing of this kind", "cannot be read as feather"),
    ],
)
def test_files_that_are_no_tables_are_refused_in_one_line(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Mistake, match=message) as caught:
        load_file(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(Mistake, match="does not exist"):
        load_file(tmp_path / "nowhere.csv")


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    path = write(log(), tmp_path / "log.parquet")
    real = builtins.__import__

    def without(name, *rest):
        if name.partition(".")[0] == "pyarrow":
            raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")
        return real(name, *rest)

    monkeypatch.setattr("importlib.import_module", without)
    with pytest.raises(Mistake, match=r"needs the package pyarrow, .*the extra tables of reverie"):
        load_file(path)


def test_other_things_than_tables_are_refused():
    with pytest.raises(Mistake, match="expected the name of a dataset, arrays by name or a Data"):
        load_any([1, 2, 3])


HEAD, LINE = "level,action,reward", "1.0,0.5,0.1"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1.0,0.5", "line 3 has 2 cells, where 3 columns are named"),
        ("1.0,0.5,0.1,9", "line 3 has 4 cells"),
        ("1.0,0.5,0.1,", "line 3 has 4 cells"),
        ("1.0\0,0.5,0.1", "line 3 holds a NUL"),
        ('"1.0"2,0.5,0.1', "cannot be read as a table"),
        ('"1.0,0.5,0.1', "cannot be read as a table"),
        ("1.0\r0.5,0.1", "line 3 has 1 cell, where"),
        ("1.0,0.5," + "1" * 1_000_000, "line 3 has more than 1,000,000 letters"),
        ("wrong,0.5,0.1", "level holds 'wrong' in line 3, where a number belongs"),
    ],
)
def test_a_garbled_line_is_refused_before_cells_move(tmp_path, line, message):
    path = tmp_path / "log.csv"
    path.write_text("\n".join([HEAD, LINE, line, *[LINE] * 200]) + "\n", newline="")
    with pytest.raises(Mistake, match=message) as caught:
        load_file(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_more_cells_than_names_in_every_line_are_refused_but_a_delimiter_at_the_end(tmp_path):
    frame = log()
    text = frame.to_csv(index=False).splitlines()
    path = tmp_path / "log.csv"
    path.write_text("\n".join([text[0], *(f"{line},7" for line in text[1:])]))
    with pytest.raises(Mistake, match="line 2 has 7 cells, where 6 columns are named"):
        load_file(path)
    path.write_text("\n".join([text[0], "", *(f"{line}," for line in text[1:])]))
    assert load_file(path).fingerprint == load_any(frame).fingerprint


def test_the_decimal_mark_is_found_behind_whole_numbers(tmp_path):
    frame = log().drop(columns="episode")
    frame.loc[0] = [0, 10, 8, 1, -4]
    text = frame.to_csv(index=False, sep=";", decimal=",").replace(",0;", ";").replace(",0\n", "\n")
    assert "," not in text.splitlines()[1]
    (tmp_path / "log.csv").write_text(text)
    found = load_file(tmp_path / "log.csv").transitions.obs
    np.testing.assert_allclose(found, load_any(frame).transitions.obs, rtol=1e-6)


def test_what_would_fill_the_memory_is_refused_before_it_is_read(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    zeros = pyarrow.array(np.zeros(20_000_000))
    parquet.write_table(
        pyarrow.table({name: zeros for name in ("level", "action", "reward")}),
        tmp_path / "log.parquet",
        compression="zstd",
        row_group_size=len(zeros),
    )
    assert (tmp_path / "log.parquet").stat().st_size < 480_000
    with pytest.raises(Mistake, match=r"log.parquet has .* bytes and would fill 480,000,000"):
        load_file(tmp_path / "log.parquet")
    wide = tmp_path / "wide.csv"
    wide.write_text(",".join(f"c{i}" for i in range(10_001)) + "\n")
    with pytest.raises(Mistake, match="has 10,001 columns, at most 10,000 are read"):
        load_file(wide)
    wide.write_text(",".join(f"c{i}" for i in range(1_000_000)) + "\n")
    with pytest.raises(Mistake, match="line 1 has more than 1,000,000 letters"):
        load_file(wide)


@pytest.mark.parametrize("suffix", ["parquet", "feather", None])
def test_named_levels_of_an_index_are_columns_and_row_numbers_are_none(tmp_path, suffix):
    frame = log()
    indexed = frame.set_index(["episode", "time [s]"])
    shuffled = frame.set_index(frame.index * 3)
    wanted = load_any(frame).fingerprint
    for each in (indexed, shuffled):
        path = tmp_path / f"log.{suffix}"
        if suffix == "parquet":
            each.to_parquet(path)
        elif suffix == "feather":
            pytest.importorskip("pyarrow.feather").write_feather(
                pytest.importorskip("pyarrow").Table.from_pandas(each), path
            )
        found = load_file(path) if suffix else load_any(each)
        assert found.fingerprint == wanted


def test_patterns_with_many_stars_end(tmp_path):
    frame = log().rename(columns={"level [cm]": "a" * 200})
    with pytest.raises(Mistake, match=r"which dataset.columns.observations names"):
        load_any(frame, columns={"observations": "*a" * 20 + "b"})


def test_a_flipped_bit_of_a_parquet_with_checksums_is_refused(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "log.parquet"
    table = pytest.importorskip("pyarrow").Table.from_pandas(log())
    parquet.write_table(
        table, path, write_page_checksum=True, compression="none", use_dictionary=False
    )
    load_file(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)
    with pytest.raises(Mistake, match="cannot be read as parquet"):
        load_file(path)


def test_a_time_beyond_all_bounds_is_told(tmp_path, caplog):
    path = tmp_path / "log.csv"
    lines = [f"{row * 0.1:.1f},{row % 7},{row % 5},1" for row in range(200)]
    lines[120] = "1e308,1,2,1"
    path.write_text("\n".join(["time,level,action,reward", *lines]) + "\n")
    load_file(path)
    assert "1 gap" in caplog.text and "missing); episodes are cut there" in caplog.text


def test_text_cannot_be_exogenous_and_the_line_says_so():
    frame = log().assign(mode="manual")
    with pytest.raises(Mistake, match="exogenous names mode, a column of text; write it as numb"):
        load_any(frame, columns={"exogenous": ["mode"]})
