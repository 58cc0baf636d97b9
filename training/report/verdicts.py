"""What policies are worth by recorded data alone, as their runs concluded."""

from collections.abc import Mapping, Sequence
from typing import Any

from reverie.training.ope.conclusions import NAMES
from reverie.training.report.groups import Group, Run
from reverie.training.report.page import Section, Table, Text

_ABOUT = (
    "What the policy at the end of each training is worth by the log alone, without a step in the "
    "environment: discounted values with 95 % intervals, from the same recorded states. The "
    "discount and the number of states are those of each run. A verdict is an opinion about "
    "recorded data, and two estimates can be wrong together."
)


def verdicts(groups: Sequence[Group]) -> list[Section]:
    """One row for every judged policy; nothing where no run has a verdict."""
    rows = [
        _row(f"{group.method} on {group.task}", run, replica)
        for group in groups
        for run in group.runs
        if run.summary.get("verdict")
        for replica in _replicas(run)
    ]
    if not rows:
        return []
    header = ["", "seed", "discount", "recorded", *NAMES.values(), "outcome", "verdict"]
    return [Section("Verdicts", [Text(_ABOUT), Table(header, rows)])]


def _replicas(run: Run) -> Sequence[int]:
    """Entries of the verdict that are this run's; of a population's seed it has all seeds'."""
    return range(run.summary["seeds"]) if run.replica is None else [run.replica]


def _row(name: str, run: Run, replica: int) -> list[str]:
    verdict = run.summary["verdict"]
    several = verdict["seeds"] > 1
    return [
        name,
        f"{run.summary['seed']}{f', index {replica}' if several else ''}",
        f"{verdict['discount']:g}",
        _interval(verdict["recorded"]["value"]),
        *(_estimate(verdict[method], replica) for method in NAMES),
        verdict["outcome"][replica],
        verdict["sentence"][replica],
    ]


def _estimate(measured: Mapping[str, Any] | None, replica: int) -> str:
    if measured is None:
        return "-"
    if measured.get("diverged"):
        return "diverged"
    converged = measured.get("converged")  # of fitted Q evaluation alone
    left = "" if converged is None or converged[replica] else ", not converged"
    return f"{_interval(measured['value'][replica])}{left}"


def _interval(found: Sequence[float]) -> str:
    estimate, low, high = found
    return f"{estimate:.4g} [{low:.4g}, {high:.4g}]"
