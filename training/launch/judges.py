"""From a composed configuration to what measures a run: evaluations, probes and the verdict."""

import math
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from reverie.agents.base import Agent
from reverie.datasets.dataset import Dataset
from reverie.datasets.replay import Mixture
from reverie.envs.evaluation import Evaluator
from reverie.envs.true_dynamics import simulator_for
from reverie.mistake import Mistake
from reverie.training.launch.options import is_chosen
from reverie.training.ope.verdict import Verdict
from reverie.training.probes.lipschitz import LipschitzProbe
from reverie.training.probes.value_gap import ValueGap
from reverie.training.probes.values import ValueProbe
from reverie.training.seeding import side_stream
from reverie.world_models.base import WorldModel
from reverie.world_models.sources import RolloutSource


def build_evaluator(config: DictConfig, data: Dataset, console: Console) -> Evaluator | None:
    """Copies of the true environment, unless there is none or nobody asked."""
    if not config.evaluate.every:
        return None
    if data.spec.env_id is None:
        told = f"dataset {data.name} names no environment, so nothing is scored; "
        told += "dataset.env_id=... adds one"
        if is_chosen(config.planner):  # a policy has its verdict
            told += ", or ask the log afterwards: python -m training.ope run=... fqe.updates=0"
        console.print(told, soft_wrap=True)
        return None
    return Evaluator(spec=data.spec, seeds=config.seeds, episodes=config.evaluate.episodes)


def build_value_probe(
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
            truth = simulator_for(data.spec, torch.get_num_threads())
        except Mistake as error:
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


def build_value_gap(
    config: DictConfig, data: Dataset, agent: Agent, model: WorldModel | None
) -> ValueGap | None:
    """The policy's return in its world model, unless there is none or nobody asked."""
    if model is None or not config.value_gap.starts:
        return None
    return ValueGap(agent=agent, model=model, data=data, **config.value_gap)


def build_verdict(config: DictConfig, data: Dataset, agent: Agent) -> Verdict | None:
    """How the policy is judged at the end, unless nobody asked.

    Raises:
        Mistake: a hyperparameter of its critics is none, which would else be found at the end.
    """
    if not config.verdict.starts:
        return None
    settings: Any = OmegaConf.to_container(config.verdict, resolve=True)
    settings["discount"] = data.spec.per_action(settings["discount"])
    most = math.ceil(settings["fqe"].pop("share") * config.updates)
    for fit in (settings["fqe"], settings["doubly_robust"]):
        fit["updates"] = min(fit["updates"], most)
    verdict = judge_by(settings)
    with side_stream(config.seed, agent.device):
        verdict.require_settings(data.spec, agent.act, agent.seeds, agent.discount)
    return verdict


def judge_by(settings: dict[str, Any]) -> Verdict:
    """A verdict of plain settings, `verdict` of conf/train.yaml or alike."""
    fqe, clone = dict(settings["fqe"]), dict(settings["doubly_robust"])
    return Verdict(
        **{name: settings[name] for name in ("starts", "discount", "horizon", "far")},
        **{name: fqe.pop(name) for name in ("updates", "converged")},
        **settings["model"],
        fqe=fqe,
        effective=clone.pop("effective"),
        clone=clone,
    )
