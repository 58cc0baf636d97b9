"""Environment steps per second of the simulator stream against a single environment."""

from collections.abc import Sequence
from contextlib import closing
from statistics import median
from typing import Any

import numpy as np
import torch

from reverie.benchmarks.speed.timing import Contender, race
from reverie.datasets.replay import Mixture, Replay
from reverie.datasets.transition import Transition
from reverie.envs.make import make_env, spec_of
from reverie.envs.specs import Spec
from reverie.training.launch.options import build_option
from reverie.training.loop import refresh
from reverie.world_models.simulator import SimulatorRollouts

ROUNDS = 5
BARE = "env.step"


def measure(
    tasks: Sequence[str], shapes: Sequence[tuple[int, int]], seconds: float
) -> list[dict[str, Any]]:
    """Race whole refreshes of the stream against `env.step` with actions drawn beforehand.

    A refresh is what training does: the policy acts (SAC's networks of the default size), the
    environments step, the rows enter the replay. The single environment does nothing but step.

    Args:
        tasks: environment ids.
        shapes: environments of the one seed, and steps of each in a refresh.
        seconds: of one turn; each has `ROUNDS` turns.

    Returns:
        Per task and shape `task`, `copies`, `steps`, `threads`, median `bare_per_second` and
        `stream_per_second`, and `ratio` as median, minimum and maximum over rounds.
    """
    rows = []
    for task in tasks:
        rows += _measure(spec_of(task, env_kwargs={}, physics="as-is"), shapes, seconds)
    return rows


def _measure(spec: Spec, shapes: Sequence[tuple[int, int]], seconds: float) -> list[dict[str, Any]]:
    with closing(make_env(spec)) as env:
        contenders = {BARE: _bare(env, spec, steps=200)}
        contenders |= {f"{shape}": _stream(spec, *shape) for shape in shapes}
        rates = race(contenders, rounds=ROUNDS, seconds=seconds, device=torch.device("cpu"))
    found = []
    for shape in shapes:
        ratios = rates.ratios(f"{shape}", BARE)
        found.append(
            {
                "task": spec.env_id,
                "copies": shape[0],
                "steps": shape[1],
                "threads": torch.get_num_threads(),
                "bare_per_second": rates.median(BARE),
                "stream_per_second": rates.median(f"{shape}"),
                "ratio": [median(ratios), min(ratios), max(ratios)],
            }
        )
    return found


def _bare(env: Any, spec: Spec, steps: int) -> Contender:
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, spec.action_dim)).astype(np.float32)
    env.reset(seed=0)

    def walk() -> None:
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    return Contender(walk, steps)


def _stream(spec: Spec, copies: int, steps: int) -> Contender:
    simulator = build_option(
        "simulator", "perturbed", changes={"environments": copies}, spec=spec, seeds=1
    )
    agent = build_option("agent", "sac", spec=spec, seeds=1, updates=1)
    source = SimulatorRollouts(
        simulator=simulator,
        steps=steps,
        every=steps,
        warmup=0,
        random_warmup=False,
        capacity=100_000,
    )
    row = Transition(
        obs=torch.zeros(1, spec.obs_dim),
        action=torch.zeros(1, spec.action_dim),
        reward=torch.zeros(1),
        next_obs=torch.zeros(1, spec.obs_dim),
        terminated=torch.zeros(1, dtype=torch.bool),
        is_real=torch.zeros(1, dtype=torch.bool),
    )
    streams = {"real": Replay.of(row), source.stream: Replay(row, lanes=1, capacity=100_000)}
    mixture = Mixture(streams, {source.stream: 1}, seeds=1)
    return Contender(refresh(agent, mixture, source.stream, source), copies * steps)
