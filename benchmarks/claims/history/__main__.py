"""Whether a history makes up for a sensor that is missing: the pendulum without its velocity.

One-step and open-loop errors of world models that see k observations and k - 1 past actions, and
the scores of MOPO and of behaviour clones with them, four seeds each as one process. The claims,
ours, their numbers and the budgets (`pendulum.py` beside this file, `claims/blind_pendulum.py`)
were chosen before anything was run, after one measurement with another model and one seed. A quick
run judges nothing.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from matplotlib.figure import Figure

from reverie.benchmarks.claims import blind_pendulum
from reverie.benchmarks.claims.blind_pendulum import FULL, LEARNED, LENGTHS, STEPS, Modelled
from reverie.benchmarks.claims.experiment import History, describe_runs, run_all
from reverie.benchmarks.claims.history import pendulum
from reverie.benchmarks.claims.history.pendulum import CLONES, POLICIES, QUICK, WHOLE
from reverie.benchmarks.claims.judging import Estimate, estimate, judge_order
from reverie.benchmarks.claims.report import Claim, Findings, draw_range, run_command
from reverie.datasets.dataset import Dataset
from reverie.envs.specs import Reference

NAME = "history"
TITLE = "A pendulum without its velocity: mean over seeds ± 95 % interval"
FACTOR = 10.0
"""By which four observations must be better than one, of the error of one step."""
NEAR = 2.0
"""Times the error with the velocity that four observations may have."""
GOOD, BAD = 60.0, 30.0
"""Scores of MOPO above which three observations must end, and below which one must."""

Models = Mapping[str, Modelled]
Scores = Mapping[str, Estimate]


def measure(quick: bool) -> Findings:
    """Fit and train every arm."""
    size = QUICK if quick else WHOLE
    log = blind_pendulum.record(size)
    assert log.reference is not None
    data, cloned = blind_pendulum.arms(log), pendulum.clones(log)
    models = run_all({arm: partial(blind_pendulum.model, arm, data[arm], size) for arm in data})
    runs = run_all(
        {arm: partial(pendulum.train, arm, data[arm], models[arm].fit, size) for arm in POLICIES}
        | {arm: partial(pendulum.clone, arm, cloned[arm], size) for arm in CLONES}
    )
    scores = {arm: score(run, log.reference) for arm, run in runs.items()}
    claims = [*model_claims(models), *policy_claims(scores), *clone_claims(scores, log)]
    if quick:
        claims = [replace(claim, holds=None) for claim in claims]
    details = {
        "dataset": {arm: each.fingerprint for arm, each in (data | cloned).items()},
        "model": size.model,
        "agent": pendulum.AGENT,
        "budget": vars(size.budget),
        "errors": {
            arm: {
                "one_step": found.one_step,
                "reward": found.reward,
                "open_loop": dict(
                    zip(found.horizons, zip(*found.errors, strict=True), strict=True)
                ),
                "fitting_seconds": found.fit.seconds,
            }
            for arm, found in models.items()
        },
        "scores": scores,
        "runs": describe_runs(runs),
    }
    return Findings(claims, details, {NAME: plot(models, runs, log.reference)})


def score(run: History, reference: Reference) -> Estimate:
    """Of each seed's last three evaluations."""
    return estimate([reference.normalise(value) for value in run.mean_of_last("return")])


def model_claims(models: Models) -> list[Claim]:
    """What is said of the models."""
    error = {arm: estimate(found.one_step) for arm, found in models.items()}
    ahead = {arm: estimate(found.open_loop) for arm, found in models.items()}

    def ratio(one: str, other: str) -> Estimate:
        pairs = zip(models[one].one_step, models[other].one_step, strict=True)
        return estimate([mine / its for mine, its in pairs])

    def told(arms: list[str], values: Mapping[str, Estimate]) -> str:
        return ", ".join(f"{arm} {values[arm]}" for arm in arms)

    lengths = [f"k={length}" for length in LENGTHS]
    gain, near = ratio("k=1", "k=4"), ratio("k=4", FULL)
    reward = {arm: estimate(found.reward) for arm, found in models.items()}
    return [
        _ours(
            "one step of the model: four observations against one",
            f"error at least {FACTOR:g} times smaller, the lower end of the interval",
            f"{gain} times ({told(lengths, error)})",
            gain.low >= FACTOR,
        ),
        _ours(
            "one step of the model: four observations against the velocity itself",
            f"error at most {NEAR:g} times as large, the upper end of the interval",
            f"{near} times ({told(['k=4', FULL], error)})",
            near.high <= NEAR,
        ),
        _ours(
            "one step of the reward, which the velocity pays for",
            "the line informs",
            told([*lengths, FULL], reward),
            None,
        ),
        _ours(
            f"{STEPS} steps: columns that are copied against columns that are learned",
            "smaller error of cosine and sine, intervals apart",
            told(["k=4", LEARNED], ahead),
            judge_order(ahead["k=4"], ahead[LEARNED]),
        ),
        _ours(f"{STEPS} steps", "the line informs", told([*lengths, FULL], ahead), None),
    ]


def policy_claims(scores: Scores) -> list[Claim]:
    """What is said of MOPO."""
    return [
        _ours(
            "MOPO with three observations",
            f"scores above {GOOD:g}, the lower end of the interval",
            f"{scores['k=3']}, with the velocity {scores[FULL]}",
            scores["k=3"].low > GOOD,
        ),
        _ours(
            "MOPO with one observation",
            f"scores below {BAD:g}, the upper end of the interval",
            f"{scores['k=1']}",
            scores["k=1"].high < BAD,
        ),
    ]


def clone_claims(scores: Scores, log: Dataset) -> list[Claim]:
    """Behaviour clones, which may learn to repeat the last action."""
    assert log.reference is not None
    recorded = log.reference.normalise(float(log.returns.mean()))
    return [
        _ours(
            "behaviour cloning",
            "the line informs: past actions may teach it to repeat itself",
            ", ".join(f"{arm} {scores[arm]}" for arm in CLONES) + f"; recorded {recorded:.3g}",
            None,
        )
    ]


def _ours(text: str, expected: str, measured: str, holds: bool | None) -> Claim:
    return Claim(text, expected, measured, holds, "ours")


def plot(models: Models, runs: Mapping[str, History], reference: Reference) -> Figure:
    """Errors by k, errors by steps, and scores along training."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    by_k, by_steps, along = figure.subplots(1, 3)
    errors = torch.tensor([models[f"k={length}"].one_step for length in LENGTHS]).T
    draw_range(by_k, LENGTHS, errors, label="history", color="tab:blue")
    full = torch.tensor(models[FULL].one_step).unsqueeze(1).expand(-1, len(LENGTHS))
    draw_range(by_k, LENGTHS, full, label=FULL, color="tab:green", line="--")
    by_k.set(xscale="log", yscale="log", xlabel="observations in one", ylabel="error of one step")
    by_k.set_xticks(LENGTHS, [str(length) for length in LENGTHS], minor=False)
    shown = {"k=1": "tab:red", "k=4": "tab:blue", LEARNED: "tab:orange", FULL: "tab:green"}
    for arm, colour in shown.items():
        found = models[arm]
        draw_range(by_steps, found.horizons, found.errors, label=arm, color=colour)
    by_steps.set(xscale="log", yscale="log", xlabel="steps", ylabel="open-loop error")
    colours = {"k=1": "tab:red", "k=3": "tab:blue", FULL: "tab:green"}
    for arm, colour in colours.items():
        updates, returns = runs[arm].series["return"]
        draw_range(along, updates, reference.normalise(returns), label=f"MOPO, {arm}", color=colour)
    along.axhline(GOOD, color="grey", lw=0.8, ls=":")
    along.axhline(BAD, color="grey", lw=0.8, ls=":")
    along.set(xlabel="gradient steps", ylabel="score")
    for ax in (by_k, by_steps, along):
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    run_command(NAME, TITLE, __doc__, measure)
