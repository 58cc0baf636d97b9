"""Measures of chaotic free runs: what they must be where the answer is known."""

import numpy as np
import pytest

from reverie.benchmarks.claims.second_ring import chaos


def test_the_exponent_of_lorenz_is_that_of_textbooks():
    assert chaos.lyapunov_exponent(chaos.SYSTEMS["Lorenz"]) == pytest.approx(0.906, abs=0.02)


def test_records_follow_the_flow_under_the_drive_that_they_record():
    data = chaos.record(chaos.SYSTEMS["Duffing"], 3, 50, seed=0)
    rows, h = data.transitions, chaos.SYSTEMS["Duffing"].dt
    assert len(data) == 150 and not rows.terminated.any() and data.truncated.sum() == 3
    assert rows.action.abs().max() <= 0.5 and rows.action.std() > 0.2
    obs, action = rows.obs.double().numpy(), rows.action.double().numpy()
    for _ in range(1000):  # Euler's rule in tiny steps
        x, v = obs.T
        obs = obs + h / 1000 * np.stack([v, x - x**3 - 0.3 * v + action[:, 0]], -1)
    np.testing.assert_allclose(rows.next_obs.numpy(), obs, atol=2e-3)


def test_distances_tell_another_orbit_from_the_same_one():
    data = chaos.record(chaos.SYSTEMS["Lorenz"], 4, 300, seed=0)
    again = chaos.record(chaos.SYSTEMS["Lorenz"], 4, 300, seed=1)
    same, close = chaos.distances(data, data, 10), chaos.distances(data, again, 10)
    assert same == pytest.approx({"D_stsp": 0.0, "D_H": 0.0}, abs=1e-6)
    states = data.transitions.next_obs.double().numpy().reshape(4, 300, 3)
    stuck = np.broadcast_to(states[:, :1], states.shape)
    for name, measure in (
        ("D_stsp", lambda a, b: chaos.occupancy_divergence(a.reshape(-1, 3), b.reshape(-1, 3))),
        ("D_H", chaos.spectral_distance),
    ):
        assert measure(states, stuck) > 2 * close[name] > 0
        assert np.isfinite(measure(states, np.full_like(states, np.nan)))
