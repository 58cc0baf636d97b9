"""The benchmark of what stops an ensemble: who is compared with whom, and the rule."""

import torch

from reverie.benchmarks.claims.second_ring import patience, stopping
from tests.world_models.conftest import dataset


def fit(one, sixteen, seconds, **more):
    errors = {1: one, 16: sixteen, 32: sixteen}
    return {"errors": errors, "seconds": seconds, "rows": 10, "epochs": [1, 1], **more}


def test_no_fit_sees_what_measures_it_and_a_small_one_is_part_of_a_large_one():
    full = dataset(episodes=10, length=20)
    data, tests = stopping.split(full, 70)
    assert len(data) == 60 and len(tests) == 2
    whole, same = stopping.split(full, 10**6)
    assert torch.equal(tests, same) and len(whole) == 160
    held = full.transitions.obs.view(10, 20, 2)[tests].flatten(0, 1)
    seen = whole.transitions.obs
    assert not (seen.unsqueeze(1) == held).all(-1).any()
    assert all((seen == row).all(-1).any() for row in data.transitions.obs)


def test_the_rule_takes_medians_over_all_fits():
    runs = {
        "a/mpc/one_step": fit([1.0, 2.0], [4.0, 4.0], 10.0),
        "a/mpc/multi_step": fit([1.0, 3.0], [2.0, 3.0], 12.0, score=[1.0, 2.0]),
        "b/mpc/one_step": fit([1.0, 1.0], [1.0, 1.0], 10.0),
        "b/mpc/multi_step": fit([1.0, 1.0], [1.0, 0.8], 14.0),
    }
    assert stopping.ratios(runs) == {
        "error after 16 steps": [0.5, 0.75, 1.0, 0.8],
        "error after 1 step": [1.0, 1.5, 1.0, 1.0],
        "seconds of a fit": [1.2, 1.4],
    }
    found = stopping.judge(runs, quick=False)
    assert [claim.holds for claim in found.claims[:3]] == [True, True, False]
    assert [claim.holds for claim in found.claims[3:]] == [None] * 4
    assert "score of plans 1 and 2" in found.claims[4].measured
    assert all(claim.holds is None for claim in stopping.judge(runs, quick=True).claims)


def test_a_long_patience_is_compared_with_five_epochs():
    runs = {
        "a/0": fit([1.0, 2.0], [4.0, 4.0], 10.0),
        "a/1000": fit([1.0, 1.0], [2.0, 3.0], 12.0),
        "b/0": fit([1.0, 1.0], [1.0, 1.0], 10.0),
        "b/1000": fit([1.5, 1.3], [1.0, 0.8], 14.0),
    }
    sixteen, one, *told = patience.judge(runs, quick=False).claims
    assert sixteen.measured.startswith("0.775 (0.5, 0.75, 1, 0.8)") and sixteen.holds
    assert one.measured.startswith("1.15 (1, 0.5, 1.5, 1.3)") and not one.holds
    assert len(told) == 4 and all(claim.holds is None for claim in told)
    assert patience.judge(runs, quick=True).claims[0].holds is None
