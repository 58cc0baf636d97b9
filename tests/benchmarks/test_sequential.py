"""Paired comparisons: exact by hand, and their errors by simulation."""

import itertools
import math

import numpy as np
import pytest

from reverie.benchmarks.claims.judging import estimate
from reverie.benchmarks.claims.sequential import (
    MOST,
    Decision,
    Plan,
    attained,
    flip_test,
    subset_interval,
)
from reverie.mistake import Mistake

LOOKS = (4, 8, 12)


def test_the_flip_test_counts_signs():
    assert flip_test([1.0, 2.0, 3.0]) == 2 / 8  # only all of one sign reaches 6
    assert flip_test([1.0, -1.0]) == 1.0
    assert flip_test([0.0, 0.0]) == 1.0
    own = np.random.default_rng(0).normal(0.3, 1.0, 7)
    sums = [abs(np.dot(signs, own)) for signs in itertools.product((-1, 1), repeat=7)]
    assert flip_test(own) == pytest.approx(np.mean(np.array(sums) >= abs(own.sum()) - 1e-12))
    # Numbers whose sums differ in their last digit only are equal.
    assert flip_test([0.1, 0.2, 0.3]) == flip_test([1.0, 2.0, 3.0])


def test_the_interval_lies_between_means_of_subsets():
    # Means of the subsets of 1, 2, 6: 1, 1.5, 2, 3, 3.5, 4, 6, in eight equally likely pieces.
    assert subset_interval([1.0, 2.0, 6.0], 2 / 8) == (1.0, 6.0)
    assert subset_interval([1.0, 2.0, 6.0], 4 / 8) == (1.5, 4.0)
    assert subset_interval([1.0, 2.0, 6.0], 0.2) == (-math.inf, math.inf)
    assert attained(3, 0.3) == 0.25 and attained(5, 0.05) == 0.0 and attained(6, 0.05) == 2 / 64


def test_the_interval_holds_what_the_flip_test_does_not_reject():
    rng = np.random.default_rng(1)
    for _ in range(20):
        own = rng.normal(1.0, 1.0, 8)
        low, high = subset_interval(own, 0.05)
        inside, below = 0.5 * (low + high), low - 1e-6
        assert flip_test(own - inside) > 0.05 >= flip_test(own - below)


def test_intervals_keep_their_error_whatever_the_distribution():
    rng = np.random.default_rng(2)
    draws = {
        "normal": lambda: rng.normal(3.0, 1.0, 8),
        # Two modes, as of seeds that learn the task or do not.
        "two modes": lambda: 3.0 + 10.0 * rng.choice([-1.0, 1.0], 8) + rng.normal(0.0, 0.1, 8),
        "heavy tails": lambda: 3.0 + rng.standard_cauchy(8),
    }
    for name, draw in draws.items():
        held = [
            low <= 3.0 <= high for low, high in (subset_interval(draw(), 0.05) for _ in range(2000))
        ]
        # Exactly 1 - 12 / 256 = 0.953, with a standard error of 0.005.
        assert np.mean(held) == pytest.approx(1 - attained(8, 0.05), abs=0.016), name


def simulate(plan: Plan, effect: float, runs: int, seed: int) -> tuple[float, float, float]:
    """Shares called better and worse, and the mean number of seeds, of normal differences."""
    rng = np.random.default_rng(seed)
    found = [plan.decide(rng.normal(effect, 1.0, plan.looks[-1])) for _ in range(runs)]
    better = [each.better is True for each in found]
    worse = [each.better is False for each in found]
    return float(np.mean(better)), float(np.mean(worse)), float(np.mean([e.seeds for e in found]))


def test_looking_again_and_again_keeps_the_error():
    plan = Plan(LOOKS, 0.05)
    better, worse, _ = simulate(plan, 0.0, 1500, seed=3)
    spent = sum(attained(n, e) for n, e in zip(plan.looks, plan.errors(), strict=True))
    assert 0.04 < spent <= 0.05
    assert better + worse < 0.05 + 2 * 0.0056
    assert better + worse > 0.02  # it is no test that never decides
    # Intervals of 95 % at each look, by which the error would be larger, are not what is used.
    rng = np.random.default_rng(3)
    naive = 0
    for _ in range(1000):
        own = rng.normal(0.0, 1.0, 12)
        naive += any(abs((e := estimate(own[:n])).mean) > e.half_width for n in LOOKS)
    assert naive / 1000 > 0.08


def test_power_is_as_the_documentation_states():
    for effect, power, seeds in ((1.0, 0.78, 9.7), (1.5, 0.99, 8.4)):
        better, worse, taken = simulate(Plan(LOOKS, 0.05), effect, 1000, seed=4)
        assert better == pytest.approx(power, abs=0.04) and worse < 0.003
        assert taken == pytest.approx(seeds, abs=0.35)


def test_several_comparisons_share_the_error():
    plan = Plan(LOOKS, 0.05, comparisons=5)
    assert sum(attained(n, e) for n, e in zip(plan.looks, plan.errors(), strict=True)) <= 0.01
    assert plan.errors()[0] == pytest.approx(0.01 / 3)
    # What a look of too few seeds cannot spend is left for the next one.
    assert plan.errors()[1] == pytest.approx(0.02 / 3)


def test_a_decision_is_that_of_the_first_look_that_decides():
    plan = Plan((4, 8), 0.05)
    ahead = [1.0, 1.1, 0.9, 1.2, 1.0, 1.3, 0.8, 1.1]
    few = plan.decide(ahead[:3])
    assert (few.seeds, few.better, few.final, str(few)) == (0, None, False, "too few seeds")
    found = plan.decide(ahead[:5])
    assert (found.seeds, found.better, found.final) == (4, None, False)
    found = plan.decide([*ahead, -100.0])
    assert (found.seeds, found.better, found.final) == (8, True, True) and found.low > 0
    assert found.flips == 2 / 256 and str(found).startswith("better: 1.05 [")
    assert plan.decide([-each for each in ahead]).better is False
    assert (plan.decide([0.0] * 8).better, plan.decide([0.0] * 8).final) == (None, True)
    # Later seeds would not change it.
    long = Plan((8, 12), 0.05).decide([*ahead, *[-100.0] * 4])
    assert (long.seeds, long.better) == (8, True)
    assert isinstance(long, Decision)


@pytest.mark.parametrize(
    ("looks", "error", "comparisons"),
    [((), 0.05, 1), ((4, 4), 0.05, 1), ((8, MOST + 1), 0.05, 1), ((4,), 1.0, 1), ((4,), 0.05, 0)],
)
def test_plans_that_make_no_sense_are_refused(looks, error, comparisons):
    with pytest.raises(Mistake, match="must"):
        Plan(looks, error, comparisons)


@pytest.mark.parametrize("differences", [[], [1.0] * (MOST + 1), [1.0, math.nan]])
def test_what_cannot_be_compared_is_refused(differences):
    for work in (flip_test, lambda own: subset_interval(own, 0.05)):
        with pytest.raises(Mistake, match="finite differences"):
            work(differences)


def test_students_quantile_goes_on_beyond_its_table():
    own = [*range(16)]
    expected = 2.1314 * np.std(own, ddof=1) / 4
    assert estimate(own).half_width == pytest.approx(expected, rel=1e-3)
