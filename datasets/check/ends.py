"""Checks of episode ends: whether time limits are stored as terminals."""

from collections.abc import Iterator

from reverie.datasets.check.finding import Finding, problem, warning
from reverie.datasets.check.rows import Rows

_LONG = 10  # steps from which a common length is no accident of short tasks


def find_in_ends(rows: Rows) -> Iterator[Finding]:
    """Terminals that are none, and data without any end or successor."""
    if rows.terminated.all():
        yield problem("every row is terminal, so no value reaches beyond one step")
    else:
        yield from _limits(rows)
    if not rows.valid_next.any():
        yield problem("no row has its true next observation, so no dynamics can be learned")


def _limits(rows: Rows) -> Iterator[Finding]:
    """Episodes that terminate at one length, all of them or those that last longest."""
    lengths = rows.lengths[~rows.truncated]
    if len(lengths) < 2 or lengths.max() < rows.lengths.max():
        return
    longest = int(lengths.max())
    if longest == 1:  # nobody records that; each row became an episode for another reason
        return
    known = ", the time limit of the task" if longest == rows.spec.max_episode_steps else ""
    told = "are time limits stored as terminals? They would cut the bootstrap: store them as "
    told += "timeouts, and terminals only where the task itself ends"
    at_longest = int((lengths == longest).sum())
    if at_longest == len(lengths):
        yield warning(
            f"all {len(lengths):,} terminated episodes last exactly {longest} steps{known}: {told}"
        )
        return
    nearly = int(((lengths >= 0.9 * longest) & (lengths < longest)).sum())
    if longest >= _LONG and at_longest >= max(3, 3 * nearly):
        yield warning(
            f"{at_longest:,} of {len(lengths):,} terminated episodes last exactly {longest} steps"
            f"{known}, and none is longer: {told}"
        )
