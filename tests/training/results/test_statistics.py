"""Aggregates by hand and by naive loops, and intervals with known coverage."""

from functools import partial

import numpy as np
import pytest

from reverie.training.report.selection import selected_scores
from reverie.training.results import statistics
from reverie.training.results.statistics import bootstrap, columns

# Two tasks, four runs each; the sorted scores are 0, 10, 20, 30, 50, 60, 70, 200.
SCORES = columns([[0, 10, 20, 30], [50, 60, 70, 200]])


def test_aggregates_of_a_table_worked_by_hand():
    assert statistics.interquartile_mean(SCORES) == (20 + 30 + 50 + 60) / 4
    assert statistics.mean(SCORES) == (15 + 95) / 2
    assert statistics.median(columns([[0, 2], [10, 20], [300, 400]])) == 15
    # 200 counts as 100: tasks miss the goal by 85 and by 30.
    assert statistics.optimality_gap(SCORES) == (85 + 30) / 2
    profile = statistics.performance_profile(SCORES, np.array([-1.0, 20.0, 65.0, 200.0]))
    np.testing.assert_allclose(profile, [1, (1 / 4 + 1) / 2, (0 + 2 / 4) / 2, 0])
    assert statistics.probability_of_improvement(
        columns([[1, 2]]), columns([[1, 0, 3]])
    ) == pytest.approx((0.5 + 1 + 0 + 1 + 1 + 0) / 6)


def test_tasks_may_have_unequal_numbers_of_runs():
    scores = columns([[0, 100], [10, 20, 30, 40, 50, 60]])
    assert statistics.mean(scores) == (50 + 35) / 2
    assert statistics.interquartile_mean(scores) == (20 + 30 + 40 + 50) / 4
    profile = statistics.performance_profile(scores, np.array([45.0]))
    np.testing.assert_allclose(profile, [(1 / 2 + 2 / 6) / 2])
    # Padding takes no part: 2 wins of 2 on the first task, 7 of 36 on the second.
    other = columns([[-1], [55, 5, 70, 80, 90, 95]])
    expected = (2 / 2 + (6 + 1) / 36) / 2
    assert statistics.probability_of_improvement(scores, other) == pytest.approx(expected)


@pytest.mark.parametrize(
    "statistic",
    [
        statistics.mean,
        statistics.median,
        statistics.interquartile_mean,
        statistics.optimality_gap,
        lambda x: statistics.performance_profile(x, np.array([0.0, 1.0])),
    ],
)
def test_leading_axes_are_batches(statistic):
    table = np.random.default_rng(0).normal(size=(3, 5, 4))
    np.testing.assert_allclose(statistic(table), [statistic(one) for one in table])


def test_resampling_stays_within_a_task():
    drawn = statistics.resample(columns([[1, 2], [10, 20, 30]]), 500, np.random.default_rng(0))
    assert drawn.shape == (500, 3, 2)
    assert set(np.unique(drawn[:, :2, 0])) == {1, 2} and np.isnan(drawn[:, 2, 0]).all()
    assert set(np.unique(drawn[:, :, 1])) == {10, 20, 30}
    # Tasks are drawn independently: the first runs of both say nothing about each other.
    assert abs(np.corrcoef(drawn[:, 0, 0], drawn[:, 0, 1])[0, 1]) < 0.15


def test_the_interval_of_two_runs_is_known_exactly():
    # Means of two draws from {0, 1}: 0, 1/2, 1 with chances 1/4, 1/2, 1/4.
    found = bootstrap(statistics.mean, columns([[0, 1]]), level=0.95)
    assert (found.estimate, found.low, found.high) == (0.5, 0, 1)
    narrow = bootstrap(statistics.mean, columns([[0, 1]]), level=0.4)
    assert (narrow.low, narrow.high) == (0.5, 0.5)


def test_intervals_agree_with_scipy_and_with_the_normal_limit():
    stats = pytest.importorskip("scipy.stats")
    scores = np.random.default_rng(1).normal(50, 10, (40, 3))
    found = bootstrap(statistics.interquartile_mean, scores, replicates=4000)
    theirs = stats.bootstrap(
        tuple(scores.T),
        lambda *tasks, axis: statistics.interquartile_mean(np.stack(tasks, -1)),
        n_resamples=4000,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(2),
    ).confidence_interval
    # Each bound has a standard error of about 1 / 60 of the interval's length.
    length = theirs.high - theirs.low
    assert abs(found.low - theirs.low) < 0.1 * length
    assert abs(found.high - theirs.high) < 0.1 * length
    found = bootstrap(statistics.mean, scores, replicates=4000)
    error = np.sqrt((scores.var(0) / 40).sum()) / 3
    assert found.low == pytest.approx(scores.mean() - 1.96 * error, abs=0.15 * error)


def test_two_samples_are_resampled_independently():
    x, y = columns([[1, 2, 3, 4]]), columns([[1, 2, 3, 4]])
    found = bootstrap(lambda a, b: statistics.mean(a) - statistics.mean(b), x, y, replicates=4000)
    # Paired draws would give zero; independent ones add their variances.
    assert found.estimate == 0
    assert found.high == pytest.approx(1.96 * np.sqrt(2 * 1.25 / 4), rel=0.1)


def test_a_single_run_has_no_interval():
    found = bootstrap(statistics.mean, columns([[1, 2, 3], [5]]))
    assert found.estimate == 3.5 and np.isnan(found.low) and np.isnan(found.high)


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        columns([[1.0, float("nan")]])
    with pytest.raises(ValueError, match="at least one"):
        columns([[1.0], []])


X = [
    [111, -27, 63, 33, 36, 44, -11],
    [43, 24, 150, 57, 39, 42, 30],
    [18, 38, 64, 43, 79, 44, 51],
    [96, 66, 35, 45, 66, 108, 42],
    [43, 80, 23, 41, 76, 67, 53],
]
Y = [
    [80, -25, 91, 31, 10, 68, 81],
    [47, 28, 61, 58, 102, 82, 66],
    [93, 54, 32, 78, 77, 54, 37],
    [67, -15, 81, 75, 11, 62, 31],
]
THRESHOLDS = np.array([0.0, 25.0, 50.0, 75.0, 100.0])
# Estimates and intervals by rliable 1.2.0, of 5,000 replicates, 2,000 for the last two. It needs an
# old pandas, so it is not part of the test environment.
RLIABLE = {
    "interquartile_mean": (48.42105, 41.2105, 56.8947),
    "median": (59.2, 41.6, 64.6),
    "mean": (51.77143, 42.0286, 62.0864),
    "optimality_gap": (50.2, 41.6279, 58.7429),
    "probability_of_improvement": (0.4142857, 0.26429, 0.57857),
    "performance_profile": (
        [0.9428571, 0.8571429, 0.4285714, 0.2, 0.0857143],
        [0.85714, 0.74286, 0.25714, 0.08571, 0.0],
        [1.0, 0.94286, 0.6, 0.34286, 0.17143],
    ),
}


@pytest.mark.parametrize("name", RLIABLE)
def test_agreement_with_rliable(name):
    tables = [np.array(X, float)]
    statistic = getattr(statistics, name)
    if name == "probability_of_improvement":
        tables.append(np.array(Y, float))
    if name == "performance_profile":
        statistic = partial(statistic, thresholds=THRESHOLDS)
    found = bootstrap(statistic, *tables, replicates=5_000)
    estimate, low, high = RLIABLE[name]
    np.testing.assert_allclose(found.estimate, estimate, rtol=1e-6)
    # Ends of intervals move by about a thirtieth of their length from draw to draw.
    for ours, theirs in ((found.low, low), (found.high, high)):
        assert np.max(np.abs(ours - theirs)) < 0.1 * np.max(np.subtract(high, low))


def test_the_first_pull_is_a_random_policy_and_enough_pulls_find_the_best():
    scores = np.repeat(np.array([[0.0], [30.0], [60.0], [90.0]]), 5, 1)
    held = selected_scores(scores, pulls=20, subset=4, repeats=2000)
    assert held[:, 0].mean() == pytest.approx(45, abs=3)  # standard error 0.75
    # Without noise one pull of each arm is enough: the best of k different ones.
    assert held[:, 1].mean() == pytest.approx(np.mean([30, 60, 90, 60, 90, 90]), abs=3)
    assert (held[:, 3:] == 90).all()


def test_a_subset_can_only_find_its_own_best():
    scores = np.array([[0.0], [1.0], [2.0]])
    held = selected_scores(scores, pulls=5, subset=2, repeats=3000)
    assert held[:, -1].mean() == pytest.approx((1 + 2 + 2) / 3, abs=0.05)


def test_an_offset_of_all_scores_changes_no_choice():
    scores = np.random.default_rng(0).normal(50, 20, (6, 30))
    here, there = (selected_scores(scores + offset, pulls=30, repeats=50) for offset in (0, -500))
    np.testing.assert_allclose(there, here - 500)


def test_the_bandit_follows_the_rule_of_a_naive_loop():
    scores, repeats, pulls = np.array([[0.0, 90.0], [20.0, 60.0], [30.0, 30.0]]), 400, 12
    rng = np.random.default_rng(5)
    naive = np.zeros((repeats, pulls))
    for repeat in range(repeats):
        seen: list[list[float]] = [[], [], []]
        for pull in range(1, pulls + 1):
            untried = [arm for arm in range(3) if not seen[arm]]
            bounds = [
                np.mean(s) + np.sqrt(800.0 * np.log(pull) / len(s)) if s else np.inf for s in seen
            ]
            arm = rng.choice(untried) if untried else int(np.argmax(bounds))
            seen[arm].append(rng.choice(scores[arm]))
            means = [np.mean(s) if s else -np.inf for s in seen]
            naive[repeat, pull - 1] = scores[rng.choice(np.flatnonzero(means == max(means)))].mean()
    ours = selected_scores(scores, pulls=pulls, subset=3, repeats=4000, exploration=800.0)
    # Scores differ by at most 15, so a mean of 400 has a standard error below 0.4.
    np.testing.assert_allclose(ours.mean(0), naive.mean(0), atol=1.5)


def test_one_policy_is_no_choice():
    with pytest.raises(ValueError, match="no choice"):
        selected_scores(np.ones((1, 10)))
