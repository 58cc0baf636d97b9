"""`docs/results.md` from what was measured: `python -m benchmarks.results_page`.

Reads every JSON file in `benchmarks/results/`; nobody types a number. `--check` writes nothing and
ends with status 1 where the page is not what the files say.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reverie.benchmarks.claims.report import RESULTS
from reverie.benchmarks.speed.quantities import REFERENCE
from reverie.mistake import Mistake
from reverie.training.files import write_text
from reverie.training.launch.mistakes import one_line_errors
from reverie.training.report.page import Markup, Section, Table, Text, as_markdown

PAGE = Path(__file__).parent.parent / "docs" / "results.md"
COMMAND = "python -m benchmarks.results_page"


def page(results: Path) -> str:
    """The page of all results in a folder, in the order of their names.

    Quick runs, and those of a part, are looks, not evidence, and are left out.

    Raises:
        Mistake: a file is damaged, or of a kind this page cannot show.
    """
    intro = (
        f"Written by `{COMMAND}` from the files in `benchmarks/results/`; do not edit it. A claim "
        "marked [ours] goes beyond its paper; where 'holds' is '-', the line only informs."
    )
    sections = [Section("How to read this", [Text(Markup(intro))])]
    for path in sorted(results.glob("*.json")):
        found = read(path)
        if not (found["quick"] or found.get("partial")):
            sections.append(section(path, found))
    return as_markdown("Results", sections)


def read(path: Path) -> dict[str, Any]:
    """One file of results.

    Raises:
        Mistake: it is damaged, or neither claims nor speeds.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Mistake(f"{path} is damaged ({error}); run its benchmark again") from error
    kinds = ("claims", "results")
    if not isinstance(found, dict) or "hardware" not in found or not any(k in found for k in kinds):
        raise Mistake(
            f"{path} holds neither claims nor speeds, so the page cannot show it; put it elsewhere"
        )
    return found


def section(path: Path, found: Mapping[str, Any]) -> Section:
    """Provenance, tables and pictures of one file."""
    hardware = found["hardware"]
    took = f", {found['seconds'] / 60:.0f} minutes" if "seconds" in found else ""
    origin = (
        f"[{path.name}](../benchmarks/results/{path.name}), {found['date']}, on "
        f"{hardware['gpu'] or hardware['cpu']}, {hardware['threads']} threads{took}; "
        f"torch {hardware['versions']['torch']}."
    )
    table = claims(found["claims"]) if "claims" in found else speeds(found["results"])
    shown = Section(path.stem, [Text(Markup(origin)), table])
    for own in found.get("tables", []):
        shown.blocks.extend([Text(own["caption"]), Table(own["header"], own["rows"])])
    pictures = sorted(path.parent.glob(f"{path.stem}[-.]*png"))
    for picture in (each for each in pictures if not each.stem.endswith(("-quick", "-part"))):
        link = Markup(f"![{picture.stem}](../benchmarks/results/{picture.name})")
        shown.blocks.append(Text(link))
    return shown


def claims(found: list[Mapping[str, Any]]) -> Table:
    """What a paper says beside what was seen."""
    verdicts = {True: "yes", False: Markup("**no**"), None: "-"}
    rows = [
        [
            claim["text"] + ("" if claim["source"] == "paper" else f" [{claim['source']}]"),
            claim["expected"],
            claim["measured"],
            verdicts[claim["holds"]],
        ]
        for claim in found
    ]
    return Table(["claim", "expected", "measured", "holds"], rows)


def speeds(found: list[Mapping[str, Any]]) -> Table:
    """Ours beside its baseline, in units a second: the plain reference, or ours as it is."""
    rows = []
    for result in found:
        baseline = result.get("baseline", REFERENCE)
        reference = result["contenders"][baseline]
        for name, ours in result["contenders"].items():
            if name != baseline:
                rows.append(
                    [
                        f"{result['quantity']} ({_pair(name, baseline)}), {result['unit']}",
                        f"{reference['rate']:,.0f}",
                        f"{ours['rate']:,.0f}",
                        f"{ours['ratio']:.2f} ({min(ours['ratios']):.2f} to "
                        f"{max(ours['ratios']):.2f})",
                        result["verdict"],
                    ]
                )
        if len(result["contenders"]) == 1:  # nothing to divide by
            shown = f"{result['quantity']} ({baseline}), {result['unit']}"
            rows.append([shown, "-", f"{reference['rate']:,.0f}", "-", result["verdict"]])
    return Table(["", "baseline", "ours", "median ratio (range)", "required"], rows)


def _pair(name: str, baseline: str) -> str:
    return name if baseline == REFERENCE else f"{name} against {baseline}"


def main() -> int:
    """Write the page, or say whether it is up to date; returns the exit status."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    text = page(RESULTS)
    if parser.parse_args().check:
        same = PAGE.is_file() and PAGE.read_text() == text
        print(f"{PAGE} is {'up to date' if same else f'out of date; run {COMMAND}'}")
        return 0 if same else 1
    write_text(PAGE, text)
    print(f"written: {PAGE}")
    return 0


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
