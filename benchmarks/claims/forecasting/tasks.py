"""Pendulum and cart-pole: which model sees how far ahead, with and without noise on what it learns.

All have about the same number of updates, and their best weights by their own holdout error. The
strength of forcing was chosen on other seeds (100) of the noisy pendulum. Held-out episodes are
judged by their states without noise, from starts without noise and with it; models that remember
know fifteen steps before each.
"""

from collections.abc import Mapping
from typing import Any

from reverie import datasets
from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims.open_loop import Ahead, errors_ahead, noisy, starts
from reverie.datasets.dataset import Dataset

TASKS = {"pendulum": "builtin/pendulum-mixed", "cart-pole": "builtin/cartpole-swingup"}
NOISES = {"clean": 0.0, "noisy": 0.3}
"""Standard deviations of the observations that the noise of the fit's data has."""
HORIZONS = (1, 16, 32, 100)
STARTS = 300
PLAIN, JUMPS, FORCED, GRU = "ensemble", "any-step", "forced", "GRU"
ALPHA = 0.1
_BY_ONE = {"select_by": "one_step", "forcing": {"alpha": ALPHA}}
"""As the others are stopped; see `selection`."""
_HIDDEN = {"hidden": [64, 64], "weight_decay": [2.5e-5, 5.0e-5, 1.0e-4]}
_MEMBERS = {"members": 2, "elites": 2}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    PLAIN: ("ensemble", _HIDDEN | _MEMBERS | {"max_epochs": 18}),
    JUMPS: (
        "any_step",
        {"backtrack": 8, "width": 64, "layers": 1, "blocks": 1, "max_epochs": 3}
        | {"learning_rate": 1e-3, "dropout": 0.0},
    ),
    FORCED: ("forced", _HIDDEN | _MEMBERS | {"max_epochs": 22} | _BY_ONE),
    GRU: ("recurrent", _MEMBERS | {"max_epochs": 22} | _BY_ONE),
}
"""Options and changed hyperparameters; an epoch of any-step dynamics is eight of the others'."""
QUICK = 2
"""Epochs of a quick run."""


def data_of(task: str) -> Dataset:
    """The record without noise."""
    return datasets.load(TASKS[task])


def run(
    task: str,
    noise: str,
    arm: str,
    quick: bool,
    *,
    seeds: int = 2,
    seed: int = 0,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Fit one model, and measure how far ahead it sees."""
    truth = data_of(task)
    seen = noisy(truth, NOISES[noise], seed=1) if NOISES[noise] else truth
    option, own = MODELS[arm]
    # Noise contradicts rules of termination, which nothing here asks for.
    settings = own | {"patience": 1000, "termination": "none"} | dict(changes or {})
    if quick:
        settings["max_epochs"] = QUICK
    found = experiment.fit("world_model", option, seen, changes=settings, seeds=seeds, seed=seed)
    steps = HORIZONS[-1]
    rows = starts(truth, found.model.held_out(truth), steps, STARTS)
    asked = {"clean starts": truth} | ({"noisy starts": seen} if seen is not truth else {})
    ahead = {
        name: Ahead.of(errors_ahead(found.model, truth, begun, rows, steps), HORIZONS).described()
        for name, begun in asked.items()
    }
    return ahead | {"epochs": found.described["epochs"], "seconds": found.seconds}
