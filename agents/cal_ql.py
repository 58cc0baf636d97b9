"""Cal-QL, arXiv:2303.05479: CQL that does not push values below the recorded returns."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reverie.agents.cql import CQL
from reverie.datasets.dataset import Dataset
from reverie.datasets.returns import AfterCut, returns_to_go
from reverie.datasets.transition import Transition, register


@register
@dataclass(frozen=True)
class WithReturn(Transition):
    """Transitions with the discounted return of the rest of their episode.

    Attributes:
        return_to_go: `[*]` from this transition on; arbitrary where it is unknown.
        has_return: `[*]` bool; false for transitions outside recorded episodes.
    """

    return_to_go: Float[Tensor, "*lead"]
    has_return: Bool[Tensor, "*lead"]


class CalQL(CQL):
    """CQL whose policy actions are pushed down only as far as the recorded return.

    The values of both policy sources, pi(.|s) and pi(.|s'), enter the gap as max(Q, G), G the
    recorded discounted return from s on; those of uniform actions enter unchanged. Values below G
    therefore have no gradient and keep the scale of true returns, as continued online training
    (`init=`, `online=collect`) needs. Collected and synthetic transitions have no G.

    Args:
        calibrate: false: CQL.
        after_cut: assumed reward per step after an episode cut by a limit or the end of the log:
            its mean reward, its last one (sparse tasks whose goal keeps paying), or nothing.
        cql: see `CQL`.
    """

    def __init__(self, *, calibrate: bool, after_cut: AfterCut, **cql: Any) -> None:
        super().__init__(**cql)
        self.calibrate, self.after_cut = calibrate, after_cut

    def recorded(self, data: Dataset) -> WithReturn:
        return WithReturn(
            **vars(data.transitions),
            return_to_go=returns_to_go(data, self.discount, self.after_cut).float(),
            has_return=torch.ones(len(data), dtype=torch.bool),
        )

    def complete(self, rows: Transition) -> WithReturn:
        """Rows of a source, whose return nobody knows."""
        nothing = torch.zeros_like(rows.reward)
        return WithReturn(**vars(rows), return_to_go=nothing, has_return=nothing.bool())

    def pushed_down(
        self, batch: Transition, values: Float[Tensor, "S N B K"]
    ) -> Float[Tensor, "S N B K"]:
        """max(Q, G) of the actions that the policy proposes."""
        if not self.calibrate:
            return values
        if not isinstance(batch, WithReturn):
            raise RuntimeError("CalQL needs rows with `return_to_go`, as `mix(..., agent=agent)`")
        floor = torch.where(batch.has_return, batch.return_to_go, -torch.inf)[:, None, :, None]
        uniform, proposed = values.tensor_split([self.samples], 3)
        return torch.cat([uniform, torch.maximum(proposed, floor)], 3)
