"""H2O: limited data and an imperfect simulator give a better policy together than either alone.

H2O, arXiv:2206.13464. Every policy is scored in the true environment; the simulator has another
gravity.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from joblib import Parallel, delayed
from matplotlib.figure import Figure

from reverie.benchmarks.claims.experiment import (
    History,
    describe_runs,
    prefix_names,
    run_all,
    split_by_task,
)
from reverie.benchmarks.claims.h2o import dynamics_gap, hybrid, simulator_speed
from reverie.benchmarks.claims.h2o.dynamics_gap import GRAVITIES, Seen
from reverie.benchmarks.claims.h2o.hybrid import CHEETAH, PENDULUM, Task, task_for
from reverie.benchmarks.claims.judging import estimate, is_below
from reverie.benchmarks.claims.report import AFTER, Claim, Findings, draw_range, run_command
from reverie.datasets.dataset import Dataset

NAME = "h2o"
TITLE = "H2O, arXiv:2206.13464: mean over seeds ± 95 % interval"
SPEED_TASKS = ("Pendulum-v1", "HalfCheetah-v5")
SPEED_SHAPES = ((1, 1), (4, 1), (16, 1), (16, 16))  # copies of the task, steps of each in a round
QUICK_PENDULUM = {"seeds": 4, "updates": 600, "evaluate": 150}
QUICK_CHEETAH = {"seeds": 2, "updates": 150, "evaluate": 50, "episodes": 1}
COLOURS = {
    "h2o": "tab:blue",
    "h2o_plus": "tab:cyan",
    "darc": "tab:purple",
    "darc_plus": "tab:pink",
    "sac_sim": "tab:red",
    "cql": "tab:orange",
    "bc": "tab:green",
}


def measure(quick: bool) -> Findings:
    """Run all arms of both tasks, ask discriminators about known gaps, and race the simulator."""
    torch.set_num_threads(1)  # as every arm below
    tasks = {
        "HalfCheetah": task_for(CHEETAH, quick, **QUICK_CHEETAH),
        "pendulum": task_for(PENDULUM, quick, **QUICK_PENDULUM),
    }
    data = {label: hybrid.load(task) for label, task in tasks.items()}
    speed = simulator_speed.measure(SPEED_TASKS, SPEED_SHAPES, seconds=0.1 if quick else 0.5)
    jobs: dict[str, Any] = {}
    for label, task in tasks.items():
        jobs |= prefix_names(label, hybrid.jobs(label, task, data[label]))
    runs = split_by_task(run_all(jobs))
    updates = dynamics_gap.QUICK_UPDATES if quick else dynamics_gap.UPDATES
    look = partial(dynamics_gap.run, dynamics_gap.load(), updates=updates)
    cores = len(os.sched_getaffinity(0))
    seen: list[Seen] = Parallel(n_jobs=cores)(delayed(look)(gravity) for gravity in GRAVITIES)
    details: dict[str, Any] = {
        label: {
            "gravity": task.gravity,
            "schedule": vars(task.schedule),
            "dataset": data[label].fingerprint,
            **describe_runs(runs[label]),
        }
        for label, task in tasks.items()
    }
    details["gap"] = {
        str(gravity): each._asdict() for gravity, each in zip(GRAVITIES, seen, strict=True)
    }
    return Findings(
        [
            *(
                claim
                for label in ("pendulum", "HalfCheetah")
                for claim in comparison(label, tasks[label], data[label], runs[label], not quick)
            ),
            *gap_claims(seen),
            *speed_claims(speed),
        ],
        {**details, "simulator_speed": speed},
        {NAME: plot(runs, data)},
    )


def comparison(
    label: str, task: Task, data: Dataset, runs: Mapping[str, History], judged: bool
) -> list[Claim]:
    """H2O against the simulator alone and the data alone; a run that is too short is not judged."""
    returns = {arm: estimate(run.mean_of_last("return")) for arm, run in runs.items()}
    setting = (
        f"{label}, simulated gravity x{task.gravity:g}, {len(data.episode_starts)} episodes of "
        f"mean return {float(data.returns.mean()):.4g}"
    )
    inside = estimate(runs["sac_sim"].last("simulator/return"))
    claims = [
        Claim(
            f"{setting}: SAC trained in the simulator alone",
            "lower return in the truth than in its simulator, intervals apart",
            f"{inside} in the simulator, {returns['sac_sim']} in truth",
            is_below(returns["sac_sim"], inside) if judged and label == "pendulum" else None,
            source="ours",
        )
    ]
    for arm, text in (("sac_sim", "simulator-only SAC"), ("cql", "offline-only CQL")):
        claims.append(
            Claim(
                f"{label}: H2O is better than {text} in the true environment",
                "higher return (mean of the last three evaluations), intervals apart",
                f"H2O {returns['h2o']}, {text} {returns[arm]}",
                is_below(returns[arm], returns["h2o"]) if judged else None,
                "paper" if label != "pendulum" else f"paper, episodes chosen {AFTER}",
            )
        )
    for arm in (name for name in runs if name not in hybrid.JUDGED):
        claims.append(
            Claim(f"{label}: {arm} in the true environment", "-", f"return {returns[arm]}", None)
        )
    return claims


def gap_claims(seen: Sequence[Seen]) -> list[Claim]:
    """Weights over gravities, and u over rows."""
    weights = [estimate(each.weight) for each in seen]
    perturbed = dict(zip(GRAVITIES[1:], seen[1:], strict=True))
    return [
        Claim(
            "pendulum: the mean TD weight falls as the perturbation grows",
            "falling over gravity x" + ", x".join(f"{gravity:g}" for gravity in GRAVITIES),
            ", ".join(map(str, weights)),
            all(a.mean > b.mean for a, b in pairwise(weights)),
        ),
        Claim(
            "pendulum: u is higher on the transitions that the perturbation changed most",
            "mean u of the most changed quarter above that of the least changed one, in every seed",
            ", ".join(
                f"x{gravity:g}: {estimate(each.most_gap)} against {estimate(each.least_gap)}"
                for gravity, each in perturbed.items()
            ),
            all(
                most > least
                for each in perturbed.values()
                for most, least in zip(each.most_gap, each.least_gap, strict=True)
            ),
        ),
        Claim(
            "pendulum: log Mhat/M tells the most from the least changed quarter",
            "ROC-AUC above 0.5, and higher the larger the gap",
            ", ".join(
                f"x{gravity:g}: {estimate(each.ratio_order)}" for gravity, each in perturbed.items()
            ),
            None,
            source="ours",
        ),
    ]


def speed_claims(speed: Sequence[Mapping[str, Any]]) -> list[Claim]:
    """Steps of the stream, with policy and replay, against a bare environment."""
    return [
        Claim(
            f"{row['task']}, {row['copies']} environments, {row['steps']} steps a rollout round: "
            "steps/s of the stream against bare env.step of one",
            "-",
            f"{row['stream_per_second']:,.0f} against {row['bare_per_second']:,.0f}: "
            f"{row['ratio'][0]:.2f}x ({row['ratio'][1]:.2f}-{row['ratio'][2]:.2f})",
            None,
            source="ours",
        )
        for row in speed
    ]


def plot(runs: Mapping[str, Mapping[str, History]], data: Mapping[str, Dataset]) -> Figure:
    """Learning curves in the true environment, and the weight that H2O gives simulated rows."""
    figure = Figure(figsize=(15, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    for ax, (label, arms) in zip(axes, runs.items(), strict=False):
        for arm, run in arms.items():
            draw_range(ax, *run.series["return"], label=arm, color=COLOURS[arm])
        ax.axhline(float(data[label].returns.mean()), color="0.4", ls="--", label="data, mean")
        ax.set_title(f"{label}: return in the true environment", fontsize=9)
    for (label, arms), colour in zip(runs.items(), ("tab:blue", "tab:cyan"), strict=True):
        draw_range(axes[2], *arms["h2o"].series["td_weight"], label=label, color=colour)
    axes[2].set_title("H2O: mean TD weight of simulated rows", fontsize=9)
    for ax in axes:
        ax.set_xlabel("gradient steps")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    run_command(NAME, TITLE, __doc__, measure)
