"""Run by a test: trains on a device that does not exist, and says what a GPU would not do.

`python -m tests.devices.ghost_runs [--fault NAME] [NAME ...]` rehearses the compositions named, or
all of them: fits, rollouts, updates and probes, a deterministic policy, a plan. Updates, rollout
rounds and training steps of fits are watched; what they compute is compared with the same run on
the CPU.
"""

import argparse
import json
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from reverie.agents.base import Agent
from reverie.training import loop
from reverie.training.launch.compose import asked_by_planner
from reverie.training.launch.options import build_option, read_option
from reverie.training.run import Run
from reverie.world_models.base import WorldModel
from reverie.world_models.diffusion.planner import Planner
from reverie.world_models.diffusion.source import GeneratedTransitions
from reverie.world_models.simulator import PerturbedSimulator
from reverie.world_models.true_dynamics import TrueDynamics
from tests.devices import ghost as device
from tests.devices.rehearsal import finished, names, rehearse, typed_for

CHECKOUT = Path(__file__).resolve().parents[2]


def is_on_host(module: nn.Module) -> bool:
    """Whether it is physics outside of torch: rollouts go to the host and back, step by step."""
    if isinstance(module, TrueDynamics):
        return not module.differentiable
    return isinstance(module, PerturbedSimulator)


def rehearse_on(
    ghost: device.Ghost, typed: tuple[str, ...], fault: str | None = None, watch_all: bool = False
) -> dict[str, Tensor]:
    """Train a composition on the ghost; gives what the agent learnt."""
    with ghost, rehearse(*typed, device=f"{device.NAME}:0") as run:
        if fault is not None:
            FAULTS[fault](run.agent)
        run.compile = ghost.watch
        modules = [each for source in run.sources.values() for each in source.modules()]
        hosted = not watch_all and any(map(is_on_host, modules))
        # Sources that nobody compiles should not wait either, except where physics runs.
        loop._as_it_is = _as_it_is if hosted else ghost.watch_later
        learnt = finished(run)
        act_on(ghost, run)
        return learnt


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def act_on(ghost: device.Ghost, run: Run) -> None:
    """What evaluations ask of an agent, and of a planner where there is a generator of segments."""
    agent, obs = run.agent, run.data.transitions.obs[:5].expand(run.agent.seeds, -1, -1)
    there = obs.to(run.device)
    with ghost.watched():
        agent.act(there)
        action = agent.act(there, deterministic=True)
        agent.values(there, action)
        agent.moments(there)
    part = run.parts.get("world_model")
    if part is not None and part.model.compiles:  # which stays on the device
        plan_in_model(ghost, part.model, agent, there)
    for source in run.sources.values():
        if isinstance(source, GeneratedTransitions) and source.generator.records.squashed:
            plan(ghost, source, agent, obs)


def plan_in_model(ghost: device.Ghost, model: WorldModel, agent: Agent, there: Tensor) -> None:
    asked = asked_by_planner(agent)
    asked["value_discount"] = 0.99
    small = {"horizon": 2, "samples": 8, "elites": 3, "policy_samples": 2, "penalty": 1.0}
    planner = build_option(
        *("planner", "mppi"), changes=small, spec=agent.spec, model=model, behaviour=None, **asked
    )
    with ghost.watched():
        ahead = planner.plan(there)
        planner.plan(there, ahead, ahead[..., 0, :])


def plan(ghost: device.Ghost, source: GeneratedTransitions, agent: Agent, obs: Tensor) -> None:
    settings: Any = read_option("planner/diffusion")
    warm_start = instantiate(settings["warm_start"])
    conditioned = source.generator.condition is not None
    planner = Planner(
        generator=source.generator,
        # Plans choose among no candidates.
        sampler=build_option("sampler", "euler") if source.sampler.chooses else source.sampler,
        guidance=source.guidance if conditioned else None,
        moments=agent.moments,
        critics=agent.values,
        warm_start=warm_start if source.generator.noise_distribution.gaussian else None,
        execute=1,
    )
    there = obs.to(source.generator.records.mean.device)
    for _ in range(2):
        with ghost.watched():
            planner.plan = planner._next_plan(there)
        planner.played = 1


def _spoil(change: Callable[[Tensor], Tensor]) -> Callable[[Agent], None]:
    """A fault in the targets of an agent's updates."""

    def spoil(agent: Any) -> None:
        target = agent.target
        agent.target = lambda batch: change(target(batch))

    return spoil


FAULTS: Mapping[str, Callable[[Agent], None]] = {
    "constant of the host": _spoil(lambda y: y + torch.zeros(y.shape)),
    "scalar of the host": _spoil(lambda y: y + torch.zeros(())),
    "new constant": _spoil(lambda y: y * torch.tensor([1.0], device=y.device)),
    "value read": _spoil(lambda y: y * (y.mean().item() / y.mean())),
    "way over the host": _spoil(lambda y: y.cpu().to(y.device)),
    "branch": _spoil(lambda y: y * 1 if (y > 0).any() else y),
    "mask": _spoil(lambda y: y + y[y > 0].sum() * 0),
}


def off(ours: Tensor, wanted: Tensor) -> float:
    """Largest difference, as a share of the largest entry."""
    ours, wanted = ours.double(), wanted.double()
    return ((ours - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6)).item()


def where(error: BaseException) -> list[str]:
    """Lines of the checkout that an error went through, the last ones."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [each for each in frames if Path(each.filename).is_relative_to(CHECKOUT)]
    lines = [f"{Path(each.filename).relative_to(CHECKOUT)}:{each.lineno}" for each in own]
    return [line for line in lines if not line.startswith(("tests/", ".venv/"))][-3:]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--fault", choices=list(FAULTS))
    parser.add_argument("--watch-all", action="store_true", help="physics on the host as well")
    asked = parser.parse_args()
    device.register()
    for name in asked.names or names():
        typed = typed_for(name)
        begun, ghost = time.monotonic(), device.Ghost()
        found: dict[str, Any] = {"name": name, "error": None}
        try:
            learnt = rehearse_on(ghost, typed, asked.fault, asked.watch_all)
            with rehearse(*typed) as run:
                wanted = finished(run)
            found["off"] = max(off(learnt[key], value) for key, value in wanted.items())
        except Exception as error:
            found["error"] = f"{type(error).__name__}: {error}"
            found["where"] = where(error)
        found["operations"], found["seconds"] = ghost.operations, time.monotonic() - begun
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
