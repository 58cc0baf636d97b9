"""Pictures of a run's measurements."""

import pytest
from matplotlib.figure import Figure

from reverie.training.logging import Log, NoTracker
from reverie.training.results.curves import plot_curves, plot_values

SUMMARY = {"name": "bc", "dataset": {"name": "toy"}}


@pytest.mark.pictures
@pytest.mark.parametrize(("metric", "drawn"), [("actor_loss", True), ("something", False)])
def test_curves_of_an_agent_that_has_neither_critics_nor_scores(tmp_path, metric, drawn):
    log = Log(tmp_path / "m.csv", NoTracker(), 2)
    log.begin()
    log.write(10, {metric: [1.0, 2.0]})
    log.write(20, {metric: [0.5, 1.0]})
    plot_curves(tmp_path / "m.csv", tmp_path / "curves.png", SUMMARY)
    assert (tmp_path / "curves.png").is_file() == drawn


@pytest.mark.pictures
@pytest.mark.parametrize(("values", "scale"), [([-1.0, -5.0], "linear"), ([-1.0, 1e9], "symlog")])
def test_values_of_one_size_have_numbers_on_their_axis(tmp_path, monkeypatch, values, scale):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))
    )
    log = Log(tmp_path / "m.csv", NoTracker(), 1)
    log.begin()
    for update, value in enumerate(values):
        log.write(update, {"value": [value]})
    plot_values(tmp_path / "m.csv", tmp_path / "values.png", {**SUMMARY, "seeds": 1})
    (axes,) = figures[0].axes
    low, high = axes.get_ylim()
    assert axes.get_yscale() == scale
    assert sum(low <= tick <= high for tick in axes.get_yticks()) >= 3
    assert figures[0].get_suptitle() == "bc on toy, one seed"
