"""Is a bounded number above zero in the mean? Bets that ask for no symmetry and stop at any seed.

Somebody stakes a share of a capital of 1 on every next number. If its mean is at most zero, given
those before, the capital does not grow in the mean, and reaches 1 / error with at most that
probability, however often one looks (Ville's inequality; Waudby-Smith and Ramdas, arXiv:2010.09686,
section 4.1). Regrets are far from symmetric, which `sequential` asks for: a method that is nearly
always a little right and rarely very wrong would pass there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reverie.mistake import Mistake


def capital(gains: Sequence[float], lows: Sequence[float], share: float) -> list[float]:
    """The capital after each number of somebody who bets that they are positive in the mean.

    Args:
        gains: one a seed, in the order of their measurement.
        lows: the least that each could have been, negative and known beforehand.
        share: of the capital that the least gain would cost, in (0, 1).

    Raises:
        Mistake: lengths differ, a gain lies below its least, or a share outside (0, 1).
    """
    own, least = np.asarray(gains, float), np.asarray(lows, float)
    if own.shape != least.shape or not ((least < 0) & (own >= least - 1e-9)).all():
        raise Mistake(f"gains={own.tolist()} must lie above lows={least.tolist()}, below zero")
    if not 0 < share < 1:
        raise Mistake(f"share={share} must lie in (0, 1)")
    return np.cumprod(1 - share * own / least).tolist()


@dataclass(frozen=True)
class Bets:
    """Two capitals, each against one half of the error.

    Attributes:
        better, worse: capitals after each seed, of bets on numbers above and below zero.
        error: probability that the verdict is wrong, whatever is true.
    """

    better: list[float]
    worse: list[float]
    error: float

    @property
    def enough(self) -> float:
        """The capital that decides."""
        return 2 / self.error

    @property
    def verdict(self) -> bool | None:
        """Whether the mean is above zero, or below; None while neither capital was enough."""
        for up, down in zip(self.better, self.worse, strict=True):
            if max(up, down) >= self.enough:
                return up >= down
        return None


def bet(
    gains: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    share: float,
    error: float,
) -> Bets:
    """Bets on either side.

    Args:
        lows, highs: between which each gain had to lie, around zero.
        share: see `capital`.
    """
    losses = [-gain for gain in gains]
    return Bets(
        capital(gains, lows, share), capital(losses, [-high for high in highs], share), error
    )
