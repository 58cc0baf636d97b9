"""A dozen systems of `dysts` (arXiv:2110.05266), a development extra: `pip install dysts`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims.open_loop import noisy
from reverie.benchmarks.claims.report import Claim
from reverie.benchmarks.claims.second_ring import chaos

NAMES = (
    *("Lorenz", "Rossler", "Thomas", "Halvorsen", "Chua", "SprottA", "SprottB", "SprottD"),
    *("RabinovichFabrikant", "GenesioTesi", "Chen", "Dadras"),
)
ARMS = ("almost linear", "shallow PLRNN", "ensemble")
_EPISODE, _FIT, _TEST = 500, 20, 10
Judge = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Catalogue:
    """What was measured of it, and the line that tells so."""

    claim: Claim
    runs: dict[str, Any]


def judge_catalogue(quick: bool, judge: Judge, noise: float) -> Catalogue:
    """Fit three models to each system; nothing where the package is absent.

    Args:
        judge: `almost_linear.fit_and_judge`.
        noise: of what the models learn from, in standard deviations.
    """
    text = "a dozen systems of dysts: median valid prediction time in Lyapunov times"
    if find_spec("dysts") is None:
        skipped = "skipped: dysts is not installed (pip install dysts)"
        return Catalogue(Claim(text, "to see", skipped, None, "ours"), {})
    names = NAMES[:1] if quick else NAMES
    jobs = {
        f"{name}/{arm}": partial(_run, name, arm, quick, judge, noise)
        for arm in ARMS
        for name in names
    }
    runs = experiment.split_by_task(experiment.run_all(jobs))
    told = ", ".join(
        f"{arm} {np.median([found[arm]['valid'].mean for found in runs.values()]):.2g}"
        for arm in ARMS
    )
    return Catalogue(Claim(text, "to see", told, None, "ours"), runs)


def _run(name: str, arm: str, quick: bool, judge: Judge, noise: float) -> dict[str, Any]:
    """Thirty points a period, in whose units the trajectory is standardised."""
    system = getattr(import_module("dysts.flows"), name)()
    fit, test = (2, 2) if quick else (_FIT, _TEST)
    count = (fit + test) * (_EPISODE + 1)
    path = system.make_trajectory(
        count, resample=True, pts_per_period=30, standardize=True, method="LSODA", rtol=1e-8
    )
    # Pieces of one trajectory; the first point of each is no successor of the last.
    states = np.asarray(path).reshape(fit + test, _EPISODE + 1, -1)
    idle = np.zeros((fit + test, _EPISODE, 1))
    seen, held = (chaos.as_dataset(states[part], idle[part]) for part in _parts(fit))
    time = 30 / (system.period * system.maximum_lyapunov_estimated)
    return judge(noisy(seen, noise, 1), held, time, arm, quick, {})


def _parts(fit: int) -> tuple[slice, slice]:
    return slice(fit), slice(fit, None)
