"""Short training runs of several arms, with the same loop and logs as `train.py`."""

import copy
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch
from hydra.utils import instantiate
from joblib import Parallel, delayed
from rich.console import Console

from reverie.agents.base import Agent
from reverie.benchmarks.claims.report import timed
from reverie.datasets.dataset import Dataset
from reverie.datasets.replay import GrowingReplay, Mixture, Replay
from reverie.envs.evaluation import Evaluator
from reverie.envs.true_dynamics import simulator_for
from reverie.training.launch.options import read_option
from reverie.training.logging import Log, NoTracker
from reverie.training.loop import Periods, train
from reverie.training.online import Online
from reverie.training.probes.lipschitz import LipschitzProbe
from reverie.training.probes.values import EdgeTest, ValueProbe
from reverie.training.progress import stage
from reverie.training.results.summary import read_metrics
from reverie.training.seeding import evaluation_seed, seed_everything, side_stream
from reverie.world_models.base import WorldModel
from reverie.world_models.filters import KeepAll, TransitionFilter
from reverie.world_models.morec.dynamics_reward import DynamicsReward
from reverie.world_models.sources import BranchedRollouts, RolloutSource

CONF = Path(__file__).parent.parent.parent / "conf"
CPU = torch.device("cpu")
T = TypeVar("T")


@dataclass(frozen=True)
class Schedule:
    """How long and how wide an arm runs.

    Attributes:
        seeds: S, side by side.
        updates: gradient steps.
        batch, real_fraction: rows of an update, and the share of them from the dataset where a
            source adds others.
        evaluate, episodes: gradient steps between evaluations, and their episodes per seed.
        probe: rollouts of the value probe; 0 for none.
    """

    seeds: int
    updates: int
    batch: int
    real_fraction: float
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


@dataclass(frozen=True)
class History:
    """What a run measured.

    Attributes:
        series: `{metric: (updates [T], values [S, T])}` of everything in its `metrics.csv`.
        agent: as trained.
        seconds: of this process for training, evaluations included; see `report.timed`.
        evaluating: of evaluations and probes alone.
        fitting: of what was fitted before training.
        kept: copies of the agent at every evaluation, where they were asked for.
    """

    series: dict[str, tuple[np.ndarray, np.ndarray]]
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
        return self.series[metric][1][:, -1].tolist()


def option(path: str) -> dict[str, Any]:
    """An option of `conf/` as plain values, without `path`, which only train.py reads."""
    settings = read_option(path.removesuffix(".yaml"))
    settings.pop("path", None)
    return settings


def build(path: str, *, changes: Mapping[str, Any] | None = None, **given: Any) -> Any:
    """What `conf/<path>` describes, with changed numbers and run-time objects."""
    settings = {**option(path), **(changes or {}), "_convert_": "all"}
    made = instantiate(settings)
    return made(**given) if settings.get("_partial_") else made


def build_reward(
    recipe: str, *, changes: Mapping[str, Any], game: Mapping[str, Any], **given: Any
) -> DynamicsReward:
    """`dynamics_reward=<recipe>` with changed numbers, of it and of its game."""
    settings = option(f"dynamics_reward/{recipe}.yaml")
    settings = {**settings, **changes, "game": {**settings["game"], **game}}
    return instantiate(settings)(**given)


def run_all(jobs: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """Independent arms side by side, one core each; put the longest first.

    The networks are small: two arms on a core each finish sooner than one arm on two.
    """
    results = Parallel(n_jobs=min(len(jobs), len(os.sched_getaffinity(0))))(
        delayed(_on_one_core)(job) for job in jobs.values()
    )
    return dict(zip(jobs, results, strict=True))


def _on_one_core(job: Callable[[], T]) -> T:
    torch.set_num_threads(1)
    return job()


def run(
    name: str,
    make_agent: Callable[[], Agent],
    data: Dataset,
    model: WorldModel | None,
    budget: Schedule,
    *,
    make_source: Callable[[], RolloutSource] | None = None,
    transition_filter: TransitionFilter | None = None,
    edge_of_reach: EdgeTest | None = None,
    online: Online | None = None,
    lipschitz: Mapping[str, Any] | None = None,
    seed: int = 0,
    keep: bool = False,
) -> History:
    """Train one arm from scratch and measure it on the way.

    Args:
        model: what a `Budget` branches rollouts of; None without.
        make_source: a source in the place of branched rollouts.
        online: what it collects meanwhile, and how often the model is fitted again.
        lipschitz: numbers of a `LipschitzProbe` on the true dynamics, None for no such probe.
        keep: whether the history holds the agent of every evaluation.
    """
    console = Console()
    seed_everything(seed)
    agent = make_agent()
    agent.prepare(data)
    source = None if make_source is None else make_source()
    if model is not None and isinstance(budget, Budget):
        source = BranchedRollouts(
            model=model,
            transition_filter=transition_filter or KeepAll(),
            horizon=budget.horizon,
            starts=budget.starts,
            every=budget.every,
            retain=budget.retain,
        )
    recorded: Replay = Replay.of(data.transitions)
    sources: dict[str, RolloutSource] = {}
    refit = None
    if online is not None:
        recorded = GrowingReplay(
            data.transitions, lanes=budget.seeds, capacity=online.source.capacity
        )
        sources["real"] = online.source
        refit = online.refit(model, data, recorded, CPU)
    streams, rows = {"real": recorded}, {"real": budget.batch}
    if source is not None:
        sources[source.stream] = source
        streams[source.stream] = Replay(
            data.transitions[:1], lanes=budget.seeds, capacity=source.capacity
        )
        rows["real"] = int(budget.batch * budget.real_fraction + 1e-9)
        rows[source.stream] = budget.batch - rows["real"]
    mixture = Mixture(streams, rows, seeds=budget.seeds)
    probes: list[ValueProbe | LipschitzProbe] = []
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
                real=recorded,
                data=data,
                seeds=budget.seeds,
                model=model,
                truth=simulator_for(data.spec, 1),
                **lipschitz,
            )
        )
    evaluator = Evaluator(spec=data.spec, seeds=budget.seeds, episodes=budget.episodes)
    with (
        TemporaryDirectory() as folder,
        stage(name, budget.updates, console, 0) as shown,
    ):
        log = Log(Path(folder) / "metrics.csv", NoTracker(), budget.seeds)
        log.begin()
        evaluating = 0.0
        kept: list[Agent] = []

        def evaluate(update: int) -> None:
            nonlocal evaluating
            begun = time.process_time()
            at = evaluation_seed(seed, update)
            episodes = evaluator.run(
                lambda obs: agent.act(obs, deterministic=True), at, agent.discount
            )
            log.evaluated(update, episodes.returns.mean(1).tolist(), None)
            if keep:
                kept.append(copy.deepcopy(agent))
            for probe in probes:
                with side_stream(at, CPU):
                    measured = probe.measure(episodes)
                log.write(update, {metric: lanes.tolist() for metric, lanes in measured.items()})
            evaluating += time.process_time() - begun
            shown.report(update, log.readable())

        _, seconds = timed(
            lambda: train(
                agent,
                mixture,
                sources,
                first=0,
                updates=budget.updates,
                periods=Periods(log=budget.evaluate, evaluate=budget.evaluate, checkpoint=0),
                log=log,
                evaluate=evaluate,
                checkpoint=lambda update: None,
                compile=lambda function: function,
                on_update=shown.advance_to,
                refit=refit,
            )
        )
        evaluator.close()
        series = {
            metric: (
                np.array(next(iter(lanes.values()))[0]),
                np.array([values for _, values in lanes.values()]),
            )
            for metric, lanes in read_metrics(log.path).items()
        }
    return History(series, agent, seconds, evaluating, kept=kept)
