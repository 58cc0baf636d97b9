"""The verdict on the policies of a run as one table, 80 columns wide."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from reverie.text import counted
from reverie.training.ope.conclusions import corrected, name_run, sentences, tell_horizon

_WIDTHS = (25, 12, 22, 17)
_AGREE = {
    "agree": "they agree",
    "differ": "differ in size",
    "contradict": "they contradict",
    "one": "one estimate",
}


def print_verdict(verdict: Mapping[str, Any], console: Console, run_dir: Path) -> None:
    """The table, and its conclusion in a sentence below it, with commands for that run."""
    console.print(verdict_table(verdict))
    for sentence in sentences(verdict):
        sentence = name_run(sentence, run_dir)
        console.print(f"verdict: {sentence}", highlight=False, soft_wrap=True)


def verdict_table(verdict: Mapping[str, Any]) -> Table:
    """One row of values a method and seed, then what they rest on."""
    table = Table(
        title=f"values from {counted(verdict['starts'], 'recorded state')}, discounted by "
        f"{verdict['discount']:g}",
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name, width in zip(
        ("", "estimate", "95 % interval", "than recorded"), _WIDTHS, strict=True
    ):
        table.add_column(name, justify="right" if name else "left", width=width)
    recorded, several = verdict["recorded"], verdict["seeds"] > 1
    table.add_row("recorded behaviour", *_interval(recorded["value"]), "")
    for seed in range(verdict["seeds"]):
        before = f"{seed}: " if several else ""
        for method, label in (("fqe", "fitted Q evaluation"), ("model", "model rollouts")):
            measured = verdict[method]
            if measured is not None and not measured.get("diverged"):
                value, difference = measured["value"][seed], measured["difference"][seed]
                table.add_row(before + label, *_interval(value), _difference(difference))
            if method == "fqe" and corrected(verdict, seed):
                own = verdict["doubly_robust"]
                value, difference = own["value"][seed], own["difference"][seed]
                shown = (*_interval(value), _difference(difference))
                table.add_row(before + "doubly robust", *shown)
        own = (verdict["model"] or {}).get("recorded")
        if own is not None:  # older summaries lack it
            bias = f"{own['bias'][seed][0]:+z.4g} bias"
            table.add_row(before + "recorded, in model", *_interval(own["value"][seed]), bias)
    for label, *cells in _rests_on(verdict):
        table.add_row(label, *cells)
    return table


def _rests_on(verdict: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """How far the estimates can be trusted, over all seeds."""
    agreement = [_AGREE.get(each, each) for each in verdict["agreement"]]
    rows = [("the estimates", "", "", _common(agreement))]
    fitted, model, actions = verdict["fqe"], verdict["model"], verdict["actions"]
    if fitted is not None:
        words, left = ["diverged"], ""
        if not fitted["diverged"]:
            words = ["converged" if each else "not converged" for each in fitted["converged"]]
            left = _shares(fitted["remaining"])
        rows.append(
            ("FQE, left to move", left, counted(fitted["updates"], "update"), _common(words))
        )
    weighed = verdict.get("doubly_robust")  # older summaries lack it
    if weighed is not None:
        steps = _range(weighed["steps"], lambda each: f"{each}")
        worth = _range(weighed["effective"], lambda each: f"{each:.0f}")
        rows.append(
            (
                "recorded steps weighed",
                steps,
                f"worth {worth} {'start' if worth == '1' else 'starts'}",
                "",
            )
        )
    if model is not None:
        returns = _range([each[0] for each in model["return"]], _number)
        beside = f"recorded {_number(verdict['recorded']['return'][0])}"
        rows.append((f"return of {tell_horizon(verdict)}", returns, beside, ""))
        rows.append(("states beyond the data", _shares(model["beyond"]), "in the model", ""))
    usual = f"recorded {actions['recorded_beyond']:.0%}"
    rows.append(("actions off the recorded", _shares(actions["distance"]), "of the box", ""))
    rows.append(("actions not recorded near", _shares(actions["beyond"]), usual, ""))
    if verdict["recorded"]["continued"] >= 0.005:
        share = f"{verdict['recorded']['continued']:.0%}"
        rows.append(("beyond recorded ends", share, "of the recorded value", ""))
    return rows


def _interval(found: Sequence[float]) -> tuple[str, str]:
    estimate, low, high = (_number(each) for each in found)
    return estimate, f"{low} to {high}"


def _difference(found: Sequence[float]) -> str:
    estimate, low, high = found
    word = "better" if low > 0 else "worse" if high < 0 else "unclear"
    return f"{estimate:+z.4g} {word}"


def _number(value: float) -> str:
    return f"{value:z.4g}"


def _shares(values: Sequence[float | None]) -> str:
    known = [each for each in values if each is not None and math.isfinite(each)]
    return _range(known, lambda each: f"{each:z.0%}") if known else "unknown"


def _range(values: Sequence[float], tell: Any) -> str:
    low, high = tell(min(values)), tell(max(values))
    return low if low == high else f"{low} to {high}"


def _common(words: Sequence[str]) -> str:
    """The word of all seeds, or how many say each."""
    counts = {word: words.count(word) for word in dict.fromkeys(words)}
    if len(counts) == 1:
        return words[0]
    return ", ".join(f"{count} {word}" for word, count in counts.items())
