"""The equations of the twelve chaotic systems against the package that lists them.

Skipped where the extra `dysts` is not installed: it asks for older versions of others than
constraints.txt pins, so it needs an environment of its own.
"""

import numpy as np
import pytest

from reverie.benchmarks.claims.second_ring.systems import POINTS, SYSTEMS

flows = pytest.importorskip("dysts.flows", reason="the extra dysts is not installed")


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_equations_period_and_start_are_those_of_dysts(name: str) -> None:
    ours, theirs = SYSTEMS[name].system, getattr(flows, name)()
    states = np.random.default_rng(0).normal(ours.start, 1.0, (64, 3))
    slopes = ours.flow(states, np.zeros((64, 0)))
    expected = np.array([theirs.rhs(state, 0.0) for state in states])
    np.testing.assert_allclose(slopes, expected, rtol=1e-9, atol=1e-9)
    assert ours.dt * POINTS == pytest.approx(theirs.period, rel=1e-3)
    np.testing.assert_allclose(ours.start, theirs.ic, rtol=1e-3, atol=1e-3)
