"""How numbers of seeds are compared: intervals, orders, margins, and the command around them."""

import json
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from reverie.benchmarks.claims.experiment import prefix_names, split_by_task
from reverie.benchmarks.claims.judging import (
    Estimate,
    estimate,
    estimate_difference,
    is_below,
    judge_margin,
    judge_order,
    plain,
    subtract,
)
from reverie.benchmarks.claims.report import Claim, Findings, draw_range, finish, run_command


def around(mean, half_width):
    return Estimate(mean, half_width, [mean] * 4)


def test_large_numbers_are_written_out_and_small_ones_are_not():
    assert str(around(-1012.3, 57.2)) == "-1,010 ± 57"
    assert plain("1.6e+02 against -1.07e+03, at 1e-06") == "160 against -1,070, at 1e-06"


def test_intervals_are_students():
    found = estimate([1.0, 2.0, 3.0, 4.0])
    assert found.mean == 2.5
    assert found.half_width == pytest.approx(3.182 * np.sqrt(5 / 3) / 2, rel=1e-6)
    assert (found.low, found.high) == (2.5 - found.half_width, 2.5 + found.half_width)
    assert np.isnan(estimate([1.0]).half_width)


def test_half_widths_of_a_difference_add_in_quadrature():
    found = subtract(around(5.0, 3.0), around(7.0, 4.0))
    assert (found.mean, found.half_width, found.values) == (-2.0, 5.0, [-2.0] * 4)


def test_pairs_are_compared_seed_by_seed():
    found = estimate_difference([1.0, 10.0, 100.0], [0.0, 9.0, 99.0])
    assert found.values == [1.0] * 3 and found.half_width == 0


def test_an_order_needs_intervals_apart():
    assert judge_order(around(1.0, 0.4), around(2.0, 0.4)) is True
    assert judge_order(around(2.0, 0.4), around(1.0, 0.4)) is False
    assert judge_order(around(1.0, 0.6), around(2.0, 0.6)) is None
    assert not is_below(around(1.0, 0.6), around(2.0, 0.6))


def test_a_single_seed_decides_nothing():
    one, other = estimate([1.0]), estimate([2.0])
    assert judge_order(one, other) is None and judge_margin(subtract(one, other), 10.0) is None


@pytest.mark.parametrize(("holds", "status"), [(True, 0), (None, 0), (False, 1)])
def test_a_claim_that_fails_fails_the_command_and_is_written_all_the_same(tmp_path, holds, status):
    claim = Claim("a claim [of one]", "more than 1", "0.5 ± 0.1", holds)
    found = finish("x", "title", [claim], {"a": 1}, quick=True, output=tmp_path, seconds=3.0)
    assert found == status
    report = json.loads((tmp_path / "x-quick.json").read_text())
    assert report["claims"][0]["holds"] is holds and report["a"] == 1


@pytest.mark.pictures
def test_a_command_writes_what_was_measured_and_drawn(tmp_path, monkeypatch):
    figure = Figure()
    ax = figure.subplots()
    draw_range(ax, [1, 2], [[0.0, 1.0], [2.0, 3.0]], label="x", color="red")
    assert ax.lines[0].get_ydata().tolist() == [1.0, 2.0]
    monkeypatch.setattr(sys, "argv", ["x", "--quick", "--output", str(tmp_path)])
    told = []

    def measure(quick):
        told.append(quick)
        failed = Claim("text", "expected", "measured", False)
        return Findings([failed], {"value": estimate([1.0, 3.0])}, {"x-curve": figure})

    with pytest.raises(SystemExit, match="1"):
        run_command("x", "title", None, measure)
    assert told == [True]
    report = json.loads((tmp_path / "x-quick.json").read_text())
    assert report["value"]["mean"] == 2.0 and report["seconds"] >= 0
    assert (tmp_path / "x-curve-quick.png").read_bytes()[:4] == b"\x89PNG"


def test_arms_are_named_by_their_task_and_found_by_it():
    jobs = prefix_names("a", {"x": 1, "y/z": 2}) | prefix_names("b", {"x": 3})
    assert list(jobs) == ["a/x", "a/y/z", "b/x"]
    assert split_by_task(jobs) == {"a": {"x": 1, "y/z": 2}, "b": {"x": 3}}
