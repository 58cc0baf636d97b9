"""Rewards computed from columns: values by hand, and nothing of a formula runs as Python."""

import numpy as np
import pandas
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from reverie.datasets import load
from reverie.datasets.check.report import report
from reverie.datasets.tables.expression import FUNCTIONS, evaluate
from reverie.datasets.tables.table import from_frame
from reverie.mistake import Mistake
from reverie.paths import quote_paths
from tests.datasets.tables import log

TABLE = from_frame(
    pandas.DataFrame(
        {
            "h2 [cm]": [1.0, 2.0, -4.0],
            "set": [0.5, 1.0, 2.0],
            "tank level (m)": [3.0, 0.0, 1.0],
            "next": [7.0, 8.0, 9.0],
            "on": [True, False, True],
            "tag": ["a", "b", "c"],
        }
    ),
    "log.csv",
)
ENDS = np.array([False, True, True])


def value(text):
    return evaluate(text, TABLE, ENDS)[0].tolist()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("-(h2-set)**2-0.01*set", [-0.255, -1.01, -36.02]),
        ("1", [1, 1, 1]),
        (" +h2 / 2 ", [0.5, 1.0, -2.0]),
        ("-2**2", [-4, -4, -4]),
        ("2**-1 * `h2 [cm]`", [0.5, 1.0, -2.0]),
        ("`tank level` + `tank level (m)`", [6, 0, 2]),
        ("abs(h2) + sqrt(h2 * h2)", [2, 4, 8]),
        ("min(h2, set) + max(h2, 0)", [1.5, 3.0, -4.0]),
        ("clip(h2, -1, 1)", [1, 1, -1]),
        ("where(h2 > set, 10, -h2)", [10, 10, 4]),
        ("(h2 >= 2) - (h2 != 1) + (on == 1)", [1, 0, 0]),
        ("where(abs(h2 - set) < 0.6, 1, 0)", [1, 0, 0]),
        ("exp(log(set)) - cos(0)", [-0.5, 0.0, 1.0]),
        ("next + 0*h2", [7, 8, 9]),
        ("\n h2 ", [1, 2, -4]),
    ],
)
def test_values_worked_out_by_hand(text, wanted):
    assert value(text) == pytest.approx(wanted)


def test_the_following_row_is_reached_within_an_episode_alone():
    found, looks_ahead = evaluate("next.h2 - h2 + next.`tank level`", TABLE, ENDS)
    assert looks_ahead and found[0] == 1.0 and np.isnan(found[1:]).all()
    assert not evaluate("next - h2", TABLE, ENDS)[1]


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "open('/etc/passwd')",
        "h2.__class__",
        "next.__class__.__mro__",
        "(lambda: h2)()",
        "[h2 for h2 in set]",
        "h2 if set else 1",
        "h2 := 3",
        "h2[0]",
        "'text'",
        "b'1'",
        "f'{h2}'",
        "abs(*h2)",
        "abs(x=h2)",
        "abs",
        "abs(h2, set)",
        "eval(h2)",
        "h2 and set",
        "not h2",
        "~h2",
        "h2 // 2",
        "h2 % 2",
        "h2 @ set",
        "1 < h2 < 2",
        "1j",
        "...",
        "None",
        "",
        "h2 +",
        "h2; set",
        "import os",
        "h2 = 3",
        "x" * 3000,
        "(" * 400 + "h2" + ")" * 400,
        "-" * 500 + "h2",
        "h2" + "+h2" * 400,
        "h2\0",
        "`h2",
        "``",
        "_quoted_0_",
        "9" * 1500 + "j",
        "await h2",
        "yield",
    ],
)
def test_all_else_is_refused_in_one_line(text):
    with pytest.raises(Mistake, match=r"^dataset\.reward=") as caught:
        value(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


def test_huge_numbers_are_infinite_at_once():
    assert value("9**9**9**9") == [np.inf] * 3
    assert value("1" * 400) == [np.inf] * 3


def test_unknown_names_are_told_with_near_ones():
    with pytest.raises(Mistake, match=r"log.csv has no column 'h3'; did you mean h2 \[cm\]\?"):
        value("h3")
    with pytest.raises(Mistake, match=r"log.csv: tag holds 'a' in row 0 .*, where a number"):
        value("tag * 2")
    assert set(FUNCTIONS) >= {"abs", "min", "max", "clip", "where", "sqrt", "exp", "log"}


def test_a_reward_is_computed_where_none_is_logged():
    frame = log()
    logged = load(frame)
    bare = frame.drop(columns="reward")
    data = load(bare, reward="-(level - 10)**2")
    assert data.fingerprint == logged.fingerprint
    assert data.origin["reward"] == "-(level - 10)**2"
    ahead = load(bare, reward="-abs(next.level - setpoint)")
    wanted = -(ahead.transitions.next_obs[:, 0] - ahead.transitions.obs[:, 1]).abs()
    np.testing.assert_allclose(ahead.transitions.reward, wanted, atol=1e-5)
    assert len(ahead) == len(logged) and report(ahead).problems == ()
    # A column that is called reward is no observation either, if another is computed.
    assert load(frame, reward="-level").spec.obs_names == logged.spec.obs_names
    with pytest.raises(Mistake, match="asks for the following row, which the 1 terminated rows"):
        load(bare.assign(terminated=[1] + [0] * 239), reward="-next.level")
    with pytest.raises(Mistake, match=r"dataset\.reward has no value in any row"):
        load(bare, reward="log(-level**2)")
    with pytest.raises(Mistake, match=r"dataset\.reward=1 must be text"):
        load(bare, reward=1)


def test_a_formula_is_typed_without_knowing_the_grammar_of_the_command_line():
    for text in ("-(h2-set)**2-0.01*u**2", "min(a,b)", "`h2 [cm]`*2", "a=b", "-cost"):
        (quoted,) = quote_paths([f"dataset.reward={text}"])
        (read,) = OverridesParser.create().parse_overrides([quoted])
        assert read.value() == text
    assert quote_paths(["dataset.reward=null"]) == ["dataset.reward=null"]
    assert quote_paths(["dynamics.reward=a,b"]) == ["dynamics.reward=a,b"]


def test_a_number_sign_does_not_hide_the_rest_of_a_formula():
    frame = log().rename(columns={"level [cm]": "tank #2"})
    given = {"columns": {"observations": ["tank*", "setpoint"]}}
    with pytest.raises(Mistake, match="names with # stand in backquotes"):
        load(frame.drop(columns="reward"), reward="-setpoint #2", **given)
    data = load(frame.drop(columns="reward"), reward="-`tank #2`", **given)
    np.testing.assert_allclose(data.transitions.reward, -data.transitions.obs[:, 0], rtol=1e-6)


def test_the_micro_sign_of_a_keyboard_is_found():
    frame = log().rename(columns={"level [cm]": "\N{MICRO SIGN} [1/s]"})
    data = load(frame.drop(columns="reward"), reward="-\N{MICRO SIGN}")
    np.testing.assert_allclose(data.transitions.reward, -data.transitions.obs[:, 0], rtol=1e-6)


def test_a_formula_without_a_value_is_to_be_corrected():
    with pytest.raises(Mistake, match=r"dataset.reward has no value in any row; correct it"):
        load(log().drop(columns="reward"), reward="9**9**9")


def test_a_failure_may_cost_what_running_badly_for_ever_would():
    """As docs/own_log.md says: the formula knows the column that says where a plant failed."""
    frame = log().drop(columns="reward").assign(cost=0.5, failed=0)
    frame.loc[[59, 179], "failed"] = 1  # last rows of the first and the third episode
    columns = {"terminated": "failed", "observations": ["level", "setpoint"]}
    data = load(frame, columns=columns, reward="-cost-100*failed")
    rows = data.transitions
    assert rows.terminated.sum() == 2 and (~data.valid_next).sum() == 2  # nothing comes after
    assert rows.reward[rows.terminated].tolist() == [-100.5] * 2
    assert set(rows.reward[~rows.terminated].tolist()) == {-0.5}
    # Worse than to go on at the same cost for ever, which would be -0.5 / (1 - 0.99) = -50.
    assert -100.5 < -0.5 / (1 - 0.99)
