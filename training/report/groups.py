"""Finished runs read from their directories, grouped by experiment."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from reverie.mistake import Mistake
from reverie.text import all_printable
from reverie.training.population import settings_of_seed
from reverie.training.results.shape import complaint_of_evaluation, complaint_of_measurements
from reverie.training.results.summary import OfAnother, read_metrics, read_summary
from reverie.training.run_directory import CARRIED_OUT, CONFIG, MARKER, METRICS, SUMMARY, flat
from reverie.training.stored import damaged, read_optional, read_settings

Series = Mapping[str, Mapping[int, tuple[list[int], list[float]]]]
"""{metric: {seed: (updates, values)}}."""

# Settings in which repetitions of one experiment differ, or that only watch it.
_REPEATED = ("name", "seed", "seeds", "dataset", "log_every", "extend", *CARRIED_OUT)
_RESTORE = (
    "restore it, or delete it and run the command of the run again, which writes it where the "
    "checkpoint knows the settings"
)
_LONGEST_LABEL = 60
# Settings that measure a training and do not change it.
_WATCHING = ("evaluate", "verdict", "value_gap", "probe_starts", "lipschitz", "budget")
# Lists in the measurements of a world model that have no entry a seed.
_SHARED = ("horizons", "levels", "columns")


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        directory: where it lies.
        summary: its `summary.json`.
        settings: its `config.yaml`, as dotted keys.
        metrics: its `metrics.csv`.
        world_model: its `world_model.json`, empty where there is none.
        evaluation: its `evaluation.json`, empty where there is none.
        videos: recorded episodes.
        replica: of a population, whose seeds are experiments of their own; None for all seeds of a
            run that repeats one experiment.
    """

    directory: Path
    summary: Mapping[str, Any]
    settings: Mapping[str, Any]
    metrics: Series
    world_model: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    videos: Sequence[Path]
    replica: int | None = None

    @property
    def experiment(self) -> dict[str, Any]:
        """Settings that make it another experiment, whatever seed and task."""
        own = {k: v for k, v in self.settings.items() if k.split(".")[0] not in _REPEATED}
        # Each seed extends a run of its own.
        return own | ({"extend": True} if self.settings.get("extend") else {})

    def per_seed(self, name: str) -> list[float]:
        """A result of every seed; NaN where it was not finite, empty where nobody measured it."""
        return [float("nan") if v is None else v for v in self.summary["result"].get(name, [])]


@dataclass(frozen=True)
class Group:
    """Runs that repeat one experiment on one task with other seeds.

    Attributes:
        method: name of the algorithm, with the settings in which it differs from its siblings.
        task: the dataset, and what tells it from another one of the same name.
        runs: at least one.
    """

    method: str
    task: str
    runs: Sequence[Run]

    def per_seed(self, name: str) -> list[float]:
        """A result of all seeds of all runs."""
        return [value for run in self.runs for value in run.per_seed(name)]

    def curves(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Updates `[T]` and values `[seeds, T]` where every seed of every run measured it."""
        seeds = [
            dict(zip(*replica, strict=True))
            for run in self.runs
            for replica in run.metrics.get(metric, {}).values()
        ]
        if not seeds:
            return np.empty(0), np.empty((0, 0))
        updates = sorted(set(seeds[0]).intersection(*seeds))
        return np.array(updates), np.array([[replica[u] for u in updates] for replica in seeds])


def find(paths: Sequence[Path]) -> tuple[list[Path], dict[Path, str]]:
    """Finished run directories at or below the paths, each once, and others with why they are none.

    Those below the working folder are relative to it, to be read and typed.

    Raises:
        Mistake: a path does not exist; there is no finished run.
    """
    for path in paths:
        if not path.is_dir():
            raise Mistake(f"{path} is no folder; give run directories or folders of them")
    below = {found.resolve() for path in paths for found in path.rglob(CONFIG)}
    below |= {found.resolve() for path in paths for found in path.rglob(SUMMARY)}
    # Hidden are folders of Hydra, and runs that somebody overwrites.
    directories = sorted({path.parent for path in below if path.parent.name[:1] != "."})
    here = Path.cwd()
    finished, left_out = [], {}
    for place in directories:
        path = place.relative_to(here) if place.is_relative_to(here) else place
        ours = any((path / name).is_file() for name in (MARKER, METRICS))
        if not (path / SUMMARY).is_file():
            if ours:
                left_out[path] = "is not finished"
            continue
        try:
            summary = read_summary(path / SUMMARY)
        except OfAnother as error:
            left_out[path] = f"was written by {error.author}"
            continue
        except Mistake as error:
            left_out[path] = cannot_be_read(error) if ours else "holds no run of Reverie"
            continue
        if "datasets" not in summary:  # what `training.collect` leaves is no run of a method
            finished.append(path)
    if not finished:
        raise nothing_finished(paths, left_out)
    return finished, left_out


def cannot_be_read(error: Mistake) -> str:
    """Why a run is left out of a report, one of whose files is damaged."""
    return f"cannot be read ({error})"


def nothing_finished(paths: Sequence[Path], left_out: Mapping[Path, str]) -> Mistake:
    """The mistake that there is nothing to report on."""
    reasons = "; ".join(f"{path} {why}" for path, why in list(left_out.items())[:3])
    return Mistake(
        f"no finished run in {', '.join(map(str, paths))} ({reasons or 'nothing there'}); give "
        "directories such as runs/mopo/pendulum-mixed/0, run their commands to the end, or "
        "again in another folder where another version wrote them"
    )


def read(directory: Path) -> Run:
    """Everything a report needs of one finished run, every text of it printable.

    Raises:
        Mistake: a file is damaged, missing or not ours.
    """
    summary = read_summary(directory / SUMMARY)
    settings = flat(all_printable(read_settings(directory / CONFIG, _RESTORE)))
    metrics = read_metrics(directory / METRICS, finished=True, sha256=summary.get("metrics_sha256"))
    if "seeds" not in settings:
        raise damaged(directory / CONFIG, "it does not say how many seeds", _RESTORE)
    for key in ("name", "seed", "seeds", "updates"):
        if {key} <= settings.keys() & summary.keys() and settings[key] != summary[key]:
            reason = f"it says {key}={settings[key]}, {SUMMARY} beside it {summary[key]}"
            raise damaged(directory / CONFIG, reason, _RESTORE)
    wrong = _complaint_of_metrics(metrics, summary)
    if wrong is not None:
        raise damaged(directory / METRICS, wrong, "restore it, or leave that folder out")
    return Run(
        directory=directory,
        summary=summary,
        settings=settings,
        metrics=metrics,
        world_model=read_optional(directory / "world_model.json", complaint_of_measurements),
        evaluation=read_optional(directory / "evaluation.json", complaint_of_evaluation),
        # Not one that is being written, nor one that lies elsewhere.
        videos=sorted(
            path for path in directory.glob("[!.]*.mp4") if path.is_file() and not path.is_symlink()
        ),
    )


def _complaint_of_metrics(metrics: Series, summary: Mapping[str, Any]) -> str | None:
    """What is missing of the measurements of a finished run, None for nothing."""
    for metric, per_seed in metrics.items():
        if set(per_seed) != set(range(summary["seeds"])):
            return f"not all of the {summary['seeds']} seeds have {metric}"
    last = max((u for own in metrics.values() for us, _ in own.values() for u in us), default=0)
    if last != summary.get("updates", last):
        return f"it ends at update {last}, the run ended at {summary['updates']}"
    return None


def split_population(run: Run) -> list[Run]:
    """The seeds of a population as runs of one seed each, with their own settings; else the run."""
    population = run.summary.get("population") or {}
    if not population:
        return [run]
    return [
        replace(
            run,
            summary={
                **run.summary,
                "seeds": 1,
                "result": {
                    # A mean over seeds is nobody's.
                    name: values[replica : replica + 1] if name.endswith("_per_seed") else None
                    for name, values in run.summary["result"].items()
                },
            },
            settings=settings_of_seed(run.settings, population, replica),
            metrics={name: {0: per_seed[replica]} for name, per_seed in run.metrics.items()},
            world_model=_of_replica(run.world_model, replica),
            evaluation={
                **run.evaluation,
                "scores": (run.evaluation.get("scores") or [])[replica:][:1],
            },
            videos=[path for path in run.videos if path.stem.endswith(f"-seed{replica}")],
            replica=replica,
        )
        for replica in range(run.summary["seeds"])
    ]


def group_runs(runs: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """Runs sorted into groups, and remarks about those that were left out.

    Runs repeat one another if name, task and settings agree but for the seed. The same seed twice
    is one piece of evidence: the second run is left out. A method whose settings differ between
    tasks, and nowhere on one of them, is one method: it was tuned for each.
    """
    tasks = _task_names(runs)
    by_kind: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run, task in zip(runs, tasks, strict=True):
        by_kind[run.summary["name"], task].append(run)
    on_one_task: dict[str, set[str]] = defaultdict(set)
    for (name, _), members in by_kind.items():
        on_one_task[name].update(telling(members))
    varying = {name: sorted(keys) for name, keys in on_one_task.items()}

    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    seen: dict[tuple[Any, ...], Run] = {}
    remarks = []
    labels = {}
    for (name, task), members in by_kind.items():
        trained = [key for key in varying[name] if key.split(".")[0] not in _WATCHING]
        for run in members:
            method = ", ".join([name, *_told(run.experiment, varying[name])])
            labels[method] = ", ".join([name, *_told(run.experiment, trained)])
            identity = (method, task, run.summary["seed"], run.summary["seeds"], run.replica)
            if identity in seen:
                remarks.append(
                    f"{run.directory} repeats {seen[identity].directory} with the same seed and "
                    "is left out"
                )
                continue
            seen[identity] = run
            groups[method, task].append(run)
    short = _short_names(labels)
    return [Group(short[method], task, runs) for (method, task), runs in groups.items()], remarks


def differing(runs: Sequence[Run]) -> list[str]:
    """Keys of the settings in which experiments differ."""
    experiments = [run.experiment for run in runs]
    keys = sorted(set().union(*experiments))
    return [
        key for key in keys if any(e.get(key) != experiments[0].get(key) for e in experiments[1:])
    ]


def telling(runs: Sequence[Run]) -> list[str]:
    """Keys that tell experiments apart; of a part that is another class, that says enough."""
    found = differing(runs)
    others = {key.rpartition(".")[0] for key in found if key.endswith("._target_")}
    return [key for key in found if key.rpartition(".")[0] not in others or "_target_" in key]


def _told(experiment: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """Settings as a label names them: by their last name where that is no other one's."""
    last = [key.rpartition(".")[2] for key in keys]
    told = []
    for key, short in zip(keys, last, strict=True):
        value = experiment.get(key)
        if short == "_target_":  # `agent=SAC`
            told.append(f"{key.removesuffix('._target_')}={str(value).rpartition('.')[2]}")
        elif value is not None:
            told.append(f"{short if last.count(short) == 1 else key}={typed(value)}")
    return told


def typed(value: Any) -> str:
    """A setting as YAML and the command line have it."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**4)
    return text.removesuffix("\n").removesuffix("\n...")


def _task_names(runs: Sequence[Run]) -> list[str]:
    """Names of datasets; with fingerprint or environment where two of one name are not the same."""
    parts = [
        (
            run.summary["dataset"]["name"],
            run.summary["dataset"]["fingerprint"],
            f"{run.summary['environment']}, physics {run.summary['physics']}",
        )
        for run in runs
    ]
    kinds: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for name, fingerprint, environment in parts:
        kinds[name][0].add(fingerprint)
        kinds[name][1].add(environment)
    names = []
    for name, fingerprint, environment in parts:
        extra = [fingerprint] * (len(kinds[name][0]) > 1) + [environment] * (
            len(kinds[name][1]) > 1
        )
        names.append(f"{name} ({', '.join(extra)})" if extra else name)
    return names


def _short_names(labels: Mapping[str, str]) -> dict[str, str]:
    """A label of what was trained, or of all that differs, or a number where both are too long.

    Args:
        labels: of what was trained, by those of all that differs. The table of differences tells
            what a number means.
    """
    short: dict[str, str] = {}
    for method, label in labels.items():
        alone = list(labels.values()).count(label) == 1
        name = method.split(",")[0]
        number = sum(key.split(",")[0] == name for key in short) + 1
        fitting = [each for each in (label, method) if len(each) <= _LONGEST_LABEL]
        if not alone:
            fitting = [each for each in fitting if each == method]
        short[method] = fitting[0] if fitting else f"{name} #{number}"
    return short


def _of_replica(measured: Mapping[str, Any], replica: int) -> dict[str, Any]:
    """What was measured of one seed's world model; of one that all share there is one entry."""
    found: dict[str, Any] = {}
    for name, value in measured.items():
        if isinstance(value, Mapping):
            found[name] = _of_replica(value, replica)
        else:
            several = isinstance(value, list) and name not in _SHARED and len(value) > replica
            found[name] = value[replica : replica + 1] if several else value
    return found


Tasks = Mapping[str, Sequence[Group]]
"""Groups by task."""


def having(tasks: Tasks, condition: Callable[[Group], bool]) -> dict[str, list[Group]]:
    """Tasks and groups of which something is known."""
    kept = {task: [g for g in groups if condition(g)] for task, groups in tasks.items()}
    return {task: groups for task, groups in kept.items() if groups}
