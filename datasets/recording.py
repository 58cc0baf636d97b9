"""Recording episodes of a policy in a task, one after another."""

import logging
import time
from collections.abc import Callable
from contextlib import closing

import numpy as np

from reverie.envs.make import make_raw_env, with_flat_observations
from reverie.envs.specs import Spec

log = logging.getLogger(__name__)

_SECONDS = 3.0
"""Between two lines about how far a recording is."""
Arrays = dict[str, np.ndarray]
ActionOf = Callable[[np.ndarray], np.ndarray]
"""From one flat observation to one action in the units of the environment."""


def record_episodes(
    label: str,
    spec: Spec,
    steps: int,
    seed: int,
    behaviour: Callable[[int, np.random.Generator], ActionOf],
    on_step: Callable[[int], None] | None = None,
) -> Arrays:
    """Run episodes one after another until `steps` transitions are recorded.

    Each episode has a generator of its own, so that a longer recording begins like a shorter one.

    Args:
        label: of the recording, for the log.
        spec: of the task.
        steps: recorded transitions; the last episode is cut there, without any mark.
        seed: of starts and actions.
        behaviour: gives the policy of an episode from its number and generator.
        on_step: told how many transitions are recorded; instead of the log.

    Returns:
        The columns `obs`, `action`, `reward`, `next_obs` (true ones, at ends too), `terminated`
        and `truncated` as `datasets.build.build` takes them.
    """
    columns: Arrays = {
        "obs": np.empty((steps, spec.obs_dim), np.float32),
        "action": np.empty((steps, spec.action_dim), np.float32),
        "reward": np.empty(steps, np.float32),
        "next_obs": np.empty((steps, spec.obs_dim), np.float32),
        "terminated": np.empty(steps, bool),
        "truncated": np.empty(steps, bool),
    }
    row, episode, told = 0, 0, time.monotonic()
    with closing(with_flat_observations(spec, make_raw_env(spec))) as env:
        shape = env.action_space.shape
        assert shape is not None  # a box
        kind = env.action_space.dtype if np.issubdtype(env.action_space.dtype, np.integer) else None
        while row < steps:
            rng = np.random.default_rng([seed, episode])
            act = behaviour(episode, rng)
            obs, _ = env.reset(seed=int(rng.integers(2**31)))
            ended = False
            while not ended and row < steps:
                action = act(obs) if kind is None else np.rint(act(obs)).astype(kind)
                # Before the step, which may change what it is given.
                columns["obs"][row], columns["action"][row] = obs, action
                next_obs, reward, terminated, truncated, _ = env.step(action.reshape(shape))
                columns["reward"][row], columns["next_obs"][row] = reward, next_obs
                columns["terminated"][row], columns["truncated"][row] = terminated, truncated
                obs, ended, row = next_obs, terminated or truncated, row + 1
                if on_step is not None:
                    on_step(row)
                elif time.monotonic() - told > _SECONDS:
                    log.info("%s: %d of %d steps recorded", label, row, steps)
                    told = time.monotonic()
            episode += 1
    return columns
