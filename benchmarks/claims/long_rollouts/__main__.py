"""Long rollouts in the place of conservatism: NEUBAY's parts beside MOPO and RAVL.

NEUBAY, arXiv:2512.04341, in its Markov form, four seeds each with a model of its own. Claims,
numbers and budgets were chosen before anything was run; only the pendulum's was raised since, for
all arms alike: in models that were fitted for 560 updates no arm stayed good, MOPO included. A
quick run judges nothing. Small: 20 members of three layers of 64, not 128 of four of 200.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reverie.benchmarks.claims.experiment import (
    History,
    describe_runs,
    prefix_names,
    run_all,
    split_by_task,
)
from reverie.benchmarks.claims.judging import Estimate, estimate, judge_order
from reverie.benchmarks.claims.long_rollouts import pendulum, plane
from reverie.benchmarks.claims.long_rollouts.pendulum import (
    BARE,
    MOPO,
    NEUBAY,
    RAVL,
    SHORT,
    STEPWISE,
    STRICT,
    UNCUT,
)
from reverie.benchmarks.claims.plane import CEILING, CONTROLLER_RETURN, start_states
from reverie.benchmarks.claims.report import AFTER, Claim, Findings, draw_range, run_command
from reverie.envs.specs import Reference

NAME = "long_rollouts"
TITLE = "Long rollouts, arXiv:2512.04341: median over 4 seeds (mean ± 95 % interval)"
MARGIN = 5.0
"""Points of score by which NEUBAY may be behind methods with pessimism."""
REACHED = 64.0
"""Steps that the median rollout comes to at least, the paper's 64 to 512."""
GOOD = 0.75
"""Share of the controller's return on the plane that counts as success."""
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "0.4", "k")

Numbers = Mapping[str, Estimate]


def measure(quick: bool) -> Findings:
    """Fit the ensembles, then train every arm of both tasks side by side."""
    data, starts = pendulum.load(quick), start_states(0)
    assert data.reference is not None
    fitted = run_all(pendulum.fits(data, quick))
    jobs = {
        **prefix_names("pendulum", pendulum.jobs(data, fitted, quick)),
        **prefix_names("plane", plane.jobs(starts, quick)),
    }
    runs = split_by_task(run_all(jobs))
    score = {arm: score_of(run, data.reference) for arm, run in runs["pendulum"].items()}
    reached = {
        arm: estimate(run.last("synthetic/reached_horizon"))
        for arm, run in runs["pendulum"].items()
        if arm in pendulum.ARMS
    }
    claims = [*pendulum_claims(score, reached), *plane_claims(runs["plane"])]
    if quick:
        claims = [replace(claim, holds=None) for claim in claims]
    details = {
        "datasets": {"pendulum": data.fingerprint, "plane": starts.fingerprint},
        "budgets": {
            "pendulum": vars(pendulum.budget_for(quick)),
            "plane": vars(plane.budget_for(quick)),
        },
        "models": {
            name: {"epochs": each.described["epochs"], "seconds": each.seconds}
            for name, each in fitted.items()
        },
        "scores": score,
        "reached": reached,
        "pendulum": describe_runs(runs["pendulum"]),
        "plane": describe_runs(runs["plane"]),
    }
    return Findings(claims, details, {NAME: plot(runs, data.reference)})


def score_of(run: History, reference: Reference) -> Estimate:
    """Of each seed's last three evaluations."""
    return estimate([reference.normalise(value) for value in run.mean_of_last("return")])


def median(found: Estimate) -> float:
    """Over seeds."""
    return float(np.median(found.values))


def told(found: Estimate) -> str:
    """As the table shows it."""
    return f"{median(found):.3g} ({found})"


def pendulum_claims(score: Numbers, reached: Numbers) -> list[Claim]:
    """What is said of NEUBAY on the pendulum, and of what it is without each of its parts."""

    def beside(other: str) -> Claim:
        return Claim(
            f"pendulum: NEUBAY, no penalty, against {other.upper()}",
            f"median score no more than {MARGIN:g} below",
            f"{told(score[NEUBAY])} against {told(score[other])}",
            median(score[NEUBAY]) >= median(score[other]) - MARGIN,
            f"ours, budget raised {AFTER}",
        )

    def without(part: str, arm: str, source: str) -> Claim:
        return Claim(
            f"pendulum, {part}",
            "scores lower, intervals apart",
            f"{told(score[arm])} against {told(score[NEUBAY])}",
            judge_order(score[arm], score[NEUBAY]),
            source,
        )

    return [
        beside(MOPO),
        beside(RAVL),
        Claim(
            "pendulum, NEUBAY: rollouts go far before they are cut",
            f"median horizon of {REACHED:g} steps or more, of 200",
            told(reached[NEUBAY]),
            median(reached[NEUBAY]) >= REACHED,
        ),
        without(
            "a cut at the median of the data's uncertainty instead of its maximum", STRICT, "paper"
        ),
        without("no cut at all", UNCUT, "paper"),
        without("members without layer normalisation", BARE, "paper"),
        without("another member at every step", STEPWISE, "ours"),
        without("rollouts of 5 steps", SHORT, "paper"),
        _ours(
            "pendulum: steps that the median rollout comes to",
            "the line informs",
            ", ".join(f"{arm} {median(found):.3g}" for arm, found in reached.items()),
            None,
        ),
    ]


def plane_claims(runs: Mapping[str, History]) -> list[Claim]:
    """Whether long horizons replace pessimism where the model is exact."""
    updates = plane.BUDGET.updates
    known = {
        metric: {arm: estimate(own) for arm, own in plane.recorded(metric, updates).items()}
        for metric in ("value", "return")
    }
    value = {arm: estimate(run.last("value")) for arm, run in runs.items()} | known["value"]
    returns = {arm: estimate(run.last("return")) for arm, run in runs.items()} | known["return"]
    good = GOOD * CONTROLLER_RETURN

    def succeeds(arm: str) -> list[Claim]:
        return [
            _ours(
                f"plane, {arm}: the policy succeeds without pessimism",
                f"median return above {GOOD:g} times the controller's {CONTROLLER_RETURN:g}",
                told(returns[arm]),
                median(returns[arm]) > good,
            ),
            _ours(
                f"plane, {arm}: values stay attainable",
                f"median of mean Q below {CEILING:g}",
                told(value[arm]),
                median(value[arm]) < CEILING,
            ),
        ]

    def informs(arm: str) -> Claim:
        return _ours(
            f"plane, {arm}, as recorded by edge_of_reach after {updates:,} updates",
            "the line informs",
            f"return {told(returns[arm])}, mean Q {told(value[arm])}",
            None,
        )

    return [*succeeds(plane.LONG), *succeeds(plane.NEUBAY), *map(informs, plane.RECORDED)]


def _ours(text: str, expected: str, measured: str, holds: bool | None) -> Claim:
    return Claim(text, expected, measured, holds, "ours")


def plot(runs: Mapping[str, Mapping[str, History]], reference: Reference) -> Figure:
    """Scores and reached horizons on the pendulum; values and returns on the plane."""
    figure = Figure(figsize=(13, 9), layout="constrained")
    axes = figure.subplots(2, 2)
    arms = dict(zip(runs["pendulum"], COLOURS, strict=True))
    for arm, colour in arms.items():
        updates, returns = runs["pendulum"][arm].series["return"]
        axes[0, 0].plot(
            updates, reference.normalise(np.median(returns, 0)), color=colour, label=arm
        )
    axes[0, 0].set_ylabel("pendulum: score, median over seeds")
    for arm in pendulum.ARMS:
        _draw(axes[0, 1], runs["pendulum"][arm], "synthetic/reached_horizon", arm, arms[arm])
    axes[0, 1].set(ylabel="pendulum: median horizon reached", yscale="log")
    for arm, colour in zip(runs["plane"], COLOURS, strict=False):
        _draw(axes[1, 0], runs["plane"][arm], "value", arm, colour)
        _draw(axes[1, 1], runs["plane"][arm], "return", arm, colour)
    axes[1, 0].axhline(CEILING, color="0.3", ls="--")
    axes[1, 0].set(ylabel="plane: mean Q of the batch", yscale="symlog")
    axes[1, 1].axhline(CONTROLLER_RETURN, color="0.3", ls="--")
    axes[1, 1].set(ylabel="plane: return of 30 steps", yscale="symlog")
    for ax in axes.flat:
        ax.set_xlabel("gradient steps")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    return figure


def _draw(ax: Axes, run: History, metric: str, label: str, colour: str) -> None:
    draw_range(ax, *run.series[metric], label=label, color=colour)


if __name__ == "__main__":
    run_command(NAME, TITLE, __doc__, measure)
