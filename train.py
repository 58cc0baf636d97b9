"""Train an agent on a dataset: `python train.py algorithm=mopo dataset=builtin/pendulum-mixed`.

Composes the configuration, builds the objects, runs the loop. `python train.py --help` explains.
"""

import inspect
import os
import time
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from agents.base import Agent
from datasets.cache import cache_root
from datasets.dataset import Dataset
from datasets.names import short_name
from datasets.replay import GrowingReplay, Mixture, Replay
from envs.evaluation import Evaluator
from envs.true_dynamics import simulator_for
from training import checkpoint, entry, model_cache, reports
from training.compilation import wanted, wrapper
from training.files import lock_directory, write_atomically, write_json, write_text
from training.lipschitz_probe import LipschitzProbe
from training.logging import Log
from training.loop import Periods, train
from training.online import Online, Refit
from training.progress import stage
from training.run_directory import (
    CONFIG,
    METRICS,
    SUMMARY,
    clear,
    require_same_settings,
    run_directory,
)
from training.seeding import evaluation_seed, seed_everything, side_stream
from training.value_probe import ValueProbe
from world_models import diagnostics, selection_diagnostics
from world_models.base import Fitted, WorldModel
from world_models.diffusion.source import require_parts_suit
from world_models.sources import BranchedRollouts, RolloutSource

EPOCH_LINES = 10.0
"""Least seconds between two lines about a fit, where there is no progress bar."""
FITTED = ("world_model", "dynamics_reward", "generator")
"""Groups whose option is fitted to the dataset before training, in this order."""
KEEP_ALL = "world_models.filters.KeepAll"
"""The filter that does nothing."""


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
            summary = _train(config, settings, run_dir, console)
        reports.print_results(summary, run_dir, console)
    return summary["result"].get("score_last10", summary["result"].get("return_last10"))


def _train(
    config: DictConfig, settings: dict[str, Any], run_dir: Path, console: Console
) -> dict[str, Any]:
    torch.set_num_threads(threads(config.threads))
    if config.cache is not None:
        os.environ["REVERIE_CACHE"] = str(config.cache)
    device = entry.pick_device(config.device)
    wrap = wrapper(config.compile, device)
    seed_everything(config.seed)

    data: Dataset = instantiate(
        config.dataset, name=short_name(**settings["dataset"]), _convert_="all"
    )
    agent: Agent = entry.build(
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

    probes = [
        probe
        for probe in (
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
                episodes = evaluator.run(entry.policy_on(agent, device), seed, agent.discount)
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

    summary = reports.summarise(settings, data, log.scores, described, seconds, device)
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
        model: Fitted = entry.build(
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


def build_online(config: DictConfig, data: Dataset) -> Online | None:
    """Steps in the true environment, unless nobody asked."""
    if not is_chosen(config.online):
        return None
    return entry.build("online", instantiate(config.online), spec=data.spec, seeds=config.seeds)


def build_refit(
    online: Online | None,
    parts: dict[str, Any],
    data: Dataset,
    mixture: Mixture,
    device: torch.device,
) -> Refit | None:
    """Refits of the world model on what is collected."""
    real = mixture["real"]
    if online is None or not isinstance(real, GrowingReplay):
        return None
    return online.refit(parts.get("world_model"), data, real, device)


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


def build_streams(
    config: DictConfig,
    data: Dataset,
    parts: dict[str, Any],
    device: torch.device,
    online: Online | None = None,
) -> tuple[Mixture, dict[str, RolloutSource]]:
    """The dataset, growing online, and the replay of what a source makes, as one mixture."""
    streams: dict[str, Replay] = {"real": Replay.of(data.transitions)}
    rows = {"real": config.batch_size}
    sources: dict[str, RolloutSource] = {}
    if online is not None:
        sources["real"] = online.source
        streams["real"] = GrowingReplay(
            data.transitions, lanes=config.seeds, capacity=online.source.capacity
        )
    if is_chosen(config.source):
        source = build_source(config, data, parts).to(device)
        sources[source.stream] = source
        streams[source.stream] = Replay(
            data.transitions[:1], lanes=config.seeds, capacity=source.capacity
        )
        rows["real"] = real_rows(config)
        rows[source.stream] = config.batch_size - rows["real"]
    return Mixture(streams, rows, seeds=config.seeds).to(device), sources


def build_source(config: DictConfig, data: Dataset, parts: dict[str, Any]) -> RolloutSource:
    """The source, with the filter, simulator and so on that it works with, of what each asks for.

    Args:
        parts: what was fitted, by group.
    """
    known: dict[str, Any] = {name: None for name in FITTED} | parts
    known |= {"spec": data.spec, "seeds": config.seeds, "model": known["world_model"]}
    known |= {"sampler": None, "guidance": None}
    for group in ("filter", "simulator", "sampler", "guidance", "source"):
        if is_chosen(config[group]):
            asked = {name: known[name] for name in arguments(config[group]) if name in known}
            known[group] = entry.build(group, instantiate(config[group]), **asked)
        if group == "filter":
            known["transition_filter"] = known[group]
    return known["source"]


def arguments(node: DictConfig) -> set[str]:
    """Names of the arguments of the class that a node builds."""
    return set(inspect.signature(get_object(node._target_).__init__).parameters)


def build_evaluator(config: DictConfig, data: Dataset, console: Console) -> Evaluator | None:
    """Copies of the true environment, unless there is none or nobody asked."""
    if not config.evaluate.every:
        return None
    if data.spec.env_id is None:
        console.print(
            f"dataset {data.name} names no environment, so nothing is scored; "
            "dataset.env_id=... adds one",
            soft_wrap=True,
        )
        return None
    return Evaluator(spec=data.spec, seeds=config.seeds, episodes=config.evaluate.episodes)


def build_probe(
    config: DictConfig,
    data: Dataset,
    agent: Agent,
    mixture: Mixture,
    sources: dict[str, RolloutSource],
) -> ValueProbe | None:
    """Measurements of what the critics believe, unless nobody asked."""
    if not config.probe_starts:
        return None
    return ValueProbe(
        agent=agent,
        mixture=mixture,
        sources=sources,
        data=data,
        starts=config.probe_starts,
        edge_of_reach=None,
    )


def build_lipschitz_probe(
    config: DictConfig,
    data: Dataset,
    agent: Agent,
    mixture: Mixture,
    model: WorldModel | None,
    console: Console,
) -> LipschitzProbe | None:
    """Measurements of the critics' slopes and of the model's targets, if somebody asked."""
    if not config.lipschitz.states:
        return None
    truth = None
    if model is not None:
        try:
            truth = simulator_for(data.spec, threads(config.threads))
        except ValueError as error:
            console.print(f"no gaps of Bellman targets: {error}", soft_wrap=True, highlight=False)
    return LipschitzProbe(
        agent=agent,
        real=mixture["real"],
        data=data,
        seeds=config.seeds,
        model=model,
        truth=truth,
        **config.lipschitz,
    )


def require_sense(config: DictConfig, settings: dict[str, Any]) -> None:
    """Refuse settings that cannot work before anything is read or fitted."""
    entry.require_integers(settings)
    if not 0 <= config.real_fraction <= 1:
        raise ValueError(f"real_fraction must lie in [0, 1], got {config.real_fraction}")
    require_parts_fit(config)
    if is_chosen(config.source) and real_rows(config) == config.batch_size:
        raise ValueError(
            f"real_fraction={config.real_fraction} leaves no room in a batch of "
            f"{config.batch_size} for what source={config.source._target_} makes; lower it, or "
            "set source=none"
        )
    entry.pick_device(config.device)
    wanted(config.compile, torch.device("cpu"))


def require_parts_fit(config: DictConfig) -> None:
    """Refuse a source that lacks what it works with, and parts that it would not use."""
    if is_chosen(config.online) and config.online.refit_every and not is_chosen(config.world_model):
        raise ValueError(
            f"online.refit_every={config.online.refit_every} has no world model to fit again; set "
            "online.refit_every=0, or choose world_model=ensemble"
        )
    simulated = is_chosen(config.source) and "simulator" in arguments(config.source)
    if simulated and not is_chosen(config.simulator):
        raise ValueError(
            "source=simulator has nothing to step, for simulator=none; choose one, for example "
            "simulator=perturbed"
        )
    if is_chosen(config.simulator) and not simulated:
        raise ValueError(
            "a simulator is chosen, but the source does not step it; set source=simulator, or "
            "simulator=none"
        )
    judged = is_chosen(config.source) and config.filter._target_ != KEEP_ALL
    scored = judged and "dynamics_reward" in arguments(config.filter)
    if scored and not is_chosen(config.dynamics_reward):
        raise ValueError(
            f"filter={config.filter._target_} judges by a dynamics reward, but dynamics_reward="
            "none; choose one, for example dynamics_reward=adversarial"
        )
    if is_chosen(config.dynamics_reward) and not scored:
        raise ValueError(
            "a dynamics reward is chosen, but no filter of a source asks for it; set filter=morec "
            "and source=branched, or dynamics_reward=none"
        )
    for part in ("generator", "sampler", "guidance"):
        used = is_chosen(config.source) and part in arguments(config.source)
        if is_chosen(config[part]) and not used:
            raise ValueError(
                f"a {part} is chosen, but the source does not use it; set source=trajectories, or "
                f"{part}=none"
            )
    if config.generator is not None and not is_chosen(config.generator):
        raise ValueError(
            "a noise_law is chosen, but there is no generator to fit; set source=trajectories, or "
            "noise_law=none"
        )
    if not is_chosen(config.source):
        return
    group = "simulator" if simulated else "source"
    needed = arguments(config[group])
    if "model" in needed and not is_chosen(config.world_model):
        raise ValueError(
            f"{group} needs a world model, but world_model=none; choose one, for example "
            "world_model=ensemble, or set source=none"
        )
    for part, example in (("generator", "trajectory"), ("sampler", "dpm_solver_2m")):
        if part in needed and not is_chosen(config[part]):
            raise ValueError(
                f"{group} needs a {part}, but {part}=none; choose one, for example "
                f"{part}={example}, or set source=none"
            )
    if "generator" in needed:
        require_generation_works(config)
    if "transition_filter" not in needed and config.filter._target_ != KEEP_ALL:
        raise ValueError(
            f"filter={config.filter._target_} judges steps of a world model, but {group}="
            f"{config[group]._target_} asks none for a step; set filter=none"
        )


def require_generation_works(config: DictConfig) -> None:
    """Refuse parts around a generator that do not suit each other, before hours of fitting it."""
    settings = config.generator
    if "records" not in settings:  # no diffusion
        return
    if not is_chosen(settings.get("noise_law")):
        raise ValueError("the generator needs a noise law; set noise_law=log_normal")
    guidance = None
    if is_chosen(config.guidance):
        guidance = entry.build("guidance", instantiate(config.guidance))
    sampler = entry.build("sampler", instantiate(config.sampler))
    law = entry.build("generator.noise_law", instantiate(settings.noise_law))
    require_parts_suit(get_object(settings.records._target_), law, sampler, guidance)


def real_rows(config: DictConfig) -> int:
    """Rows of a batch that come from the dataset, rounded down as published code does."""
    # 100 * 0.29 is 28.999... in floating point.
    return int(config.batch_size * config.real_fraction + 1e-9)


def is_chosen(node: DictConfig | None) -> bool:
    """Whether a group holds an option; numbers tuned for a dataset may be there without one."""
    return node is not None and "_target_" in node


def drop_foreign_numbers(config: DictConfig, source: Path) -> None:
    """Take out numbers of a preset or tuned file that the chosen option of a group does not have.

    They are meant for what the preset picks; `filter=none` has no penalty to tune.
    """
    for group, numbers in OmegaConf.to_container(OmegaConf.load(source)).items():  # type: ignore[union-attr]
        node = config.get(group)
        if not isinstance(numbers, dict) or not is_chosen(node):
            continue
        known = keywords(get_object(node._target_))
        with open_dict(node):
            for key in set(numbers) - known - {"path"}:
                node.pop(key, None)


def keywords(kind: type) -> set[str]:
    """Arguments of a constructor, with those of its bases as far as it passes `**others` on."""
    known: set[str] = set()
    for cls in inspect.getmro(kind):
        if "__init__" in vars(cls):
            parameters = inspect.signature(vars(cls)["__init__"]).parameters
            known |= set(parameters)
            if all(each.kind is not each.VAR_KEYWORD for each in parameters.values()):
                break
    return known


def threads(choice: str | int) -> int:
    """Resolve `threads=auto`: all cores, shared among the jobs of a parallel sweep."""
    if choice != "auto":
        return int(choice)
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    jobs = 1
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        jobs = HydraConfig.get().launcher.get("n_jobs") or 1
    return max(1, cores // (cores if jobs < 0 else jobs))


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float | None:
    hydra_config = HydraConfig.get()
    choices = hydra_config.runtime.choices
    preset = Path("conf/algorithm", f"{choices['algorithm']}.yaml")
    tuned = Path("conf/tuned", choices["algorithm"], f"{choices['dataset']}.yaml")
    with entry.one_line_errors():
        drop_foreign_numbers(config, Path(__file__).parent / preset)
        if (Path(__file__).parent / tuned).is_file():
            print(f"using the numbers of {tuned}")
            drop_foreign_numbers(config, Path(__file__).parent / tuned)
        return run(config, list(hydra_config.overrides.task))


if __name__ == "__main__":
    entry.run(main)
