"""Datasets that the platform records itself, on first use, by seeded policies.

A task is one function that records it, one entry in `TASKS` and one file in
`conf/dataset/builtin/`. The recording is cached by everything that shapes it.
"""

import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Annotated, Any

import numpy as np
import torch

from reverie.datasets.build import LowAndHigh, build, given_reference
from reverie.datasets.cache import cache_root, cached_arrays
from reverie.datasets.dataset import Dataset
from reverie.datasets.names import short_name
from reverie.datasets.recording import ActionOf, Arrays, record_episodes
from reverie.datasets.subset import Subset
from reverie.envs import (
    cartpole_swingup,
    duffing,
    edge_of_reach,
    lorenz,
    predator_prey,
    refrigerator,
)
from reverie.envs.controllers import swing_up_pendulum
from reverie.envs.make import spec_of
from reverie.envs.reference import reference_for
from reverie.envs.specs import Reference, Spec
from reverie.mistake import Mistake
from reverie.ranges import (
    ArgumentsOf,
    Count,
    Finite,
    NonNegative,
    Seed,
    Share,
    UnitInterval,
)

log = logging.getLogger(__name__)

# Raise it whenever a recording function changes what it records.
GENERATOR_VERSION = 1

Record = Callable[..., Arrays]
Kind = Annotated[
    Mapping[str, float], ArgumentsOf(lambda _: {"strength": Share, "random": UnitInterval})
]
Recorded = Annotated[Any, ArgumentsOf(lambda options: TASKS[options["task"]].record)]
"""What the recording function of `options["task"]` takes."""


def load(*, name: str, task: str, subset: Subset | None = None, **parameters: Recorded) -> Dataset:
    """A builtin dataset, recorded on first use and cached.

    Args:
        name: label for run directories and tables.
        task: one of `TASKS`, exactly.
        subset: which whole episodes to keep, see `datasets.subset.choose_episodes`; None for all.
        parameters: of the task's recording function; part of the key of the cache.

    Raises:
        Mistake: unknown task or parameter, or a parameter out of range; the cache cannot be
            written.
    """
    if task not in TASKS:
        raise Mistake(
            f"dataset.task={task!r} is not a builtin dataset; choose one of {', '.join(TASKS)}"
        )
    builtin = TASKS[task]
    try:
        inspect.signature(builtin.record).bind(None, **parameters)
    except TypeError as error:
        expected = ", ".join(list(inspect.signature(builtin.record).parameters)[1:])
        raise Mistake(
            f"builtin/{task}: {error}; the keys of this dataset are name, task, subset, {expected}"
        ) from error
    return _record(
        builtin,
        name=name,
        source=f"builtin/{task}",
        spec=spec_of(builtin.env_id, env_kwargs={}, physics="as-is"),
        reference=reference_for(f"builtin/{task}"),
        recipe={"task": task},
        parameters=parameters,
        subset=subset,
    )


def load_random(
    *,
    name: str | None,
    env_id: str,
    env_kwargs: Mapping[str, object],
    max_episode_steps: Count | None,
    steps: Count,
    seed: Seed,
    reference: LowAndHigh | None,
    subset: Subset | None = None,
) -> Dataset:
    """Uniformly random actions in any Gymnasium task, recorded on first use and cached.

    Args:
        name: label for run directories and tables, None for the id.
        env_id: exact Gymnasium id.
        env_kwargs: options for the environment's constructor.
        max_episode_steps: time limit, None for the one that the environment was registered with.
        steps: recorded transitions.
        seed: of starts and actions.
        reference: `[low, high]` returns that score 0 and 100, None for raw returns only.
        subset: which whole episodes to keep, see `datasets.subset.choose_episodes`; None for all.

    Raises:
        Mistake: unknown environment, spaces that are not supported, or no steps; the cache cannot
            be written.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise Mistake(f"dataset.steps={steps} must be a whole number, at least 1")
    options = {"env_kwargs": dict(env_kwargs), "max_episode_steps": max_episode_steps}
    return _record(
        Builtin(env_id, random_policy, ("gymnasium", "mujoco")),
        name=short_name(name=name, env_id=env_id),
        source="random",
        spec=spec_of(env_id, physics="as-is", **options),  # type: ignore[arg-type]
        reference=None if reference is None else given_reference(reference),
        recipe={"task": "random", "env_id": env_id, **options},
        parameters={"steps": steps, "seed": seed},
        subset=subset,
    )


def _record(
    builtin: "Builtin",
    *,
    name: str,
    source: str,
    spec: Spec,
    reference: Reference | None,
    recipe: Mapping[str, Any],
    parameters: Mapping[str, Any],
    subset: Mapping[str, Any] | None,
) -> Dataset:
    """The recording from the cache, or made now; its key is all that shapes it."""
    versions = {library: version(library) for library in builtin.libraries}
    recipe = {**recipe, "generator": GENERATOR_VERSION, **versions, **parameters}
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_root() / "builtin" / f"{recipe['task']}-{key}.npz"

    def record() -> Arrays:
        log.info("%s: recording in %s", source, builtin.env_id)
        return builtin.record(spec, **parameters)

    columns: dict[str, Any] = cached_arrays(path, record)
    return build(
        name=name,
        spec=spec,
        **columns,
        reference=reference,
        origin={"source": source, "environment": builtin.env_id, "file": str(path)}
        | {key: str(value) for key, value in recipe.items() if key != "task"},
        clip_actions=False,
        subset=subset,
        places=None,
    )


def pendulum_mixed(spec: Spec, *, episodes: Count, seed: Seed, mixture: Sequence[Kind]) -> Arrays:
    """Swing-ups of graded skill, whole episodes of 200 steps.

    Args:
        spec: of Pendulum-v1.
        episodes: recorded episodes.
        seed: of starts and actions.
        mixture: kinds of behaviour that take turns, each with `strength`, the share of the
            motor's torque that the controller uses, in (0, 1], and `random`, the probability per
            step, in [0, 1], of holding a uniformly random action for 1 to 4 steps; the
            controller's own actions get Gaussian noise of half that probability times the box.
    """
    _require_count("pendulum-mixed", "episodes", episodes)
    kinds = [_kind(entry) for entry in mixture]
    if not kinds:
        raise Mistake("builtin/pendulum-mixed: mixture is empty; give at least one behaviour")
    torque = spec.action_high[0]

    def behaviour(episode: int, rng: np.random.Generator) -> ActionOf:
        strength, random = kinds[episode % len(kinds)]
        held, remaining = 0.0, 0

        def act(obs: np.ndarray) -> np.ndarray:
            nonlocal held, remaining
            if remaining == 0 and rng.random() < random:
                held, remaining = rng.uniform(-torque, torque), int(rng.integers(1, 5))
            if remaining > 0:
                remaining -= 1
                chosen = held
            else:
                noise = rng.normal(0.0, 0.5 * random * torque)
                chosen = swing_up_pendulum(obs.tolist(), strength) + noise
            return np.array([np.clip(chosen, -torque, torque)], np.float32)

        return act

    assert spec.max_episode_steps is not None  # Pendulum-v1 is registered with 200
    steps = episodes * spec.max_episode_steps
    return record_episodes("pendulum-mixed", spec, steps, seed, behaviour)


def hopper_random(spec: Spec, *, steps: Count, seed: Seed) -> Arrays:
    """Uniformly random actions, cut after `steps` transitions.

    Args:
        spec: of Hopper-v5.
        steps: recorded transitions.
        seed: of starts and actions.
    """
    _require_count("hopper-random", "steps", steps)
    return _uniform("hopper-random", spec, steps, seed)


def random_policy(spec: Spec, *, steps: Count, seed: Seed) -> Arrays:
    """Uniformly random actions in any task, cut after `steps` transitions."""
    return _uniform(str(spec.env_id), spec, steps, seed)


def _uniform(label: str, spec: Spec, steps: int, seed: int) -> Arrays:
    low, high = np.array(spec.action_low), np.array(spec.action_high)

    def behaviour(episode: int, rng: np.random.Generator) -> ActionOf:
        return lambda obs: rng.uniform(low, high).astype(np.float32)

    return record_episodes(label, spec, steps, seed, behaviour)


def walks(
    spec: Spec, *, episodes: Count, episode_steps: Count, seed: Seed, random: Sequence[UnitInterval]
) -> Arrays:
    """Walks to the hill of `envs.edge_of_reach`, more or less at random, all of one length.

    Args:
        spec: of ReverieEdgeOfReach-v0.
        episodes: recorded episodes.
        episode_steps: their length; 1 records little more than the start states.
        seed: of starts and actions.
        random: kinds of behaviour that take turns, each the probability per step, in [0, 1], of a
            uniformly random action instead of the controller's.
    """
    _require_count("edge-of-reach", "episodes", episodes)
    _require_count("edge-of-reach", "episode_steps", episode_steps)
    _require_shares("edge-of-reach", random)

    def behaviour(episode: int, rng: np.random.Generator) -> ActionOf:
        share = random[episode % len(random)]

        def act(obs: np.ndarray) -> np.ndarray:
            if rng.random() < share:
                return rng.uniform(-1.0, 1.0, 2).astype(np.float32)
            return edge_of_reach.controller(torch.from_numpy(obs)).numpy()

        return act

    shortened = replace(spec, max_episode_steps=episode_steps)
    return record_episodes("edge-of-reach", shortened, episodes * episode_steps, seed, behaviour)


def thermostats(
    spec: Spec, *, episodes: Count, seed: Seed, set_point: Finite, gain: Finite, noise: NonNegative
) -> Arrays:
    """Whole episodes of 100 steps of one thermostat with jitter.

    Args:
        spec: of ReverieRefrigerator-v0.
        episodes: recorded episodes.
        seed: of starts and actions.
        set_point, gain: see `envs.refrigerator.thermostat`.
        noise: standard deviation of what is added to the power, of which 1 is full.
    """
    _require_count("refrigerator", "episodes", episodes)
    if noise < 0:
        raise Mistake(f"builtin/refrigerator: noise={noise} must not be negative")

    def behaviour(episode: int, rng: np.random.Generator) -> ActionOf:
        def act(obs: np.ndarray) -> np.ndarray:
            action = refrigerator.thermostat(torch.from_numpy(obs), set_point, gain).numpy()
            return (action + 2.0 * rng.normal(0.0, noise, 1)).clip(-1.0, 1.0).astype(np.float32)

        return act

    assert spec.max_episode_steps is not None  # registered with 100
    return record_episodes("refrigerator", spec, episodes * spec.max_episode_steps, seed, behaviour)


def held_or_controlled(
    label: str, controller: Callable[[torch.Tensor], torch.Tensor], *, whole: bool = False
) -> Record:
    """How episodes of a task with one control are recorded, more or less at random.

    Args:
        label: of the task.
        controller: from observations `[D]` to its control `[1]`, in the task's units.
        whole: whether random actions are whole numbers.
    """

    def record(spec: Spec, *, steps: Count, seed: Seed, random: Sequence[UnitInterval]) -> Arrays:
        """Episodes of a controller, more or less at random, cut after `steps` transitions.

        Args:
            spec: of the task.
            steps: recorded transitions.
            seed: of starts and actions.
            random: kinds of behaviour that take turns, each the probability per step, in [0, 1],
                of holding a uniformly random action for 1 to 8 steps instead of the controller's.
        """
        _require_count(label, "steps", steps)
        _require_shares(label, random)
        (low,), (high,) = spec.action_low, spec.action_high

        def behaviour(episode: int, rng: np.random.Generator) -> ActionOf:
            share = random[episode % len(random)]
            held, remaining = 0.0, 0

            def act(obs: np.ndarray) -> np.ndarray:
                nonlocal held, remaining
                if remaining == 0 and rng.random() < share:
                    if whole:
                        held = float(rng.integers(int(low), int(high), endpoint=True))
                    else:
                        held = rng.uniform(low, high)
                    remaining = int(rng.integers(1, 9))
                if remaining > 0:
                    remaining -= 1
                    return np.array([held], np.float32)
                return controller(torch.from_numpy(obs)).numpy()

            return act

        return record_episodes(label, spec, steps, seed, behaviour)

    return record


@dataclass(frozen=True)
class Builtin:
    """How a builtin dataset is recorded.

    Attributes:
        env_id: environment that it is recorded and scored in.
        record: from the spec and the keys of the YAML to the columns that `build` takes.
        libraries: whose version may change the recording.
    """

    env_id: str
    record: Record
    libraries: tuple[str, ...]


TASKS: dict[str, Builtin] = {
    "pendulum-mixed": Builtin("Pendulum-v1", pendulum_mixed, ("gymnasium",)),
    "hopper-random": Builtin("Hopper-v5", hopper_random, ("gymnasium", "mujoco")),
    "edge-of-reach": Builtin(edge_of_reach.ENV_ID, walks, ("gymnasium", "torch")),
    "refrigerator": Builtin(refrigerator.ENV_ID, thermostats, ("gymnasium", "torch")),
    "cartpole-swingup": Builtin(
        cartpole_swingup.ENV_ID,
        held_or_controlled("cartpole-swingup", cartpole_swingup.controller),
        ("gymnasium", "torch"),
    ),
    "predator-prey": Builtin(
        predator_prey.ENV_ID,
        held_or_controlled("predator-prey", predator_prey.controller, whole=True),
        ("gymnasium", "torch"),
    ),
    "duffing": Builtin(
        duffing.ENV_ID, held_or_controlled("duffing", duffing.controller), ("gymnasium", "torch")
    ),
    "lorenz": Builtin(
        lorenz.ENV_ID, held_or_controlled("lorenz", lorenz.controller), ("gymnasium", "torch")
    ),
}


def _require_count(task: str, key: str, value: int) -> None:
    if value < 1:
        raise Mistake(f"builtin/{task}: {key}={value} must be at least 1; raise dataset.{key}")


def _require_shares(task: str, random: Sequence[float]) -> None:
    if not random or not all(0.0 <= share <= 1.0 for share in random):
        raise Mistake(
            f"builtin/{task}: random={list(random)} must list probabilities in [0, 1], at least "
            "one; correct dataset.random"
        )


def _kind(entry: Mapping[str, float]) -> tuple[float, float]:
    if (
        set(entry) != {"strength", "random"}
        or not 0.0 < entry["strength"] <= 1.0
        or not 0.0 <= entry["random"] <= 1.0
    ):
        raise Mistake(
            f"builtin/pendulum-mixed: mixture entry {dict(entry)} is not valid; give `strength` in "
            "(0, 1] and `random` in [0, 1]"
        )
    return float(entry["strength"]), float(entry["random"])
