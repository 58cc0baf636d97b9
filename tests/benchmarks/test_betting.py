"""Bets on bounded numbers, by hand and by simulation."""

import numpy as np
import pytest

from reverie.benchmarks.claims.betting import bet, capital
from reverie.mistake import Mistake


def test_capital_by_hand():
    # Half is staked: the least gain, -0.5, halves it; +0.5 adds a half; nothing changes nothing.
    assert capital([0.5, -0.5, 0.0], [-0.5] * 3, 0.5) == pytest.approx([1.5, 0.75, 0.75])
    assert capital([1.0], [-0.25], 0.8) == pytest.approx([1 + 0.8 * 4])


def test_the_first_capital_that_is_enough_decides_and_either_side_can():
    up = bet([0.5] * 9, [-0.5] * 9, [0.5] * 9, share=0.8, error=0.05)
    assert up.enough == 40 and up.verdict is True  # 1.8^7 > 40
    assert bet([0.5] * 6, [-0.5] * 6, [0.5] * 6, 0.8, 0.05).verdict is None
    down = bet([-0.5] * 7, [-0.5] * 7, [0.5] * 7, 0.8, 0.05)
    assert down.verdict is False
    late = bet([0.5] * 7 + [-0.5] * 30, [-0.5] * 37, [0.5] * 37, 0.8, 0.05)
    assert late.verdict is True


def test_errors_keep_below_the_stated_one_where_symmetry_fails():
    """Mean zero, nine tenths of it a little above: what a test by signs takes for an effect."""
    rng = np.random.default_rng(0)
    gains = np.where(rng.random((2000, 40)) < 0.1, -0.9, 0.1)
    wrong = [bet(row, [-0.9] * 40, [0.1] * 40, 0.8, 0.05).verdict is not None for row in gains]
    assert np.mean(wrong) < 0.05


def test_what_cannot_be_is_refused():
    with pytest.raises(Mistake, match="must lie above"):
        capital([-0.6], [-0.5], 0.5)
    with pytest.raises(Mistake, match="share"):
        capital([0.1], [-0.5], 1.0)
