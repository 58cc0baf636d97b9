"""State of an ensemble's rollouts: their member and their dropout mask.

One member for a whole rollout is TS-inf of PETS, arXiv:1805.12114, and NEUBAY's rule,
arXiv:2512.04341. One dropout mask for a whole rollout makes each mask a different task, as in
Dropout's Dream Land, arXiv:2109.08342.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


class RolloutState:
    """Samples, stores and reads the state of an ensemble's rollouts, as columns of `Step.state`.

    Args:
        elites: members used in rollouts.
        hidden: units of each hidden layer.
        keeps_member: whether a rollout uses one elite from start to end, which is the first
            column; otherwise one is sampled at every step.
        dropout: dropout probability in rollouts; 0 for none.
        keeps_mask: whether a rollout uses one mask from start to end, which is the other columns;
            otherwise a mask is sampled at every step.
        exact: whether the columns are float64, because they also hold a row's number.
    """

    def __init__(
        self,
        *,
        elites: int,
        hidden: Sequence[int],
        keeps_member: bool,
        dropout: float,
        keeps_mask: bool,
        exact: bool,
    ) -> None:
        self.elites, self.hidden, self.dropout = elites, list(hidden), dropout
        self.keeps_member, self.keeps_mask = keeps_member, keeps_mask and dropout > 0
        self.exact = exact

    @property
    def is_empty(self) -> bool:
        """Whether a rollout keeps nothing, so that its observation is all there is to know."""
        return not (self.keeps_member or self.keeps_mask)

    @property
    def is_mixture(self) -> bool:
        """Whether each outcome comes from the elites in equal parts, whatever came before."""
        return not (self.keeps_member or self.dropout)

    def begin(self, obs: Float[Tensor, "S B D"]) -> Float[Tensor, "S B W"] | None:
        """What rollouts from `obs` keep, drawn; None where that is nothing."""
        if self.is_empty:
            return None
        member = torch.randint(self.elites, obs.shape[:-1], device=obs.device)
        return self._packed(member, self._drawn(obs) if self.keeps_mask else None, obs)

    def member(
        self, state: Float[Tensor, "L B W"] | None, candidates: int, like: Tensor
    ) -> Int[Tensor, "L K B"]:
        """Which of the elites each candidate comes from.

        All come from that of the rollout, if it keeps one. Else candidate k comes from (first + k)
        mod elites, with `first` drawn for every row of `like` `[L, B, *]`.
        """
        if state is not None and self.keeps_member:
            return state[..., 0].long().unsqueeze(1).expand(-1, candidates, -1)
        lead, rows = like.shape[:2]
        first = torch.randint(self.elites, (lead, 1, rows), device=like.device)
        turn = torch.arange(candidates, device=like.device).unsqueeze(-1)
        return (first + turn).remainder(self.elites)

    def mask(
        self, state: Float[Tensor, "L B W"] | None, like: Float[Tensor, "L B _"]
    ) -> Float[Tensor, "L B U"] | None:
        """What the hidden units of all layers are multiplied by; None where none is left out."""
        if not self.dropout:
            return None
        if state is None or not self.keeps_mask:
            return self._drawn(like)
        return state[..., int(self.keeps_member) :].to(like.dtype)

    def by_layer(self, mask: Float[Tensor, "L B U"] | None) -> Sequence[Float[Tensor, "L 1 B _"]]:
        """A mask as `BatchedMLP` takes it, the same for all members."""
        return () if mask is None else mask.unsqueeze(1).split(self.hidden, -1)

    def following(
        self,
        member: Int[Tensor, "L K B"],
        mask: Float[Tensor, "L B U"] | None,
        like: Float[Tensor, "L B _"],
    ) -> Float[Tensor, "K L B W"] | None:
        """What each candidate goes on with, of a rollout that is that candidate's."""
        if self.is_empty:
            return None
        member = member.transpose(0, 1)
        mask = mask.expand(*member.shape, -1) if mask is not None and self.keeps_mask else None
        return self._packed(member, mask, like)

    def _drawn(self, like: Float[Tensor, "*lead _"]) -> Float[Tensor, "*lead U"]:
        """0 for units left out, 1 / (1 - dropout) for the others."""
        kept = torch.rand(*like.shape[:-1], sum(self.hidden), device=like.device) >= self.dropout
        return kept.to(like.dtype) / (1 - self.dropout)

    def _packed(
        self, member: Int[Tensor, "*lead"], mask: Tensor | None, like: Tensor
    ) -> Float[Tensor, "*lead W"]:
        kind = torch.float64 if self.exact else like.dtype
        own = member.unsqueeze(-1) if self.keeps_member else None
        return torch.cat([each.to(kind) for each in (own, mask) if each is not None], -1)
