"""The pendulum, planned in its true dynamics and in ensembles fitted to mixed data.

No policy is trained. The second ensemble stops early, as those for rollouts of a few steps do.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from reverie import datasets
from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims.plans import ensemble, plan
from reverie.benchmarks.claims.report import Claim, Findings
from reverie.training.launch.options import build_option
from reverie.world_models.diagnostics import measure

DATASET = "builtin/pendulum-mixed"
TRUE, FITTED, HASTY = "true dynamics", "ensemble", "ensemble, patience 5"
KNOWN, LEARNED, ABOVE = 95.0, 90.0, 50.0
"""Scores in the truth and in a fitted model, and what the latter is above the behaviour's mean."""
EPISODES, QUICK_EPISODES = 10, 3
QUICK = {"max_epochs": 25}


def run(arm: str, quick: bool) -> dict[str, Any]:
    """Fit, plan, and measure the model's errors."""
    data = datasets.load(DATASET)
    episodes = QUICK_EPISODES if quick else EPISODES
    assert data.reference is not None
    behaviour = float(data.reference.normalise(data.returns[data.whole].mean()))
    if arm == TRUE:
        exact = build_option("world_model", "true_dynamics", spec=data.spec, seeds=1, seed=0)
        return plan(data, exact, {}, episodes=episodes) | {"behaviour": behaviour}
    changes = ensemble() | (QUICK if quick else {}) | ({"patience": 5} if arm == HASTY else {})
    fitted = experiment.fit("world_model", "ensemble", data, changes=changes, seeds=1)
    with torch.no_grad():
        errors = measure(fitted.model, data)["open_loop"]
    return plan(data, fitted.model, {}, episodes=episodes) | {
        "behaviour": behaviour,
        "epochs": fitted.described["epochs"],
        "fit_seconds": fitted.seconds,
        "error": dict(zip(errors["horizons"], errors["mean"]["median"][0], strict=True)),
    }


def jobs(quick: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """The arms; a quick run leaves the hasty fit out."""
    arms = (FITTED, TRUE) if quick else (FITTED, HASTY, TRUE)
    return {arm: partial(run, arm, quick) for arm in arms}


def judge(found: Mapping[str, Mapping[str, Any]], quick: bool) -> Findings:
    """Scores against what was asked of them."""
    true, fitted = found[TRUE], found[FITTED]
    score, least = fitted["score"][0], max(LEARNED, fitted["behaviour"] + ABOVE)
    claims = [
        Claim(
            "pendulum, MPPI in the true dynamics, 15 steps ahead, 64 plans, 3 iterations",
            f"score of {KNOWN:g} or more",
            f"{true['score'][0]:.1f}",
            true["score"][0] >= KNOWN,
            "ours",
        ),
        Claim(
            "pendulum, MPPI in an ensemble fitted to mixed data, no policy trained",
            f"score of {least:.3g} or more; the behaviour's mean is {fitted['behaviour']:.1f}",
            f"{score:.1f}; {_described(fitted)}",
            score >= least if not quick else None,
            "ours",
        ),
    ]
    if HASTY in found:
        hasty = found[HASTY]
        claims.append(
            Claim(
                "the same with a fit that stops after 5 epochs without improvement",
                "no claim",
                f"{hasty['score'][0]:.1f}; {_described(hasty)}",
                None,
                "ours",
            )
        )
    claims.append(
        Claim(
            "time of a decision in one episode",
            "no claim",
            ", ".join(f"{arm}: {each['milliseconds']:.3g} ms" for arm, each in found.items()),
            None,
            "ours",
        )
    )
    return Findings(claims, {})


def _described(fitted: Mapping[str, Any]) -> str:
    errors = ", ".join(
        f"{error:.2g} after {steps}"
        for steps, error in fitted["error"].items()
        if int(steps) in (1, 25)  # a number, or its name in a file
    )
    return f"{fitted['epochs'][0]} epochs, open-loop error in standard deviations: {errors}"
