"""A task with other physics: the imperfect simulator of H2O (arXiv:2206.13464, section 5)."""

import math
from dataclasses import dataclass, fields
from typing import Annotated

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.classic_control import PendulumEnv

from reverie.envs.cartpole_swingup import CartPoleSwingUp
from reverie.envs.duffing import Duffing
from reverie.envs.edge_of_reach import EdgeOfReach
from reverie.envs.lorenz import Lorenz
from reverie.envs.make import make_raw_env, with_flat_spaces
from reverie.envs.predator_prey import PredatorPrey
from reverie.envs.refrigerator import Refrigerator
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.ranges import Range

Factor = Annotated[int | float, Range(above=0)]

# Tasks without a MuJoCo model: which of their constants a factor multiplies.
_CONSTANTS: dict[type[gymnasium.Env], dict[str, tuple[str, ...]]] = {
    PendulumEnv: {"gravity": ("g",), "density": ("m",), "length": ("l",)},
    CartPoleSwingUp: {
        "gravity": ("gravity",),
        "density": ("cart_mass", "pole_mass"),
        "joint_range": ("rail",),
        "length": ("half_pole",),
    },
    # Neither bodies nor joints, but actions that noise can join.
    EdgeOfReach: {},
    Refrigerator: {},
    PredatorPrey: {},
    Duffing: {},
    Lorenz: {},
}


@dataclass(frozen=True)
class Perturbation:
    """Changes of a task's physics; the default values change nothing.

    Attributes:
        gravity: factor on every component of the acceleration of gravity.
        friction: factor on all friction coefficients of all geoms, and of explicit contact pairs.
        joint_noise: std of Gaussian noise on the action inside the simulation step, in units of
            the environment's own action box; never clipped here. Whoever steps the environment
            sees the commanded action.
        noise_in_reward: whether a control cost sees the noisy action, as in the published code,
            or the commanded one.
        density: factor on the mass and inertia of every body (armature stays).
        stiffness: factor on the springs of joints.
        joint_range: factor on both limits of every limited joint, in the joint's own coordinate;
            of the cart-pole, on the rail.
        length: factor on the length of the pendulum's rod or the cart's pole; MuJoCo tasks have no
            such number.

    Raises:
        Mistake: a factor that is not positive and finite, or a negative noise.

    Differs from the published code: nothing is written to a model file, so parallel runs do not
    meet; friction reaches every geom, also where its XML line names none (Hopper's floor); density
    acts where a model pins its total mass (HalfCheetah), as the factor is applied after that.
    """

    gravity: Factor = 1.0
    friction: Factor = 1.0
    joint_noise: Annotated[int | float, Range(0)] = 0.0
    noise_in_reward: bool = True
    density: Factor = 1.0
    stiffness: Factor = 1.0
    joint_range: Factor = 1.0
    length: Factor = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.noise_in_reward, bool):
            raise Mistake(
                f"simulator.noise_in_reward={self.noise_in_reward!r} must be true or false"
            )
        for name, value in self.numbers().items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise Mistake(f"simulator.{name}={value!r} must be a number")
            if name == "joint_noise":
                if not 0 <= value < math.inf:
                    raise Mistake(
                        f"simulator.joint_noise={value} must be a standard deviation: finite and "
                        "not negative; 0 is none"
                    )
            elif not 0 < value < math.inf:
                raise Mistake(
                    f"simulator.{name}={value} must be a factor: finite and above 0; 1 changes "
                    "nothing"
                )

    def numbers(self) -> dict[str, float]:
        """The factors and the noise, by name."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name != "noise_in_reward"
        }

    def factors(self) -> dict[str, float]:
        """The factors that are not 1."""
        return {
            name: value
            for name, value in self.numbers().items()
            if name != "joint_noise" and value != 1
        }


def make_perturbed(spec: Spec, perturbation: Perturbation) -> gymnasium.Env:
    """The environment of a task as agents meet it (`make_env`), with other physics.

    Raises:
        Mistake: the task does not have what is perturbed, or no such environment; the environment
            cannot be created here.
    """
    env = make_raw_env(spec)
    try:
        perturbed = perturb(env, perturbation)
    except Mistake:
        env.close()
        raise
    unchanged = not perturbation.factors() and perturbation.joint_noise == 0
    return with_flat_spaces(spec, perturbed, faithful=unchanged)


def perturb(env: gymnasium.Env, perturbation: Perturbation) -> gymnasium.Env:
    """Change the physics of this instance and return it, wrapped where its actions get noise.

    Args:
        env: in its own units, before its first reset.
        perturbation: what to change.

    Raises:
        Mistake: something is to change in a task that is not known, or the task lacks what is
            perturbed.
    """
    task, name = env.unwrapped, _name(env)
    if not perturbation.factors() and perturbation.joint_noise == 0:
        return env
    if isinstance(getattr(task, "model", None), mujoco.MjModel):
        change = _MujocoChange(name, task.model, task.data)  # type: ignore[attr-defined]
        for quantity, factor in perturbation.factors().items():
            change.apply(quantity, factor)
    elif type(task) in _CONSTANTS:
        named = _CONSTANTS[type(task)]
        held = task.constants if isinstance(task, CartPoleSwingUp) else vars(task)
        for quantity, factor in perturbation.factors().items():
            if quantity not in named:
                raise _missing(name, quantity)
            for constant in named[quantity]:
                held[constant] *= factor
    else:
        raise Mistake(
            f"{name} cannot be perturbed: only tasks with a MuJoCo model of their own, Pendulum "
            "and Reverie's own tasks are known; choose another dataset, or simulator=world_model"
        )
    if perturbation.joint_noise == 0:
        return env
    if perturbation.noise_in_reward:
        return _NoisyAction(env, perturbation.joint_noise)
    _add_noise_below_reward(env, perturbation.joint_noise)
    return env


class _MujocoChange:
    """One factor after the other on a model in memory."""

    def __init__(self, name: str, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self.name, self.model, self.data = name, model, data

    def apply(self, quantity: str, factor: float) -> None:
        if quantity == "length" or not self._has(quantity):
            raise _missing(self.name, quantity)
        model = self.model
        if quantity == "gravity":
            model.opt.gravity[:] *= factor
        elif quantity == "friction":
            model.geom_friction[:] *= factor
            model.pair_friction[:] *= factor
        elif quantity == "density":
            model.body_mass[:] *= factor
            model.body_inertia[:] *= factor
            # Sub-tree masses and the inverse inertias that contacts and limits are scaled by.
            mujoco.mj_setConst(model, self.data)
        elif quantity == "stiffness":
            model.jnt_stiffness[:] *= factor
        else:
            limited = model.jnt_limited.astype(bool)
            model.jnt_range[limited] *= factor

    def _has(self, quantity: str) -> bool:
        model = self.model
        disabled = int(model.opt.disableflags)
        present = {
            "gravity": model.opt.gravity.any()
            and not disabled & mujoco.mjtDisableBit.mjDSBL_GRAVITY,
            "friction": ((model.geom_contype | model.geom_conaffinity).any() or model.npair > 0)
            and not disabled & mujoco.mjtDisableBit.mjDSBL_CONTACT,
            "density": model.body_mass.any(),
            "stiffness": model.jnt_stiffness.any(),
            "joint_range": model.jnt_limited.any(),
        }
        return bool(present[quantity])


class _NoisyAction(gymnasium.ActionWrapper):
    """Adds noise to the action on its way into the environment, whose reward sees it too."""

    def __init__(self, env: gymnasium.Env, std: float) -> None:
        super().__init__(env)
        self._std = std

    def action(self, action):
        return _with_noise(self.unwrapped, action, self._std)


def _add_noise_below_reward(env: gymnasium.Env, std: float) -> None:
    """Let this instance's motors hear noise that its reward does not."""
    task = env.unwrapped
    simulate = getattr(task, "do_simulation", None)
    if simulate is None:
        raise Mistake(
            f"simulator.noise_in_reward=false needs a MuJoCo task, for {_name(env)} computes its "
            "reward and its motion in one place; use true"
        )

    def simulate_with_noise(ctrl, n_frames):
        simulate(_with_noise(task, ctrl, std), n_frames)

    task.do_simulation = simulate_with_noise  # type: ignore[attr-defined]


def _with_noise(task: gymnasium.Env, action, std: float):
    # The task's own generator, so that copies differ and a saved state holds it.
    return action + std * task.np_random.standard_normal(np.shape(action))


def _name(env: gymnasium.Env) -> str:
    return env.spec.id if env.spec else type(env.unwrapped).__name__


def _missing(name: str, quantity: str) -> Mistake:
    return Mistake(
        f"{name} has no {quantity.replace('_', ' ')} that simulator.{quantity} could change; leave "
        "it at 1"
    )
