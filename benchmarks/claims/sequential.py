"""Two methods on common seeds: an exact interval of their difference, and when seeds are enough.

A benchmark looks at its differences after planned numbers of seeds and stops where the interval of
a look leaves zero out. The errors of all looks add up to the stated one: alpha spending by planned
looks (Lan and DeMets, Biometrika 70, 1983; linear in the share of seeds, as Kim and DeMets,
Biometrika 74, 1987, with their power 1). Each interval is exact for any number of seeds and asks
of the differences no more than that they are independent and symmetric about what they differ by:
typical values by subsets (Hartigan, JASA 64, 1969), the inverse of Fisher's test by random signs.
Sequential sign and permutation tests for seeds of agents: AdaStop, arXiv:2306.10882.

Differs from AdaStop: pairs of common seeds in the place of unpaired permutations, an interval
beside each decision, and errors of looks and of comparisons that add up (Bonferroni) in the place
of their joint distribution, which decides a little later and is simpler to believe.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from reverie.mistake import Mistake

MOST = 20
"""Seeds at most: all 2^n subsets of them are looked at, 170 MB of numbers."""


def flip_test(differences: Sequence[float]) -> float:
    """Two-sided p-value of Fisher's test by random signs: how often |sum| would be as large.

    Args:
        differences: `n` numbers, one method less the other, seed by seed.

    Raises:
        Mistake: none, or more than `MOST`.
    """
    own = _checked(differences)
    # All signs turned at once are the same |sum|, so the first sign may stay.
    signs = 1.0 - 2.0 * _subsets(len(own))[::2]
    sums = np.abs(signs @ own)
    return float((sums >= sums[0] * (1 - 1e-12)).mean())  # the sums differ in their last digits


def subset_interval(differences: Sequence[float], error: float) -> tuple[float, float]:
    """An interval that misses the centre of the differences with at most this probability.

    The 2^n - 1 means of subsets cut the line into 2^n pieces, each of which holds the centre with
    the same probability; `floor(error * 2^n / 2)` of them are left out at either end.

    Args:
        differences: as for `flip_test`.
        error: in [0, 1).

    Returns:
        Its ends; infinite where so few seeds cannot keep the error, fewer than six at 5 %.

    Raises:
        Mistake: see `flip_test`.
    """
    own = _checked(differences)
    out = _left_out(len(own), error)
    if not out:
        return -math.inf, math.inf
    chosen = _subsets(len(own))[1:]
    means = np.sort(chosen @ own / chosen.sum(1))
    return float(means[out - 1]), float(means[-out])


def attained(seeds: int, error: float) -> float:
    """The error that `subset_interval` really has, at most the one it is asked for."""
    return 2 * _left_out(seeds, error) / 2.0**seeds


@dataclass(frozen=True)
class Plan:
    """When to look, and how often to be wrong.

    Attributes:
        looks: numbers of seeds, increasing.
        error: probability that any of the decisions of a family is wrong, whatever is true.
        comparisons: of the family, which share the error equally.

    Raises:
        Mistake: looks that do not increase, or more seeds than `MOST`; an error outside (0, 1).
    """

    looks: tuple[int, ...]
    error: float
    comparisons: int = 1

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip((0, *self.looks), self.looks, strict=False))
        if not (self.looks and rising and self.looks[-1] <= MOST):
            raise Mistake(f"looks={self.looks} must be seeds that increase, at most {MOST}")
        if not 0 < self.error < 1 or self.comparisons < 1:
            raise Mistake(
                f"error={self.error} must lie in (0, 1), comparisons={self.comparisons} be positive"
            )

    def errors(self) -> list[float]:
        """Of each look: what it may spend, and what those before could not, being too few seeds."""
        found, spent = [], 0.0
        for seeds in self.looks:
            allowed = self.error / self.comparisons * seeds / self.looks[-1]
            found.append(allowed - spent)
            spent += attained(seeds, allowed - spent)
        return found

    def decide(self, differences: Sequence[float]) -> "Decision":
        """What the differences say at the first look that decides, or at the last one reached.

        Args:
            differences: one a seed, in the order of their training; those beyond the deciding look
                do not count.
        """
        own = [float(each) for each in differences]
        found = Decision(0, math.nan, -math.inf, math.inf, flips=math.nan, final=False)
        for seeds, error in zip(self.looks, self.errors(), strict=True):
            if seeds > len(own):
                break
            seen = own[:seeds]
            low, high = subset_interval(seen, error)
            last = seeds == self.looks[-1]
            decided = not low <= 0 <= high
            found = Decision(
                *(seeds, float(np.mean(seen)), low, high),
                flips=flip_test(seen),
                final=decided or last,
            )
            if decided:
                break
        return found


@dataclass(frozen=True)
class Decision:
    """A comparison as far as it has come.

    Attributes:
        seeds: it rests on; 0 before the first look.
        mean: of the differences.
        low, high: the interval of this look, which shares the plan's error.
        flips: p-value of `flip_test` for these seeds alone, which knows of no other looks.
        final: whether more seeds would not be looked at.
    """

    seeds: int
    mean: float
    low: float
    high: float
    flips: float
    final: bool

    @property
    def better(self) -> bool | None:
        """Whether the first method is better, or worse; None for undecided."""
        return True if self.low > 0 else False if self.high < 0 else None

    def __str__(self) -> str:
        word = {True: "better", False: "worse", None: "undecided"}[self.better]
        if not self.seeds:
            return "too few seeds"
        return (
            f"{word}: {self.mean:.3g} [{self.low:.3g}, {self.high:.3g}], {self.seeds} seeds, "
            f"p {self.flips:.2g}"
        )


def _left_out(seeds: int, error: float) -> int:
    """Subset means beyond the interval at either end."""
    return int(error / 2 * 2.0**seeds * (1 + 1e-12))  # 0.05 * 40 / 2 is no less than 1


def _checked(differences: Sequence[float]) -> Float[ndarray, " n"]:
    own = np.asarray(differences, float)
    if not 1 <= len(own) <= MOST or not np.isfinite(own).all():
        raise Mistake(f"a comparison needs 1 to {MOST} finite differences, got {own.tolist()}")
    return own


@lru_cache(4)
def _subsets(count: int) -> Bool[ndarray, "subsets n"]:
    """All 2^n subsets, the empty one first; the first element alternates."""
    return (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(bool)
