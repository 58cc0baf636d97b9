"""Between which bounds lies what anybody can earn, given the rewards that were recorded."""

MARGIN = 0.1
"""Share of what the best reward costs for ever that a critic or a model may be wrong by."""


def sum_bounds(low: float, high: float, steps: float, ends: bool) -> tuple[float, float]:
    """The least and the most that `steps` rewards between two bounds come to.

    Args:
        steps: a number of steps, or 1 / (1 - discount) of a discounted sum without end.
        ends: whether the task may terminate earlier, after one step at least. Where it never does,
            costs are paid at every step.
    """
    least = low * steps if low < 0 or not ends else low
    most = high * steps if high > 0 or not ends else high
    return least, most
