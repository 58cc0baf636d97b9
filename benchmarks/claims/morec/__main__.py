"""Reward-consistent dynamics: a dynamics reward picks better transitions than the model proposes.

MOREC, arXiv:2310.05422: rollouts in a refrigerator under the recorded and under unseen set points,
100-step rollouts in MuJoCo tasks, and MOREC-MOPO beside MOPO.
"""

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure

from reverie.benchmarks.claims.experiment import prefix_names, run_all
from reverie.benchmarks.claims.judging import Estimate, estimate, estimate_difference
from reverie.benchmarks.claims.morec import cold_storage, reward_consistency
from reverie.benchmarks.claims.report import Claim, Findings, run_command

NAME = "morec"
TITLE = "Reward-consistent dynamics, arXiv:2310.05422: mean over seeds ± 95 % interval"
CHANCE = 0.1
"""Hit rate of a blind choice among ten candidates."""
PLOTTED = ("points", "paths", "landscape")
FRIDGE_PLOTTED = (*PLOTTED, "median", "alive", "cut")
"""In the refrigerator nothing is cut, and errors are judged by their mean."""
WAYS = {"rollouts": "its actions replayed", "under_policy": "acting in the model"}
"""How a thermostat is followed in the refrigerator's model."""
COLOURS = {"unfiltered": "tab:red", "filtered": "tab:blue"}


def measure(quick: bool) -> Findings:
    """Run the refrigerator with both recipes, and MOREC on every task."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    data = {task: reward_consistency.load(task) for task in reward_consistency.DATASETS}
    fridge_budget, budget = cold_storage.budget_for(quick), reward_consistency.budget_for(quick)
    found: dict[str, Any] = run_all(
        {
            "refrigerator": partial(cold_storage.run, fridge_budget),
            **{
                task: partial(reward_consistency.run, task, each, budget)
                for task, each in data.items()
            },
        }
    )
    default, plain = (found["refrigerator"][recipe] for recipe in cold_storage.RECIPES)
    found |= prefix_names("refrigerator", found.pop("refrigerator"))
    return Findings(
        [
            *fridge_claims(default, plain, judged=not quick),
            *(claim for task in data for claim in task_claims(task, found[task], judged=not quick)),
        ],
        {
            "budget": vars(budget),
            "refrigerator_budget": vars(fridge_budget),
            "datasets": {task: each.fingerprint for task, each in data.items()},
            "found": {
                name: without(PLOTTED if "diagnostics" in run else FRIDGE_PLOTTED, run)
                for name, run in found.items()
            },
        },
        {
            NAME: plot(found),
            f"{NAME}-refrigerator": cold_storage.figure({"default": default, "plain GAIL": plain}),
        },
    )


def fridge_claims(
    default: Mapping[str, Any], plain: Mapping[str, Any], judged: bool
) -> list[Claim]:
    """The synthetic task: the default recipe is judged, plain GAIL only reported.

    A quick run is judged on the recorded set point alone.
    """
    claims = []
    for name, policy in default["policies"].items():
        is_recorded = name == cold_storage.RECORDED
        text = "recorded" if is_recorded else "unseen"
        where = f"refrigerator, set point {name} ({text})"
        for kind, how in WAYS.items():
            compared = compare(policy[kind], "mean")
            claims.append(
                Claim(
                    f"{where}, {how}: filtered rollouts are closer to the truth",
                    "lower mean error at the last step of 100, interval of the ratio below 1",
                    f"{compared} (in std of the recorded temperature)",
                    compared.is_lower if judged or is_recorded else None,
                )
            )
            claims.append(
                Claim(
                    f"{where}, {how}, plain GAIL",
                    "no claim: one generator to the end, no noise negatives",
                    f"{compare(plain['policies'][name][kind], 'mean')}",
                    None,
                    source="ours",
                )
            )
    for recipe, run in (("default", default), ("plain GAIL", plain)):
        measured = run["policies"][cold_storage.RECORDED]["one_step"]
        rank = of(measured["rank"])
        claims.append(
            Claim(
                f"refrigerator, {recipe}: the reward orders candidates by error",
                "correlation of reward and log error below 0, interval apart",
                f"pooled {of(measured['pearson'])}, within candidates {rank}, "
                f"hit rate {of(measured['hit'])} (chance {CHANCE:g})",
                rank.high < 0 if recipe == "default" else None,
            )
        )
    return claims


def task_claims(task: str, run: Mapping[str, Any], judged: bool) -> list[Claim]:
    """A MuJoCo task; a quick run is too short to be judged."""
    measured = run["diagnostics"]
    one, rolled = measured["one_step"], measured["rollouts"]
    hit, rank = of(one["hit"]), of(one["rank"])
    rollouts = compare(rolled, "median")
    choice = Comparison(of(one["error_random"]), of(one["error_chosen"]))
    returns = {arm: estimate(values) for arm, values in run["returns"].items()}
    more = estimate_difference(returns["morec_mopo"].values, returns["mopo"].values)
    speed = run["transitions_per_second"]
    return [
        Claim(
            f"{task}: filtered rollouts are closer to the recorded states",
            f"lower median error after {rolled['steps']} steps, interval of the ratio below 1",
            f"{rollouts}",
            rollouts.is_lower if judged else None,
        ),
        Claim(
            f"{task}: the chosen candidate is the best one more often than by chance",
            f"hit rate above {CHANCE:g}, interval apart",
            f"{hit}; rank correlation within candidates {rank}, pooled {of(one['pearson'])}",
            hit.low > CHANCE if judged else None,
        ),
        Claim(
            f"{task}: the chosen candidate's error",
            "below that of a random one, interval of the ratio below 1",
            f"{choice}, best of ten {of(one['error_best'])}",
            choice.is_lower if judged else None,
        ),
        Claim(
            f"{task}: rollouts that the filter cuts",
            "some, and not at once",
            f"{of(rolled['filtered']['length'])} of {rolled['steps']} steps on average",
            None,
        ),
        Claim(
            f"{task}: MOREC-MOPO beside MOPO, equal updates and dreamed rows",
            "higher return, interval of the difference above 0",
            f"MOREC-MOPO {returns['morec_mopo']}, MOPO {returns['mopo']}, difference {more}",
            more.low > 0 if judged else None,
        ),
        Claim(
            f"{task}: cost of filtering",
            "transitions/s of rollouts",
            f"{speed['unfiltered']:,.0f} without, {speed['filtered']:,.0f} with the filter",
            None,
            source="ours",
        ),
    ]


@dataclass(frozen=True)
class Comparison:
    """Errors with and without the filter, in pairs: the lanes of a seed share model and reward.

    Attributes:
        off, on: without and with the filter.
    """

    off: Estimate
    on: Estimate

    @property
    def interval(self) -> tuple[float, float, float]:
        """Mean over seeds of the ratio on / off (geometric), and its 95 % interval."""
        pairs = list(zip(self.on.values, self.off.values, strict=True))
        if not all(math.isfinite(on / off) and on > 0 for on, off in pairs):
            return math.nan, math.nan, math.nan
        ratio = estimate([math.log(on / off) for on, off in pairs])
        return math.exp(ratio.mean), math.exp(ratio.low), math.exp(ratio.high)

    @property
    def is_lower(self) -> bool:
        """Whether the whole interval says so."""
        return self.interval[2] < 1

    def __str__(self) -> str:
        mean, low, high = self.interval
        return (
            f"{self.off} without, {self.on} with the filter, "
            f"ratio {mean:.2g} ({low:.2g} to {high:.2g})"
        )


def of(values: Sequence[float | None]) -> Estimate:
    """Over seeds; a seed without a finite value counts as infinitely bad, for an error."""
    if any(value is None for value in values):
        return Estimate(math.inf, math.nan, [math.inf if v is None else v for v in values])
    return estimate([value for value in values if value is not None])


def compare(rolled: Mapping[str, Any], statistic: str) -> Comparison:
    """Errors at the last step."""
    return Comparison(
        *(of([seed[-1] for seed in rolled[arm][statistic]]) for arm in ("unfiltered", "filtered"))
    )


def without(left_out: Collection[str], value: Any) -> Any:
    """Measurements less what only pictures need."""
    if isinstance(value, Mapping):
        return {key: without(left_out, each) for key, each in value.items() if key not in left_out}
    return value


def plot(found: Mapping[str, Any]) -> Figure:
    """Error of rollouts by step, the filter against its absence, everywhere; and the cuts."""
    panels = {
        f"{name}, set point {point}, {how}": policy[kind]
        for name, run in found.items()
        if "policies" in run
        for kind, how in WAYS.items()
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
        ax.set_title(name, fontsize=9)
        ax.set(xlabel="step", ylabel="median error / std")
        ax.legend(fontsize=8)
        if "diagnostics" in found.get(name, {}):  # in the refrigerator nothing is cut
            alive = torch.tensor(rolled["filtered"]["alive"]).mean(0)
            axes[-1].plot(steps, alive, label=name)
    for ax in axes[len(panels) : -1]:
        ax.set_visible(False)
    axes[-1].set(title="not cut by the filter", xlabel="step", ylabel="share", ylim=(0, 1.05))
    axes[-1].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    run_command(NAME, TITLE, __doc__, measure)
