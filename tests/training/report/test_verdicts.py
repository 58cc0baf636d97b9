"""What the verdicts of runs look like on the page."""

import json
import re

import pytest
from markdown_it import MarkdownIt

from reverie.training.report.__main__ import report
from reverie.training.report.figures import Judged, Painter
from tests.training.report.conftest import EVIL, Checked


def judged(place, *, seeds=1, **changes):
    """Give a run a verdict whose estimates are 10 and 20, a seed 1 more each."""
    spans = [[10.0 + seed, 9.0 + seed, 11.0 + seed] for seed in range(seeds)]
    higher = [[20.0 + seed, 19.0 + seed, 21.0 + seed] for seed in range(seeds)]
    fitted = {"updates": 5, "diverged": False, "remaining": [0.0] * seeds}
    fitted |= {"converged": [True] * seeds, "value": spans, "difference": spans}
    model = {"value": higher, "difference": higher, "return": higher, "beyond": [0.0] * seeds}
    shares = {name: [0.0] * seeds for name in ("distance", "beyond")}
    verdict = {
        "discount": 0.95,
        "horizon": 7,
        "starts": 3,
        "seeds": seeds,
        "recorded": {"value": [-1.5, -2.0, -1.0], "return": [0.0] * 3, "continued": 0.0},
        "actions": {**shares, "recorded_beyond": 0.0},
        "outcome": [f"outcome {seed}" for seed in range(seeds)],
        "agreement": ["agree"] * seeds,
        "sentence": [f"sentence {seed}" for seed in range(seeds)],
        "fqe": fitted,
        "model": model,
    }
    summary = json.loads((place / "summary.json").read_text())
    (place / "summary.json").write_text(json.dumps(summary | {"verdict": verdict | changes}))
    return verdict


def verdict_rows(markdown):
    section = markdown.read_text().partition("## Verdicts")[2].partition("\n## ")[0]
    return [line.strip("| ").split(" | ") for line in section.splitlines() if " on " in line]


def test_verdicts_have_a_row_a_seed(write, tmp_path):
    judged(write(seeds=2), seeds=2)
    write(seed=1)  # without a verdict
    _, markdown, *_ = report([tmp_path / "runs"], tmp_path / "out")
    common = ["0.95", "-1.5 [-2, -1]"]
    assert [row[1:] for row in verdict_rows(markdown)] == [
        ["0, index 0", *common, "10 [9, 11]", "-", "20 [19, 21]", "outcome 0", "sentence 0"],
        ["0, index 1", *common, "11 [10, 12]", "-", "21 [20, 22]", "outcome 1", "sentence 1"],
    ]


def test_a_doubly_robust_estimate_is_shown_where_it_corrected_anything(write, tmp_path):
    place = write(seeds=2)
    spans = [[7.0, 6.0, 8.0]] * 2
    weighed = {"value": spans, "difference": spans, "steps": [2, 0], "effective": [30.0, 1.0]}
    judged(place, seeds=2, doubly_robust=weighed)
    _, markdown, *_ = report([tmp_path / "runs"], tmp_path / "out")
    assert [row[5] for row in verdict_rows(markdown)] == ["7 [6, 8]", "-"]


def test_estimates_that_are_missing_or_unfit_are_said(write, tmp_path):
    place = write()
    fitted = judged(place)["fqe"]
    judged(place, fqe={**fitted, "converged": [False]}, model=None)
    judged(write(seed=1, level=1.0), fqe={"updates": 5, "diverged": True})
    _, markdown, *_ = report([tmp_path / "runs"], tmp_path / "out")
    estimates = {row[1]: [row[4], row[6]] for row in verdict_rows(markdown)}
    assert estimates == {
        "0": ["10 [9, 11], not converged", "-"],
        "1": ["diverged", "20 [19, 21]"],
    }


def test_seeds_of_a_population_have_the_verdict_of_their_own(write, tmp_path):
    place = write(seeds=2, **{"filter.penalty": [0.5, 2.0]})
    judged(place, seeds=2)
    summary = json.loads((place / "summary.json").read_text())
    summary["population"] = {"filter.penalty": [0.5, 2.0]}
    (place / "summary.json").write_text(json.dumps(summary))
    _, markdown, *_ = report([tmp_path / "runs"], tmp_path / "out")
    found = {row[0]: row[-1] for row in verdict_rows(markdown)}
    assert len(found) == 2 and sorted(found.values()) == ["sentence 0", "sentence 1"]
    assert "penalty=2.0" in next(k for k, v in found.items() if v == "sentence 1")


def test_what_a_stranger_wrote_into_a_verdict_is_inert(write, tmp_path):
    judged(write(), outcome=[EVIL], sentence=[EVIL])
    html, markdown, *_ = report([tmp_path / "runs"], tmp_path / "out")
    page, text = Checked(html.read_text()), markdown.read_text()
    assert page.open == [] and "<script>alert" not in html.read_text()
    rendered = MarkdownIt("commonmark").enable("table").render(text)
    assert "alert(1)" in rendered and not re.search(r"<(img|script|em|code)|href=", rendered)
    assert "sentence" not in text.partition("## Verdicts")[0]


def test_without_a_verdict_there_is_no_section(write, tmp_path):
    write()
    html, *_ = report([tmp_path / "runs"], tmp_path / "out")
    assert "Verdicts" not in html.read_text()


def test_estimates_are_drawn_where_they_lie():
    judged = Judged("a", (-5.0, -6.0, -4.0), [("x", (1.0, 0.0, 2.0), True), ("y", None, False)])
    unfit = Judged("b$_{", (-5.0, -6.0, -4.0), [("x", None, False), ("y", (3.0, 2.0, 4.0), False)])
    painter, figures = Painter([]), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "reverie.training.report.figures._svg",
            lambda figure, panels: figures.append(panels) or b"",
        )
        painter.verdicts({"toy": [judged, unfit]})
    (axes,) = figures[0]
    points = [(*line.get_xydata()[0], line.get_markerfacecolor()) for line in axes.lines]
    assert points == [(1.0, 0.15, "C0"), (3.0, 0.85, "white")]
    whiskers = [each.get_paths()[0].vertices.tolist() for each in axes.collections]
    assert [[0.0, 0.15], [2.0, 0.15]] in whiskers and [[2.0, 0.85], [4.0, 0.85]] in whiskers
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b$_{"]
    assert painter.verdicts({"toy": [judged, unfit]}).startswith(b"<?xml")  # names are no formulas
