"""Results of a finished run: a table, a summary and a picture of its curves."""

import csv
import hashlib
import platform
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.text import all_printable, printable
from reverie.training.files import FORMAT
from reverie.training.logging import HEADER
from reverie.training.ope.conclusions import name_run
from reverie.training.ope.table import print_verdict
from reverie.training.population import label
from reverie.training.results.shape import complaint_of_summary
from reverie.training.stored import damaged, read_record

Series = dict[str, tuple[np.ndarray, np.ndarray]]
"""By metric: the updates `[T]` at which it was measured, and its values `[S, T]`."""
LAST = 10
"""Evaluations averaged into the reported score, as is usual on D4RL."""

_LARGEST, _LONGEST = 2**63, 1000

VERSIONED = ("torch", "numpy", "gymnasium", "mujoco", "minari", "hydra-core")


def final_scores(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Scores of a run from its evaluations, the honest ones and the flattering ones apart.

    Args:
        evaluations: each with `update`, `returns` (one mean return a seed) and `scores`
            (normalised, or None where the task has no reference).

    Returns:
        Per seed and averaged over seeds: `last10` (mean of the last ten evaluations, the number
        to report), `final` (the last one) and `best` (the best one, which selects by looking at
        the test environment and therefore inflates). Returns always, scores where defined.
    """
    if not evaluations:
        return {}
    result: dict[str, Any] = {"evaluations": len(evaluations)}
    for key in ("returns", "scores"):
        if evaluations[0][key] is None:
            continue
        table = np.array([evaluation[key] for evaluation in evaluations])  # [evaluations, S]
        per_seed = {"last10": table[-LAST:].mean(0), "final": table[-1], "best": table.max(0)}
        name = {"returns": "return", "scores": "score"}[key]
        for kind, values in per_seed.items():
            result[f"{name}_{kind}"] = float(values.mean())
            result[f"{name}_{kind}_per_seed"] = values.tolist()
    return result


def behaviour(data: Dataset) -> dict[str, float]:
    """How well the policies that made the data did, over episodes that are no fragments."""
    data = data.recorded
    returns = data.returns[data.whole].numpy()
    result = {"return_mean": float(returns.mean()), "return_best": float(returns.max())}
    if data.reference is not None:
        result["score_mean"] = float(data.reference.normalise(returns.mean()))
        result["score_best"] = float(data.reference.normalise(returns.max()))
    return result


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version()}
    for package in VERSIONED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def device_name(device: torch.device) -> str:
    """A readable name of the hardware a run used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def results_table(summary: Mapping[str, Any]) -> Table:
    """The end of a run on one small table."""
    title = printable(f"{summary['name']} on {summary['dataset']['name']}")
    table = Table(title=title, title_justify="left")
    unit = "score" if "score_last10" in summary["result"] else "return"
    for column in ("", unit, "spread over seeds" if summary["seeds"] > 1 else "one seed"):
        table.add_column(column, justify="left" if column == "" else "right")
    data = summary["dataset"]["behaviour"]
    table.add_row("behaviour policy, mean", f"{data[f'{unit}_mean']:z.1f}", "")
    table.add_row("behaviour policy, best episode", f"{data[f'{unit}_best']:z.1f}", "")
    names = {
        "last10": f"{summary['name']}, mean of last {LAST} evaluations",
        "final": f"{summary['name']}, last evaluation",
        "best": f"{summary['name']}, best evaluation (selected on the test task)",
    }
    population = summary.get("population", {})
    for kind, text in names.items():
        if f"{unit}_{kind}" not in summary["result"]:
            continue
        # A return that was not a number is written as null.
        per_seed = np.array(summary["result"][f"{unit}_{kind}_per_seed"], dtype=float)
        if population:  # of which each is another experiment
            for seed, value in enumerate(per_seed):
                table.add_row(f"{text}, {label(population, seed)}", f"{value:z.1f}", "one seed")
            continue
        spread = f"std {per_seed.std():.1f} of {len(per_seed)}" if len(per_seed) > 1 else ""
        style = "bold" if kind == "last10" else None
        table.add_row(text, f"{per_seed.mean():z.1f}", spread, style=style)
    for stage, seconds in summary["seconds"].items():
        table.add_row(f"wall-clock: {stage}", f"{seconds:.0f} s", "")
    return table


def print_results(summary: Mapping[str, Any], run_dir: Path, console: Console) -> None:
    """Print the table and where everything lies."""
    console.print(results_table(summary))
    if summary.get("verdict") is not None:
        print_verdict(summary["verdict"], console, run_dir)
    for alarm in summary.get("alarms", []):
        said = f"warning: {name_run(alarm, run_dir)}"
        console.print(said, style="yellow", highlight=False, soft_wrap=True)
    console.print(f"run directory: {run_dir}", highlight=False, soft_wrap=True)


def summarise(
    data: Dataset,
    evaluations: Sequence[Mapping[str, Any]],
    fitted: Mapping[str, Mapping[str, Any]],
    seconds: Mapping[str, float],
    device: torch.device,
    *,
    name: str,
    seed: int,
    seeds: int,
    updates: int,
    population: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """Everything worth knowing about a finished run, as plain values.

    Args:
        evaluations: see `final_scores`.
        fitted: what describes the fit of each part, by group.
        seconds: wall-clock by stage.
        population: values by seed of the settings in which seeds differ.
    """
    return {
        "format": FORMAT,
        "name": name,
        "seed": seed,
        "seeds": seeds,
        "updates": updates,
        "population": dict(population),
        "result": final_scores(evaluations),
        "dataset": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "transitions": len(data),
            "episodes": len(data.episode_starts),
            "origin": dict(data.origin),
            **({"exogenous": list(data.spec.exogenous_labels)} if data.spec.exogenous else {}),
            **(
                {"inferred_actions": data.recorded.inferred.describe()}
                if data.recorded.inferred is not None
                else {}
            ),
            "behaviour": behaviour(data),
        },
        "environment": data.spec.env_id,
        "physics": data.spec.physics,
        "reference": None if data.reference is None else vars(data.reference),
        **{group: dict(described) for group, described in fitted.items()},
        "seconds": dict(seconds),
        "device": device_name(device),
        "versions": versions(),
    }


def of_seeds(count: int) -> str:
    """What a mean is over, for tables in which that of one must not look like that of many."""
    return "one seed" if count == 1 else f"{count} seeds"


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of a finished run, or of a collection of data, every text of it printable.

    Raises:
        Mistake: there is none, or the file is damaged.
    """
    if not path.is_file():
        raise Mistake(f"{path.parent} is not finished, for it holds no {path.name}; train on")
    remedy = "restore it, or delete it and run the same command to write it again"
    summary: dict[str, Any] = all_printable(read_record(path, remedy))
    if "datasets" in summary:  # of a collection
        return summary
    if summary.get("format") != FORMAT:
        ours = "name" in summary and "result" in summary
        raise OfAnother(path, "another version of Reverie" if ours else "another program")
    wrong = complaint_of_summary(summary)
    if wrong is not None:
        raise damaged(path, wrong, remedy)
    return summary


class OfAnother(Mistake):
    """A summary that is not of this version.

    Args:
        path: of the file.
        author: what wrote it, as far as can be told.
    """

    def __init__(self, path: Path, author: str) -> None:
        super().__init__(
            f"{path} was written by {author}; use what wrote it, or give a new run another folder"
        )
        self.author = author


def read_metrics(
    path: Path, finished: bool = False, sha256: str | None = None
) -> dict[str, dict[int, tuple[list[int], list[float]]]]:
    """`metrics.csv` as {metric: {seed: (updates, values)}}, in the order of the file.

    Args:
        finished: whether nothing is written any more; else a last line without end is left out.
        sha256: of the file, as the summary of a finished run tells it.

    Raises:
        Mistake: the file is missing or damaged.
    """
    series: dict[str, dict[int, tuple[list[int], list[float]]]] = defaultdict(dict)
    remedy = "restore it, or start its run over with overwrite=true"
    if not path.is_file():
        raise Mistake(f"{path} does not exist; {remedy}")
    read = 0  # lines
    try:
        with open(path, newline="", encoding="utf-8") as file:
            if file.readline(_LONGEST).strip() != ",".join(HEADER):
                raise ValueError(f"it does not begin with {','.join(HEADER)}")
            whole = (each for each in file if finished or each.endswith("\n"))
            for read, row in enumerate(csv.reader(whole, strict=True), 1):  # noqa: B007
                update, seed, metric, value = _measurement(row)
                updates, values = series[metric].setdefault(seed, ([], []))
                updates.append(update)
                values.append(value)
        changed = sha256 is not None and hashlib.sha256(path.read_bytes()).hexdigest() != sha256
    except OSError as error:
        raise Mistake(f"{path} cannot be read ({error.strerror or error}); {remedy}") from error
    except (ValueError, csv.Error) as error:
        raise damaged(path, f"{error}, near line {read + 1}", remedy) from error
    if changed:
        raise damaged(path, f"it is not the file that {path.parent / 'summary.json'} tells", remedy)
    return series


def read_series(metrics: Path, sha256: str | None = None) -> Series:
    """Everything in a `metrics.csv`, where every seed measured it.

    Args:
        sha256: of the file, where the run is finished.

    Raises:
        Mistake: the file is missing or damaged.
    """
    series: Series = {}
    for metric, per_seed in read_metrics(metrics, sha256=sha256).items():
        tables = [dict(zip(*each, strict=True)) for each in per_seed.values()]
        updates = [update for update in tables[0] if all(update in table for table in tables)]
        values = [[table[update] for update in updates] for table in tables]
        series[metric] = (np.array(updates), np.array(values))
    return series


def _measurement(row: Sequence[str]) -> tuple[int, int, str, float]:
    """A line of `metrics.csv`."""
    if len(row) != len(HEADER):
        raise ValueError(f"a line has {len(row)} entries")
    update, seed = int(row[0]), int(row[1])
    if not (0 <= update < _LARGEST and 0 <= seed < _LARGEST):
        raise ValueError("an update or a seed is out of range")
    return update, seed, printable(row[2]), float(row[3])
