"""Scripted controllers of builtin tasks, which record datasets and define the score of 100."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

# Pendulum-v1: mass and length 1, gravity 10, so that the angular acceleration is
# 15 sin(angle) + 3 torque, and 15 is the energy of resting upright.
_UPRIGHT_ENERGY = 15.0
# The gains with the best mean return of a grid search over 500 starts.
_ENERGY_GAIN = 1.0
_ANGLE_GAIN, _VELOCITY_GAIN = 12.0, 3.0
_CATCH_ANGLE = 0.5
_MAX_TORQUE = 2.0


def swing_up_pendulum(obs: Sequence[float], strength: float) -> float:
    """Torque that pumps a pendulum to its upright energy and holds it near the top.

    Args:
        obs: `[cos angle, sin angle, angular velocity]` of Pendulum-v1, angle 0 upright, rad/s.
        strength: share of the motor's 2 N m that is used, in (0, 1]; 1 is the expert.
    """
    cosine, sine, velocity = obs
    angle = math.atan2(sine, cosine)
    if abs(angle) < _CATCH_ANGLE:
        torque = -_ANGLE_GAIN * angle - _VELOCITY_GAIN * velocity
    else:
        energy = 0.5 * velocity**2 + _UPRIGHT_ENERGY * cosine
        # At rest either direction pumps; a sign of zero would hang still for ever.
        torque = _ENERGY_GAIN * (_UPRIGHT_ENERGY - energy) * math.copysign(1.0, velocity)
    limit = strength * _MAX_TORQUE
    return min(max(torque, -limit), limit)


def walk_straight(obs: Float[Tensor, "*lead D"], goal: Sequence[float]) -> Float[Tensor, "*lead D"]:
    """The step, each part in [-1, 1], that brings a point that moves by its action to `goal`."""
    return (obs.new_tensor(goal) - obs).clamp(-1.0, 1.0)
