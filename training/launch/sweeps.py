"""Fault-tolerant sweeps: the outcome of every job of `python train.py -m ...`, for any launcher.

A job that raises does not end the others, and the sweep ends with a table and, where any job
failed, with status 1. Whether a job is skipped, resumed or repeated follows from its run directory,
so the same command again does what is missing.
"""

import atexit
import hashlib
import os
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reverie.mistake import Mistake, writing
from reverie.training import checkpoint
from reverie.training.files import write_json
from reverie.training.launch import failures
from reverie.training.launch.mistakes import TRACEBACK, explain, mark_defect, one_line_errors
from reverie.training.launch.options import as_typed
from reverie.training.results.summary import of_seeds, read_summary
from reverie.training.run_directory import SUMMARY, run_directory
from reverie.training.stored import read_record

FINISHED, RESUMED, SKIPPED = "finished", "resumed and finished", "skipped"
FAILED, REPORTED, STOPPED = "failed", "failed before", "stopped"
_STYLES = {FAILED: "bold red", REPORTED: "red", STOPPED: "yellow", SKIPPED: "dim"}
_REMEDY = "run the same command again, which does what is missing"
_WIDTH = 140
"""Of the table where the output is no terminal."""


def sweeping() -> bool:
    """Whether this is a job of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def require_first_failure(run_dir: Path, retry: bool) -> None:
    """Refuse to repeat a job of a sweep that crashed before, unless somebody asked for it.

    Raises:
        AlreadyFailed: with the reason of that crash.
    """
    why = failures.reason(run_dir)
    if why is not None and sweeping() and not retry:
        raise AlreadyFailed(why)


def require_directories(typed: Sequence[str]) -> None:
    """Refuse a sweep whose jobs would all work in one directory, and replace each other's runs.

    Args:
        typed: the sweep's settings.

    Raises:
        Mistake: `run_dir` is the same for all jobs.
    """
    parsed = OverridesParser.create().parse_overrides(list(typed))
    swept = [each.key_or_group for each in parsed if each.is_sweep_override()]
    given = [each for each in parsed if each.key_or_group == "run_dir" and each.value() is not None]
    if not swept or not given or "run_dir" in swept or "${" in str(given[-1].value()):
        return
    place = given[-1].value()
    raise Mistake(
        f"run_dir={place} is one directory for all jobs of a sweep over {', '.join(swept)}; leave "
        f"it out, and root={place} makes one below it for each job"
    )


class AlreadyFailed(Mistake):
    """The job crashed in an earlier sweep and was not repeated."""


class SweepTable(Callback):
    """Keeps a file about every job, and shows all of them at the end.

    Hydra copies it to the process of each job, so jobs report through files below
    `hydra.sweep.dir`, in a folder that follows from the command.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with one_line_errors():
            # As typed: `${seed}` in a path stands for another one in each job.
            hydra: Any = OmegaConf.to_container(config.hydra)
            swept = hydra.get("sweeper", {}).get("params") or {}
            require_directories(
                [*hydra["overrides"]["task"], *(f"{key}={swept[key]}" for key in swept)]
            )
        command = "\n".join(config.hydra.overrides.task)
        digest = hashlib.sha256(command.encode()).hexdigest()[:12]
        self.folder = Path(config.hydra.sweep.dir).absolute() / f"jobs-{digest}"
        # Hydra would make a warning of an error, and a sweep without its table could not say how it
        # ended.
        with one_line_errors(), writing(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
        atexit.register(self.conclude, early=True)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if self.folder is None:  # one run, no sweep
            return
        known: dict[str, Any] = {"overrides": list(config.hydra.overrides.task)}
        known["outcome"], known["why"] = STOPPED, "it has not ended; the same command goes on"
        try:
            own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            settings: Any = OmegaConf.to_container(own, resolve=True)
            run_dir = run_directory(settings, known["overrides"])
        except Exception:  # the job will say it itself
            pass
        else:
            known["run_dir"] = str(run_dir)
            known["finished"] = (run_dir / SUMMARY).is_file() and not config.overwrite
            known["begun"] = (run_dir / checkpoint.FILE).is_file() and not config.overwrite
        print(f"job {config.hydra.job.num}: {_typed(known)}", flush=True)
        with one_line_errors():
            write_json(self._file(config), known)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if self.folder is None:
            return
        known = read_record(self._file(config), _REMEDY)
        if job_return.status == JobStatus.FAILED:
            error: Any = job_return._return_value
            mark_defect(error)
            known["why"] = failures.in_one_line(error)
            known["outcome"] = REPORTED if isinstance(error, AlreadyFailed) else FAILED
            if os.environ.get(TRACEBACK) == "1" or explain(error) is None:
                traceback.print_exception(error)
            print(f"error: {_name(known)}: {known['why']}", file=sys.stderr)
            # The sweeper would end the sweep.
            job_return.status, job_return.return_value = JobStatus.COMPLETED, None
        else:
            done = RESUMED if known.get("begun") else FINISHED
            known["outcome"] = SKIPPED if known.get("finished") else done
            known["why"] = ""
            known["result"] = job_return.return_value
        with one_line_errors():
            write_json(self._file(config), known)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        atexit.unregister(self.conclude)
        if not self.conclude():
            sys.exit(1)

    def conclude(self, early: bool = False) -> bool:
        """Print what became of the jobs; returns whether none of them failed.

        Args:
            early: the sweep ended before its time.
        """
        assert self.folder is not None
        files = sorted(self.folder.glob("*.json"), key=lambda path: int(path.stem))
        jobs = [read_record(path, _REMEDY) for path in files]
        if jobs:
            show(jobs, early)
        shutil.rmtree(self.folder, ignore_errors=True)
        return all(not job["why"] for job in jobs)

    def _file(self, config: DictConfig) -> Path:
        assert self.folder is not None
        return self.folder / f"{config.hydra.job.num}.json"


def show(jobs: list[dict[str, Any]], early: bool) -> None:
    """A row a job, and a line with the reason for each that did not finish."""
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(width=max(console.width, _WIDTH), markup=False, emoji=False)
    counts = Counter(job["outcome"] for job in jobs)
    title = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    several = "s" if len(jobs) > 1 else ""
    table = Table(title=f"{len(jobs)} job{several}: {title}", title_justify="left")
    table.add_column("job", justify="right")
    table.add_column("outcome")
    table.add_column("score", justify="right")
    table.add_column("run directory", overflow="fold")
    for number, job in enumerate(jobs):
        style = _STYLES.get(job["outcome"])
        table.add_row(str(number), Text(job["outcome"], style or ""), _score(job), _name(job))
    console.print(table)
    for job in jobs:
        if job["why"]:
            line = f"{job['outcome']}: {_name(job)}: {job['why']}"
            console.print(line, soft_wrap=True, highlight=False, markup=False)
    if early:
        hint = "the sweep ended early; jobs that had not begun are not listed"
        console.print(hint, soft_wrap=True)
    if counts[REPORTED]:
        hint = "jobs that failed before were not repeated; retry_failed=true tries them again"
        console.print(hint, soft_wrap=True)


def _name(job: Mapping[str, Any]) -> str:
    """Where the job works, or what was typed where that is unknown."""
    return job.get("run_dir") or _typed(job)


def _typed(job: Mapping[str, Any]) -> str:
    return " ".join(map(as_typed, job["overrides"]))


def _score(job: Mapping[str, Any]) -> str:
    """With its unit where it is a return, and the number of seeds it is the mean of."""
    value = job.get("result")
    if value is None:
        return "-"
    summary = read_summary(Path(job["run_dir"]) / SUMMARY)
    if summary.get("population"):  # a mean over different settings would say nothing
        return "several settings"
    unit = "" if "score_last10" in summary["result"] else "return, "
    return f"{value:.1f} ({unit}{of_seeds(summary['seeds'])})"
