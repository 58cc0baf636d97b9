"""Is the swing-up's distilled cubic 100 times smaller than its network? The line that fails by 94.

`sindy_rl` counts 50, 50, 50 and 49 terms against 4,674 parameters. The plan of this run, written
before it:

- Why it failed: not for want of seeds. A cubic of five columns, two of them an angle's cosine and
  sine, has 50 terms that differ; the fit with the smallest error is chosen, or a sparser one whose
  error is at most 5 % larger, and nothing sparser is. 46 terms would be 100 times fewer numbers.
- Variance, from the recorded file: a mean of 49.75 terms with a deviation of 0.5, so 3 terms too
  many are six deviations: six seeds decide. Students returned 1, 4, 14 and 24 more than their
  teachers (deviation 10), 3 deviations above the margin of -20.
- Seeds: six new teachers, trained by Dyna as in `sindy_rl` but on random steps and agents of a seed
  that nothing was tuned on; about 6 core-minutes.
- Rule: the exact interval of `sequential` after six seeds, error 5 % of each line (3.1 % attained).
- Beside it one question that was not asked before: what remains of the return if coefficients below
  0.1 are never kept (thresholds 0.1 and 0.3, degree 3). As good means at most 20 below the teacher,
  the margin of `sindy_rl`.
- The threshold of 100, the paper's "orders of magnitude", stood in the first version of `sindy_rl`,
  before its first recorded result, and stays.

What came of it: the plan was wrong about the spread. New seeds gave 44 to 50 terms, a mean of 47.7
and a deviation of 2.1, four times the recorded one: 98 times smaller, undecided. Five of the six
teachers return 109 to 118, below the goal of 150, the recorded ones 136 to 157. Without small
coefficients 12 to 26 terms are left, 289 times smaller. Whether either kind is as good as its
teacher is undecided. By differences and deviations of this run, 52 seeds, 48 core-minutes, would
decide the size with probability 0.9, and 12 seeds the return. The recorded lines say so; of another
run's seeds it would not be true, so its lines leave it out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from matplotlib.figure import Figure

from reverie.benchmarks.claims.report import Claim, Findings, run_command
from reverie.benchmarks.claims.sequential import Decision, Plan
from reverie.benchmarks.claims.sindy_rl import controllers, dyna
from reverie.benchmarks.claims.sindy_rl.__main__ import DISTILLED, SMALLER
from reverie.benchmarks.claims.sindy_rl.dyna import SINDY, SWING_UP

NAME = "student_size"
TITLE = "SINDy-RL, arXiv:2403.09110: size of the swing-up's distilled policies, new seeds"
SEEDS, SEED = 6, 7_100
PLAN = Plan((SEEDS,), error=0.05)
SELECTED, SPARSE = "as selected", "no coefficient below 0.1"
KINDS: dict[str, dict[str, Any]] = {
    SELECTED: {},
    SPARSE: {"degrees": [3], "thresholds": [0.1, 0.3]},
}


def measure(quick: bool) -> Findings:
    """Train the teachers, then fit both kinds of students to the same ones."""
    torch.set_num_threads(1)
    task = replace(SWING_UP, budget=replace(SWING_UP.budget, seeds=2 if quick else SEEDS))
    if quick:
        task = dyna.shorten(task)
    data = dyna.load(task, SEED)
    run = dyna.run("swing-up", task, SINDY, data, seed=SEED)
    found = {
        kind: controllers.distil(run.agent, data.spec, quick, **changes)
        for kind, changes in KINDS.items()
    }
    return Findings(
        claims(found, judged=not quick),
        {"seed": SEED, "plan": vars(PLAN), "kinds": KINDS, "students": found},
        {NAME: plot(found)},
    )


def claims(found: Mapping[str, Mapping[str, Any]], judged: bool) -> list[Claim]:
    """Size and return of either kind."""
    return [
        line
        for kind, students in found.items()
        for line in (size_claim(kind, students, judged), return_claim(kind, students, judged))
    ]


def size_claim(kind: str, students: Mapping[str, Any], judged: bool) -> Claim:
    """Terms against parameters."""
    terms, parameters = students["terms"], students["parameters"]
    most = parameters / SMALLER
    decision = decide([most - own for own in terms])
    return Claim(
        f"swing-up, {kind}: the distilled cubic is {SMALLER:g} times smaller than its network",
        f"at most {most:.4g} terms, exact interval of the mean",
        f"{', '.join(map(str, terms))} terms for {parameters} parameters: "
        f"{parameters * len(terms) / sum(terms):.0f} times; below the limit by "
        f"{described(decision)}",
        decision.better if judged else None,
        "paper" if kind == SELECTED else "ours",
    )


def return_claim(kind: str, students: Mapping[str, Any], judged: bool) -> Claim:
    """Whether it is as good as its teacher."""
    gains = [own - his for own, his in zip(students["student"], students["teacher"], strict=True)]
    decision = decide([gain + DISTILLED for gain in gains])
    return Claim(
        f"swing-up, {kind}: the distilled cubic is as good as its teacher",
        f"at most {DISTILLED:g} below its return, exact interval",
        f"{', '.join(f'{each:.0f}' for each in students['student'])} against "
        f"{', '.join(f'{each:.0f}' for each in students['teacher'])}; above the margin by "
        f"{described(decision)}",
        decision.better if judged else None,
        "paper" if kind == SELECTED else "ours",
    )


def decide(differences: Sequence[float]) -> Decision:
    """By the plan."""
    return PLAN.decide(differences)


def described(decision: Decision) -> str:
    """`1.2 [0.5, 2]`, without a verdict, which the line has."""
    if not decision.seeds:
        return "too few seeds to say"
    return f"{decision.mean:.3g} [{decision.low:.3g}, {decision.high:.3g}]"


def plot(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Return over terms, a point a student, and the teachers' returns."""
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    ax = figure.subplots()
    for kind, students in found.items():
        ax.plot(students["terms"], students["student"], "o", label=kind)
    students = found[SELECTED]
    for own in students["teacher"]:
        ax.axhline(own, color="0.8", lw=1, zorder=0)
    limit = students["parameters"] / SMALLER
    ax.axvline(limit, color="0.4", ls="--", label=f"{SMALLER:g} times fewer numbers")
    ax.set(xlabel="terms", ylabel="return (lines: teachers)", title="swing-up")
    ax.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    run_command(NAME, TITLE, __doc__, measure)
