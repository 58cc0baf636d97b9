"""One's own log, no simulator: is the trained controller better, and does the verdict know it?

Agents learn from the log of the two tanks, whose plant nobody shows them, and are judged as every
run is, from the log alone. Only then they act in the plant, as do ten controllers of graded
quality that were judged in the same way.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

import reverie
from reverie import datasets
from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims.experiment import CPU, run_all
from reverie.benchmarks.claims.judging import estimate
from reverie.benchmarks.claims.report import Claim, Findings, run_command
from reverie.datasets.dataset import Dataset
from reverie.datasets.options import read_option
from reverie.envs import two_tanks
from reverie.envs.make import spec_of
from reverie.training.launch.options import build_option
from reverie.training.ope.alarms import is_worse
from reverie.training.ope.estimates import true_outcomes
from reverie.training.ope.verdict import Verdict
from reverie.training.seeding import seed_everything
from reverie.world_models.base import WorldModel
from reverie.world_models.measures import spearman

NAME = "own_data"
TITLE = "One's own log: what the verdict said beside what the plant did"
DATASET = "builtin/two-tanks"
DISCOUNT = 0.99
METHODS = {"fqe": "fitted Q evaluation", "model": "model rollouts"}
ARMS = ("td3_bc", "mopo")
GRADED = {
    "gain 0.04": (0.04, 0.0),
    "gain 0.02": (0.02, 0.0),
    "gain 0.08": (0.08, 0.0),
    "gain 0.01": (0.01, 0.0),
    "gain 0.3, swings": (0.3, 0.0),
    "no feedback": (0.0, 0.0),
    "gain 0.02, trim +0.05": (0.02, 0.05),
    "gain 0.02, trim -0.1": (0.02, -0.1),
    "trim +0.2": (0.0, 0.2),
    "gain -0.02": (-0.02, 0.0),
}
"""Gain and trim of `envs.two_tanks.feedback`."""


@dataclass(frozen=True)
class Budget:
    """How much of everything; chosen before anything was seen.

    Attributes:
        seeds: S, of agents, and of critics and world models that judge.
        updates: of every agent.
        fqe_updates: of fitted Q evaluation of the graded ones; agents have their run's own.
        epochs: of world models, at most; None for their own rule.
        episodes: of every policy in the plant.
    """

    seeds: int = 4
    updates: int = 10_000
    fqe_updates: int = 4_000
    epochs: int | None = None
    episodes: int = 100


QUICK = Budget(seeds=2, updates=300, fqe_updates=200, epochs=2, episodes=5)


@dataclass(frozen=True)
class Judged:
    """P policies as a verdict saw them, and as the plant did.

    Attributes:
        names: of the policies, length P.
        verdict: what `Verdict.judge` says of them.
        values, returns: `[P]` true means, of discounted values and of episodes of 200 steps.
    """

    names: list[str]
    verdict: Mapping[str, Any]
    values: Float[Tensor, " P"]
    returns: Float[Tensor, " P"]


def measure(quick: bool) -> Findings:
    """Learn, judge, act."""
    torch.set_num_threads(1)  # as the jobs, which run side by side
    budget = QUICK if quick else Budget()
    jobs: dict[str, Callable[[], Any]] = {
        arm: partial(train, arm, budget) for arm in reversed(ARMS)
    }
    jobs |= {f"graded {seed}": partial(grade, seed, budget) for seed in range(budget.seeds)}
    jobs["pi"] = partial(controller_returns, budget.episodes)
    found = run_all(jobs)
    trained = {arm: found[arm] for arm in ARMS}
    graded = [found[f"graded {seed}"] for seed in range(budget.seeds)]
    recorded = datasets.load(DATASET).returns
    claims = [
        *claim_control(trained, found["pi"], float(recorded.mean()), judge=not quick),
        *claim_estimates(trained, graded, judge=not quick),
        *claim_outcomes([*trained.values(), *graded], judge=not quick),
    ]
    details = {
        "budget": vars(budget),
        "pi_returns": found["pi"],
        "recorded_returns": recorded,
        "trained": {arm: vars(judged) for arm, judged in trained.items()},
        "graded": [vars(judged) for judged in graded],
    }
    return Findings(claims, details, {NAME: plot(trained, graded)})


def train(arm: str, budget: Budget) -> Judged:
    """Agents of one method, with the verdict of their own run."""
    changes = (
        [f"world_model.max_epochs={budget.epochs}"] if budget.epochs and arm[:2] == "mo" else []
    )
    run = reverie.make(
        f"algorithm={arm}",
        f"dataset={DATASET}",
        f"seeds={budget.seeds}",
        f"updates={budget.updates}",
        "threads=1",
        "evaluate.every=0",
        "probe_starts=0",
        *changes,
    )
    verdict = run.train().summary["verdict"]
    return act([f"{arm}, seed {seed}" for seed in range(budget.seeds)], run.policy, verdict, budget)


def grade(seed: int, budget: Budget) -> Judged:
    """The graded controllers, judged with critics and a world model of one seed."""
    data = datasets.load(DATASET)
    changes = {} if budget.epochs is None else {"max_epochs": budget.epochs}
    seed_everything(seed)
    model = shared_model(data, changes, seed)
    verdict: Verdict | None = reverie.make(
        "algorithm=td3_bc",
        dataset=data,
        verdict={"fqe": {"updates": budget.fqe_updates, "share": 1.0}},
    ).verdict
    assert verdict is not None
    seed_everything(seed)
    judged = verdict.judge(
        control_graded,
        data,
        model,
        seeds=len(GRADED),
        discount=DISCOUNT,
        seed=seed,
        device=CPU,
        console=Console(markup=False, emoji=False),
    )
    return act(list(GRADED), control_graded, judged, budget)


def shared_model(data: Dataset, changes: Mapping[str, Any], seed: int) -> WorldModel:
    """One fitted ensemble, repeated for every graded controller."""
    fitted = experiment.fit("world_model", "ensemble", data, changes=changes, seeds=1, seed=seed)
    weights = fitted.model.state_dict()
    model: WorldModel = build_option(
        "world_model", "ensemble", changes=changes, spec=data.spec, seeds=len(GRADED), seed=seed
    )
    repeated = {name: weights[name].expand_as(each) for name, each in model.state_dict().items()}
    model.load_state_dict(repeated)
    model.replay_exogenous(data)
    return model


def control_graded(obs: Float[Tensor, "P B 4"]) -> Float[Tensor, "P B 1"]:
    """Actions in [-1, 1] of all graded controllers."""
    pairs = zip(obs, GRADED.values(), strict=True)
    valves = [two_tanks.feedback(own, gain, trim=trim) for own, (gain, trim) in pairs]
    return 2.0 * torch.stack(valves) - 1.0


def act(names: list[str], policy: Any, verdict: Mapping[str, Any], budget: Budget) -> Judged:
    """Let policies act in the plant that nobody showed them."""
    outcomes = true_outcomes(
        spec_of(two_tanks.ENV_ID, env_kwargs={}, physics="as-is"),
        policy,
        seeds=len(names),
        episodes=budget.episodes,
        seed=10_000,
        discount=verdict["discount"],
    )
    return Judged(names, verdict, outcomes["values"].mean(1), outcomes["returns"].mean(1))


def controller_returns(episodes: int) -> list[float]:
    """Returns in the plant of the PI controller that recorded the log, without its random moves."""
    settings = read_option(DATASET, {})
    returns = []
    env = two_tanks.TwoTanks()
    for episode in range(episodes):
        controller = two_tanks.PI(settings["gain"], settings["reset"])
        obs, _ = env.reset(seed=10_000 + episode)
        total = 0.0
        for _ in range(two_tanks.EPISODE_STEPS):
            obs, reward, *_ = env.step(np.array([controller.act(obs)], np.float32))
            total += float(reward)
        returns.append(total)
    return returns


def claim_control(
    trained: Mapping[str, Judged], controller: list[float], recorded: float, judge: bool
) -> list[Claim]:
    """Whether learning from the log paid in the plant."""
    mean = float(np.mean(controller))
    claims = [
        Claim(
            "return of an episode in the plant: the PI controller; what the log holds of it",
            "-",
            f"{mean:.1f}; {recorded:.1f}",
            None,
            "ours",
        )
    ]
    for arm, judged in trained.items():
        gain = estimate((judged.returns - mean).tolist())
        claims.append(
            Claim(
                f"{arm}: return in the plant above that of the PI controller",
                "interval above 0",
                str(gain),
                gain.low > 0 if judge else None,
                "ours",
            )
        )
    return claims


def claim_estimates(
    trained: Mapping[str, Judged], graded: list[Judged], judge: bool
) -> list[Claim]:
    """Order and intervals of both estimates."""
    claims = []
    for method, text in METHODS.items():
        order = estimate([rank_correlation(each, method) for each in graded])
        claims.append(
            Claim(
                f"{len(GRADED)} graded controllers, {text}: rank correlation with the true value",
                "interval above 0",
                str(order),
                order.low > 0 if judge else None,
                "ours",
            )
        )
        sets = {"graded controllers": graded, "trained agents": list(trained.values())}
        for label, those in sets.items():
            inside = [hit for each in those for hit in covered(each, method)]
            share = f"{np.mean(inside):.0%} of {len(inside)}" if inside else "no model"
            claims.append(
                Claim(
                    f"{label}, {text}: true value in the 95 % interval", "95 %", share, None, "ours"
                )
            )
    hits = [hit for each in [*trained.values(), *graded] for hit in covered_corrected(each)]
    share = f"{np.mean(hits):.0%} of {len(hits)}" if hits else "no weights count"
    text = "all, doubly robust where its weights count: true value in the 95 % interval"
    return [*claims, Claim(text, "95 %", share, None, "ours")]


def covered_corrected(judged: Judged) -> list[bool]:
    """Whether each doubly robust interval holds the true value, where there is one."""
    weighed = judged.verdict["doubly_robust"]
    if weighed is None:
        return []
    held = zip(covered(judged, "doubly_robust"), weighed["steps"], strict=True)
    return [hit for hit, steps in held if steps]


def rank_correlation(judged: Judged, method: str) -> float:
    """Spearman's, of the estimates with the true values."""
    estimates = torch.tensor([value for value, *_ in judged.verdict[method]["value"]]).double()
    return float(spearman(estimates[None], judged.values.double()[None])[0])


def covered(judged: Judged, method: str) -> list[bool]:
    """Whether each interval holds the true value; empty without this estimate."""
    found = judged.verdict[method]
    if found is None:
        return []
    pairs = zip(found["value"], judged.values.tolist(), strict=True)
    return [low <= true <= high for (_, low, high), true in pairs]


def claim_outcomes(all_judged: list[Judged], judge: bool) -> list[Claim]:
    """Whether one may act on what a verdict says."""
    better: list[bool] = []
    worse: list[bool] = []
    warned: list[bool] = []
    unharmed: list[bool] = []
    for judged in all_judged:
        truly = [value > judged.verdict["recorded"]["value"][0] for value in judged.values.tolist()]
        for outcome, good in zip(judged.verdict["outcome"], truly, strict=True):
            if outcome == "better":
                better.append(good)
            if outcome == "worse":
                worse.append(not good)
            (unharmed if good else warned).append(outcome != "better")
    said = [
        ("called better than what was recorded: truly better", "at least 90 %", better, 0.9, True),
        ("called worse: truly worse", "at least 90 %", worse, 0.9, True),
        (
            "truly worse than what was recorded: not called better",
            "at least 90 %",
            warned,
            0.9,
            True,
        ),
        ("truly better: not called so (worse, unclear, contradiction)", "-", unharmed, 0.0, False),
    ]
    claims = []
    for text, expected, hits, threshold, decides in said:
        measured = f"{np.mean(hits):.0%} of {len(hits)}" if hits else "none"
        holds = bool(np.mean(hits) >= threshold) if judge and decides and hits else None
        claims.append(Claim(f"policies {text}", expected, measured, holds, "ours"))
    for label, deserved in (("worse than what was recorded", True), ("better", False)):
        fired = [
            (warns(judged.verdict, policy), rings(judged.verdict, policy))
            for judged in all_judged
            for policy, value in enumerate(judged.values.tolist())
            if (value <= judged.verdict["recorded"]["value"][0]) == deserved
        ]
        proper = [alarm for _, alarm in fired]
        for text, hits in (
            ("a warning beside the verdict, or no deployment", [any(each) for each in fired]),
            ("an alarm (contradiction, worse, or what no reward allows)", proper),
        ):
            measured = f"{np.mean(hits):.0%} of {len(hits)}" if hits else "none"
            claims.append(Claim(f"policies truly {label}: {text}", "-", measured, None, "ours"))
    return claims


def warns(verdict: Mapping[str, Any], policy: int) -> bool:
    """Whether a verdict advises against a policy, or names a reason for doubt."""
    against = verdict["outcome"][policy] in ("worse", "contradiction")
    return against or bool(verdict["cautions"][policy])


def rings(verdict: Mapping[str, Any], policy: int) -> bool:
    """Whether a run would end with an alarm about a policy."""
    contradicts = verdict["outcome"][policy] == "contradiction"
    return contradicts or is_worse(verdict, policy) or bool(verdict["impossible"][policy])


def plot(trained: Mapping[str, Judged], graded: list[Judged]) -> Figure:
    """Estimates with their intervals over the truth, a panel a method."""
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    for ax, (method, title) in zip(figure.subplots(1, 2), METHODS.items(), strict=True):
        sets = {"graded controllers": graded, **{arm: [own] for arm, own in trained.items()}}
        for number, (label, those) in enumerate(sets.items()):
            points = [
                (true, *interval)
                for judged in those
                if judged.verdict[method] is not None
                for true, interval in zip(
                    judged.values.tolist(), judged.verdict[method]["value"], strict=True
                )
            ]
            if not points:
                continue
            true, value, low, high = np.array(points).T
            ax.vlines(true, low, high, color=f"C{number}", alpha=0.4)
            ax.plot(true, value, "o", color=f"C{number}", ms=4, label=label)
        recorded = graded[0].verdict["recorded"]["value"][0]
        ax.axhline(recorded, color="0.6", ls=":", label="recorded behaviour")
        truths = [value for judged in [*graded, *trained.values()] for value in judged.values]
        ends = [float(min(truths)), float(max(truths))]
        ax.plot(ends, ends, color="0.6", ls="--", lw=1)
        # Costs of very different size.
        ax.set(xscale="symlog", yscale="symlog")
        ax.set(xlabel=f"true value, discounted by {DISCOUNT}", ylabel="estimate from the log")
        ax.set_title(title, fontsize=10)
        ax.grid(alpha=0.3)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8
    )
    return figure


if __name__ == "__main__":
    run_command(NAME, TITLE, __doc__, measure)
