"""How faithfully each learned model goes on: twelve chaotic systems of dysts (arXiv:2110.05266).

Valid prediction time in Lyapunov times, until the error passes 0.4 standard deviations, and the
long-term measures D_stsp and D_H (arXiv:2306.04406). Systems, models, budgets, seeds and claims
were chosen before the run. Models learn from standardised states with noise of 5 % and are judged
on other trajectories without. A run that was stopped goes on with what it has measured, as long as
no line of the models has changed.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims.judging import estimate
from reverie.benchmarks.claims.open_loop import noisy
from reverie.benchmarks.claims.report import Claim, Findings
from reverie.benchmarks.claims.second_ring import almost_linear, chaos
from reverie.benchmarks.claims.second_ring.almost_linear import DISCARD, MEASURES, NOISE, SEEDS
from reverie.benchmarks.claims.second_ring.systems import SYSTEMS
from reverie.datasets.cache import cache_root
from reverie.datasets.dataset import Dataset
from reverie.training.files import write_json

TITLE = "Twelve chaotic systems: how faithfully each learned model goes on"
FIT, TEST = (20, 500), (20, 1000)
"""Episodes and their length."""
WINDOWS = almost_linear.WINDOWS | {"max_epochs": 24}  # of 25 updates each
ROWS = almost_linear.ROWS | {"max_epochs": 40}  # of 32
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "almost linear": ("almost_linear", WINDOWS | {"hidden_units": 17, "relu_units": 2}),
    "almost linear, sparse": (
        "almost_linear",
        WINDOWS
        | {"hidden_units": 17, "relu_units": 2}
        | {"forcing": {"steps": 20, "alpha": 1.0, "interval": 10}},
    ),
    "shallow PLRNN": ("shallow_plrnn", WINDOWS | {"bends": 50}),
    "recurrent": ("recurrent", WINDOWS | {"width": 32}),
    "forced": ("forced", WINDOWS | {"hidden": [64, 64], "weight_decay": [0.0] * 3}),
    "single": ("single", ROWS),
    "ensemble": ("ensemble", ROWS | {"members": 5, "elites": 5}),
    "any-step": (
        "any_step",
        {"backtrack": 8, "width": 64, "layers": 1, "blocks": 1, "max_epochs": 4}
        | {"learning_rate": 1e-3, "dropout": 0.0, "patience": 1000, "termination": "none"},
    ),
    "neural ODE": ("neural_ode", ROWS | {"substeps": 1, "max_epochs": 24}),
    "SINDy": ("sindy", {"library": "polynomial", "members": 10, "termination": "none"}),
}
"""Option of `world_model` and changed hyperparameters; one member but for the ensemble."""
PAIRS = (
    ("forced", "single", "D_stsp", "training on its own predictions, against single steps"),
    (
        *("almost linear, sparse", "almost linear", "D_stsp"),
        "sparse forcing (arXiv:2410.14240), against forcing at every step",
    ),
    ("ensemble", "single", "valid", "the mean of five members, against one"),
)
"""Which model is expected to be better than which, by what, and in words."""
WINS = 10
"""Of twelve systems; by chance alone as many have a probability of 2 %."""
_WORDS = {"valid": "valid prediction time in Lyapunov times"}
_TRUTH = "truth"

Found = Mapping[str, Mapping[str, Any]]


def measure(quick: bool) -> Findings:
    """Fit every model to every system, or to Lorenz alone."""
    records = cache_root() / "claims" / f"catalogue-{_fingerprint(quick)}"
    names = ["Lorenz"] if quick else list(SYSTEMS)
    jobs: dict[str, Callable[[], dict[str, Any]]] = {
        f"{name}/{arm}": partial(_run, name, arm, quick) for name in names for arm in MODELS
    }
    jobs |= {f"{name}/{_TRUTH}": partial(_floor, name, quick) for name in names}
    kept = {
        each: partial(_once, records / f"{each.replace('/', '-')}.json", job)
        for each, job in jobs.items()
    }
    runs = experiment.split_by_task(experiment.run_all(kept))
    shutil.rmtree(records)  # the next run measures anew
    return findings(runs, quick)


def findings(runs: Found, quick: bool) -> Findings:
    """What is said of runs; nothing is judged where some of the systems lack."""
    return Findings(_claims(runs, quick), _details(runs, quick), {"models": _draw(runs)})


def _once(path: Path, job: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a stopped run has measured, or what is measured now."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, job())
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _fingerprint(quick: bool) -> str:
    """Of everything that shapes a measurement: the sources of models and systems, and torch."""
    root = Path(__file__).parents[3]
    files = [
        *sorted((root / "world_models").rglob("*.py")),
        *sorted((root / "conf" / "world_model").glob("*.yaml")),
        *sorted(Path(__file__).parent.glob("*.py")),
    ]
    digest = hashlib.sha256(f"{quick} {torch.__version__}".encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _run(name: str, arm: str, quick: bool) -> dict[str, Any]:
    """`MEASURES` of every seed, and the seconds of the fit."""
    learned, held = _data(name, quick)
    fitted, found = almost_linear.fit_and_judge(
        learned, held, SYSTEMS[name].lyapunov_time, *MODELS[arm], quick
    )
    return {**found, "seconds": fitted.seconds}


@cache
def _data(name: str, quick: bool) -> tuple[Dataset, Dataset]:
    """What models learn from, with noise, and what they are judged by; standardised."""
    sizes = ((4, 100), (4, 200)) if quick else (FIT, TEST)
    seen, test = (chaos.paths(SYSTEMS[name].system, *size, seed) for seed, size in enumerate(sizes))
    mean, std = seen[0].mean((0, 1)), seen[0].std((0, 1))
    learned, held = (
        chaos.as_dataset((states - mean) / std, actions) for states, actions in (seen, test)
    )
    return noisy(learned, NOISE, 1), held


def _floor(name: str, quick: bool) -> dict[str, Any]:
    """The system itself from other starts, what a perfect model would be measured at."""
    size = (4, 200) if quick else TEST
    one, other = (chaos.record(SYSTEMS[name].system, *size, seed) for seed in (1, 2))
    return {key: [value] for key, value in chaos.distances(one, other, DISCARD).items()}


def _mean(found: Mapping[str, Any], key: str) -> float:
    """Over the seeds."""
    return float(np.mean(found[key]))


def _claims(runs: Found, quick: bool) -> list[Claim]:
    claims = []
    for one, other, key, words in PAIRS:
        wins = _wins(runs, one, other, key)
        better = "longer" if key == "valid" else "lower"
        holds = True if wins >= WINS else False if wins <= len(runs) - WINS else None
        claims.append(
            Claim(
                f"{words}: {_WORDS.get(key, key)} of `{one}` and of `{other}`, means of the seeds",
                f"{better} on at least {WINS} of {len(SYSTEMS)} systems",
                f"on {wins} of {len(runs)}",
                None if quick or len(runs) < len(SYSTEMS) else holds,
                "ours",
            )
        )
    for key in MEASURES:
        told = ", ".join(f"{arm} {value:.2g}" for arm, value in _medians(runs, key).items())
        text = f"{_WORDS.get(key, key)}, median over the systems"
        claims.append(Claim(text, "to see", told, None, "ours"))
    missing = ", ".join(name for name in SYSTEMS if name not in runs) or "none"
    claims.append(Claim("systems that were not measured", "none", missing, None, "ours"))
    return claims


def _wins(runs: Found, one: str, other: str, key: str) -> int:
    """Systems on which the first is better; ties count for the second."""
    sign = 1 if key == "valid" else -1
    return sum(
        sign * (_mean(each[one], key) - _mean(each[other], key)) > 0 for each in runs.values()
    )


def _medians(runs: Found, key: str) -> dict[str, float]:
    arms = [*MODELS, *([] if key == "valid" else [_TRUTH])]
    return {
        arm: float(np.median([_mean(each[arm], key) for each in runs.values()])) for arm in arms
    }


def _details(runs: Found, quick: bool) -> dict[str, Any]:
    return {
        "seeds": 1 if quick else SEEDS,
        "noise": NOISE,
        "episodes": {"fit": FIT, "test": TEST},
        "settings": {arm: {"world_model": option} | it for arm, (option, it) in MODELS.items()},
        "exponents": {
            name: {"ours": entry.exponent, "dysts": entry.theirs} for name, entry in SYSTEMS.items()
        },
        "systems": {
            name: {
                arm: {
                    key: estimate(value) if key in MEASURES else value for key, value in it.items()
                }
                for arm, it in each.items()
            }
            for name, each in runs.items()
        },
        "tables": [*(_table(runs, key) for key in MEASURES), _seconds(runs)],
    }


def _table(runs: Found, key: str) -> dict[str, Any]:
    arms = list(_medians(runs, key))
    rows = [
        [name, *(f"{_mean(each[arm], key):.2g}" for arm in arms)] for name, each in runs.items()
    ]
    medians = ["median", *(f"{value:.2g}" for value in _medians(runs, key).values())]
    words = f"{_WORDS.get(key, key)}, mean of the seeds"
    if key != "valid":
        words += f"; `{_TRUTH}` is the system itself from other starts"
    return {"caption": words, "header": ["", *arms], "rows": [*rows, medians]}


def _seconds(runs: Found) -> dict[str, Any]:
    means = [np.mean([each[arm]["seconds"] for each in runs.values()]) for arm in MODELS]
    return {
        "caption": "seconds of a fit of all seeds on one core, mean over the systems",
        "header": list(MODELS),
        "rows": [[f"{value:.0f}" for value in means]],
    }


def _draw(runs: Found) -> Figure:
    """A dot for each system, a bar for the median."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes: Sequence[Any] = figure.subplots(1, len(MEASURES), sharey=True)
    arms = [*MODELS, _TRUTH]
    for ax, key in zip(axes, MEASURES, strict=True):
        for at, (arm, median) in enumerate(_medians(runs, key).items()):
            values = [_mean(each[arm], key) for each in runs.values()]
            colour = "tab:grey" if arm == _TRUTH else "tab:blue"
            ax.plot(values, [at] * len(values), "o", ms=4, alpha=0.5, color=colour)
            ax.plot([median] * 2, [at - 0.3, at + 0.3], color="black")
        ax.set(title="valid, Lyapunov times" if key == "valid" else key)
        ax.grid(alpha=0.3, axis="x")
    axes[-1].set_xscale("log")
    axes[0].set_yticks(range(len(arms)), arms)
    axes[0].set_ylim(len(arms) - 0.5, -0.5)
    return figure
