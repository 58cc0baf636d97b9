"""Whether a single model with smooth values reaches an ensemble at less compute.

Is model ensemble necessary?, arXiv:2302.01244. Four arms (an ensemble of 7; a single model; one
whose critics have capped spectral norms; one whose critics withstand adversarial states) on
Pendulum and Hopper, online as in the paper and offline, which is our extension. The budgets, far
below the paper's, are those of `single_model.py` beside this file; a quick run judges compute
alone.

An arm reaches the ensemble where the lower end of the 95 % interval of its return minus the
ensemble's lies above minus `MARGIN` of what the ensemble gained over random actions. It falls short
where the upper end lies below that. In between the seeds do not decide, and the line only informs.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from matplotlib.figure import Figure

from reverie.benchmarks.claims.experiment import (
    History,
    describe_runs,
    run_all,
    split_by_task,
)
from reverie.benchmarks.claims.judging import (
    Estimate,
    estimate,
    judge_margin,
    judge_order,
    subtract,
)
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
from reverie.benchmarks.claims.report import Claim, Findings, draw_range, run_command

NAME = "lipschitz"
TITLE = "Single model and smooth values, arXiv:2302.01244: mean over seeds ± 95 % interval"
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


def measure(quick: bool) -> Findings:
    """Run every arm of every task."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tasks = single_model.TASKS
    if quick:
        tasks = {name: single_model.shortened(task) for name, task in tasks.items()}
    data = {name: single_model.load(task) for name, task in tasks.items()}
    runs = split_by_task(run_all(single_model.jobs(tasks, data)))
    claims = [
        claim
        for name, task in tasks.items()
        for claim in task_claims(name, task, runs[name], judged=not quick)
    ]
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
            **describe_runs(runs[name]),
        }
        for name, task in tasks.items()
    }
    return Findings(claims, details, {NAME: plot(runs)})


def task_claims(name: str, task: Task, runs: Runs, judged: bool) -> list[Claim]:
    """Everything that is said of one task; a quick run is too short for returns and slopes."""
    source = "paper" if task.online is not None else "ours, the paper is online"

    def found(metric: str) -> dict[str, Estimate]:
        return {arm: estimate(run.mean_of_last(metric)) for arm, run in runs.items()}

    def claim(text: str, expected: str, measured: str, holds: bool | None) -> Claim:
        return Claim(f"{name}: {text}", expected, measured, holds if judged else None, source)

    spread, capped = found("gap/spread"), estimate(runs[SPECTRAL].mean_of_last("spectral_capped"))
    seconds = {arm: run.learning for arm, run in runs.items()}
    return [
        *return_claims(task, found("return"), claim),
        *smoothness_claims(found, claim),
        claim(
            f"{SPECTRAL}: the cap binds, else this arm is the plain single model",
            "some weight matrices held at the cap",
            f"{100 * capped.mean:.0f} ± {100 * capped.half_width:.2g} % of them",
            capped.mean > 0,
        ),
        claim(
            "the ensemble's samples are spread more widely than a single model's",
            "larger standard deviation of next states, intervals apart",
            f"{spread[ENSEMBLE]} against {spread[SINGLE]}",
            judge_order(spread[SINGLE], spread[ENSEMBLE]),
        ),
        Claim(
            f"{name}: the regularised single models take less compute than the ensemble",
            "fewer seconds for fits, rollouts and updates on one core",
            ", ".join(
                f"{arm} {seconds[arm]:.0f} s (fit {runs[arm].fitting:.0f} s)" for arm in ARMS
            ),
            all(seconds[arm] < seconds[ENSEMBLE] for arm in REGULARISED),
            source,
        ),
    ]


def return_claims(
    task: Task, returns: Mapping[str, Estimate], claim: Callable[..., Claim]
) -> list[Claim]:
    """What the ensemble gains, and which single models reach it."""
    best = returns[ENSEMBLE]
    margin = MARGIN * (best.mean - task.random_return)
    gains = {arm: subtract(returns[arm], best) for arm in (SINGLE, *REGULARISED)}
    reached = {arm: judge_margin(gain, margin) for arm, gain in gains.items()}
    measured = {
        arm: f"{returns[arm]} against {best}: {gain}, {say_reached(reached[arm], margin)}"
        for arm, gain in gains.items()
    }
    return [
        replace(
            claim(
                "the ensemble learns, else there is nothing to reach",
                f"return of at least {task.learnt:.3g}, the lower end of the interval",
                f"{best}",
                best.low >= task.learnt,
            ),
            source="ours",
        ),
        claim(
            "a single model without regularisation falls short of the ensemble",
            f"return lower by more than {margin:.3g}",
            measured[SINGLE],
            negated(reached[SINGLE]),
        ),
        *(
            claim(
                f"{arm} reaches the ensemble",
                f"return not lower by more than {margin:.3g}",
                measured[arm],
                reached[arm],
            )
            for arm in REGULARISED
        ),
    ]


def smoothness_claims(
    found: Callable[[str], Mapping[str, Estimate]], claim: Callable[..., Claim]
) -> list[Claim]:
    """Slopes of the critics and gaps of their targets, beside those of a plain single model."""
    slopes, relative = found("slope/local"), found("slope/relative")
    gaps, errors = found("gap/bellman"), found("gap/value")
    claims = []
    for arm in (*REGULARISED, ENSEMBLE):
        claims += [
            claim(
                f"{arm}: values are smoother than with a plain single model",
                "smaller local Lipschitz constant, intervals apart",
                f"{slopes[arm]} against {slopes[SINGLE]} "
                f"(relative to the values' spread {relative[arm]} against {relative[SINGLE]})",
                judge_order(slopes[arm], slopes[SINGLE]),
            ),
            claim(
                f"{arm}: model errors matter less than with a plain single model",
                "smaller gap of Bellman targets, intervals apart",
                f"{gaps[arm]} against {gaps[SINGLE]} "
                f"(without rewards {errors[arm]} against {errors[SINGLE]})",
                judge_order(gaps[arm], gaps[SINGLE]),
            ),
        ]
    return claims


def say_reached(reached: bool | None, margin: float) -> str:
    """A judgement by the margin in words."""
    if not margin > 0:
        return "the ensemble learnt nothing"
    return {True: "reaches it", False: "falls short", None: "undecided"}[reached]


def negated(holds: bool | None) -> bool | None:
    """Not, where there is something to negate."""
    return None if holds is None else not holds


def plot(runs: Mapping[str, Runs]) -> Figure:
    """A row for each task: mean and range over seeds along training, an arm a colour."""
    figure = Figure(figsize=(4.2 * len(PANELS), 3.2 * len(runs)), layout="constrained")
    grid = figure.subplots(len(runs), len(PANELS), squeeze=False)
    for row, (name, arms) in zip(grid, runs.items(), strict=True):
        for ax, (metric, label) in zip(row, PANELS.items(), strict=True):
            for arm, run in arms.items():
                draw_range(ax, *run.series[metric], label=arm, color=COLOURS[arm])
            if metric != "return":
                ax.set_yscale("log")
            ax.set_title(name, fontsize=9)
            ax.set_xlabel("gradient steps")
            ax.set_ylabel(label)
            ax.grid(alpha=0.3)
    grid[0, 0].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    run_command(NAME, TITLE, __doc__, measure)
