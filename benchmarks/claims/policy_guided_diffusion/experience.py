"""Policy-guided diffusion and SynthER beside recorded data, at a budget of two CPU cores.

Each task's generators and ensemble are fitted once and serve all arms; the seeds are the learners'.
All arms of a learner have the same networks, updates and rows a batch, and differ in where these
rows come from.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from reverie.agents.base import Agent
from reverie.benchmarks.claims import experiment
from reverie.benchmarks.claims.experiment import History
from reverie.benchmarks.claims.policy_guided_diffusion import segment_quality
from reverie.benchmarks.claims.policy_guided_diffusion.segment_quality import Scale, Segments
from reverie.benchmarks.claims.policy_guided_diffusion.tasks import SINGLE_STEPS, Task
from reverie.datasets.dataset import Dataset
from reverie.envs.true_dynamics import simulator_for
from reverie.training.launch.make import load_preset
from reverie.training.launch.options import build_option, load_option
from reverie.training.seeding import seed_everything
from reverie.world_models.base import WorldModel
from reverie.world_models.diffusion.generator import DiffusionGenerator
from reverie.world_models.diffusion.source import GeneratedTransitions
from reverie.world_models.ensemble import ProbabilisticEnsemble
from reverie.world_models.filters import KeepAll
from reverie.world_models.sources import BranchedRollouts

REAL, SYNTHER, UNGUIDED, GUIDED = "real", "synther", "unguided", "guided"
ARMS = (REAL, SYNTHER, UNGUIDED, GUIDED)
ENSEMBLE = "ensemble"
CHUNK = 1_024
CHURN = 80 / 256
"""Noise added a step of the sampler, as published."""
SEED = 0
AGENTS = {"td3_bc": "pgd", "iql": "pgd_iql"}
"""Learners, and the preset that has their numbers for policy-guided diffusion."""
STRENGTHS = (1.0, 4.0, 16.0)
"""Powers of the policy in the guided distribution; of the arm `guided_name`, the first."""
TARGET = "td3_bc"
"""Whose policy, trained on the recorded data alone, is the target of the segments measured."""
FITTED = ("segments", "transitions", "ensemble")


def fit_generator(
    option: str, changes: Mapping[str, Any], task: Task, data: Dataset, seed: int
) -> tuple[DiffusionGenerator, dict[str, Any]]:
    """`generator=<option>` with changed hyperparameters, fitted."""
    distribution = load_option("noise_distribution", "log_normal")
    generator, described, seconds = experiment.fit(
        *("generator", option, data),
        changes={**changes, "noise_distribution": distribution, "checkpoint_every": 0},
        seeds=task.schedule.seeds,
        seed=seed,
    )
    return generator, {**described, "seconds": seconds}


def fit_ensemble(
    task: Task, data: Dataset, seed: int
) -> tuple[ProbabilisticEnsemble, dict[str, Any]]:
    """The autoregressive model; one serves all seeds, as the generators do."""
    ensemble, described, seconds = experiment.fit(
        *("world_model", "ensemble", data),
        changes={**task.ensemble, "per_seed": False},
        seeds=task.schedule.seeds,
        seed=seed,
    )
    return ensemble, {**described, "seconds": seconds}


def train(
    label: str,
    task: Task,
    data: Dataset,
    agent: str,
    arm: str,
    generator: DiffusionGenerator | None,
    seed: int,
) -> History:
    """One learner on recorded rows or on those of a generator, scored in the true environment."""
    own, preset = load_option("agent", agent), load_preset(AGENTS[agent])
    share = 1.0
    if arm != REAL:
        share = (load_preset(SYNTHER) if arm == SYNTHER else preset)["real_ratio"]
    changes = {key: value for key, value in task.agents.items() if key in own}
    return experiment.run(
        f"{label}, {agent} {arm}",
        data,
        replace(task.schedule, real_ratio=share),
        agent=agent,
        changes={**preset["agent"], **changes},  # the preset's hyperparameters, then the task's
        make_source=None if generator is None else partial(make_source, task, generator, arm),
        seed=seed,
    )


def make_source(
    task: Task,
    generator: DiffusionGenerator,
    arm: str,
    records: int | None = None,
    strength: float = STRENGTHS[0],
) -> GeneratedTransitions:
    """Samples of a generator as an arm gets them."""
    guidance = None
    if arm == GUIDED:
        guidance = build_option("guidance", "policy", changes={"strength": strength})
    changes: dict[str, float]
    if arm == SYNTHER:
        count, sampler, changes = task.single, "dpm_solver_2m", {"steps": SINGLE_STEPS}
    else:
        churn = CHURN * task.steps
        count, sampler, changes = task.records, "euler", {"steps": task.steps, "churn": churn}
    return GeneratedTransitions(
        generator=generator,
        seeds=task.schedule.seeds,
        sampler=build_option("sampler", sampler, changes=changes),
        guidance=guidance,
        behaviour=None,
        warm_start=None,
        records=records or count,
        chunk=CHUNK,
        every=None if arm == SYNTHER else task.every,
        retain=1,
    )


def measure_segments(
    task: Task,
    data: Dataset,
    *,
    segments: DiffusionGenerator,
    transitions: DiffusionGenerator,
    ensemble: WorldModel,
    target: Agent,
    seed: int,
) -> dict[str, dict[str, Tensor]]:
    """Segments of every kind against the simulator and the target policy."""
    seed_everything(seed)
    found = {REAL: segment_quality.draw_recorded(segments, data, target.seeds, task.measured)}
    found[UNGUIDED] = draw_segments(task, segments, target, UNGUIDED)
    for strength in STRENGTHS:
        found[guided_name(strength)] = draw_segments(task, segments, target, GUIDED, strength)
    length = segments.records.transitions
    found[ENSEMBLE] = roll_out(ensemble, data, target, length, task.measured)
    found[SYNTHER] = draw_segments(task, transitions, target, SYNTHER)
    simulator, scale = simulator_for(data.spec, 1), Scale.of(data)
    return {
        kind: segment_quality.measure(segments, simulator, target.moments, scale)
        for kind, segments in found.items()
    }


def draw_segments(
    task: Task,
    generator: DiffusionGenerator,
    target: Agent,
    arm: str,
    strength: float = STRENGTHS[0],
) -> Segments:
    """Segments as an arm gets them, with the target policy in the place of its own."""
    records = 20 * task.measured if arm == SYNTHER else task.measured
    source = make_source(task, generator, arm, records, strength)
    source.attach(target.moments)
    source.restore({"rounds": 1})  # the first rollout round of a run is not guided
    rows, keep = source.generate(target.act, torch.empty(target.seeds, 0, target.spec.obs_dim))
    shape = (source.records, generator.records.transitions)
    return Segments(rows.map(lambda column: column.unflatten(1, shape)), keep.unflatten(1, shape))


def roll_out(
    ensemble: WorldModel, data: Dataset, target: Agent, length: int, segments: int
) -> Segments:
    """Rollouts of the target policy in the ensemble, from recorded states."""
    source = BranchedRollouts(
        model=ensemble,
        transition_filter=KeepAll(),
        horizon=length,
        starts=segments,
        every=1,
        retain=1,
        actions="policy",
    )
    starts = data.transitions.obs[torch.randint(len(data), (target.seeds, segments))]
    rows, keep = source.generate(partial(target.act, deterministic=True), starts)
    shape = (length, segments)
    return Segments(
        rows.map(lambda column: column.unflatten(1, shape).transpose(1, 2)),
        keep.unflatten(1, shape).transpose(1, 2),
    )


def guided_name(strength: float) -> str:
    """The name of segments that are guided with a strength."""
    return f"guided {strength:g}"


def fit_jobs(
    tasks: Mapping[str, Task], data: Mapping[str, Dataset]
) -> dict[str, Callable[[], Any]]:
    """All that needs no generator, the longest first: fits, and learners of recorded data."""
    jobs: dict[str, Callable[[], Any]] = {}
    for name, task in tasks.items():
        given = (task, data[name], SEED)
        jobs[f"{name}/segments"] = partial(fit_generator, "trajectory_fast", task.segments, *given)
    for name, task in tasks.items():
        given = (task, data[name], SEED)
        jobs[f"{name}/transitions"] = partial(
            fit_generator, "transition_small", task.transitions, *given
        )
        jobs[f"{name}/ensemble"] = partial(fit_ensemble, *given)
        for agent in AGENTS:
            jobs[f"{name}/{agent}/{REAL}"] = partial(
                train, name, task, data[name], agent, REAL, None, SEED
            )
    return jobs


def arm_jobs(
    tasks: Mapping[str, Task], data: Mapping[str, Dataset], fitted: Mapping[str, Any]
) -> dict[str, Callable[[], Any]]:
    """Measurements of segments, and learners of what the generators make, the longest first."""
    jobs: dict[str, Callable[[], Any]] = {}
    for arm in (GUIDED, UNGUIDED, SYNTHER):
        for name, task in tasks.items():
            part = "transitions" if arm == SYNTHER else "segments"
            generator = fitted[f"{name}/{part}"][0]
            for agent in AGENTS:
                jobs[f"{name}/{agent}/{arm}"] = partial(
                    train, name, task, data[name], agent, arm, generator, SEED
                )
    for name, task in tasks.items():
        parts = {part: fitted[f"{name}/{part}"][0] for part in FITTED}
        target = fitted[f"{name}/{TARGET}/{REAL}"].agent
        jobs[f"{name}/segments"] = partial(
            measure_segments, task, data[name], target=target, seed=SEED, **parts
        )
    return jobs
