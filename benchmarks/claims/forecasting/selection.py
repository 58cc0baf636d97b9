"""Stopping and selection by the error of one step or of 32: what it costs, and what it changes.

The ensemble of `algorithm=mpc`, trained on single steps (forcing.alpha=1) with its own early
stopping, two seeds; errors on held-out episodes, and on the pendulum the score of plans.
"""

from typing import Any

from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims.forecasting.tasks import data_of
from reverie.benchmarks.claims.open_loop import Ahead, errors_ahead, starts
from reverie.benchmarks.claims.plans import ensemble, plan

HORIZONS = (1, 16, 32)
STEPS = 32
SELECT = ("one_step", "multi_step")
PATIENCE, MOST = 10, 60
EPISODES = 4


def run(task: str, select_by: str, quick: bool) -> dict[str, Any]:
    """Fit, measure, and plan on the pendulum."""
    data = data_of(task)
    changes = ensemble() | {
        "batch": 8,
        "patience": PATIENCE,
        "max_epochs": 2 if quick else MOST,
        "select_by": select_by,
        "forcing": {"steps": STEPS, "alpha": 1.0},
    }
    fitted = experiment.fit("world_model", "forced", data, changes=changes, seeds=2)
    rows = starts(data, fitted.model.held_out(data), STEPS, 300)
    ahead = Ahead.of(errors_ahead(fitted.model, data, data, rows, STEPS), HORIZONS)
    found = ahead.described() | {
        "epochs": fitted.described["epochs"],
        "seconds": fitted.seconds,
    }
    if task == "pendulum":
        found |= plan(data, fitted.model, {}, episodes=1 if quick else EPISODES, seeds=2)
    return found
