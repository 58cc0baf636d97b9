"""The page of results is what the files say, and nothing else."""

import json

import pytest

from reverie.benchmarks.results_page import COMMAND, PAGE, RESULTS, page

CLAIM = {
    "text": "a | b",
    "expected": "more",
    "measured": "less",
    "holds": False,
    "source": "ours",
}
FOUND = {
    "date": "2026-01-01",
    "quick": False,
    "hardware": {"gpu": None, "cpu": "X", "threads": 2, "versions": {"torch": "2"}},
    "seconds": 120.0,
    "claims": [CLAIM],
}


def test_the_committed_page_is_what_the_command_writes():
    assert PAGE.read_text() == page(RESULTS), f"{PAGE.name} is out of date; run {COMMAND}"


def test_failed_claims_stand_on_the_page_and_quick_runs_do_not(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(FOUND))
    (tmp_path / "y-quick.json").write_text(json.dumps({**FOUND, "quick": True}))
    (tmp_path / "x-plot.png").touch()
    text = page(tmp_path)
    assert "| [x](#x) |  |  | 0 | 1 | 0 | 2 |" in text
    assert "| a \\| b [ours] | more | less | **no** |" in text
    assert "2026-01-01, on X, 2 threads, 2 minutes; torch 2." in text
    assert "![x-plot](../benchmarks/results/x-plot.png)" in text and "y-quick" not in text


@pytest.mark.parametrize(("content", "message"), [("{", "damaged"), ("[1]", "neither claims")])
def test_files_that_cannot_be_shown_are_named(tmp_path, content, message):
    (tmp_path / "odd.json").write_text(content)
    with pytest.raises(ValueError, match=f"odd.json .*{message}"):
        page(tmp_path)
