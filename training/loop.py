"""The training loop of every method: roll out, update, log, evaluate, checkpoint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reverie.agents.base import Agent
from reverie.datasets.replay import Mixture
from reverie.datasets.transition import Transition
from reverie.mistake import Mistake
from reverie.training.logging import Log
from reverie.world_models.model_updates import ModelUpdates
from reverie.world_models.precision import Precision, in_precision
from reverie.world_models.sources import RolloutSource

Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True)
class Periods:
    """Gradient steps between two events; zero means never."""

    log: int
    evaluate: int
    checkpoint: int


def train(
    agent: Agent,
    mixture: Mixture,
    sources: Mapping[str, RolloutSource],
    *,
    first: int,
    updates: int,
    periods: Periods,
    log: Log,
    evaluate: Callable[[int], None],
    checkpoint: Callable[[int], None],
    compile: Wrapper,
    on_update: Callable[[int], None],
    precision: Precision = "float32",
    model_updates: ModelUpdates | None = None,
) -> None:
    """Train from gradient step `first` up to `updates`.

    Args:
        agent: learns from `mixture.sample()`.
        mixture: streams by name; start states are drawn from its stream `real`.
        sources: what refills the stream of the same name.
        evaluate, checkpoint: called with the number of finished updates.
        compile: wraps the update and the rollout rounds that can be compiled; the identity runs
            them as they are.
        precision: of hidden layers in updates and rollouts.
        on_update: called after every update with its number, for a progress bar.
        model_updates: change the world model on their period; the sources that follow use it as it
            is then. Not before update 1, when the model is new.
    """

    @compile
    def learn(rows: Transition) -> dict[str, Tensor]:
        return agent.update(rows)

    @compile
    def draw_and_learn() -> dict[str, Tensor]:
        return agent.update(mixture.sample())

    def gather_and_learn() -> dict[str, Tensor]:
        # No graph holds what comes from the host's disk.
        return learn(mixture.sample())

    update = in_precision(
        precision, gather_and_learn if mixture.gathers_on_host else draw_and_learn
    )

    # On a CPU rollouts go through the layers block by block, in the caches, which the compiler
    # does not: compiled ones take 1.15 times as long.
    as_they_are = mixture["real"].rows.device.type == "cpu" or mixture.gathers_on_host
    rounds = {
        name: in_precision(
            precision,
            (compile if source.compiles and not as_they_are else _as_it_is)(
                rollout_round(agent, mixture, name, source)
            ),
        )
        for name, source in sources.items()
    }
    for step in range(first, updates):
        if model_updates is not None and step and step % model_updates.every == 0:
            log.add(model_updates())
        for name, source in sources.items():
            if step % source.every == 0:
                log.add(rounds[name]())
                if step == first:
                    require_rows(mixture, name)
        log.add(update())
        done = step + 1
        if due(done, periods.log, updates):
            log.flush(done)
        if due(done, periods.evaluate, updates):
            evaluate(done)
        if due(done, periods.checkpoint, updates):
            checkpoint(done)
        on_update(done)


def rollout_round(
    agent: Agent, mixture: Mixture, name: str, source: RolloutSource
) -> Callable[[], dict[str, Tensor]]:
    """One rollout round of a stream: start states, rollouts of the current policy, replay."""
    source.attach(agent.moments, agent.values)

    @torch.no_grad()
    def run() -> dict[str, Tensor]:
        starts = mixture["real"].sample(mixture.seeds, source.starts).obs
        rows, keep = source.generate(agent.act, starts)
        mixture[name].add(agent.complete(rows), keep)
        count = keep.sum(1).clamp(min=1)
        measured = {
            "reward": torch.where(keep, rows.reward, 0.0).sum(1) / count,
            "terminated": (keep & rows.terminated).sum(1) / count,
            **source.metrics(),
        }
        if starts.shape[1] and "rollout_length" not in measured:  # of sources without their own
            measured["rollout_length"] = keep.sum(1) / starts.shape[1]
        return {f"{name}/{metric}": value for metric, value in measured.items()}

    return run


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def require_rows(mixture: Mixture, name: str) -> None:
    """Refuse to train on a stream whose first rollout round left some seed without a single row.

    Raises:
        Mistake: names stream and seeds.
    """
    empty = (mixture[name].size == 0).nonzero().flatten().tolist()
    if empty:
        raise Mistake(
            f"the first rollout round of stream {name!r} gave seeds {empty} no rows: the filter "
            "rejected everything or the world model gave values that are not finite; look at "
            "world_model.png, relax the filter, or lower source.horizon"
        )


def due(done: int, period: int, updates: int) -> bool:
    """Whether a periodic event happens after `done` updates; the last update triggers all."""
    return period > 0 and (done % period == 0 or done == updates)
