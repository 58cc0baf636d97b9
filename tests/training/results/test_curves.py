import pytest

from reverie.training.logging import Log, NoTracker
from reverie.training.results.curves import plot_curves

SUMMARY = {"name": "bc", "dataset": {"name": "toy"}}


@pytest.mark.parametrize(("metric", "drawn"), [("actor_loss", True), ("something", False)])
def test_curves_of_an_agent_that_has_neither_critics_nor_scores(tmp_path, metric, drawn):
    log = Log(tmp_path / "m.csv", NoTracker(), 2)
    log.begin()
    log.write(10, {metric: [1.0, 2.0]})
    log.write(20, {metric: [0.5, 1.0]})
    plot_curves(tmp_path / "m.csv", tmp_path / "curves.png", SUMMARY)
    assert (tmp_path / "curves.png").is_file() == drawn
