"""Do guided segments raise returns? The lines that four learners left undecided.

`policy_guided_diffusion` compares learners of guided segments with learners of recorded rows alone
after 4,000 updates. The plan of this run, written before it:

- Why it was undecided: for want of seeds and of updates. TD3+BC on the pendulum still changes
  after 4,000 updates, and the recorded differences are large and of either sign, seed by seed:
  TD3+BC -264, -152, -8, -37 on Hopper and 37, 23, 32, 163 on the pendulum, IQL -39, -71, -465, -449
  and -118, -130, -215, -402.
- Budget: 8,000 updates, and guided rounds every 1,500 as recorded, so that five of them come after
  the first. Generators, networks and rates as recorded, which no return chose.
- Seeds: one new fit of the generator a task and sixteen new learners, all of a seed that nothing
  was tuned on; some 100 core-minutes by the times of the recorded arms.
- Rule: the exact interval of `sequential` of the paired differences of the means of the last three
  evaluations, after ten seeds and after sixteen; an error of 5 % in all, shared by the two
  learners on the two tasks.
- Power, simulated with normal differences, 400 times: 0.76 at one deviation, 0.99 at one and a
  half, 0.51 at 0.8. The recorded effects are 0.96 to 1.6 deviations, three of the four of them
  losses, so a decision against the claim is likelier than one for it.
- The recorded lines stay as they are. These are about one generator a task, fitted for minutes.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch
from matplotlib.figure import Figure

from reverie.benchmarks.claims.experiment import History, describe_runs, run_all
from reverie.benchmarks.claims.policy_guided_diffusion.experience import (
    AGENTS,
    GUIDED,
    REAL,
    fit_generator,
    train,
)
from reverie.benchmarks.claims.policy_guided_diffusion.tasks import TASKS, Task, load, shorten
from reverie.benchmarks.claims.report import Claim, Findings, draw_range, run_command
from reverie.benchmarks.claims.sequential import Decision, Plan

NAME = "guided_returns"
TITLE = "Policy-guided diffusion, arXiv:2404.06356: returns once more, sixteen new seeds"
UPDATES, EVALUATE = 8_000, 1_000
SEED = 5_100
"""Of the generators and the first batch of learners; the next batch has the next."""
PLAN = Plan((10, 16), error=0.05, comparisons=len(TASKS) * len(AGENTS))
ARMS = (REAL, GUIDED)

Runs = Mapping[str, list[History]]
"""Batches of learners by `task/agent/arm`."""


def measure(quick: bool) -> Findings:
    """Fit the generators, then train learners until the plan says stop."""
    torch.set_num_threads(1)
    batches = [4] if quick else [many - few for few, many in pairwise((0, *PLAN.looks))]
    tasks = {name: adapt(task, batches[0], quick) for name, task in TASKS.items()}
    data = {name: load(task) for name, task in tasks.items()}
    fitted = run_all(
        {
            name: partial(fit_generator, "trajectory_fast", task.segments, task, data[name], SEED)
            for name, task in tasks.items()
        }
    )
    runs: dict[str, list[History]] = {}
    for batch, seeds in enumerate(batches):
        found = run_all(
            {
                f"{name}/{agent}/{arm}": partial(
                    train,
                    *(name, adapt(task, seeds, quick), data[name], agent, arm),
                    fitted[name][0] if arm == GUIDED else None,
                    SEED + batch,
                )
                for arm in reversed(ARMS)  # the longest first
                for name, task in tasks.items()
                for agent in AGENTS
                if not decide(runs, name, agent).final
            }
        )
        for arm, run in found.items():
            runs.setdefault(arm, []).append(run)
    return Findings(
        [claim(runs, name, agent, judged=not quick) for name in tasks for agent in AGENTS],
        {
            "seed": SEED,
            "plan": vars(PLAN),
            "schedule": vars(next(iter(tasks.values())).schedule),
            "datasets": {name: own.fingerprint for name, own in data.items()},
            "fits": {name: described for name, (_, described) in fitted.items()},
            "runs": [
                describe_runs({arm: own[batch] for arm, own in runs.items() if batch < len(own)})
                for batch in range(max(map(len, runs.values())))
            ],
        },
        {NAME: plot(runs)},
    )


def adapt(task: Task, seeds: int, quick: bool) -> Task:
    """The recorded task with so many learners and this run's updates."""
    if not quick:
        schedule = replace(task.schedule, updates=UPDATES, evaluate=EVALUATE)
        task = replace(task, schedule=schedule)
    else:
        task = shorten(task)
    return replace(task, schedule=replace(task.schedule, seeds=seeds))


def returns_of(runs: Runs, name: str, agent: str, arm: str) -> list[float]:
    """Mean of the last three evaluations of every learner."""
    batches = runs.get(f"{name}/{agent}/{arm}", [])
    return [value for run in batches for value in run.mean_of_last("return")]


def decide(runs: Runs, name: str, agent: str) -> Decision:
    """By the plan."""
    own, other = (returns_of(runs, name, agent, arm) for arm in (GUIDED, REAL))
    return PLAN.decide([one - two for one, two in zip(own, other, strict=True)])


def claim(runs: Runs, name: str, agent: str, *, judged: bool) -> Claim:
    """One learner on one task."""
    decision = decide(runs, name, agent)
    told = "; ".join(
        f"{arm} " + ", ".join(f"{value:.0f}" for value in returns_of(runs, name, agent, arm))
        for arm in (GUIDED, REAL)
    )
    interval = f"{decision.mean:.3g} [{decision.low:.3g}, {decision.high:.3g}]"
    return Claim(
        f"{name}, {agent}: guided segments are better than recorded data alone",
        "higher return, exact interval of the paired differences above 0",
        f"{interval if decision.seeds else 'too few seeds to say'}: {told}",
        decision.better if judged else None,
    )


def plot(runs: Runs) -> Figure:
    """Learning curves of the first batch, a panel a task and learner."""
    pairs = [arm.rsplit("/", 1)[0] for arm in runs if arm.endswith(f"/{REAL}")]
    figure = Figure(figsize=(8, 6), layout="constrained")
    panels = figure.subplots(len(TASKS), len(AGENTS), squeeze=False).flat
    for ax, pair in zip(panels, pairs, strict=True):
        for number, arm in enumerate(ARMS):
            first = runs[f"{pair}/{arm}"][0]
            draw_range(ax, *first.series["return"], label=arm, color=f"C{number}")
        ax.set(title=pair.replace("/", ", "), xlabel="updates", ylabel="return")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    run_command(NAME, TITLE, __doc__, measure)
