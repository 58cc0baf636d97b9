"""MOPO against ReBRAC on the swing-up: when the plan is content, and what it says."""

import pytest

from reverie.benchmarks.claims.laptop_budget import swing_up
from reverie.benchmarks.claims.shipped import Budget
from reverie.mistake import Mistake


def record(method, *returns, stopped=None):
    """Of seeds whose last two evaluations lie 1 around these."""
    curves = [] if stopped else [[1e9, value - 1.0, value + 1.0] for value in returns]
    return {
        "method": method,
        "seed": 4,
        "updates": [5, 10, 15],
        "returns": curves,
        "seconds": {"training": 3.0},
        "stopped": stopped,
    }


@pytest.fixture
def trained(monkeypatch):
    """What is trained, with MOPO this much above ReBRAC in each seed of a block."""
    done = []

    def arrange(gaps):
        def train(jobs):
            first = next(iter(jobs.values())).args[1]
            done.append(first)
            levels = [100.0 * (first + each) for each in range(4)]  # far apart
            found = {"rebrac": levels, "mopo": [x + gaps[first] for x in levels]}
            return {method: record(method, *values) for method, values in found.items()}

        monkeypatch.setattr(swing_up, "run_all", train)
        return done

    return arrange


@pytest.mark.parametrize(("gap", "holds"), [(3.0, True), (-3.0, False)])
def test_eight_seeds_of_one_mind_decide(trained, tmp_path, gap, holds):
    done = trained(dict.fromkeys(swing_up.BLOCKS, gap))
    found = swing_up.measure(Budget(), swing_up.BLOCKS, tmp_path, {}, judge=True)
    assert done == [4, 8] and found.claims[0].holds is holds
    assert found.claims[0].measured.startswith(f"{gap:.3g} [{gap:.3g}, {gap:.3g}]: ")
    assert found.details["seconds"] == 12.0 and list(found.details["records"]) == ["4", "8"]
    assert swing_up.claim({"rebrac": [], "mopo": []}, judged=True).holds is None


def test_four_more_seeds_where_eight_do_not_decide(trained, tmp_path):
    done = trained({4: 3.0, 8: -3.0, 12: 3.0})
    found = swing_up.measure(Budget(), swing_up.BLOCKS, tmp_path, {}, judge=True)
    assert done == [4, 8, 12] and found.claims[0].holds is None


def test_an_open_plan_says_so_and_goes_on_from_what_is_recorded(trained, tmp_path, monkeypatch):
    trained({4: 3.0, 8: -3.0})
    found = swing_up.measure(Budget(), swing_up.BLOCKS[:2], tmp_path, {}, judge=True)
    assert found.claims[0].measured.endswith("; 12 seeds are planned")
    known = found.details["records"]

    def hand_on(jobs):  # what each training is told of what is recorded
        return {method: job.args[-1] for method, job in jobs.items()}

    monkeypatch.setattr(swing_up, "run_all", hand_on)
    again = swing_up.measure(Budget(), swing_up.BLOCKS[:2], tmp_path, known, judge=True)
    assert again.claims == found.claims


def test_a_quick_run_judges_nothing(trained, tmp_path):
    trained({4: 3.0})
    found = swing_up.measure(Budget(), swing_up.BLOCKS[:1], tmp_path, {}, judge=False)
    assert found.claims[0].holds is None
    assert found.claims[0].measured.startswith("too few seeds to say: ")


def test_a_training_that_stopped_is_no_number():
    stopped = {"rebrac": [record("rebrac", 1.0)], "mopo": [record("mopo", stopped="diverged")]}
    with pytest.raises(Mistake, match=r"mopo from seed 4 stopped \(diverged\)"):
        swing_up.decide(stopped)
