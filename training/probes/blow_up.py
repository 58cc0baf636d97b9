"""Whether a finished run has diverged: losses or critics far beyond what its rewards allow.

It uses only the last rows of `metrics.csv`, so a run that diverged and recovered raises no alarm.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from reverie.agents.base import Agent
from reverie.agents.losses import sum_bounds
from reverie.datasets.dataset import Dataset
from reverie.datasets.replay import Mixture

Metrics = Mapping[str, Mapping[int, tuple[Sequence[int], Sequence[float]]]]
"""{metric: {seed: (updates, values)}}, as `read_metrics` gives them."""
VALUES = ("value", "state_value")
"""Metrics that are means of critics."""
MARGIN = 0.1
"""How far a value may lie above what can be earned, as a share of the largest value there is."""
FAR = 100.0
"""So many times the largest value are far too low for one, and its square for a loss."""
LOSS = 1000.0
"""Largest loss for each dimension of the action where no rewards say more."""


def attainable(data: Dataset, mixture: Mixture, agent: Agent) -> tuple[float, float]:
    """The highest value of any state, and the largest in absolute value.

    Sums of the rewards that the agent learned from, with its discount; where that is one, over the
    steps of an episode. Filters lower rewards and models invent them, so that those in the replays
    count beside the recorded ones. Where no row terminated, costs are paid for ever.
    """
    found = [_ends(data.transitions.reward)]
    found += [_ends(mixture[name].stored("reward")) for name in mixture.streams]
    low, high = agent.reward_bounds(min(low for low, _ in found), max(high for _, high in found))
    longest = data.spec.max_episode_actions or int(data.episode_lengths.max())
    steps = 1 / (1 - agent.discount) if agent.discount < 1 else longest
    largest = max(abs(low), abs(high), high - low) * steps
    # Undiscounted, the last step of an episode pays once.
    ends = agent.discount == 1 or bool(data.transitions.terminated.any())
    ends = ends or any(bool(mixture[name].stored("terminated").any()) for name in mixture.streams)
    return sum_bounds(low, high, steps, ends)[1], largest


def judge(metrics: Metrics, data: Dataset, mixture: Mixture, agent: Agent) -> dict[str, Any]:
    """What ended beyond its bounds, as plain values, with its `alarm`.

    Returns:
        `attainable`, the highest value of any state, None for an agent without critics; `beyond`,
        `metric`, `seed`, `value` and `bound` of every measurement that ended outside; `alarm`,
        whether there is any; `optimistic`, whether these are all values that are too high, and not
        by far.
    """
    ends = {
        name: {seed: values[-1] for seed, (_, values) in seeds.items()}
        for name, seeds in metrics.items()
        if name in VALUES or "loss" in name.split("_")
    }
    highest, largest = None, 0.0
    loss = LOSS * agent.spec.action_dim
    bounds = {}
    if any(name in ends for name in VALUES):
        highest, largest = attainable(data, mixture, agent)
        # A loss is of values, or of their squares.
        loss = max(loss, FAR * (1 + largest) ** 2)
        bounds = {name: (-FAR * (1 + largest), highest + MARGIN * largest) for name in VALUES}
    beyond: list[dict[str, Any]] = []
    for name, seeds in ends.items():
        low, high = bounds.get(name, (-loss, loss))
        for seed, value in seeds.items():
            if not low <= value <= high:
                bound = low if value < low else high
                beyond.append({"metric": name, "seed": seed, "value": value, "bound": bound})
    optimistic = bool(beyond) and all(
        each["metric"] in VALUES and 0 < each["value"] - each["bound"] < FAR * (1 + largest)
        for each in beyond
    )
    return {
        "attainable": highest,
        "beyond": beyond,
        "optimistic": optimistic,
        "alarm": bool(beyond),
    }


def alarm(judged: Mapping[str, Any]) -> list[str]:
    """What a run that has blown up warns of, in one sentence; nothing for others.

    Critics that only promise more than anybody can earn may be on their way down.
    """
    if not judged["alarm"]:
        return []
    worst = max(judged["beyond"], key=lambda each: abs(each["value"]) / max(abs(each["bound"]), 1))
    many = len(judged["beyond"]) - 1
    others = f", and {many} other measurement{'s' if many > 1 else ''} of it" if many else ""
    side = "at most" if worst["value"] > worst["bound"] else "at least"
    said = (
        f"{worst['metric']} of seed {worst['seed']} ended at {worst['value']:.4g}{others}, where "
        f"the rewards allow {side} {worst['bound']:.4g}"
    )
    if judged["optimistic"]:
        return [
            f"the critics predict impossible values: {said}; they had too few updates to come "
            "down, or their actions leave the data: raise updates; then, of rollouts, raise "
            "filter.penalty or lower source.horizon, else stay nearer to the data, as "
            "algorithm=td3_bc agent.alpha=1 and algorithm=bc do"
        ]
    return [
        f"the run has blown up: {said}; lower the learning rates, and do not use its policy",
    ]


def _ends(rewards: Tensor) -> tuple[float, float]:
    finite = rewards[rewards.isfinite()]
    if not len(finite):
        return math.inf, -math.inf
    low, high = finite.aminmax()
    return low.item(), high.item()
