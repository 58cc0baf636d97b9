"""The page of results is what the files say, and nothing else."""

import json
import re
from dataclasses import replace
from functools import cache

import pytest

from reverie.benchmarks.papers import HEADLINES, Headline, answer, spent, status
from reverie.benchmarks.results_page import COMMAND, PAGE, RESULTS, page, read

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
    assert "| [x](#x) |  | 0 | 1 | 0 | 2 |" in text
    assert "<summary>Claims: 1 line</summary>" in text
    assert "| a \\| b [ours] | more | less | **no** |" in text
    assert "2026-01-01, on X, 2 threads, 2 minutes; torch 2." in text
    assert "![x-plot](../benchmarks/results/x-plot.png)" in text and "y-quick" not in text


@pytest.mark.parametrize(("content", "message"), [("{", "damaged"), ("[1]", "neither claims")])
def test_files_that_cannot_be_shown_are_named(tmp_path, content, message):
    (tmp_path / "odd.json").write_text(content)
    with pytest.raises(ValueError, match=f"odd.json .*{message}"):
        page(tmp_path)


HEADLINE = Headline(
    "M", "1", "It is so.", "x", ("first", "second"), r"(\S+) ±", r"return \1", "{own[seeds]} seeds"
)


def lines(*verdicts, source="paper"):
    """A file with the two lines of `HEADLINE`, judged so."""
    return {
        "own": {"seeds": 4},
        "claims": [
            {"text": f"{name} line", "measured": "3.2 ± 1", "holds": holds, "source": source}
            for name, holds in zip(("first", "second"), verdicts, strict=True)
        ],
    }


@pytest.mark.parametrize(
    ("verdicts", "told"),
    [
        ((True, True), "holds"),
        ((True, False), "partly: 1 holds, 1 fails"),
        ((None, True), "partly: 1 holds, 1 open"),
        ((None, None), "not shown: 2 open"),
        ((False, None), "not shown: 1 fails, 1 open"),
    ],
)
def test_a_headline_holds_where_all_of_its_lines_do(verdicts, told):
    found = lines(*verdicts)
    assert str(answer(HEADLINE, found)) == told
    assert answer(HEADLINE, found).ours == "return 3.2"
    assert spent(HEADLINE, found) == "4 seeds"


def test_what_was_changed_after_a_result_stands_beside_the_verdict():
    found = lines(True, True, source="paper, seeds added after a first result")
    assert str(answer(HEADLINE, found)) == "holds; seeds added after a first result"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lines": ("third",)}, "no line begins with 'third'"),
        ({"number": "x"}, "no 'x' in '3.2 ± 1 . 3.2 ± 1'"),
        ({"budget": "{seeds}"}, "'seeds' of '{seeds}' is not in the file"),
    ],
)
def test_headlines_that_the_file_does_not_answer_are_named(change, message):
    with pytest.raises(ValueError, match=f"x: {message}.* headline of M"):
        headline = replace(HEADLINE, **change)
        answer(headline, lines(True, True))
        spent(headline, lines(True, True))


def test_what_no_paper_judges_says_so():
    found = lines(True, False, source="ours")
    assert str(answer(HEADLINE, found)) == "partly: 1 holds, 1 fails; thresholds are ours"


@pytest.mark.parametrize(
    ("verdicts", "word"),
    [
        (("holds", "not shown"), "shown"),
        (("partly", "holds"), "partly"),
        (("not shown", "partly"), "partly"),
        (("not shown", "not shown"), "no gain"),
    ],
)
def test_a_methods_word_is_that_of_its_main_claim(verdicts, word):
    assert status(verdicts) == word


def test_the_readme_says_of_each_method_what_its_headlines_say():
    """And `built`, or `partly` by its own page, where there is none."""
    readme = (PAGE.parent.parent / "README.md").read_text()
    rows = re.findall(r"^(\| \[.+) \| (shown|partly|no gain|built) \|$", readme, re.MULTILINE)
    assert len(rows) > 25
    told = {}
    for row, said in rows:
        for paper in re.findall(r"arxiv\.org/abs/(\d{4}\.\d{5})", row):
            if own := [verdict_of(each) for each in HEADLINES if each.paper == paper]:
                told[row] = said, status(own)
                break
    assert len(told) >= 20
    assert {row: pair for row, pair in told.items() if pair[0] != pair[1]} == {}
    others = {row.partition("]")[0][3:]: said for row, said in rows if row not in told}
    assert {name for name, said in others.items() if said != "built"} == {"ADMPO"}


def test_every_headline_is_answered_by_a_recorded_file():
    assert all(map(verdict_of, HEADLINES))


@cache
def verdict_of(headline):
    """What the recorded file says."""
    recorded = read(RESULTS / f"{headline.benchmark}.json")
    assert not recorded["quick"] and spent(headline, recorded)
    return answer(headline, recorded).verdict
