"""The log of the two tanks, `envs.two_tanks`: a CSV made on first use, read as any table is."""

import csv
import hashlib
import io
import json
import logging
from dataclasses import replace
from importlib.metadata import version

import numpy as np

from reverie.datasets.cache import cache_root, cached_text
from reverie.datasets.dataset import Dataset
from reverie.datasets.exogenous import Exogenous, find_exogenous
from reverie.datasets.readers import table
from reverie.datasets.recording import ActionOf, record_episodes
from reverie.datasets.subset import Subset
from reverie.envs import two_tanks
from reverie.envs.make import spec_of
from reverie.mistake import Mistake
from reverie.ranges import Count, Positive, Seed, UnitInterval

log = logging.getLogger(__name__)

# Raise it whenever what is recorded changes.
GENERATOR_VERSION = 1

TIME, EPISODE, REWARD = "time [s]", "episode", "reward"
HEADER = (TIME, EPISODE, *two_tanks.OBS_NAMES, *two_tanks.ACTION_NAMES, REWARD)


def load(
    *,
    name: str,
    episodes: Count,
    seed: Seed,
    gain: Positive,
    reset: Positive,
    random: UnitInterval,
    exogenous: Exogenous,
    subset: Subset | None = None,
) -> Dataset:
    """The log as a dataset without an environment, its columns by name.

    Args:
        name: label for run directories and tables.
        episodes: recorded episodes of 200 rows.
        seed: of starts, set-points, noise and actions.
        gain, reset: of the PI controller, see `envs.two_tanks.PI`.
        random: probability per step of holding a uniformly random valve for 1 to 8 steps.
        exogenous: observations that the valve does not move, see `datasets.exogenous`.
        subset: which whole episodes to keep, see `datasets.subset.choose_episodes`; None for all.

    Raises:
        Mistake: a number out of its range; the cache cannot be written.
    """
    if episodes < 1 or not 0.0 <= random <= 1.0:
        raise Mistake(
            f"builtin/two-tanks: episodes={episodes} must be at least 1 and random={random} in "
            "[0, 1]"
        )
    recipe = {"episodes": episodes, "seed": seed, "gain": gain, "reset": reset, "random": random}
    versions = {"generator": GENERATOR_VERSION, "gymnasium": version("gymnasium")}
    key = hashlib.sha256(json.dumps({**recipe, **versions}, sort_keys=True).encode()).hexdigest()
    path = cached_text(
        cache_root() / "builtin" / f"two-tanks-{key[:16]}.csv",
        lambda: record(episodes=episodes, seed=seed, gain=gain, reset=reset, random=random),
    )
    data = table.load(
        name=name,
        path=str(path),
        columns={
            "observations": two_tanks.OBS_NAMES,
            "actions": two_tanks.ACTION_NAMES,
            "reward": REWARD,
            "terminated": [],
            "truncated": [],
            "episode": EPISODE,
            "time": TIME,
        },
        reward=None,
        action_low=0.0,
        action_high=1.0,
        env_id=None,
        env_kwargs={},
        max_episode_steps=None,
        reference=None,
        clip_actions=False,
        subset=subset,
    )
    unmoved = find_exogenous(
        data.spec.obs_labels, exogenous, source="builtin/two-tanks", key="dataset.exogenous"
    )
    return replace(data, spec=replace(data.spec, exogenous=unmoved))


def record(
    *, episodes: int, seed: int, gain: int | float, reset: int | float, random: int | float
) -> str:
    """The text of the CSV, with the arguments of `load`."""
    spec = spec_of(two_tanks.ENV_ID, env_kwargs={}, physics="as-is")

    def behaviour(episode: int, rng: np.random.Generator) -> ActionOf:
        controller = two_tanks.PI(gain=gain, reset=reset)
        held, remaining = 0.0, 0

        def act(obs: np.ndarray) -> np.ndarray:
            nonlocal held, remaining
            chosen = controller.act(obs)
            if remaining == 0 and rng.random() < random:
                held, remaining = rng.uniform(0.0, 1.0), int(rng.integers(1, 9))
            if remaining > 0:
                remaining -= 1
                chosen = held
            return np.array([chosen], np.float32)

        return act

    steps = episodes * two_tanks.EPISODE_STEPS
    rows = record_episodes("two-tanks", spec, steps, seed, behaviour)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for row in range(steps):
        episode, step = divmod(row, two_tanks.EPISODE_STEPS)
        # Six digits are all that float32 holds of a level, and more than any sensor does.
        numbers = (*rows["obs"][row], *rows["action"][row], rows["reward"][row])
        writer.writerow(
            [f"{step * two_tanks.STEP:g}", episode, *(f"{number:.6g}" for number in numbers)]
        )
    return text.getvalue()
