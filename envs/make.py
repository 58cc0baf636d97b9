"""Environments as the platform sees them: flat float32 observations, actions in [-1, 1]."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import TransformAction, TransformObservation

from reverie.envs import (
    cartpole_swingup,
    double_mass_spring,
    duffing,
    edge_of_reach,
    extras,
    lorenz,
    pipeline,
    predator_prey,
    refrigerator,
    two_tanks,
)
from reverie.envs.chunks import PlayedChunks
from reverie.envs.faults import (
    close,
    import_module,
    require_finite,
    require_finite_reward,
    reset_result,
    step_result,
    stepped,
)
from reverie.envs.history import WithHistory
from reverie.envs.observations import flatten, flatten_space
from reverie.envs.physics import quieten, restore_contact_margin
from reverie.envs.specs import Spec, is_bounded
from reverie.envs.wrappers import Wrappers, wrap
from reverie.mistake import Mistake
from reverie.text import near

# Tasks of our own, beside those that Gymnasium and other packages register.
for _task, _environment in (
    (edge_of_reach, edge_of_reach.EdgeOfReach),
    (refrigerator, refrigerator.Refrigerator),
    (cartpole_swingup, cartpole_swingup.CartPoleSwingUp),
    (two_tanks, two_tanks.TwoTanks),
    (predator_prey, predator_prey.PredatorPrey),
    (duffing, duffing.Duffing),
    (lorenz, lorenz.Lorenz),
    (pipeline, pipeline.Pipeline),
    (double_mass_spring, double_mass_spring.DoubleMassSpring),
):
    gymnasium.register(
        _task.ENV_ID,
        entry_point=f"{_environment.__module__}:{_environment.__name__}",
        max_episode_steps=_task.EPISODE_STEPS,
    )

# First parts of the names of gymnasium-robotics, for the hint that the package is missing.
_ROBOTICS = (
    "AdroitHand",
    "AntMaze_",
    "PointMaze_",
    "FrankaKitchen",
    "Fetch",
    "HandManipulate",
    "HandReach",
)


def make_env(spec: Spec, render_mode: str | None = None) -> gymnasium.Env:
    """The environment of a task, as agents meet it.

    Observations are flat float32 `[D]`. Actions `[A]` are clipped to [-1, 1], then mapped
    affinely to the environment's box. The time limit of the spec holds (None: the limit that the
    environment was registered with). Where an action is a chunk, a step plays it, see
    `envs.chunks.PlayedChunks`.

    Raises:
        Mistake: no or an unknown environment id, or spaces other than the spec says; the
            environment exists but cannot be created here.
    """
    return with_flat_spaces(spec, make_raw_env(spec, render_mode))


def with_flat_spaces(spec: Spec, env: gymnasium.Env, faithful: bool = True) -> gymnasium.Env:
    """Let an environment in its own units (`make_raw_env`) look as `make_env` promises.

    Args:
        spec: of the task.
        env: the environment.
        faithful: whether it is the task itself, so that numbers that are not finite are its fault.
            In one with other physics they are rows to leave out.

    Raises:
        Mistake: spaces other than the spec says; the environment is closed.
    """
    try:
        require_spaces_match(spec.single.newest, env)
    except Mistake:
        close(spec.env_id, env)
        raise
    flat = _take_unit_actions(with_flat_observations(spec.newest, env, faithful))
    if spec.has_history:
        return WithHistory(flat, spec)
    return flat if spec.chunk == 1 else PlayedChunks(flat, spec)


def with_flat_observations(spec: Spec, env: gymnasium.Env, faithful: bool = True) -> gymnasium.Env:
    """Let an environment of the spec's spaces give flat observations; actions stay its own."""
    return _FlatObservation(spec, env, faithful)


class _FlatObservation(TransformObservation):
    """Gives float32 vectors and float rewards, and names the environment in its faults."""

    def __init__(self, spec: Spec, env: gymnasium.Env, faithful: bool) -> None:
        space, keys, env_id = env.observation_space, spec.obs_keys, spec.env_id
        hidden = list(spec.hidden)

        def observe(value):
            try:
                flat = flatten(space, value, keys)
            except Mistake as error:
                raise Mistake(f"environment {env_id}: {error}") from error
            if flat.ndim != 1:
                raise Mistake(
                    f"environment {env_id}: an observation has the shape {np.shape(value)}, "
                    f"expected {space.shape} as its space says; return one observation"
                )
            flat = flat[: spec.obs_slice]
            return np.delete(flat, hidden) if hidden else flat

        flat = spaces.Box(-np.inf, np.inf, (spec.obs_dim,), np.float32)
        super().__init__(env, observe, flat)
        self._env_id, self._faithful = env_id, faithful

    def reset(self, *, seed=None, options=None):
        with stepped(self._env_id):
            value, info = reset_result(self._env_id, self.env.reset(seed=seed, options=options))
            obs = self.func(value)
        if self._faithful:
            require_finite(self._env_id, "reset", obs)
        return obs, info

    def step(self, action):
        env_id = self._env_id
        with stepped(env_id):
            value, reward, terminated, truncated, info = step_result(env_id, self.env.step(action))
            obs = self.func(value)
        if self._faithful and np.isfinite(action).all():  # else it is the policy's fault
            require_finite_reward(env_id, reward)
            if not (terminated or truncated):
                require_finite(env_id, "step", obs)
        return obs, reward, terminated, truncated, info

    def close(self):
        close(self._env_id, self.env)


def make_raw_env(spec: Spec, render_mode: str | None = None) -> gymnasium.Env:
    """The environment of a task in its own units, with the spec's physics and time limit."""
    if spec.env_id is None:
        raise Mistake(
            "the dataset names no environment, so nothing can be run in it; give the Gymnasium id "
            "with dataset.env_id=..."
        )
    env = _create(spec.env_id, spec.env_kwargs, spec.max_episode_steps, render_mode, spec.wrappers)
    if spec.physics == "d4rl":
        restore_contact_margin(spec.env_id, env)
    return env


def is_registered(name: str) -> bool:
    """Whether an id without a module is Gymnasium's, ours, of an imported module, or robotics'."""
    return name in gymnasium.registry or name.startswith(_ROBOTICS)


def spaces_of(
    env_id: str, env_kwargs: Mapping[str, object], wrappers: Wrappers = ()
) -> tuple[spaces.Space, spaces.Space]:
    """The environment's own spaces of observations and actions.

    Raises:
        Mistake: unknown id; the environment exists but cannot be created here.
    """
    env = _create(env_id, env_kwargs, None, None, wrappers)
    found = env.observation_space, env.action_space
    close(env_id, env)
    return found


def spec_of(
    env_id: str,
    *,
    env_kwargs: Mapping[str, object],
    physics: str,
    max_episode_steps: int | None = None,
    obs_slice: int | None = None,
    obs_keys: Sequence[str] | None = None,
    wrappers: Wrappers = (),
) -> Spec:
    """The spec of an environment, read from the environment itself.

    Args:
        env_id: exact Gymnasium id.
        env_kwargs: options for the environment's constructor.
        physics: `as-is` or `d4rl`.
        max_episode_steps: time limit, None for the one that the environment was registered with.
        obs_slice: keep only the first so many flat observations.
        obs_keys: keys of a dict observation in order, None for the standard order.
        wrappers: put around the environment, see `envs.wrappers`.

    Raises:
        Mistake: unknown id, or spaces that are not supported; the environment exists but cannot be
            created here.
    """
    keys = None if obs_keys is None else tuple(obs_keys)
    env = _create(env_id, env_kwargs, max_episode_steps, None, wrappers)
    try:
        box = _action_box(env_id, env.action_space)
        obs_dim = _obs_dim(env_id, env.observation_space, keys)
        limit = env.spec.max_episode_steps if env.spec else None
    finally:
        close(env_id, env)
    if obs_slice is not None and not 1 <= obs_slice <= obs_dim:
        raise Mistake(
            f"obs_slice={obs_slice} does not fit the {obs_dim} observations of {env_id}; use a "
            f"number from 1 to {obs_dim}, or null for all"
        )
    return Spec(
        env_id=env_id,
        obs_dim=obs_dim if obs_slice is None else obs_slice,
        action_dim=int(np.prod(box.shape)),
        action_low=tuple(box.low.astype(float).ravel().tolist()),
        action_high=tuple(box.high.astype(float).ravel().tolist()),
        max_episode_steps=limit if max_episode_steps is None else max_episode_steps,
        env_kwargs=dict(env_kwargs),
        physics=physics,
        obs_slice=obs_slice,
        obs_keys=keys,
        wrappers=wrappers,
    )


def require_spaces_match(spec: Spec, env: gymnasium.Env) -> None:
    """Refuse an environment (in its own units) whose spaces are not those of the data.

    Raises:
        Mistake: another number of observations or actions, or another action box.
    """
    name = spec.env_id or "the environment"
    box = _action_box(name, env.action_space)
    obs_dim = _obs_dim(name, env.observation_space, spec.obs_keys)
    if spec.obs_slice is not None:
        obs_dim = min(obs_dim, spec.obs_slice)
    obs_dim -= len(spec.hidden)
    action_dim = int(np.prod(box.shape))
    if (spec.obs_dim, spec.action_dim) != (obs_dim, action_dim):
        raise Mistake(
            f"the data has observations of size {spec.obs_dim} and actions of size "
            f"{spec.action_dim}, but {name} has {obs_dim} and {action_dim}; give the environment "
            "that the data was recorded in"
        )
    low, high = box.low.ravel(), box.high.ravel()
    if not (np.allclose(spec.action_low, low) and np.allclose(spec.action_high, high)):
        raise Mistake(
            f"the data's actions span {list(spec.action_low)} to {list(spec.action_high)}, but "
            f"{name} has {low.tolist()} to {high.tolist()}; correct the bounds or the environment"
        )


def _take_unit_actions(env: gymnasium.Env) -> gymnasium.Env:
    """Let an environment with a bounded action box take flat actions in [-1, 1]."""
    # Gymnasium's RescaleAction refuses what its ClipAction would mend, and the two in turn end in
    # an unbounded action space; one affine map after clipping is exact where the box is [-1, 1].
    box = _action_box("the environment", env.action_space)
    low, high = box.low.astype(np.float64), box.high.astype(np.float64)
    middle, half = (high + low) / 2, (high - low) / 2
    whole = np.issubdtype(box.dtype, np.integer)

    def to_box(action):
        unit = np.clip(np.asarray(action, np.float64), -1.0, 1.0).reshape(box.shape)
        inside = middle + half * unit
        # The conversion alone would cut: of a box of 0 to 1 the upper end would never be played.
        return (np.rint(inside) if whole else inside).astype(box.dtype)

    unit_box = spaces.Box(-1.0, 1.0, (int(np.prod(box.shape)),), np.float32)
    return TransformAction(env, to_box, unit_box)


def _action_box(env_id: str, space: spaces.Space) -> spaces.Box:
    if not isinstance(space, spaces.Box):
        raise Mistake(
            f"{env_id} has the action space {space}; only continuous actions (Box) are supported, "
            "so choose a task with continuous actions"
        )
    low, high = (bound.astype(float).ravel().tolist() for bound in (space.low, space.high))
    if not is_bounded(low, high):
        raise Mistake(
            f"{env_id} has the unbounded action space {space}; actions are mapped from [-1, 1], "
            "so register the environment with finite bounds, e.g. as gymnasium.wrappers."
            "TransformAction(env, lambda action: action, Box(-1, 1, shape))"
        )
    if not low or min(np.subtract(high, low)) <= 0:
        raise Mistake(
            f"{env_id} has the action space {space}, with nothing to choose in one of its entries; "
            "register the environment with those that have low < high alone, as gymnasium.wrappers."
            "TransformAction does"
        )
    return space


def _obs_dim(env_id: str, space: spaces.Space, keys: Sequence[str] | None) -> int:
    try:
        return flatten_space(space, keys)
    except Mistake as error:
        raise Mistake(f"{env_id}: {error}") from error


def _create(
    env_id: str,
    env_kwargs: Mapping[str, object],
    max_episode_steps: int | None,
    render_mode: str | None,
    wrappers: Wrappers,
) -> gymnasium.Env:
    known = _find(env_id)
    quieten()
    # Not every environment has the argument.
    options: dict[str, Any] = dict(env_kwargs)
    if render_mode is not None:
        options["render_mode"] = render_mode
    with warnings.catch_warnings():
        # D4RL's data belongs to the v4 tasks, whatever Gymnasium thinks of their age.
        warnings.filterwarnings("ignore", ".*is out of date.*", DeprecationWarning)
        try:
            env = gymnasium.make(
                known, max_episode_steps=max_episode_steps, disable_env_checker=True, **options
            )
        except (Exception, SystemExit) as error:  # of a user's constructor
            reason = " ".join(str(error).split())
            if not isinstance(error, gymnasium.error.Error):
                reason = f"{type(error).__name__}: {reason}"
            raise Mistake(
                f"environment {env_id} cannot be created with options {options}: {reason}; "
                "correct the options (dataset.env_kwargs) or the environment, install what is "
                "missing, or choose another version of the task"
            ) from error
    for name in ("observation_space", "action_space"):
        if not isinstance(getattr(env, name, None), spaces.Space):
            raise Mistake(
                f"environment {env_id} has no {name}; let its constructor set self.{name} to a "
                "gymnasium.spaces.Box"
            )
    return wrap(env_id, env, wrappers)


def _find(env_id: str) -> str | EnvSpec:
    """What Gymnasium can make of an exact id, after importing the module that registers it.

    `module:Class` is the class itself where the module registers no such id.
    """
    module, _, name = env_id.rpartition(":")
    if not module and name.startswith(_ROBOTICS) and name not in gymnasium.registry:
        found = extras.require("gymnasium_robotics", "robotics", f"environment {env_id}")
        gymnasium.register_envs(found)
    imported = import_module(env_id, module) if module else None
    if name in gymnasium.registry:
        return env_id
    if callable(getattr(imported, name, None)):
        return EnvSpec(name, entry_point=f"{module}:{name}")
    theirs = [known for known, spec in gymnasium.registry.items() if _made_by(spec) == module]
    close = near(name, theirs or gymnasium.registry)
    hint = (
        "give the exact id, with its version, e.g. Hopper-v5, and for one of your own the module "
        "that registers it, my_module:MyTask-v0"
    )
    if close:
        hint = f"did you mean {' or '.join(close)}?"
    elif theirs:
        hint = f"{module} registers {', '.join(sorted(theirs)[:10])}"
    raise Mistake(f"environment {env_id!r} is not registered with Gymnasium; {hint}")


def _made_by(spec: EnvSpec) -> str:
    """The module of an entry point."""
    maker = spec.entry_point
    return maker.partition(":")[0] if isinstance(maker, str) else getattr(maker, "__module__", "")
