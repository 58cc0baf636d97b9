"""The pendulum without its velocity, planned in models that see one observation or three.

Data and models are those of `benchmarks.claims.history`, whose MOPO learns in them; here no policy
is trained, so what is missing is missing from the model.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from reverie.benchmarks.claims import blind_pendulum
from reverie.benchmarks.claims.judging import Estimate, estimate, estimate_difference
from reverie.benchmarks.claims.plans import draw_scores, plan
from reverie.benchmarks.claims.report import Claim, Findings

BLIND, HISTORY, FULL = "k=1", "k=3", blind_pendulum.FULL
ARMS = (HISTORY, BLIND, FULL)
EPISODES, QUICK_EPISODES = 5, 1
NEAR, FAR = 10.0, 30.0
"""Points below the plans with the velocity: at most, with a history; at least, without one."""


def run(arm: str, quick: bool) -> dict[str, Any]:
    """Fit, plan, and say how far off the model is after one step."""
    size = blind_pendulum.QUICK if quick else blind_pendulum.WHOLE
    data = blind_pendulum.arms(blind_pendulum.record(size))[arm]
    assert data.reference is not None  # else every arm would have a scale of its own
    found = blind_pendulum.model(arm, data, size)
    episodes = QUICK_EPISODES if quick else EPISODES
    return plan(data, found.fit.model, {}, episodes=episodes, seeds=blind_pendulum.SEEDS) | {
        "one_step": found.one_step,
        "fit_seconds": found.fit.seconds,
    }


def jobs(quick: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """One an arm."""
    return {arm: partial(run, arm, quick) for arm in ARMS}


def judge(found: Mapping[str, Mapping[str, Any]], quick: bool) -> Findings:
    """Whether a history makes up for the velocity, and whether one is needed."""
    scores = {arm: found[arm]["score"] for arm in (BLIND, HISTORY, FULL)}

    def claim(arm: str, expected: str, holds: Callable[[Estimate], bool]) -> Claim:
        behind = estimate_difference(scores[FULL], scores[arm])
        return Claim(
            f"pendulum without its velocity: plans in a model with {arm}",
            f"{expected} points below those with the velocity",
            f"{estimate(scores[arm])} against {estimate(scores[FULL])}: {behind} below; "
            f"{found[arm]['milliseconds']:.3g} ms per decision of {blind_pendulum.SEEDS} seeds",
            None if quick else holds(behind),
            "ours",
        )

    figure = Figure(figsize=(4, 3.2), layout="constrained")
    axes = figure.subplots()
    draw_scores(axes, scores)
    axes.set_title("plans, pendulum without its velocity", fontsize=10)
    return Findings(
        [
            claim(HISTORY, f"at most {NEAR:g}", lambda behind: behind.mean <= NEAR),
            claim(BLIND, f"at least {FAR:g}", lambda behind: behind.low >= FAR),
        ],
        {},
        {"planning-hidden_velocity": figure},
    )
