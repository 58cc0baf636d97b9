"""Off-policy evaluation: rank policies and predict their worth from recorded data alone.

Fitted Q evaluation (arXiv:1903.08738) and rollouts of learned models, judged as
arXiv:2103.16596 does: rank correlation, regret and absolute error against the true environment.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure

from reverie.benchmarks.claims.experiment import run_all
from reverie.benchmarks.claims.judging import estimate
from reverie.benchmarks.claims.off_policy_evaluation import graded_policies
from reverie.benchmarks.claims.off_policy_evaluation.graded_policies import (
    HOPPER,
    PENDULUM,
    Found,
    Task,
)
from reverie.benchmarks.claims.report import Claim, Findings, run_command

NAME = "off_policy_evaluation"
TITLE = "Off-policy evaluation: mean over fits ± 95 % interval"
METHODS = {
    "fqe/value": "fitted Q evaluation",
    "model/value": "model rollouts, value",
    "model/return": "model rollouts, return",
}
COLOURS = {"mopo": "tab:blue", "td3_bc": "tab:green", "sac": "tab:red", "bc": "tab:orange"}


def measure(quick: bool) -> Findings:
    """Estimate the worth of every task's policies."""
    torch.set_num_threads(1)  # as the tasks, which run side by side
    tasks = {"hopper": HOPPER, "pendulum": PENDULUM}
    if quick:
        tasks = {label: shortened(task) for label, task in tasks.items()}
    found: dict[str, Found] = run_all(
        {label: partial(graded_policies.measure, task) for label, task in tasks.items()}
    )
    return Findings(
        [
            claim
            for label in tasks
            for method in METHODS
            for claim in judged(label, found[label], method, judge=not quick)
        ],
        {label: details(tasks[label], found[label]) for label in tasks},
        {NAME: plot(found)},
    )


def shortened(task: Task) -> Task:
    """A tenth of everything: a look, not evidence."""
    budget = replace(
        task.budget, updates=task.budget.updates // 10, evaluate=task.budget.evaluate // 10
    )
    return replace(
        task,
        budget=budget,
        model={**task.model, "max_epochs": 1},
        fits=2,
        fqe_updates=300,
        starts=10,
        episodes=2,
    )


def judged(label: str, found: Found, method: str, judge: bool) -> list[Claim]:
    """Order, choice and error of one method on one task; a run that is too short is not judged."""
    tables = found.estimates[method]
    quantity = method.split("/")[1]
    worth, returns = found.truth[quantity], found.truth["return"]
    order = estimate(graded_policies.rank_correlation(tables, returns))
    regrets = estimate(graded_policies.regret(tables, returns))
    errors = estimate(graded_policies.error(tables, worth))
    blind = graded_policies.random_regret(returns)
    setting = f"{label}, {len(found.names)} policies, {METHODS[method]}"
    return [
        Claim(
            f"{setting}: rank correlation with the true return",
            "interval above 0",
            str(order),
            order.low > 0 if judge else None,
        ),
        Claim(
            f"{setting}: regret@1 of choosing by it",
            f"interval below {blind:.2f}, that of a blind choice",
            str(regrets),
            regrets.high < blind if judge else None,
        ),
        Claim(
            f"{setting}: mean absolute error of the {quantity}, share of the true range",
            "-",
            str(errors),
            None,
        ),
    ]


def details(task: Task, found: Found) -> Mapping[str, Any]:
    """Everything behind the claims."""
    return {
        "dataset": found.fingerprint,
        "budget": vars(task.budget),
        "fqe": {**graded_policies.FQE, "updates": task.fqe_updates, "batch": task.batch},
        "model": task.model,
        "discount": graded_policies.DISCOUNT,
        "policies": found.names,
        "truth": found.truth,
        "standard_errors": found.standard_errors,
        "estimates": found.estimates,
        "outside": found.outside,
    }


def plot(found: Mapping[str, Found]) -> Figure:
    """Estimate against truth, one point a policy, its fits as a bar."""
    figure = Figure(figsize=(4.4 * len(METHODS), 3.8 * len(found)), layout="constrained")
    grid = figure.subplots(len(found), len(METHODS), squeeze=False)
    for row, (label, task) in zip(grid, found.items(), strict=True):
        for ax, (method, title) in zip(row, METHODS.items(), strict=True):
            truth = task.truth[method.split("/")[1]]
            for arm, colour in COLOURS.items():
                mine = [i for i, name in enumerate(task.names) if name.split()[0] == arm]
                lanes = task.estimates[method][:, mine]
                ax.vlines(truth[mine], lanes.amin(0), lanes.amax(0), color=colour, alpha=0.4)
                ax.plot(truth[mine], lanes.mean(0), "o", color=colour, ms=5, label=arm)
            ends = [float(truth.min()), float(truth.max())]
            ax.plot(ends, ends, color="0.6", ls="--", lw=1)
            order = graded_policies.rank_correlation(task.estimates[method], task.truth["return"])
            ax.set_title(
                f"{label}: {title}\nrank correlation {sum(order) / len(order):.2f}", fontsize=9
            )
            ax.set_xlabel(f"true {method.split('/')[1]}")
            ax.set_ylabel("estimate")
            ax.grid(alpha=0.3)
    grid[0][0].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    run_command(NAME, TITLE, __doc__, measure)
