"""Search for settings: `python -m training.tune studies/iql 'agent.expectile=interval(0.5,0.95)'`.

Every trial is a run of train.py in a process of its own, below `STUDY/trials`. Settings with one
value are the same in all; `a,b`, `choice(a,b)`, `range(1,5)`, `interval(0,1)`, `int(interval(1,9))`
and `tag(log,interval(1e-4,1e-2))` are searched. Unpromising trials are stopped at an evaluation.
The same command again goes on where the last one was stopped; more --trials lengthen the study.
Where Reverie is installed, `reverie tune` is the same.

It chooses by scores in the true environment: say so, and how many trials it took, where you report
what it found, and train the choice again with other seeds.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from rich.console import Console
from rich.table import Table

from reverie.envs import extras
from reverie.mistake import Mistake, writing
from reverie.temporary import replacing
from reverie.text import one_line
from reverie.training.cores import count_cores
from reverie.training.files import LOCK, lock_directory, write_json
from reverie.training.launch import failures, mistakes
from reverie.training.results.summary import of_seeds, read_metrics, read_summary
from reverie.training.run_directory import METRICS, SUMMARY
from reverie.training.stored import damaged, read_record

try:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import Trial, TrialState

    from reverie.training.launch.search_space import question, typed
except ModuleNotFoundError as missing:
    with mistakes.one_line_errors():
        extras.require(str(missing.name), "tune", "tune")

JOURNAL, QUESTION, BEST, TRIALS = "journal.log", "study.json", "best.json", "trials"
PLOTS = ("optimization_history", "intermediate_values", "slice", "param_importances")
STARTUP = 5
"""Trials that are drawn at random, and finish, before the search learns and prunes."""
_PAUSE = 0.5  # seconds between two looks at the running trials
_MERCY = 20.0  # seconds that a pruned trial has to end by itself


@dataclass
class Running:
    """A trial whose process is at work."""

    trial: Trial
    run_dir: Path
    process: subprocess.Popen
    reported: set[int] = field(default_factory=set)


class Tuner:
    """A study that lies in a folder and is carried on by whoever calls `run`.

    Args:
        folder: of the study.
        settings: what is typed after `python train.py`, with sweeps.
        seed: of the search.
        jobs: trials side by side.
        script: what carries out a trial.
    """

    def __init__(
        self, folder: Path, settings: Sequence[str], seed: int, jobs: int, script: Sequence[str]
    ) -> None:
        self.folder, self.jobs, self.script = folder, jobs, tuple(script)
        self.fixed, self.space = question(settings)
        self.console = Console(markup=False, emoji=False)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        asked = {"fixed": self.fixed, "space": {k: repr(v) for k, v in self.space.items()}}
        self._require_same_question(asked)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = self._open()
        # Resumed, the search must not draw what it drew before.
        self.study.sampler = optuna.samplers.TPESampler(
            seed=seed + len(self.study.trials), n_startup_trials=STARTUP
        )

    def _open(self) -> optuna.Study:
        """The study in the folder, or a new one.

        Raises:
            Mistake: its journal is damaged, or holds trials of other settings than were typed.
        """
        journal = self.folder / JOURNAL
        remedy = "restore it, or give a new folder; the runs of its trials stay"
        try:
            study = optuna.create_study(
                study_name="study",
                storage=JournalStorage(JournalFileBackend(str(journal))),
                load_if_exists=True,
                direction="maximize",
                pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP),
            )
            trials = study.trials
        except Exception as error:
            # Optuna replays what the journal says, and raises many types where it makes no sense.
            raise damaged(journal, f"{type(error).__name__}: {error}", remedy) from error
        for trial in trials:  # of which those at work are carried out again, as settings
            for key, distribution in trial.distributions.items():
                if self.space.get(key) != distribution:
                    raise damaged(journal, f"trial {trial.number} draws {key} otherwise", remedy)
        return study

    def run(self, trials: int) -> None:
        """Carry out what is missing of so many trials.

        Raises:
            Mistake: none of them finished.
        """
        running = [
            self._start(Trial(self.study, t._trial_id)) for t in self._in(TrialState.RUNNING)
        ]
        try:
            while running or self._begun() < trials:
                while len(running) < self.jobs and self._begun() < trials:
                    running.append(self._start(self.study.ask(fixed_distributions=self.space)))
                running = [job for job in running if not self._has_ended(job)]
                time.sleep(_PAUSE if running else 0.0)
        finally:
            for job in running:
                _end(job.process)
        self.conclude()

    def conclude(self) -> None:
        """Print and keep what was found."""
        runs = [self._run_dir(trial.number) for trial in self._in(TrialState.COMPLETE)]
        seeds = {read_summary(run_dir / SUMMARY)["seeds"] for run_dir in runs}
        title = ", ".join([str(self.folder), *(f"of {of_seeds(count)}" for count in sorted(seeds))])
        table = Table(title=title, title_justify="left")
        for column in ("trial", "outcome", "score or return", "settings"):
            table.add_column(column, overflow="fold")
        for trial in self.study.trials:
            value = "-" if trial.value is None else f"{trial.value:.1f}"
            outcome = {"COMPLETE": "finished", "FAIL": "failed"}.get(
                trial.state.name, trial.state.name.lower()
            )
            chosen = ", ".join(f"{key}={value}" for key, value in trial.params.items())
            table.add_row(str(trial.number), outcome, value, chosen)
        self.console.print(table)
        for trial in self._in(TrialState.FAIL):
            why = one_line(str(trial.user_attrs.get("why")))
            line = f"failed: {self._run_dir(trial.number)}: {why}"
            self.console.print(line, soft_wrap=True, highlight=False, markup=False)
        if not self._in(TrialState.COMPLETE):
            raise Mistake(
                f"no trial of {self.folder} finished, so there is no best one; see the reasons "
                "above, then try again with more --trials or a new folder"
            )
        best = self.study.best_trial
        command = ["python", "train.py", *self.fixed, *typed(best.params)]
        write_json(
            self.folder / BEST,
            {
                "value": best.value,
                "params": best.params,
                "run_dir": str(self._run_dir(best.number)),
                "trials": len(self.study.trials),
                "command": command,
            },
        )
        self.console.print(
            f"best: trial {best.number}, {best.value:.1f} with {' '.join(typed(best.params))}",
            soft_wrap=True,
            highlight=False,
        )
        draw(self.study, self.folder)
        self.console.print(f"written: {self.folder}/{BEST} and plots", soft_wrap=True)

    def _start(self, trial: Trial) -> Running:
        run_dir = self._run_dir(trial.number)
        with writing(run_dir):
            run_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(run_dir / LOCK):  # of a process that outlived a killed search
            pass
        threads = []
        if self.jobs > 1 and not any(each.startswith("threads=") for each in self.fixed):
            threads = [f"threads={max(1, count_cores() // self.jobs)}"]
        command = [
            *self.script,
            *self.fixed,
            *threads,
            *typed(trial.params),
            f"run_dir='{run_dir}'",
        ]
        with writing(run_dir), open(run_dir.with_suffix(".log"), "a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        told = f"trial {trial.number}: {' '.join(typed(trial.params))}"
        self.console.print(told, soft_wrap=True, highlight=False)
        return Running(trial, run_dir, process)

    def _has_ended(self, job: Running) -> bool:
        """Report new scores, stop an unpromising trial, and close one that has ended."""
        status = job.process.poll()
        known = self.study.trials[job.trial.number].intermediate_values
        for update, score in scores(job.run_dir):
            if update not in job.reported:
                job.reported.add(update)
                if update not in known:
                    job.trial.report(score, update)
        if status is None and job.reported and job.trial.should_prune():
            _end(job.process)
            self._close(job, TrialState.PRUNED, None, f"pruned after update {max(job.reported)}")
        elif status is None:
            return False
        elif status == 0:
            value = final(job.run_dir)
            self._close(job, TrialState.COMPLETE, value, f"{value:.1f}")
        else:
            log = job.run_dir.with_suffix(".log")
            why = failures.reason(job.run_dir) or f"status {status}: {_last_line(log)}"
            job.trial.set_user_attr("why", why)
            self._close(job, TrialState.FAIL, None, f"failed: {why}")
        return True

    def _close(self, job: Running, state: TrialState, value: float | None, told: str) -> None:
        self.study.tell(job.trial, value, state=state)
        line = f"trial {job.trial.number}: {told}"
        self.console.print(line, soft_wrap=True, highlight=False, markup=False)

    def _begun(self) -> int:
        return sum(trial.state != TrialState.WAITING for trial in self.study.trials)

    def _in(self, state: TrialState) -> list[Any]:
        return self.study.get_trials(deepcopy=False, states=(state,))

    def _run_dir(self, number: int) -> Path:
        return (self.folder / TRIALS / f"{number:04}").absolute()

    def _require_same_question(self, asked: dict[str, Any]) -> None:
        path = self.folder / QUESTION
        if not path.is_file():
            write_json(path, asked)
            return
        earlier = read_record(
            path, "restore it, or delete it and type the settings of this study again"
        )
        for part in ("fixed", "space"):
            if earlier.get(part) != asked[part]:
                raise Mistake(
                    f"{self.folder} is a study of {part}={earlier.get(part)}, this command has "
                    f"{part}={asked[part]}; type the same settings, or give a new folder"
                )


def scores(run_dir: Path) -> Iterator[tuple[int, float]]:
    """Evaluations of a run at work: update, and mean over seeds of the score, or of the return."""
    try:
        series = read_metrics(run_dir / METRICS)
    except Mistake:  # not there yet
        return
    seeds = [
        dict(zip(*seed, strict=True))
        for seed in (series.get("score") or series.get("return") or {}).values()
    ]
    if seeds:
        for update in sorted(set(seeds[0]).intersection(*seeds)):
            yield update, float(np.mean([seed[update] for seed in seeds]))


def final(run_dir: Path) -> float:
    """What is maximised: the mean of the last ten evaluations."""
    result = read_summary(run_dir / SUMMARY)["result"]
    value = result.get("score_last10", result.get("return_last10"))
    if value is None:
        raise Mistake(f"{run_dir} was never scored; its dataset needs dataset.env_id=...")
    return value


def draw(study: optuna.Study, folder: Path) -> None:
    """Write Optuna's plots that there are enough trials for."""
    import warnings

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    for name in PLOTS:
        with warnings.catch_warnings(), _closed_figures(pyplot):
            warnings.simplefilter("ignore")
            try:
                axes = getattr(plots, f"plot_{name}")(study)
            except (ValueError, RuntimeError):  # too few trials, or all alike
                continue
            figure = np.ravel(axes)[0].figure
            figure.set_size_inches(max(8, 4 * len(np.ravel(axes))), 5)
            with writing(folder), replacing(folder / f"{name}.png") as temporary:
                figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight")


@contextmanager
def _closed_figures(pyplot: Any) -> Iterator[None]:
    try:
        yield
    finally:
        pyplot.close("all")


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return one_line(lines[-1].removeprefix("error: ")) if lines else "it printed nothing"


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(_MERCY)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.tune", description=__doc__)
    parser.add_argument("study", type=Path, help="folder of the study")
    parser.add_argument("settings", nargs="*", help="settings of train.py, some with sweeps")
    parser.add_argument("--trials", type=int, default=20, help="of the whole study, 20")
    parser.add_argument("--jobs", type=int, default=1, help="trials side by side, 1")
    parser.add_argument("--seed", type=int, default=0, help="of the search, 0")
    arguments = parser.parse_intermixed_args()
    if arguments.trials < 1 or arguments.jobs < 1:
        raise Mistake("--trials and --jobs must be at least 1")
    with lock_directory(arguments.study):
        script = [sys.executable, "-m", "reverie.train"]
        tuner = Tuner(arguments.study, arguments.settings, arguments.seed, arguments.jobs, script)
        tuner.run(arguments.trials)


if __name__ == "__main__":
    mistakes.run(main, sweeps=True)
