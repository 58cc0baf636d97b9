"""Estimated time of querying a planning policy at many single states, reported beforehand."""

import time

from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from reverie.agents.base import Agent
from reverie.mistake import Mistake

SAMPLE = 4
"""States that are planned for to see how long one takes."""


def refuse_fitted_q(updates: int, batch: int, key: str, otherwise: str) -> None:
    """Refuse fitted Q evaluation of a policy that plans.

    Args:
        key: the setting of its updates.
        otherwise: what is left, for the message.

    Raises:
        Mistake: there are updates.
    """
    if updates:
        raise Mistake(
            "the run plans at every state, and fitted Q evaluation would ask it for "
            f"{updates} x {batch} plans; set {key}=0, which leaves {otherwise}"
        )


def tell_duration(
    agent: Agent, obs: Float[Tensor, "N D"], states: int, fewer: str, console: Console
) -> None:
    """Say about how long so many plans take here, by those of a few states.

    Args:
        obs: states of the task, on the agent's device.
        fewer: settings that lower the number.
    """
    some = obs[:SAMPLE].expand(agent.seeds, -1, -1)
    agent.act(some, deterministic=True).cpu()  # warms up
    begun = time.perf_counter()
    agent.act(some, deterministic=True).cpu()
    minutes = (time.perf_counter() - begun) / some.shape[1] * states / 60
    about = "less than a minute" if minutes < 1 else f"about {minutes:.0f} min"
    console.print(
        f"plans are searched at {states:,} single states, which takes {about}; less with {fewer}",
        highlight=False,
        soft_wrap=True,
    )
