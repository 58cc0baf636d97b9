"""Policy-guided diffusion: segments likelier under a policy, truer than an autoregressive model's.

Policy-guided diffusion, arXiv:2404.06356, and SynthER, arXiv:2303.06614, on Pendulum and Hopper.
Segments of a generator, guided by a policy that TD3+BC learnt from the recorded data, are held
against the true simulator beside rollouts of that policy in an ensemble; then TD3+BC and IQL learn
from recorded data, from SynthER's, and from segments unguided and guided by the learner itself. The
budgets, far below the papers', are those of `tasks.py` beside this file; a quick run only shows
that everything works.

Returns are compared by `benchmarks/claims/judging.py`: where the intervals do not decide, the
line only informs.
"""

import os
from collections.abc import Mapping

import torch

from reverie.benchmarks.claims.experiment import (
    History,
    describe_runs,
    run_all,
    split_by_task,
)
from reverie.benchmarks.claims.judging import (
    Estimate,
    estimate,
    estimate_difference,
    judge_margin,
    judge_order,
    subtract,
)
from reverie.benchmarks.claims.policy_guided_diffusion import experience as synthetic_experience
from reverie.benchmarks.claims.policy_guided_diffusion import plots as synthetic_plots
from reverie.benchmarks.claims.policy_guided_diffusion import tasks as synthetic_tasks
from reverie.benchmarks.claims.policy_guided_diffusion.experience import (
    AGENTS,
    ARMS,
    ENSEMBLE,
    GUIDED,
    REAL,
    STRENGTHS,
    SYNTHER,
    UNGUIDED,
    guided_name,
)
from reverie.benchmarks.claims.report import AFTER, Claim, Findings, run_command
from reverie.datasets.dataset import Dataset

NAME = "policy_guided_diffusion"
TITLE = "Policy-guided diffusion, arXiv:2404.06356: mean over seeds ± 95 % interval"
FACTOR = 2.0
"""Between the shares of terminations in synthetic and in recorded data, at most."""
MARGIN = 0.1
"""Share of what the recorded data gained over random actions that SynthER may lose."""

Measured = Mapping[str, Mapping[str, torch.Tensor]]
"""Kinds of segments, and what `segment_quality.measure` says of them."""


def measure(quick: bool) -> Findings:
    """Fit, then measure segments and train learners."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tasks = dict(synthetic_tasks.TASKS)
    if quick:
        tasks = {name: synthetic_tasks.shorten(task) for name, task in tasks.items()}
    data = {name: synthetic_tasks.load(task) for name, task in tasks.items()}
    fitted = run_all(synthetic_experience.fit_jobs(tasks, data))
    found = run_all(synthetic_experience.arm_jobs(tasks, data, fitted))
    segments = {name: found.pop(f"{name}/segments") for name in tasks}
    runs = split_by_task(
        {name: run for name, run in (fitted | found).items() if isinstance(run, History)}
    )
    judged = not quick
    claims = [
        claim
        for name, task in tasks.items()
        for claim in (
            *segment_claims(name, segments[name], judged),
            *return_claims(name, task.random_return, runs[name], judged),
            *termination_claims(name, terminations(data[name]), segments[name], judged),
        )
    ]
    details = {
        name: {
            "task": vars(task) | {"schedule": vars(task.schedule)},
            "dataset": data[name].fingerprint,
            "fits": {part: fitted[f"{name}/{part}"][1] for part in synthetic_experience.FITTED},
            "segments": segments[name],
            "runs": describe_runs(runs[name]),
        }
        for name, task in tasks.items()
    }
    return Findings(
        claims,
        details,
        {
            f"{NAME}-segments": synthetic_plots.segments(segments),
            f"{NAME}-returns": synthetic_plots.returns(runs, data),
        },
    )


def segment_claims(name: str, segments: Measured, judged: bool) -> list[Claim]:
    """Guidance against its absence, and against the ensemble; differences are paired by seed."""
    steps = segments[ENSEMBLE]["error_by_position"].shape[1]
    kinds = [guided_name(strength) for strength in STRENGTHS]
    errors = {kind: estimate(each["error"].tolist()) for kind, each in segments.items()}
    likely = {kind: estimate(each["log_likelihood"].tolist()) for kind, each in segments.items()}
    gains = [
        paired_difference(segments[kind], segments[UNGUIDED], "log_likelihood") for kind in kinds
    ]
    order = [likely[kind].mean for kind in (UNGUIDED, *kinds)]
    claims = [
        Claim(
            f"{name}: dynamics error of recorded segments, the floor of what follows",
            "root mean square one-step error over all positions, in std of the data",
            f"{errors[REAL]}",
            None,
            source="ours",
        ),
        Claim(
            f"{name}: guidance raises the likelihood of the target policy",
            f"mean log pi(a | s) above that of unguided segments at strength "
            f"{', '.join(f'{s:g}' for s in STRENGTHS)} (95 % intervals), and rising",
            f"unguided {likely[UNGUIDED]}; gains " + ", ".join(map(str, gains)),
            all(gain.low > 0 for gain in gains) and order == sorted(order) if judged else None,
        ),
    ]
    for kind in (UNGUIDED, *kinds):
        less = paired_difference(segments[kind], segments[ENSEMBLE], "error")
        claims.append(
            Claim(
                f"{name}: {kind} segments are truer than rollouts of {steps} steps in the ensemble",
                "lower dynamics error, interval of the difference below 0",
                f"{errors[kind]} against {errors[ENSEMBLE]}: {less}",
                less.high < 0 if judged else None,
            )
        )
    for metric, text in (
        ("error_by_position", "root mean square one-step error, first and last position"),
        ("median_by_position", "median one-step error, first and last position"),
        ("drift_by_position", "median distance from a replay of the actions, first and last"),
    ):
        claims.append(
            Claim(
                f"{name}: {text}",
                "-",
                "; ".join(
                    f"{kind} {first.mean:.3g} to {last.mean:.3g}"
                    for kind, each in segments.items()
                    if kind != SYNTHER
                    for first, last in [ends(each[metric])]
                ),
                None,
                source="ours",
            )
        )
    return claims


def return_claims(
    name: str, random_return: float, runs: Mapping[str, History], judged: bool
) -> list[Claim]:
    """Arms of the same learner; a quick run is too short for returns."""
    claims = []
    for agent in AGENTS:
        returns = {arm: estimate(runs[f"{agent}/{arm}"].mean_of_last("return")) for arm in ARMS}
        margin = MARGIN * (returns[REAL].mean - random_return)
        change = subtract(returns[SYNTHER], returns[REAL])
        matches = judge_margin(change, margin)
        claims.append(
            Claim(
                f"{name}, {agent}: SynthER's data are as good as the recorded ones",
                f"return not lower by more than {margin:.3g}",
                f"{returns[SYNTHER]} against {returns[REAL]}"
                + (", undecided" if matches is None else ""),
                matches if judged else None,
                f"paper, SynthER's fit lengthened {AFTER}" if name == "hopper" else "paper",
            )
        )
        for arm, text in ((REAL, "recorded data alone"), (UNGUIDED, "unguided segments")):
            holds = judge_order(returns[arm], returns[GUIDED])
            claims.append(
                Claim(
                    f"{name}, {agent}: guided segments are better than {text}",
                    "higher return (mean of the last three evaluations), intervals apart",
                    f"{returns[GUIDED]} against {returns[arm]}"
                    + (", undecided" if holds is None else ""),
                    holds if judged else None,
                    f"paper, guided rounds begin later {AFTER}",
                )
            )
    return claims


def terminations(data: Dataset) -> float:
    """Share of recorded transitions that end the task."""
    return data.transitions.terminated.float().mean().item()


def termination_claims(name: str, real: float, segments: Measured, judged: bool) -> list[Claim]:
    """Shares of transitions that end the task, against that in the data."""
    claims = []
    for kind in (UNGUIDED, guided_name(STRENGTHS[0]), SYNTHER):
        share = estimate(segments[kind]["terminations"].tolist())
        claims.append(
            Claim(
                f"{name}: share of terminations in {kind} data",
                f"within a factor {FACTOR:g} of the recorded {real:.3g}"
                if real
                else "none, as in the data",
                f"{share}",
                alike(share.mean, real) if judged else None,
            )
        )
    return claims


def alike(share: float, real: float) -> bool:
    """Whether two shares are within `FACTOR`; of nothing, only nothing is."""
    return real / FACTOR <= share <= real * FACTOR


def paired_difference(
    one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], metric: str
) -> Estimate:
    """Difference of a number, seed by seed: both have the same target policy."""
    return estimate_difference(one[metric].tolist(), other[metric].tolist())


def ends(by_position: torch.Tensor) -> tuple[Estimate, Estimate]:
    """The first and the last position of a segment."""
    return estimate(by_position[:, 0].tolist()), estimate(by_position[:, -1].tolist())


if __name__ == "__main__":
    run_command(NAME, TITLE, __doc__, measure)
