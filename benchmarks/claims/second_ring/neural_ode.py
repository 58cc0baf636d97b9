"""Neural differential equations as a world model: logs that are sampled irregularly, and solvers.

That a model which knows how long each row lasted needs no resampling (neural ODEs,
arXiv:1806.07366), and that the local error of a solver in the loss lets it take fewer steps at
equal error: 0.56 to 0.73 times as many evaluations (arXiv:2303.02262).
"""

import torch

from reverie.benchmarks.claims.experiment import fit
from reverie.benchmarks.claims.judging import Estimate, estimate, judge_order
from reverie.benchmarks.claims.report import Claim, Findings
from reverie.benchmarks.claims.second_ring import irregular_log as log
from reverie.benchmarks.claims.second_ring import oscillator

TITLE = "Neural ODEs: irregular logs, and the error of a solver in the loss"
WEIGHTS = (0.0, 1.0, 10.0, 1e3, 1e5)
STEPS = 20
"""Nominal steps of the open loop, a second."""
FITTED = {
    "members": 3,
    "elites": 3,
    "hidden": [64, 64],
    "weight_decay": [1e-5, 1e-5, 1e-5],
    "batch": 64,
    "patience": 10,
    "heldout_episodes": 0,
}


def measure(quick: bool) -> Findings:
    """Four ways to treat an irregular log, and five weights of the local error."""
    torch.set_num_threads(1)
    seeds = 1 if quick else 3
    epochs, episodes, updates = (2, 10, 20) if quick else (20, 30, 1000)
    errors: dict[str, list[float]] = {}
    for seed in range(seeds):
        for name, value in _irregular(seed, epochs, episodes).items():
            errors.setdefault(name, []).append(value)
    arms = {name: estimate(values) for name, values in errors.items()}
    knows, ignores, again, given = arms.values()
    solved = [oscillator.fit_and_solve(WEIGHTS, updates, 100 + seed) for seed in range(seeds)]
    by_weight = {
        f"{weight:g}": {
            key: estimate([each[place][key] for each in solved]) for key in solved[0][place]
        }
        for place, weight in enumerate(WEIGHTS)
    }
    cheaper = [_compared(by_weight, name) for name in ("1", "10")]
    holds = any(fewer <= 0.75 and worse <= 1.1 for fewer, worse in cheaper)
    claims = [
        Claim(
            f"irregular pendulum, error after {STEPS} nominal steps: neural_ode that knows the "
            "durations, against the ensemble that takes all rows for alike",
            "at most half",
            f"{knows} against {ignores}",
            None if quick else knows.mean <= 0.5 * ignores.mean,
            "ours",
        ),
        Claim(
            "the same against the ensemble on the table resampled to equal steps",
            "lower",
            f"{knows} against {again}",
            None if quick else judge_order(knows, again),
            "ours",
        ),
        Claim(
            "the same against the ensemble that sees the duration as an exogenous observation",
            "for information",
            f"{knows} against {given}",
            None,
            "ours",
        ),
        Claim(
            "cubic oscillator, local error in the loss with weight 1 or 10, tolerance 1e-6: "
            "evaluations and error against weight 0 (arXiv:2303.02262)",
            "at most 0.75 times the evaluations, at most 1.1 times the error",
            ", ".join(f"{fewer:.2f} and {worse:.2f}" for fewer, worse in cheaper),
            None if quick else holds,
        ),
        Claim(
            "the same with weights 1000 and 100,000, beyond the paper's",
            "for information",
            ", ".join(
                "{:.2f} and {:.2f}".format(*_compared(by_weight, f"{weight:g}"))
                for weight in WEIGHTS[3:]
            ),
            None,
            "ours",
        ),
    ]
    details = {
        "seeds": seeds,
        "pendulum": {
            **{"episodes": episodes, "rows": 150, "epochs": epochs, "steps": STEPS},
            **{"settings": FITTED, "error": arms},
        },
        "oscillator": {"updates": updates, "by_weight": by_weight},
    }
    return Findings(claims, details)


def _compared(by_weight: dict[str, dict[str, Estimate]], name: str) -> tuple[float, float]:
    """Evaluations and error, as shares of those without the local error."""
    plain, other = by_weight["0"], by_weight[name]
    return (
        other["evaluations"].mean / plain["evaluations"].mean,
        other["mse"].mean / plain["mse"].mean,
    )


def _irregular(seed: int, epochs: int, episodes: int) -> dict[str, float]:
    """The open-loop error of each arm on regular rows that none has seen."""
    frame = log.record(episodes, 150, seed, irregular=True)
    frame.loc[frame.groupby("episode").tail(1).index, "dt"] = log.NOMINAL  # nobody knows
    test = log.record(20, 100, 1000 + seed, irregular=False)
    arms = {
        "neural_ode": ("neural_ode", log.dataset(frame, time=True, longest=log.LONGEST)),
        "all alike": ("ensemble", log.dataset(frame, time=False)),
        "resampled": ("ensemble", log.dataset(log.resampled(frame), time=True)),
        "duration seen": ("ensemble", log.dataset(frame, time=False, column=True)),
    }
    found = {}
    for name, (option, data) in arms.items():
        changes = FITTED | {"max_epochs": epochs}
        model = fit("world_model", option, data, changes=changes, seeds=1, seed=seed).model
        found[name] = log.open_loop_error(model, test, STEPS)
    return found
