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

from reverie.benchmarks.claims.judging import plain
from reverie.benchmarks.claims.report import AFTER, RESULTS
from reverie.benchmarks.papers import HEADLINES, answer, spent
from reverie.benchmarks.speed.quantities import REFERENCE
from reverie.mistake import Mistake
from reverie.training.files import write_text
from reverie.training.launch.mistakes import one_line_errors
from reverie.training.report.page import Folded, Markup, Section, Table, Text, as_markdown

PAGE = Path(__file__).parent.parent / "docs" / "results.md"
COMMAND = "python -m benchmarks.results_page"
NO_BREAK = "\N{NO-BREAK SPACE}"
SUBJECTS = {
    "leaderboard": "every offline preset on the suite",
    "suite": "the datasets of the suite: are they graded as their names say?",
    "baselines": "26 offline methods at one small budget, two datasets",
    "laptop_budget_paper_rates": "the same before that budget had rates of its own",
    "laptop_budget": "presets as shipped at the laptop budget",
    "laptop_swing_up": "MOPO against ReBRAC on the swing-up, new seeds",
    "laptop_diagnosis": "MOPO at a small budget, one setting at a time",
    "edge_of_reach": "RAVL: values where rollouts leave the data",
    "h2o_seeds": "H2O on HalfCheetah, eight new seeds",
    "h2o": "H2O: recorded data and a wrong simulator together",
    "history": "histories for a pendulum without its velocity",
    "lipschitz": "one model with smooth values in the place of an ensemble",
    "morec": "MOREC: a learned reward chooses among next states",
    "off_policy_evaluation": "ranking policies without acting",
    "policy_choice": "does the policy that looks best beat a blind choice?",
    "student_size": "how few terms a distilled policy needs",
    "own_data": "a log without a simulator: is the verdict right?",
    "planning": "plans in world models beside policies",
    "policy_guided_diffusion": "trajectories sampled towards the policy",
    "sindy_rl": "SINDy-RL: equations of dynamics and policies",
    "long_rollouts": "NEUBAY's parts one by one beside MOPO and RAVL",
    "forecasting": "forced, recurrent and any-step models ahead, clean and noisy",
    "second_ring-almost_linear": "kinks that a chaotic attractor needs",
    "second_ring-analytic_gradient": "policy gradients through a model",
    "second_ring-boundary_noise": "the best of several start noises",
    "second_ring-catalogue": "twelve chaotic systems, ten models",
    "second_ring-demonstrations": "RL near a clone of demonstrations",
    "second_ring-fokker_planck": "ODE and SDE samples that agree",
    "second_ring-missing_actions": "SS-ORL: logs that lack actions",
    "second_ring-neural_ode": "rows that are unequally far apart",
    "second_ring-stopping": "what stops an ensemble: one step or many",
    "second_ring-patience": "how long an ensemble waits on small data",
    "speed-since": "updates per second of whole runs, beside an earlier checkout",
    "data_scale": "reading and checking 1 to 10 million rows",
    "samplers": "diffusion samplers: fewer network calls",
    "gpu_codegen": "updates and rollouts as code for a GPU, none at hand",
}
"""What a benchmark is about, by how its file begins."""


PAPERS = (
    "What a paper claims, what was measured here, and whether it agrees: *holds* where every line "
    "on which the claim hangs holds, *partly* where some do. A line fails by its own rule, which "
    "the benchmark states; open ones only inform, or their intervals do not decide. Tasks are "
    "small and budgets far below the papers'; ± is half of a 95 % interval over seeds, brackets "
    "hold exact ones, and scores have the scale of their benchmark. A verdict leads there. Methods "
    "that are missing here were not tested by a benchmark of their paper's main claim."
)
BENCHMARKS = (
    "A line is a command, *holds* and *fails* count its claims, *open* those that only inform or "
    "were undecided. NAME is run by `python -m benchmarks.claims.NAME`, with `--quick` in under "
    "five minutes; suite and leaderboard as [their page](benchmarks.md) says; second_ring-X by "
    "`python -m benchmarks.claims.second_ring X`, laptop_diagnosis by `python -m "
    "benchmarks.claims.laptop_budget.diagnosis`, laptop_swing_up by `...swing_up`, "
    "laptop_budget_paper_rates by laptop_budget as it "
    "was until that budget had rates of its own (no command gives it now), policy_choice, "
    "student_size and h2o_seeds by `python -m benchmarks.claims.off_policy_evaluation.choice`, "
    "`sindy_rl.size` and `h2o.seeds`, "
    "data_scale, "
    "speed-since and samplers by `python -m benchmarks.speed.data_scale`, `...since CHECKOUT` "
    f"and `python -m benchmarks.speed sampler`. This page is written by `{COMMAND}` from the "
    "files in `benchmarks/results/`; do not edit it. Below, a claim marked [ours] goes beyond its "
    f"paper, and whatever was changed *{AFTER}* says so."
)


def page(results: Path) -> str:
    """The page of all results in a folder, in the order of their names.

    Quick runs, and those of a part, are looks, not evidence, and are left out.

    Raises:
        Mistake: a file is damaged, or of a kind this page cannot show.
    """
    recorded = {path: read(path) for path in sorted(results.glob("*.json"))}
    shown = {
        path: found
        for path, found in recorded.items()
        if not (found["quick"] or found.get("partial"))
    }
    sections = [
        Section("Papers", [Text(Markup(PAPERS)), papers(shown)]),
        Section("Benchmarks", [Text(Markup(BENCHMARKS)), benchmarks(shown)]),
    ]
    return as_markdown("Results", sections + [section(*each) for each in shown.items()])


def papers(shown: Mapping[Path, Mapping[str, Any]]) -> Table:
    """The headlines whose files are there."""
    by_name = {path.stem: found for path, found in shown.items()}
    rows = []
    for each in HEADLINES:
        if found := by_name.get(each.benchmark):
            told = answer(each, found)
            rows.append(
                [
                    Markup(f"{each.method}, [{each.paper}](https://arxiv.org/abs/{each.paper})"),
                    each.claim,
                    Markup(plain(told.ours).replace(" ± ", f"{NO_BREAK}±{NO_BREAK}")),
                    Markup(f"[{told}](#{each.benchmark})"),
                    spent(each, found),
                ]
            )
    return Table(["paper", "claim", "ours", "verdict", "budget"], rows)


def benchmarks(shown: Mapping[Path, Mapping[str, Any]]) -> Table:
    """A line for each file that holds claims."""
    return Table(
        ["benchmark", "about", "holds", "fails", "open", "minutes"],
        [summarise(path, found) for path, found in shown.items() if "claims" in found],
    )


def summarise(path: Path, found: Mapping[str, Any]) -> list[str]:
    """The line of a benchmark."""
    known = (own for start, own in SUBJECTS.items() if path.stem.startswith(start))
    about = next(known, found.get("title", ""))
    verdicts = [claim["holds"] for claim in found["claims"]]
    counts = [str(sum(each is kind for each in verdicts)) for kind in (True, False, None)]
    minutes = f"{found['seconds'] / 60:.0f}" if "seconds" in found else "-"
    return [Markup(f"[{path.stem}](#{path.stem})"), about, *counts, minutes]


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
    shown = Section(path.stem, [Text(Markup(origin))])
    pictures = sorted(path.parent.glob(f"{path.stem}[-.]*png"))
    for picture in (each for each in pictures if not each.stem.endswith(("-quick", "-part"))):
        link = Markup(f"![{picture.stem}](../benchmarks/results/{picture.name})")
        shown.blocks.append(Text(link))
    if "claims" in found:
        lines = claims(found["claims"])
        counted = f"{len(lines.rows)} line{'s' if len(lines.rows) > 1 else ''}"
        shown.blocks.append(Folded(f"Claims: {counted}", [lines]))
    else:
        shown.blocks.append(speeds(found["results"]))
    for own in found.get("tables", []):
        table = Table([*map(plain, own["header"])], [[*map(plain, row)] for row in own["rows"]])
        shown.blocks.append(
            Folded(own["caption"].partition(". ")[0], [Text(own["caption"]), table])
        )
    return shown


def claims(found: list[Mapping[str, Any]]) -> Table:
    """What a paper says beside what was seen."""
    verdicts = {True: "yes", False: Markup("**no**"), None: "-"}
    rows = [
        [
            claim["text"] + ("" if claim["source"] == "paper" else f" [{claim['source']}]"),
            plain(claim["expected"]),
            plain(claim["measured"]),
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
