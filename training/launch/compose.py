"""From a composed configuration to the objects that a run works with."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from reverie.agents.base import Agent
from reverie.agents.planning import Planning
from reverie.datasets.cache import cache_at, cache_root
from reverie.datasets.dataset import Dataset
from reverie.datasets.replay import GrowingReplay, Mixture
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.paths import expanded
from reverie.training.compilation import decided, pick_device
from reverie.training.cores import count_cores, count_free_cores, threads_of_user
from reverie.training.extension import Extension
from reverie.training.initialisation import Initialisation
from reverie.training.launch.budget import told_size
from reverie.training.launch.data import infer_actions, load_dataset, tell_problems
from reverie.training.launch.judges import (
    build_evaluator,
    build_lipschitz_probe,
    build_value_gap,
    build_value_probe,
    build_verdict,
)
from reverie.training.launch.mistakes import build
from reverie.training.launch.options import is_chosen
from reverie.training.launch.parts import (
    Builder,
    build_part,
    build_streams,
    chosen_parts,
    count_rows,
)
from reverie.training.loop import Periods
from reverie.training.online import Online
from reverie.training.population import population
from reverie.training.pretraining import Cloning
from reverie.training.run import Run
from reverie.training.seeding import seed_everything
from reverie.world_models.base import Fitted, WorldModel
from reverie.world_models.model_updates import ModelUpdates
from reverie.world_models.mpc import ModelPredictivePlanner


def build_run(
    config: DictConfig,
    console: Console,
    data: Dataset | None = None,
    agent: Builder | None = None,
) -> Run:
    """Everything that a run works with, ready to be trained; nothing is fitted yet.

    Sets torch's threads and seeds its random numbers.

    Args:
        config: composed settings without tuned hyperparameters of options that were not chosen.
        data: a dataset in the place of the one that the settings name.
        agent: a class in the place of theirs, see `build_agent`.

    Raises:
        Mistake: the settings make no sense, or name what is not there.
    """
    settings: Any = OmegaConf.to_container(config, resolve=True)
    torch.set_num_threads(threads(config.threads))
    device = pick_device(config.device)
    seed_everything(config.seed)
    with cache_at(config.cache):
        if data is None:
            data = load_dataset(config, agent, console)
        else:
            data = infer_actions(config, data, console)
        cache = cache_root()
    tell_problems(data.recorded, console)
    learner = build_agent(config, data.spec, agent).to(device)
    learner.prepare(data)
    online = build_online(config, data)
    parts = {group: build_part(config, group, data.spec, device) for group in chosen_parts(config)}
    models: dict[str, Any] = {group: part.model for group, part in parts.items()}
    learner.attach(models.get("world_model"))
    learner.follow(models["behaviour"].gaussian if "behaviour" in models else None)
    if isinstance(learner, Planning):
        learner.plan_by(
            build_planner(config.planner, data.spec, models["world_model"], models.get("behaviour"))
        )
    pretraining = build_pretraining(config, learner)
    if pretraining is not None:
        learner.imitates = True  # before the rows are made, which then say what was taken
    mixture, sources = build_streams(config, data, models, device, online, learner)
    if is_chosen(config.source):
        told = told_size(config.source, *count_rows(config, data, models))
        if told is not None:
            console.print(told, soft_wrap=True, highlight=False)
    gap = build_value_gap(config, data, learner, models.get("world_model"))
    probes = [
        gap,
        build_value_probe(config, data, learner, mixture, sources),
        build_lipschitz_probe(config, data, learner, mixture, models.get("world_model"), console),
    ]
    verdict = build_verdict(config, data, learner)
    return Run(
        data=data,
        agent=learner,
        mixture=mixture,
        sources=sources,
        updates=config.updates,
        periods=Periods(
            log=config.log_every,
            # Without scores the probes look once, at the end.
            evaluate=config.evaluate.every or config.updates,
            checkpoint=config.checkpoint_every,
        ),
        seed=config.seed,
        device=device,
        parts=parts,
        compiled=decided(config.compile, device),
        threads=None if config.threads == "auto" else int(config.threads),
        precision=config.precision,
        evaluator=build_evaluator(config, data, console),
        probes=[probe for probe in probes if probe is not None],
        value_gap=gap,
        verdict=verdict,
        initialisation=build_initialisation(config),
        extension=build_extension(config),
        evaluate_first=not config.updates,
        online=online,
        model_updates=build_adversary(config, learner, models, data, console)
        or build_refit(online, models, data, mixture, device),
        pretraining=pretraining,
        tracker=instantiate(config.logger),
        name=config.name,
        settings=settings,
        population=population(settings),
        cache=cache,
    )


def build_agent(config: DictConfig, spec: Spec, kind: Builder | None = None) -> Agent:
    """The agent with the networks it starts from.

    Args:
        kind: a class with its numbers, in the place of the configured one.
    """
    kind = instantiate(config.agent) if kind is None else kind
    given = getattr(kind, "keywords", {})
    if spec.chunk > 1 and "discount" in given:
        # The one place: settings count per control step, and an agent of chunks per chunk.
        kind = partial(kind, discount=spec.per_action(given["discount"]))
    agent = build("agent", kind, spec=spec, seeds=config.seeds, updates=config.updates)
    if spec.chunk > 1 and agent.discount != spec.per_action(spec.chunk_discount):
        raise Mistake(
            f"agent.discount={given.get('discount', agent.discount)} is not the "
            f"{spec.chunk_discount} by which the rewards of the chunks were summed; chunk the data "
            "with the agent's discount (1 for an agent without one), or set agent.discount"
        )
    return agent


def build_initialisation(config: DictConfig) -> Initialisation | None:
    """Where the agent's networks come from, unless they are new."""
    if config.init is None:
        return None
    return Initialisation(expanded(config.init), config.init_optimiser)


def build_extension(config: DictConfig) -> Extension | None:
    """The shorter run that this one goes on from, if any."""
    if config.extend is None:
        return None
    return Extension(expanded(config.extend), config.updates)


def build_online(config: DictConfig, data: Dataset) -> Online | None:
    """Steps in the true environment, unless nobody asked."""
    if not is_chosen(config.online):
        return None
    return build("online", instantiate(config.online), spec=data.spec, seeds=config.seeds)


def build_refit(
    online: Online | None,
    parts: Mapping[str, Any],
    data: Dataset,
    mixture: Mixture,
    device: torch.device,
) -> ModelUpdates | None:
    """Refits of the world model on what is collected."""
    real = mixture["real"]
    if online is None or not isinstance(real, GrowingReplay):
        return None
    return online.refit(parts.get("world_model"), data, real, device)


def build_adversary(
    config: DictConfig,
    agent: Agent,
    parts: Mapping[str, Any],
    data: Dataset,
    console: Console,
) -> ModelUpdates | None:
    """What trains the world model against the agent, unless nobody asked, or with a weight of 0."""
    if not is_chosen(config.model_updates):
        return None
    made: ModelUpdates = build(
        "model_updates",
        instantiate(config.model_updates),
        model=parts["world_model"],
        data=data,
        policy=agent.act,
        moments=agent.moments,
        critics=agent.values,
        discount=agent.discount,
    )
    if not made.every:
        console.print("the world model stays as it is fitted, for model_updates.weight=0")
        return None
    if made.every >= config.updates:
        console.print(
            f"the world model stays as it is fitted, for model_updates.every={made.every} is not "
            f"below updates={config.updates}; lower it, or raise updates",
            soft_wrap=True,
        )
    return made


def build_planner(
    settings: DictConfig,
    spec: Spec,
    model: WorldModel,
    behaviour: Fitted | None,
    agent: Agent | None = None,
) -> ModelPredictivePlanner:
    """A planner in a world model.

    Args:
        model, behaviour: fitted by the time it is asked for a plan; `behaviour` is a clone.
        agent: proposes plans, and its critics value their ends; None for no agent.
    """
    return build(
        "planner",
        instantiate(settings),
        spec=spec,
        model=model,
        behaviour=None if behaviour is None else behaviour.moments,
        **asked_by_planner(agent),
    )


def asked_by_planner(agent: Agent | None) -> dict[str, Any]:
    """What a planner asks of an agent, or of none."""
    if agent is None:
        return {"moments": None, "critics": None, "value_discount": 1.0}
    critics = None if type(agent).values is Agent.values else agent.values
    return {"moments": agent.moments, "critics": critics, "value_discount": agent.discount}


def build_pretraining(config: DictConfig, agent: Agent) -> Cloning | None:
    """What the actor learns before training, unless nobody asked."""
    if not is_chosen(config.pretraining):
        return None
    chosen: Cloning = build("pretraining", instantiate(config.pretraining))
    chosen.require(agent)
    return chosen


def threads(choice: str | int) -> int:
    """Resolve `threads=auto`: the cores that nobody else uses now, or this job's share of a sweep.

    `OMP_NUM_THREADS` wins over the load, and a job of a sweep takes no more than its share. A
    launcher that gives every job cores of its own (submitit, Slurm, Ray) decides by itself: one,
    unless it is told another number.
    """
    if choice != "auto":
        return int(choice)
    asked = threads_of_user()
    jobs = 1
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        launcher = HydraConfig.get().launcher
        for key in ("cpus_per_task", "ray.remote.num_cpus"):
            if key.split(".")[0] in launcher:
                return max(1, int(OmegaConf.select(launcher, key) or 1))
        jobs = launcher.get("n_jobs") or 1
    if jobs == 1:
        return count_free_cores() if asked is None else asked
    # The other jobs are most of the load, and have their shares.
    cores = count_cores()
    share = max(1, cores // (cores if jobs < 0 else jobs))
    return share if asked is None else min(share, asked)
