"""The pendulum without its velocity: models that see several observations in one.

The data are `builtin/pendulum-mixed` with column 2 hidden, in the environment too, so that an
observation is the cosine and the sine of the angle. An arm sees k observations and k - 1 past
actions; one sees the velocity instead. All else is the same for every arm: an ensemble fitted for
a fixed number of epochs of which each member's best counts (early stopping would not be the same),
and 20 episodes that no fit sees.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims.experiment import Fit
from reverie.datasets import hide, load, stack
from reverie.datasets.dataset import Dataset
from reverie.world_models import diagnostics
from reverie.world_models.fitting import rows_of

VELOCITY = 2
FULL, LEARNED = "with velocity", "k=4, copies learned"
"""The arm that sees the whole state; and one whose model predicts what it could copy."""
LENGTHS = (1, 2, 3, 4, 8)
STEPS = 25
"""Of the open-loop error."""
SEEDS = 4
MODEL: dict[str, Any] = {
    "members": 4,
    "elites": 3,
    "hidden": [128, 128],
    "weight_decay": [2.5e-5, 5.0e-5, 1.0e-4],
    "max_epochs": 30,
    "patience": 30,
    "heldout_episodes": 20,
}


@dataclass(frozen=True)
class Size:
    """How much is recorded and fitted.

    Attributes:
        episodes: recorded ones.
        model: changed hyperparameters of the world model.
    """

    episodes: int
    model: Mapping[str, Any]


WHOLE = Size(120, MODEL)
QUICK = Size(40, {**MODEL, "max_epochs": 3, "heldout_episodes": 4})


def record(size: Size) -> Dataset:
    """The log, with its velocity."""
    return load("builtin/pendulum-mixed", episodes=size.episodes)


def arms(log: Dataset) -> dict[str, Dataset]:
    """What each arm sees of the log."""
    blind = hide(log, VELOCITY)
    seen = {f"k={length}": stack(blind, length) for length in LENGTHS}
    return {**seen, LEARNED: seen["k=4"], FULL: log}


@dataclass(frozen=True)
class Modelled:
    """A fitted model and how far off it is on episodes that it never saw, a number a seed.

    Attributes:
        fit: of the model.
        one_step: root mean square error of what cosine and sine will be, in standard deviations of
            the recorded ones.
        reward: likewise of the reward.
        open_loop: median over starts of that error after `STEPS` steps with recorded actions,
            of all fresh columns.
        horizons, errors: of the open-loop error, `[H]` and `[S, H]`.
    """

    fit: Fit
    one_step: list[float]
    reward: list[float]
    open_loop: list[float]
    horizons: list[int]
    errors: list[list[float]]


def model(arm: str, data: Dataset, size: Size) -> Modelled:
    """Fit an ensemble for each seed, and measure them."""
    changes = {**size.model, "respect_copies": arm != LEARNED}
    found = experiment.fit("world_model", "ensemble", data, changes=changes, seeds=SEEDS, seed=0)
    one_step, reward = _one_step(found.model, data)
    torch.manual_seed(0)
    measured = diagnostics.measure(found.model, data)["open_loop"]
    errors, horizons = measured["mean"]["median"], measured["horizons"]
    at = horizons.index(STEPS)
    return Modelled(found, one_step, reward, [each[at] for each in errors], horizons, errors)


@torch.no_grad()
def _one_step(fitted: Any, data: Dataset) -> tuple[list[float], list[float]]:
    rows = data.transitions[rows_of(data, fitted.held_out(data)) & data.valid_next]
    recorded = data.transitions
    obs, action = (each.expand(fitted.seeds, -1, -1) for each in (rows.obs, rows.action))
    mean: Tensor = fitted.predict(obs, action)[0].mean(1)  # [S, N, D + 1]
    angle = slice(0, VELOCITY)
    unit = recorded.next_obs[:, angle].std(0)
    error = (mean[..., angle] - rows.next_obs[:, angle]) / unit
    paid = (mean[..., -1] - rows.reward) / recorded.reward.std()
    return error.square().mean((1, 2)).sqrt().tolist(), paid.square().mean(1).sqrt().tolist()
