"""What critics promised, and how well world models predict."""

from typing import Any

import numpy as np

from reverie.training.report.figures import Painter
from reverie.training.report.groups import Group, Tasks, having
from reverie.training.report.page import Picture, Section, Table, Text
from reverie.training.report.tables import cell


def value_estimates(tasks: Tasks, painter: Painter) -> list[Section]:
    """What critics promised beside what came."""
    shown = having(tasks, lambda group: len(group.curves("start/value")[0]) > 0)
    if not shown:
        return []
    rows = []
    for task, groups in shown.items():
        for group in groups:
            updates, promised = group.curves("start/value")
            returns = group.curves("start/return")
            # Without an environment there is a value and no return.
            came = returns[1][:, -1] if len(returns[0]) else np.empty(0)
            gap = promised[:, -1] - came if len(came) else came
            rows.append(
                [
                    f"{group.method} on {task}",
                    f"{updates[-1]}",
                    *(cell(v.tolist(), 2) for v in (promised[:, -1], came, gap)),
                ]
            )
    header = ["", "update", "smallest critic at starts", "discounted return", "over-estimation"]
    caption = "Q at the starts of episodes (thick) against the discounted return from there (thin)"
    picture = Picture(painter.values(shown), caption)
    return [Section("Values against returns", [Table(header, rows), picture])]


def world_models(tasks: Tasks, painter: Painter) -> list[Section]:
    """Errors one step and many steps ahead, and whether uncertainty means anything."""
    shown = having(tasks, lambda group: any(run.world_model.get("open_loop") for run in group.runs))
    if not shown:
        return []
    columns = {
        "one-step error, median": ("one_step", "rmse_median"),
        "R², median": ("one_step", "r2_median"),
        "reward error": ("one_step", "reward_rmse"),
        "NLL, mixture": ("likelihood", "mixture"),
        "calibration error": ("calibration", "error"),
        "std of z": ("calibration", "z_std"),
        "valid steps": ("open_loop", "mean", "valid_steps"),
    }
    rows = [
        [f"{group.method} on {task}", *(cell(diagnostic(group, *k), 3) for k in columns.values())]
        for task, groups in shown.items()
        for group in groups
    ]
    caption = (
        "held-out episodes; errors in standard deviations of the change, NLL in nats a column; "
        "valid steps: of recorded actions, until the error is 0.4 standard deviations of the state"
    )
    section = Section("World models", [Table(["", *columns], rows, caption)])
    for task, groups in shown.items():
        labels = groups[0].runs[0].summary["dataset"].get("exogenous")
        if labels:
            told = f"{task}: not predicted but replayed from the record: {', '.join(labels)}"
            section.blocks.append(Text(told))
    ahead = "error open loop, replaying recorded actions"
    section.blocks.append(Picture(painter.open_loop(shown), ahead))
    judged = having(shown, lambda group: bool(diagnostic(group, "calibration", "error")))
    if judged:
        covered = "share of truths inside central intervals of the prediction"
        section.blocks.append(Picture(painter.calibration(judged), covered))
    return [section]


def diagnostic(group: Group, *keys: str) -> list[float]:
    """A measurement of all world models; empty where they have none."""
    found: list[Any] = []
    for run in group.runs:
        per_seed: Any = run.world_model
        for key in keys:
            per_seed = (per_seed or {}).get(key)
        per_seed = per_seed or []
        shared = run.settings.get("world_model.per_seed") is False
        found += per_seed[:1] if shared else per_seed  # one of a shared model
    return [float("nan") if value is None else value for value in found]
