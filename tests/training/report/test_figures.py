"""Pictures of a report: names of curves where no curve runs."""

import matplotlib.pyplot as plt
import pytest

from reverie.training.report.figures import explain


@pytest.mark.parametrize("name", ["a", "one method " * 5, "endless " * 90])
def test_names_stand_below_the_curves_and_inside_of_the_picture(name):
    figure, both = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for axes in both:
        for index in range(5):
            axes.plot([0, 1], [index, index], label=f"{name} {index}")
        axes.set_xlabel("steps")
    explain(both)
    figure.canvas.draw()
    for axes in both:
        legend, inside = axes.get_legend().get_window_extent(), axes.get_window_extent()
        assert legend.y1 < axes.xaxis.label.get_window_extent().y0 < inside.y0
        assert legend.y0 >= 0 and legend.x0 >= 0 and legend.x1 <= figure.bbox.x1
    plt.close(figure)
