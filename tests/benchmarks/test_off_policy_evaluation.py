"""How estimates of policies are judged, with numbers worked out by hand."""

import pytest
import torch

from reverie.benchmarks.claims.off_policy_evaluation import choice
from reverie.benchmarks.claims.off_policy_evaluation.__main__ import METHODS, claim_estimates, plot
from reverie.benchmarks.claims.off_policy_evaluation.graded_policies import (
    Found,
    error,
    random_regret,
    rank_correlation,
    regret,
)

TRUTH = torch.tensor([0.0, 10.0, 20.0, 40.0]).double()


def found(estimates):
    table = torch.tensor(estimates).double()
    return Found(
        names=["bc 1", "bc 2", "sac 1", "sac 2"],
        estimates={"fqe/value": table, "model/value": table, "model/return": table},
        truth={"value": TRUTH, "return": TRUTH},
        standard_errors={"value": TRUTH, "return": TRUTH},
        fingerprint="x",
        outside=[0.0],
    )


def test_order_choice_and_error_by_hand():
    # The best policy looks second best; the one that looks best is 20 of 40 worse.
    table = torch.tensor([[0.0, 10.0, 50.0, 40.0], [1.0, 2.0, 3.0, 4.0]]).double()
    assert rank_correlation(table, TRUTH) == pytest.approx([0.8, 1.0])
    assert regret(table, TRUTH) == pytest.approx([0.5, 0.0])
    assert error(table, TRUTH) == pytest.approx([30 / 4 / 40, (1 + 8 + 17 + 36) / 4 / 40])
    assert random_regret(TRUTH) == pytest.approx((40 - 17.5) / 40)


def test_a_claim_holds_only_where_the_whole_interval_does():
    good = [[0.0, 10.0, 20.0, 30.0], [0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 4.0]]
    order, choice, size = claim_estimates("x", found(good), "fqe/value", judge=True)
    assert order.holds and choice.holds and size.holds is None
    bad = [list(reversed(row)) for row in good]
    order, choice, _ = claim_estimates("x", found(bad), "model/return", judge=True)
    assert order.holds is False and choice.holds is False
    unsure = [good[0], bad[0], good[0]]
    assert claim_estimates("x", found(unsure), "fqe/value", judge=True)[0].holds is False
    assert all(
        claim.holds is None for claim in claim_estimates("x", found(bad), "fqe/value", judge=False)
    )


def test_the_picture_has_a_panel_for_every_method():
    axes = plot({"x": found([[0.0, 1.0, 2.0, 3.0]])}).axes
    assert [ax.get_title().split("\n")[0] for ax in axes] == [
        f"x: {text}" for text in METHODS.values()
    ]


def test_fits_are_bet_on_by_their_regret():
    right, wrong = [0.0, 1.0, 2.0, 4.0], [4.0, 2.0, 1.0, 0.0]
    # A blind choice costs 0.5625, so the gain is that or -0.4375, the worst, which takes 0.8.
    gain = 1 + 0.8 * 0.5625 / 0.4375
    capitals = choice.bets(found([right, wrong]), "model/value")
    assert capitals.better == pytest.approx([gain, 0.2 * gain])
    for table, verdict in (([right, wrong], None), ([right] * 6, True), ([wrong] * 9, False)):
        assert choice.claim(found(table), "model/value", judge=True).holds is verdict
        assert choice.claim(found(table), "model/value", judge=False).holds is None
    undecided = choice.claim(found([right, wrong]), "model/value", judge=True).measured
    assert "would" not in undecided and "might" not in undecided  # which another run decides
    assert len(choice.plot(found([right])).axes) == 2
