"""What is counted of verdicts and of the plant, with numbers worked out by hand."""

import pytest
import torch

from reverie.benchmarks.claims.own_data.__main__ import (
    GRADED,
    Judged,
    claim_control,
    claim_estimates,
    claim_outcomes,
    control_graded,
    covered,
    covered_corrected,
    plot,
    rank_correlation,
)
from reverie.envs import two_tanks

RECORDED = -10.0


def judged(estimates, outcomes, truth, cautions=None):
    """Policies with one interval of width 2 for both methods."""
    values = [[value, value - 1.0, value + 1.0] for value in estimates]
    gains = [[each - RECORDED for each in value] for value in values]
    both = {"value": values, "difference": gains}
    verdict = {
        "discount": 0.99,
        "recorded": {"value": [RECORDED, -11.0, -9.0]},
        "fqe": both | {"diverged": False, "remaining": [0.0 for _ in values]},
        "model": both | {"broken": [0.0 for _ in values]},
        "outcome": outcomes,
        "cautions": cautions or [[] for _ in outcomes],
        "impossible": [[] for _ in outcomes],
        "doubly_robust": None,
    }
    names = [f"policy {number}" for number in range(len(truth))]
    return Judged(names, verdict, torch.tensor(truth), 10 * torch.tensor(truth))


GOOD = judged([-5.0, -8.0, -30.0], ["better", "unclear", "worse"], [-5.5, -6.0, -20.0])
RASH = judged([-5.0, -8.0], ["better", "better"], [-50.0, -5.0])


def test_order_and_intervals_by_hand():
    assert rank_correlation(GOOD, "fqe") == pytest.approx(1.0)
    assert rank_correlation(RASH, "model") == pytest.approx(-1.0)
    assert covered(GOOD, "fqe") == [True, False, False]
    without = judged([-5.0], ["better"], [-5.0])
    without.verdict["model"] = None
    assert covered(without, "model") == []


def test_corrected_values_count_where_their_weights_do():
    weighed = judged([-5.0, -8.0, -30.0], ["better"] * 3, [-5.5, -6.0, -20.0])
    weighed.verdict["doubly_robust"] = weighed.verdict["fqe"] | {"steps": [3, 2, 0]}
    assert covered_corrected(weighed) == [True, False] and covered_corrected(GOOD) == []
    (*_, told) = claim_estimates({"td3_bc": weighed}, [GOOD], judge=True)
    assert told.measured == "50% of 2" and told.holds is None


def test_control_pays_only_above_the_controller_that_recorded():
    trained = {"good": judged([0.0] * 3, ["better"] * 3, [-1.0, -1.1, -0.9])}
    trained["unsure"] = judged([0.0] * 3, ["better"] * 3, [-1.0, -5.0, 0.0])
    told, good, unsure = claim_control(trained, [-20.0, -22.0], -25.0, judge=True)
    assert told.measured == "-21.0; -25.0" and told.holds is None
    assert good.holds is True and unsure.holds is False
    assert all(each.holds is None for each in claim_control(trained, [-20.0], -25.0, judge=False))


def test_a_false_promise_is_counted():
    found = claim_outcomes([GOOD, RASH], judge=True)
    better, worse, harm, missed, fired, alarmed, spared, quiet = found
    assert (better.measured, better.holds) == ("67% of 3", False)
    assert (worse.measured, worse.holds) == ("100% of 1", True)
    assert (harm.measured, harm.holds) == ("50% of 2", False)
    assert (missed.measured, missed.holds) == ("33% of 3", None)
    assert (fired.measured, spared.measured) == ("50% of 2", "0% of 3")
    assert (alarmed.measured, quiet.measured) == ("50% of 2", "0% of 3")
    torn = judged([-5.0, -6.0, -7.0], ["contradiction", "unclear", "worse"], [-50.0, -5.0, -60.0])
    torn.verdict["impossible"][1].append("fitted Q evaluation promises ...")
    *_, fired, alarmed, spared, quiet = claim_outcomes([torn], judge=True)
    assert (fired.measured, spared.measured) == ("100% of 2", "100% of 1")
    assert (alarmed.measured, quiet.measured) == ("100% of 2", "100% of 1")
    doubted = judged([-5.0], ["better"], [-50.0], cautions=[["in 90% of the states ..."]])
    assert claim_outcomes([doubted], judge=True)[-4].measured == "100% of 1"
    assert claim_outcomes([GOOD], judge=False)[0].holds is None


def test_the_picture_shows_every_policy_in_both_panels():
    trained = {"td3_bc": GOOD}
    assert len(claim_estimates(trained, [RASH, GOOD], judge=False)) == 7
    for ax in plot(trained, [RASH]).axes:
        shown = {line.get_label(): len(line.get_xdata()) for line in ax.lines}
        assert shown["td3_bc"] == 3 and shown["graded controllers"] == 2


def test_graded_controllers_are_those_of_the_plant():
    obs = torch.tensor([[10.0, 12.0, 8.0, 0.3], [3.0, 2.0, 20.0, 0.9]])
    actions = control_graded(obs.expand(len(GRADED), -1, -1))
    for own, (gain, trim) in zip(actions, GRADED.values(), strict=True):
        expected = two_tanks.feedback(obs, gain, trim=trim)
        torch.testing.assert_close(own / 2 + 0.5, expected)
