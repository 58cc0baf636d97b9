"""The race of simulator and loop counts transitions on both sides."""

from reverie.benchmarks.claims.edge_of_reach.true_dynamics_speed import ROUNDS, measure


def test_every_task_gets_a_line():
    lines = measure(["Pendulum-v1", "Hopper-v5"], rows=30, seconds=1e-3)
    assert [line["task"] for line in lines] == ["Pendulum-v1", "Hopper-v5"]
    for line in lines:
        middle, low, high = line["speedup"]
        assert 0 < low <= middle <= high and ROUNDS > 1
        assert line["rows"] == 30 and line["threads"] >= 1
        assert line["loop_per_second"] > 0 and line["batch_per_second"] > 0
