"""Sparse equations for dynamics, reward and policy: what SINDy-RL claims, measured.

SINDy-RL, arXiv:2403.09110: environment steps to a return against SAC and against Dyna with a neural
ensemble; errors on few transitions; policies of a few terms; speed of the compiled equations; and
two gates that must raise their alarms on a model that deserves them. A quick run is too short for
an agent to learn anything: it judges equations, errors, sizes, speeds and the gate on open-loop
errors, and only reports the rest.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from reverie.benchmarks.claims.experiment import History, describe_runs, run_all
from reverie.benchmarks.claims.judging import estimate, estimate_difference, judge_order
from reverie.benchmarks.claims.report import Claim, Findings, run_command
from reverie.benchmarks.claims.sindy_rl import controllers as sparse_controllers
from reverie.benchmarks.claims.sindy_rl import dyna
from reverie.benchmarks.claims.sindy_rl import dynamics as sparse_dynamics
from reverie.benchmarks.claims.sindy_rl import figures as sparse_figures
from reverie.benchmarks.claims.sindy_rl.dyna import ARMS, ENSEMBLE, SAC, SINDY, Task

NAME = "sindy_rl"
TITLE = "SINDy-RL, arXiv:2403.09110: mean over seeds ± 95 % interval"
FEWER = 10.0
"""Times fewer steps than SAC: an order of magnitude."""
COUNTS = (200, 500, 2_000)
LOW = 500
"""Transitions at which errors are judged."""
OFFLINE_RETURN, RECOVERY, DISTILLED, SMALLER = -250.0, 0.01, 20.0, 100.0


def measure(quick: bool) -> Findings:
    """Run everything side by side, then race the compiled equations alone."""
    torch.set_num_threads(1)
    tasks = {name: dyna.shortened(task) if quick else task for name, task in dyna.TASKS.items()}
    data = {name: dyna.load(task) for name, task in tasks.items()}
    counts = (LOW,) if quick else COUNTS
    found = run_all(jobs(tasks, data, counts, quick))
    found["swing-up/E-SINDy"], found["swing-up students"] = found.pop("swing-up/controllers")
    rates = sparse_dynamics.rates(rows=2_000, loop=50, rounds=5, seconds=0.5)
    claims = judge(tasks, counts, found, rates, judged=not quick)
    print_terms(found)
    for run in (found["offline"], found["linear"]):
        del run["agent"], run["spec"]
    histories = {name: run for name, run in found.items() if isinstance(run, History)}
    return Findings(
        claims,
        {
            "tasks": {
                name: vars(task) | {"budget": vars(task.budget)} for name, task in tasks.items()
            },
            "datasets": {name: each.fingerprint for name, each in data.items()},
            "learning_seconds": {name: run.learning for name, run in histories.items()},
            "fitting_seconds": {name: run.fitting for name, run in histories.items()},
            "runs": describe_runs(histories),
            "rates": rates,
            **{name: each for name, each in found.items() if name not in histories},
        },
        {NAME: sparse_figures.plot(tasks, found, counts)},
    )


def jobs(
    tasks: dict[str, Task], data: dict[str, Any], counts: Sequence[int], quick: bool
) -> dict[str, Callable[[], Any]]:
    """All that is measured, the longest first."""
    arms = dyna.jobs(tasks, data)
    del arms["swing-up/E-SINDy"]  # whose agents are distilled at once
    return {
        "swing-up/controllers": partial(swing_up, tasks["swing-up"], data["swing-up"], quick),
        "pendulum/SAC": arms.pop("pendulum/SAC"),
        **arms,
        "offline": partial(offline, quick),
        "linear": partial(in_equations, "swing-up", quick, linear=True),
        **{
            f"errors/{task}": partial(sparse_dynamics.errors, task, counts)
            for task in sparse_dynamics.TASKS
        },
        "recovered": partial(sparse_dynamics.recovered, sparse_controllers.ROWS),
        "gates": sparse_dynamics.gates,
    }


def judge(
    tasks: Mapping[str, Task],
    counts: Sequence[int],
    found: Mapping[str, Any],
    rates: Mapping[str, float],
    judged: bool,
) -> list[Claim]:
    """All claims; those on agents only where they had the time to learn."""
    return [
        *(
            claim
            for name, task in tasks.items()
            for claim in steps_claims(
                name, task, {arm: found[f"{name}/{arm}"] for arm in ARMS}, judged
            )
        ),
        *(
            claim
            for task in sparse_dynamics.TASKS
            for claim in error_claims(task, counts, found[f"errors/{task}"])
        ),
        *policy_claims("pendulum", found["offline"]["students"], judged),
        *policy_claims("swing-up", found["swing-up students"], judged=False),
        speed_claim(rates),
        *test_claims(found["recovered"], found["offline"], judged),
        *gate_claims(found["gates"], found["linear"], found["offline"], judged),
    ]


def swing_up(task: Task, data: Any, quick: bool) -> tuple[History, dict[str, Any]]:
    """The longest arm, and students of its agents."""
    run = dyna.run("swing-up", task, SINDY, data)
    return run, sparse_controllers.distilled(run.agent, data.spec, quick)


def offline(quick: bool) -> dict[str, Any]:
    """The purely offline pendulum and its students."""
    run = in_equations("pendulum", quick)
    return run | {"students": sparse_controllers.distilled(run["agent"], run["spec"], quick)}


def in_equations(task: str, quick: bool, linear: bool = False) -> dict[str, Any]:
    """Agents that see nothing but equations, of the right kind or linear."""
    budget = sparse_controllers.BUDGETS[task]
    if quick:
        budget = sparse_controllers.shortened(budget)
    return sparse_controllers.offline(task, budget, linear)


def steps_claims(name: str, task: Task, runs: Mapping[str, History], judged: bool) -> list[Claim]:
    """Steps to the goal of every arm, and what is said of them."""
    steps = {arm: dyna.steps_to_goal(task, arm, run) for arm, run in runs.items()}
    ends = {
        arm: int(dyna.steps_taken(task, arm, run.series["return"][0])[-1])
        for arm, run in runs.items()
    }
    claims = []
    for other, factor, source in ((SAC, FEWER, "paper"), (ENSEMBLE, 1.0, "paper")):
        ratio, bounded = times_fewer(steps[SINDY], steps[other], ends[other])
        holds = verdict(ratio, bounded, factor) if judged else None
        claims.append(
            Claim(
                f"{name}: Dyna with E-SINDy reaches {task.goal:g} in fewer steps than {other}",
                f"{factor:g} times fewer" if factor > 1 else "fewer",
                f"{words(steps[SINDY], ends[SINDY])} against {words(steps[other], ends[other])}: "
                + (
                    "never reached" if ratio is None else f"{'> ' * bounded}{ratio:.2g} times fewer"
                ),
                holds,
                source,
            )
        )
    return claims


def times_fewer(
    own: Sequence[int | None], other: Sequence[int | None], end: int
) -> tuple[float | None, bool]:
    """Ratio of mean steps, and whether it is only a lower bound, for seeds of the other that never
    got there count with all their steps. None where a seed of ours never got there."""
    if any(steps is None for steps in own):
        return None, False
    bounded = any(steps is None for steps in other)
    mean = np.mean([end if steps is None else steps for steps in other])
    return float(mean / np.mean([steps for steps in own if steps is not None])), bounded


def verdict(ratio: float | None, bounded: bool, factor: float) -> bool | None:
    """Whether something is so many times fewer; a lower bound below that decides nothing."""
    if ratio is None:
        return False
    if ratio > factor:
        return True
    return None if bounded else False


def words(steps: Sequence[int | None], end: int) -> str:
    """`600 650 > 1000 700`, one a seed."""
    return " ".join(f"> {end}" if each is None else str(each) for each in steps)


def error_claims(task: str, counts: Sequence[int], found: Mapping[str, Any]) -> list[Claim]:
    """Errors at `LOW` transitions are judged, the others are in the plot and the JSON."""
    at = counts.index(LOW)
    claims = []
    for test, arms in found.items():
        for kind, text in (("one", "1 step"), ("many", f"{sparse_dynamics.STEPS} steps")):
            own, other = (estimate(arms[arm][kind][at]) for arm in (SINDY, ENSEMBLE))
            claims.append(
                Claim(
                    f"{task}, {LOW} random transitions, episodes of {test}: error after {text}",
                    "E-SINDy below the ensemble, intervals apart",
                    f"{own} against {other}",
                    judge_order(own, other),
                )
            )
    return claims


def policy_claims(task: str, found: Mapping[str, Any], judged: bool) -> list[Claim]:
    """Students beside their teachers; where the teachers are poor, only reported."""
    loss = estimate_difference(found["teacher"], found["student"])
    terms, times = estimate(found["terms"]), found["microseconds"]
    smaller = found["parameters"] / terms.mean
    faster = times["network"] / times["equation"]
    return [
        Claim(
            f"{task}: the distilled cubic is as good as its teacher",
            f"within {DISTILLED:g} of its return, mean over seeds",
            f"{estimate(found['student'])} against {estimate(found['teacher'])}",
            bool(loss.mean <= DISTILLED) if judged else None,
        ),
        Claim(
            f"{task}: it is orders of magnitude smaller than the network",
            f"{SMALLER:g} times fewer numbers",
            f"{terms.mean:.3g} terms for {found['parameters']} parameters: {smaller:.0f} times",
            smaller >= SMALLER,
        ),
        Claim(
            f"{task}: one action takes less time",
            "exported Python below the network in torch, one state, one core",
            f"{times['equation']:.1f} against {times['network']:.0f} microseconds: "
            f"{faster:.0f} times faster",
            faster > 1,
        ),
    ]


def speed_claim(rates: Mapping[str, float]) -> Claim:
    """Rollouts of the compiled program."""
    loop, batch = rates["pysindy, row by row"], rates["pysindy, all rows"]
    return Claim(
        "transitions per second in the torch program against pysindy called in a loop",
        "more (the program adds members, doubt, box and reward)",
        f"{rates['program']:,.0f} against {loop:,.0f}: {rates['program'] / loop:.0f} times; "
        f"pysindy on all rows at once, median alone: {batch:,.0f}",
        rates["program"] > loop,
        "ours",
    )


def test_claims(
    recovered: Mapping[str, Any], offline: Mapping[str, Any], judged: bool
) -> list[Claim]:
    """An equation that is known, and an agent that has never seen the task."""
    worst, returns = max(recovered["errors"]), estimate(offline["returns"])
    return [
        Claim(
            "pendulum, 2,000 random rows: change of speed is +0.75 sin + 0.15 u, nothing else",
            f"every seed within {100 * RECOVERY:g} %",
            f"largest error {100 * worst:.2g} %",
            worst <= RECOVERY,
            "ours",
        ),
        Claim(
            "pendulum, 2,000 random rows, SAC in the equations alone: true return",
            f"above {OFFLINE_RETURN:g} in every seed",
            f"{returns}, worst seed {min(returns.values):.4g}; "
            f"random {offline['random_return']:.4g}",
            min(returns.values) > OFFLINE_RETURN if judged else None,
            "ours",
        ),
    ]


def gate_claims(
    gates: Mapping[str, Any], linear: Mapping[str, Any], good: Mapping[str, Any], judged: bool
) -> list[Claim]:
    """Both gates on models that deserve them, and on models that do not."""
    returns = estimate(linear["returns"])
    dreamed = [value for value in linear["gap"]["model_return"] if value is not None]
    deserved = bool(linear["gap"]["alarm"] and returns.mean < 0.5 * max(dreamed))

    def size(gate: Mapping[str, Any]) -> str:
        return "no bound" if gate["median"] is None else f"{gate['median']:.2g}"

    def gap(run: Mapping[str, Any]) -> str:
        dreamed = [value for value in run["gap"]["model_return"] if value is not None]
        return (
            f"{max(dreamed):.4g} in the model" if dreamed else "no episode stays in the model"
        ) + f", limit {run['gap']['limit']:.4g}, best recorded {run['gap']['best_recorded']:.4g}"

    return [
        Claim(
            "swing-up: the gate on open-loop errors is silent for the default equations and raises "
            "its alarm for linear ones",
            f"below and above {gates['linear']['limit']:g} std after {gates['linear']['steps']} "
            "steps",
            f"{size(gates['default'])} and {size(gates['linear'])}",
            not gates["default"]["alarm"] and gates["linear"]["alarm"],
            "ours",
        ),
        Claim(
            "swing-up in linear equations off the circle: the gate on values raises its alarm, "
            "rightly",
            "alarm, and a true return below half of the model's",
            f"{gap(linear)}; true {returns}",
            deserved if judged else None,
            "ours",
        ),
        Claim(
            "pendulum, offline: the gate on values is silent for equations that are right",
            "no alarm",
            gap(good),
            not good["gap"]["alarm"],
            "ours",
        ),
    ]


def print_terms(found: Mapping[str, Any]) -> None:
    """Nonzero terms of the first seed of everything that was fitted."""
    for title, lines in (
        ("pendulum, 2,000 random rows", found["recovered"]["equations"][0]),
        ("pendulum, policy", found["offline"]["students"]["equations"][0]),
        ("swing-up, linear", found["linear"]["equations"][0]),
        ("swing-up, policy", found["swing-up students"]["equations"][0]),
    ):
        print(f"{title}:", *lines, sep="\n  ")


if __name__ == "__main__":
    run_command(NAME, TITLE, __doc__, measure)
