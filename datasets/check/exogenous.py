"""Observations that actions do not seem to affect: set-points, weather, demand."""

from collections.abc import Iterator

import numpy as np

from reverie.datasets.check.columns import distance_of_steps
from reverie.datasets.check.excitation import following_actions, still_actions
from reverie.datasets.check.finding import Finding, warning
from reverie.datasets.check.rows import Rows, some
from reverie.datasets.check.values import list_dims

_STRETCH = 20  # steps without a change that are long
_STRETCHES = 3  # of which there must be so many: a sensor that died rests once
_RESTING = 0.5  # share of the steps that lie in such stretches
_ACTIVE = 0.3  # of the actions' variance, which the stretches must have
_ONE_STEP = 1.5  # changes of fewer steps of a sensor are its resolution
_FEWEST = 2000  # rows below which nothing is told from a regression
_LAGS = (1, 2, 4, 8, 16, 32)
_NOTHING = 1e-3  # share of variance that actions explain, below which they explain none
_MUCH = 0.05  # and above which they do explain a column, so the test can tell
_WIDEST = 2000  # regressors beyond which it takes too long


def find_exogenous_columns(rows: Rows) -> Iterator[Finding]:
    """Observations that could be named as exogenous; silent wherever it is not clear.

    A set-point rests for long stretches in which the actions change, and jumps by more than the
    resolution of a sensor. Of other columns the values up to 32 steps ahead must be as well
    predicted without the actions until then as with them, by a regression on rows that it did not
    see, and those of some other column much worse. A controller that answers to a disturbance thus
    hides it. Actions that follow from the observations, or hardly move, tell nothing apart.
    """
    spec = rows.spec
    varying = [
        dim for dim in range(spec.obs_dim) if dim not in spec.exogenous and rows.spread[dim] > 0
    ]
    resting = [dim for dim in varying if _is_set_point(rows, dim)]
    unmoved = _unmoved(rows, [dim for dim in varying if dim not in resting])
    for dims, why in (
        (resting, "rest for long stretches while the actions change, as set-points do"),
        (unmoved, "do not depend on the actions, as weather does not"),
    ):
        if dims:
            yield warning(
                f"observations {list_dims(rows.name_obs(dims))} {why}: name them as exogenous if "
                "no action moves them (dataset.exogenous, of a table dataset.columns.exogenous), "
                "so that no world model learns them as dynamics"
            )


def _is_set_point(rows: Rows, dim: int) -> bool:
    column = rows.obs[:, dim].astype(np.float64)
    change = np.diff(column)
    rests = (change == 0.0) & rows.inside
    edges = np.flatnonzero(np.diff(np.concatenate([[False], rests, [False]]).astype(np.int8)))
    first, last = edges[::2], edges[1::2]  # steps [first, last) rest
    long = last - first >= _STRETCH
    if long.sum() < _STRETCHES or (last - first)[long].sum() < _RESTING * rows.inside.sum():
        return False
    if len(np.unique(column[first[long]])) < 2:  # a sensor that died rests at one value
        return False
    jumps = np.abs(change[rows.inside & (change != 0.0)])
    if not len(jumps):
        return False
    step = distance_of_steps(rows.obs[:, dim])
    if step is not None and np.median(jumps) < _ONE_STEP * step:
        return False
    # An actuator's position rests because the action does.
    within = np.zeros(rows.action.shape[1])
    steps = 0
    for start, stop in zip(first[long], last[long], strict=True):
        within += rows.action[start:stop].var(axis=0, dtype=np.float64) * (stop - start)
        steps += stop - start
    overall = rows.action.var(axis=0, dtype=np.float64)
    return bool((within[overall > 0] / steps > _ACTIVE * overall[overall > 0]).any())


def _unmoved(rows: Rows, dims: list[int]) -> list[int]:
    """Those of the columns whose future the actions do not help to predict."""
    width = rows.obs.shape[1]
    if len(rows) < _FEWEST or len(dims) < 2 or width * (rows.action.shape[1] + 2) > _WIDEST:
        return []
    if following_actions(rows) or still_actions(rows):
        return []
    explained = [_explained(rows, dims, lag) for lag in _LAGS]
    told = [each for each in explained if each is not None]
    if not told:
        return []
    most, noise = np.max(told, axis=0), -np.min(told)  # what explains nothing may do harm
    if most.max() < max(_MUCH, noise):
        return []
    return [dim for dim, share in zip(dims, most, strict=True) if share < _NOTHING]


def _explained(rows: Rows, dims: list[int], lag: int) -> np.ndarray | None:
    """Share of the unseen variance of each column `lag` steps ahead that the actions explain.

    None where too few episodes are that long.
    """
    goes_on = np.ones(len(rows), bool)
    for before in range(lag):
        late = rows.ends - before
        goes_on[late[late >= rows.starts]] = False
    first = np.flatnonzero(goes_on)
    if len(first) < _FEWEST:
        return None
    first = some(first)
    action = _standard(rows.action[first[:, None] + np.arange(lag)].mean(axis=1, dtype=np.float64))
    obs = _standard(rows.obs[first].astype(np.float64))
    target = rows.obs[first + lag][:, dims].astype(np.float64)
    target = target - rows.obs[first][:, dims]
    alone = np.concatenate([np.ones((len(first), 1)), obs, obs**2], axis=1)
    products = (action[:, :, None] * obs[:, None, :]).reshape(len(first), -1)
    both = np.concatenate([alone, action, action**2, products], axis=1)
    # Windows of one episode overlap, so whole episodes judge: those between rows of the fit.
    episode = np.searchsorted(rows.ends, first)
    fit, judge = np.flatnonzero(episode % 2 == 0), np.flatnonzero(episode % 2 == 1)
    if min(len(fit), len(judge)) < _FEWEST // 4:
        return None
    without, given = (
        np.square(target[judge] - each[judge] @ _regression(each[fit], target[fit])).mean(0)
        for each in (alone, both)
    )
    return np.where(without > 0, 1.0 - given / np.where(without > 0, without, 1.0), 1.0)


def _regression(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    ridge = 1e-6 * len(inputs) * np.eye(inputs.shape[1])
    return np.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ targets)


def _standard(values: np.ndarray) -> np.ndarray:
    std = values.std(axis=0)
    return (values - values.mean(axis=0)) / np.where(std > 1e-12, std, 1.0)
