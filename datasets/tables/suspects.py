"""Guessed observations that look like something else: a clock, or a flag of an episode's end."""

import logging
from collections.abc import Mapping

import numpy as np

from reverie.datasets.tables.roles import Roles, as_typed
from reverie.datasets.tables.table import Table

log = logging.getLogger(__name__)

_FEWEST = 20  # steps, or one ended episode, below which it may be chance
_EVEN = 1e-3  # relative difference of the steps of a clock, as rounded


def warn_of_suspects(
    table: Table, roles: Roles, values: Mapping[str, np.ndarray], ends: np.ndarray
) -> None:
    """Say which observations rise evenly, and which are 1 only where an episode ends.

    Args:
        values: `[N]` of each observation at least, NaN where one is missing.
        ends: `[N]` last rows of episodes.
    """
    inside = ~ends[:-1]
    for name in roles.observations:
        column, typed = values[name], f"'dataset.columns.{{}}=[{as_typed(name)}]'"
        steps = np.diff(column)[inside]
        steps = steps[np.isfinite(steps)]
        if len(steps) >= _FEWEST and steps.min() > 0:
            typical = float(np.median(steps))
            # Printed digits make steps uneven by one of them.
            if np.abs(steps - typical).max() <= _EVEN * typical + 1e-9 * np.nanmax(np.abs(column)):
                remedy = f"{typed.format('time')} makes it the time"
                if roles.time is not None:
                    remedy = "leave it out of dataset.columns.observations"
                log.warning(
                    "%s: %s rises by %.6g in every row, as a clock does, and is observed: a policy "
                    "would act by the clock; %s",
                    table.source,
                    name,
                    typical,
                    remedy,
                )
        known = column[np.isfinite(column)]
        if roles.terminated is None and len(known) and set(np.unique(known)) == {0.0, 1.0}:
            raised = column == 1.0
            if not (raised & ~ends).any():
                log.warning(
                    "%s: %s is 1 only where episodes end (%s of %s), and is observed; if the plant "
                    "failed or was done there, %s says so",
                    table.source,
                    name,
                    f"{int(raised.sum()):,}",
                    f"{int(ends.sum()):,}",
                    typed.format("terminated"),
                )
