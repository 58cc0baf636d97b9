"""Almost-linear RNNs and other learned models on chaotic systems: how few kinks are enough.

That the attractor of Lorenz needs two units that bend, no fewer, and gains nothing from more
(arXiv:2410.14240), and how the learned models of this project go on beside them: valid prediction
time in Lyapunov times, and the long-term measures D_stsp and D_H of arXiv:2306.04406. Models learn
from states with noise of 5 % of their std and are judged on states without. `catalogue` has more
systems.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims.judging import Estimate, estimate, is_below
from reverie.benchmarks.claims.open_loop import noisy
from reverie.benchmarks.claims.report import Claim, Findings
from reverie.benchmarks.claims.second_ring import chaos
from reverie.datasets.dataset import Dataset

TITLE = "Almost-linear RNNs: how few kinks a chaotic attractor needs, and other models beside them"
KINKS = (0, 1, 2, 5)
SEEDS, NOISE, DISCARD = 2, 0.05, 100
LIKELIHOOD = "max_aleatoric"
"""Its uncertainty is asked of nobody here; a single member has no other."""
SHARED: dict[str, Any] = {
    **{"members": 1, "elites": 1, "patience": 1000, "termination": "none"},
    "uncertainty": LIKELIHOOD,
}
WINDOWS: dict[str, Any] = SHARED | {
    **{"batch": 16, "learning_rate": 4e-3, "select_by": "multi_step"},
    **{"forcing": {"steps": 20, "alpha": 0.2}, "max_epochs": 20},  # of 45 updates each
}
ROWS: dict[str, Any] = SHARED | {
    **{"hidden": [64, 64], "weight_decay": [0.0] * 3, "batch": 256, "max_epochs": 60},
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "almost linear": ("almost_linear", WINDOWS | {"hidden_units": 17, "relu_units": 2}),
    "shallow PLRNN": ("shallow_plrnn", WINDOWS | {"bends": 50}),
    "recurrent": ("recurrent", WINDOWS | {"width": 32}),
    "forced": ("forced", WINDOWS | {"hidden": [64, 64], "weight_decay": [0.0] * 3}),
    "ensemble": ("ensemble", ROWS),
    "sindy": ("sindy", {"library": "polynomial", "members": 10, "termination": "none"}),
}
"""Option of `world_model` and changed hyperparameters. SINDy's library holds all three flows."""
MEASURES = ("valid", "D_stsp", "D_H")

Found = Mapping[str, Mapping[str, Any]]


def measure(quick: bool) -> Findings:
    """Fit every model to every system, and judge the count of kinks on Lorenz."""
    jobs: dict[str, Any] = {
        f"kinks/{count}": partial(_run, "Lorenz", "almost linear", quick, {"relu_units": count})
        for count in KINKS
    }
    for system in chaos.SYSTEMS:
        for arm in MODELS:
            if (system, arm) != ("Lorenz", "almost linear"):  # which is one of those above
                jobs[f"{system}/{arm}"] = partial(_run, system, arm, quick, {})
        jobs[f"{system}/truth"] = partial(_floor, system, quick)
    runs = experiment.split_by_task(experiment.run_all(jobs))
    kinks = runs.pop("kinks")
    runs["Lorenz"] = {"almost linear": kinks["2"], **runs["Lorenz"]}
    claims = [*_kink_claims(kinks, quick), *(_beside(name, runs[name]) for name in runs)]
    details: dict[str, Any] = {
        "seeds": 1 if quick else SEEDS,
        "noise": NOISE,
        "settings": {arm: {"world_model": option} | it for arm, (option, it) in MODELS.items()},
        "lyapunov_exponents": {name: chaos.lyapunov_exponent(chaos.SYSTEMS[name]) for name in runs},
        "kinks": kinks,
        "systems": runs,
        "tables": [_table(name, found) for name, found in runs.items()],
    }
    return Findings(claims, details, {"kinks": _draw(kinks)})


def _run(system: str, arm: str, quick: bool, changes: Mapping[str, Any]) -> dict[str, Any]:
    chosen = chaos.SYSTEMS[system]
    sizes = ((4, 100), (4, 200)) if quick else ((40, 500), (20, 1000))
    seen, test = (chaos.record(chosen, *size, seed) for seed, size in enumerate(sizes))
    lyapunov = 1 / (chaos.lyapunov_exponent(chosen) * chosen.dt)
    option, settings = MODELS[arm]
    fitted, found = fit_and_judge(
        noisy(seen, NOISE, 1), test, lyapunov, option, {**settings, **changes}, quick
    )
    told = {name: estimate(values) for name, values in found.items()}
    regions = fitted.described.get("regions")
    more = {} if regions is None else {"regions": regions}
    return {**told, "seconds": fitted.seconds, **more}


def fit_and_judge(
    seen: Dataset,
    test: Dataset,
    lyapunov_time: float,
    option: str,
    settings: Mapping[str, Any],
    quick: bool,
) -> tuple[experiment.Fit, dict[str, list[float]]]:
    """A model fitted to a system, and its `MEASURES`, one number a seed.

    Quick fits are of one seed and two epochs.
    """
    if quick and "max_epochs" in settings:
        settings = {**settings, "max_epochs": 2}
    seeds = 1 if quick else SEEDS
    fitted = experiment.fit("world_model", option, seen, changes=settings, seeds=seeds)
    return fitted, chaos.judge(fitted.model, test, lyapunov_time, seeds, DISCARD)


def _floor(system: str, quick: bool) -> dict[str, Any]:
    """The system itself from other starts, what a perfect model would be measured at."""
    size = (4, 200) if quick else (20, 1000)
    one, other = (chaos.record(chaos.SYSTEMS[system], *size, seed) for seed in (1, 2))
    return {name: estimate([value]) for name, value in chaos.distances(one, other, DISCARD).items()}


def _kink_claims(kinks: Found, quick: bool) -> list[Claim]:
    def told(name: str) -> str:
        return ", ".join(f"{count}: {found[name]}" for count, found in kinks.items())

    one, two, five = (kinks[count]["D_stsp"] for count in ("1", "2", "5"))
    claims = [
        Claim(
            "Lorenz, D_stsp by the count of units that bend (arXiv:2410.14240): the second one "
            "takes most of it away",
            "D_stsp of 2 at most half that of 1, intervals apart",
            told("D_stsp"),
            None if quick else two.mean <= 0.5 * one.mean and is_below(two, one),
        ),
        Claim(
            "the same, beyond two",
            "D_stsp of 5 within 20 % of that of 2",
            f"{five} against {two}",
            None if quick else _alike(five, two, 0.2),
        ),
    ]
    for name, words in (("D_H", "D_H"), ("valid", "valid prediction time in Lyapunov times")):
        claims.append(Claim(f"Lorenz, {words} by the same count", "to see", told(name), None))
    visited = [found["regions"][0]["visited"] for found in kinks.values()]
    said = ", ".join(map(str, visited))
    claims.append(
        Claim("linear regions in which the data lie, by the same count", "to see", said, None)
    )
    return claims


def _alike(one: Estimate, other: Estimate, share: float) -> bool | None:
    """Whether means lie so close together; None where seeds spread further than that."""
    near = share * other.mean
    if max(one.half_width, other.half_width) > near:
        return None
    return abs(one.mean - other.mean) <= near


def _beside(system: str, runs: Found) -> Claim:
    arms = {arm: found["valid"] for arm, found in runs.items() if "valid" in found}
    said = ", ".join(f"{arm} {value}" for arm, value in arms.items())
    text = f"{system}, valid prediction time of each learned model in Lyapunov times"
    return Claim(text, "to see", said, None, "ours")


def _table(system: str, runs: Found) -> dict[str, Any]:
    def row(arm: str, found: Mapping[str, Any]) -> list[str]:
        cells = [str(found[name]) if name in found else "" for name in MEASURES]
        return [arm, *cells, f"{found['seconds']:.0f}" if "seconds" in found else ""]

    return {
        "caption": f"{system}; `truth` is the system itself from other starts",
        "header": ["model", "valid, Lyapunov times", "D_stsp", "D_H", "seconds of fit"],
        "rows": [row(arm, found) for arm, found in runs.items()],
    }


def _draw(kinks: Found) -> Figure:
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes: Sequence[Any] = figure.subplots(1, 3)
    for ax, name in zip(axes, MEASURES, strict=True):
        told: list[Estimate] = [found[name] for found in kinks.values()]
        for at, each in enumerate(told):
            ax.plot([at] * len(each.values), each.values, ".", color="tab:grey")
        ax.plot(range(len(told)), [each.mean for each in told], "-", color="tab:blue")
        ax.set_xticks(range(len(told)), list(kinks))
        ax.set(xlabel="units that bend", title=name)
    return figure
