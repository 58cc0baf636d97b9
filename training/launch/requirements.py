"""Refuses settings that cannot work together, before anything is read or fitted."""

from typing import Annotated, Any, Literal

import torch
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig

from reverie.agents.base import Agent
from reverie.mistake import Mistake
from reverie.ranges import (
    Count,
    EpisodeCount,
    Positive,
    Range,
    Seed,
    Share,
    Threads,
    UnitInterval,
    Whole,
)
from reverie.settings import parameters, require_declared
from reverie.training.compilation import pick_device, should_compile
from reverie.training.initialisation import Optimiser
from reverie.training.launch import mistakes
from reverie.training.launch.budget import with_any_size
from reverie.training.launch.options import is_chosen
from reverie.training.launch.parts import arguments, real_rows
from reverie.training.ope.verdict import RANGES
from reverie.training.population import population
from reverie.world_models.diffusion.parts import require_parts_suit
from reverie.world_models.precision import Precision

Period = Whole
"""Of updates between two of something; 0 for never."""
SETTINGS = {
    "name": str,
    "seed": Seed,
    "seeds": Count,
    "updates": Whole,
    "batch_size": Count,
    "real_ratio": UnitInterval,
    "evaluate.every": Period,
    "evaluate.episodes": EpisodeCount,
    "probe_starts": Literal[0] | Annotated[int, Range(2)],
    "value_gap.starts": Whole,
    "value_gap.factor": Annotated[float, Range(above=1)],
    "verdict.starts": Whole,
    "verdict.fqe.share": Share,
    **{f"verdict.{name}": kind for name, kind in RANGES.items()},
    "lipschitz.states": Whole,
    "lipschitz.radius": Positive,
    "lipschitz.steps": Count,
    "lipschitz.samples": Count,
    "log_every": Count,
    "checkpoint_every": Period,
    "threads": Threads,
    "overwrite": bool,
    "retry_failed": bool,
    "device": str,
    "precision": Precision,
    "init": str | None,
    "init_optimiser": Optimiser,
    "init_sha256": str | None,
    "extend": str | None,
}
"""What the numbers of conf/train.yaml may be that no class takes."""
PLANNING = "reverie.agents.planning.Planning"
"""The agent that learns nothing."""
KEEP_ALL = "reverie.world_models.filters.KeepAll"
"""The filter that does nothing."""


def require_sense(config: DictConfig, settings: dict[str, Any]) -> None:
    """Refuse settings that cannot work before anything is read or fitted."""
    population(settings)
    known = settings
    if config.source is not None:  # of which sizes may wait for the dataset
        known = {**settings, "source": with_any_size(settings["source"])}
    require_declared(known, SETTINGS)
    require_parts_fit(config)
    if is_chosen(config.source) and real_rows(config) == config.batch_size:
        raise Mistake(
            f"real_ratio={config.real_ratio} leaves no room in a batch of "
            f"{config.batch_size} for what source={config.source._target_} makes; lower it, or "
            "set source=none"
        )
    pick_device(config.device)
    instantiate(config.logger)  # which may lack its package
    should_compile(config.compile, torch.device("cpu"))


def require_parts_fit(config: DictConfig) -> None:
    """Refuse a source that lacks what it works with, and parts that it would not use."""
    if is_chosen(config.online) and config.online.refit_every and not is_chosen(config.world_model):
        raise Mistake(
            f"online.refit_every={config.online.refit_every} has no world model to fit again; set "
            "online.refit_every=0, or choose world_model=ensemble"
        )
    if is_chosen(config.model_updates):
        require_model_can_change(config)
    if config.init is not None and is_chosen(config.pretraining):
        raise Mistake(
            f"pretraining=clone would train the actor of init={config.init} anew, on the recorded "
            "actions; set pretraining=none, or leave init out"
        )
    for key in ("init", "extend"):  # as from a shell variable that is not set
        if config[key] is not None and not config[key].strip():
            raise Mistake(f"{key}= is empty; give the directory of a run, or leave {key} out")
    if config.extend is not None and is_chosen(config.online):
        raise Mistake(
            f"extend={config.extend} cannot go on with online=..., whose replay is as large as the "
            f"shorter run was long; leave extend out, and begin with init={config.extend}"
        )
    require_plans_make_sense(config)
    dreams = is_chosen(config.source) or is_chosen(config.online)
    if config.agent.get("conservative_states") == "dreamed" and not dreams:
        raise Mistake(
            "agent.conservative_states=dreamed has no synthetic transitions; choose a source, for "
            "example algorithm=combo, or set agent.conservative_states=all"
        )
    simulated = is_chosen(config.source) and "simulator" in arguments(config.source)
    if simulated and not is_chosen(config.simulator):
        raise Mistake(
            "source=simulator has nothing to step, for simulator=none; choose one, for example "
            "simulator=perturbed"
        )
    if is_chosen(config.simulator) and not simulated:
        raise Mistake(
            "a simulator is chosen, but the source does not step it; set source=simulator, or "
            "simulator=none"
        )
    judged = is_chosen(config.source) and config.filter._target_ != KEEP_ALL
    scored = judged and "dynamics_reward" in arguments(config.filter)
    if scored and not is_chosen(config.dynamics_reward):
        raise Mistake(
            f"filter={config.filter._target_} judges by a dynamics reward, but dynamics_reward="
            "none; choose one, for example dynamics_reward=adversarial"
        )
    if is_chosen(config.dynamics_reward) and not scored:
        raise Mistake(
            "a dynamics reward is chosen, but no filter of a source asks for it; set filter=morec "
            "and source=branched, or dynamics_reward=none"
        )
    for part in ("generator", "sampler", "guidance", "behaviour"):
        used = is_chosen(config.source) and part in arguments(config.source)
        if part == "behaviour" and is_chosen(config.planner):
            used = config.planner.get("proposals") == part
        if part == "behaviour" and get_object(config.agent._target_).follow is not Agent.follow:
            used = True
        if is_chosen(config[part]) and not used:
            planned = part == "behaviour" and is_chosen(config.planner)
            use = "planner.proposals=behaviour" if planned else "source=trajectories"
            use += " or agent=kl_bc" if part == "behaviour" and not planned else ""
            raise Mistake(
                f"a {part} is chosen, but the {'planner' if planned else 'source'} does not use "
                f"it; set {use}, or {part}=none"
            )
    generated = is_chosen(config.source) and "generator" in arguments(config.source)
    if config.generator is not None and not is_chosen(config.generator) and not generated:
        raise Mistake(
            "a noise_distribution or a condition is chosen, but there is no generator to fit; set "
            "source=trajectories, or noise_distribution=none and condition=none"
        )
    forced = config.world_model is not None and is_chosen(config.world_model.get("forcing"))
    if forced and not (
        is_chosen(config.world_model)
        and "forcing" in parameters(get_object(config.world_model._target_))
    ):
        raise Mistake(
            "forcing is chosen, but the world model does not learn from windows; set forcing=none, "
            "or world_model=ensemble, or another that learns"
        )
    begins = config.source is not None and is_chosen(config.source.get("warm_start"))
    if begins and not (is_chosen(config.source) and "warm_start" in arguments(config.source)):
        raise Mistake(
            "a warm_start is chosen, but the source draws no records; set source=trajectories, or "
            "warm_start=none"
        )
    if not is_chosen(config.source):
        return
    group = "simulator" if simulated else "source"
    needed = arguments(config[group])
    if "model" in needed and not is_chosen(config.world_model):
        raise Mistake(
            f"{group} needs a world model, but world_model=none; choose one, for example "
            "world_model=ensemble, or set source=none"
        )
    for part, example in (("generator", "trajectory"), ("sampler", "dpm_solver_2m")):
        if part in needed and not is_chosen(config[part]):
            raise Mistake(
                f"{group} needs a {part}, but {part}=none; choose one, for example "
                f"{part}={example}, or set source=none"
            )
    if "generator" in needed:
        require_generation_works(config)
    if "transition_filter" not in needed and config.filter._target_ != KEEP_ALL:
        raise Mistake(
            f"filter={config.filter._target_} judges steps of a world model, but {group}="
            f"{config[group]._target_} asks none for a step; set filter=none"
        )


def require_plans_make_sense(config: DictConfig) -> None:
    """Refuse plans beside an agent, nobody to act, and what only an agent could use."""
    nobody = config.agent._target_ == PLANNING
    if not nobody:
        if is_chosen(config.planner):
            raise Mistake(
                "a planner acts where there is no agent; train with agent=none, as algorithm=mpc "
                "does, or train as you do with planner=none and score plans in the run's world "
                "model with python evaluate.py run=... planner=mppi"
            )
        if config.updates == 0:
            raise Mistake(
                "updates=0 trains no agent; raise it, or choose algorithm=mpc, which plans"
            )
        return
    if not is_chosen(config.planner) or "model" not in arguments(config.planner):
        raise Mistake(
            "agent=none acts by plans in a world model; choose planner=mppi or planner=cem, or "
            "another agent, for example agent=sac"
        )
    if not is_chosen(config.world_model):
        raise Mistake(
            "plans need a world model, but world_model=none; choose one, for example "
            "world_model=ensemble"
        )
    if config.updates:
        raise Mistake(f"agent=none learns nothing in updates={config.updates}; set updates=0")
    for part in ("source", "online", "model_updates", "pretraining"):
        if is_chosen(config[part]):
            raise Mistake(f"{part} serves an agent that learns, and agent=none; set {part}=none")
    if config.init is not None:
        raise Mistake(f"init={config.init} has networks for an agent, and agent=none; leave it out")
    if config.extend is not None:
        raise Mistake(f"extend={config.extend} has nothing to learn with agent=none; leave it out")


def require_model_can_change(config: DictConfig) -> None:
    """Refuse a world model that is trained against nobody, for nobody, or twice."""
    agent = get_object(config.agent._target_)
    if agent.values is Agent.values or agent.moments is Agent.moments:
        raise Mistake(
            "model_updates=adversarial asks for critics and the mean of a policy, which agent="
            f"{config.agent._target_} does not have; set model_updates=none, or choose agent=sac"
        )
    if not is_chosen(config.world_model):
        raise Mistake(
            "model_updates=adversarial has no world model to train; choose world_model=ensemble, "
            "or set model_updates=none"
        )
    if not is_chosen(config.source) or "model" not in arguments(config.source):
        raise Mistake(
            "model_updates=adversarial trains a world model that no source rolls out; set "
            "source=branched, or model_updates=none"
        )
    if is_chosen(config.online) and config.online.refit_every:
        raise Mistake(
            "model_updates=adversarial trains the world model that online=collect fits again; set "
            "online.refit_every=0, or model_updates=none"
        )


def require_generation_works(config: DictConfig) -> None:
    """Refuse parts around a generator that do not suit each other, before hours of fitting it."""
    settings = config.generator
    if "records" not in settings:  # no diffusion
        return
    if not is_chosen(settings.get("noise_distribution")):
        raise Mistake("the generator needs a noise distribution; set noise_distribution=log_normal")
    guidance = None
    if is_chosen(config.guidance):
        guidance = mistakes.build("guidance", instantiate(config.guidance))
    sampler = mistakes.build("sampler", instantiate(config.sampler))
    distribution = mistakes.build(
        "generator.noise_distribution", instantiate(settings.noise_distribution)
    )
    warm_start = config.source.get("warm_start")
    if is_chosen(settings.get("condition")):
        mistakes.build("generator.condition", instantiate(settings.condition))
    require_parts_suit(
        get_object(settings.records._target_),
        distribution,
        sampler,
        guidance,
        conditioned=is_chosen(settings.get("condition")),
        cloned=is_chosen(config.behaviour),
        warm_start=instantiate(warm_start) if is_chosen(warm_start) else None,
    )
    if config.source.get("every", 1) is None:
        once = "source.every=null draws once, before the agent has learnt anything, so "
        if guidance is not None and guidance.needs_agent:
            raise Mistake(f"{once}nothing would be guided; set source.every=10000, for example")
        if is_chosen(warm_start):
            raise Mistake(f"{once}no rollout round has another before it; set warm_start=none")
    critics = get_object(config.agent._target_).values is not Agent.values
    if guidance is not None and guidance.needs_critics and not critics:
        raise Mistake(
            f"guidance.value=critic asks for critics, which agent={config.agent._target_} does not "
            "have; set guidance.value=reward, or another agent, for example agent=td3_bc"
        )
