"""Whether a policy's return in its world model is far above the recorded ones.

A policy exploits states where a model overestimates rewards, and members that share a dictionary or
an error do not disagree there. SINDy-RL (arXiv:2403.09110) corrects such a model with new data;
offline this is impossible, so the gap itself is the alarm. It does not measure the truth: a good
policy learned from poor data raises it too, and should then be checked before it is deployed.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.agents.base import Agent
from reverie.agents.losses import sum_bounds
from reverie.datasets.dataset import Dataset
from reverie.envs.evaluation import Episodes
from reverie.mistake import Mistake
from reverie.world_models.base import WorldModel

MARGIN = 0.1
"""Share of the least cost by which the mean of a model's rewards may be wrong."""


class ValueGap:
    """Whole episodes of the deterministic policy in the model, from starts of recorded episodes.

    Args:
        agent, model: on the same device.
        data: its episodes give starts, the number of steps (the longest one's) and the returns
            to compare with.
        starts: B, episodes per seed.
        factor: the alarm is raised above `limit`, this multiple of the best recorded return.
    """

    def __init__(
        self, *, agent: Agent, model: WorldModel, data: Dataset, starts: int, factor: float
    ) -> None:
        if starts < 1:
            raise Mistake(f"value_gap.starts={starts} must be 0 (off) or at least 1")
        if factor <= 1:
            raise Mistake(f"value_gap.factor={factor} must be above 1")
        self.agent, self.model = agent, model
        first = data.first_rows
        chosen = torch.linspace(0, len(first) - 1, starts).round().long()
        device = agent.device
        self.starts = data.transitions.obs[first[chosen]].to(device)
        self.steps = int(data.episode_lengths.max())
        recorded = data.returns[data.whole]
        self.best = recorded.max().item()
        self.limit = limit(recorded, factor)
        self.attainable = most_of_costs(data)
        if self.attainable is not None:
            self.limit = min(self.limit, (1 - MARGIN) * self.attainable)

    @torch.no_grad()
    def measure(self, episodes: Episodes | None) -> dict[str, Float[Tensor, " S"]]:
        """`model/return`, the mean undiscounted return of the episodes that the model could carry
        to their end (NaN if none), and `model/left`, the share of those that left its domain."""
        obs = self.starts.expand(self.agent.seeds, -1, -1)
        state = self.model.begin(obs)
        returns = torch.zeros(obs.shape[:-1], device=obs.device)
        going, left = torch.ones_like(returns, dtype=torch.bool), torch.zeros_like(returns).bool()
        for _ in range(self.steps):
            step = self.model.advance(obs, self.agent.act(obs, deterministic=True), 1, state)
            after, reward = step.next_obs[0], step.reward[0]
            finite = after.isfinite().all(-1) & reward.isfinite()
            left |= going & ~finite
            returns = returns + torch.where(going & finite, reward, 0.0)
            going = going & finite & ~step.terminated[0]
            obs = torch.where(going.unsqueeze(-1), after, obs)
            if step.state is not None and state is not None:
                state = torch.where(going.unsqueeze(-1), step.state[0], state)
        whole = torch.where(left, torch.nan, returns)
        return {"model/return": whole.nanmean(1), "model/left": left.float().mean(1)}

    def judge(self) -> dict[str, Any]:
        """Measured now, as plain values, with its `alarm`."""
        found = self.measure(None)
        in_model = found["model/return"].tolist()
        return {
            "model_return": [value if value == value else None for value in in_model],
            "left": found["model/left"].tolist(),
            "best_recorded": self.best,
            "attainable": self.attainable,
            "limit": self.limit,
            "alarm": any(value > self.limit for value in in_model),
        }


def most_of_costs(data: Dataset) -> float | None:
    """What the least recorded cost comes to over the longest episode; None where one is paid.

    Over a single step where the data hold terminations, which end the costs.
    """
    least = data.transitions.reward.max().item()
    if least > 0:
        return None
    ends = bool(data.transitions.terminated.any())
    return sum_bounds(least, least, int(data.episode_lengths.max()), ends)[1]


def limit(returns: Float[Tensor, " P"], factor: float) -> float:
    """`factor` times the best return, both counted from the worst one where that is negative."""
    base = min(returns.min().item(), 0.0)
    return base + factor * (returns.max().item() - base)


def alarms(summary_of_model: Mapping[str, Any], gap: dict[str, Any] | None) -> list[str]:
    """What a finished run warns of, in sentences: open-loop error of equations, and this gap."""
    said = []
    gate = summary_of_model.get("open_loop")
    if isinstance(gate, dict) and gate.get("alarm"):
        size = "without bound" if gate["median"] is None else f"by {gate['median']:.2g} std"
        said.append(
            f"the world model misses recorded states {size} after {gate['steps']} steps "
            f"(world_model.gate_error={gate['limit']:g}): what was learned in it deserves no trust"
        )
    if gap is not None and gap["alarm"]:
        in_model = max(value for value in gap["model_return"] if value is not None)
        most = gap.get("attainable")
        if most is not None and in_model > (1 - MARGIN) * most:
            known = f"the least recorded cost at every step comes to {most:.4g}"
            remedy = "raise filter.penalty or lower source.horizon, and evaluate it"
        else:
            known = f"the best recorded episode earned {gap['best_recorded']:.4g}"
            known, remedy = f"{known} (value_gap.factor)", "evaluate it"
        said.append(
            f"the policy earns {in_model:.4g} in the world model and {known}: it may live off the "
            f"model's errors; {remedy} before you use it"
        )
    return said
