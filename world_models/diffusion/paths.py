"""Paths from Gaussian noise to data, x_t = a n + b y: one-sided stochastic interpolants.

arXiv:2303.08797. At the level sigma = a / b all of them are the same noisy sample y + sigma n, so
one denoiser is valid for every path. A path determines the levels of a fit, their weights, and the
steps of a sampler.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from reverie.mistake import Mistake


class Path(ABC):
    """t runs from 0, the noise, to 1, the data."""

    @abstractmethod
    def at(self, t: float) -> tuple[float, float, float, float]:
        """a, b, da/dt, db/dt; 0 < t < 1."""

    @abstractmethod
    def time(self, sigma: float) -> float:
        """t of a level of noise."""

    @abstractmethod
    def sigma(self, t: Tensor, rest: Tensor) -> Tensor:
        """a / b, given t and 1 - t, each exact where it is small."""

    @abstractmethod
    def weight(self, sigma: Tensor) -> Tensor:
        """w(sigma) of the squared error of D that stands for the squared error of the fit."""

    def level(self, t: float) -> float:
        """a / b."""
        a, b, _, _ = self.at(t)
        return a / b


class Linear(Path):
    """x_t = (1 - t) n + t y, fitted by its velocity y - n: flow matching, arXiv:2210.02747."""

    def at(self, t: float) -> tuple[float, float, float, float]:
        return 1 - t, t, -1.0, 1.0

    def time(self, sigma: float) -> float:
        return 1 / (1 + sigma)

    def sigma(self, t: Tensor, rest: Tensor) -> Tensor:
        return rest / t

    def weight(self, sigma: Tensor) -> Tensor:
        return ((1 + sigma) / sigma).square()


class Trigonometric(Path):
    """x_t = cos(pi t / 2) n + sin(pi t / 2) y, of constant variance; fitted by its velocity."""

    RATE = math.pi / 2

    def at(self, t: float) -> tuple[float, float, float, float]:
        cos, sin = math.cos(self.RATE * t), math.sin(self.RATE * t)
        return cos, sin, -self.RATE * sin, self.RATE * cos

    def time(self, sigma: float) -> float:
        return math.atan2(1.0, sigma) / self.RATE

    def sigma(self, t: Tensor, rest: Tensor) -> Tensor:
        return torch.where(t < 0.5, 1 / (self.RATE * t).tan(), (self.RATE * rest).tan())

    def weight(self, sigma: Tensor) -> Tensor:
        return self.RATE**2 * (1 + sigma.square()) / sigma.square()


class Bridge(Path):
    """x_t = sqrt(1 - t) n + t y: the straight line with a latent of variance t (1 - t).

    (1 - t) base + t y + sqrt(t (1 - t)) latent, with a Gaussian base, is this path, for the two
    noises add up. Fitted by its noise, because the velocity has no finite variance at t = 1.
    """

    def at(self, t: float) -> tuple[float, float, float, float]:
        a = math.sqrt(1 - t)
        return a, t, -0.5 / a, 1.0

    def time(self, sigma: float) -> float:
        return 2 / (1 + math.sqrt(1 + 4 * sigma**2))

    def sigma(self, t: Tensor, rest: Tensor) -> Tensor:
        return rest.sqrt() / t

    def weight(self, sigma: Tensor) -> Tensor:
        return 1 / sigma.square()


PATHS: dict[str, Path] = {"linear": Linear(), "trigonometric": Trigonometric(), "bridge": Bridge()}


def path_named(name: str, key: str) -> Path:
    """Look up a path by its configuration name, which stood under `key`."""
    if name not in PATHS:
        raise Mistake(f"{key}={name!r} is unknown; use one of {sorted(PATHS)}")
    return PATHS[name]
