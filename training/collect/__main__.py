"""Make benchmark data for a task: `python -m training.collect env_id=Hopper-v5`.

Trains SAC in the environment, through the loop of `train.py`, keeps the policy of every
evaluation, and writes Minari datasets of graded skill as D4RL (arXiv:2004.07219) did: random,
medium-replay, medium and expert, with the returns that score 0 and 100.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from torch import Tensor

from reverie.agents.sac import SAC
from reverie.datasets import minari_writer
from reverie.datasets.cache import cache_at
from reverie.datasets.dataset import Dataset
from reverie.datasets.replay import GrowingReplay
from reverie.envs import snapshot
from reverie.envs.evaluation import Episodes, Evaluator
from reverie.envs.make import make_env
from reverie.envs.specs import Reference
from reverie.mistake import Mistake
from reverie.ranges import Count, EpisodeCount, Filled, Inside, Pair, Seed, Threads, Whole
from reverie.settings import require_declared
from reverie.training import checkpoint
from reverie.training.collect import snapshots as collection
from reverie.training.collect.snapshots import KINDS, Snapshot, Snapshots
from reverie.training.compilation import pick_device
from reverie.training.files import write_json
from reverie.training.launch import mistakes
from reverie.training.launch.compose import build_agent, build_online, threads
from reverie.training.launch.data import load_dataset
from reverie.training.launch.judges import build_evaluator
from reverie.training.launch.options import CONF
from reverie.training.loop import Periods
from reverie.training.mixing import mix
from reverie.training.progress import stage
from reverie.training.results import summary as reports
from reverie.training.run import Run
from reverie.training.run_directory import (
    METRICS,
    SUMMARY,
    claimed,
    require_same_settings,
    run_directory,
)
from reverie.training.seeding import seed_everything

SETTINGS = {
    "seed": Seed,
    "seeds": Count,
    "steps": Count,
    "rows": Count,
    "kinds": Annotated[Sequence[collection.Kind], Filled()],
    "expert": Literal["best", "last"],
    "random": Literal["uniform", "untrained"],
    "medium": Annotated[Sequence[Inside], Pair()],
    "score_episodes": EpisodeCount,
    "updates": Count,
    "batch_size": Count,
    "evaluate.every": Count,
    "evaluate.episodes": EpisodeCount,
    "log_every": Count,
    "checkpoint_every": Whole,
    "license": str | None,
    "threads": Threads,
    "deterministic": bool,
    "overwrite": bool,
}
"""What the settings of conf/collect.yaml may be that no class takes."""


@dataclass(frozen=True)
class Work:
    """What the stages of a collection share.

    Attributes:
        config, settings: the same, as composed and as plain values.
        run_dir: of the training.
        root: of the datasets.
        ids: of the datasets, by kind.
        run: digest of the settings, by which a dataset is known as this collection's.
    """

    config: DictConfig
    settings: dict[str, Any]
    run_dir: Path
    root: Path
    ids: dict[str, str]
    run: str
    console: Console


@dataclass(frozen=True)
class Trained:
    """The result of training.

    Attributes:
        start: the initial random data.
        agent: with the networks of the last update, until a snapshot is put back.
        snapshots: the policy of every evaluation.
        replay: all that was collected.
    """

    start: Dataset
    agent: SAC
    snapshots: Snapshots
    replay: GrowingReplay


def collect(config: DictConfig, overrides: list[str]) -> float:
    """Carry out one collection, or what is left of it; returns the expert's mean return."""
    console = Console(markup=False, emoji=False)
    settings: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    require_sense(settings)
    named = [each for each in overrides if not each.startswith("path=")]
    run_dir = run_directory(settings, named)
    root = minari_writer.root_of(settings["path"])
    work = Work(
        config,
        settings,
        run_dir,
        root,
        collection.dataset_ids(settings),
        collection.digest(settings),
        console,
    )
    if config.overwrite:
        minari_writer.require_writable(root)
        for id in work.ids.values():
            minari_writer.require_removable(root, id)
    with claimed(run_dir, config.overwrite):
        for id in work.ids.values():
            minari_writer.remove_abandoned(root, id)
            if config.overwrite:
                minari_writer.remove(root, id)
        require_same_settings(run_dir, settings)
        there = {kind: id for kind, id in work.ids.items() if is_ours(work, id)}
        summary = finished_summary(run_dir) if there == work.ids else None
        if summary is not None:
            console.print(f"{run_dir} is finished; overwrite=true runs it again", soft_wrap=True)
        else:
            minari_writer.require_writable(root)
            summary = _collect(work)
        console.print(table(summary))
        console.print(f"datasets: {root}", highlight=False, soft_wrap=True)
        console.print(f"run directory: {run_dir}", highlight=False, soft_wrap=True)
    return summary["reference"]["high"]


def _collect(work: Work) -> dict[str, Any]:
    config = work.config
    torch.set_num_threads(threads(config.threads))
    device = pick_device(config.device)
    seed_everything(config.seed)
    trained = _train(work, device)
    summary = _score(work, trained, device)
    for kind, id in work.ids.items():
        provenance = minari_writer.provenance_of(work.root, id)
        if provenance is None:
            provenance = _write(kind, work, trained, summary)
        summary["datasets"][kind] = {"id": id, **provenance["dataset"]}
    collection.plot(work.run_dir / METRICS, work.run_dir / "curves.png", summary)
    write_json(work.run_dir / SUMMARY, summary, with_digest=True)
    return summary


def _train(work: Work, device: torch.device) -> Trained:
    """SAC in the environment, or what is left of it."""
    config, run_dir = work.config, work.run_dir
    start = load_dataset(config)
    agent = build_agent(config, start.spec).to(device)
    if not isinstance(agent, SAC):
        raise Mistake(f"agent={type(agent).__name__} does not collect; use agent=sac")
    online = build_online(config, start)
    evaluator = build_evaluator(config, start, work.console)
    if evaluator is None or online is None:
        raise Mistake("collect steps the environment; leave online=collect as it is")
    mixture, sources = mix(start, seeds=1, batch_size=config.batch_size, online=online, agent=agent)
    mixture, replay = mixture.to(device), mixture["real"]
    assert isinstance(replay, GrowingReplay)
    snapshots = Snapshots(run_dir / "snapshots", device)

    def keep(update: int, episodes: Episodes | None) -> None:
        assert episodes is not None
        mean = float(episodes.returns.mean(1))
        snapshots.keep(agent, Snapshot(update, int(replay.size), mean))

    checkpoint_every = config.checkpoint_every
    if not (run_dir / checkpoint.FILE).is_file() and not snapshot.is_faithful(
        lambda: make_env(start.spec)
    ):
        checkpoint_every = config.updates  # the last update alone, which steps no further
        work.console.print(
            f"the state of {config.env_id} cannot be kept, so a killed training starts again",
            soft_wrap=True,
        )
    Run(
        data=start,
        agent=agent,
        mixture=mixture,
        sources=sources,
        updates=config.updates,
        periods=Periods(config.log_every, config.evaluate.every, checkpoint_every),
        seed=config.seed,
        device=device,
        evaluator=evaluator,
        online=online,
        steps_before=len(start),
        evaluate_first=True,
        on_evaluation=keep,
        name=config.name,
        settings=work.settings,
    ).train(run_dir, work.console)
    return Trained(start, agent, snapshots, replay)


def _score(work: Work, trained: Trained, device: torch.device) -> dict[str, Any]:
    """Choose medium and expert, and measure them and the random policy on the same new starts."""
    config, agent, spec = work.config, trained.agent, trained.start.spec
    kept = [each for each in trained.snapshots.all() if each.update]
    expert = collection.expert_of(kept, config.expert)
    seed = _seed_of(work, "score")

    def policy(obs: Tensor) -> Tensor:
        return agent.act(obs.to(device), deterministic=True).cpu()

    evaluator = Evaluator(spec=spec, seeds=1, episodes=config.score_episodes)
    with stage("scoring", 3, work.console) as shown, closing(evaluator):
        policies: dict[str, dict[str, Any]] = {
            "random": collection.measure_policy(collection.uniform_policy(spec), evaluator, seed)
        }
        shown.advance_to(1)
        trained.snapshots.restore(agent, expert.update)
        policies["expert"] = collection.measure_policy(policy, evaluator, seed) | vars(expert)
        shown.advance_to(2)
        low, high = (policies[name]["return_mean"] for name in ("random", "expert"))
        if not low < high:
            raise Mistake(
                f"after {config.updates} updates the best policy returns {high:.4g}, no more than "
                f"the {low:.4g} of random actions; raise steps, or correct the agent's "
                "hyperparameters, and start over with overwrite=true"
            )
        reference = Reference(low, high, f"measured in {spec.env_id}: random actions, SAC")
        medium, inside = collection.medium_of(kept, reference, config.medium)
        trained.snapshots.restore(agent, medium.update)
        policies["medium"] = collection.measure_policy(policy, evaluator, seed) | vars(medium)
        policies["medium"]["within_range"] = inside
        shown.advance_to(3)
    if not inside:
        work.console.print(
            f"no evaluation scored from {config.medium[0]:.0%} to {config.medium[1]:.0%} of the "
            f"way from random to expert; that after {medium.update} updates is nearest (a smaller "
            "evaluate.every finds more)",
            soft_wrap=True,
            highlight=False,
        )
    for each in policies.values():
        each["score"] = float(reference.normalise(each["return_mean"]))
    return {
        "environment": spec.env_id,
        "reference": vars(reference),
        "policies": policies,
        "env_steps": len(trained.start) + int(trained.replay.size),
        "versions": reports.versions(),
        "datasets": {},
    }


def _write(kind: str, work: Work, trained: Trained, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Record one dataset and write it; returns its provenance."""
    config, start = work.config, trained.start
    policies, reference = summary["policies"], Reference(**summary["reference"])
    rows, seed = config.rows, _seed_of(work, kind)
    by_chance = kind == "random" and config.random == "uniform"
    if kind == "medium-replay":
        rows = policies["medium"]["rows"]
    with stage(f"recording {kind}", rows, work.console) as shown:
        given: dict[str, Any] = {"rows": rows, "seed": seed, "on_step": shown.advance_to}
        if kind == "medium-replay":
            arrays = collection.collect_rows(start, trained.replay, rows)
        elif by_chance:
            arrays = collection.uniform(start.spec, **given)
        else:
            update = 0 if kind == "random" else policies[kind]["update"]
            trained.snapshots.restore(trained.agent, update)
            mean_action = config.deterministic and kind != "random"
            arrays = collection.record_episodes_of(
                trained.agent, start.spec, **given, deterministic=mean_action
            )
    ends = minari_writer.episode_ends(arrays, start.spec.max_episode_steps)
    provenance = {
        "run": work.run,
        "kind": kind,
        "dataset": collection.describe(arrays, ends, reference),
        "seed": seed,
        "settings": work.settings,
        **{name: summary[name] for name in ("reference", "policies", "versions")},
    }
    found = summary["versions"]
    minari_writer.write(
        work.root,
        work.ids[kind],
        arrays,
        spec=start.spec,
        reference=reference,
        algorithm="uniformly random actions" if by_chance else "SAC",
        description=f"{kind} data of {start.spec.env_id}, made by Reverie's training.collect",
        requirements=[f"{name}=={found[name]}" for name in ("gymnasium", "mujoco")],
        provenance=provenance,
        licence=config.license,
    )
    return provenance


def require_sense(settings: Mapping[str, Any]) -> None:
    """Refuse settings that cannot work, before anything is trained.

    Raises:
        Mistake: names the setting and what it must be.
    """
    require_declared(settings, SETTINGS)
    if settings["dataset"]["chunks"] not in (None, 1):
        raise Mistake(
            f"dataset.chunks={settings['dataset']['chunks']} must be null: what is collected are "
            "single control steps; give train.py the chunks"
        )
    for name in ("hide", "history", "copies"):
        if settings["dataset"][name] is not None:
            raise Mistake(
                f"dataset.{name}={settings['dataset'][name]} must be null: what is collected are "
                f"whole single observations; give train.py dataset.{name}"
            )
    if settings["dataset"]["env_id"] != settings["env_id"]:
        raise Mistake("dataset.env_id is the environment of the collection; give env_id alone")
    if settings["seeds"] != 1:
        raise Mistake(f"seeds={settings['seeds']} must be 1: a collection has one policy")
    shares = settings["medium"]
    if shares[0] == shares[1]:
        raise Mistake(f"medium={shares} must be two shares, the lower one first")
    online = settings["online"]
    met = -(-settings["updates"] // online["every"]) * online["steps"] * online["environments"]
    if online["environments"] != 1 or online["capacity"] < met:
        raise Mistake(
            f"online.environments={online['environments']} and online.capacity="
            f"{online['capacity']} must be 1 and at least the {met} steps of the training: "
            "medium-replay is its beginning in order"
        )
    pick_device(settings["device"])


def is_ours(work: Work, id: str) -> bool:
    """Whether a dataset is there that this very collection has written.

    Raises:
        Mistake: there is one of other origin.
    """
    minari_writer.require_made_here(work.root, id)
    found = minari_writer.provenance_of(work.root, id)
    if found is not None and found.get("run") != work.run:
        raise Mistake(
            f"dataset {id} is in {work.root} already, made with other settings; give another "
            "namespace=..., or replace it with overwrite=true"
        )
    return found is not None


def finished_summary(run_dir: Path) -> dict[str, Any] | None:
    """What a collection leaves at its end; None before, where there may be one of its training."""
    if not (run_dir / SUMMARY).is_file():
        return None
    summary = reports.read_summary(run_dir / SUMMARY)
    return summary if "policies" in summary else None


def table(summary: Mapping[str, Any]) -> Table:
    """One row a dataset."""
    low, high = summary["reference"]["low"], summary["reference"]["high"]
    shown = Table(
        title=f"{summary['environment']}: score 0 = {low:.4g}, 100 = {high:.4g}",
        title_justify="left",
    )
    shown.add_column("dataset", overflow="fold")  # a cut number would be another one
    for column in ("rows", "episodes", "terminated", "mean return", "mean score"):
        shown.add_column(column, justify="right", no_wrap=True)
    for each in summary["datasets"].values():
        counts = (f"{each[name]:,}" for name in ("rows", "episodes", "terminated"))
        shown.add_row(
            each["id"], *counts, f"{each['return_mean']:.1f}", f"{each['score_mean']:.1f}"
        )
    return shown


def _seed_of(work: Work, what: str) -> int:
    """Environment seeds that training did not use, and no other part of the collection does."""
    return 1_000_000 * (1 + work.config.seed) + 10_000 * ("score", *KINDS).index(what)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="collect")
def main(config: DictConfig) -> float:
    with mistakes.one_line_errors(), cache_at(config.cache):
        return collect(config, list(HydraConfig.get().overrides.task))


if __name__ == "__main__":
    mistakes.run(main)
