"""Off-policy verdicts of the runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from reverie.training.ope.conclusions import corrected
from reverie.training.report.figures import Judged, Painter
from reverie.training.report.groups import Group, Run
from reverie.training.report.page import Picture, Section, Table, Text

_ABOUT = (
    "What the policy at the end of each training is worth by the log alone, without a step in the "
    "environment: discounted values with 95 % intervals, from the same recorded states. The "
    "discount and the number of states are those of each run. A verdict is an opinion about "
    "recorded data, and two estimates can be wrong together."
)
_CAPTION = (
    "estimates with 95 % intervals beside what the recorded behaviour earned from the same states "
    "(grey); hollow: fitted Q evaluation had not converged"
)
_METHODS = {"fqe": "fitted Q evaluation", "model": "model rollouts"}
_COLUMNS = {
    "fqe": _METHODS["fqe"],
    "doubly_robust": "doubly robust",
    "model": _METHODS["model"],
}
_DRAWN = 24
"""Policies of a task in the picture; the table has all."""


def verdicts(tasks: Mapping[str, Sequence[Group]], painter: Painter) -> list[Section]:
    """One row for every judged policy; nothing where no run has a verdict."""
    rows, drawn = [], {}
    for task, groups in tasks.items():
        judged = [
            (group.method, run, replica)
            for group in groups
            for run in group.runs
            if run.summary.get("verdict")
            for replica in _replicas(run)
        ]
        rows += [_row(f"{method} on {task}", run, replica) for method, run, replica in judged]
        if judged:
            drawn[task] = [_judged(*each) for each in judged[:_DRAWN]]
    if not rows:
        return []
    header = ["", "seed", "discount", "recorded", *_COLUMNS.values(), "outcome", "verdict"]
    picture = Picture(painter.verdicts(drawn), _CAPTION)
    return [Section("Verdicts", [Text(_ABOUT), Table(header, rows, sentences=True), picture])]


def _judged(method: str, run: Run, replica: int) -> Judged:
    verdict = run.summary["verdict"]
    estimates = []
    for key, name in _METHODS.items():
        measured = verdict[key]
        known = measured is not None and not measured.get("diverged")
        value = measured["value"][replica] if known else None
        estimates.append((name, value, known and _fit(measured, replica)))
    name = f"{method}, seed {_seed(run, replica)}"
    return Judged(name, verdict["recorded"]["value"], estimates)


def _seed(run: Run, replica: int) -> str:
    several = run.summary["verdict"]["seeds"] > 1
    return f"{run.summary['seed']}{f', index {replica}' if several else ''}"


def _fit(measured: Mapping[str, Any], replica: int) -> bool:
    """Whether fitted Q evaluation had converged; the model is always fit in this sense."""
    converged = measured.get("converged")
    return converged is None or bool(converged[replica])


def _replicas(run: Run) -> Sequence[int]:
    """Entries of the verdict that are this run's; of a population's seed it has all seeds'."""
    return range(run.summary["seeds"]) if run.replica is None else [run.replica]


def _row(name: str, run: Run, replica: int) -> list[str]:
    verdict = run.summary["verdict"]
    return [
        name,
        _seed(run, replica),
        f"{verdict['discount']:g}",
        _interval(verdict["recorded"]["value"]),
        *(_estimate(_known(verdict, method, replica), replica) for method in _COLUMNS),
        verdict["outcome"][replica],
        verdict["sentence"][replica],
    ]


def _known(verdict: Mapping[str, Any], method: str, replica: int) -> Mapping[str, Any] | None:
    if method == "doubly_robust" and not corrected(verdict, replica):
        return None
    return verdict[method]


def _estimate(measured: Mapping[str, Any] | None, replica: int) -> str:
    if measured is None:
        return "-"
    if measured.get("diverged"):
        return "diverged"
    left = "" if _fit(measured, replica) else ", not converged"
    return f"{_interval(measured['value'][replica])}{left}"


def _interval(found: Sequence[float]) -> str:
    estimate, low, high = found
    return f"{estimate:z.4g} [{low:z.4g}, {high:z.4g}]"
