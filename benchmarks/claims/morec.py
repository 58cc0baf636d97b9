"""Reward-consistent dynamics: a dynamics reward picks better transitions than the model proposes.

MOREC, arXiv:2310.05422: rollouts in a refrigerator under the recorded and under unseen set points,
100-step rollouts in MuJoCo tasks, and MOREC-MOPO beside MOPO.
"""

import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from benchmarks.claims import cold_storage, reward_consistency
from benchmarks.claims.experiment import run_all
from benchmarks.claims.report import Claim, Estimate, estimate, finish, parse, save_figure
from training.entry import one_line_errors

NAME = "morec"
CHANCE = 0.1
"""Hit rate of a blind choice among ten candidates."""
COLOURS = {"unfiltered": "tab:red", "filtered": "tab:blue"}


def main() -> int:
    """Run, judge, print, write; returns the exit status."""
    arguments = parse(NAME, __doc__)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    begun = time.monotonic()
    datasets = {task: reward_consistency.load(task) for task in reward_consistency.DATASETS}
    fridge_budget = cold_storage.budget_for(arguments.quick)
    budget = reward_consistency.budget_for(arguments.quick)
    found = run_all(
        {
            **{
                task: partial(reward_consistency.run, task, data, budget)
                for task, data in datasets.items()
            },
            **{
                f"refrigerator/{recipe}": partial(cold_storage.run, recipe, fridge_budget)
                for recipe in cold_storage.RECIPES
            },
        }
    )
    claims = [
        *fridge_claims(found["refrigerator/adversarial"], found["refrigerator/plain"]),
        *(
            claim
            for task in datasets
            for claim in task_claims(task, found[task], judged=not arguments.quick)
        ),
    ]
    suffix = "-quick" if arguments.quick else ""
    plot(found, arguments.output / f"{NAME}{suffix}.png")
    return finish(
        NAME,
        "Reward-consistent dynamics, arXiv:2310.05422: mean over seeds ± 95 % interval",
        claims,
        {
            "budget": vars(budget),
            "refrigerator_budget": vars(fridge_budget),
            "datasets": {task: data.fingerprint for task, data in datasets.items()},
            "found": {name: without_points(run) for name, run in found.items()},
        },
        quick=arguments.quick,
        output=arguments.output,
        seconds=time.monotonic() - begun,
    )


def fridge_claims(default: Mapping[str, Any], plain: Mapping[str, Any]) -> list[Claim]:
    """The synthetic task: the default recipe is judged, plain GAIL only reported."""
    claims = []
    for name, policy in default["policies"].items():
        off, on = at_the_end(policy["rollouts"], "mean")
        text = "recorded" if name == cold_storage.RECORDED else "unseen"
        claims.append(
            Claim(
                f"refrigerator, set point {name} ({text}): filtered rollouts are closer to the "
                "truth",
                "lower mean error at the last step of 100",
                f"{off} without, {on} with the filter (in std of the recorded temperature)",
                on.mean < off.mean,
            )
        )
        off, on = at_the_end(plain["policies"][name]["rollouts"], "mean")
        claims.append(
            Claim(
                f"refrigerator, set point {name} ({text}), plain GAIL",
                "no claim: one generator to the end, no noise negatives",
                f"{off} without, {on} with the filter",
                None,
                source="ours",
            )
        )
    for recipe, run in (("default", default), ("plain GAIL", plain)):
        measured = run["policies"][cold_storage.RECORDED]["one_step"]
        claims.append(
            Claim(
                f"refrigerator, {recipe}: the reward orders candidates by error",
                "correlation of reward and log error below 0",
                f"pooled {of(measured['pearson'])}, within candidates {of(measured['rank'])}, "
                f"hit rate {of(measured['hit'])} (chance {CHANCE:g})",
                of(measured["rank"]).mean < 0 if recipe == "default" else None,
            )
        )
    return claims


def task_claims(task: str, run: Mapping[str, Any], judged: bool) -> list[Claim]:
    """A MuJoCo task; a quick run is too short to be judged."""
    measured = run["diagnostics"]
    one, rolled = measured["one_step"], measured["rollouts"]
    off, on = at_the_end(rolled, "median")
    hit, rank = of(one["hit"]), of(one["rank"])
    returns = {arm: estimate(values) for arm, values in run["returns"].items()}
    speed = run["transitions_per_second"]
    return [
        Claim(
            f"{task}: filtered rollouts are closer to the recorded states",
            f"lower median error after {rolled['steps']} steps",
            f"{off} without, {on} with the filter",
            on.mean < off.mean if judged else None,
        ),
        Claim(
            f"{task}: the chosen candidate is the best one more often than by chance",
            f"hit rate above {CHANCE:g}, interval apart",
            f"{hit}; rank correlation within candidates {rank}, pooled {of(one['pearson'])}",
            hit.mean - hit.half_width > CHANCE if judged else None,
        ),
        Claim(
            f"{task}: the chosen candidate's error",
            "below that of a random one",
            f"{of(one['error_chosen'])} against {of(one['error_random'])}, "
            f"best of ten {of(one['error_best'])}",
            of(one["error_chosen"]).mean < of(one["error_random"]).mean if judged else None,
        ),
        Claim(
            f"{task}: rollouts that the filter cuts",
            "some, and not at once",
            f"{of(rolled['filtered']['length'])} of {rolled['steps']} steps on average",
            None,
        ),
        Claim(
            f"{task}: MOREC-MOPO beside MOPO, equal updates and dreamed rows",
            "higher return (budgets this short do not decide it)",
            f"MOREC-MOPO {returns['morec_mopo']}, MOPO {returns['mopo']}",
            None,
        ),
        Claim(
            f"{task}: cost of filtering",
            "transitions/s of rollouts",
            f"{speed['unfiltered']:,.0f} without, {speed['filtered']:,.0f} with the filter",
            None,
            source="ours",
        ),
    ]


def of(values: Sequence[float | None]) -> Estimate:
    """Over seeds; a seed without a finite value counts as infinitely bad, for an error."""
    if any(value is None for value in values):
        return Estimate(math.inf, math.nan, [math.inf if v is None else v for v in values])
    return estimate([value for value in values if value is not None])


def at_the_end(rolled: Mapping[str, Any], statistic: str) -> tuple[Estimate, Estimate]:
    """Error at the last step without and with the filter."""
    off, on = (
        of([seed[-1] for seed in rolled[arm][statistic]]) for arm in ("unfiltered", "filtered")
    )
    return off, on


def without_points(value: Any) -> Any:
    """Measurements less the points of their plots."""
    if isinstance(value, Mapping):
        return {key: without_points(each) for key, each in value.items() if key != "points"}
    return value


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Error of rollouts by step, the filter against its absence, everywhere; and the cuts."""
    panels = {
        f"{name}, set point {point}": policy["rollouts"]
        for name, run in found.items()
        if "policies" in run
        for point, policy in run["policies"].items()
    } | {
        name: run["diagnostics"]["rollouts"] for name, run in found.items() if "diagnostics" in run
    }
    columns = 3
    rows = math.ceil((len(panels) + 1) / columns)
    figure = Figure(figsize=(15, 3.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns).flatten()
    for ax, (name, rolled) in zip(axes, panels.items(), strict=False):
        steps = range(1, rolled["steps"] + 1)
        for arm, colour in COLOURS.items():
            lanes = torch.tensor(
                [[math.nan if v is None else v for v in seed] for seed in rolled[arm]["median"]]
            )
            ax.plot(steps, lanes.nanmean(0), color=colour, label=arm)
            low, high = lanes.nan_to_num(math.inf).amin(0), lanes.nan_to_num(-math.inf).amax(0)
            ax.fill_between(steps, low, high, color=colour, alpha=0.2)
        ax.set_yscale("log")
        ax.set(title=name, xlabel="step", ylabel="median error / std")
        ax.legend(fontsize=8)
        alive = torch.tensor(rolled["filtered"]["alive"]).mean(0)
        axes[-1].plot(steps, alive, label=name)
    for ax in axes[len(panels) : -1]:
        ax.set_visible(False)
    axes[-1].set(title="not cut by the filter", xlabel="step", ylabel="share", ylim=(0, 1.05))
    axes[-1].legend(fontsize=7)
    save_figure(figure, path)


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
