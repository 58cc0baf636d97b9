"""Transitions per second of the batched simulator against a plain loop over `env.step`."""

from collections.abc import Sequence
from contextlib import closing
from statistics import median
from typing import Any

import numpy as np
import torch

from reverie.benchmarks.speed.timing import Contender, race
from reverie.envs.make import make_env, spec_of
from reverie.envs.specs import Spec
from reverie.world_models.true_dynamics import TrueDynamics

ROUNDS = 5
LOOP, BATCH = "loop", "true dynamics"


def measure(tasks: Sequence[str], rows: int, seconds: float) -> list[dict[str, Any]]:
    """Race the two on the same states and random actions, with as many threads as torch uses.

    Args:
        tasks: environment ids.
        rows: transitions of one call: of the batch, and of a walk through the environment.
        seconds: of one turn; each has `ROUNDS` turns.

    Returns:
        Per task `task`, `rows`, `threads`, median `loop_per_second` and `batch_per_second`, and
        `speedup` as median, minimum and maximum over rounds.
    """
    return [
        _measure(spec_of(task, env_kwargs={}, physics="as-is"), rows, seconds) for task in tasks
    ]


def _measure(spec: Spec, rows: int, seconds: float) -> dict[str, Any]:
    model = TrueDynamics(spec=spec, seeds=1, seed=0, threads="auto", rows=1, tolerance=np.inf)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (rows, spec.action_dim)).astype(np.float32)
    with closing(make_env(spec)) as env:

        def walk() -> list[np.ndarray]:
            obs, _ = env.reset(seed=0)
            visited = []
            for action in actions:
                visited.append(obs)
                obs, _, terminated, truncated, _ = env.step(action)
                if terminated or truncated:
                    obs, _ = env.reset()
            return visited

        obs = torch.from_numpy(np.array(walk()))[None]
        batch = torch.from_numpy(actions)[None]
        rates = race(
            {
                LOOP: Contender(walk, rows),
                BATCH: Contender(lambda: model.step(obs, batch), rows),
            },
            rounds=ROUNDS,
            seconds=seconds,
            device=torch.device("cpu"),
        )
    ratios = rates.ratios(BATCH, LOOP)
    return {
        "task": spec.env_id,
        "rows": rows,
        "threads": torch.get_num_threads(),
        "loop_per_second": rates.median(LOOP),
        "batch_per_second": rates.median(BATCH),
        "speedup": [median(ratios), min(ratios), max(ratios)],
    }
