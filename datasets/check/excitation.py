"""Whether a log shows the effect of actions: they vary independently of the observations."""

from collections.abc import Iterator

import numpy as np

from reverie.datasets.check.finding import Finding, warning
from reverie.datasets.check.rows import Rows, some
from reverie.datasets.check.values import constant, list_dims

_FEWEST = 500  # rows below which a regression says little
_ROWS_EACH = 20  # rows for each regressor, so that it does not fit noise
_FOLLOWS = 0.05  # unexplained share of variance below which actions follow the observations
_STILL = 0.01  # of the box, within which an action that hardly moves stays
_MOST = 0.98  # share of the rows that are to stay there


def find_missing_excitation(rows: Rows) -> Iterator[Finding]:
    """Actions of which the log does not say what others would have done."""
    still, following = still_actions(rows), following_actions(rows)
    if still:
        yield warning(
            f"actions {list_dims(rows.name_actions(still))} stay within {_STILL:.0%} of their box "
            f"in {_MOST:.0%} of the rows: nothing is known of others; leave them out of the "
            "actions, narrow the box (dataset.action_low, action_high), or record other actions"
        )
    if following:
        yield warning(
            f"actions {list_dims(rows.name_actions(following))} follow from the observations "
            f"(more than {1 - _FOLLOWS:.0%} of their variance): the log hardly says what other "
            "actions do, so what a policy gains by them is a guess; record spells of other actions"
        )


def still_actions(rows: Rows) -> list[int]:
    """Actions that vary, and hardly: nearly all rows lie in a small part of the box."""
    if len(rows) < _FEWEST:
        return []
    fixed = constant(rows.known_action)
    sides = [(1 - _MOST) / 2, (1 + _MOST) / 2]
    still = []
    for dim, column in enumerate(rows.known_action.T):
        low, high = np.quantile(column, sides)  # one by one, for little memory
        if high - low < _STILL * 2.0 and dim not in fixed:
            still.append(dim)
    return still


def following_actions(rows: Rows) -> list[int]:
    """Actions that vary, and are nearly a quadratic function of what was seen in their row.

    Noise of a controller, dither and spells of other actions leave a part that is not; so do
    memory and kinks, of which a quadratic function knows nothing.
    """
    first = some(np.flatnonzero(rows.acted))
    obs = _standard(rows.obs[first].astype(np.float64))
    obs = obs[:, (obs != 0.0).any(axis=0)]
    count = obs.shape[1]
    ones = np.ones((len(first), 1))
    if len(first) >= _ROWS_EACH * (1 + count + count * (count + 1) // 2):
        i, j = np.triu_indices(count)
        inputs = np.concatenate([ones, obs, obs[:, i] * obs[:, j]], axis=1)
    elif len(first) >= _ROWS_EACH * (1 + 2 * count):
        inputs = np.concatenate([ones, obs, obs**2], axis=1)
    else:
        return []
    if len(first) < _FEWEST:
        return []
    action = _standard(rows.action[first].astype(np.float64))
    ridge = 1e-6 * len(inputs) * np.eye(inputs.shape[1])
    fitted = inputs @ np.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ action)
    varying = (action != 0.0).any(axis=0)
    follow = np.square(action - fitted).mean(axis=0) < _FOLLOWS
    return np.flatnonzero(varying & follow).tolist()


def _standard(values: np.ndarray) -> np.ndarray:
    """Standardised columns, 0 where one never changes."""
    std = values.std(axis=0)
    spread = std > 1e-12
    return np.where(spread, (values - values.mean(axis=0)) / np.where(spread, std, 1.0), 0.0)
