"""Ordinary differential equations dy/dt = f(y): one step of fixed rules, and an adaptive solver.

A rule of fixed steps has fixed shapes, so it compiles and nothing waits for the device. The
adaptive solver is torchdiffeq's, which the extra `ode` installs.
"""

import re
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.envs.extras import require
from reverie.mistake import Mistake

Field = Callable[[Tensor], Tensor]
"""`y [*, D] -> dy/dt [*, D]`, row by row."""

# Dormand and Prince, 1980: where each stage looks, and the weights of the difference between the
# solutions of order 5 and 4. The last row is also the step of order 5.
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_EMBEDDED = (
    71 / 57600,
    0.0,
    -71 / 16695,
    71 / 1920,
    -17253 / 339200,
    22 / 525,
    -1 / 40,
)
_ORDER = 5
_TINY = 1e-12


def runge_kutta_step(
    field: Field, y: Float[Tensor, "*lead D"], h: Tensor | float, slope: Float[Tensor, "*lead D"]
) -> Float[Tensor, "*lead D"]:
    """How far the classical rule of order 4 moves y in the time h, given the slope at y.

    Args:
        h: a number, or one for each row, `[*, 1]`.
    """
    second = field(y + h / 2 * slope)
    third = field(y + h / 2 * second)
    fourth = field(y + h * third)
    return h / 6 * (slope + 2 * (second + third) + fourth)


def dormand_prince_step(
    field: Field, y: Float[Tensor, "*lead D"], h: Tensor | float, slope: Float[Tensor, "*lead D"]
) -> tuple[Float[Tensor, "*lead D"], Float[Tensor, "*lead D"]]:
    """y after the time h to order 5, and its distance from the solution of order 4."""
    slopes = [slope]
    after = y
    for weights in _STAGES:
        after = y + h * _weighted(weights, slopes)
        slopes.append(field(after))
    return after, h * _weighted(_EMBEDDED, slopes)


def _weighted(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    return sum((w * k for w, k in zip(weights, slopes, strict=True)), torch.zeros_like(slopes[0]))


def first_step(
    field: Field, y: Float[Tensor, "*lead B D"], slope: Float[Tensor, "*lead B D"], tolerance: float
) -> Float[Tensor, "*lead 1 1"]:
    """The step that a solver of order 5 begins with, which all B rows share.

    Source: Hairer, Norsett and Wanner, Solving ordinary differential equations I, section II.4.
    """
    scale = tolerance + tolerance * y.abs()
    size, speed = (_rms(each / scale) for each in (y, slope))
    guess = 0.01 * size / speed.clamp(min=_TINY)
    guess = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, guess)
    bend = _rms((field(y + guess * slope) - slope) / scale) / guess
    most = torch.maximum(speed, bend)
    better = (0.01 / most.clamp(min=_TINY)) ** (1 / _ORDER)
    better = torch.where(most <= 1e-15, (1e-3 * guess).clamp(min=1e-6), better)
    return torch.minimum(100 * guess, better)


def local_error(
    field: Field,
    y: Float[Tensor, "*lead B D"],
    tolerance: float,
    longest: float,
    *,
    first_stage: bool,
) -> Float[Tensor, "*lead"]:
    """R = h rms(e / (tol + tol max(|y|, |y'|))) of one step from y, e its embedded error.

    What an adaptive solver keeps small by steps that are short; small R lets it take long ones.
    The gradient reaches the field through the stages of the step, and not y.

    Args:
        tolerance: tol, absolute and relative.
        longest: bound of the step h, which is else the solver's own first one.
        first_stage: whether the gradient goes through the first stage too. Without it, as
            published, the stages' slopes no longer cancel as they do in e: a constant added to
            the field leaves R as it is and still has a gradient, so what is descended is not R.

    Source: locally regularised neural differential equations, arXiv:2303.02262, unbiased variant.
    Differs: Dormand and Prince's step in place of Tsitouras'.
    """
    slope = field(y)
    with torch.no_grad():
        h = first_step(field, y, slope, tolerance).clamp(max=longest)
    after, error = dormand_prince_step(field, y, h, slope if first_stage else slope.detach())
    scale = tolerance + tolerance * torch.maximum(y.abs(), after.abs())
    return (h * _rms(error / scale)).squeeze(-1).squeeze(-1)


def _rms(values: Float[Tensor, "*lead B D"]) -> Float[Tensor, "*lead 1 1"]:
    # The root has no slope at zero, where a field that stands still has its error.
    return values.square().mean((-2, -1), keepdim=True).clamp(min=_TINY).sqrt()


def solve(
    field: Field, y: Float[Tensor, "*lead D"], duration: float, tolerance: float
) -> tuple[Float[Tensor, "*lead D"], int]:
    """y after `duration` by Dormand and Prince's adaptive steps, and how often f was evaluated.

    All rows share their steps, which depend on the values: the host waits for the device.

    Raises:
        Mistake: torchdiffeq is not installed, or its steps became too short for the numbers.
    """
    torchdiffeq = require("torchdiffeq", "ode", "world_model.solver=dopri5")
    evaluations = 0

    def counted(_: Tensor, state: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return field(state)

    times = torch.tensor([0.0, duration], device=y.device)
    try:
        after = torchdiffeq.odeint(
            counted, y, times, rtol=tolerance, atol=tolerance, method="dopri5"
        )
    except AssertionError as error:  # its word for steps of length 0, and for values beyond all
        if not re.match("underflow in dt|non-finite values", str(error)):
            raise
        raise Mistake(
            f"world_model.solver=dopri5 found no step that is exact to world_model.tolerance="
            f"{tolerance:g} ({error.args[0][:60]}); raise the tolerance (1e-6 as shipped), lower "
            "world_model.learning_rate, or set world_model.solver=rk4"
        ) from error
    return after[-1], evaluations
