"""Tasks stepped exactly and in batch, from any recorded observation.

`simulator_for(spec, threads)` gives the simulator of a task: MuJoCo's own engine on the model that
the environment itself loads, or a function of tensors. A task of the second kind joins with one
function and one line in `TENSOR_DYNAMICS`.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch
from jaxtyping import Bool, Float
from mujoco import rollout
from torch import Tensor

from reverie.envs import cartpole_swingup, duffing, edge_of_reach, lorenz, refrigerator
from reverie.envs.make import make_raw_env, require_spaces_match
from reverie.envs.specs import Spec
from reverie.mistake import Mistake

TensorDynamics = Callable[..., tuple[Tensor, Tensor, Tensor]]
"""`(obs [*, D], action [*, A], **env_kwargs) -> (next_obs [*, D], reward [*], terminated [*])`.

Actions are in the environment's own units and inside its box; the result has the type and device
of `obs`. The keywords are the options of the environment's constructor that the function honours.
"""

# Rows that MuJoCo steps in one call; it returns every sub-step, so this bounds memory.
_BLOCK = 65_536


@dataclass(frozen=True)
class Outcome:
    """The outcome of a state and an action.

    Attributes:
        next_obs: `[*, D]` raw units.
        reward: `[*]` environment units.
        terminated: `[*]` bool.
        state: `[*, W]` float64 where the observation is not the whole state, else None.
    """

    next_obs: Float[Tensor, "*lead D"]
    reward: Float[Tensor, "*lead"]
    terminated: Bool[Tensor, "*lead"]
    state: Float[Tensor, "*lead W"] | None = None


class Simulator(ABC):
    """The dynamics, rewards and terminations of one task, without time limits."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    @abstractmethod
    def step(
        self,
        obs: Float[Tensor, "*lead D"],
        action: Float[Tensor, "*lead A"],
        state: Float[Tensor, "*lead W"] | None = None,
    ) -> Outcome:
        """Advance one control step.

        Args:
            obs: raw units; read only where `state` is not given.
            action: in [-1, 1], clipped there.
            state: from `initial_state` or the outcome before.
        """

    def initial_state(self, obs: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead W"] | None:
        """The state that an observation shows, None where the observation is the state."""
        return None

    def clipped(self, obs: Float[Tensor, "*lead D"]) -> Bool[Tensor, "*lead"]:
        """Observations that hide a part of their state, which `initial_state` then has wrong."""
        return torch.zeros(obs.shape[:-1], dtype=torch.bool, device=obs.device)

    def to_box(self, action: Float[Tensor, "*lead A"]) -> Float[Tensor, "*lead A"]:
        """Actions in the environment's units, float32 as `envs.make.make_env` hands them on."""
        # Written number by number, where a copy from the host would make a GPU wait.
        options: dict[str, Any] = {"dtype": torch.float64, "device": action.device}
        low, high = (
            torch.stack([torch.full((), bound, **options) for bound in side])
            for side in (self.spec.action_low, self.spec.action_high)
        )
        unit = action.double().clamp(-1.0, 1.0)
        return ((high + low) / 2 + (high - low) / 2 * unit).float()


def simulator_for(spec: Spec, threads: int) -> Simulator:
    """The simulator of a task in the configuration of its spec.

    Args:
        spec: as the data's; its `env_kwargs` and `physics` hold.
        threads: of MuJoCo.

    Raises:
        Mistake: no such simulator, an option that it does not know, or other spaces than the
            environment's.
    """
    if spec.chunk > 1:
        raise Mistake(
            f"the exact dynamics know single control steps and no dataset.chunks={spec.chunk}; use "
            "a learned world_model, or leave dataset.chunks at null"
        )
    if spec.has_history:
        raise Mistake("the exact dynamics step single observations; leave dataset.history at null")
    known = [*MUJOCO_TASKS, *TENSOR_DYNAMICS]
    if spec.env_id not in known:
        raise Mistake(
            f"the exact dynamics of env_id={spec.env_id} are not known; they are of "
            f"{', '.join(known)}; use one of these tasks (dataset.env_id=...) or a learned "
            "world_model, or add the task to envs/true_dynamics.py"
        )
    if threads < 1:
        raise Mistake(f"a simulator needs at least one thread, got threads={threads}")
    if spec.obs_slice is not None or spec.obs_keys is not None or spec.hidden:
        raise Mistake(
            f"obs_slice={spec.obs_slice}, obs_keys={spec.obs_keys} and dataset.hide="
            f"{list(spec.hidden) or None} change the observation of {spec.env_id}, from which its "
            "state is rebuilt; leave all at null"
        )
    if spec.wrappers:
        names = ", ".join(wrapper["name"] for wrapper in spec.wrappers)
        raise Mistake(
            f"the exact dynamics of {spec.env_id} know nothing of the wrappers of these data "
            f"({names}); use a learned world_model"
        )
    with closing(make_raw_env(spec)) as env:
        require_spaces_match(spec, env)
        if spec.env_id in TENSOR_DYNAMICS:
            return TensorSimulator(spec, TENSOR_DYNAMICS[spec.env_id])
        return MujocoSimulator(spec, env, threads)


class TensorSimulator(Simulator):
    """A task whose dynamics are a function of tensors and whose observation is its state."""

    def __init__(self, spec: Spec, function: TensorDynamics) -> None:
        super().__init__(spec)
        self.function, self.options = function, dict(spec.env_kwargs)
        try:
            inspect.signature(function).bind(None, None, **self.options)
        except TypeError as error:
            raise Mistake(
                f"the exact dynamics of {spec.env_id} do not honour "
                f"env_kwargs={self.options}: {error}; leave that option out"
            ) from error

    def step(self, obs: Tensor, action: Tensor, state: Tensor | None = None) -> Outcome:
        control = self.to_box(action).to(obs.dtype)
        return Outcome(*self.function(obs, control, **self.options))


class MujocoSimulator(Simulator):
    """A Gymnasium MuJoCo task whose full physics state is (time, positions, velocities).

    The observation leaves out the horizontal position, which neither dynamics nor reward depend
    on: it starts at 0. Hopper and Walker2d also clip velocities in it to +-10. A clipped velocity
    cannot be rebuilt, so the state is carried from step to step, and `clipped` tells of which
    start states it is wrong.

    A row that is not finite, or whose simulation breaks down (MuJoCo then resets it), has an
    outcome of NaN that is terminal.

    Args:
        spec: of the task.
        env: its environment; the simulator takes over its model, with what was changed in it.
        threads: that share the rows, each with simulation data of its own.
    """

    def __init__(self, spec: Spec, env: gymnasium.Env, threads: int) -> None:
        super().__init__(spec)
        assert spec.env_id is not None
        raw: Any = env.unwrapped
        self.task = MUJOCO_TASKS[spec.env_id]
        self.model, self.substeps, self.dt = raw.model, raw.frame_skip, raw.dt
        self.options = _options(env)
        self.positions = self.model.nq
        full = mujoco.mjtState.mjSTATE_FULLPHYSICS.value
        width = 1 + self.model.nq + self.model.nv
        if mujoco.mj_stateSize(self.model, full) != width:
            raise Mistake(
                f"the model of {spec.env_id} with env_kwargs={dict(spec.env_kwargs)} has a state "
                "beyond positions and velocities, which its observation does not show; use the "
                "task's own model file"
            )
        # The standard tasks leave out one position, the horizontal one, unless told otherwise.
        self.hidden = int(
            self.task.hides_x and self.options["exclude_current_positions_from_observation"]
        )
        if spec.obs_dim != width - 1 - self.hidden:
            raise Mistake(
                f"{spec.env_id} with env_kwargs={dict(spec.env_kwargs)} has observations of size "
                f"{spec.obs_dim}, expected {width - 1 - self.hidden} (positions and velocities "
                "alone); use the task's own model file"
            )
        self._rest = np.concatenate([[self.dt], raw.init_qpos, raw.init_qvel])
        self._data = [mujoco.MjData(self.model) for _ in range(threads)]
        self._pool = rollout.Rollout(nthread=threads if threads > 1 else 0)

    def initial_state(self, obs: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead W"]:
        # Time never counts, but MuJoCo puts it back to 0 where a simulation breaks down, and that
        # is how such a row is found. So it starts one step later.
        time = torch.full_like(obs[..., :1], self.dt, dtype=torch.float64)
        x = torch.zeros_like(obs[..., : self.hidden], dtype=torch.float64)
        return torch.cat([time, x, obs.double()], -1)

    def clipped(self, obs: Float[Tensor, "*lead D"]) -> Bool[Tensor, "*lead"]:
        velocity = obs[..., self.positions - self.hidden :]
        return (velocity.abs() >= self.task.velocity_limit).any(-1)

    @torch.compiler.disable(reason="MuJoCo simulates on the CPU, outside of torch")
    def step(self, obs: Tensor, action: Tensor, state: Tensor | None = None) -> Outcome:
        if state is None:
            state = self.initial_state(obs)
        before = state.detach().reshape(-1, state.shape[-1]).cpu().numpy()
        control = self.to_box(action.detach()).reshape(-1, action.shape[-1]).cpu().numpy()
        after = self._advance(before, control)
        reward, terminated = self.task.judge(self, before, after, control)
        broken = np.isnan(after[:, 0])
        reward = np.where(broken, np.nan, reward)
        terminated = terminated | broken

        lead = obs.shape[:-1]
        return Outcome(
            next_obs=torch.from_numpy(self._observe(after)).to(obs).reshape(obs.shape),
            reward=torch.from_numpy(reward).to(obs).reshape(lead),
            terminated=torch.from_numpy(terminated).to(obs.device).reshape(lead),
            state=torch.from_numpy(after).to(obs.device).reshape(*lead, -1),
        )

    def qpos(self, state: np.ndarray) -> np.ndarray:
        """Positions `[B, nq]` in states `[B, W]`."""
        return state[:, 1 : 1 + self.positions]

    def qvel(self, state: np.ndarray) -> np.ndarray:
        """Velocities `[B, nv]` in states `[B, W]`, not clipped."""
        return state[:, 1 + self.positions :]

    def _advance(self, before: np.ndarray, control: np.ndarray) -> np.ndarray:
        """States one control step later, NaN where the simulation broke down."""
        sound = np.isfinite(before).all(1) & np.isfinite(control).all(1)
        start = np.where(sound[:, None], before, self._rest)
        control = np.where(sound[:, None], control, 0.0)
        after = np.empty_like(start)
        for first in range(0, len(start), _BLOCK):
            block = slice(first, first + _BLOCK)
            held = np.repeat(control[block, None], self.substeps, 1)
            path, _ = self._pool.rollout(
                self.model, self._data, start[block], held, nstep=self.substeps
            )
            after[block] = path[:, -1]
        late = np.abs(after[:, 0] - start[:, 0] - self.dt) > self.dt / self.substeps / 2
        after[~sound | late] = np.nan
        return after

    def _observe(self, state: np.ndarray) -> np.ndarray:
        limit = self.task.velocity_limit
        velocity = np.clip(self.qvel(state), -limit, limit)
        return np.concatenate([self.qpos(state)[:, self.hidden :], velocity], 1)


Judge = Callable[[MujocoSimulator, np.ndarray, np.ndarray, np.ndarray], tuple[Any, Any]]
"""`(simulator, state before, state after, control) -> (reward [B], terminated [B])`."""


@dataclass(frozen=True)
class MujocoTask:
    """Properties of a MuJoCo task beyond its model.

    Attributes:
        judge: its reward and termination.
        hides_x: whether the observation can leave out the horizontal position.
        velocity_limit: where the observation clips velocities.
    """

    judge: Judge
    hides_x: bool = True
    velocity_limit: float = math.inf


def _progress(
    simulator: MujocoSimulator, before: np.ndarray, after: np.ndarray, control: np.ndarray
) -> np.ndarray:
    """Weighted forward speed less the cost of control."""
    speed = (after[:, 1] - before[:, 1]) / simulator.dt
    cost = simulator.options["ctrl_cost_weight"] * np.square(control).sum(1)
    return simulator.options["forward_reward_weight"] * speed - cost


def _half_cheetah(
    simulator: MujocoSimulator, before: np.ndarray, after: np.ndarray, control: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return _progress(simulator, before, after, control), np.zeros(len(after), bool)


def _walking(*, bounded_state: bool, paid_when_falling: bool) -> Judge:
    """Hopper and Walker2d: progress and a bonus for being healthy.

    Args:
        bounded_state: whether angles and velocities beyond `healthy_state_range` are unhealthy.
        paid_when_falling: version 4 pays the bonus on the terminating step too, version 5 does
            not (Gymnasium's version history of the tasks).
    """

    def judge(
        simulator: MujocoSimulator, before: np.ndarray, after: np.ndarray, control: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        options, qpos = simulator.options, simulator.qpos(after)
        healthy = _inside(qpos[:, 1], options["healthy_z_range"])
        healthy &= _inside(qpos[:, 2], options["healthy_angle_range"])
        if bounded_state:
            healthy &= _inside(after[:, 3:], options["healthy_state_range"]).all(1)
        ends = bool(options["terminate_when_unhealthy"])
        paid = healthy | (paid_when_falling and ends)
        reward = _progress(simulator, before, after, control)
        return reward + options["healthy_reward"] * paid, ~healthy & ends

    return judge


def _balancing(*, paid_when_falling: bool) -> Judge:
    """InvertedPendulum: 1 a step until it falls; version 4 pays the last step too."""

    def judge(
        simulator: MujocoSimulator, before: np.ndarray, after: np.ndarray, control: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        fallen = ~(np.abs(simulator.qpos(after)[:, 1]) <= _FALLEN_ANGLE)
        return np.where(fallen & (not paid_when_falling), 0.0, 1.0), fallen

    return judge


_FALLEN_ANGLE = 0.2  # rad, of InvertedPendulum
_CLIP = 10.0  # of velocities in the observations of Hopper and Walker2d

MUJOCO_TASKS: Mapping[str, MujocoTask] = {
    "HalfCheetah-v4": MujocoTask(_half_cheetah),
    "HalfCheetah-v5": MujocoTask(_half_cheetah),
    "Hopper-v4": MujocoTask(
        _walking(bounded_state=True, paid_when_falling=True), velocity_limit=_CLIP
    ),
    "Hopper-v5": MujocoTask(
        _walking(bounded_state=True, paid_when_falling=False), velocity_limit=_CLIP
    ),
    "Walker2d-v4": MujocoTask(
        _walking(bounded_state=False, paid_when_falling=True), velocity_limit=_CLIP
    ),
    "Walker2d-v5": MujocoTask(
        _walking(bounded_state=False, paid_when_falling=False), velocity_limit=_CLIP
    ),
    "InvertedPendulum-v4": MujocoTask(_balancing(paid_when_falling=True), hides_x=False),
    "InvertedPendulum-v5": MujocoTask(_balancing(paid_when_falling=False), hides_x=False),
}


def _inside(values: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    return (bounds[0] < values) & (values < bounds[1])


def _options(env: gymnasium.Env) -> dict[str, Any]:
    """Every option of an environment's constructor with the value that it was made with."""
    parameters = inspect.signature(type(env.unwrapped).__init__).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    return defaults | (env.spec.kwargs if env.spec else {})


# Pendulum-v1: a rod of mass and length 1; radians, N m and seconds.
_PENDULUM_STEP, _PENDULUM_MAX_SPEED = 0.05, 8.0


def pendulum(
    obs: Float[Tensor, "*lead 3"], action: Float[Tensor, "*lead 1"], g: float = 10.0
) -> tuple[Float[Tensor, "*lead 3"], Float[Tensor, "*lead"], Bool[Tensor, "*lead"]]:
    """Pendulum-v1: semi-implicit Euler, reward of the state that is left, no termination."""
    angle = torch.atan2(obs[..., 1], obs[..., 0])  # in [-pi, pi], 0 upright
    speed, torque = obs[..., 2], action[..., 0]
    reward = -(angle.square() + 0.1 * speed.square() + 0.001 * torque.square())
    acceleration = 1.5 * g * torch.sin(angle) + 3.0 * torque
    speed = speed + acceleration * _PENDULUM_STEP
    speed = speed.clamp(-_PENDULUM_MAX_SPEED, _PENDULUM_MAX_SPEED)
    angle = angle + speed * _PENDULUM_STEP
    next_obs = torch.stack([torch.cos(angle), torch.sin(angle), speed], -1)
    return next_obs, reward, torch.zeros_like(reward, dtype=torch.bool)


TENSOR_DYNAMICS: dict[str, TensorDynamics] = {
    "Pendulum-v1": pendulum,
    edge_of_reach.ENV_ID: edge_of_reach.dynamics,
    refrigerator.ENV_ID: refrigerator.dynamics,
    cartpole_swingup.ENV_ID: cartpole_swingup.dynamics,
    duffing.ENV_ID: duffing.dynamics,
    lorenz.ENV_ID: lorenz.dynamics,
}
"""Tasks whose dynamics are a function of tensors, by exact environment id. Of a task with noise it
is the expected step."""
