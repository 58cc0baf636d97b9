"""Train an agent on a dataset: `python train.py algorithm=mopo dataset=builtin/pendulum-mixed`.

Composes the configuration, builds the objects, runs the loop. `python train.py --help` explains.
"""

import os
import time
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from reverie.agents.base import Agent
from reverie.datasets.cache import cache_root
from reverie.datasets.dataset import Dataset
from reverie.datasets.names import short_name
from reverie.training import checkpoint
from reverie.training import fitting as model_cache
from reverie.training.compilation import wrapper
from reverie.training.files import lock_directory, write_atomically, write_json, write_text
from reverie.training.launch import failures, mistakes
from reverie.training.launch.compose import (
    FITTED,
    build_evaluator,
    build_lipschitz_probe,
    build_online,
    build_probe,
    build_refit,
    build_streams,
    build_value_gap,
    is_chosen,
    threads,
)
from reverie.training.launch.hyperparameters import settle
from reverie.training.launch.options import CONF
from reverie.training.launch.requirements import require_sense
from reverie.training.launch.sweeps import require_first_failure, sweeping
from reverie.training.logging import Log
from reverie.training.loop import Periods, train
from reverie.training.probes.value_gap import alarms
from reverie.training.progress import stage
from reverie.training.results import summary as reports
from reverie.training.run_directory import (
    CONFIG,
    METRICS,
    SUMMARY,
    clear,
    require_same_settings,
    run_directory,
)
from reverie.training.seeding import evaluation_seed, seed_everything, side_stream
from reverie.world_models import diagnostics
from reverie.world_models.base import Fitted, WorldModel
from reverie.world_models.morec import diagnostics as selection_diagnostics
from reverie.world_models.sources import BranchedRollouts, RolloutSource

EPOCH_LINES = 10.0
"""Least seconds between two lines about a fit, where there is no progress bar."""


def run(config: DictConfig, overrides: list[str]) -> float | None:
    """Carry out one run, or what is left of it; returns the score to report."""
    console = Console()
    settings: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    require_sense(config, settings)
    run_dir = run_directory(settings, overrides)
    with lock_directory(run_dir):
        if config.overwrite:
            clear(run_dir)
        require_same_settings(run_dir, settings)
        if (run_dir / SUMMARY).is_file():
            console.print(f"{run_dir} is finished; overwrite=true runs it again", soft_wrap=True)
            summary = reports.read_summary(run_dir / SUMMARY)
        else:
            require_first_failure(run_dir, config.retry_failed)
            with failures.kept(run_dir):
                summary = _train(config, settings, run_dir, console)
        reports.print_results(summary, run_dir, console)
    return summary["result"].get("score_last10", summary["result"].get("return_last10"))


def _train(
    config: DictConfig, settings: dict[str, Any], run_dir: Path, console: Console
) -> dict[str, Any]:
    torch.set_num_threads(threads(config.threads))
    if config.cache is not None:
        os.environ["REVERIE_CACHE"] = str(config.cache)
    device = mistakes.pick_device(config.device)
    wrap = wrapper(config.compile, device)
    seed_everything(config.seed)

    data: Dataset = instantiate(
        config.dataset, name=short_name(**settings["dataset"]), _convert_="all"
    )
    agent: Agent = mistakes.build(
        "agent",
        instantiate(config.agent),
        spec=data.spec,
        seeds=config.seeds,
        updates=config.updates,
    ).to(device)
    agent.prepare(data)
    evaluator = build_evaluator(config, data, console)
    seconds = {"fitting": 0.0, "training": 0.0, "evaluation": 0.0}
    online = build_online(config, data)
    parts: dict[str, Any] = {}
    described: dict[str, Any] = {group: {} for group in FITTED}
    for group in FITTED:
        if is_chosen(config[group]):
            parts[group], described[group] = fit(
                group, config, data, run_dir, device, console, seconds
            )
    agent.attach(parts.get("world_model"))
    mixture, sources = build_streams(config, data, parts, device, online)
    refit = build_refit(online, parts, data, mixture, device)
    if "dynamics_reward" in parts:
        measure_selection(parts, sources, data, config, run_dir)

    gap = build_value_gap(config, data, agent, parts.get("world_model"))
    probes = [
        probe
        for probe in (
            gap,
            build_probe(config, data, agent, mixture, sources),
            build_lipschitz_probe(config, data, agent, mixture, parts.get("world_model"), console),
        )
        if probe is not None
    ]
    log = Log(run_dir / METRICS, instantiate(config.logger), config.seeds)
    state = checkpoint.State(
        agent, mixture, sources, log, seconds, data, device, None if refit is None else refit.model
    )
    if refit is not None:
        refit.clock = state.count
    first = 0
    if (run_dir / checkpoint.FILE).is_file():
        first = state.resume(run_dir / checkpoint.FILE)
        console.print(f"resuming {run_dir} after update {first}", soft_wrap=True)
    write_text(run_dir / CONFIG, OmegaConf.to_yaml(OmegaConf.create(settings)))
    log.begin()

    with stage("training", config.updates, console, first) as shown:
        log.tracker.start(run_dir, settings, first)

        def evaluate(update: int) -> None:
            begun = time.monotonic()
            episodes, seed = None, evaluation_seed(config.seed, update)
            if online is not None:
                log.write(update, {"env_steps": [online.source.taken] * config.seeds})
            if evaluator is not None:
                episodes = evaluator.run(mistakes.policy_on(agent, device), seed, agent.discount)
                mean = episodes.returns.mean(1)
                scores = None if data.reference is None else data.reference.normalise(mean)
                log.evaluated(update, mean.tolist(), None if scores is None else scores.tolist())
            for probe in probes:
                with side_stream(seed, device):
                    measured = probe.measure(episodes)
                log.write(update, {name: lanes.tolist() for name, lanes in measured.items()})
            state.count("evaluation", begun)
            shown.report(update, log.readable())

        try:
            train(
                agent,
                mixture,
                sources,
                first=first,
                updates=config.updates,
                periods=Periods(
                    log=config.log_every,
                    evaluate=config.evaluate.every or config.log_every,
                    checkpoint=config.checkpoint_every,
                ),
                log=log,
                evaluate=evaluate,
                checkpoint=lambda update: state.save(run_dir / checkpoint.FILE, update),
                compile=wrap,
                on_update=shown.advance_to,
                refit=refit,
            )
        finally:
            log.tracker.close()
            if evaluator is not None:
                evaluator.close()

    judged = None
    if gap is not None:
        with side_stream(config.seed, device):
            judged = gap.judged()
    summary = reports.summarise(settings, data, log.scores, described, seconds, device)
    summary["value_gap"] = judged
    summary["alarms"] = alarms(described["world_model"], judged)
    reports.plot_curves(run_dir / METRICS, run_dir / "curves.png", summary)
    reports.plot_values(run_dir / METRICS, run_dir / "values.png", summary)
    reports.plot_lipschitz(run_dir / METRICS, run_dir / "lipschitz.png", summary)
    write_json(run_dir / SUMMARY, summary)
    return summary


def fit(
    group: str,
    config: DictConfig,
    data: Dataset,
    run_dir: Path,
    device: torch.device,
    console: Console,
    seconds: dict[str, float],
) -> tuple[Fitted, dict[str, Any]]:
    """Build and fit (or reuse) the chosen option of a group of `FITTED`, and measure it once."""
    settings: Any = OmegaConf.to_container(config[group], resolve=True)
    given = settings.pop("path")
    name = group.replace("_", " ")
    begun = time.monotonic()
    # A stream of its own: what follows is the same whether the model was fitted or reused.
    with side_stream(config.seed, device):
        model: Fitted = mistakes.build(
            group, instantiate(settings), spec=data.spec, seeds=config.seeds, seed=config.seed
        ).to(device)
        model.compile_update(wrapper(config.compile, device))
        with stage(f"{name}, {model.fit_unit}", model.fit_total, console) as shown:

            def on_progress(done: int, loss: float) -> None:
                shown.first = model.fit_first
                shown.advance_to(done)
                shown.report(done, f"{model.fit_measure} {loss:.4g}", pause=EPOCH_LINES)

            described, reused = model_cache.fitted(
                model,
                data,
                group=group,
                cache=cache_root() / f"{group}s",
                own=run_dir / f"{group}.pt",
                given=None if given is None else Path(given),
                device=device,
                progress=on_progress,
            )
        seconds["fitting"] += time.monotonic() - begun
        if reused:
            console.print(f"{name}: reused, fitted earlier to the same data", highlight=False)
        if not isinstance(model, WorldModel):
            write_json(run_dir / f"{group}.json", described)
        elif not (run_dir / "world_model.png").is_file():
            measured = diagnostics.measure(model, data)
            write_json(run_dir / "world_model.json", {**described, **measured})
            diagnostics.plot({**described, **measured}, run_dir / "world_model.png")
    return model, described


def measure_selection(
    parts: dict[str, Any],
    sources: dict[str, RolloutSource],
    data: Dataset,
    config: DictConfig,
    run_dir: Path,
) -> None:
    """Write how well the dynamics reward chooses and what its filter does to rollouts, once."""
    picture = run_dir / "selection.png"
    filters = [source.filter for source in sources.values() if isinstance(source, BranchedRollouts)]
    if picture.is_file() or not filters:
        return
    model, reward = parts["world_model"], parts["dynamics_reward"]
    with side_stream(config.seed, next(reward.buffers()).device):
        measured = selection_diagnostics.measure(model, reward, filters[0], data)
    figure = selection_diagnostics.figure(measured)
    del measured["one_step"]["points"]
    write_json(run_dir / "selection.json", measured)
    write_atomically(picture, lambda file: figure.savefig(file, format="png", dpi=120))


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(config: DictConfig) -> float | None:
    if sweeping():  # whose table tells what became of each job
        return job(config)
    with mistakes.one_line_errors():
        return job(config)


def job(config: DictConfig) -> float | None:
    """One run with the numbers that preset and dataset bring."""
    hydra_config = HydraConfig.get()
    tuned = settle(config, hydra_config)
    if tuned is not None:
        print(f"using the numbers of {tuned}")
    return run(config, list(hydra_config.overrides.task))


if __name__ == "__main__":
    mistakes.run(main)
