"""A run as an object: a dataset, an agent, the sources of its batches, and its measurements.

Knows nothing of configuration: `reverie.make` builds one from settings, a notebook or a benchmark
from its own objects.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, overload

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from reverie.agents.base import Agent
from reverie.datasets.cache import cache_root
from reverie.datasets.dataset import Dataset
from reverie.datasets.replay import Mixture
from reverie.envs.evaluation import Episodes, Evaluator
from reverie.mistake import Mistake
from reverie.paths import expanded
from reverie.training import checkpoint, fitting
from reverie.training.compilation import keep_compiled, wrapper
from reverie.training.cores import count_cores
from reverie.training.execution import Execution, settle
from reverie.training.extension import REMEDY, Extension
from reverie.training.files import write_json, write_text
from reverie.training.fitting import Part
from reverie.training.initialisation import Initialisation, pinned
from reverie.training.logging import Log, NoTracker, Tracker
from reverie.training.loop import Periods, Wrapper, train
from reverie.training.memory import keep_freed_memory
from reverie.training.online import Online
from reverie.training.ope import alarms as verdict_alarms
from reverie.training.ope.expectations import expectations
from reverie.training.ope.verdict import Verdict
from reverie.training.plant_units import Named, as_named, as_rows, decide
from reverie.training.pretraining import Cloning
from reverie.training.probes import advice, blow_up
from reverie.training.probes.value_gap import ValueGap, alarms
from reverie.training.progress import Stage, stage
from reverie.training.results import curves
from reverie.training.results.summary import (
    Series,
    read_metrics,
    read_series,
    read_summary,
    summarise,
)
from reverie.training.run_directory import (
    CONFIG,
    METRICS,
    SUMMARY,
    claimed,
    require_same_settings,
)
from reverie.training.seeding import (
    evaluation_seed,
    random_state,
    restore_random_state,
    side_stream,
)
from reverie.training.stored import write_settings
from reverie.world_models.base import WorldModel
from reverie.world_models.model_updates import ModelUpdates
from reverie.world_models.precision import Precision
from reverie.world_models.sources import RolloutSource


class Probe(Protocol):
    """Measures an agent beside an evaluation; trains nothing."""

    def measure(self, episodes: Episodes | None) -> Mapping[str, Float[Tensor, " S"]]:
        """Named numbers, one a seed.

        Args:
            episodes: of the evaluation, None where there was none.
        """


@dataclass(frozen=True)
class Results:
    """The results of a run.

    Attributes:
        summary: what `summary.json` of its directory holds.
        series: all measurements.
    """

    summary: Mapping[str, Any]
    series: Series


@dataclass
class Run:
    """One training, from the fits of its parts to its results.

    Attributes:
        data, agent, mixture, sources: the objects of the training loop, on `device`.
        updates: gradient steps.
        periods: gradient steps between two rows of the log, two evaluations, two checkpoints.
        seed: of fits and evaluations; the agent was built with random numbers of its own.
        parts: what is fitted to the dataset before training, by group of the configuration.
        compiled: whether updates, rollouts and fits are compiled; None: if it saves time.
        compile: what functions are passed through, in the place of that decision; None to decide.
        threads: of torch; None for those that torch has, or had when the run began.
        precision: of hidden layers in updates and rollouts.
        evaluator: copies of the true environment, None for no scores.
        probes: measured at every evaluation, each on a random stream of its own.
        value_gap: a probe that is judged at the end as well, for an alarm.
        verdict: settings of the verdict at the end; None for none.
        initialisation: networks of another run that the agent begins with, None for its own.
        extension: a shorter run that this one goes on from, None for none.
        online: steps in the true environment.
        model_updates: updates of the world model during the run: refits to collected transitions,
            or an adversary.
        pretraining: pretraining of the actor before the first update, None for none.
        steps_before: environment steps behind the dataset, where the run counts them.
        evaluate_first: whether the untrained agent is evaluated too, as update 0.
        on_evaluation: told the update and the episodes, after they were logged.
        tracker: shows measurements outside the run directory.
        name: of the method, for tables and pictures.
        label: of its progress.
        settings: plain values by which its directory is known, and from which the command line
            can build it again.
        population: values by seed of settings in which the seeds differ.
        cache: folder of fitted models.
        clock: tells seconds; of this process where several share a machine.
        random: state of torch's generators from which the training starts.
    """

    data: Dataset
    agent: Agent
    mixture: Mixture
    sources: Mapping[str, RolloutSource]
    updates: int
    periods: Periods
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    parts: Mapping[str, Part] = field(default_factory=dict)
    compiled: bool | None = False
    compile: Wrapper | None = None
    threads: int | None = None
    precision: Precision = "float32"
    evaluator: Evaluator | None = None
    probes: Sequence[Probe] = ()
    value_gap: ValueGap | None = None
    verdict: Verdict | None = None
    initialisation: Initialisation | None = None
    extension: Extension | None = None
    online: Online | None = None
    model_updates: ModelUpdates | None = None
    pretraining: Cloning | None = None
    steps_before: int = 0
    evaluate_first: bool = False
    on_evaluation: Callable[[int, Episodes | None], None] = lambda update, episodes: None
    tracker: Tracker = field(default_factory=NoTracker)
    name: str = "run"
    label: str = "training"
    settings: Mapping[str, Any] = field(default_factory=dict)
    population: Mapping[str, Sequence[float]] = field(default_factory=dict)
    cache: Path = field(default_factory=cache_root)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.random = random_state(self.device)
        if not self.settings:  # put together by hand: what a directory is compared by
            self.settings = {
                "name": self.name,
                "seed": self.seed,
                "seeds": self.agent.seeds,
                "updates": self.updates,
                "rows": dict(self.mixture.rows),
                "dataset": {"name": self.data.name, "fingerprint": self.data.fingerprint},
            }
        self.seconds = {"fitting": 0.0, "training": 0.0, "evaluation": 0.0}
        self.described: dict[str, Mapping[str, Any]] = {}
        self._trained = False

    def train(self, directory: Path | str | None = None, console: Console | None = None) -> Results:
        """Fit the parts and train, from the last checkpoint in `directory` if there is one.

        The same run in the same directory goes on where it was killed, to the same bits, and
        changes nothing once it is finished.

        Args:
            directory: of everything that is written, new, empty or of this run; None keeps nothing.
            console: where progress is shown.

        Raises:
            RuntimeError: the run has been trained already, and there is no directory to go on in.
            Mistake: the directory holds a run with other settings, or files that are none of a run.
        """
        console = console or Console(markup=False, emoji=False)
        directory = None if directory is None else expanded(directory)
        self.settings = pinned(self.settings, directory)
        if directory is None:
            if self._trained:
                raise RuntimeError("this run has been trained; make a new one to train again")
            with TemporaryDirectory() as folder:
                summary = self._train(Path(folder), None, console)
                return Results(summary, read_series(Path(folder) / METRICS))
        with claimed(directory):
            require_same_settings(directory, self.settings)
            if (directory / SUMMARY).is_file():
                summary = read_summary(directory / SUMMARY)
                if not (directory / CONFIG).is_file():
                    checkpoint.restore_settings(directory, self.settings)
                if (directory / checkpoint.FILE).is_file():  # checkpoint_every=0 writes none
                    state = self._state(directory)
                    state.resume(directory / checkpoint.FILE)
                    state.log.begin()  # which writes only what was damaged
                self._trained = True
            else:
                if self._trained and not (directory / checkpoint.FILE).is_file():
                    raise RuntimeError("this run has been trained; make a new one to train again")
                summary = self._train(directory, directory, console)
                curves.plot_run(directory, summary)
                self._draw_dreams(directory)
                write_json(directory / SUMMARY, summary, with_digest=True)
        sha256 = summary.get("metrics_sha256")
        return Results(summary, read_series(directory / METRICS, sha256))

    @overload
    def policy(self, obs: Tensor) -> Tensor: ...

    @overload
    def policy(self, obs: Named, seed: int = 0) -> dict[str, Any]: ...

    def policy(self, obs: Any, seed: int = 0) -> Tensor | dict[str, Any]:
        """Deterministic actions `[S, B, A]` in [-1, 1] for `obs [S, B, D]`, both on the host.

        Of a mapping from names of columns to values in the plant's units, or of a DataFrame: those
        of one seed by name, in the plant's units, see `training.plant_units.decide`.
        """
        obs = as_named(obs)
        seeds = self.agent.seeds
        if isinstance(obs, Mapping):
            return decide(self.policy, self.data.spec, obs, seeds=seeds, seed=seed)
        rows = as_rows(obs, self.data.spec, seeds, self.device)
        return self.agent.act(rows, deterministic=True).cpu()

    @property
    def real_share(self) -> float:
        """Of the rows in a batch, those that were recorded, or met in the true environment."""
        return self.mixture.rows.get("real", 0) / sum(self.mixture.rows.values())

    def _train(self, folder: Path, kept: Path | None, console: Console) -> dict[str, Any]:
        """Carry the run out, or what is left of it.

        Args:
            folder: of metrics and checkpoints.
            kept: the run's directory, None where nothing is kept.
        """
        self._trained = True
        extended = None
        if self.extension is not None:
            extended = self.extension.begin(folder, self.agent, self.data, self.settings)
            if extended is not None:
                console.print(extended, highlight=False, soft_wrap=True)
        decided = settle(
            folder,
            threads=self.threads,
            compiled=self.compiled,
            updates=self.updates,
            gains=self.agent.gains_by_compiling,
        )
        console.print(_told(decided, self.device), highlight=False, soft_wrap=True)
        compile = self.compile or wrapper(decided.compiled, self.device)
        keep_compiled(self.cache)
        keep_freed_memory()
        saved = folder / checkpoint.FILE
        if self.initialisation is not None and not saved.is_file():
            console.print(self.initialisation.give(self.agent, self.settings), soft_wrap=True)
        restore_random_state(self.random, self.device)
        self._fit(kept, compile, console)
        state = self._state(folder)
        log = state.log
        changes = self.model_updates
        if changes is not None:
            changes.count, changes.then = state.count, self._prepare_sources
            changes.compile(compile)
        first, fresh = 0, not saved.is_file()
        if not fresh:
            first = self._resume(state, saved, copied=extended is not None)
            if changes is not None:  # the model is that of the checkpoint now
                self._prepare_sources()
            where = folder if kept is not None else "it"
            console.print(f"resuming {where} after update {first}", soft_wrap=True)
        if kept is not None:
            write_text(kept / CONFIG, write_settings(self.settings))
        log.begin()
        if first == 0 and self.pretraining is not None:
            with state.count("fitting"):
                self.pretraining.carry_out(self.agent, self.mixture["real"], compile, console)
        with stage(self.label, self.updates, console, first) as shown:
            self.tracker.start(folder, self.settings, first)
            try:
                if self.evaluate_first and fresh:
                    self._evaluate(0, state, shown)
                train(
                    self.agent,
                    self.mixture,
                    self.sources,
                    first=first,
                    updates=self.updates,
                    periods=self.periods,
                    log=log,
                    evaluate=lambda update: self._evaluate(update, state, shown),
                    checkpoint=lambda update: state.save(saved, update),
                    compile=compile,
                    precision=self.precision,
                    on_update=shown.advance_to,
                    model_updates=changes,
                )
                if fresh and not self.updates and self.periods.checkpoint:
                    state.save(saved, 0)  # which no update did
            finally:
                self.tracker.close()
                if self.evaluator is not None:
                    self.evaluator.close()
        return self._summarise(log, console)

    def _resume(self, state: checkpoint.State, saved: Path, copied: bool) -> int:
        """Go back to a checkpoint; one that was just copied from a shorter run goes if it cannot
        be used, so that the same command begins again once that run is restored."""
        if self.extension is None or not copied:
            return state.resume(saved)
        try:
            return state.resume(saved, self.extension.path, REMEDY)
        except Mistake:
            for path in (saved, saved.with_name(METRICS)):
                path.unlink()
            raise

    def _state(self, folder: Path) -> checkpoint.State:
        """Everything that training changes."""
        return checkpoint.State(
            agent=self.agent,
            mixture=self.mixture,
            sources=self.sources,
            log=Log(
                *(folder / METRICS, self.tracker, self.agent.seeds),
                remedy=advice.after_divergence(self.settings),
            ),
            seconds=self.seconds,
            data=self.data,
            device=self.device,
            model_updates=self.model_updates,
            settings=self.settings,
            clock=self.clock,
        )

    def _fit(self, directory: Path | None, compile: Wrapper, console: Console) -> None:
        """Fit the parts, or read what was fitted to the same data before."""
        for group, part in self.parts.items():
            begun = self.clock()
            with side_stream(self.seed, self.device):
                self.described[group] = fitting.fit(
                    *(group, part, self.data),
                    cache=self.cache,
                    directory=directory,
                    device=self.device,
                    compile=compile,
                    console=console,
                )
            self.seconds["fitting"] += self.clock() - begun
        self._prepare_sources(console)
        if directory is not None:
            with side_stream(self.seed, self.device):
                fitting.measure_selection(self.parts, self.sources, self.data, directory)

    def _prepare_sources(self, console: Console | None = None) -> None:
        """Let filters see the dataset, now that the models are fitted; tell what they found."""
        for source in self.sources.values():
            with side_stream(self.seed, self.device):
                told = source.prepare(
                    self.data, seeds=self.agent.seeds, discount=self.agent.discount
                )
            if told is not None and console is not None:
                console.print(told, markup=False, highlight=False, soft_wrap=True)

    def _draw_dreams(self, directory: Path) -> None:
        """Draw what the world model expects of the trained policy, beside recorded episodes."""
        part = self.parts.get("world_model")
        if part is None or not isinstance(part.model, WorldModel):
            return

        def policy(obs: Tensor) -> Tensor:
            return self.agent.act(obs, deterministic=True)

        with side_stream(self.seed, self.device):
            fitting.draw_dreams(
                part.model,
                self.data,
                directory,
                policy=None if self.agent.plans else policy,  # 96 dreams of 200 steps
                seeds=self.agent.seeds,
                title=f"{self.name} on {self.data.name}",
            )

    def _evaluate(self, update: int, state: checkpoint.State, shown: Stage) -> None:
        """Score the policy in the true environment, and let the probes look at it."""
        with state.count("evaluation"):
            self._measure(update, state.log)
        if update:
            shown.report(update, state.log.readable())

    def _measure(self, update: int, log: Log) -> None:
        seed, episodes = evaluation_seed(self.seed, update), None
        if self.online is not None:
            steps = self.steps_before + self.online.source.taken * self.data.spec.chunk
            log.write(update, {"env_steps": [steps] * self.agent.seeds})
        if self.evaluator is not None:
            begun = self.agent.begin()
            with side_stream(seed, self.device):  # of plans; agents draw nothing
                episodes = self.evaluator.run(
                    lambda obs: begun(obs.to(self.device)).cpu(), seed, self.agent.discount
                )
            mean, reference = episodes.returns.mean(1), self.data.reference
            scores = None if reference is None else reference.normalise(mean).tolist()
            log.record_evaluation(update, mean.tolist(), scores)
        for probe in self.probes:
            with side_stream(seed, self.device):
                measured = probe.measure(episodes)
            log.write(update, {name: values.tolist() for name, values in measured.items()})
        self.on_evaluation(update, episodes)

    def _judge(self, console: Console) -> dict[str, Any] | None:
        """What the policy is worth by the data and the model, on a random stream of its own."""
        if self.verdict is None:
            return None
        begun = self.clock()
        model = self.parts["world_model"].model if "world_model" in self.parts else None
        with side_stream(self.seed, self.device):
            found = self.verdict.judge(
                lambda obs: self.agent.act(obs, deterministic=True),
                self.data,
                model if isinstance(model, WorldModel) else None,
                seeds=self.agent.seeds,
                discount=self.agent.discount,
                seed=self.seed,
                device=self.device,
                console=console,
                expect=lambda starts: expectations(
                    self.agent, self.data, starts, updates=self.updates
                ),
            )
        self.seconds["verdict"] = self.clock() - begun
        return found

    def _summarise(self, log: Log, console: Console) -> dict[str, Any]:
        judged = None
        if self.value_gap is not None:
            with side_stream(self.seed, self.device):
                judged = self.value_gap.judge()
        verdict = self._judge(console)
        described = {group: self.described.get(group, {}) for group in fitting.FITTED}
        summary = summarise(
            *(self.data, log.scores, described, self.seconds, self.device),
            name=self.name,
            seed=self.seed,
            seeds=self.agent.seeds,
            updates=self.updates,
            population=self.population,
        )
        summary["metrics_sha256"] = log.sha256()
        summary["value_gap"] = judged
        summary["verdict"] = verdict
        summary["blow_up"] = blow_up.judge(
            read_metrics(log.path), self.data, self.mixture, self.agent
        )
        said = [
            *blow_up.alarm(summary["blow_up"]),
            *alarms(described["world_model"], judged),
            *verdict_alarms.alarms(
                verdict,
                real_share=self.real_share,
                critics=not summary["blow_up"]["alarm"],
                clones=self.agent.clones,
            ),
        ]
        summary["alarms"] = [advice.suit(each, self.settings) for each in said]
        return summary


def _told(decided: Execution, device: torch.device) -> str:
    """What was decided, in words."""
    threads = f"{decided.threads} thread{'s' * (decided.threads > 1)}"
    how = "compiled" if decided.compiled else "not compiled"
    return f"on {device} with {threads} of {count_cores()} cores, {how}"
