"""Values of an agent's critics, measured at its evaluations and independent of its training.

The edge-of-reach problem (arXiv:2402.12527): in rollouts of H steps, states that are first met at
step H are used as targets and never trained. Their values may be anything, and the maximisation
over actions finds the highest. These measurements make it visible in any run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reverie.agents.base import Agent
from reverie.datasets.dataset import Dataset
from reverie.datasets.replay import Mixture
from reverie.envs.evaluation import Episodes
from reverie.mistake import Mistake
from reverie.world_models.sources import BranchedRollouts, RolloutSource

EdgeTest = Callable[[Float[Tensor, "*lead D"], int], Bool[Tensor, "*lead"]]
"""Which observations are first reachable at step `horizon`, for tasks where that is known."""

REFERENCE_STATES = 4096
MEASURED_AGES = 20
"""Most ages at which the states inside rollouts are looked at, so that a measurement costs no more
at longer horizons: distances to trained states grow with the square of the ages."""
FAR = 0.95
"""A rollout's end counts as beyond what is trained where it is farther from trained states than
this share of the states inside rollouts are."""


@dataclass(frozen=True)
class Reached:
    """States of new rollouts of one source, with H steps from B starts.

    Attributes:
        inside: `[S, T, B, D]` states that become inputs of the update, at T ages from 0 to H - 1.
        present: `[S, T, B]` bool, those that exist.
        ends: `[S, B, D]` states after the last step, which are targets only.
        ended_well: `[S, B]` bool, ends that exist and are not terminal.
    """

    inside: Float[Tensor, "S T B D"]
    present: Bool[Tensor, "S T B"]
    ends: Float[Tensor, "S B D"]
    ended_well: Bool[Tensor, "S B"]


class ValueProbe:
    """Measures value estimates on new rollouts and on evaluation episodes; trains nothing.

    Args:
        agent: asked for actions and for `values`.
        mixture: start states come from its stream `real`.
        sources: those that branch short rollouts are probed.
        data: for the scale of observations and the states of the dataset.
        starts: B, rollouts per seed and measurement. Of a horizon beyond `MEASURED_AGES`, states
            inside are measured at that many ages evenly spread, the first and the last included.
        edge_of_reach: exact test of the task, None where none is known.
    """

    def __init__(
        self,
        *,
        agent: Agent,
        mixture: Mixture,
        sources: Mapping[str, RolloutSource],
        data: Dataset,
        starts: int,
        edge_of_reach: EdgeTest | None,
    ) -> None:
        if starts < 2:
            raise Mistake(f"probe_starts={starts} must be 0 (off) or at least 2")
        self.agent, self.mixture = agent, mixture
        self.sources = {
            name: source for name, source in sources.items() if isinstance(source, BranchedRollouts)
        }
        self.starts, self.edge_of_reach = starts, edge_of_reach
        self.scale = data.transitions.obs.std(0).clamp(min=1e-6).to(mixture["real"].rows.device)

    @torch.no_grad()
    def measure(self, episodes: Episodes | None) -> dict[str, Float[Tensor, " S"]]:
        """All measurements, one number a seed; draws from torch's global generator.

        - `start/value`, `start/return`: smallest critic at the starts of evaluation episodes, and
          the discounted return that followed (without the tail beyond a time limit).
        - `reach/spread_inside`, `reach/spread_ends`: standard deviation over critics at policy
          actions, inside rollouts and at their ends; `reach/pessimism_*`: mean over critics minus
          the smallest.
        - `reach/auc`: probability that the spread at an end exceeds that at a state inside.
        - `reach/edge_share`: share of ends that are edge-of-reach; by the task's own test, else
          by distance (see `edge_share`).

        Values are left out for agents without critics, spreads for those with a single one.
        """
        measured = self._at_starts(episodes)
        for source in self.sources.values():
            measured |= self._at_reach(self._roll_out(source), source.horizon)
        return measured

    def _at_starts(self, episodes: Episodes | None) -> dict[str, Tensor]:
        if episodes is None:
            return {}
        values = self._values(episodes.starts.to(self.scale.device), deterministic=True)
        if values is None:
            return {}
        return {
            "start/value": values.amin(1).mean(1),
            "start/return": episodes.discounted_returns.mean(1).to(values.device),
        }

    def _roll_out(self, source: BranchedRollouts) -> Reached:
        starts = self.mixture["real"].sample(self.mixture.seeds, self.starts).obs
        rows, keep = source.generate(self.agent.act, starts)
        shape = (len(keep), source.horizon, self.starts)
        present = keep.view(shape)
        ended_well = present[:, -1] & ~rows.terminated.view(shape)[:, -1]
        ages = measured_ages(source.horizon).to(keep.device)
        return Reached(
            inside=rows.obs.view(*shape, -1)[:, ages],
            present=present[:, ages],
            ends=rows.next_obs.view(*shape, -1)[:, -1],
            ended_well=ended_well,
        )

    def _at_reach(self, reached: Reached, horizon: int) -> dict[str, Tensor]:
        inside, present = reached.inside.flatten(1, 2), reached.present.flatten(1, 2)
        measured = {"reach/edge_share": self._edge_share(reached, horizon)}
        at_inside, at_ends = self._values(inside), self._values(reached.ends)
        if at_inside is None or at_ends is None or at_inside.shape[1] < 2:
            return measured
        spreads = []
        for name, values, there in (
            ("inside", at_inside, present),
            ("ends", at_ends, reached.ended_well),
        ):
            spread = values.std(1, correction=0)
            spreads.append(torch.where(there, spread, torch.nan))
            pessimism = torch.where(there, values.mean(1) - values.amin(1), torch.nan)
            measured[f"reach/spread_{name}"] = spreads[-1].nanmean(1)
            measured[f"reach/pessimism_{name}"] = pessimism.nanmean(1)
        measured["reach/auc"] = auc(*spreads)
        return measured

    def _edge_share(self, reached: Reached, horizon: int) -> Tensor:
        if self.edge_of_reach is None:
            pool = self.mixture["real"].sample(self.mixture.seeds, REFERENCE_STATES).obs
            return edge_share(reached, pool, self.scale)
        edges = self.edge_of_reach(reached.ends, horizon) & reached.ended_well
        return edges.sum(1) / reached.ended_well.sum(1)

    def _values(self, obs: Tensor, deterministic: bool = False) -> Tensor | None:
        return self.agent.values(obs, self.agent.act(obs, deterministic))


def measured_ages(horizon: int) -> Int[Tensor, " T"]:
    """Ages from 0 to `horizon` - 1, at most `MEASURED_AGES` of them and evenly spread."""
    return torch.linspace(0, horizon - 1, min(horizon, MEASURED_AGES)).round().long()


def edge_share(
    reached: Reached, pool: Float[Tensor, "S R D"], scale: Float[Tensor, " D"]
) -> Float[Tensor, " S"]:
    """Share of rollout ends that lie farther from all trained states than `FAR` of these do.

    Trained states are those of the dataset and those inside the first half of the rollouts;
    distances, in standard deviations of the data, are taken from the second half, so that states
    of one rollout are not each other's neighbours. Where ends are like inside states, 1 - FAR of
    them lie beyond. Our own measure: outside toy tasks the reachable set is not known.
    """
    half = reached.ends.shape[1] // 2
    inside = reached.inside / scale
    trained = inside[:, :, :half].flatten(1, 2)
    absent = ~reached.present[:, :, :half].flatten(1, 2)
    trained = torch.where(absent.unsqueeze(-1), torch.inf, trained)
    pool = pool / scale

    def distance(obs: Tensor) -> Tensor:
        return torch.minimum(_to_nearest(obs, pool), _to_nearest(obs, trained))

    usual = distance(inside[:, :, half:].flatten(1, 2))
    usual = torch.where(reached.present[:, :, half:].flatten(1, 2), usual, torch.nan)
    limit = usual.nanquantile(FAR, 1, keepdim=True)
    there = reached.ended_well[:, half:]
    far = (distance(reached.ends[:, half:] / scale) > limit) & there
    return far.sum(1) / there.sum(1)


def auc(low: Float[Tensor, "S M"], high: Float[Tensor, "S B"]) -> Float[Tensor, " S"]:
    """Area under the ROC curve of telling `high` from `low`; NaN entries do not count.

    The probability that a random entry of `high` exceeds a random one of `low`, ties half.
    """
    pairs = (high.unsqueeze(2) > low.unsqueeze(1)).float()
    pairs += 0.5 * (high.unsqueeze(2) == low.unsqueeze(1))
    valid = ~(high.isnan().unsqueeze(2) | low.isnan().unsqueeze(1))
    return (pairs * valid).sum((1, 2)) / valid.sum((1, 2))


def _to_nearest(obs: Float[Tensor, "S M D"], pool: Float[Tensor, "S R D"]) -> Tensor:
    # The default of cdist goes through a matrix product: inexact, and NaN for absent rows.
    return torch.cdist(obs, pool, compute_mode="donot_use_mm_for_euclid_dist").amin(-1)
