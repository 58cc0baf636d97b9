"""Short training runs of several arms, with the same loop and logs as `train.py`."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from joblib import Parallel, delayed

from reverie.agents.base import Agent
from reverie.datasets.dataset import Dataset
from reverie.datasets.replay import GrowingReplay, Mixture
from reverie.envs.evaluation import Evaluator
from reverie.envs.true_dynamics import simulator_for
from reverie.training.cores import count_cores
from reverie.training.launch.options import build_option
from reverie.training.loop import Periods
from reverie.training.mixing import mix
from reverie.training.online import Online
from reverie.training.probes.lipschitz import LipschitzProbe
from reverie.training.probes.values import EdgeTest, ValueProbe
from reverie.training.results.summary import Series
from reverie.training.run import Probe, Run
from reverie.training.seeding import seed_everything
from reverie.world_models.base import WorldModel
from reverie.world_models.filters import KeepAll, TransitionFilter
from reverie.world_models.sources import BranchedRollouts, RolloutSource

CPU = torch.device("cpu")
T = TypeVar("T")


@dataclass(frozen=True)
class Schedule:
    """How long and how wide an arm runs.

    Attributes:
        seeds: S, side by side.
        updates: gradient steps.
        batch, real_ratio: rows of an update, and the share of them from the dataset where a
            source adds others.
        evaluate, episodes: gradient steps between evaluations, and their episodes per seed.
        probe: rollouts of the value probe; 0 for none.
    """

    seeds: int
    updates: int
    batch: int
    real_ratio: float
    evaluate: int
    episodes: int
    probe: int


@dataclass(frozen=True)
class Budget(Schedule):
    """A schedule with `BranchedRollouts`, which names the further attributes."""

    starts: int
    horizon: int
    every: int
    retain: int

    def branch(
        self, model: WorldModel, transition_filter: TransitionFilter | None = None
    ) -> BranchedRollouts:
        """Rollouts of a model of this size; all rows are kept where no filter says otherwise."""
        return BranchedRollouts(
            model=model,
            transition_filter=transition_filter or KeepAll(),
            horizon=self.horizon,
            starts=self.starts,
            every=self.every,
            retain=self.retain,
            actions="policy",
        )


@dataclass(frozen=True)
class History:
    """What a run measured.

    Attributes:
        series: everything that was measured.
        agent: as trained.
        seconds: of this process for training, evaluations included; see `timed`.
        evaluating: of evaluations and probes alone.
        fitting: of what was fitted before training.
        kept: copies of the agent at every evaluation, where they were asked for.
    """

    series: Series
    agent: Agent
    seconds: float
    evaluating: float = 0.0
    fitting: float = 0.0
    kept: Sequence[Agent] = ()

    @property
    def learning(self) -> float:
        """Seconds that the method itself took: fits, rollouts and updates."""
        return self.fitting + self.seconds - self.evaluating

    def last(self, metric: str) -> list[float]:
        """The last value of each seed."""
        return self.mean_of_last(metric, 1)

    def mean_of_last(self, metric: str, count: int = 3) -> list[float]:
        """Mean of each seed's last evaluations."""
        return self.series[metric][1][:, -count:].mean(1).tolist()


def describe_runs(runs: Mapping[str, History]) -> dict[str, Any]:
    """All series of all arms, as plain values."""
    return {
        arm: {
            "seconds": run.seconds,
            "series": {
                metric: {"updates": updates, "by_seed": values}
                for metric, (updates, values) in run.series.items()
            },
        }
        for arm, run in runs.items()
    }


class Fit(NamedTuple):
    """What was fitted to a dataset, what it says of its fit, and the seconds that took."""

    model: Any
    described: dict[str, Any]
    seconds: float


def fit(
    group: str,
    option: str,
    data: Dataset,
    *,
    changes: Mapping[str, Any],
    seeds: int,
    seed: int = 0,
) -> Fit:
    """Build an option such as `world_model=ensemble` with changed hyperparameters and fit it."""
    model = build_option(group, option, changes=changes, spec=data.spec, seeds=seeds, seed=seed)
    return Fit(model, *timed(lambda: model.fit(data)))


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """A result and the seconds of this process that it took, whatever else the machine did.

    An arm has a process and a thread of its own, so these are the wall-clock of an idle machine.
    """
    begun = time.process_time()
    return work(), time.process_time() - begun


def run_all(jobs: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """Independent arms side by side, one core each; put the longest first.

    The networks are small: two arms on a core each finish sooner than one arm on two.
    """
    results = Parallel(n_jobs=min(len(jobs), count_cores()))(
        delayed(_on_one_core)(job) for job in jobs.values()
    )
    return dict(zip(jobs, results, strict=True))


def _on_one_core(job: Callable[[], T]) -> T:
    torch.set_num_threads(1)
    return job()


def prefix_names(task: str, jobs: Mapping[str, T]) -> dict[str, T]:
    """The arms of a task as `task/arm`."""
    return {f"{task}/{arm}": job for arm, job in jobs.items()}


def split_by_task(runs: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """What is named `task/arm`, by task and arm."""
    found: dict[str, dict[str, T]] = {}
    for name, run in runs.items():
        task, _, arm = name.partition("/")
        found.setdefault(task, {})[arm] = run
    return found


def run(
    label: str,
    data: Dataset,
    budget: Schedule,
    *,
    agent: str,
    changes: Mapping[str, Any],
    make_source: Callable[[], RolloutSource] | None = None,
    fitted: Fit | None = None,
    online: Online | None = None,
    edge_of_reach: EdgeTest | None = None,
    lipschitz: Mapping[str, Any] | None = None,
    seed: int = 0,
    keep: bool = False,
) -> History:
    """Train one arm from scratch and measure it on the way.

    Args:
        label: of its progress.
        agent, changes: its option and changed hyperparameters.
        make_source: what adds rows to those of the dataset.
        fitted: the world model behind them, for refits and the Lipschitz probe.
        online: what is collected meanwhile, and how often the model is fitted again.
        lipschitz: hyperparameters of a `LipschitzProbe` on the true dynamics, None for no such
            probe.
        keep: whether the history holds the agent of every evaluation.
    """
    seed_everything(seed)
    sizes = {"spec": data.spec, "seeds": budget.seeds, "updates": budget.updates}
    learner: Agent = build_option("agent", agent, changes=changes, **sizes)
    learner.prepare(data)
    mixture, sources = mix(
        data,
        seeds=budget.seeds,
        batch_size=budget.batch,
        real_rows=int(budget.batch * budget.real_ratio + 1e-9),
        source=None if make_source is None else make_source(),
        online=online,
        agent=learner,
    )
    recorded = mixture["real"]
    model, refit = None if fitted is None else fitted.model, None
    if online is not None and isinstance(recorded, GrowingReplay):
        refit = online.refit(model, data, recorded, CPU)
    kept: list[Agent] = []
    prepared = Run(
        data=data,
        agent=learner,
        mixture=mixture,
        sources=sources,
        updates=budget.updates,
        periods=Periods(log=budget.evaluate, evaluate=budget.evaluate, checkpoint=0),
        seed=seed,
        evaluator=Evaluator(spec=data.spec, seeds=budget.seeds, episodes=budget.episodes),
        probes=_make_probes(
            learner, data, mixture, sources, budget, edge_of_reach, model, lipschitz
        ),
        online=online,
        model_updates=refit,
        on_evaluation=lambda *_: kept.append(copy.deepcopy(learner)) if keep else None,
        label=label,
        # An arm has a process and a thread of its own, so these are the seconds of an idle machine.
        clock=time.process_time,
    )
    series, seconds = prepared.train().series, prepared.seconds
    return History(
        series,
        learner,
        seconds=sum(seconds.values()),
        evaluating=seconds["evaluation"],
        fitting=0.0 if fitted is None else fitted.seconds,
        kept=kept,
    )


def _make_probes(
    agent: Agent,
    data: Dataset,
    mixture: Mixture,
    sources: Mapping[str, RolloutSource],
    budget: Schedule,
    edge_of_reach: EdgeTest | None,
    model: WorldModel | None,
    lipschitz: Mapping[str, Any] | None,
) -> list[Probe]:
    """What looks at the agent beside every evaluation."""
    probes: list[Probe] = []
    if budget.probe:
        probes.append(
            ValueProbe(
                agent=agent,
                mixture=mixture,
                sources=sources,
                data=data,
                starts=budget.probe,
                edge_of_reach=edge_of_reach,
            )
        )
    if lipschitz is not None:
        assert model is not None
        probes.append(
            LipschitzProbe(
                agent=agent,
                real=mixture["real"],
                data=data,
                seeds=budget.seeds,
                model=model,
                truth=simulator_for(data.spec, 1),
                **lipschitz,
            )
        )
    return probes
