"""What is said of one number a seed: its mean, its interval, and how two of them compare.

Where the intervals do not decide, a judgement is None, and a claim only informs.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

# Student's t, two-sided 95 %, by number of samples.
_T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval.

    Attributes:
        mean: over seeds.
        half_width: of Student's interval for the mean; NaN for a single seed.
        values: one a seed.
    """

    mean: float
    half_width: float
    values: list[float]

    @property
    def low(self) -> float:
        """The lower end of the interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Its upper end."""
        return self.mean + self.half_width

    def __str__(self) -> str:
        return plain(f"{self.mean:.3g} ± {self.half_width:.2g}")


def plain(text: str) -> str:
    """The same with large numbers written out: 1,070 for 1.07e+03."""
    return re.sub(r"\d(?:\.\d+)?e\+\d+", lambda match: f"{float(match[0]):,.0f}", text)


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and interval of one number a seed."""
    table = np.asarray(values, float)
    count = len(table)
    half = math.nan
    if count > 1:
        half = _quantile(count) * float(table.std(ddof=1)) / math.sqrt(count)
    return Estimate(float(table.mean()), half, table.tolist())


def _quantile(count: int) -> float:
    """Student's t of so many samples, beyond the table by the expansion of Cornish and Fisher."""
    z, freedom = 1.959964, count - 1
    far = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return _T95.get(count, far)


def estimate_difference(one: Iterable[float], other: Iterable[float]) -> Estimate:
    """Of two numbers, seed by seed."""
    return estimate([a - b for a, b in zip(one, other, strict=True)])


def subtract(one: Estimate, other: Estimate) -> Estimate:
    """The difference of two means of unrelated seeds.

    The half-widths add in quadrature, a little wide for few seeds (Welch's degrees of freedom are
    at least those of the smaller sample).
    """
    return Estimate(
        one.mean - other.mean,
        math.hypot(one.half_width, other.half_width),
        [mine - its for mine, its in zip(one.values, other.values, strict=True)],
    )


def is_below(one: Estimate, other: Estimate) -> bool:
    """Whether the whole interval of one lies below that of the other."""
    return one.high < other.low


def judge_order(low: Estimate, high: Estimate) -> bool | None:
    """Whether the means lie in this order; None where the intervals touch."""
    if is_below(low, high):
        return True
    return False if is_below(high, low) else None


def judge_margin(gain: Estimate, margin: float) -> bool | None:
    """Whether something is at most `margin` worse; None where the interval does not tell.

    Nor does a margin that is not positive: the other has gained nothing to be measured by.
    """
    if margin > 0 and gain.low > -margin:
        return True
    return False if margin > 0 and gain.high < -margin else None
