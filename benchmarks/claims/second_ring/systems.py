"""Twelve chaotic flows of the catalogue dysts (arXiv:2110.05266), in three dimensions.

Those of its autonomous systems that this project judges models by: attractors of one scroll and of
two, ten polynomial flows, one with sines and one with kinks. Parameters, periods and a point on
each attractor are those of the table of dysts 0.96; written out here, because the package asks for
older versions of others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from reverie.benchmarks.claims.second_ring.chaos import System

POINTS = 30
"""Recorded steps in a period of a system."""
_SUBSTEPS, _SPREAD, _SETTLE = 10, 1e-3, 20.0
"""Runge-Kutta steps in each of them; how far starts scatter; Lyapunov times before a record."""


@dataclass(frozen=True)
class Entry:
    """A system and what is known of it.

    Attributes:
        system: sampled `POINTS` times a period, without actions.
        exponent: the largest Lyapunov exponent, per unit of time, by `chaos.lyapunov_exponent`.
        theirs: the same as dysts records it (`maximum_lyapunov_estimated`).
    """

    system: System
    exponent: float
    theirs: float

    @property
    def lyapunov_time(self) -> float:
        """In recorded steps."""
        return 1 / (self.exponent * self.system.dt)


def _lorenz(x: Any, y: Any, z: Any) -> tuple[Any, ...]:
    return 10 * (y - x), x * (28 - z) - y, x * y - 2.667 * z


def _rossler(x: Any, y: Any, z: Any) -> tuple[Any, ...]:
    return -y - z, x + 0.2 * y, 0.2 + z * (x - 5.7)


def _thomas(x: Any, y: Any, z: Any) -> tuple[Any, ...]:
    return tuple(10 * np.sin(b) - 1.85 * a for a, b in ((x, y), (y, z), (z, x)))


def _halvorsen(x: Any, y: Any, z: Any) -> tuple[Any, ...]:
    turns = ((x, y, z), (y, z, x), (z, x, y))
    return tuple(-1.4 * a - 4 * (b + c) - b**2 for a, b, c in turns)


def _chua(x: Any, y: Any, z: Any) -> tuple[Any, ...]:
    """The diode has slope -1.142857 within [-1, 1] and -0.71429 outside."""
    diode = -0.71429 * x + (-1.142857 + 0.71429) * np.clip(x, -1, 1)
    return 15.6 * (y - x - diode), x - y + z, -28 * y


def _sprott_b(x: Any, y: Any, z: Any) -> tuple[Any, ...]:
    return y * z, x - y, 1 - x * y


def _sprott_d(x: Any, y: Any, z: Any) -> tuple[Any, ...]:
    return -y, x + z, x * z + 3 * y**2


def _sprott_e(x: Any, y: Any, z: Any) -> tuple[Any, ...]:
    return y * z, x**2 - y, 1 - 4 * x


def _rucklidge(x: Any, y: Any, z: Any) -> tuple[Any, ...]:
    return y * (6.7 - z) - 2 * x, x, y**2 - z


def _genesio_tesi(x: Any, y: Any, z: Any) -> tuple[Any, ...]:
    return y, z, x**2 - x - 1.1 * y - 0.44 * z


def _chen(x: Any, y: Any, z: Any) -> tuple[Any, ...]:
    return 35 * (y - x), 28 * y - x * (7 + z), x * y - 3 * z


def _dadras(x: Any, y: Any, z: Any) -> tuple[Any, ...]:
    return y - 3 * x + 2.7 * y * z, 1.7 * y - x * z + z, 2 * x * y - 9 * z


def _flow(
    slopes: Callable[[Any, Any, Any], tuple[Any, ...]], states: np.ndarray, _: np.ndarray
) -> np.ndarray:
    return np.stack(slopes(*states.T), -1)


def _entry(
    slopes: Callable[[Any, Any, Any], tuple[Any, ...]],
    period: float,
    start: tuple[float, float, float],
    exponent: float,
    theirs: float,
) -> Entry:
    dt = period / POINTS
    system = System(
        partial(_flow, slopes),
        dt,
        start,
        substeps=_SUBSTEPS,
        spread=_SPREAD,
        settle=round(_SETTLE / (exponent * dt)),
    )
    return Entry(system, exponent, theirs)


SYSTEMS = {
    "Lorenz": _entry(_lorenz, 1.5008, (-9.7869, -15.0385, 20.5340), 0.904, 0.8917),
    "Rossler": _entry(_rossler, 5.9086, (6.5134, 0.4772, 0.3416), 0.0709, 0.1506),
    "Thomas": _entry(_thomas, 4.969, (2.1994, 2.3634, 3.2202), 0.497, 0.6324),
    "Halvorsen": _entry(_halvorsen, 1.4889, (-8.6807, -2.4741, 0.0708), 0.693, 0.6964),
    "Chua": _entry(_chua, 1.4235, (1.1262, -0.1139, -0.7832), 0.439, 1.2301),
    "SprottB": _entry(_sprott_b, 11.0501, (1.6878, 1.4848, -0.5371), 0.209, 0.2067),
    "SprottD": _entry(_sprott_d, 4.8333, (-1.3397, -0.2124, 0.3298), 0.102, 0.1017),
    "SprottE": _entry(_sprott_e, 7.6275, (0.6174, 0.6660, -1.6575), 0.0786, 0.0902),
    "Rucklidge": _entry(_rucklidge, 6.0721, (1.9257, 3.1924, 5.7830), 0.192, 0.1936),
    "GenesioTesi": _entry(_genesio_tesi, 5.9431, (-0.0538, -0.2616, 0.3350), 0.103, 0.1051),
    "Chen": _entry(_chen, 0.58689, (3.2690, 5.2990, 19.4353), 2.04, 2.0060),
    "Dadras": _entry(_dadras, 3.2886, (1.0284, -3.5349, -0.7208), 0.371, 0.4059),
}
