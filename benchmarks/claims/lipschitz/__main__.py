"""Whether a single model with smooth values reaches an ensemble at less compute.

Is model ensemble necessary?, arXiv:2302.01244. Four arms (an ensemble of 7; a single model; one
whose critics have capped spectral norms; one whose critics withstand adversarial states) on
Pendulum and Hopper, online as in the paper and offline, which is our extension. The budgets, far
below the paper's, are those of `benchmarks/claims/single_model.py`; a quick run judges compute
alone.

An arm reaches the ensemble where the lower end of the 95 % interval of its return minus the
ensemble's lies above minus `MARGIN` of what the ensemble gained over random actions. It falls short
where the upper end lies below that. In between the seeds do not decide, and the line only informs.
"""

import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure

from reverie.benchmarks.claims.edge_of_reach.__main__ import apart, described, mean_of_last
from reverie.benchmarks.claims.experiment import History, run_all
from reverie.benchmarks.claims.lipschitz import single_model
from reverie.benchmarks.claims.lipschitz.single_model import (
    ADVERSARIAL,
    ARMS,
    ENSEMBLE,
    REGULARISED,
    SINGLE,
    SPECTRAL,
    Task,
)
from reverie.benchmarks.claims.report import Claim, Estimate, estimate, finish, parse, save_figure
from reverie.training.launch.mistakes import one_line_errors

NAME = "lipschitz"
MARGIN = 0.1
COLOURS = {
    ENSEMBLE: "tab:blue",
    SINGLE: "tab:red",
    SPECTRAL: "tab:green",
    ADVERSARIAL: "tab:orange",
}
PANELS = {
    "return": "return of an episode",
    "slope/local": "local Lipschitz constant of Q",
    "gap/bellman": "gap of Bellman targets",
    "gap/value": "the same without rewards",
    "gap/spread": "spread of the model's samples",
}

Runs = Mapping[str, History]


def main() -> int:
    """Run, judge, print, write; returns the exit status."""
    arguments = parse(NAME, __doc__)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    begun = time.monotonic()
    tasks = single_model.TASKS
    if arguments.quick:
        tasks = {name: single_model.shortened(task) for name, task in tasks.items()}
    data = {name: single_model.load(task) for name, task in tasks.items()}
    histories = run_all(single_model.jobs(tasks, data))
    runs = {name: {arm: histories[f"{name}/{arm}"] for arm in ARMS} for name in tasks}
    claims = [
        claim
        for name, task in tasks.items()
        for claim in task_claims(name, task, runs[name], judged=not arguments.quick)
    ]
    plot(runs, arguments.output / f"{NAME}{'-quick' if arguments.quick else ''}.png")
    details = {
        name: {
            "budget": vars(task.budget),
            "model": task.model,
            "network": task.network,
            "strength": task.strength,
            "online": task.online,
            "dataset": data[name].fingerprint,
            "learning_seconds": {arm: run.learning for arm, run in runs[name].items()},
            "fitting_seconds": {arm: run.fitting for arm, run in runs[name].items()},
            **described(runs[name]),
        }
        for name, task in tasks.items()
    }
    return finish(
        NAME,
        "Single model and smooth values, arXiv:2302.01244: mean over seeds ± 95 % interval",
        claims,
        details,
        quick=arguments.quick,
        output=arguments.output,
        seconds=time.monotonic() - begun,
    )


def task_claims(name: str, task: Task, runs: Runs, judged: bool) -> list[Claim]:
    """Everything that is said of one task; a quick run is too short for returns and slopes."""
    source = "paper" if task.online is not None else "ours, the paper is online"

    def found(metric: str) -> dict[str, Estimate]:
        return {arm: estimate(mean_of_last(run, metric)) for arm, run in runs.items()}

    def claim(text: str, expected: str, measured: str, holds: bool | None) -> Claim:
        return Claim(f"{name}: {text}", expected, measured, holds if judged else None, source)

    returns, slopes, gaps = found("return"), found("slope/local"), found("gap/bellman")
    relative, spread = found("slope/relative"), found("gap/spread")
    errors = found("gap/value")
    best = returns[ENSEMBLE]
    margin = MARGIN * (best.mean - task.random_return)
    shortfall = difference(returns[SINGLE], best)
    claims = [
        Claim(
            f"{name}: the ensemble learns, else there is nothing to reach",
            f"return of at least {task.learnt:.3g}, the lower end of the interval",
            f"{best}",
            best.mean - best.half_width >= task.learnt if judged else None,
            "ours",
        ),
        claim(
            "a single model without regularisation falls short of the ensemble",
            f"return lower by more than {margin:.3g}",
            f"{returns[SINGLE]} against {best}: {shortfall}, {verdict(shortfall, margin)[1]}",
            negated(verdict(shortfall, margin)[0]),
        ),
    ]
    for arm in REGULARISED:
        gain = difference(returns[arm], best)
        reached, words = verdict(gain, margin)
        claims.append(
            claim(
                f"{arm} reaches the ensemble",
                f"return not lower by more than {margin:.3g}",
                f"{returns[arm]} against {best}: {gain}, {words}",
                reached,
            )
        )
    for arm in (*REGULARISED, ENSEMBLE):
        claims += [
            claim(
                f"{arm}: values are smoother than with a plain single model",
                "smaller local Lipschitz constant, intervals apart",
                f"{slopes[arm]} against {slopes[SINGLE]} "
                f"(relative to the values' spread {relative[arm]} against {relative[SINGLE]})",
                ordered(slopes[arm], slopes[SINGLE]),
            ),
            claim(
                f"{arm}: model errors matter less than with a plain single model",
                "smaller gap of Bellman targets, intervals apart",
                f"{gaps[arm]} against {gaps[SINGLE]} "
                f"(without rewards {errors[arm]} against {errors[SINGLE]})",
                ordered(gaps[arm], gaps[SINGLE]),
            ),
        ]
    capped = estimate(mean_of_last(runs[SPECTRAL], "spectral_capped"))
    claims.append(
        claim(
            f"{SPECTRAL}: the cap binds, else this arm is the plain single model",
            "some weight matrices held at the cap",
            f"{100 * capped.mean:.0f} ± {100 * capped.half_width:.2g} % of them",
            capped.mean > 0,
        )
    )
    claims.append(
        claim(
            "the ensemble's samples are spread more widely than a single model's",
            "larger standard deviation of next states, intervals apart",
            f"{spread[ENSEMBLE]} against {spread[SINGLE]}",
            ordered(spread[SINGLE], spread[ENSEMBLE]),
        )
    )
    seconds = {arm: run.learning for arm, run in runs.items()}
    claims.append(
        Claim(
            f"{name}: the regularised single models take less compute than the ensemble",
            "fewer seconds for fits, rollouts and updates on one core",
            ", ".join(
                f"{arm} {seconds[arm]:.0f} s (fit {runs[arm].fitting:.0f} s)" for arm in ARMS
            ),
            all(seconds[arm] < seconds[ENSEMBLE] for arm in REGULARISED),
            source,
        )
    )
    return claims


def difference(one: Estimate, other: Estimate) -> Estimate:
    """Of two means; the half-widths add in quadrature, a little wide for few seeds (Welch's
    degrees of freedom are at least those of the smaller sample)."""
    return Estimate(
        one.mean - other.mean,
        math.hypot(one.half_width, other.half_width),
        [mine - its for mine, its in zip(one.values, other.values, strict=True)],
    )


def verdict(gain: Estimate, margin: float) -> tuple[bool | None, str]:
    """Whether something is at most `margin` worse, where the interval tells, and that in words."""
    if not margin > 0:
        return None, "the ensemble learnt nothing"
    if gain.mean - gain.half_width > -margin:
        return True, "reaches it"
    if gain.mean + gain.half_width < -margin:
        return False, "falls short"
    return None, "undecided"


def negated(holds: bool | None) -> bool | None:
    """Not, where there is something to negate."""
    return None if holds is None else not holds


def ordered(low: Estimate, high: Estimate) -> bool | None:
    """Whether the means lie in this order; None where the intervals touch."""
    if apart(low, high):
        return True
    return False if apart(high, low) else None


def plot(runs: Mapping[str, Runs], path: Path) -> None:
    """A row for each task: mean and range over seeds along training, an arm a colour."""
    figure = Figure(figsize=(4.2 * len(PANELS), 3.2 * len(runs)), layout="constrained")
    grid = figure.subplots(len(runs), len(PANELS), squeeze=False)
    for row, (name, arms) in zip(grid, runs.items(), strict=True):
        for ax, (metric, label) in zip(row, PANELS.items(), strict=True):
            for arm, run in arms.items():
                updates, values = run.series[metric]
                ax.plot(updates, values.mean(0), color=COLOURS[arm], label=arm)
                ax.fill_between(
                    updates, values.min(0), values.max(0), color=COLOURS[arm], alpha=0.2
                )
            if metric != "return":
                ax.set_yscale("log")
            ax.set_title(name, fontsize=9)
            ax.set_xlabel("gradient steps")
            ax.set_ylabel(label)
            ax.grid(alpha=0.3)
    grid[0, 0].legend(fontsize=8)
    save_figure(figure, path)


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
