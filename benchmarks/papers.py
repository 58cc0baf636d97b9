"""What papers claim, in a sentence each, and which recorded lines answer.

A headline names the lines of one file of results on which it hangs. Its number is read from there
and never typed.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reverie.benchmarks.claims.report import AFTER
from reverie.mistake import Mistake

PAPERS = Path(__file__).with_suffix(".toml")
VERDICTS = ("holds", "partly", "not shown")


@dataclass(frozen=True)
class Headline:
    """A claim of a paper.

    Attributes:
        method: its usual name.
        paper: its arXiv id.
        claim: in a sentence.
        benchmark: the file of results that answers, without its ending.
        lines: how the text of each line begins on which the verdict hangs; the first that begins so
            counts.
        number: a pattern in what was measured of these lines, joined by ` | `.
        ours: what is shown of it; `\\1` is the pattern's group.
        budget: what was spent; fields in braces are looked up in the file.
    """

    method: str
    paper: str
    claim: str
    benchmark: str
    lines: Sequence[str]
    number: str
    ours: str
    budget: str


@dataclass(frozen=True)
class Answer:
    """What the files say of a headline.

    Attributes:
        ours: its number, in words.
        verdict: one of `VERDICTS`: all of its lines hold, some do, or none.
        counts: of lines that hold, fail and are open.
        notes: on what was changed when results had been seen, and whose thresholds these are.
    """

    ours: str
    verdict: str
    counts: tuple[int, int, int]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        words = (("holds", "hold"), ("fails", "fail"), ("open", "open"))
        told = ", ".join(
            f"{count} {word[count > 1]}"
            for count, word in zip(self.counts, words, strict=True)
            if count
        )
        said = self.verdict if self.verdict == VERDICTS[0] else f"{self.verdict}: {told}"
        return "; ".join([said, *self.notes])


def answer(headline: Headline, found: Mapping[str, Any]) -> Answer:
    """What was measured, and what it says of the claim.

    Args:
        found: the file of results.

    Raises:
        Mistake: a line or the number is not in the file.
    """
    claims = [line_of(headline, found, start) for start in headline.lines]
    measured = " | ".join(claim["measured"] for claim in claims)
    match = re.search(headline.number, measured)
    if match is None:
        raise Mistake(
            f"{headline.benchmark}: no {headline.number!r} in {measured!r}; mend the headline of "
            f"{headline.method} in {PAPERS.name}"
        )
    verdicts = [claim["holds"] for claim in claims]
    counts = (verdicts.count(True), verdicts.count(False), verdicts.count(None))
    verdict = VERDICTS[0 if counts[0] == len(verdicts) else 1 if counts[0] else 2]
    sources = [claim["source"].partition(", ")[2] for claim in claims]
    notes = dict.fromkeys(note for note in sources if note.endswith(AFTER))
    if all(claim["source"].startswith("ours") for claim in claims):
        notes["thresholds are ours"] = None
    return Answer(match.expand(headline.ours), verdict, counts, tuple(notes))


def line_of(headline: Headline, found: Mapping[str, Any], start: str) -> Mapping[str, Any]:
    """The first line of the file whose text begins so.

    Raises:
        Mistake: there is none.
    """
    for claim in found["claims"]:
        if claim["text"].startswith(start):
            return claim
    raise Mistake(
        f"{headline.benchmark}: no line begins with {start!r}; mend the headline of "
        f"{headline.method} in {PAPERS.name}"
    )


def spent(headline: Headline, found: Mapping[str, Any]) -> str:
    """The budget in words.

    Raises:
        Mistake: a field is not in the file.
    """
    try:
        return headline.budget.format_map(found)
    except (KeyError, TypeError) as error:
        raise Mistake(
            f"{headline.benchmark}: {error} of {headline.budget!r} is not in the file; mend the "
            f"headline of {headline.method} in {PAPERS.name}"
        ) from error


def status(verdicts: Sequence[str]) -> str:
    """The README's word for a method, of the verdicts on its paper's claims, the main one first:
    `shown` where that holds, `no gain` where nothing does, else `partly`."""
    if verdicts[0] == VERDICTS[0]:
        return "shown"
    return "no gain" if set(verdicts) == {VERDICTS[2]} else "partly"


def read_headlines() -> tuple[Headline, ...]:
    """All of `papers.toml`."""
    rows = tomllib.loads(PAPERS.read_text(encoding="utf-8"))["headline"]
    return tuple(Headline(**row | {"lines": tuple(row["lines"])}) for row in rows)


HEADLINES = read_headlines()
